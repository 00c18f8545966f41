//! Statistics of a dump or a restore as the images that CRIU leaves: `stats-dump`, `stats-restore`.
//!
//! Which numbers there are and what they count is CRIU 4.2's (`images/stats.proto`, `crit show`).
//! Times are microseconds in 32 bits, so that what took longer than 71 minutes is said as that.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use criu_image::record::{DumpStatsEntry, RestoreStatsEntry, StatsEntry};
use criu_image::{ImageBuilder, ImageKind};

use crate::capture::PageCounts;
use crate::dumped::Dumped;
use crate::engine::{Restored, Stage};

const PAGE_BYTES: u64 = 4096;

/// What a dump has to say of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DumpFigures {
    /// Until the tree had come to rest.
    pub(crate) freezing: Duration,
    /// Until it went on or was killed, or until now.
    pub(crate) frozen: Duration,
    /// While private memory was found, read and written.
    pub(crate) saving: Duration,
    /// Of private memory.
    pub(crate) pages: PageCounts,
    /// Of shared memory and memory files.
    pub(crate) shared: PageCounts,
}

impl DumpFigures {
    /// As a record. There is no parent checkpoint, and nothing is left to be fetched later.
    pub(crate) fn record(&self) -> StatsEntry {
        let dump = DumpStatsEntry {
            freezing_time: micros(self.freezing),
            frozen_time: micros(self.frozen),
            memdump_time: micros(self.saving),
            memwrite_time: micros(self.pages.writing),
            pages_scanned: self.pages.scanned,
            pages_skipped_parent: 0,
            pages_written: self.pages.written,
            irmap_resolve: Some(0),
            pages_lazy: 0,
            shpages_scanned: Some(self.shared.scanned),
            shpages_skipped_parent: Some(0),
            shpages_written: Some(self.shared.written),
            ..DumpStatsEntry::default()
        };
        StatsEntry { dump: Some(dump), restore: None }
    }
}

impl Dumped {
    /// What `stats-dump` says. The image among the others was written before the tree went on, so
    /// its `frozen_time` is a little less.
    pub fn stats(&self) -> StatsEntry {
        let Self { freezing, frozen, saving, pages, shared, .. } = *self;
        DumpFigures { freezing, frozen, saving, pages, shared }.record()
    }
}

impl Restored {
    /// What `stats-restore` says: `forking_time` is that of [`Stage::Create`], `restore_time` that
    /// of all stages before [`Stage::Release`].
    pub fn stats(&self) -> StatsEntry {
        let time = |wanted: &dyn Fn(Stage) -> bool| -> Duration {
            self.stages.iter().filter(|(stage, _)| wanted(*stage)).map(|(_, time)| *time).sum()
        };
        let restore = RestoreStatsEntry {
            pages_compared: self.pages_compared,
            pages_skipped_cow: self.pages_shared,
            forking_time: micros(time(&|stage| stage == Stage::Create)),
            restore_time: micros(time(&|stage| stage != Stage::Release)),
            pages_restored: Some(self.memory_bytes / PAGE_BYTES),
        };
        StatsEntry { dump: None, restore: Some(restore) }
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Writes `stats-dump` or `stats-restore` into a directory, whole or not at all, over one that is
/// there. For upstream it is the working directory: that of the images unless told otherwise.
///
/// Not for a `stats-dump` among the images of a dump of ours: their manifest has its checksum.
///
/// # Errors
/// The kernel's, such as `EROFS`. The tree does not depend on it.
pub fn write_stats(dir: &Path, stats: &StatsEntry) -> io::Result<()> {
    let kind = match stats.restore {
        Some(_) => ImageKind::StatsRestore,
        None => ImageKind::StatsDump,
    };
    let name = kind.file_name(0);
    // No image by its name, so that one that is cut is none.
    let aside = dir.join(format!(".{name}-{}", std::process::id()));
    let write = || {
        File::create(&aside)?.write_all(&ImageBuilder::of_one(kind, stats))?;
        fs::rename(&aside, dir.join(&name))
    };
    write().inspect_err(|_| drop(fs::remove_file(&aside)))
}

#[cfg(test)]
mod tests {
    use super::{Stage, micros, write_stats};
    use crate::capture::PageCounts;
    use crate::engine::Restored;
    use criu_image::ImageReader;
    use criu_image::record::StatsEntry;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    /// Statistics that CRIU 4.2 has written.
    const DUMP: &str = "tests/fixtures/gpu-tree/stats-dump";
    const RESTORE: &str = "fuzz/corpus/image/socket_queues.stats-restore";

    fn upstream(path: &str) -> (Vec<u8>, StatsEntry) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../criu-image").join(path);
        let bytes = std::fs::read(path).expect("it is there");
        let mut image = ImageReader::new(bytes.as_slice(), "stats").expect("an image");
        let record = image.next_record().expect("a record").expect("there is one");
        (bytes, record.1)
    }

    #[test]
    fn statistics_are_written_as_upstream_writes_them() {
        let dir = tempfile::tempdir().expect("a folder");
        for (path, name) in [(DUMP, "stats-dump"), (RESTORE, "stats-restore")] {
            let (bytes, record) = upstream(path);
            write_stats(dir.path(), &record).expect("room");
            assert_eq!(std::fs::read(dir.path().join(name)).expect("it is there"), bytes);
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 2);
    }

    #[test]
    fn numbers_of_a_restore_are_where_upstream_has_them() {
        let process = Arc::new(std::fs::File::open("/dev/null").expect("it is there").into());
        let stages = [Stage::Prepare, Stage::Create, Stage::Build, Stage::Release];
        let restored = Restored {
            root: 7,
            root_pidfd: process,
            processes: Vec::new(),
            stages: stages.into_iter().zip([1, 20, 300, 4000].map(Duration::from_micros)).collect(),
            memory_bytes: 5 * 4096,
            shared_bytes: 0,
            gpu_bytes: 0,
            pages_compared: 6,
            pages_shared: 3,
        };
        let (_, mut expected) = upstream(RESTORE);
        let restore = expected.restore.as_mut().expect("it is of a restore");
        (restore.pages_compared, restore.pages_skipped_cow) = (6, 3);
        (restore.forking_time, restore.restore_time) = (20, 321);
        restore.pages_restored = Some(5);
        assert_eq!(restored.stats(), expected);
    }

    #[test]
    fn times_that_do_not_fit_are_the_longest_that_do() {
        assert_eq!(micros(Duration::from_micros(17)), 17);
        assert_eq!(micros(Duration::from_secs(1 << 20)), u32::MAX);
    }

    #[test]
    fn counts_are_summed() {
        let one = PageCounts { scanned: 1, written: 2, writing: Duration::from_micros(3) };
        let sum: PageCounts = [one, one].into_iter().sum();
        assert_eq!((sum.scanned, sum.written, sum.writing.as_micros()), (2, 4, 6));
    }
}
