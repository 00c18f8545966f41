//! Contents by the GPU's copy engine, through a buffer of this process.
//!
//! The bounce buffer has two halves: while the engine moves one, this process copies the other.
//! Everything lives in one open render node, whose GPU address space is ours alone: commands, then
//! bounce buffer, then the one buffer that is attached.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::host::size_of_dmabuf;
use super::packets::{command_bytes_max, copy_commands};
use super::{BoContents, ContentsError};
use crate::bo::{BoError, BoMapping};
use crate::error::DeviceError;
use crate::ioctl::DeviceFile;
use crate::render::RenderNode;
use crate::submit::Submission;
use crate::uapi::amdgpu::{GemCreateIn, GemUserptr, GemVa, domain, userptr, va_op, vm_page};
use crate::uapi::info::{InfoDevice, InfoHwIp, query};
use crate::uapi::submit::hw_ip;

/// Size of the bounce buffer unless the caller says otherwise, in bytes.
///
/// Half of it takes the engine above 1 ms (25 GB/s over PCIe 4), beside which submitting and
/// waiting (some 50 µs) do not count; and one for each of eight GPUs pins half a GiB.
pub const BOUNCE_BYTES_DEFAULT: usize = 64 << 20;

/// Longest time for half a bounce buffer. It takes milliseconds; a GPU that is late by this much
/// hangs (the kernel resets one after 10 s).
const COPY_WAIT_MAX: Duration = Duration::from_secs(60);

/// GPU addresses are handed out in steps of the largest page.
const STEP_BYTES: u64 = 2 << 20;

/// Lowest address that is used: below may be what other parts of a driver expect.
const ADDRESS_MIN: u64 = 4 << 30;

const PAGE_BYTES: usize = 4096;

/// A GPU's copy engine, with a buffer to copy through.
#[derive(Debug)]
pub struct SdmaEngine {
    // Dropped in this order: with the open file ends what the GPU knows of the memory below.
    node: RenderNode,
    commands: BoMapping,
    bounce: BoMapping,
    handles: [u32; 2],
    context: u32,
    places: Places,
}

/// GPU addresses.
#[derive(Clone, Copy, Debug)]
struct Places {
    commands: u64,
    bounce: u64,
    attached: u64,
    end: u64,
}

/// A copy that the engine was given.
#[derive(Clone, Copy, Debug)]
struct Running {
    submission: Submission,
    number: u64,
    part: Part,
}

impl SdmaEngine {
    /// Takes a freshly opened render node, and memory of up to `bounce_bytes` to copy through.
    ///
    /// # Errors
    ///
    /// [`ContentsError::NoEngine`]; [`ContentsError::Device`]; [`ContentsError::Bo`] if memory is
    /// short.
    pub fn new(mut node: RenderNode, bounce_bytes: usize) -> Result<Self, ContentsError> {
        let engine: InfoHwIp = node.info(query::HW_IP_INFO, [hw_ip::DMA, 0, 0, 0])?;
        if engine.available_rings & 1 == 0 {
            return Err(ContentsError::NoEngine { path: node.file.path().to_owned() });
        }
        let half = (bounce_bytes / 2).max(PAGE_BYTES).next_multiple_of(PAGE_BYTES);
        let bounce = BoMapping::anonymous(NonZeroUsize::new(2 * half).expect("at least a page"))?;
        let size = (2 * command_bytes_max(half)).next_multiple_of(PAGE_BYTES);
        let places = Places::of(&node.info(query::DEV_INFO, [0; 4])?, size, 2 * half);

        let (bo_size, alignment) = (size as u64, PAGE_BYTES as u64);
        let object = GemCreateIn { bo_size, alignment, domains: domain::GTT, domain_flags: 0 };
        let commands_handle = node.gem_create(&object)?;
        let offset = node.gem_mmap(commands_handle)?;
        let commands = BoMapping::map(node.as_fd(), node.file.path(), offset, bo_size)?;
        let memory = GemUserptr {
            addr: bounce.address(),
            size: bounce.size_bytes(),
            flags: userptr::ANONONLY | userptr::VALIDATE | userptr::REGISTER,
            handle: 0,
        };
        let bounce_handle = node.gem_userptr(&memory)?;
        map(&mut node, commands_handle, places.commands, bo_size, vm_page::EXECUTABLE)?;
        map(&mut node, bounce_handle, places.bounce, bounce.size_bytes(), 0)?;
        let context = node.context_create()?;
        let handles = [commands_handle, bounce_handle];
        Ok(Self { node, commands, bounce, handles, context, places })
    }

    /// Lets the engine reach the buffer of a dma-buf, until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`ContentsError::Size`]; [`ContentsError::Addresses`]; [`ContentsError::Device`].
    pub fn attach(&mut self, dmabuf: BorrowedFd<'_>) -> Result<SdmaContents<'_>, ContentsError> {
        let size_bytes = size_of_dmabuf(dmabuf)?;
        let room_bytes = self.places.end - self.places.attached;
        if size_bytes > room_bytes {
            return Err(ContentsError::Addresses { size_bytes, room_bytes });
        }
        let handle = self.node.prime_import(dmabuf)?;
        let mut contents = SdmaContents { engine: self, handle, size_bytes, list: None };
        contents.attach()?; // what was done is undone when dropped
        Ok(contents)
    }

    fn half_bytes(&self) -> usize {
        self.bounce.size_bytes() as usize / 2
    }

    /// Where a half begins in the bounce buffer.
    fn place(&self, half: usize) -> u64 {
        (half * self.half_bytes()) as u64
    }

    /// Lets the engine copy between a half of the bounce buffer and an address.
    fn start(
        &mut self,
        list: u32,
        direction: Direction,
        address: u64,
        part: Part,
    ) -> Result<Running, ContentsError> {
        let bounce = self.places.bounce + self.place(part.half);
        let words = match direction {
            Direction::Out => copy_commands(address, bounce, part.len),
            Direction::In => copy_commands(bounce, address, part.len),
        };
        let place = part.half as u64 * self.commands.size_bytes() / 2;
        self.commands.write(place, bytemuck::cast_slice(&words))?;
        let submission = Submission {
            context: self.context,
            bo_list: list,
            engine: hw_ip::DMA,
            ring: 0,
            commands: self.places.commands + place,
            commands_bytes: size_of_val(&words[..]) as u32,
        };
        let number = self.node.submit(&submission)?;
        Ok(Running { submission, number, part })
    }

    /// Waits for a copy out of a buffer, and copies on to where it was asked for.
    fn finish_read(&mut self, running: &Running, into: &mut [u8]) -> Result<(), ContentsError> {
        self.wait(running)?;
        let Part { half, at, len } = running.part;
        Ok(self.bounce.read(self.place(half), &mut into[at..at + len])?)
    }

    fn wait(&mut self, running: &Running) -> Result<(), ContentsError> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|errno| {
            let path = self.node.file.path().to_owned();
            DeviceError::Refused { operation: "clock_gettime", path, errno }
        })?;
        let deadline = (Duration::from(now) + COPY_WAIT_MAX).as_nanos() as u64;
        if self.node.wait_submission(&running.submission, running.number, deadline)? {
            return Ok(());
        }
        let path = self.node.file.path().to_owned();
        let seconds = COPY_WAIT_MAX.as_secs();
        Err(ContentsError::Hang { path, len_bytes: running.part.len, seconds })
    }
}

impl Places {
    /// Commands and bounce buffer take the lowest steps, what is attached the rest.
    fn of(device: &InfoDevice, commands_bytes: usize, bounce_bytes: usize) -> Self {
        let commands = device.virtual_address_offset.max(ADDRESS_MIN).next_multiple_of(STEP_BYTES);
        let bounce = (commands + commands_bytes as u64).next_multiple_of(STEP_BYTES);
        let attached = (bounce + bounce_bytes as u64).next_multiple_of(STEP_BYTES);
        // The upper half of the address space is another range (`high_va_offset`).
        let end = device.virtual_address_max.max(attached);
        Self { commands, bounce, attached, end }
    }
}

fn map(
    node: &mut RenderNode,
    handle: u32,
    at: u64,
    size_bytes: u64,
    flags: u32,
) -> Result<(), DeviceError> {
    node.gem_va(&GemVa {
        handle,
        operation: va_op::MAP,
        flags: flags | vm_page::READABLE | vm_page::WRITEABLE,
        va_address: at,
        map_size: size_bytes.next_multiple_of(PAGE_BYTES as u64),
        ..Default::default()
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

/// A piece of a copy: which half it takes, and where it lies in the caller's slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    half: usize,
    at: usize,
    len: usize,
}

/// The pieces of a copy, with alternating halves.
fn parts(len_bytes: usize, half_bytes: usize) -> impl Iterator<Item = Part> {
    let starts = (0..len_bytes).step_by(half_bytes);
    starts.enumerate().map(move |(index, at)| {
        let len = half_bytes.min(len_bytes - at);
        Part { half: index % 2, at, len }
    })
}

/// A buffer that the copy engine reaches while this exists.
#[derive(Debug)]
pub struct SdmaContents<'engine> {
    engine: &'engine mut SdmaEngine,
    handle: u32,
    size_bytes: u64,
    /// Set when the buffer is mapped.
    list: Option<u32>,
}

impl SdmaContents<'_> {
    fn attach(&mut self) -> Result<(), ContentsError> {
        let [commands, bounce] = self.engine.handles;
        let (node, at) = (&mut self.engine.node, self.engine.places.attached);
        map(node, self.handle, at, self.size_bytes, 0)?;
        self.list = Some(node.bo_list_create(&[self.handle, commands, bounce])?);
        Ok(())
    }

    fn check(&self, offset_bytes: u64, len_bytes: usize) -> Result<(), BoError> {
        let size_bytes = self.size_bytes;
        match offset_bytes.checked_add(len_bytes as u64) {
            Some(end) if end <= size_bytes => Ok(()),
            _ => Err(BoError::Bounds { offset_bytes, len_bytes, size_bytes }),
        }
    }

    fn start(
        &mut self,
        direction: Direction,
        offset_bytes: u64,
        part: Part,
    ) -> Result<Running, ContentsError> {
        let list = self.list.expect("set before anybody has it");
        let address = self.engine.places.attached + offset_bytes + part.at as u64;
        self.engine.start(list, direction, address, part)
    }
}

impl BoContents for SdmaContents<'_> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&mut self, offset_bytes: u64, into: &mut [u8]) -> Result<(), ContentsError> {
        self.check(offset_bytes, into.len())?;
        let mut before: Option<Running> = None;
        for part in parts(into.len(), self.engine.half_bytes()) {
            let running = self.start(Direction::Out, offset_bytes, part)?;
            if let Some(before) = before.replace(running) {
                self.engine.finish_read(&before, into)?;
            }
        }
        before.map_or(Ok(()), |last| self.engine.finish_read(&last, into))
    }

    fn write(&mut self, offset_bytes: u64, from: &[u8]) -> Result<(), ContentsError> {
        self.check(offset_bytes, from.len())?;
        let mut before: Option<Running> = None;
        for part in parts(from.len(), self.engine.half_bytes()) {
            // This half was waited for when the other one was given to the engine.
            let place = self.engine.place(part.half);
            self.engine.bounce.write(place, &from[part.at..part.at + part.len])?;
            let running = self.start(Direction::In, offset_bytes, part)?;
            if let Some(before) = before.replace(running) {
                self.engine.wait(&before)?;
            }
        }
        before.map_or(Ok(()), |last| self.engine.wait(&last))
    }
}

impl Drop for SdmaContents<'_> {
    fn drop(&mut self) {
        // What is not given back goes with the open file; nothing to tell anybody.
        let node = &mut self.engine.node;
        if let Some(list) = self.list {
            let _ = node.bo_list_destroy(list);
        }
        let _ = node.gem_va(&GemVa {
            handle: self.handle,
            operation: va_op::UNMAP,
            va_address: self.engine.places.attached,
            map_size: self.size_bytes.next_multiple_of(PAGE_BYTES as u64),
            ..Default::default()
        });
        let _ = node.gem_close(self.handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_copy_cover_it_and_never_use_a_half_twice_in_a_row() {
        let half = 3 * PAGE_BYTES;
        for len in [0, 1, half - 1, half, half + 1, 2 * half, 5 * half + 7] {
            let parts: Vec<Part> = parts(len, half).collect();
            let mut at = 0;
            for (index, part) in parts.iter().enumerate() {
                assert_eq!((part.at, part.half), (at, index % 2));
                assert!((1..=half).contains(&part.len));
                at += part.len;
            }
            assert_eq!(at, len);
        }
    }

    #[test]
    fn commands_bounce_buffer_and_what_is_attached_lie_apart() {
        for offset in [0, 2 << 20, 8 << 30] {
            let device = InfoDevice {
                virtual_address_offset: offset,
                virtual_address_max: 1 << 47,
                ..Default::default()
            };
            let places = Places::of(&device, 8192, BOUNCE_BYTES_DEFAULT);
            assert!(places.commands >= offset.max(ADDRESS_MIN));
            assert!(places.bounce >= places.commands + 8192);
            assert!(places.attached >= places.bounce + BOUNCE_BYTES_DEFAULT as u64);
            assert_eq!(places.end, 1 << 47);
            for place in [places.commands, places.bounce, places.attached] {
                assert!(place.is_multiple_of(STEP_BYTES));
            }
        }
    }

    #[test]
    fn a_gpu_without_room_has_room_for_nothing() {
        let places = Places::of(&InfoDevice::default(), 8192, BOUNCE_BYTES_DEFAULT);
        assert_eq!(places.end, places.attached);
    }
}
