//! Device calls by a real target, on a kernel file that needs no device: a scan of its page map,
//! whose argument points to an array that the kernel fills.

use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpu_kfd::{Block, CallFailure, DeviceFile, FileNumber, NewDescriptor};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;

use super::device::TargetFile;
use super::region::{Region, SlotSize};
use super::ring::Remote;
use super::spawn::{Brood, open_pidfd, spawn_root};
use crate::files::tests::{needs_root, skip};

/// `struct pm_scan_arg` and `struct page_region` (linux/fs.h, Linux 6.7) are words only.
type PagemapScan = [u64; 12];
type PageRegion = [u64; 3];
const VEC_AT: usize = 5 * 8;
/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u32 = 0xc060_6610;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_BYTES: u64 = 4096;

/// A target with its page map open; it ends with the value.
struct Stub {
    remote: Remote,
    pagemap: i32,
    /// A pidfd of this process, inherited under the same number.
    ours: OwnedFd,
    brood: Brood,
}

impl Stub {
    /// Starts one on a region at `base`, which no other test uses.
    fn new(base: u64) -> Self {
        let ours = open_pidfd(nix::unistd::getpid().as_raw()).unwrap();
        let (_, mut slots) = Region::map(base, &[SlotSize::Leader]).unwrap();
        let mut remote = spawn_root(slots.remove(0), free_pid(), None).unwrap();
        let mut brood = Brood::default();
        brood.add(remote.tid(), remote.process().clone());
        let pagemap = open(&mut remote, b"/proc/self/pagemap\0");
        Self { remote, pagemap, ours, brood }
    }

    fn file(&mut self) -> TargetFile<'_> {
        let (path, restorer) = (Path::new("/proc/self/pagemap"), self.ours.as_raw_fd());
        TargetFile::new(&mut self.remote, self.pagemap, path, restorer)
    }

    /// Where a descriptor of the target leads; `None` if it has none of that number.
    fn link(&self, number: i32) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/fd/{number}", self.remote.tid())).ok()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.brood.kill();
        self.brood.reap(Duration::from_secs(10));
    }
}

fn free_pid() -> i32 {
    let highest = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap();
    let highest: i32 = highest.trim().parse().unwrap();
    let is_free = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
    // Two tests may choose at the same time: each looks from another place on.
    let first = nix::unistd::gettid().as_raw() % 100;
    (1..highest).rev().skip(first as usize).find(is_free).unwrap()
}

fn open(remote: &mut Remote, path: &[u8]) -> i32 {
    let read_only = libc::O_RDONLY.into();
    let args = [libc::AT_FDCWD.into(), path.into(), read_only];
    remote.call("open", libc::SYS_openat, args).unwrap() as i32
}

/// Lets the target touch every other one of these pages, and scan them into an array with room
/// for so many regions.
fn check_scan(base: u64, pages: u64, room: usize) {
    if needs_root("device calls of a target") {
        return;
    }
    let mut stub = Stub::new(base);
    let access = (libc::PROT_READ | libc::PROT_WRITE).into();
    let kind = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).into();
    let len = (pages * PAGE_BYTES).into();
    let args = [0u64.into(), len, access, kind, (-1i32).into(), 0u64.into()];
    let start = stub.remote.call("map", libc::SYS_mmap, args).unwrap() as u64;
    let touched: Vec<u64> = (0..pages).step_by(2).map(|page| start + page * PAGE_BYTES).collect();
    for &page in &touched {
        let there = RemoteIoVec { base: page as usize, len: 1 };
        let pid = Pid::from_raw(stub.remote.tid());
        process_vm_writev(pid, &[IoSlice::new(b"x")], &[there]).unwrap();
    }
    let (size, end, mask) = (8 * 12, start + pages * PAGE_BYTES, PAGE_IS_PRESENT);
    let scan: PagemapScan = [size, 0, start, end, 0, 0, room as u64, 0, 0, mask, 0, mask];
    let mut block = Block::new(&scan);
    let regions = block.array(VEC_AT, &vec![PageRegion::default(); room]);
    // SAFETY: the only address is set by `array`, with as many elements as `room` says.
    let found = match unsafe { stub.file().ioctl(PAGEMAP_SCAN, &mut block) } {
        Err(CallFailure::Refused(Errno::ENOTTY)) => {
            skip("device calls of a target", "this kernel cannot scan page maps");
            return;
        }
        found => found.unwrap() as usize,
    };
    let expected: Vec<PageRegion> =
        touched.iter().map(|page| [*page, page + PAGE_BYTES, mask]).collect();
    assert_eq!(block.elements(&regions)[..found], expected);
    assert_eq!(block.argument::<PagemapScan>()[4], end, "the argument came back as well");
}

#[test]
fn a_target_fills_an_array_beside_its_calls() {
    check_scan(0x2000_0000_0000, 4, 100);
}

#[test]
fn an_argument_that_exceeds_the_slot_gets_memory_of_its_own() {
    check_scan(0x2100_0000_0000, 400, 100_000);
}

#[test]
fn memory_for_an_argument_is_gone_after_the_call() {
    if needs_root("device calls of a target") {
        return;
    }
    let mut stub = Stub::new(0x2200_0000_0000);
    let maps = format!("/proc/{}/maps", stub.remote.tid());
    let before = fs::read_to_string(&maps).unwrap();
    let mut block = Block::new(&[0_u64; 12]);
    block.array(VEC_AT, &vec![0_u64; 100_000]);
    // SAFETY: the kernel refuses the call by the size that the argument claims.
    let refused = unsafe { stub.file().ioctl(PAGEMAP_SCAN, &mut block) };
    assert!(matches!(refused, Err(CallFailure::Refused(_))), "{refused:?}");
    assert_eq!(fs::read_to_string(&maps).unwrap(), before);
}

#[test]
fn a_descriptor_that_a_target_made_becomes_ours() {
    if needs_root("device calls of a target") {
        return;
    }
    let mut stub = Stub::new(0x2300_0000_0000);
    let made = open(&mut stub.remote, b"/dev/null\0");
    // SAFETY: the target has just opened it, and only this takes it.
    let taken = stub.file().take(unsafe { NewDescriptor::of_answer(made) }).unwrap();
    let link = fs::read_link(format!("/proc/self/fd/{}", taken.as_raw_fd())).unwrap();
    assert_eq!(link, Path::new("/dev/null"));
    assert_eq!(stub.link(made), None, "the target no longer has it");
    // SAFETY: as above, but there is none.
    let missing = stub.file().take(unsafe { NewDescriptor::of_answer(made) });
    assert!(matches!(missing, Err(CallFailure::Refused(Errno::EBADF))), "{missing:?}");
}

#[test]
fn a_descriptor_of_ours_is_lent_to_a_target_and_given_back() {
    if needs_root("device calls of a target") {
        return;
    }
    let mut stub = Stub::new(0x2400_0000_0000);
    let file = tempfile::NamedTempFile::new().unwrap(); // made after the target was
    let FileNumber(number) = stub.file().lend(file.as_file().as_fd()).unwrap();
    assert_eq!(stub.link(number).as_deref(), Some(file.path()));
    stub.file().give_back(FileNumber(number)).unwrap();
    assert_eq!(stub.link(number), None);
}

/// Set in a run of this program that is a process of two threads.
const TWO_THREADS: &str = "THAW_TEST_TWO_THREADS";

/// A test that is killed while its first thread is waited for; it is started again as the victim.
#[test]
fn process_that_is_killed_while_it_is_frozen_is_not_waited_for_in_vain() {
    use super::freeze::{FreezeError, Seized};

    if std::env::var_os(TWO_THREADS).is_some() {
        // The first thread of this program waits for this one.
        loop {
            std::thread::park();
        }
    }
    let name = "remote::tests::process_that_is_killed_while_it_is_frozen_is_not_waited_for_in_vain";
    let program = std::env::current_exe().expect("a test has a path");
    let mut victim = std::process::Command::new(program);
    victim.args(["--exact", name, "--test-threads=2"]).env(TWO_THREADS, "1");
    let mut victim = victim.stdout(std::process::Stdio::null()).spawn().expect("it starts");
    let pid = victim.id() as i32;
    let threads = || -> Vec<i32> {
        let entries = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
        let ids = entries.flatten().map(|entry| entry.file_name().to_string_lossy().parse());
        ids.map(|id| id.expect("a number")).filter(|&id| id != pid).collect()
    };
    while threads().is_empty() {
        std::thread::yield_now();
    }
    let others = threads();
    let first = Seized::seize(pid).expect("it is our child");
    for &tid in &others {
        let other = Seized::seize(tid).expect("it is our child's");
        other.interrupt().expect("it is traced");
        other.wait().expect("it stops");
    }
    // Now, before the first thread has been asked, somebody kills the process.
    nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("ours");
    let waited = first.wait_first();
    assert!(matches!(waited, Err(FreezeError::Died { .. })), "{waited:?}");
    for tid in others {
        let collected =
            nix::sys::wait::waitpid(Pid::from_raw(tid), Some(nix::sys::wait::WaitPidFlag::__WALL));
        assert!(collected.is_ok(), "{collected:?}");
    }
    assert!(victim.wait().is_ok_and(|status| !status.success()));
}
