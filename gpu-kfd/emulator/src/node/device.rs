//! The driver behind the device files, as the serving side sees it.
//!
//! It is one value behind one lock; it makes no system call. Everything outside comes to it through
//! [`World`], every call to it through [`Device`]. The model is the one that matters; tests put
//! simpler ones in its place.

use nix::errno::Errno;

use crate::model::{
    BufferId, Caller, DeviceNode, FileId, Finished, Model, Outcome, Progress, SpaceId, Ticket,
    World,
};

/// The driver behind the device files.
///
/// Its calls come from threads of the node one at a time. Those threads have a table of descriptors
/// of their own, so a device must not hold descriptors (files, sockets) that were opened elsewhere:
/// in its calls their numbers are not open. A channel to a thread of the owner's serves a log.
pub trait Device: Send {
    /// Opens a device file.
    ///
    /// # Errors
    /// What `open` of the device file fails with.
    fn open(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        node: DeviceNode,
    ) -> Result<FileId, Errno>;

    /// The last close of a file.
    fn release(&mut self, world: &mut dyn World, file: FileId);

    /// An address space has ended: its process exited or executed another program.
    fn space_ended(&mut self, world: &mut dyn World, space: SpaceId);

    /// Carries out one call. `arg` is the argument block, as long as the request number says; it
    /// goes back to the caller whatever the result is.
    fn ioctl(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        file: FileId,
        request: u32,
        arg: &mut [u8],
    ) -> Outcome;

    /// Parked calls that have their answer since this was last asked.
    fn take_finished(&mut self) -> Vec<Finished>;

    /// A signal came to a caller that waits: its call ends with `EINTR`.
    fn interrupt(&mut self, world: &mut dyn World, ticket: Ticket);

    /// Ends the waits whose time is over.
    fn expire(&mut self, now_ns: u64);

    /// When the next parked call gives up, in nanoseconds of [`World::now_ns`].
    fn next_deadline_ns(&self) -> Option<u64>;

    /// Looks at doorbells and carries out packets, up to about `budget_bytes` of copies.
    fn run_queues(&mut self, world: &mut dyn World, budget_bytes: u64) -> Progress;

    /// Whether [`Device::run_queues`] could do anything, now or when a doorbell rings. Asked after
    /// every call while nobody runs the queues, so it must be cheap.
    fn has_queues(&self) -> bool;

    /// Whether a dma-buf of this buffer can be opened, and its size in bytes.
    fn dma_buf_bytes(&self, buffer: BufferId) -> Option<u64>;

    /// Answers every parked call with `ENODEV`, for a node that ends.
    fn abandon_calls(&mut self);
}

impl Device for Model {
    fn open(
        &mut self,
        _: &mut dyn World,
        caller: &Caller,
        node: DeviceNode,
    ) -> Result<FileId, Errno> {
        self.open(caller, node)
    }

    fn release(&mut self, world: &mut dyn World, file: FileId) {
        self.release(world, file);
    }

    fn space_ended(&mut self, world: &mut dyn World, space: SpaceId) {
        self.space_ended(world, space);
    }

    fn ioctl(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        file: FileId,
        request: u32,
        arg: &mut [u8],
    ) -> Outcome {
        self.ioctl(world, caller, file, request, arg)
    }

    fn take_finished(&mut self) -> Vec<Finished> {
        self.take_finished()
    }

    fn interrupt(&mut self, world: &mut dyn World, ticket: Ticket) {
        self.interrupt(world, ticket);
    }

    fn expire(&mut self, now_ns: u64) {
        self.expire(now_ns);
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        self.next_deadline_ns()
    }

    fn run_queues(&mut self, world: &mut dyn World, budget_bytes: u64) -> Progress {
        self.run_queues(world, budget_bytes)
    }

    fn has_queues(&self) -> bool {
        self.has_queues()
    }

    fn dma_buf_bytes(&self, buffer: BufferId) -> Option<u64> {
        self.dma_buf_bytes(buffer)
    }

    fn abandon_calls(&mut self) {
        self.abandon_calls();
    }
}
