//! The command line of `thaw dump`.

use std::path::PathBuf;
use std::time::Duration;

use restore_core::{Leave, Mishap};

use super::criu::{Other, Others, Table, Takes::*, Treatment::*};
use super::{Logging, Reporting, values};

/// Make a checkpoint of a process tree
///
/// The tree is stopped, everything about it is read, and it is written into the directory as images
/// in CRIU's format. Then it is killed: it lives on in its images. With -R it goes on, with -s it
/// stays stopped. A dump that fails or is interrupted leaves the tree as it was, and no image.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = super::EXIT_CODES)]
pub(crate) struct Dump {
    /// The root of the tree
    // Not by the name of the field, which is that of another option of criu.
    #[arg(id = "tree", short = 't', long, value_name = "PID", value_parser = values::pid)]
    pub(crate) root: i32,
    /// Directory for the images: it must exist and hold none
    #[arg(short = 'D', long, value_name = "DIR")]
    pub(crate) images_dir: PathBuf,
    /// Let the tree go on
    #[arg(short = 'R', long)]
    leave_running: bool,
    /// Leave every process stopped
    #[arg(short = 's', long, overrides_with = "leave_running")]
    leave_stopped: bool,
    /// The root is, or may be, in the session of a shell
    #[arg(short = 'j', long)]
    pub(crate) shell_job: bool,
    /// Give files that were renamed or deleted, but are linked elsewhere, a link beside their old
    /// name
    #[arg(long)]
    pub(crate) link_remap: bool,
    /// Largest deleted file that is saved (K, M, G)
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = values::size)]
    pub(crate) ghost_limit: u64,
    /// What becomes of control groups; ignore leaves them out of the images
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = values::ignores_cgroups)]
    pub(crate) manage_cgroups: Option<bool>,
    /// Freeze this control group (version 2) until all of the tree is held
    #[arg(long, value_name = "DIR")]
    pub(crate) freeze_cgroup: Option<PathBuf>,
    /// Give up, and leave the tree as it was, after this time
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(crate) timeout: Option<Duration>,
    /// Most worker threads; 0 for as many as there are processors
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true,
          value_parser = values::count)]
    pub(crate) workers: usize,
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
    // For the project's own tests: what goes wrong, at the step with this number.
    #[arg(long, hide = true)]
    fail_at: Option<u32>,
    #[arg(long, hide = true, value_parser = killing)]
    kill_at: Option<Mishap>,
    #[command(flatten)]
    pub(crate) others: Others<Criu>,
}

impl Dump {
    /// What becomes of the tree.
    pub(crate) fn leave(&self) -> Leave {
        match (self.leave_stopped, self.leave_running) {
            (true, _) => Leave::Stopped,
            (false, true) => Leave::Running,
            (false, false) => Leave::Killed,
        }
    }

    /// What is to go wrong on purpose.
    pub(crate) fn mishap(&self) -> Option<Mishap> {
        self.kill_at.or(self.fail_at.map(|step| Mishap::Fail { step }))
    }
}

/// Options of `criu dump` that have no field above.
#[derive(Clone, Debug)]
pub(crate) struct Criu;

impl Table for Criu {
    const OTHERS: &'static [Other] = &[
        ("file-locks", Some('l'), Nothing, Ignored, "trees with file locks are refused"),
        ("ext-unix-sk", Some('x'), Perhaps, Ignored, "unix sockets are refused"),
        ("tcp-close", None, Nothing, Ignored, "connections are refused"),
        ("tcp-established", None, Nothing, Ignored, "connections are refused"),
        ("skip-in-flight", None, Nothing, Ignored, "connections are refused"),
        ("network-lock", None, Value, Ignored, "connections are refused"),
        ("force-irmap", None, Nothing, Ignored, "inotify is refused"),
        ("irmap-scan-path", None, Value, Ignored, "inotify is refused"),
        ("evasive-devices", None, Nothing, Ignored, "devices are taken by path"),
        ("ghost-fiemap", None, Nothing, Ignored, "holes are found by seeking"),
        ("no-ghost-fiemap", None, Nothing, Ignored, "holes are found by seeking"),
        ("pre-dump-mode", None, Value, Ignored, "it matters to a pre-dump only"),
        ("pidfile", None, Value, Ignored, "it matters to a restore only"),
        ("display-stats", None, Nothing, Ignored, "statistics are in the summary"),
        ("cpu-cap", None, Perhaps, Ignored, "vector state is saved for each thread"),
        ("enable-external-sharing", None, Nothing, Ignored, "mount namespaces are refused"),
        ("enable-external-masters", None, Nothing, Ignored, "mount namespaces are refused"),
        ("mntns-compat-mode", None, Nothing, Ignored, "mount namespaces are refused"),
        ("no-mntns-compat-mode", None, Nothing, Ignored, "mount namespaces are refused"),
        ("enable-fs", None, Value, Ignored, "mount namespaces are refused"),
        ("root", None, Value, Refused, "mount namespaces"),
        ("external", None, Value, Refused, "external resources"),
        ("empty-ns", None, Value, Refused, "namespaces"),
        ("ext-mount-map", None, Value, Refused, "mount namespaces"),
        ("veth-pair", None, Value, Refused, "network namespaces"),
        ("cgroup-root", None, Value, Refused, "control groups"),
        ("cgroup-yard", None, Value, Refused, "control groups"),
        ("cgroup-dump-controller", None, Value, Refused, "control groups"),
        ("action-script", None, Value, Refused, "action scripts"),
        ("track-mem", None, Nothing, Refused, "incremental images"),
        ("prev-images-dir", None, Value, Refused, "incremental images"),
        ("pre-dump", None, Nothing, Refused, "incremental images"),
        ("auto-dedup", None, Nothing, Refused, "incremental images"),
        ("page-server", None, Nothing, Refused, "page servers"),
        ("address", None, Value, Refused, "page servers"),
        ("port", None, Value, Refused, "page servers"),
        ("lazy-pages", None, Nothing, Refused, "lazy pages"),
        ("status-fd", None, Value, Refused, "lazy pages"),
        ("stream", None, Nothing, Refused, "streamed images"),
        ("unprivileged", None, Nothing, Refused, "dumps without privilege"),
        ("lsm-profile", None, Value, Refused, "security profiles"),
        ("lsm-mount-context", None, Value, Refused, "security profiles"),
        ("allow-uprobes", None, Nothing, Refused, "uprobes"),
    ];
}

/// `STEP:PID`.
fn killing(text: &str) -> Result<Mishap, String> {
    let numbers = text.split_once(':').and_then(|(step, pid)| {
        Some(Mishap::Kill { step: step.parse().ok()?, pid: pid.parse().ok()? })
    });
    numbers.ok_or_else(|| format!("{text:?} is not STEP:PID"))
}
