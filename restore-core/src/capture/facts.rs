//! Everything that can be read of a stopped process from outside, before anything is decided.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use gpu_kfd::DeviceKind;
use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};

use super::identity::{self, Namespaces};
use super::proc::{self, fdinfo::FdInfo, smaps::Vma, stat::Stat, status::Status};
use super::steps::Steps;
use super::tree::Member;
use super::{DumpError, files, raw};
use crate::remote::spawn::open_pidfd;

/// Resources that `/proc/<pid>/limits` lists, in the kernel's numbering (`RLIM_NLIMITS`).
const RESOURCES: usize = 16;
/// Width of the first column of `/proc/<pid>/limits` (fs/proc/base.c, Linux 6.18).
const LIMIT_NAME_BYTES: usize = 26;

/// A thread.
#[derive(Debug)]
pub(crate) struct ThreadFacts {
    pub(crate) tid: i32,
    pub(crate) stat: Stat,
    pub(crate) status: Status,
    /// Scheduling policy, with the flag that children do not inherit it.
    pub(crate) policy: u32,
    /// Its control groups, as `/proc` lists them.
    pub(crate) groups: Vec<u8>,
}

/// An open file, directory or mapped file, held so that it can be looked at again.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) file: OwnedFd,
    pub(crate) stat: FileStat,
    /// What the kernel calls it.
    pub(crate) link: Vec<u8>,
    /// Which device of a GPU it is, if it is one.
    pub(crate) device: Option<DeviceKind>,
}

impl Held {
    pub(crate) fn of(file: OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(&file)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = nix::fcntl::readlink(path.as_str())?.as_bytes().to_vec();
        let device = files::device_kind(&file, &stat, &link);
        Ok(Self { file, stat, link, device })
    }

    /// Opens an entry of `/proc` that leads to a file, without opening the file itself.
    fn behind(pid: i32, name: &str) -> Result<Self, DumpError> {
        let path = proc::path(pid, name);
        let held = raw::open(path.as_os_str().as_bytes(), libc::O_PATH).and_then(Self::of);
        held.map_err(|errno| DumpError::Read { path, source: errno.into() })
    }
}

/// An open descriptor.
#[derive(Debug)]
pub(crate) struct Descriptor {
    pub(crate) fd: i32,
    pub(crate) held: Held,
    pub(crate) info: FdInfo,
}

/// A stopped process with an address space.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) pid: i32,
    pub(crate) stat: Stat,
    /// The leader first.
    pub(crate) threads: Vec<ThreadFacts>,
    pub(crate) vmas: Vec<Vma>,
    /// What mappings map, each file once.
    pub(crate) mapped_files: Vec<Held>,
    /// For each mapping of a file its place in `mapped_files`, and the access it was made with.
    pub(crate) mapped: Vec<Option<(usize, u32)>>,
    pub(crate) auxv: Vec<u64>,
    pub(crate) personality: u32,
    pub(crate) loginuid: Option<u32>,
    pub(crate) oom_score_adj: i32,
    /// Current and largest value of each limit.
    pub(crate) limits: Vec<(u64, u64)>,
    pub(crate) timers: Vec<proc::Timer>,
    pub(crate) descriptors: Vec<Descriptor>,
    pub(crate) exe: Held,
    pub(crate) cwd: Held,
    pub(crate) root: Held,
    pub(crate) namespaces: Namespaces,
}

impl Facts {
    /// Reads all of it.
    ///
    /// # Errors
    /// The first thing that cannot be read.
    pub(crate) fn of(member: &Member, steps: &Steps) -> Result<Self, DumpError> {
        let pid = member.pid;
        steps.next("read a process")?;
        let process =
            open_pidfd(pid).map_err(|errno| DumpError::Os { what: "open a pidfd", pid, errno })?;
        let mut threads = Vec::new();
        for thread in &member.threads {
            let tid = thread.tid();
            let stat = Stat::of_thread(pid, tid)?;
            let policy = raw::scheduling_policy(tid).unwrap_or(stat.policy);
            let (status, groups) = (Status::of(pid, tid)?, identity::groups(pid, tid)?);
            threads.push(ThreadFacts { tid, stat, status, policy, groups });
        }
        let vmas = proc::smaps::of(pid)?;
        steps.next("look at mapped files")?;
        let (mapped_files, mapped) = mapped(pid, &vmas)?;
        Ok(Self {
            pid,
            stat: member.stat.clone(),
            threads,
            vmas,
            mapped_files,
            mapped,
            auxv: proc::auxv(pid)?,
            personality: proc::number(pid, "personality", 16)? as u32,
            loginuid: proc::number(pid, "loginuid", 10).ok().map(|uid| uid as u32),
            oom_score_adj: proc::number(pid, "oom_score_adj", 10)? as i32,
            limits: limits(pid)?,
            timers: proc::timers(pid)?,
            descriptors: descriptors(pid, &process, steps)?,
            exe: Held::behind(pid, "exe")?,
            cwd: Held::behind(pid, "cwd")?,
            root: Held::behind(pid, "root")?,
            namespaces: identity::namespaces(pid)?,
        })
    }

    /// Which device of a GPU a mapping shows, if it does.
    pub(crate) fn device_at(&self, mapping: usize) -> Option<DeviceKind> {
        self.mapped[mapping].and_then(|(file, _)| self.mapped_files[file].device)
    }

    /// The leader.
    pub(crate) fn leader(&self) -> &ThreadFacts {
        &self.threads[0]
    }
}

type Mapped = (Vec<Held>, Vec<Option<(usize, u32)>>);

/// Looks at the file of each mapping; neighbours mostly have the same.
fn mapped(pid: i32, vmas: &[Vma]) -> Result<Mapped, DumpError> {
    let mut files: Vec<Held> = Vec::new();
    let mut known = BTreeMap::new();
    let mut mapped = Vec::with_capacity(vmas.len());
    for vma in vmas {
        if vma.inode == 0 {
            mapped.push(None);
            continue;
        }
        let name = format!("map_files/{:x}-{:x}", vma.start, vma.end);
        // A private mapping needs no more, whatever the file was opened for.
        let access = if vma.shared { access(pid, &name)? } else { libc::O_RDONLY as u32 };
        let key = (vma.dev, vma.inode, vma.name.as_slice());
        let index = match known.get(&key) {
            Some(&index) => index,
            None => {
                files.push(Held::behind(pid, &name)?);
                known.insert(key, files.len() - 1);
                files.len() - 1
            }
        };
        mapped.push(Some((index, access)));
    }
    Ok((files, mapped))
}

/// Access that a mapping was made with: the permissions of its entry are those of the open file.
fn access(pid: i32, name: &str) -> Result<u32, DumpError> {
    let path = proc::path(pid, name);
    let mode = match nix::sys::stat::lstat(&path) {
        Ok(stat) => stat.st_mode,
        Err(errno) => return Err(DumpError::Read { path, source: errno.into() }),
    };
    let access = match (mode & 0o400 != 0, mode & 0o200 != 0) {
        (true, true) => libc::O_RDWR,
        (false, true) => libc::O_WRONLY,
        _ => libc::O_RDONLY,
    };
    Ok(access as u32)
}

fn descriptors(pid: i32, process: &OwnedFd, steps: &Steps) -> Result<Vec<Descriptor>, DumpError> {
    let mut descriptors = Vec::new();
    for fd in proc::numbered(proc::path(pid, "fd"))? {
        steps.next("fetch a descriptor")?;
        let fail = |errno| DumpError::Descriptor { pid, fd, errno };
        let file = raw::pidfd_getfd(process, fd).map_err(fail)?;
        let held = Held::of(file).map_err(fail)?;
        descriptors.push(Descriptor { fd, held, info: FdInfo::of(pid, fd)? });
    }
    Ok(descriptors)
}

fn limits(pid: i32) -> Result<Vec<(u64, u64)>, DumpError> {
    let bytes = proc::read(pid, "limits")?;
    parse_limits(&String::from_utf8_lossy(&bytes)).ok_or_else(|| proc::unexpected(pid, "limits"))
}

fn parse_limits(text: &str) -> Option<Vec<(u64, u64)>> {
    let value = |word: Option<&str>| match word? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    let line = |line: &str| {
        let mut words = line.get(LIMIT_NAME_BYTES..)?.split_whitespace();
        Some((value(words.next())?, value(words.next())?))
    };
    let limits: Option<Vec<(u64, u64)>> = text.lines().skip(1).map(line).collect();
    limits.filter(|limits| limits.len() == RESOURCES)
}

#[cfg(test)]
mod tests {
    use super::{RESOURCES, limits};

    #[test]
    fn own_limits_are_those_of_getrlimit() {
        use nix::sys::resource::{Resource, getrlimit};
        let limits = limits(std::process::id() as i32).expect("/proc is mounted");
        assert_eq!(limits.len(), RESOURCES);
        let files = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        assert_eq!(limits[libc::RLIMIT_NOFILE as usize], files);
    }
}
