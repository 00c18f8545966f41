//! What a command that fails must leave as it was: processes, mounts, files, and memory of GPUs.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gpu_kfd::uapi::info::query;
use gpu_kfd::{KFD_PATH, Local, RenderNode, Topology};
use nix::sys::wait::{WaitPidFlag, waitpid};

use super::comes_about;

/// Longest wait for what is left to go: the kernel frees what a process had after it has ended.
const LEFT_WAIT_MAX: Duration = Duration::from_secs(10);

/// Looks at this pid and mount namespace, at some folders, and at the GPUs of a node.
#[derive(Default)]
pub(crate) struct Eye {
    /// All of what is in them is looked at.
    folders: Vec<PathBuf>,
    kfd: Option<Local>,
    renders: Vec<RenderNode>,
    /// How long it waits for what is left to go; a test of the eye itself shortens it.
    pub(crate) patience: Option<Duration>,
}

/// What it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pids: Vec<i32>,
    mounts: String,
    files: BTreeMap<PathBuf, Entry>,
    /// Used VRAM and system memory of each GPU, in bytes.
    memory: Vec<(u64, u64)>,
}

/// A file: mode with its type, size, and a hash of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    len_bytes: u64,
    hash: u64,
}

impl Eye {
    /// Without GPUs.
    pub(crate) fn on(folders: &[&Path]) -> Self {
        let folders = folders.iter().map(|folder| folder.to_path_buf()).collect();
        Self { folders, ..Self::default() }
    }

    /// Inside a node.
    pub(crate) fn on_node(folders: &[&Path]) -> Self {
        let kfd = Local::open(KFD_PATH).expect("a node has it");
        let topology = Topology::read_without_caches(Topology::SYSFS).expect("a node has it");
        let open = |minor| RenderNode::open(minor).expect("a node has it");
        let gpus = topology.gpus();
        let renders = gpus.map(|(_, node)| open(node.properties.drm_render_minor)).collect();
        Self { kfd: Some(kfd), renders, ..Self::on(folders) }
    }

    /// Other rules for faults; how many calls those before have changed.
    pub(crate) fn set_faults(&mut self, rules: &str) -> u64 {
        let kfd = self.kfd.as_mut().expect("it is in a node");
        gpu_kfd::emulated::set_faults(kfd, rules).expect("good rules")
    }

    pub(crate) fn look(&mut self) -> Seen {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("it is mounted");
        let used = |node: &mut RenderNode| -> (u64, u64) {
            let mut used = |what| node.info(what, [0; 4]).expect("it is a query of the driver");
            (used(query::VRAM_USAGE), used(query::GTT_USAGE))
        };
        let memory = self.renders.iter_mut().map(used).collect();
        let mut files = BTreeMap::new();
        self.folders.iter().for_each(|folder| collect(folder, &mut files));
        Seen { pids: all_pids(), mounts, files, memory }
    }

    /// What has come since, and does not go. Files of a process are closed after it has ended, so
    /// memory of GPUs is waited for.
    pub(crate) fn left(&mut self, before: &Seen) -> Vec<String> {
        self.differences(before, false)
    }

    /// The same, and what was there and is not any more.
    pub(crate) fn changed(&mut self, before: &Seen) -> Vec<String> {
        self.differences(before, true)
    }

    fn differences(&mut self, before: &Seen, also_gone: bool) -> Vec<String> {
        let patience = self.patience.unwrap_or(LEFT_WAIT_MAX);
        let mut left = Vec::new();
        comes_about(patience, || {
            reap();
            left = differences(before, &self.look(), also_gone);
            left.is_empty()
        });
        left
    }
}

/// What is there now and was not, or is another.
fn differences(before: &Seen, now: &Seen, also_gone: bool) -> Vec<String> {
    let mut left = Vec::new();
    let new = now.pids.iter().filter(|pid| !before.pids.contains(pid));
    left.extend(new.map(|pid| format!("process {pid}")));
    let gone = before.pids.iter().filter(|pid| also_gone && !now.pids.contains(pid));
    left.extend(gone.map(|pid| format!("process {pid} is gone")));
    if now.mounts != before.mounts {
        left.push(format!("mounts: {}", now.mounts));
    }
    if now.memory != before.memory {
        left.push(format!("memory {:?}, before {:?}", now.memory, before.memory));
    }
    for path in before.files.keys().chain(now.files.keys()) {
        let (was, is) = (before.files.get(path), now.files.get(path));
        let text = format!("{}: {is:?}, before {was:?}", path.display());
        if was != is && !left.contains(&text) {
            left.push(text);
        }
    }
    left
}

/// Adds a file, or a folder with all that is in it.
fn collect(path: &Path, files: &mut BTreeMap<PathBuf, Entry>) {
    let Ok(metadata) = path.symlink_metadata() else { return };
    let mut hasher = DefaultHasher::new();
    if metadata.is_file() {
        fs::read(path).expect("tests may read it").hash(&mut hasher);
    }
    let is_dir = metadata.is_dir();
    let len_bytes = if is_dir { 0 } else { metadata.len() };
    let entry = Entry { mode: metadata.mode(), len_bytes, hash: hasher.finish() };
    files.insert(path.to_owned(), entry);
    if is_dir {
        let entries = fs::read_dir(path).expect("tests may read it").flatten();
        entries.for_each(|entry| collect(&entry.path(), files));
    }
}

/// The next process gets the id after this one.
pub(crate) fn next_pid(pid: u32) {
    fs::write("/proc/sys/kernel/ns_last_pid", pid.to_string()).expect("root may choose ids");
}

/// All processes, ascending; one that has ended and was not waited for keeps its id.
pub(crate) fn all_pids() -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("it is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if !stat.is_empty() {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

/// Collects what has ended: orphans come to us.
pub(crate) fn reap() {
    let flags = Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL);
    while waitpid(None, flags).is_ok_and(|status| status.pid().is_some()) {}
}
