//! What can go wrong with a device, and what the operator can do about it.
//!
//! An error names the operation, the device and the kernel's errno. The advice comes from one table
//! by operation and errno: what the drivers mean by an errno (`kfd_chardev.c`, amdgpu's
//! `amdgpu_gem.c` and `amdgpu_kms.c` of Linux 6.12 to 6.18) is not what its text says.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Why a call did not succeed, before anybody has said what it was for.
#[derive(Debug)]
pub enum CallFailure {
    /// The driver refused it.
    Refused(Errno),
    /// It was not made, or its answer could not be had.
    NotMade(Box<dyn Error + Send + Sync>),
}

/// A device could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver refused a call.
    #[error("{operation} on {}: {errno}{}", path.display(), Advice(operation, *errno))]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// The device.
        path: PathBuf,
        /// The kernel's error.
        errno: Errno,
    },
    /// Who should make a call could not make it.
    #[error("{operation} on {} was not carried out", path.display())]
    NotMade {
        /// What was asked.
        operation: &'static str,
        /// The device.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The driver is too old.
    #[error(
        "{operation} needs version {}.{} of the KFD interface, {} has {}.{}: \
         use a newer kernel or amdgpu driver",
        needed.0, needed.1, path.display(), found.0, found.1
    )]
    Version {
        /// What needs it.
        operation: &'static str,
        /// The device.
        path: PathBuf,
        /// Major and minor number that the driver has.
        found: (u32, u32),
        /// Major and minor number that are needed.
        needed: (u32, u32),
    },
    /// A render node of another driver.
    #[error("{} is served by {driver:?}, not by amdgpu: name an AMD GPU's", path.display())]
    WrongDriver {
        /// The device.
        path: PathBuf,
        /// The driver's name.
        driver: String,
    },
    /// The driver speaks of more things than can be.
    #[error("{operation} on {}: the driver has {count} {what}, limit {limit}", path.display())]
    TooMany {
        /// What was asked.
        operation: &'static str,
        /// The device.
        path: PathBuf,
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
        /// How many are let through.
        limit: u64,
    },
    /// A list grew faster than it could be read.
    #[error("{operation} on {}: the list grew {rounds} times while it was read", path.display())]
    Unsettled {
        /// What was asked.
        operation: &'static str,
        /// The device.
        path: PathBuf,
        /// How often it was read.
        rounds: usize,
    },
}

impl DeviceError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { errno: Errno::ENODEV | Errno::EIO | Errno::ECANCELED, .. } => {
                "device.gone"
            }
            Self::Refused { errno: Errno::ENOMEM | Errno::ENOSPC, .. } => "device.no-memory",
            Self::Refused { errno: Errno::EACCES | Errno::EPERM, .. } => "device.denied",
            Self::Refused { errno: Errno::ENOENT | Errno::ENXIO, .. } => "device.absent",
            Self::Refused { errno: Errno::EMFILE | Errno::ENFILE, .. } => "device.descriptors",
            Self::Refused { .. } => "device.call",
            Self::NotMade { .. } => "device.not-made",
            Self::Version { .. } => "device.version",
            Self::WrongDriver { .. } => "device.driver",
            Self::TooMany { .. } => "device.too-many",
            Self::Unsettled { .. } => "device.unsettled",
        }
    }

    /// What can be done about it, where there is something. For a refusal it stands in the text,
    /// too.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused { operation, errno, .. } => advice(operation, *errno),
            Self::Version { .. } => Some("use a newer kernel or amdgpu driver"),
            Self::WrongDriver { .. } => Some("name an AMD GPU's"),
            Self::Unsettled { .. } => {
                Some("stop the program that goes on making buffers, and try again")
            }
            Self::NotMade { .. } | Self::TooMany { .. } => None,
        }
    }

    /// Names the call that failed.
    #[must_use]
    pub fn of(operation: &'static str, path: &Path, failure: CallFailure) -> Self {
        let path = path.to_owned();
        match failure {
            CallFailure::Refused(errno) => Self::Refused { operation, path, errno },
            CallFailure::NotMade(source) => Self::NotMade { operation, path, source },
        }
    }

    /// The kernel's error, if it was a refusal.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}

struct Advice<'a>(&'a str, Errno);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match advice(self.0, self.1) {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

/// Beginning of an operation's name, errno, what to do. The first line that fits counts.
const ADVICE: &[(&str, Errno, &str)] = &[
    ("open", Errno::ENOENT, "load the amdgpu driver, or let the container have the device"),
    ("open", Errno::EACCES, "run as root, or join the device's group (render or video)"),
    ("open", Errno::EPERM, "the device cgroup forbids it: allow the device in the container"),
    ("open", Errno::ENXIO, "load the amdgpu driver: the file is there, the device is not"),
    ("open", Errno::EMFILE, "raise the limit of open files (ulimit -n)"),
    (
        "CRIU_OP RESTORE",
        Errno::EINVAL,
        "the state does not fit this kernel or this GPU: restore \
        on the kernel and GPU model that it was saved on",
    ),
    ("CRIU_OP RESTORE", Errno::ENOMEM, "free GPU or system memory, or choose a GPU with more"),
    (
        "CRIU_OP RESTORE",
        Errno::EPERM,
        "the GPU page-fault mode differs: load amdgpu with the \
        same noretry= as where it was saved",
    ),
    ("CRIU_OP RESUME", Errno::ESRCH, "the process has ended, or has no GPU state"),
    ("CRIU_OP RESUME", Errno::EINVAL, "the process is not a restored one that still waits"),
    (
        "CRIU_OP PROCESS_INFO",
        Errno::ENODEV,
        "the process uses no GPU: its devices may have \
        been removed",
    ),
    ("CRIU_OP", Errno::EACCES, "run as root or with CAP_CHECKPOINT_RESTORE"),
    ("CRIU_OP", Errno::EBADF, "the file is another process's: only it or its tracer may ask"),
    (
        "CRIU_OP CHECKPOINT",
        Errno::EMFILE,
        "raise the limit of open files (ulimit -n): each \
        buffer needs one",
    ),
    (
        "CRIU_OP CHECKPOINT",
        Errno::EINVAL,
        "the process changed since it was stopped: stop it \
        again",
    ),
    ("CRIU_OP", Errno::EOPNOTSUPP, "a queue or debugger state that the driver cannot save"),
    ("CRIU_OP", Errno::ENOTTY, "use a kernel of 5.18 or newer"),
    ("ACQUIRE_VM", Errno::EINVAL, "open the render node of that GPU anew: each open serves once"),
    ("ALLOC_MEMORY_OF_GPU", Errno::EINVAL, "the GPU cannot have memory of that kind or place"),
    ("CREATE_QUEUE", Errno::ENOMEM, "too many queues: end other GPU processes"),
    ("GEM_CHANGE_HANDLE", Errno::EINVAL, "use a kernel of 6.18 or newer"),
    ("GEM_CHANGE_HANDLE", Errno::ENOSPC, "the handle is taken already"),
    ("GEM_LIST_HANDLES", Errno::EINVAL, "use a kernel of 6.18 or newer"),
    ("GEM_OP GET_MAPPING_INFO", Errno::EINVAL, "use a kernel of 6.18 or newer"),
    ("CS", Errno::ECANCELED, "the GPU was reset: look into the kernel's log"),
    ("", Errno::ENODEV, "the GPU is gone or was reset: look into the kernel's log"),
    ("", Errno::EIO, "the GPU does not work: look into the kernel's log"),
    ("", Errno::ENOMEM, "free GPU or system memory"),
    ("", Errno::ENOSPC, "free GPU memory"),
    ("", Errno::EMFILE, "raise the limit of open files (ulimit -n)"),
    ("", Errno::EBADF, "the file belongs to another process"),
    ("", Errno::EACCES, "run as root, or join the device's group (render or video)"),
    ("", Errno::EPERM, "run as root"),
    ("", Errno::ENOTTY, "the driver is too old, or the file is not the device that it should be"),
    ("", Errno::EAGAIN, "the driver was busy: try again"),
    ("", Errno::EINVAL, "look into the kernel's log: the driver says there what does not fit"),
    ("", Errno::EBUSY, "look into the kernel's log: the driver says there what is in use"),
];

fn advice(operation: &str, errno: Errno) -> Option<&'static str> {
    let fits = |row: &&(&str, Errno, &str)| operation.starts_with(row.0) && row.1 == errno;
    ADVICE.iter().find(fits).map(|row| row.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(operation: &'static str, errno: Errno) -> String {
        let path = Path::new("/dev/kfd");
        DeviceError::of(operation, path, CallFailure::Refused(errno)).to_string()
    }

    #[test]
    fn a_refusal_names_operation_device_errno_and_what_to_do() {
        let text = refusal("CRIU_OP RESUME", Errno::ESRCH);
        for part in ["CRIU_OP RESUME", "/dev/kfd", "ESRCH", "the process has ended"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn every_line_of_advice_can_be_reached() {
        for (index, (operation, errno, text)) in ADVICE.iter().enumerate() {
            let name = if operation.is_empty() { "GET_VERSION" } else { operation };
            assert_eq!(advice(name, *errno), Some(*text), "line {index} is hidden");
        }
    }

    #[test]
    fn refusals_of_one_call_have_a_code_for_each_cause() {
        let code = |errno| {
            let failure = CallFailure::Refused(errno);
            let error = DeviceError::of("GEM_CREATE", Path::new("/dev/kfd"), failure);
            // What the text says to do is what the error says to do.
            assert!(error.help().is_none_or(|help| error.to_string().ends_with(help)), "{error}");
            error.code()
        };
        assert_eq!(code(Errno::ENOMEM), "device.no-memory");
        assert_eq!(code(Errno::ENODEV), "device.gone");
        assert_eq!(code(Errno::EPERM), "device.denied");
        assert_eq!(code(Errno::EINVAL), "device.call");
    }

    #[test]
    fn an_errno_without_advice_stands_alone() {
        assert!(refusal("GET_VERSION", Errno::EDOM).ends_with(Errno::EDOM.desc()));
    }
}
