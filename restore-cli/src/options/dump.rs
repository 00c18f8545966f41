//! The command line of `thaw dump`.

use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::*;
use restore_core::{GHOST_LIMIT_BYTES, Leave, Mishap};

use super::{Other, Treatment, ignores_cgroups, other, verbosity};

/// What `thaw dump` was asked to do.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) root: i32,
    pub(crate) images_dir: PathBuf,
    pub(crate) work_dir: Option<PathBuf>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) verbosity: u8,
    pub(crate) leave: Leave,
    pub(crate) shell_job: bool,
    pub(crate) link_remap: bool,
    pub(crate) ghost_limit_bytes: u64,
    pub(crate) ignore_cgroups: bool,
    pub(crate) freeze_group: Option<PathBuf>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) workers_max: usize,
    pub(crate) mishap: Option<Mishap>,
    /// Options that would change the result and are not supported; the command fails, with a log.
    pub(crate) refused: Vec<String>,
}

/// Options of `criu dump` that have no field above.
const OTHERS: &[Other] = &[
    ("no-default-config", Treatment::Ignored, "there is no configuration file"),
    ("file-locks", Treatment::Ignored, "file locks are refused"),
    ("ext-unix-sk", Treatment::Ignored, "unix sockets are refused"),
    ("tcp-close", Treatment::Ignored, "connections are refused"),
    ("skip-in-flight", Treatment::Ignored, "connections are refused"),
    ("network-lock", Treatment::IgnoredValue, "connections are refused"),
    ("force-irmap", Treatment::Ignored, "inotify is refused"),
    ("irmap-scan-path", Treatment::IgnoredValue, "inotify is refused"),
    ("evasive-devices", Treatment::Ignored, "devices are taken by path"),
    ("ghost-fiemap", Treatment::Ignored, "holes are found by seeking"),
    ("no-ghost-fiemap", Treatment::Ignored, "holes are found by seeking"),
    ("pre-dump-mode", Treatment::IgnoredValue, "matters to a pre-dump only"),
    ("pidfile", Treatment::IgnoredValue, "matters to a restore only"),
    ("display-stats", Treatment::Ignored, "statistics are in the log"),
    ("cpu-cap", Treatment::IgnoredValue, "vector state is saved per thread"),
    ("enable-external-sharing", Treatment::Ignored, "mount namespaces are refused"),
    ("enable-external-masters", Treatment::Ignored, "mount namespaces are refused"),
    ("mntns-compat-mode", Treatment::Ignored, "mount namespaces are refused"),
    ("no-mntns-compat-mode", Treatment::Ignored, "mount namespaces are refused"),
    ("enable-fs", Treatment::IgnoredValue, "mount namespaces are refused"),
    ("tcp-established", Treatment::Ignored, "connections are refused"),
    ("root", Treatment::RefusedValue, "mount namespaces"),
    ("external", Treatment::RefusedValue, "external resources"),
    ("empty-ns", Treatment::RefusedValue, "namespaces"),
    ("ext-mount-map", Treatment::RefusedValue, "mount namespaces"),
    ("veth-pair", Treatment::RefusedValue, "network namespaces"),
    ("cgroup-root", Treatment::RefusedValue, "control groups"),
    ("cgroup-yard", Treatment::RefusedValue, "control groups"),
    ("cgroup-dump-controller", Treatment::RefusedValue, "control groups"),
    ("action-script", Treatment::RefusedValue, "action scripts"),
    ("track-mem", Treatment::Refused, "incremental images"),
    ("prev-images-dir", Treatment::RefusedValue, "incremental images"),
    ("pre-dump", Treatment::Refused, "incremental images"),
    ("auto-dedup", Treatment::Refused, "incremental images"),
    ("page-server", Treatment::Refused, "page servers"),
    ("address", Treatment::RefusedValue, "page servers"),
    ("port", Treatment::RefusedValue, "page servers"),
    ("lazy-pages", Treatment::Refused, "lazy pages"),
    ("status-fd", Treatment::RefusedValue, "lazy pages"),
    ("stream", Treatment::Refused, "streamed images"),
    ("unprivileged", Treatment::Refused, "dumps without privilege"),
    ("config", Treatment::RefusedValue, "configuration files"),
    ("lsm-profile", Treatment::RefusedValue, "security profiles"),
    ("lsm-mount-context", Treatment::RefusedValue, "security profiles"),
    ("allow-uprobes", Treatment::Refused, "uprobes"),
];

/// Parses everything after `dump`.
pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Dump, lexopt::Error> {
    let (mut images_dir, mut root) = (None, None);
    let mut dump = Dump {
        root: 0,
        images_dir: PathBuf::new(),
        work_dir: None,
        log_file: None,
        verbosity: 2,
        leave: Leave::Killed,
        shell_job: false,
        link_remap: false,
        ghost_limit_bytes: GHOST_LIMIT_BYTES,
        ignore_cgroups: false,
        freeze_group: None,
        timeout: None,
        workers_max: 0,
        mishap: None,
        refused: Vec::new(),
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Short('t') | Long("tree") => root = Some(parser.value()?.parse::<i32>()?),
            Short('D') | Long("images-dir") => images_dir = Some(parser.value()?.into()),
            Short('W') | Long("work-dir") => dump.work_dir = Some(parser.value()?.into()),
            Short('o') | Long("log-file") => dump.log_file = Some(parser.value()?.into()),
            Short('v') | Long("verbosity") => {
                dump.verbosity = verbosity(dump.verbosity, parser.optional_value())?;
            }
            Short('R') | Long("leave-running") => dump.leave = Leave::Running,
            Short('s') | Long("leave-stopped") => dump.leave = Leave::Stopped,
            Short('j') | Long("shell-job") => dump.shell_job = true,
            Long("link-remap") => dump.link_remap = true,
            Long("ghost-limit") => dump.ghost_limit_bytes = size(&parser.value()?.string()?)?,
            Long("manage-cgroups") => {
                dump.ignore_cgroups |= ignores_cgroups(parser.optional_value())?;
            }
            Long("freeze-cgroup") => dump.freeze_group = Some(parser.value()?.into()),
            Long("timeout") => {
                dump.timeout = Some(Duration::from_secs(parser.value()?.parse()?));
            }
            Long("workers") => dump.workers_max = parser.value()?.parse()?,
            // For the project's own tests: what goes wrong, at the step with this number.
            Long("fail-at") => {
                dump.mishap = Some(Mishap::Fail { step: parser.value()?.parse()? });
            }
            Long("kill-at") => dump.mishap = Some(killing(&parser.value()?.string()?)?),
            Short('l') | Short('x') => drop(parser.optional_value()),
            Long(name) => {
                let name = name.to_owned();
                dump.refused.extend(other(OTHERS, &name, &mut parser)?);
            }
            _ => return Err(arg.unexpected()),
        }
    }
    dump.images_dir = images_dir.ok_or("the directory for the images is missing (-D)")?;
    dump.root = root.filter(|&pid| pid > 0).ok_or("the root of the tree is missing (-t)")?;
    Ok(dump)
}

/// `STEP:PID`.
fn killing(text: &str) -> Result<Mishap, lexopt::Error> {
    let numbers = text.split_once(':').and_then(|(step, pid)| {
        Some(Mishap::Kill { step: step.parse().ok()?, pid: pid.parse().ok()? })
    });
    numbers.ok_or_else(|| format!("{text:?} is not STEP:PID").into())
}

/// A size in bytes, or with one of the letters K, M, G.
pub(super) fn size(text: &str) -> Result<u64, lexopt::Error> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
        Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
        Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text:?} is no size"))?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text:?} is too large").into())
}

#[cfg(test)]
mod tests {
    use super::{Dump, parse, size};

    fn parsed(args: &[&str]) -> Result<Dump, lexopt::Error> {
        parse(lexopt::Parser::from_args(args))
    }

    #[test]
    fn options_have_the_names_of_criu() {
        let args = ["--no-default-config", "--log-file", "dump.log", "--images-dir", "a"];
        let more = ["--verbosity=4", "--tree", "7", "--timeout", "10", "--pre-dump-mode", "splice"];
        let dump = parsed(&[&args[..], &more[..]].concat()).expect("a dump of the suite");
        assert_eq!((dump.root, dump.verbosity), (7, 4));
        assert!(dump.refused.is_empty());
        let refused = parsed(&["-t", "7", "-D", "a", "--track-mem"]).expect("a known option");
        assert_eq!(refused.refused.len(), 1);
        assert!(parsed(&["-t", "7"]).is_err());
        assert!(parsed(&["-D", "a"]).is_err());
        assert!(parsed(&["-t", "7", "-D", "a", "--no-such-option"]).is_err());
    }

    #[test]
    fn sizes_have_letters() {
        assert_eq!(size("1M").expect("a size"), 1 << 20);
        assert_eq!(size("512").expect("a size"), 512);
        assert!(size("M").is_err() && size("-1").is_err() && size("20000000000G").is_err());
    }
}
