//! A model with its world, and clients that call it.

use bytemuck::Pod;
use kfd_emulator::{
    BufferId, Caller, DeviceNode, FakeWorld, FileId, GpuConfig, GpuIndex, Model, Outcome,
    TOKEN_FIRST, World,
};
use nix::errno::Errno;

/// Device memory of each GPU in bytes: small, so that it runs out in tests.
pub(crate) const VRAM_BYTES: u64 = 64 << 20;
/// System memory for buffers in bytes.
pub(crate) const SYSTEM_BYTES: u64 = 32 << 20;
/// Where a client's scratch for arrays lies.
pub(crate) const SCRATCH: u64 = 0x7000_0000;

pub(crate) fn gpu_id(gpu: usize) -> u32 {
    0x5a01 + gpu as u32
}

/// A node under test.
pub(crate) struct Bench {
    pub(crate) model: Model,
    pub(crate) world: FakeWorld,
    next_fd: i32,
}

impl Bench {
    pub(crate) fn new(gpus: usize) -> Self {
        let config = |gpu| GpuConfig {
            gpu_id: gpu_id(gpu),
            render_minor: 128 + gpu as u32,
            vram_bytes: VRAM_BYTES,
            vram_visible_bytes: VRAM_BYTES,
            sdma_queues_max: 8,
            sdma_xgmi_queues_max: 8,
            compute_queues_max: 24,
            gb_addr_config: 0x2a11_0042,
            offset_first: GpuConfig::OFFSET_FIRST,
            hive_id: 7,
            xnack: true,
        };
        Self::of((0..gpus).map(config).collect())
    }

    /// A node with these GPUs.
    pub(crate) fn of(gpus: Vec<GpuConfig>) -> Self {
        let model = Model::new(gpus, SYSTEM_BYTES);
        Self { model, world: FakeWorld::new(), next_fd: 3 }
    }

    /// A new process.
    pub(crate) fn client(&mut self, pid: i32) -> Caller {
        let caller = self.world.add_client(pid);
        self.world.map_user(caller.space, SCRATCH, 0x10000);
        caller
    }

    pub(crate) fn open(&mut self, caller: &Caller, node: DeviceNode) -> Result<FileId, Errno> {
        self.model.open(caller, node)
    }

    pub(crate) fn kfd(&mut self, caller: &Caller) -> FileId {
        self.open(caller, DeviceNode::Kfd).expect("a KFD always opens")
    }

    pub(crate) fn render(&mut self, caller: &Caller, gpu: usize) -> FileId {
        self.open(caller, DeviceNode::Render(GpuIndex(gpu as u8))).expect("the GPU is there")
    }

    /// Gives the caller a descriptor for a file.
    pub(crate) fn fd(&mut self, caller: &Caller, file: FileId) -> i32 {
        self.next_fd += 1;
        self.world.set_fd(caller.space, self.next_fd, file);
        self.next_fd
    }

    /// One call that answers at once.
    pub(crate) fn call<T: Pod>(
        &mut self,
        caller: &Caller,
        file: FileId,
        request: u32,
        args: &mut T,
    ) -> Result<i32, Errno> {
        let arg = bytemuck::bytes_of_mut(args);
        match self.model.ioctl(&mut self.world, caller, file, request, arg) {
            Outcome::Done(result) => result,
            Outcome::Later(ticket) => panic!("parked as {ticket:?}"),
        }
    }

    /// Puts an array where a call finds it.
    pub(crate) fn scratch<T: Pod>(&mut self, caller: &Caller, array: &[T]) -> u64 {
        let bytes = bytemuck::cast_slice(array);
        self.world.write_user(caller.space, SCRATCH, bytes).expect("scratch is mapped");
        SCRATCH
    }

    pub(crate) fn end(&mut self, caller: &Caller) {
        self.model.space_ended(&mut self.world, caller.space);
        self.world.remove_client(caller.space);
    }
}

/// The buffer that a token stands for.
pub(crate) fn buffer_of(token: u32) -> BufferId {
    BufferId(u64::from(token - TOKEN_FIRST))
}
