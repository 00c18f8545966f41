//! What is done to calls on purpose, and what is noted of them: faults and the log.
//!
//! It decides when a request comes, on the thread that reads; without rules and log it costs
//! nothing. A call that shall be late waits in `late`, and is then treated like any other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use gpu_kfd::uapi::criu::{CriuArgs, op};
use gpu_kfd::uapi::{amdgpu, drm, kfd, same_call};
use nix::errno::Errno;

use super::files::Files;
use super::world::now_ns;
use crate::call_log::{CallLog, CallRecord};
use crate::fault::{Decision, FaultRule, Faults};
use crate::model::DeviceNode;
use crate::node::fuse::wire::InHeader;

/// Faults and log of a node.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    has_faults: AtomicBool,
    faults: Mutex<Faults>,
    log: Option<CallLog>,
}

/// What shall happen to a call, and where its end is noted.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    pub(crate) decision: Decision,
    pub(crate) note: Option<Note>,
}

impl Watch {
    pub(crate) fn new(faults: Faults, log: Option<CallLog>) -> Self {
        let has_faults = AtomicBool::new(!faults.is_empty());
        Self { has_faults, faults: Mutex::new(faults), log }
    }

    /// Other rules for faults from now on; how many calls those before have changed.
    pub(crate) fn set_faults(&self, rules: Vec<FaultRule>) -> u64 {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let hits = faults.hits();
        faults.replace(rules);
        self.has_faults.store(!faults.is_empty(), Ordering::Relaxed);
        hits
    }

    /// Counts a call and says what shall happen to it.
    pub(crate) fn meet(
        &self,
        files: &Files,
        header: &InHeader,
        node: DeviceNode,
        name: impl FnOnce() -> String,
    ) -> Fate {
        let has_faults = self.has_faults.load(Ordering::Relaxed);
        if !has_faults && self.log.is_none() {
            return Fate::default();
        }
        let name = name();
        let mut decision = Decision::default();
        if has_faults {
            let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
            decision = faults.decide(&name);
        }
        let note = self.log.as_ref().map(|log| Note {
            log: log.clone(),
            record: CallRecord {
                begin_ns: now_ns(),
                end_ns: 0,
                pid: 0,
                tid: header.pid as i32,
                device: files.name(node),
                file: 0,
                call: name,
                result: None,
                errno: None,
                fault: decision != Decision::default(),
            },
        });
        Fate { decision, note }
    }
}

/// A record of a call that has not ended yet.
#[derive(Debug)]
pub(crate) struct Note {
    log: CallLog,
    record: CallRecord,
}

impl Note {
    /// Who calls on which open file.
    pub(crate) fn of(mut self, pid: i32, file: u64) -> Self {
        self.record.pid = pid;
        self.record.file = file;
        self
    }

    /// The call has ended with this result; negative: an errno.
    pub(crate) fn end(mut self, result: i32) {
        self.record.end_ns = now_ns();
        if result < 0 {
            // A call that a signal ended is made again by the kernel, with a number of its own.
            let errno = Errno::from_raw(-result);
            let restarted = errno == Errno::UnknownErrno;
            let name = if restarted { "ERESTARTSYS".to_owned() } else { format!("{errno:?}") };
            self.record.errno = Some(name);
        } else {
            self.record.result = Some(result);
        }
        self.log.add(self.record);
    }
}

/// Name of an open, for faults and log.
pub(crate) fn open_name(node: DeviceNode) -> String {
    match node {
        DeviceNode::Kfd => "OPEN_KFD",
        DeviceNode::Render(_) => "OPEN_RENDER",
        DeviceNode::DmaBuf(_) => "OPEN_DMABUF",
    }
    .to_owned()
}

/// Name of a call, for faults and log: as in the header, without prefix; of `CRIU_OP` the
/// operation; the whole number of one that is not known.
pub(crate) fn call_name(node: DeviceNode, request: u32, block: &[u8]) -> String {
    let tables: &[_] = match node {
        DeviceNode::Kfd => &[kfd::REQUESTS],
        DeviceNode::Render(_) | DeviceNode::DmaBuf(_) => &[amdgpu::REQUESTS, drm::REQUESTS],
    };
    if node == DeviceNode::Kfd && same_call(request, kfd::ioc::CRIU_OP) {
        return criu_name(block).to_owned();
    }
    let known = tables.iter().flat_map(|table| table.iter());
    let known = known.into_iter().find(|known| same_call(known.number, request));
    known.map_or_else(|| format!("{request:#010x}"), |known| known.name.to_owned())
}

fn criu_name(block: &[u8]) -> &'static str {
    let at = std::mem::offset_of!(CriuArgs, op);
    let word = block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    match word.map(u32::from_le_bytes) {
        Some(op::PROCESS_INFO) => "CRIU_PROCESS_INFO",
        Some(op::CHECKPOINT) => "CRIU_CHECKPOINT",
        Some(op::UNPAUSE) => "CRIU_UNPAUSE",
        Some(op::RESTORE) => "CRIU_RESTORE",
        Some(op::RESUME) => "CRIU_RESUME",
        _ => "CRIU_OP",
    }
}

#[cfg(test)]
mod tests {
    use gpu_kfd::uapi::{amdgpu, kfd};

    use super::{CriuArgs, DeviceNode, call_name, op};
    use crate::model::GpuIndex;

    #[test]
    fn calls_have_the_names_of_their_headers() {
        let render = DeviceNode::Render(GpuIndex(0));
        assert_eq!(call_name(DeviceNode::Kfd, kfd::ioc::SVM, &[]), "SVM");
        assert_eq!(call_name(render, amdgpu::ioc::GEM_VA, &[]), "GEM_VA");
        // libdrm passes another size.
        assert_eq!(call_name(render, 0xc028_6448, &[]), "GEM_VA");
        assert_eq!(call_name(render, 0x1234_64ff, &[]), "0x123464ff");
    }

    #[test]
    fn operations_of_a_checkpoint_have_names_of_their_own() {
        let name = |op| {
            let args = CriuArgs { op, ..CriuArgs::default() };
            call_name(DeviceNode::Kfd, kfd::ioc::CRIU_OP, bytemuck::bytes_of(&args))
        };
        assert_eq!(name(op::RESTORE), "CRIU_RESTORE");
        assert_eq!(name(99), "CRIU_OP");
        assert_eq!(call_name(DeviceNode::Kfd, kfd::ioc::CRIU_OP, &[0; 4]), "CRIU_OP");
    }
}
