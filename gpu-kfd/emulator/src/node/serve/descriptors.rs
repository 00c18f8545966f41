//! Descriptors that arguments name (a render node in `ACQUIRE_VM`, say): which open file is it.
//!
//! The descriptor is fetched from the caller and asked who it is, a call that comes back to this
//! node. So it is made by a thread that nothing else waits for but the call that asks, and that has
//! no descriptor of `/dev/fuse`: the table of the threads that serve is another one. When they are
//! killed, the connection ends, and with it the wait of this thread; else it would wait for an
//! answer that nobody gives, and its process could not end.

use std::os::fd::AsFd;
use std::thread::JoinHandle;

use bytemuck::Zeroable;
use crossbeam::channel::{Receiver, Sender, bounded};
use gpu_kfd::emulated::WhoAmI;
use gpu_kfd::emulated::ioc::WHOAMI;
use gpu_kfd::uapi::{amdgpu, drm, kfd, same_call};
use nix::errno::Errno;

use crate::model::FileId;
use crate::node::raw;

/// Calls whose arguments name descriptors, also in arrays.
const NAMING: [u32; 7] = [
    kfd::ioc::ACQUIRE_VM,
    kfd::ioc::GET_DMABUF_INFO,
    kfd::ioc::IMPORT_DMABUF,
    kfd::ioc::CRIU_OP,
    drm::ioc::PRIME_FD_TO_HANDLE,
    drm::ioc::SYNCOBJ_FD_TO_HANDLE,
    amdgpu::ioc::SCHED,
];

/// Whether the arguments of a call may name descriptors. Only such calls can resolve them.
pub(crate) fn names_descriptors(request: u32) -> bool {
    NAMING.iter().any(|known| same_call(*known, request))
}

struct Question {
    /// The thread that calls, and waits.
    tid: i32,
    fd: i32,
    /// Device number of the node's file system.
    device: (u32, u32),
    answer: Sender<Result<FileId, Errno>>,
}

/// Asks the thread that resolves descriptors.
#[derive(Clone)]
pub(crate) struct Resolver {
    questions: Sender<Question>,
}

impl Resolver {
    /// Starts the thread; it ends when the last `Resolver` has gone. To be called by a thread that
    /// does not serve.
    pub(crate) fn start() -> std::io::Result<(Self, JoinHandle<()>)> {
        // One call at a time can ask: it holds the lock of the device.
        let (questions, asked) = bounded(1);
        let thread = std::thread::Builder::new()
            .name("kfd-resolve".into())
            .spawn(move || answer_all(&asked))?;
        Ok((Self { questions }, thread))
    }

    /// Which of the node's open files a descriptor of a thread is.
    ///
    /// # Errors
    /// `EBADF` if it is none, or the node ends.
    pub(crate) fn resolve(&self, tid: i32, fd: i32, device: (u32, u32)) -> Result<FileId, Errno> {
        let (answer, answered) = bounded(1);
        let question = Question { tid, fd, device, answer };
        self.questions.send(question).map_err(|_| Errno::EBADF)?;
        answered.recv().map_err(|_| Errno::EBADF)?
    }
}

fn answer_all(asked: &Receiver<Question>) {
    for question in asked {
        let found = who_is(question.tid, question.fd, question.device);
        // Nobody hears it if the node has ended meanwhile.
        let _ = question.answer.send(found);
    }
}

fn who_is(tid: i32, fd: i32, device: (u32, u32)) -> Result<FileId, Errno> {
    let pidfd = raw::pidfd_of_thread(tid).map_err(|_| Errno::EBADF)?;
    let file = raw::pidfd_getfd(pidfd.as_fd(), fd).map_err(|_| Errno::EBADF)?;
    if raw::device_of(file.as_fd())? != device {
        return Err(Errno::EBADF);
    }
    let mut who = WhoAmI::zeroed();
    raw::device_ioctl(file.as_fd(), WHOAMI, &mut who).map_err(|_| Errno::EBADF)?;
    Ok(FileId(who.file))
}

#[cfg(test)]
mod tests {
    use super::names_descriptors;

    #[test]
    fn calls_are_known_by_type_and_number_whatever_their_size() {
        for (request, expected) in [
            (0x4008_4b15, true),  // AMDKFD_IOC_ACQUIRE_VM
            (0xc038_4b22, true),  // AMDKFD_IOC_CRIU_OP
            (0xc010_4b22, true),  // the same of another version
            (0xc00c_642e, true),  // DRM_IOCTL_PRIME_FD_TO_HANDLE
            (0xc00c_4b2e, false), // the number of one with the type of the other
            (0x8008_4b01, false), // AMDKFD_IOC_GET_VERSION
            (0x8020_e701, false), // WHOAMI itself
        ] {
            assert_eq!(names_descriptors(request), expected, "{request:#x}");
        }
    }
}
