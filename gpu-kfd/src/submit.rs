//! Giving work to an engine of a render node: context, list of buffers, submission, wait.
//!
//! As much of it as moving buffer contents needs: one indirect buffer for one submission, on one
//! ring. Contexts and lists are numbers of the open file and end with it.

use std::mem::offset_of;

use crate::block::Block;
use crate::error::DeviceError;
use crate::ioctl::{DeviceFile, call, plain};
use crate::render::RenderNode;
use crate::uapi::amdgpu::ioc;
use crate::uapi::submit::{
    BoListEntry, BoListIn, BoListOut, CsChunk, CsChunkIb, CsIn, CsOut, CtxAllocOut, CtxIn,
    WaitCsIn, WaitCsOut, bo_list_op, chunk_id, ctx_op,
};

/// Commands to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    /// From [`RenderNode::context_create`].
    pub context: u32,
    /// From [`RenderNode::bo_list_create`]; the commands' own buffer is in it.
    pub bo_list: u32,
    /// Which engine: see [`hw_ip`](crate::uapi::submit::hw_ip).
    pub engine: u32,
    /// Which ring of it.
    pub ring: u32,
    /// GPU address of the commands.
    pub commands: u64,
    /// How many bytes of them.
    pub commands_bytes: u32,
}

impl<F: DeviceFile> RenderNode<F> {
    /// Makes a context of normal priority.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn context_create(&mut self) -> Result<u32, DeviceError> {
        let context = CtxIn { op: ctx_op::ALLOC_CTX, ..Default::default() };
        let answer = plain(&mut self.file, "CTX ALLOC_CTX", ioc::CTX, &context)?;
        Ok(bytemuck::cast::<CtxIn, CtxAllocOut>(answer).ctx_id)
    }

    /// Ends a context.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn context_destroy(&mut self, ctx_id: u32) -> Result<(), DeviceError> {
        let context = CtxIn { op: ctx_op::FREE_CTX, ctx_id, ..Default::default() };
        plain(&mut self.file, "CTX FREE_CTX", ioc::CTX, &context).map(drop)
    }

    /// Makes a list of the buffers that a submission uses.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn bo_list_create(&mut self, handles: &[u32]) -> Result<u32, DeviceError> {
        let entry = |&bo_handle: &u32| BoListEntry { bo_handle, bo_priority: 0 };
        let entries: Vec<BoListEntry> = handles.iter().map(entry).collect();
        let mut block = Block::new(&BoListIn {
            operation: bo_list_op::CREATE,
            bo_number: entries.len() as u32,
            bo_info_size: size_of::<BoListEntry>() as u32,
            ..Default::default()
        });
        block.array(offset_of!(BoListIn, bo_info_ptr), &entries);
        call(&mut self.file, "BO_LIST CREATE", ioc::BO_LIST, &mut block)?;
        Ok(block.argument::<BoListOut>().list_handle)
    }

    /// Ends a list.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn bo_list_destroy(&mut self, list_handle: u32) -> Result<(), DeviceError> {
        let operation = bo_list_op::DESTROY;
        let list = BoListIn { operation, list_handle, ..Default::default() };
        plain(&mut self.file, "BO_LIST DESTROY", ioc::BO_LIST, &list).map(drop)
    }

    /// Gives commands to an engine, and tells the number to wait for.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn submit(&mut self, submission: &Submission) -> Result<u64, DeviceError> {
        let mut block = Block::new(&CsIn {
            ctx_id: submission.context,
            bo_list_handle: submission.bo_list,
            num_chunks: 1,
            ..Default::default()
        });
        let chunks = block.array(offset_of!(CsIn, chunks), &[0_u64]);
        let chunk = CsChunk {
            chunk_id: chunk_id::IB,
            length_dw: (size_of::<CsChunkIb>() / 4) as u32,
            chunk_data: 0,
        };
        let chunk = block.array(chunks.field(0, 0), &[chunk]);
        let commands = CsChunkIb {
            va_start: submission.commands,
            ib_bytes: submission.commands_bytes,
            ip_type: submission.engine,
            ring: submission.ring,
            ..Default::default()
        };
        block.array(chunk.field(0, offset_of!(CsChunk, chunk_data)), &[commands]);
        call(&mut self.file, "CS", ioc::CS, &mut block)?;
        Ok(block.argument::<CsOut>().handle)
    }

    /// Waits until a submission is done; whether it is. The deadline is on the monotonic clock, in
    /// nanoseconds; `u64::MAX` waits for ever.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`]; `ECANCELED` if the GPU was reset meanwhile.
    pub fn wait_submission(
        &mut self,
        submission: &Submission,
        number: u64,
        deadline_ns: u64,
    ) -> Result<bool, DeviceError> {
        let wait = WaitCsIn {
            handle: number,
            timeout: deadline_ns,
            ip_type: submission.engine,
            ip_instance: 0,
            ring: submission.ring,
            ctx_id: submission.context,
        };
        let answer = plain(&mut self.file, "WAIT_CS", ioc::WAIT_CS, &wait)?;
        Ok(bytemuck::cast::<WaitCsIn, WaitCsOut>(answer).status == 0)
    }
}
