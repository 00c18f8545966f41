//! The way to what buffers of one GPU hold, chosen for each buffer.
//!
//! The host writes over the bus about as fast as it goes, but reads uncached, a hundred times
//! slower. So memory of the GPU is read by its copy engine, and written through a mapping where the
//! host sees it. Where one way is not there, or not allowed for a buffer, it is the other.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::{BoContents, ContentsError, HostContents, SdmaEngine, host_sees_vram};
use crate::error::DeviceError;
use crate::render::RenderNode;

/// What is to be done with contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They are read.
    Read,
    /// They are written.
    Write,
}

/// A GPU's copy engine, which is looked for when it is first needed.
#[derive(Debug)]
enum Engine {
    Unasked,
    Absent,
    Ready(Box<SdmaEngine>),
}

/// A GPU whose buffers are read or written through render nodes of this process.
#[derive(Debug)]
pub struct ContentsAccess {
    minor: u32,
    node: RenderNode,
    host_sees_vram: bool,
    bounce_bytes: usize,
    engine: Engine,
}

impl ContentsAccess {
    /// Opens the render node with a minor number. If the copy engine is needed, it gets a render
    /// node of its own and memory of up to `bounce_bytes` to copy through.
    ///
    /// # Errors
    ///
    /// [`ContentsError::Device`].
    pub fn open(minor: u32, bounce_bytes: usize) -> Result<Self, ContentsError> {
        let mut node = RenderNode::open(minor)?;
        let host_sees_vram = host_sees_vram(&mut node)?;
        Ok(Self { minor, node, host_sees_vram, bounce_bytes, engine: Engine::Unasked })
    }

    /// Reaches the buffer of a dma-buf, which lies in system memory or in VRAM, until the result is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`ContentsError::NoEngine`] if the host must not map the buffer and there is no copy engine;
    /// those of [`HostContents::map`] and [`SdmaEngine::attach`].
    pub fn reach(
        &mut self,
        dmabuf: BorrowedFd<'_>,
        in_system: bool,
        purpose: Purpose,
    ) -> Result<Box<dyn BoContents + '_>, ContentsError> {
        let Self { minor, node, host_sees_vram, bounce_bytes, engine } = self;
        let engine_first = !in_system && purpose == Purpose::Read;
        let host_may = in_system || *host_sees_vram;
        if host_may && (!engine_first || engine.find(*minor, *bounce_bytes)?.is_none()) {
            match HostContents::map(node, dmabuf, NonZeroUsize::MIN) {
                Ok(mapped) => return Ok(Box::new(mapped)),
                // The program does not let the host see this buffer.
                Err(ContentsError::Device(DeviceError::Refused {
                    errno: Errno::EPERM, ..
                })) => {}
                Err(error) => return Err(error),
            }
        }
        match engine.find(*minor, *bounce_bytes)? {
            Some(engine) => Ok(Box::new(engine.attach(dmabuf)?)),
            None => {
                let path = format!("/dev/dri/renderD{minor}").into();
                Err(ContentsError::NoEngine { path })
            }
        }
    }
}

impl Engine {
    /// The engine, if the GPU has one that takes work through a render node.
    fn find(
        &mut self,
        minor: u32,
        bounce_bytes: usize,
    ) -> Result<Option<&mut SdmaEngine>, ContentsError> {
        if matches!(self, Self::Unasked) {
            *self = match SdmaEngine::new(RenderNode::open(minor)?, bounce_bytes) {
                Ok(engine) => Self::Ready(Box::new(engine)),
                Err(ContentsError::NoEngine { .. }) => Self::Absent,
                Err(error) => return Err(error),
            };
        }
        match self {
            Self::Ready(engine) => Ok(Some(engine)),
            Self::Unasked | Self::Absent => Ok(None),
        }
    }
}
