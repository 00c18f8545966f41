//! Device files of a target: opened and rebuilt by the target itself, one step at a time.
//!
//! The drivers tie their state to the caller, so every call here is made by the target. A file
//! stays under a number that no process of the tree uses until descriptors are put in place. What
//! another process needs of a step leaves it as a value; what a step needs of another one comes
//! with the order to begin it.

pub(super) mod copiers;
pub(super) mod copy;
pub(super) mod hsakmt;
mod kfd;
mod render;
pub(super) mod sabotage;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use criu_image::FileId;
use gpu_kfd::{DeviceError, DeviceFile, HostGpuId, RenderNode};
use nix::errno::Errno;

use super::StepError;
use super::target::{Source, Target};
use crate::contract::{EdgeReason, StepId};
use crate::files::ObjectKey;
use crate::plan::Kind;
use crate::plan::devices::{BufferKey, DevicePlan, ReceiveWork, Work};
use crate::remote::device::TargetFile;
use crate::remote::ring::Remote;
use crate::remote::spawn::fetch_descriptor;
use copy::CopyJob;

/// What a step needs, or others need of it: a dma-buf, or an open device file.
pub(super) type Product = (EdgeReason, OwnedFd);

/// What a step leaves behind.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// What other steps wait for.
    pub(super) products: Vec<Product>,
    /// What belongs into its buffers.
    pub(super) copies: Vec<CopyJob>,
}

/// The device files that a target has so far.
#[derive(Debug, Default)]
pub(super) struct Devices {
    /// The number of each file, one of ours.
    files: BTreeMap<FileId, i32>,
    /// The number of the first `/dev/kfd`.
    kfd: Option<i32>,
    /// The render node that has the process's address space on a GPU, one of ours.
    compute: BTreeMap<HostGpuId, i32>,
    /// Through which number and from which offset a buffer is mapped.
    shown: BTreeMap<BufferKey, (i32, u64)>,
}

impl Devices {
    /// Where `mmap` finds a buffer.
    pub(super) fn shown(&self, key: ObjectKey) -> Option<(i32, u64)> {
        let ObjectKey::Buffer { file, index } = key else { return None };
        self.shown.get(&BufferKey { file, index: index as usize }).copied()
    }
}

/// What the calls of one step work with: parts of the target, borrowed apart.
struct Hands<'a> {
    leader: &'a mut Remote,
    devices: &'a mut Devices,
    plan: &'a DevicePlan,
    restorer: i32,
    given: Vec<Product>,
    done: Done,
    /// For tests: see `sabotage`.
    ignores_edges: bool,
}

impl Target {
    /// Restores the device file of one step.
    pub(super) fn restore_device(
        &mut self,
        step: StepId,
        given: Vec<Product>,
        ignores_edges: bool,
    ) -> Result<Done, StepError> {
        let Self { leader, plan, sources, devices, .. } = self;
        let leader = leader.as_mut().expect("a target is used only after its birth");
        let Kind::Live(live) = &plan.kind else {
            unreachable!("only live processes have device files");
        };
        let plan = live.devices.iter().find(|device| device.step == step);
        let plan = plan.expect("the coordinator knows whose step it is");
        let restorer = sources.restorer;
        let done = Done::default();
        let mut hands = Hands { leader, devices, plan, restorer, given, done, ignores_edges };
        let number = match &plan.work {
            Work::Kfd(state) => hands.kfd(state.as_deref())?,
            Work::Render(work) => hands.render(work)?,
            Work::DmaBuf(object) => hands.dma_buf(*object)?,
            Work::Receive(work) => hands.receive(work)?,
        };
        hands.devices.files.insert(plan.file, number);
        hands.export_file(number)?;
        let done = hands.done;
        sources.objects.insert(ObjectKey::File(plan.file), Source::Inherited(number));
        Ok(done)
    }
}

impl Hands<'_> {
    /// Opens a device in the target, and gives the file a number of ours.
    fn open(&mut self, path: &Path) -> Result<i32, StepError> {
        let mut name = path.as_os_str().as_encoded_bytes().to_vec();
        name.push(0);
        let at = libc::AT_FDCWD as i64;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let args = [at.into(), name.as_slice().into(), flags.into(), 0u64.into()];
        let opened = self.leader.try_call("open a device", libc::SYS_openat, args)?;
        let opened = opened.map_err(|errno| refused("open", path, errno))?;
        self.lift(opened as i32)
    }

    /// Gives a descriptor a number that no process of the tree uses.
    fn lift(&mut self, opened: i32) -> Result<i32, StepError> {
        const WHAT: &str = "keep a device file";
        let above = [opened.into(), (libc::F_DUPFD as u64).into(), (self.restorer as u64).into()];
        let lifted = self.leader.call(WHAT, libc::SYS_fcntl, above)?;
        self.leader.queue(WHAT, libc::SYS_close, [opened.into()])?;
        Ok(lifted as i32)
    }

    fn file(&mut self, number: i32, path: &Path) -> TargetFile<'_> {
        TargetFile::new(self.leader, number, path, self.restorer)
    }

    /// A dma-buf descriptor of memory that another step has made.
    fn dma_buf(&mut self, object: u64) -> Result<i32, StepError> {
        let given = self.take(&EdgeReason::Buffer(object));
        self.adopt(given, "dma-buf")
    }

    /// A device file that another process has opened. Its buffers are there with it.
    fn receive(&mut self, work: &ReceiveWork) -> Result<i32, StepError> {
        let given = self.take(&EdgeReason::Descriptor(self.plan.file.0));
        let number = self.adopt(given, "device file of another process")?;
        for &(index, handle) in &work.mapped {
            let offset = node(self, number, work.minor).gem_mmap(handle)?;
            let key = BufferKey { file: self.plan.file, index };
            self.devices.shown.insert(key, (number, offset));
        }
        Ok(number)
    }

    fn adopt(&mut self, given: OwnedFd, what: &str) -> Result<i32, StepError> {
        let mut file = self.file(-1, Path::new(what));
        let lent = file.lend(given.as_fd());
        let lent = lent.map_err(|failure| failed("pidfd_getfd", Path::new(what), failure))?;
        self.lift(lent.0)
    }

    /// What the coordinator has sent along.
    fn take(&mut self, reason: &EdgeReason) -> OwnedFd {
        let at = self.given.iter().position(|(given, _)| given == reason);
        self.given.swap_remove(at.expect("the coordinator sends what an edge promises")).1
    }

    /// Hands the open file itself on, if another process has it as well.
    fn export_file(&mut self, number: i32) -> Result<(), StepError> {
        let reason = EdgeReason::Descriptor(self.plan.file.0);
        if self.plan.exports.contains(&reason) {
            self.leader.flush()?;
            let file = fetch_descriptor(self.leader.process().as_fd(), number)
                .map_err(|errno| refused("pidfd_getfd", Path::new("device file"), errno))?;
            self.done.products.push((reason, file));
        }
        Ok(())
    }

    /// Whether another step needs this memory.
    fn is_wanted(&self, object: u64) -> bool {
        self.plan.exports.contains(&EdgeReason::Buffer(object))
    }

    fn hand_on(&mut self, object: u64, dmabuf: &OwnedFd) -> Result<(), StepError> {
        if self.is_wanted(object) {
            let copy = dmabuf.try_clone().map_err(|source| StepError::Duplicate { source })?;
            self.done.products.push((EdgeReason::Buffer(object), copy));
        }
        Ok(())
    }
}

fn render_path(minor: u32) -> PathBuf {
    PathBuf::from(format!("/dev/dri/renderD{minor}"))
}

fn node<'a>(hands: &'a mut Hands<'_>, number: i32, minor: u32) -> RenderNode<TargetFile<'a>> {
    RenderNode::of(hands.file(number, &render_path(minor)))
}

fn refused(operation: &'static str, path: &Path, errno: Errno) -> StepError {
    let path = path.to_owned();
    StepError::Device(DeviceError::Refused { operation, path, errno })
}

fn failed(operation: &'static str, path: &Path, failure: gpu_kfd::CallFailure) -> StepError {
    StepError::Device(DeviceError::of(operation, path, failure))
}
