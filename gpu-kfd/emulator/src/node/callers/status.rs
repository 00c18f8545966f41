//! What `/proc` says of a thread.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

/// `CAP_SYS_ADMIN` (`linux/capability.h`).
const CAP_SYS_ADMIN: u32 = 21;
/// `CAP_CHECKPOINT_RESTORE`, since Linux 5.9.
const CAP_CHECKPOINT_RESTORE: u32 = 40;
/// Kind of the entry of the auxiliary vector that points to 16 random bytes (`linux/auxvec.h`).
const AT_RANDOM: u64 = 25;

/// Some lines of `/proc/<tid>/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The process that the thread belongs to.
    pub(super) tgid: i32,
    /// Its tracer's thread; 0 if it has none.
    pub(super) tracer: i32,
    /// Process ids from our own pid namespace inwards to its own.
    pub(super) ids: Vec<i32>,
    effective: u64,
}

/// Why something of a thread's cannot be read: it has gone, or descriptors or memory of ours ran
/// out.
pub(super) fn reason(error: &io::Error) -> Errno {
    match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
        ours @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EACCES) => ours,
        _ => Errno::ESRCH,
    }
}

impl Status {
    /// # Errors
    /// `ESRCH` if the thread has gone; `EMFILE`.
    pub(super) fn read(tid: i32) -> Result<Self, Errno> {
        let text = fs::read_to_string(format!("/proc/{tid}/status"));
        let text = text.map_err(|error| reason(&error))?;
        Self::parse(&text).ok_or(Errno::ESRCH)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line?.strip_prefix(':').map(str::trim)
        };
        let ids = field("NStgid")?.split_whitespace().map(str::parse);
        Some(Self {
            tgid: field("Tgid")?.parse().ok()?,
            tracer: field("TracerPid")?.parse().ok()?,
            ids: ids.collect::<Result<_, _>>().ok()?,
            effective: u64::from_str_radix(field("CapEff")?, 16).ok()?,
        })
    }

    /// Id of the process in its own pid namespace.
    pub(super) fn own_pid(&self) -> u32 {
        self.ids.last().copied().unwrap_or(0) as u32
    }

    fn has_checkpoint_capability(&self) -> bool {
        self.effective & (1 << CAP_CHECKPOINT_RESTORE | 1 << CAP_SYS_ADMIN) != 0
    }
}

/// Whether a thread may checkpoint, as `checkpoint_restore_ns_capable(&init_user_ns)` decides: the
/// capability must be held in the initial user namespace; ours stands for it.
///
/// # Errors
/// `ESRCH` if the thread has gone.
pub(super) fn can_checkpoint(tid: i32) -> Result<bool, Errno> {
    let namespace = |whose: &str| {
        let found = fs::metadata(format!("/proc/{whose}/ns/user"));
        found.map(|found| (found.dev(), found.ino())).map_err(|error| reason(&error))
    };
    let status = Status::read(tid)?;
    Ok(status.has_checkpoint_capability() && namespace(&tid.to_string())? == namespace("self")?)
}

/// Identity of the pid namespace of a thread.
///
/// # Errors
/// `ESRCH` if the thread has gone.
pub(super) fn pid_namespace(tid: i32) -> Result<(u64, u64), Errno> {
    let found = fs::metadata(format!("/proc/{tid}/ns/pid")).map_err(|error| reason(&error))?;
    Ok((found.dev(), found.ino()))
}

/// The threads of a process, leading one first.
///
/// # Errors
/// `ESRCH` if it has gone; `EMFILE`.
pub(super) fn threads_of(pid: i32) -> Result<Vec<i32>, Errno> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| reason(&error))?;
    let mut threads: Vec<i32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    threads.sort_by_key(|tid| *tid != pid);
    Ok(threads)
}

/// Where the kernel put 16 random bytes when the program was executed; none for a program that has
/// no such entry (a 32-bit one: its vector is laid out otherwise).
///
/// # Errors
/// `ESRCH` if the thread has gone; `EMFILE`.
pub(super) fn random_bytes_at(tid: i32) -> Result<Option<u64>, Errno> {
    let vector = fs::read(format!("/proc/{tid}/auxv")).map_err(|error| reason(&error))?;
    Ok(entry(&vector, AT_RANDOM))
}

fn entry(vector: &[u8], kind: u64) -> Option<u64> {
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
    let pairs = vector.chunks_exact(16).map(|pair| pair.split_at(8));
    let mut entries = pairs.map_while(|(kind, value)| Some((word(kind)?, word(value)?)));
    entries.find(|(found, _)| *found == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::{AT_RANDOM, Status, entry};

    const TEXT: &str = "Name:\tTgid: 9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t70\nNgid:\t0\n\
                        Pid:\t71\nPPid:\t1\nTracerPid:\t5\nNStgid:\t70\t4\t1\nNSpid:\t71\t5\t2\n\
                        CapEff:\t0000010000000000\n";

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let status = Status::parse(TEXT).expect("it is whole");
        assert_eq!((status.tgid, status.tracer), (70, 5));
        assert_eq!(status.ids, [70, 4, 1]);
        assert_eq!(status.own_pid(), 1);
        for name in ["Tgid:\t70", "TracerPid", "NStgid", "CapEff"] {
            assert_eq!(Status::parse(&TEXT.replace(name, "X")), None, "{name}");
        }
    }

    #[test]
    fn either_capability_is_enough() {
        let has = |mask: &str| {
            let text = TEXT.replace("0000010000000000", mask);
            Status::parse(&text).expect("it is whole").has_checkpoint_capability()
        };
        assert!(has("0000010000000000"), "CAP_CHECKPOINT_RESTORE");
        assert!(has("0000000000200000"), "CAP_SYS_ADMIN");
        assert!(has("000001ffffffffff"), "all");
        assert!(!has("000000ffffdfffff"), "all but these");
    }

    #[test]
    fn an_entry_is_found_between_others() {
        let vector: Vec<u8> =
            [6u64, 4096, AT_RANDOM, 77, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(entry(&vector, AT_RANDOM), Some(77));
        assert_eq!(entry(&vector, 7), None);
        assert_eq!(entry(&vector[..24], AT_RANDOM), None);
    }
}
