//! What AMD's runtime library shares between all processes of a host: made where it is not there.
//!
//! libhsakmt keeps a small file and a semaphore in `/dev/shm`, which the first process makes and
//! nobody removes. A restored process has been through that already, so on a host where no other
//! has been, both are made for it, as CRIU's plugin does. A restore that fails removes them.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::engine::RestoreError;
use crate::plan::devices::HsakmtShared;

const FOLDER: &str = "/dev/shm";
const SHARED: &str = "hsakmt_shared_mem";
const SEMAPHORE: &str = "sem.hsakmt_semaphore";
/// `sem_t` of the GNU C library on x86-64: the value in the first word, nobody waits, not private.
const SEMAPHORE_FREE: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes
};
/// Every user's processes share it.
const MODE: u32 = 0o666;

/// What was made; removed when dropped, unless it is to stay.
#[derive(Debug, Default)]
pub(in crate::engine) struct Made {
    paths: Vec<PathBuf>,
}

impl Made {
    /// Makes what is missing.
    pub(in crate::engine) fn prepare(shared: Option<HsakmtShared>) -> Result<Self, RestoreError> {
        let Some(shared) = shared else { return Ok(Self::default()) };
        Self::in_folder(Path::new(FOLDER), shared).map_err(|source| RestoreError::Setup {
            what: "make what libhsakmt shares in /dev/shm",
            source,
        })
    }

    fn in_folder(folder: &Path, shared: HsakmtShared) -> io::Result<Self> {
        let mut made = Self::default();
        made.file(&folder.join(SHARED), |file| {
            file.set_len(shared.size_bytes)?;
            file.write_all_at(&shared.magic.to_le_bytes(), 0)
        })?;
        made.file(&folder.join(SEMAPHORE), |file| file.write_all_at(&SEMAPHORE_FREE, 0))?;
        Ok(made)
    }

    fn file(&mut self, path: &Path, fill: impl Fn(&File) -> io::Result<()>) -> io::Result<()> {
        let file = match File::options().write(true).create_new(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(error),
        };
        self.paths.push(path.to_owned());
        fill(&file)?;
        file.set_permissions(Permissions::from_mode(MODE))
    }

    /// The tree runs.
    pub(in crate::engine) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_file(path); // the first error is told
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HsakmtShared, Made, SEMAPHORE, SHARED};

    const SAVED: HsakmtShared = HsakmtShared { size_bytes: 8, magic: 0x1234_5678 };

    #[test]
    fn what_is_missing_is_made_and_goes_with_a_restore_that_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let (shared, semaphore) = (folder.path().join(SHARED), folder.path().join(SEMAPHORE));
        let made = Made::in_folder(folder.path(), SAVED).expect("room");
        assert_eq!(std::fs::read(&shared).expect("made"), [0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0]);
        assert_eq!(std::fs::read(&semaphore).expect("made").len(), 32);
        drop(made);
        assert!(!shared.exists() && !semaphore.exists());
        Made::in_folder(folder.path(), SAVED).expect("room").keep();
        assert!(shared.exists() && semaphore.exists());
    }

    #[test]
    fn what_another_process_has_made_is_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let shared = folder.path().join(SHARED);
        std::fs::write(&shared, "theirs").expect("room");
        drop(Made::in_folder(folder.path(), SAVED).expect("room"));
        assert_eq!(std::fs::read(&shared).expect("still there"), b"theirs");
    }
}
