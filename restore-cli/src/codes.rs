//! Codes of errors that are of the command itself: its options and the files that it writes.
//!
//! Errors of the libraries bring their own. All are listed in docs/errors.md, by a program that
//! reads this file.

/// A code, and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ErrorCode {
    /// Stable name.
    pub(crate) code: &'static str,
    /// What it means.
    pub(crate) meaning: &'static str,
    /// What can be done.
    pub(crate) help: &'static str,
}

pub(crate) const OPTION: ErrorCode = ErrorCode {
    code: "usage.option",
    meaning: "There is no such option, argument or command.",
    help: "thaw --help lists the commands, thaw COMMAND --help the options of one",
};
pub(crate) const VALUE: ErrorCode = ErrorCode {
    code: "usage.value",
    meaning: "The value of an option is not one that it takes.",
    help: "thaw COMMAND --help says what it takes",
};
pub(crate) const MISSING: ErrorCode = ErrorCode {
    code: "usage.missing",
    meaning: "An option, argument or command that is needed was not given.",
    help: "thaw COMMAND --help says what is needed",
};
pub(crate) const REFUSED: ErrorCode = ErrorCode {
    code: "usage.refused",
    meaning: "An option of criu that would change the result, and that is not supported.",
    help: "leave the option out if the tree does not need it; else use criu for this tree",
};
pub(crate) const ORDER: ErrorCode = ErrorCode {
    code: "usage.schedule",
    meaning: "The order of --schedule cannot be read, or is not a legal one.",
    help: "thaw plan -D DIR lists the steps and what waits for what",
};
pub(crate) const CONFIG: ErrorCode = ErrorCode {
    code: "usage.config",
    meaning: "A configuration file cannot be read, or is wrong.",
    help: "correct the file, or leave it out (--no-default-config, --config)",
};
pub(crate) const LOG: ErrorCode = ErrorCode {
    code: "output.log",
    meaning: "The log file cannot be written.",
    help: "name a file in a directory that is there and can be written to (-o, -W)",
};
pub(crate) const TRACE: ErrorCode = ErrorCode {
    code: "output.trace",
    meaning: "The trace cannot be written.",
    help: "name a file in a directory that is there and has room (--trace)",
};
pub(crate) const PIDFILE: ErrorCode = ErrorCode {
    code: "output.pidfile",
    meaning: "The pid file cannot be made, or is there already.",
    help: "remove the file of an earlier restore, or name another (--pidfile)",
};
pub(crate) const REPORT: ErrorCode = ErrorCode {
    code: "output.report",
    meaning: "The report cannot be written.",
    help: "name a file in a directory that is there and has room (--report)",
};
pub(crate) const STDOUT: ErrorCode = ErrorCode {
    code: "output.stdout",
    meaning: "The result cannot be printed.",
    help: "make room where standard output goes, or read all of it",
};
pub(crate) const PROGRESS: ErrorCode = ErrorCode {
    code: "usage.progress-fd",
    meaning: "The descriptor for progress is not open for writing.",
    help: "open it before thaw is started, as in --progress-fd 3 3>progress",
};
pub(crate) const SETUP: ErrorCode = ErrorCode {
    code: "host.setup",
    meaning: "The kernel does not give this command what it needs itself.",
    help: "raise the limit of open files (ulimit -n)",
};
pub(crate) const PROC: ErrorCode = ErrorCode {
    code: "host.proc",
    meaning: "What this host can do cannot be read of /proc.",
    help: "mount it: mount -t proc proc /proc",
};
pub(crate) const KEEPER_KILLED: ErrorCode = ErrorCode {
    code: "undo.killed",
    meaning: "The process that did the work was killed.",
    help: "see who killed it (dmesg tells of memory that ran out), and whether the tree runs",
};
