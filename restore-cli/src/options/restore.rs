//! The command line of `thaw restore`, and of what asks the same without doing it.

use std::path::PathBuf;
use std::time::Duration;

use restore_core::Sabotage;

use super::criu::{Other, Others, Table, Takes::*, Treatment::*};
use super::{Logging, Reporting, values};
use crate::schedule;

/// Bring a process tree back from its images
///
/// Everything is checked before the first process exists; then all of the tree runs, or nothing of
/// it. Without -d, thaw waits for the tree and passes on the exit status of its root.
#[derive(Clone, Debug, clap::Args)]
#[command(after_long_help = super::EXIT_CODES)]
pub(crate) struct Restore {
    /// Directory of the images
    #[arg(short = 'D', long, value_name = "DIR")]
    pub(crate) images_dir: PathBuf,
    /// Do not wait for the tree
    #[arg(short = 'd', long = "restore-detached")]
    pub(crate) detached: bool,
    /// Make the root a child of thaw's parent
    #[arg(short = 'S', long, requires = "detached")]
    pub(crate) restore_sibling: bool,
    /// Write the root's pid to FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// Give up, and undo everything, after this time
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) planning: Planning,
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(flatten)]
    pub(crate) reporting: Reporting,
    /// Write what happens to FILE, as JSON lines (see thaw trace)
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) others: Others<Criu>,
}

impl Restore {
    /// What the library is told; an error is about the environment.
    pub(crate) fn options(&self) -> Result<restore_core::Options, gpu_kfd::SwitchError> {
        let options = self.planning.options()?;
        Ok(restore_core::Options { sibling: self.restore_sibling, ..options })
    }
}

/// What a plan depends on.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Planning {
    /// Leave every process stopped
    #[arg(short = 's', long)]
    pub(crate) leave_stopped: bool,
    /// The root is, or may be, in the session of a shell
    #[arg(short = 'j', long)]
    pub(crate) shell_job: bool,
    /// What becomes of control groups; ignore leaves the tree in the caller's
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true,
          default_missing_value = "", value_parser = values::ignores_cgroups)]
    pub(crate) manage_cgroups: Option<bool>,
    /// Whether whole 2 MiB blocks may be filled as huge pages (auto, never)
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = values::huge_pages,
          action = clap::ArgAction::Set)]
    pub(crate) huge_pages: bool,
    /// Most worker threads; 0 for one a process, up to a bound that fits this host
    #[arg(long, value_name = "N", default_value = "0", hide_default_value = true,
          value_parser = values::count)]
    pub(crate) workers: usize,
    /// Which GPU becomes which, as in 0xf85e=0x1267,...; by default the best match is found
    #[arg(long, value_name = "SAVED=HERE", value_parser = gpu_map, default_value = "",
          hide_default_value = true, help_heading = GPUS)]
    pub(crate) gpu_map: gpu_kfd::UserMap,
    /// Read buffers back and compare them before anything runs
    #[arg(long, help_heading = GPUS)]
    pub(crate) verify: bool,
    /// Memory that one thread takes to copy through where the host does not see VRAM (K, M, G)
    #[arg(long, value_name = "SIZE", value_parser = values::size, help_heading = GPUS)]
    pub(crate) copy_buffer: Option<u64>,
    /// In which order device files are restored: concurrent, serial, seed:NUMBER, order:FILE
    #[arg(long, value_name = "ORDER", default_value = "concurrent", help_heading = GPUS,
          value_parser = schedule::parse)]
    pub(crate) schedule: schedule::Choice,
    // For tests.
    #[arg(long, hide = true, value_parser = values::seconds)]
    silence_limit: Option<Duration>,
    #[arg(long, hide = true, value_parser = sabotage)]
    sabotage: Option<Sabotage>,
}

const GPUS: &str = "GPUs";

impl Planning {
    /// The same for the library; an error is about the environment.
    pub(crate) fn options(&self) -> Result<restore_core::Options, gpu_kfd::SwitchError> {
        let defaults = restore_core::Options::default();
        Ok(restore_core::Options {
            shell_job: self.shell_job,
            ignore_cgroups: self.manage_cgroups == Some(true),
            leave_stopped: self.leave_stopped,
            huge_pages: self.huge_pages,
            workers_max: self.workers,
            gpu_rules: gpu_kfd::Rules::from_lookup(|name| std::env::var(name).ok())?,
            gpu_map: self.gpu_map.clone(),
            copy_buffer_bytes: match self.copy_buffer {
                Some(bytes) => bytes as usize,
                None => defaults.copy_buffer_bytes,
            },
            verify_contents: self.verify,
            silence_max: self.silence_limit.unwrap_or(defaults.silence_max),
            sabotage: self.sabotage,
            ..defaults
        })
    }
}

/// Options of `criu restore` that have no field above.
#[derive(Clone, Debug)]
pub(crate) struct Criu;

impl Table for Criu {
    const OTHERS: &'static [Other] = &[
        ("link-remap", None, Nothing, Ignored, "links of the dump are always used"),
        ("force-irmap", None, Nothing, Ignored, "it matters to a dump only"),
        ("irmap-scan-path", None, Value, Ignored, "it matters to a dump only"),
        ("skip-in-flight", None, Nothing, Ignored, "it matters to a dump only"),
        ("file-locks", Some('l'), Nothing, Ignored, "images with file locks are refused"),
        ("ext-unix-sk", Some('x'), Perhaps, Ignored, "images with unix sockets are refused"),
        ("tcp-established", None, Nothing, Ignored, "images with connections are refused"),
        ("tcp-close", None, Nothing, Ignored, "images with connections are refused"),
        ("evasive-devices", None, Nothing, Ignored, "devices are opened by path"),
        ("ghost-limit", None, Value, Ignored, "it matters to a dump only"),
        ("enable-external-sharing", None, Nothing, Ignored, "mount namespaces are refused"),
        ("enable-external-masters", None, Nothing, Ignored, "mount namespaces are refused"),
        ("mntns-compat-mode", None, Nothing, Ignored, "mount namespaces are refused"),
        ("no-mntns-compat-mode", None, Nothing, Ignored, "mount namespaces are refused"),
        ("enable-fs", None, Value, Ignored, "mount namespaces are refused"),
        ("display-stats", None, Nothing, Ignored, "statistics are in the summary"),
        ("network-lock", None, Value, Ignored, "images with connections are refused"),
        ("cpu-cap", None, Perhaps, Ignored, "vector state is checked for each thread"),
        ("root", None, Value, Refused, "mount namespaces"),
        ("cgroup-root", None, Value, Refused, "control groups"),
        ("cgroup-yard", None, Value, Refused, "control groups"),
        ("external", None, Value, Refused, "external resources"),
        ("inherit-fd", None, Value, Refused, "external resources"),
        ("join-ns", None, Value, Refused, "namespaces"),
        ("empty-ns", None, Value, Refused, "namespaces"),
        ("ext-mount-map", None, Value, Refused, "mount namespaces"),
        ("veth-pair", None, Value, Refused, "network namespaces"),
        ("action-script", None, Value, Refused, "action scripts"),
        ("lazy-pages", None, Nothing, Refused, "lazy pages"),
        ("auto-dedup", None, Nothing, Refused, "incremental images"),
        ("stream", None, Nothing, Refused, "streamed images"),
        ("unprivileged", None, Nothing, Refused, "restores without privilege"),
        ("exec-cmd", None, Nothing, Refused, "commands to run afterwards"),
        ("freeze-cgroup", None, Value, Refused, "control groups"),
        ("lsm-profile", None, Value, Refused, "security profiles"),
        ("lsm-mount-context", None, Value, Refused, "security profiles"),
    ];
}

/// For tests of those who judge restores; not in any help.
fn sabotage(value: &str) -> Result<Sabotage, String> {
    match value {
        "order" => Ok(Sabotage::OrderIgnored),
        "edge" => Ok(Sabotage::EdgeIgnored),
        "leak" => Ok(Sabotage::StateLeaked),
        _ => Err("it is order, edge or leak".to_owned()),
    }
}

fn gpu_map(text: &str) -> Result<gpu_kfd::UserMap, String> {
    match text {
        "" => Ok(gpu_kfd::UserMap::default()),
        text => text.parse().map_err(|error: gpu_kfd::UserMapError| error.to_string()),
    }
}
