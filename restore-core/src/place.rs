//! Where something failed, in parts: which process, at what, which file, which call, which errno.
//!
//! The text of an error says all of it in a sentence; this is for those who show or store the
//! parts. What an error does not know is left out, never guessed.

use std::path::PathBuf;

use gpu_kfd::{ContentsError, DeviceError};
use nix::errno::Errno;

use crate::capture::DumpError;
use crate::engine::{CopyError, RestoreError, StepError};
use crate::files::FilesError;
use crate::remote::freeze::FreezeError;
use crate::remote::ring::CallError;

/// Where something failed, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The process or thread.
    pub pid: Option<i32>,
    /// Stage, step or device file as a plan names it.
    pub step: Option<String>,
    /// The file, device or image.
    pub file: Option<String>,
    /// What was asked of the kernel or of a driver.
    pub call: Option<String>,
    /// The kernel's error.
    pub errno: Option<Errno>,
}

impl Place {
    fn of_process(pid: i32) -> Self {
        Self { pid: Some(pid), ..Self::default() }
    }

    fn at(mut self, step: impl Into<String>) -> Self {
        self.step.get_or_insert(step.into());
        self
    }

    fn file(mut self, file: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self
    }

    fn call(mut self, call: impl Into<String>) -> Self {
        self.call = Some(call.into());
        self
    }

    fn errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno);
        self
    }

    fn io(mut self, error: &std::io::Error) -> Self {
        self.errno = error.raw_os_error().map(Errno::from_raw);
        self
    }

    /// Parts that the outer error does not know are those of the inner one.
    fn within(self, inner: Self) -> Self {
        Self {
            pid: self.pid.or(inner.pid),
            step: self.step.or(inner.step),
            file: self.file.or(inner.file),
            call: self.call.or(inner.call),
            errno: self.errno.or(inner.errno),
        }
    }

    fn path(path: &std::path::Path) -> Self {
        Self::default().file(path.display().to_string())
    }
}

fn of_device(error: &DeviceError) -> Place {
    let (operation, path): (&str, &PathBuf) = match error {
        DeviceError::Refused { operation, path, .. }
        | DeviceError::NotMade { operation, path, .. }
        | DeviceError::Version { operation, path, .. }
        | DeviceError::TooMany { operation, path, .. }
        | DeviceError::Unsettled { operation, path, .. } => (operation, path),
        DeviceError::WrongDriver { path, .. } => return Place::path(path),
    };
    let place = Place::path(path).call(operation);
    match error.errno() {
        Some(errno) => place.errno(errno),
        None => place,
    }
}

fn of_contents(error: &ContentsError) -> Place {
    match error {
        ContentsError::Device(error) => of_device(error),
        ContentsError::NoEngine { path } | ContentsError::Hang { path, .. } => Place::path(path),
        ContentsError::Bo(_) | ContentsError::Size(_) | ContentsError::Addresses { .. } => {
            Place::default()
        }
    }
}

fn of_copy(error: &CopyError) -> Place {
    match error {
        CopyError::Image { path, source } => Place::path(path).io(source),
        CopyError::Contents(error) => of_contents(error),
        CopyError::Different { image, .. } => Place::default().file(image.clone()),
        CopyError::CopierLost => Place::default(),
    }
}

fn of_call(error: &CallError) -> Place {
    match error {
        CallError::Refused { what, tid, errno, .. } => {
            Place::of_process(*tid).call(*what).errno(*errno)
        }
        CallError::Died { what, tid } | CallError::Overdue { what, tid, .. } => {
            Place::of_process(*tid).call(*what)
        }
        CallError::TooLarge { what, .. } => Place::default().call(*what),
    }
}

fn of_files(error: &FilesError) -> Place {
    match error {
        FilesError::Path { call, path, errno, .. } => {
            Place::default().call(*call).file(path.clone()).errno(*errno)
        }
        FilesError::Object { call, what, errno } => {
            Place::default().call(*call).file(what.clone()).errno(*errno)
        }
        FilesError::Image { file, errno } => Place::default().file(file.clone()).errno(*errno),
        FilesError::Changed { path, .. } | FilesError::Size { path, .. } => {
            Place::default().file(path.clone())
        }
    }
}

fn of_freeze(error: &FreezeError) -> Place {
    match error {
        FreezeError::Refused { what, tid, errno } | FreezeError::Call { what, tid, errno } => {
            Place::of_process(*tid).call(*what).errno(*errno)
        }
        FreezeError::Unexpected { what, tid, .. }
        | FreezeError::Overdue { what, tid, .. }
        | FreezeError::Died { what, tid } => Place::of_process(*tid).call(*what),
    }
}

fn of_step(error: &StepError) -> Place {
    match error {
        StepError::Call(error) => of_call(error),
        StepError::Freeze(error) => of_freeze(error),
        StepError::Pidfd { pid, errno } => Place::of_process(*pid).call("pidfd_open").errno(*errno),
        StepError::PagesFile { path, source } => Place::path(path).io(source),
        StepError::Fill { pid, errno, .. } => {
            Place::of_process(*pid).call("process_vm_writev").errno(*errno)
        }
        StepError::NotEnded { pid, .. }
        | StepError::TimerId { pid, .. }
        | StepError::NotShown { pid, .. } => Place::of_process(*pid),
        StepError::OomScore { pid, source, .. } => {
            Place::of_process(*pid).file(format!("/proc/{pid}/oom_score_adj")).io(source)
        }
        StepError::Xstate { tid, .. } => Place::of_process(*tid),
        StepError::Device(error) => of_device(error),
        StepError::Handle { path, .. } => Place::path(path),
        StepError::Duplicate { source } => Place::default().call("fcntl").io(source),
        StepError::Stop { pid, errno } => Place::of_process(*pid).call("kill").errno(*errno),
    }
}

impl RestoreError {
    /// Where it failed.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::Step { pid, stage, source } => {
                Place::of_process(*pid).at(stage.name()).within(of_step(source))
            }
            Self::Device { pid, label, path, source } => {
                let place = Place::of_process(*pid).at(format!("device file {label}"));
                place.within(of_step(source)).within(Place::default().file(path.clone()))
            }
            Self::DeviceStep { source, .. } => of_step(source),
            Self::Contents { pid, label, source } => {
                let place = Place::of_process(*pid).at(format!("contents of device file {label}"));
                place.within(of_copy(source))
            }
            Self::Resume { pid, source } => {
                Place::of_process(*pid).at("resume").within(of_device(source))
            }
            Self::Files(error) => of_files(error),
            Self::Root { pid, errno, .. } => {
                Place::of_process(*pid).at("create").call("clone3").errno(*errno)
            }
            Self::Setup { what, source } => Place::default().at("set up").call(*what).io(source),
            Self::Vdso { pid, .. } => Place::of_process(*pid),
            Self::IdTaken { id, .. } => Place::of_process(*id).at("create"),
            _ => Place::default(),
        }
    }
}

impl DumpError {
    /// Where it failed.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::NoProcess { pid }
            | Self::ForeignSession { pid, .. }
            | Self::OutsideSession { pid }
            | Self::Traced { pid, .. }
            | Self::LeaderGone { pid }
            | Self::Died { pid }
            | Self::UnknownGpu { pid, .. }
            | Self::NoInstruction { pid } => Place::of_process(*pid),
            Self::NoFreezer { group } | Self::Frozen { group } => Place::path(group),
            Self::Occupied { path } | Self::Unexpected { path } => Place::path(path),
            Self::Read { path, source } => Place::path(path).call("read").io(source),
            Self::Write { path, source } => Place::path(path).call("write").io(source),
            Self::Os { what, pid, errno } => Place::of_process(*pid).call(*what).errno(*errno),
            Self::Descriptor { pid, fd, errno } => {
                Place::of_process(*pid).file(format!("descriptor {fd}")).errno(*errno)
            }
            Self::Memory { pid, errno, .. } => {
                Place::of_process(*pid).call("process_vm_readv").errno(*errno)
            }
            Self::Shared { errno, .. } | Self::Pipe { errno, .. } | Self::Ghost { errno, .. } => {
                Place::default().errno(*errno)
            }
            Self::Device { pid, source } => Place::of_process(*pid).within(of_device(source)),
            Self::Contents { pid, image, source } => {
                let place = Place::of_process(*pid).at(format!("contents for {image}"));
                place.within(of_contents(source))
            }
            Self::Xstate { tid, .. } => Place::of_process(*tid),
            Self::Call(error) => of_call(error),
            Self::Trace(error) => of_freeze(error),
            _ => Place::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use gpu_kfd::DeviceError;
    use nix::errno::Errno;

    use super::Place;
    use crate::engine::{RestoreError, StepError};
    use crate::remote::ring::CallError;

    #[test]
    fn parts_of_the_outer_error_come_first_and_of_the_inner_one_are_not_lost() {
        let source = StepError::Device(DeviceError::Refused {
            operation: "CRIU_OP RESTORE",
            path: "/dev/kfd".into(),
            errno: Errno::EINVAL,
        });
        let (label, path) = ("7.1".to_owned(), "/dev/dri/renderD128".to_owned());
        let place = RestoreError::Device { pid: 7, label, path, source }.place();
        let expected = Place {
            pid: Some(7),
            step: Some("device file 7.1".to_owned()),
            file: Some("/dev/kfd".to_owned()),
            call: Some("CRIU_OP RESTORE".to_owned()),
            errno: Some(Errno::EINVAL),
        };
        assert_eq!(place, expected);
    }

    #[test]
    fn process_is_the_one_of_the_tree_also_if_its_thread_made_the_call() {
        let call = CallError::Refused { what: "map", tid: 9, nr: 9, errno: Errno::ENOMEM };
        let (stage, source) = (crate::engine::Stage::Build, StepError::Call(call));
        let place = RestoreError::Step { pid: 7, stage, source }.place();
        assert_eq!((place.pid, place.errno), (Some(7), Some(Errno::ENOMEM)));
        assert_eq!(place.step.as_deref(), Some("build"));
    }
}
