//! The command line of `thaw restore`.
//!
//! Options that only matter to a dump or to a page server, but that scripts pass at restore too,
//! are taken and ignored.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;

use super::dump::size;
use super::{Other, Treatment, ignores_cgroups, other, verbosity};
use crate::schedule;

/// What `thaw restore` was asked to do.
#[derive(Debug)]
pub(crate) struct Restore {
    pub(crate) images_dir: PathBuf,
    pub(crate) work_dir: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) verbosity: u8,
    pub(crate) detached: bool,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) plan: restore_core::Options,
    /// As it was given: an order can only be understood when the steps are known.
    pub(crate) schedule: schedule::Choice,
    pub(crate) trace: Option<PathBuf>,
    /// Options that would change the result and are not supported; the command fails, with a log.
    pub(crate) refused: Vec<String>,
}

/// Options of `criu restore` that have no field above. One line each; the help prints it.
const OTHERS: &[Other] = &[
    ("no-default-config", Treatment::Ignored, "there is no configuration file"),
    ("link-remap", Treatment::Ignored, "links of the dump are always used"),
    ("force-irmap", Treatment::Ignored, "matters to a dump only"),
    ("irmap-scan-path", Treatment::IgnoredValue, "matters to a dump only"),
    ("skip-in-flight", Treatment::Ignored, "matters to a dump only"),
    ("file-locks", Treatment::Ignored, "images with file locks are refused"),
    ("ext-unix-sk", Treatment::Ignored, "images with unix sockets are refused"),
    ("tcp-established", Treatment::Ignored, "images with connections are refused"),
    ("tcp-close", Treatment::Ignored, "images with connections are refused"),
    ("evasive-devices", Treatment::Ignored, "devices are opened by path"),
    ("ghost-limit", Treatment::IgnoredValue, "matters to a dump only"),
    ("enable-external-sharing", Treatment::Ignored, "mount namespaces are refused"),
    ("enable-external-masters", Treatment::Ignored, "mount namespaces are refused"),
    ("mntns-compat-mode", Treatment::Ignored, "mount namespaces are refused"),
    ("no-mntns-compat-mode", Treatment::Ignored, "mount namespaces are refused"),
    ("enable-fs", Treatment::IgnoredValue, "mount namespaces are refused"),
    ("display-stats", Treatment::Ignored, "statistics are in the log"),
    ("network-lock", Treatment::IgnoredValue, "images with connections are refused"),
    ("cpu-cap", Treatment::IgnoredValue, "vector state is checked per thread"),
    ("root", Treatment::RefusedValue, "mount namespaces"),
    ("cgroup-root", Treatment::RefusedValue, "control groups"),
    ("cgroup-yard", Treatment::RefusedValue, "control groups"),
    ("external", Treatment::RefusedValue, "external resources"),
    ("inherit-fd", Treatment::RefusedValue, "external resources"),
    ("join-ns", Treatment::RefusedValue, "namespaces"),
    ("empty-ns", Treatment::RefusedValue, "namespaces"),
    ("ext-mount-map", Treatment::RefusedValue, "mount namespaces"),
    ("veth-pair", Treatment::RefusedValue, "network namespaces"),
    ("action-script", Treatment::RefusedValue, "action scripts"),
    ("lazy-pages", Treatment::Refused, "lazy pages"),
    ("auto-dedup", Treatment::Refused, "incremental images"),
    ("stream", Treatment::Refused, "streamed images"),
    ("unprivileged", Treatment::Refused, "restore without privilege"),
    ("config", Treatment::RefusedValue, "configuration files"),
    ("exec-cmd", Treatment::Refused, "running a command afterwards"),
    ("freeze-cgroup", Treatment::RefusedValue, "control groups"),
    ("lsm-profile", Treatment::RefusedValue, "security profiles"),
    ("lsm-mount-context", Treatment::RefusedValue, "security profiles"),
];

/// Parses everything after `restore`.
pub(crate) fn parse(parser: lexopt::Parser) -> Result<Restore, lexopt::Error> {
    parse_with(parser, |_, _| Ok(false))
}

/// The same for a command that knows more options: `more` says whether it took one, by its name.
pub(crate) fn parse_with(
    mut parser: lexopt::Parser,
    mut more: impl FnMut(&str, &mut lexopt::Parser) -> Result<bool, lexopt::Error>,
) -> Result<Restore, lexopt::Error> {
    let mut images_dir = None;
    let mut restore = Restore {
        images_dir: PathBuf::new(),
        work_dir: None,
        log_file: None,
        verbosity: 2,
        detached: false,
        pidfile: None,
        plan: restore_core::Options::default(),
        schedule: schedule::Choice::default(),
        trace: None,
        refused: Vec::new(),
    };
    restore.plan.gpu_rules = gpu_kfd::Rules::from_lookup(|name| std::env::var(name).ok())
        .map_err(|error| error.to_string())?;
    while let Some(arg) = parser.next()? {
        match arg {
            Short('D') | Long("images-dir") => images_dir = Some(parser.value()?.into()),
            Short('W') | Long("work-dir") => restore.work_dir = Some(parser.value()?.into()),
            Short('o') | Long("log-file") => restore.log_file = Some(parser.value()?.into()),
            Short('v') | Long("verbosity") => {
                restore.verbosity = verbosity(restore.verbosity, parser.optional_value())?;
            }
            Short('d') | Long("restore-detached") => restore.detached = true,
            Short('s') | Long("leave-stopped") => restore.plan.leave_stopped = true,
            Short('S') | Long("restore-sibling") => restore.plan.sibling = true,
            Short('j') | Long("shell-job") => restore.plan.shell_job = true,
            Long("pidfile") => restore.pidfile = Some(parser.value()?.into()),
            Long("huge-pages") => restore.plan.huge_pages = on_or_off(&parser.value()?)?,
            Long("schedule") => restore.schedule = schedule::parse(&parser.value()?.string()?)?,
            Long("trace") => restore.trace = Some(parser.value()?.into()),
            Long("gpu-map") => restore.plan.gpu_map = gpu_map(&parser.value()?.string()?)?,
            Long("copy-buffer") => {
                restore.plan.copy_buffer_bytes = size(&parser.value()?.string()?)? as usize
            }
            // For tests.
            Long("silence-limit") => {
                restore.plan.silence_max = Duration::from_secs(parser.value()?.parse()?);
            }
            Long("sabotage") => restore.plan.sabotage = Some(sabotage(&parser.value()?)?),
            Long("verify") => restore.plan.verify_contents = true,
            Long("workers") => restore.plan.workers_max = parser.value()?.parse()?,
            Long("manage-cgroups") => {
                restore.plan.ignore_cgroups |= ignores_cgroups(parser.optional_value())?;
            }
            Short('l') | Short('x') => drop(parser.optional_value()),
            Long(name) => {
                let name = name.to_owned();
                if !more(&name, &mut parser)? {
                    restore.refused.extend(other(OTHERS, &name, &mut parser)?);
                }
            }
            _ => return Err(arg.unexpected()),
        }
    }
    let Some(images_dir) = images_dir else {
        return Err("the directory of the images is missing (-D)".into());
    };
    if restore.plan.sibling && !restore.detached {
        return Err("--restore-sibling needs --restore-detached".into());
    }
    restore.images_dir = images_dir;
    Ok(restore)
}

/// For tests of those who judge restores; not in any help.
fn sabotage(value: &OsString) -> Result<restore_core::Sabotage, lexopt::Error> {
    match value.to_str() {
        Some("order") => Ok(restore_core::Sabotage::OrderIgnored),
        Some("edge") => Ok(restore_core::Sabotage::EdgeIgnored),
        Some("leak") => Ok(restore_core::Sabotage::StateLeaked),
        _ => Err("--sabotage takes order, edge or leak".into()),
    }
}

fn gpu_map(text: &str) -> Result<gpu_kfd::UserMap, lexopt::Error> {
    text.parse().map_err(|error: gpu_kfd::UserMapError| error.to_string().into())
}

fn on_or_off(value: &OsString) -> Result<bool, lexopt::Error> {
    match value.to_str() {
        Some("auto") => Ok(true),
        Some("never") => Ok(false),
        _ => Err("--huge-pages takes auto or never".into()),
    }
}
