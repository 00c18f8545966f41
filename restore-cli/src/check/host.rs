//! What a host's facts mean: each thing that is needed, whether it is there, and how to get it.
//!
//! Only what is used is asked for. What some trees need only is told, and stands in nobody's way.

use nix::errno::Errno;
use restore_core::Answer;

use super::codes;
use super::facts::{self, Capability, Device, Facts, Gpu, Kfd, Proc};
use crate::codes::ErrorCode;
use crate::screen::size;

/// What a thing is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    Dump,
    Restore,
    Gpus,
    Node,
}

impl Use {
    pub(crate) const ALL: [Self; 4] = [Self::Dump, Self::Restore, Self::Gpus, Self::Node];

    /// For people.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Gpus => "GPUs",
            Self::Node => "thaw node",
        }
    }

    /// For programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Gpus => "gpus",
            Self::Node => "node",
        }
    }
}

/// Whether a thing is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    Missing,
    Unknown,
}

impl Verdict {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// What a thing belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Kernel,
    Privileges,
    Gpus,
    Node,
}

/// A thing that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) group: Group,
    pub(crate) what: String,
    pub(crate) verdict: Verdict,
    /// What was seen.
    pub(crate) found: String,
    /// What does not work without it.
    pub(crate) uses: Vec<Use>,
    /// It matters to these trees only.
    pub(crate) only: Option<&'static str>,
    /// If it is not there.
    pub(super) code: Option<ErrorCode>,
    pub(crate) help: Option<String>,
}

/// A judged host.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) items: Vec<Item>,
}

impl Judged {
    /// Whether something works as far as can be seen.
    pub(crate) fn works(&self, wanted: Use) -> bool {
        self.lacking(wanted).next().is_none()
    }

    /// What it lacks.
    pub(crate) fn lacking(&self, wanted: Use) -> impl Iterator<Item = &Item> {
        self.items.iter().filter(move |item| {
            item.verdict == Verdict::Missing && item.only.is_none() && item.uses.contains(&wanted)
        })
    }
}

/// Judges a host.
pub(crate) fn judge(facts: &Facts) -> Judged {
    let mut items = kernel(facts);
    items.extend(privileges(facts));
    items.extend(gpus(facts));
    items.extend(node(facts));
    Judged { items }
}

const BOTH: &[Use] = &[Use::Dump, Use::Restore];
const DUMP: &[Use] = &[Use::Dump];
const RESTORE: &[Use] = &[Use::Restore];

fn item(group: Group, what: &str, uses: &[Use], found: impl Into<String>) -> Item {
    Item {
        group,
        what: what.to_owned(),
        verdict: Verdict::Ok,
        found: found.into(),
        uses: uses.to_vec(),
        only: None,
        code: None,
        help: None,
    }
}

impl Item {
    fn unless(self, is_there: bool, code: ErrorCode, help: impl Into<String>) -> Self {
        self.with(if is_there { Verdict::Ok } else { Verdict::Missing }, code, help)
    }

    fn with(mut self, verdict: Verdict, code: ErrorCode, help: impl Into<String>) -> Self {
        self.verdict = verdict;
        if verdict != Verdict::Ok {
            (self.code, self.help) = (Some(code), Some(help.into()));
        }
        self
    }

    fn only_for(mut self, trees: &'static str) -> Self {
        self.only = Some(trees);
        self
    }
}

/// Something that was tried.
fn tried(what: &str, uses: &[Use], answer: Answer, (call, help): (&str, &str)) -> Item {
    let found = match answer {
        Ok(()) => format!("{call} works"),
        Err(errno) => format!("{call} fails: {}", errno.desc()),
    };
    let code = match answer {
        Err(Errno::EPERM | Errno::EACCES) => codes::PRIVILEGE,
        _ => codes::KERNEL,
    };
    item(Group::Kernel, what, uses, found).unless(answer.is_ok(), code, help)
}

fn kernel(facts: &Facts) -> Vec<Item> {
    let probes = &facts.probes;
    let rights = "run thaw as root, or with CAP_CHECKPOINT_RESTORE; it came with Linux 5.5";
    let layout = "use a kernel that is built with CONFIG_CHECKPOINT_RESTORE";
    let attach = "use a kernel that is built with CONFIG_CROSS_MEMORY_ATTACH";
    let mut items = vec![
        proc(facts),
        tried("choosing process ids", RESTORE, probes.choose_id, ("clone3 with set_tid", rights)),
        tried("memory layout", RESTORE, probes.set_layout, ("prctl(PR_SET_MM_MAP)", layout)),
        tried("writing memory", RESTORE, probes.write_memory, ("process_vm_writev", attach)),
        tried("reading memory", DUMP, probes.read_memory, ("process_vm_readv", attach)),
        tried(
            "finding pages",
            DUMP,
            probes.scan_pages,
            ("PAGEMAP_SCAN", "use Linux 6.7 or later; a checkpoint can be restored without it"),
        ),
        tried(
            "comparing kernel objects",
            DUMP,
            probes.compare,
            ("kcmp", "use a kernel that is built with CONFIG_KCMP, and CAP_SYS_PTRACE"),
        ),
        tried(
            "fetching descriptors",
            BOTH,
            probes.fetch_descriptor,
            ("pidfd_getfd", "use Linux 5.6 or later, and CAP_SYS_PTRACE"),
        ),
        tried(
            "mapped files",
            DUMP,
            probes.open_mapped,
            ("opening /proc/self/map_files", "run thaw as root, or with CAP_CHECKPOINT_RESTORE"),
        ),
        tracing(facts),
        tried(
            "restartable sequences",
            DUMP,
            probes.rseq,
            ("PTRACE_GET_RSEQ_CONFIGURATION", "use Linux 5.13 or later with CONFIG_RSEQ"),
        )
        .only_for("programs that use them, as those of glibc 2.35 and later do"),
    ];
    items.extend(conveniences(facts));
    items
}

fn proc(facts: &Facts) -> Item {
    let found = match facts.proc {
        Proc::Own => "that of this pid namespace",
        Proc::Foreign => "that of another pid namespace",
        Proc::Missing => "not mounted",
    };
    let is_own = facts.proc == Proc::Own;
    item(Group::Kernel, "/proc", BOTH, found).unless(is_own, codes::PROC, codes::PROC.help)
}

fn tracing(facts: &Facts) -> Item {
    let answer = facts.probes.trace;
    let scope = match facts.ptrace_scope {
        Some(scope) => format!(", kernel.yama.ptrace_scope is {scope}"),
        None => String::new(),
    };
    let found = match answer {
        Ok(()) => format!("ptrace of a child works{scope}"),
        Err(errno) => format!("ptrace of a child fails: {}{scope}", errno.desc()),
    };
    let help = match facts.ptrace_scope {
        Some(3) => "it is forbidden until the next boot: set kernel.yama.ptrace_scope=1 there",
        Some(2) => "run thaw as root, or: sysctl kernel.yama.ptrace_scope=1",
        _ => "let ptrace through the seccomp or security profile of the container",
    };
    item(Group::Kernel, "tracing", BOTH, found).unless(answer.is_ok(), codes::TRACING, help)
}

/// What something is done better with.
fn conveniences(facts: &Facts) -> Vec<Item> {
    let huge = facts.huge_pages.as_deref().unwrap_or("not built in");
    let has_huge = !matches!(huge, "never" | "not built in");
    let vdso = if facts.has_vdso { "mapped" } else { "switched off (vdso=0)" };
    let sched =
        if facts.has_sched { "/proc/PID/sched tells" } else { "there is no /proc/PID/sched" };
    let freezer = if facts.has_freezer { "version 2" } else { "no control groups of version 2" };
    vec![
        item(Group::Kernel, "vdso", RESTORE, vdso)
            .unless(facts.has_vdso, codes::KERNEL, "boot without vdso=0")
            .only_for("programs that had one, as nearly all do"),
        item(Group::Kernel, "huge pages", RESTORE, huge)
            .unless(
                has_huge,
                codes::KERNEL,
                "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
            )
            .only_for("speed: large memory is filled faster with them"),
        item(Group::Kernel, "time slept", DUMP, sched)
            .unless(
                facts.has_sched,
                codes::KERNEL,
                "use a kernel that is built with CONFIG_SCHED_DEBUG",
            )
            .only_for("threads in a call with a time limit, which wait anew without it"),
        item(Group::Kernel, "control group freezer", DUMP, freezer)
            .unless(facts.has_freezer, codes::KERNEL, "mount cgroup2 on /sys/fs/cgroup")
            .only_for("trees with a group of their own, which it stops at one moment"),
    ]
}

/// Capabilities that nothing works without, those that some trees need, and for what.
const CAPABILITIES: [(Capability, &[Use], Option<&str>); 13] = [
    (facts::SYS_ADMIN, &[Use::Dump, Use::Restore, Use::Gpus, Use::Node], None),
    (facts::SYS_PTRACE, BOTH, None),
    (facts::SYS_CHROOT, RESTORE, None),
    (facts::SETGID, RESTORE, None),
    (facts::SETPCAP, RESTORE, None),
    (facts::SETUID, RESTORE, Some("trees of other users")),
    (facts::KILL, BOTH, Some("trees of other users")),
    (facts::DAC_OVERRIDE, BOTH, Some("files that others own")),
    (facts::CHOWN, RESTORE, Some("deleted files that others owned")),
    (facts::FOWNER, RESTORE, Some("deleted files that others owned")),
    (facts::SYS_RESOURCE, RESTORE, Some("limits above the caller's, and lower OOM scores")),
    (facts::SYS_NICE, RESTORE, Some("real-time or raised priorities")),
    (facts::IPC_LOCK, RESTORE, Some("locked memory above RLIMIT_MEMLOCK")),
];

fn privileges(facts: &Facts) -> Vec<Item> {
    let mut items = vec![ids(facts)];
    for (capability, uses, only) in CAPABILITIES {
        let has = facts.has(capability);
        let found = if has { "effective" } else { "not effective" };
        let help = format!("run thaw as root, or give it {}", capability.1);
        let mut item = item(Group::Privileges, capability.1, uses, found);
        item.only = only;
        items.push(item.unless(has, codes::PRIVILEGE, help));
    }
    let has = facts.has(facts::AUDIT_CONTROL);
    items.push(
        item(
            Group::Privileges,
            facts::AUDIT_CONTROL.1,
            RESTORE,
            if has { "effective" } else { "not effective" },
        )
        .unless(has, codes::PRIVILEGE, "run thaw as root, or give it CAP_AUDIT_CONTROL")
        .only_for("trees with another login uid than thaw's"),
    );
    items.extend([namespace(facts), filter(facts)]);
    items
}

/// Either of two capabilities.
fn ids(facts: &Facts) -> Item {
    let held = [facts::CHECKPOINT_RESTORE, facts::SYS_ADMIN].map(|one| facts.has(one));
    let found = if held.contains(&true) { "effective" } else { "not effective" };
    let what = "CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN";
    let uses = &[Use::Dump, Use::Restore, Use::Gpus];
    let help = "run thaw as root, or give it CAP_CHECKPOINT_RESTORE";
    item(Group::Privileges, what, uses, found).unless(held.contains(&true), codes::PRIVILEGE, help)
}

fn namespace(facts: &Facts) -> Item {
    let (verdict, found) = match facts.in_user_namespace {
        false => (Verdict::Ok, "the first one"),
        true => (Verdict::Unknown, "one of its own: capabilities count only in it"),
    };
    let help = "run thaw outside, where a capability turns out not to suffice";
    item(Group::Privileges, "user namespace", BOTH, found).with(verdict, codes::PRIVILEGE, help)
}

fn filter(facts: &Facts) -> Item {
    let (verdict, found) = match facts.filtered {
        false => (Verdict::Ok, "no filter"),
        true => (Verdict::Unknown, "a filter: it may forbid calls, and restored trees have it too"),
    };
    let help = codes::SECCOMP.help;
    item(Group::Privileges, "seccomp", BOTH, found).with(verdict, codes::SECCOMP, help)
}

/// Version of the KFD interface with CRIU_OP (`kfd_ioctl.h` of Linux 5.18).
const KFD_VERSION: (u32, u32) = (1, 8);
const GPUS: &[Use] = &[Use::Gpus];

fn gpus(facts: &Facts) -> Vec<Item> {
    let driver = match &facts.kfd {
        Kfd::Missing => item(Group::Gpus, "/dev/kfd", GPUS, "not there").unless(
            false,
            codes::GPU_DRIVER,
            "load the amdgpu driver (modprobe amdgpu), or give the container /dev/kfd",
        ),
        Kfd::Refuses(why) => item(Group::Gpus, "/dev/kfd", GPUS, why.clone()).unless(
            false,
            codes::GPU_DRIVER,
            "run thaw as root, or join the group that owns it (render)",
        ),
        &Kfd::Version(major, minor) => {
            let found = format!("interface version {major}.{minor}");
            let is_new = major == KFD_VERSION.0 && minor >= KFD_VERSION.1;
            item(Group::Gpus, "/dev/kfd", GPUS, found).unless(
                is_new,
                codes::GPU_VERSION,
                "version 1.8 can save and restore: use Linux 5.18 or later, or a newer driver",
            )
        }
    };
    let mut items = vec![driver];
    match &facts.gpus {
        Err(why) => items.push(item(Group::Gpus, "list of GPUs", GPUS, why.clone()).unless(
            false,
            codes::GPU_TOPOLOGY,
            codes::GPU_TOPOLOGY.help,
        )),
        // Without the driver there are none: one line says it.
        Ok(gpus) if gpus.is_empty() && facts.kfd == Kfd::Missing => {}
        Ok(gpus) if gpus.is_empty() => {
            items.push(item(Group::Gpus, "list of GPUs", GPUS, "none is in it").unless(
                false,
                codes::GPU_TOPOLOGY,
                codes::GPU_TOPOLOGY.help,
            ));
        }
        Ok(gpus) => items.extend(gpus.iter().map(gpu)),
    }
    if facts.gpus_hidden > 0 {
        let found = format!("{} GPU(s) are hidden from this container", facts.gpus_hidden);
        items.push(item(Group::Gpus, "device control group", GPUS, found).with(
            Verdict::Unknown,
            codes::GPU_TOPOLOGY,
            "give the container all GPUs that a checkpoint needs",
        ));
    }
    items
}

fn gpu(gpu: &Gpu) -> Item {
    let memory = match gpu.free_bytes {
        Some(free) => format!("{} of {} free", size(free), size(gpu.vram_bytes)),
        None => format!("{}, how much is free is not known", size(gpu.vram_bytes)),
    };
    let node = format!("renderD{}", gpu.minor);
    let open = match gpu.render {
        Device::Opens => node,
        Device::Missing => format!("{node} is not there"),
        Device::Refuses(errno) => format!("{node} does not open: {}", errno.desc()),
    };
    let what = format!("GPU {:#06x}", gpu.id);
    let found = format!("{} at {}, {open}, {memory}", gpu.model, gpu.pci);
    let opens = gpu.render == Device::Opens;
    item(Group::Gpus, &what, GPUS, found).unless(opens, codes::RENDER_NODE, codes::RENDER_NODE.help)
}

fn node(facts: &Facts) -> Vec<Item> {
    let uses = &[Use::Node];
    let is_new = facts.version() >= (6, 9);
    let found = match facts.fuse {
        Device::Opens => "opens".to_owned(),
        Device::Missing => "not there".to_owned(),
        Device::Refuses(errno) => format!("does not open: {}", errno.desc()),
    };
    let opens = facts.fuse == Device::Opens;
    vec![
        item(Group::Node, "passthrough of FUSE", uses, format!("Linux {}", facts.release)).unless(
            is_new,
            codes::KERNEL,
            "use Linux 6.9 or later",
        ),
        item(Group::Node, "/dev/fuse", uses, found).unless(opens, codes::FUSE, codes::FUSE.help),
    ]
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{Use, Verdict, judge};
    use crate::check::facts::{self, Device, Facts, Kfd, Proc, example};

    /// What does not work, and the codes of what is not there.
    fn check(change: impl FnOnce(&mut Facts), broken: &[Use], codes: &[&str]) {
        let mut host = example::host();
        change(&mut host);
        let judged = judge(&host);
        let fails: Vec<Use> =
            Use::ALL.into_iter().filter(|&wanted| !judged.works(wanted)).collect();
        assert_eq!(fails, broken, "{host:?}");
        let found: Vec<&str> =
            judged.items.iter().filter_map(|item| Some(item.code?.code)).collect();
        assert_eq!(found, codes, "{host:?}");
        for item in judged.items.iter().filter(|item| item.verdict != Verdict::Ok) {
            assert!(item.help.is_some(), "{item:?}");
        }
    }

    #[test]
    fn a_host_with_everything_lacks_nothing() {
        check(|_| {}, &[], &[]);
    }

    #[test]
    fn what_is_missing_stands_in_the_way_of_what_needs_it() {
        use Use::{Dump, Gpus, Node, Restore};
        let kernel = &["host.kernel"];
        check(|host| host.probes.scan_pages = Err(Errno::ENOTTY), &[Dump], kernel);
        check(|host| host.probes.set_layout = Err(Errno::EINVAL), &[Restore], kernel);
        check(|host| host.probes.compare = Err(Errno::ENOSYS), &[Dump], kernel);
        check(|host| host.probes.write_memory = Err(Errno::ENOSYS), &[Restore], kernel);
        check(|host| host.probes.read_memory = Err(Errno::ENOSYS), &[Dump], kernel);
        check(|host| host.probes.fetch_descriptor = Err(Errno::ENOSYS), &[Dump, Restore], kernel);
        let right = &["host.capability"];
        check(|host| host.probes.choose_id = Err(Errno::EPERM), &[Restore], right);
        check(|host| host.probes.open_mapped = Err(Errno::EPERM), &[Dump], right);
        check(|host| host.proc = Proc::Foreign, &[Dump, Restore], &["host.proc-mount"]);
        check(|host| host.probes.trace = Err(Errno::EPERM), &[Dump, Restore], &["host.tracing"]);
        check(|host| host.fuse = Device::Missing, &[Node], &["host.fuse"]);
        check(|host| host.release = "6.8.0".to_owned(), &[Node], kernel);
        check(|host| host.kfd = Kfd::Version(1, 7), &[Gpus], &["host.gpu-version"]);
        check(|host| host.kfd = Kfd::Refuses("no".to_owned()), &[Gpus], &["host.gpu-driver"]);
        check(|host| host.gpus = Err("no".to_owned()), &[Gpus], &["host.gpu-topology"]);
        check(|host| host.gpus = Ok(Vec::new()), &[Gpus], &["host.gpu-topology"]);
        check(
            |host| (host.kfd, host.gpus) = (Kfd::Missing, Ok(Vec::new())),
            &[Gpus],
            &["host.gpu-driver"],
        );
        let hide = |host: &mut Facts| {
            let mut gpu = example::gpu();
            gpu.render = Device::Refuses(Errno::EACCES);
            host.gpus = Ok(vec![gpu]);
        };
        check(hide, &[Gpus], &["host.render-node"]);
    }

    #[test]
    fn capabilities_are_needed_for_what_the_table_says() {
        use Use::{Dump, Gpus, Node, Restore};
        let without = |capability: facts::Capability| {
            move |host: &mut Facts| host.capabilities &= !(1 << capability.0)
        };
        let one = &["host.capability"];
        check(without(facts::SYS_PTRACE), &[Dump, Restore], one);
        check(without(facts::SYS_ADMIN), &[Dump, Restore, Gpus, Node], one);
        check(without(facts::SETPCAP), &[Restore], one);
        // CAP_SYS_ADMIN does for it.
        check(without(facts::CHECKPOINT_RESTORE), &[], &[]);
        // Only some trees need it.
        check(without(facts::SYS_RESOURCE), &[], one);
        let all = judge(&Facts { capabilities: 0, ..example::host() });
        assert!(!all.works(Restore) && !all.works(Dump));
    }

    #[test]
    fn what_cannot_be_known_stands_in_nobodys_way() {
        check(|host| host.filtered = true, &[], &["host.seccomp"]);
        check(|host| host.in_user_namespace = true, &[], &["host.capability"]);
        check(|host| host.gpus_hidden = 1, &[], &["host.gpu-topology"]);
        check(|host| host.huge_pages = Some("never".to_owned()), &[], &["host.kernel"]);
    }
}
