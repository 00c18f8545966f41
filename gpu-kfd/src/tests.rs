//! The verbs against a file that is answered by the test: what reaches the driver, what comes back.

use std::collections::VecDeque;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bytemuck::Pod;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::uapi::amdgpu::{GemListHandles, GemListHandlesEntry};
use crate::uapi::criu::{BoBucket, CriuArgs, DeviceBucket, NO_FD, op};
use crate::uapi::events::{EventData, WaitEventsArgs, wait_result};
use crate::uapi::submit::{CsChunk, CsChunkIb, CsIn, CsOut};
use crate::uapi::{amdgpu, kfd, same_call};
use crate::*;

/// Where the test pretends to hold a block.
const BASE: u64 = 0x5000_0000;

/// A block as the driver sees it.
struct Seen {
    request: u32,
    bytes: Vec<u8>,
}

impl Seen {
    fn read<T: Pod>(&self, address: u64) -> T {
        let at = (address - BASE) as usize;
        bytemuck::pod_read_unaligned(&self.bytes[at..at + size_of::<T>()])
    }

    fn write<T: Pod>(&mut self, address: u64, value: &T) {
        let at = (address - BASE) as usize;
        self.bytes[at..at + size_of::<T>()].copy_from_slice(bytemuck::bytes_of(value));
    }

    fn argument<T: Pod>(&self) -> T {
        self.read(BASE)
    }
}

type Answer = Box<dyn FnMut(&mut Seen) -> Result<i32, Errno>>;

/// A file that answers calls in order.
#[derive(Default)]
struct Scripted {
    answers: VecDeque<Answer>,
    /// Descriptors that calls "return", by number from 100.
    descriptors: Vec<Option<OwnedFd>>,
    lent: Vec<FileNumber>,
}

impl Scripted {
    fn then(mut self, answer: impl FnMut(&mut Seen) -> Result<i32, Errno> + 'static) -> Self {
        self.answers.push_back(Box::new(answer));
        self
    }
}

impl DeviceFile for Scripted {
    fn path(&self) -> &Path {
        Path::new("/dev/scripted")
    }

    fn number(&self) -> FileNumber {
        FileNumber(33)
    }

    // SAFETY: no address is followed but those of the copy.
    unsafe fn ioctl(&mut self, request: u32, block: &mut Block) -> Result<i32, CallFailure> {
        let mut answer = self.answers.pop_front().expect("an answer for each call");
        let mut seen = Seen { request, bytes: block.relocate(BASE).to_vec() };
        let result = answer(&mut seen);
        block.replace(&seen.bytes);
        result.map_err(CallFailure::Refused)
    }

    fn take(&mut self, descriptor: NewDescriptor) -> Result<OwnedFd, CallFailure> {
        let slot = self.descriptors.get_mut(descriptor.number().0 as usize - 100);
        slot.and_then(Option::take).ok_or(CallFailure::Refused(Errno::EMFILE))
    }

    fn lend(&mut self, _: BorrowedFd<'_>) -> Result<FileNumber, CallFailure> {
        self.lent.push(FileNumber(77));
        Ok(FileNumber(77))
    }

    fn give_back(&mut self, lent: FileNumber) -> Result<(), CallFailure> {
        self.lent.retain(|other| *other != lent);
        Ok(())
    }
}

fn list_answer(there: u32) -> impl FnMut(&mut Seen) -> Result<i32, Errno> {
    move |seen| {
        assert!(same_call(seen.request, amdgpu::ioc::GEM_LIST_HANDLES));
        let list: GemListHandles = seen.argument();
        for index in 0..there.min(list.num_entries) {
            let entry = GemListHandlesEntry { gem_handle: index + 1, ..Default::default() };
            seen.write(list.entries + 40 * u64::from(index), &entry);
        }
        seen.write(BASE, &GemListHandles { num_entries: there, ..list });
        Ok(0)
    }
}

#[test]
fn a_list_is_read_again_until_it_fits() {
    let file = Scripted::default().then(list_answer(100)).then(list_answer(130));
    let entries = RenderNode::of(file.then(list_answer(129))).gem_list_handles().unwrap();
    let handles: Vec<u32> = entries.iter().map(|entry| entry.gem_handle).collect();
    assert_eq!(handles, (1..=129).collect::<Vec<_>>());
}

/// An object appears while the driver lists them: it leaves how many it had counted.
#[test]
fn a_list_that_was_busy_is_asked_for_with_all_the_room() {
    let busy = |seen: &mut Seen| {
        let list: GemListHandles = seen.argument();
        seen.write(BASE, &GemListHandles { num_entries: 10, ..list });
        Err(Errno::EAGAIN)
    };
    let answer = |seen: &mut Seen| {
        assert_eq!(seen.argument::<GemListHandles>().num_entries, 64);
        list_answer(11)(seen)
    };
    let entries = RenderNode::of(Scripted::default().then(busy).then(answer)).gem_list_handles();
    assert!(entries.unwrap().iter().all(|entry| entry.gem_handle != 0));
}

#[test]
fn a_list_that_never_stops_growing_is_an_error() {
    let grow = |file: Scripted, round: u32| file.then(list_answer(100 + round));
    let error = RenderNode::of((0..8).fold(Scripted::default(), grow)).gem_list_handles();
    assert!(matches!(error, Err(DeviceError::Unsettled { rounds: 8, .. })), "{error:?}");
    let absurd = RenderNode::of(Scripted::default().then(list_answer(u32::MAX))).gem_list_handles();
    assert!(matches!(absurd, Err(DeviceError::TooMany { .. })), "{absurd:?}");
}

/// A descriptor, and a way to see whether it was closed.
fn watched() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader.into(), writer.into())
}

fn is_closed(writer: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::empty())];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).unwrap();
    fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

const INFO: ProcessInfo = ProcessInfo { devices: 1, bos: 3, objects: 2, private_bytes: 9, pid: 5 };

fn save(seen: &mut Seen) -> Result<i32, Errno> {
    let args: CriuArgs = seen.argument();
    let counts = (args.num_devices, args.num_bos, args.num_objects, args.priv_data_size);
    assert_eq!((args.op, counts), (op::CHECKPOINT, (1, 3, 2, 9)));
    let device = DeviceBucket { user_gpu_id: 7, actual_gpu_id: 8, ..Default::default() };
    seen.write(args.devices, &device);
    for (index, dmabuf_fd) in [100, NO_FD, 101].into_iter().enumerate() {
        let addr = 0x1000 * index as u64;
        let bo = BoBucket { addr, dmabuf_fd, ..Default::default() };
        seen.write(args.bos + 48 * index as u64, &bo);
    }
    seen.write(args.priv_data, b"private!!");
    Ok(0)
}

#[test]
fn a_checkpoint_gives_what_was_saved_and_owns_the_descriptors() {
    let (first, second) = (watched(), watched());
    let mut file = Scripted::default().then(save);
    file.descriptors = vec![Some(first.0), Some(second.0)];
    let saved = KfdFd::of(file).checkpoint(&INFO).unwrap();
    assert_eq!(saved.devices[0].actual_gpu_id, 8);
    assert_eq!(saved.private, b"private!!");
    assert!(saved.bos.iter().all(|bo| bo.dmabuf_fd == NO_FD));
    let has: Vec<bool> = saved.contents.iter().map(Option::is_some).collect();
    assert_eq!(has, [true, false, true]);
    assert!(!is_closed(&first.1));
    drop(saved);
    assert!(is_closed(&first.1) && is_closed(&second.1));
}

#[test]
fn one_descriptor_that_cannot_be_had_closes_the_others() {
    let second = watched();
    let mut file = Scripted::default().then(save);
    file.descriptors = vec![None, Some(second.0)];
    let mut kfd = KfdFd::of(file);
    assert_eq!(kfd.checkpoint(&INFO).unwrap_err().errno(), Some(Errno::EMFILE));
    assert!(is_closed(&second.1), "the descriptor after the failure is not left behind");
}

#[test]
fn a_restore_names_devices_as_the_calling_process_sees_them() {
    let file = Scripted::default().then(|seen| {
        let args: CriuArgs = seen.argument();
        assert_eq!((args.op, args.num_objects, args.priv_data_size), (op::RESTORE, 4, 3));
        let device: DeviceBucket = seen.read(args.devices);
        assert_eq!((device.user_gpu_id, device.actual_gpu_id, device.drm_fd), (7, 8, 33));
        assert_eq!(seen.read::<[u8; 3]>(args.priv_data), [1, 2, 3]);
        let bo: BoBucket = seen.read(args.bos);
        assert_eq!((bo.addr, bo.dmabuf_fd), (0x4000, NO_FD));
        seen.write(args.bos, &BoBucket { restored_offset: 0x9000, ..bo });
        Ok(0)
    });
    let render = file.number();
    let device = RestoreDevice { user_gpu_id: 7, actual_gpu_id: 8, render };
    let bo = BoBucket { addr: 0x4000, dmabuf_fd: 99, ..Default::default() };
    let restored = KfdFd::of(file).restore(&[device], &[bo], &[1, 2, 3], 4).unwrap();
    assert_eq!(restored[0].mmap_offset, 0x9000);
    assert!(restored[0].contents.is_none());
}

#[test]
fn an_interrupted_call_goes_on_where_it_was() {
    let interrupted = |seen: &mut Seen| {
        let waits: WaitEventsArgs = seen.argument();
        seen.write(BASE, &WaitEventsArgs { timeout: 30, ..waits });
        Err(Errno::EINTR)
    };
    let rest = |seen: &mut Seen| {
        assert_eq!(seen.argument::<WaitEventsArgs>().timeout, 30);
        Ok(0)
    };
    let file = Scripted::default().then(interrupted).then(rest);
    let waited = KfdFd::of(file).wait_events(&mut [EventData::default()], true, 50).unwrap();
    assert_eq!(waited, Waited::Complete);
}

#[test]
fn a_driver_that_is_busy_for_ever_is_an_error() {
    let busy = |file: Scripted, _| file.then(|_| Err(Errno::EAGAIN));
    let error = KfdFd::of((0..101).fold(Scripted::default(), busy)).unpause().unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EAGAIN));
}

#[test]
fn a_driver_without_gtt_contents_is_refused_by_version() {
    let version = |minor| {
        let file = Scripted::default().then(move |seen| {
            seen.write(BASE, &[1_u32, minor]);
            Ok(0)
        });
        KfdFd::of(file).require_checkpoint()
    };
    assert!(version(8).is_ok() && version(17).is_ok());
    let refused = version(7).unwrap_err();
    assert!(matches!(refused, DeviceError::Version { found: (1, 7), .. }), "{refused:?}");
    assert!(refused.to_string().contains("1.8"), "{refused}");
}

#[test]
fn a_wait_tells_how_it_ended_and_what_happened() {
    let file = Scripted::default().then(|seen| {
        let args: WaitEventsArgs = seen.argument();
        assert_eq!((args.num_events, args.wait_for_all, args.timeout), (2, 1, 50));
        let event: EventData = seen.read(args.events_ptr + 48);
        assert_eq!(event.event_id, 6);
        seen.write(args.events_ptr + 48, &EventData { payload: [9; 4], ..event });
        seen.write(BASE, &WaitEventsArgs { wait_result: wait_result::TIMEOUT, ..args });
        Ok(0)
    });
    let event = |event_id| EventData { event_id, ..Default::default() };
    let mut events = [event(5), event(6)];
    let waited = KfdFd::of(file).wait_events(&mut events, true, 50).unwrap();
    assert_eq!((waited, events[1].payload), (Waited::TimedOut, [9; 4]));
}

#[test]
fn a_submission_points_to_its_chunk_and_that_to_its_commands() {
    let file = Scripted::default().then(|seen| {
        let args: CsIn = seen.argument();
        let chunk: CsChunk = seen.read(seen.read(args.chunks));
        let commands: CsChunkIb = seen.read(chunk.chunk_data);
        assert_eq!((args.ctx_id, args.bo_list_handle, chunk.length_dw), (1, 2, 8));
        assert_eq!((commands.va_start, commands.ib_bytes, commands.ip_type), (0x8000, 28, 2));
        seen.write(BASE, &CsOut { handle: 41, ..Default::default() });
        Ok(0)
    });
    let submission = Submission {
        context: 1,
        bo_list: 2,
        engine: 2,
        ring: 0,
        commands: 0x8000,
        commands_bytes: 28,
    };
    assert_eq!(RenderNode::of(file).submit(&submission).unwrap(), 41);
}

#[test]
fn a_lent_descriptor_is_given_back_even_if_the_call_fails() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut node = RenderNode::of(Scripted::default().then(|_| Err(Errno::EINVAL)));
    let error = node.prime_import(null.as_fd()).unwrap_err();
    assert!(node.file.lent.is_empty());
    let text = error.to_string();
    assert!(text.starts_with("PRIME_FD_TO_HANDLE on /dev/scripted: EINVAL"), "{text}");
}

#[test]
fn attributes_of_a_range_go_out_and_come_back_in_the_argument() {
    let file = Scripted::default().then(|seen| {
        assert_eq!(uapi::argument_bytes(seen.request), 24 + 2 * 8);
        assert_eq!(kfd::name_of(seen.request), Some("SVM"));
        seen.write(BASE + 24 + 8 + 4, &0x55_u32);
        Ok(0)
    });
    let mut attributes = [uapi::svm::SvmAttribute { kind: 5, value: 0 }; 2];
    KfdFd::of(file).svm_get(0x1000, 0x1000, &mut attributes).unwrap();
    assert_eq!(attributes.map(|attribute| attribute.value), [0, 0x55]);
}

#[test]
fn an_aperture_array_is_as_long_as_the_driver_says() {
    use uapi::kfd::{GetProcessAperturesNewArgs, ProcessDeviceApertures};
    let count = |seen: &mut Seen| {
        let pointer = offset_of!(GetProcessAperturesNewArgs, num_of_nodes) as u64;
        seen.write(BASE + pointer, &2_u32);
        Ok(0)
    };
    let fill = |seen: &mut Seen| {
        let args: GetProcessAperturesNewArgs = seen.argument();
        assert_eq!(args.num_of_nodes, 2);
        let second = args.kfd_process_device_apertures_ptr + 56;
        seen.write(second, &ProcessDeviceApertures { gpu_id: 9, ..Default::default() });
        Ok(0)
    };
    let file = Scripted::default().then(count).then(fill);
    let apertures = KfdFd::of(file).process_apertures().unwrap();
    assert_eq!(apertures.iter().map(|gpu| gpu.gpu_id).collect::<Vec<_>>(), [0, 9]);
}
