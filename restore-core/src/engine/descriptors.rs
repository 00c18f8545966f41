//! Descriptors, working directory, root, executable: what a process refers to by path or number.
//!
//! Everything is open already; a target only puts it in place. The order is fixed: paths first,
//! since `chroot` may hide them, and our own descriptors are closed last.

use std::collections::BTreeMap;

use super::StepError;
use super::target::{Source, Target};
use crate::files::ObjectKey;
use crate::remote::ring::{CallError, Remote};

/// `PR_SET_MM_MAP` (linux/prctl.h, Linux 3.18) and the size of `struct prctl_mm_map`.
const PR_SET_MM_MAP: u64 = 14;
const MM_MAP_BYTES: usize = 104;
/// Most words of an auxiliary vector (`AT_VECTOR_SIZE` is below 64 on every x86-64 kernel).
const AUXV_WORDS_MAX: usize = 128;

impl Target {
    /// Puts descriptors in place and closes what is ours.
    pub(super) fn build_descriptors(&mut self) -> Result<(), StepError> {
        let sources = self.sources.clone();
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        for plan in &live.fds {
            let flags = if plan.close_on_exec { libc::O_CLOEXEC } else { 0 };
            place(leader, &sources.objects, sources.restorer, plan.object, plan.fd, flags)?;
        }
        for add in &live.epolls {
            let mut event = [0; 12];
            event[..4].copy_from_slice(&add.events.to_le_bytes());
            event[4..].copy_from_slice(&add.data.to_le_bytes());
            let args = [
                add.epoll_fd.into(),
                (libc::EPOLL_CTL_ADD as u64).into(),
                add.target_fd.into(),
                event.as_slice().into(),
            ];
            leader.queue("watch a descriptor", libc::SYS_epoll_ctl, args)?;
        }
        Ok(())
    }

    /// Sets executable, memory layout, root, working directory and umask, then closes our
    /// descriptors.
    pub(super) fn build_places(&mut self) -> Result<(), StepError> {
        let sources = self.sources.clone();
        let (exe, cwd, root) = match self.live() {
            Some((_, live)) => (live.exe, live.cwd, live.root),
            None => return Ok(()),
        };
        let [exe, cwd, root] = [exe, cwd, root].map(|key| self.source(key));
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let layout = mm_map(live, inherited(exe));
        let auxv: Vec<u8> = live.mm.mm_saved_auxv.iter().flat_map(|w| w.to_le_bytes()).collect();
        let auxv_address = leader.put("auxiliary vector", &auxv, MM_MAP_BYTES + 16)?;
        let layout = layout.with_auxv(auxv_address, auxv.len() as u32);
        let args = [
            libc::PR_SET_MM.into(),
            PR_SET_MM_MAP.into(),
            layout.bytes.as_slice().into(),
            (MM_MAP_BYTES as u64).into(),
            0u64.into(),
        ];
        leader.queue("set the memory layout", libc::SYS_prctl, args)?;
        leader.queue("enter the root", libc::SYS_fchdir, [inherited(root).into()])?;
        leader.queue("change the root", libc::SYS_chroot, [b".\0".as_slice().into()])?;
        let cwd = [inherited(cwd).into()];
        leader.queue("enter the working directory", libc::SYS_fchdir, cwd)?;
        if let Some(umask) = live.umask {
            leader.queue("set the umask", libc::SYS_umask, [umask.into()])?;
        }
        let ours = [(sources.fds_end as u64).into(), u64::from(u32::MAX).into(), 0u64.into()];
        leader.queue("close the restorer's descriptors", libc::SYS_close_range, ours)?;
        Ok(())
    }
}

fn inherited(source: Source) -> i32 {
    match source {
        Source::Inherited(fd) => fd,
        Source::Late(_) => {
            unreachable!("directories and programs are opened before the first task")
        }
    }
}

fn place(
    leader: &mut Remote,
    objects: &BTreeMap<ObjectKey, Source>,
    restorer: i32,
    object: ObjectKey,
    fd: i32,
    flags: i32,
) -> Result<(), CallError> {
    match objects.get(&object) {
        Some(Source::Inherited(source)) => {
            let args = [(*source).into(), fd.into(), flags.into()];
            leader.queue("put a descriptor in place", libc::SYS_dup3, args)
        }
        Some(Source::Late(source)) => {
            // pidfd_getfd picks the lowest free number, which may be `fd` itself, and dup3 refuses
            // equal numbers: so first to a number of ours, which is closed with all of ours.
            let get = [restorer.into(), (*source).into(), 0u64.into()];
            let above = [0u64.into(), (libc::F_DUPFD as u64).into(), (restorer as u64).into()];
            let what = "fetch a descriptor";
            let fetched = leader.call(what, libc::SYS_pidfd_getfd, get)?;
            let mut above = above;
            above[0] = fetched.into();
            let ours = leader.call(what, libc::SYS_fcntl, above)?;
            leader.queue(what, libc::SYS_close, [fetched.into()])?;
            leader.queue(what, libc::SYS_dup3, [ours.into(), fd.into(), flags.into()])
        }
        None => unreachable!("the plan lists every object of its process"),
    }
}

struct MmMap {
    bytes: [u8; MM_MAP_BYTES],
}

impl MmMap {
    fn with_auxv(mut self, address: u64, len_bytes: u32) -> Self {
        self.bytes[88..96].copy_from_slice(&address.to_le_bytes());
        self.bytes[96..100].copy_from_slice(&len_bytes.to_le_bytes());
        self
    }
}

/// `struct prctl_mm_map` (linux/prctl.h): eleven addresses, the vector, its size, the descriptor.
fn mm_map(live: &crate::plan::LivePlan, exe: i32) -> MmMap {
    let mm = &live.mm;
    debug_assert!(mm.mm_saved_auxv.len() <= AUXV_WORDS_MAX);
    let words = [
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
    ];
    let mut bytes = [0; MM_MAP_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes[100..104].copy_from_slice(&exe.to_le_bytes());
    MmMap { bytes }
}
