//! Building a program again: what comes back, what is refused, what a failure leaves.

use gpu_kfd::uapi::criu::{
    BoBucket, BoPrivate, CriuArgs, EventPrivate, NO_FD, QueuePrivate, object, op,
};
use gpu_kfd::uapi::kfd::{
    AllocMemoryOfGpuArgs, ExportDmabufArgs, ImportDmabufArgs, MapMemoryToGpuArgs, alloc, ioc,
};
use kfd_emulator::{BufferId, Caller, DeviceNode, GpuIndex, PagesAt, Store, World};
use nix::errno::Errno;

use super::{
    BOS, CTL_STACK_BYTES, Image, PAGE, Program, ROOM_END, VA, checkpoint, client_with_room,
    elsewhere, end, has_copy, image, node, operate, pause, place, restore, resume, run, save,
    write,
};
use crate::bench::buffer_of;

const IDS: [u32; 2] = [0x5a01, 0x5a02];

/// Where buffers and objects begin in private data, with two GPUs.
const BOS_IN_PRIVATE: usize = 24;
const OBJECTS_IN_PRIVATE: usize = BOS_IN_PRIVATE + BOS * size_of::<BoPrivate>();

fn private_of(image: &mut Image, bo: usize) -> &mut BoPrivate {
    let at = BOS_IN_PRIVATE + bo * size_of::<BoPrivate>();
    bytemuck::from_bytes_mut(&mut image.private[at..at + size_of::<BoPrivate>()])
}

/// What must be the same in an image of the restored program.
fn comparable(image: &Image) -> (Vec<u32>, Vec<BoBucket>, Vec<u8>) {
    let devices = image.devices.iter().map(|device| device.user_gpu_id).collect();
    let bos = image.bos.iter().map(|bo| BoBucket {
        offset: 0,
        restored_offset: 0,
        dmabuf_fd: u32::from(bo.dmabuf_fd == NO_FD),
        ..*bo
    });
    (devices, bos.collect(), image.private.clone())
}

/// Restores an image in a fresh process and expects this.
fn expect(image: &Image, what: &str, expected: Result<i32, Errno>) {
    let (mut bench, program, placed) = elsewhere(image, true);
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, expected, "{what}");
    bench.model.check().expect("every reference has a holder");
}

#[test]
fn program_comes_back_on_gpus_with_other_identifiers() {
    let saved = image();
    let (mut bench, program, placed) = elsewhere(&saved, true);
    let (result, bos) = restore(&mut bench, &program, &placed, |_| ());
    assert_eq!(result, Ok(0));
    for (bo, old) in bos.iter().zip(&saved.bos) {
        let has_contents = bo.alloc_flags & (alloc::VRAM | alloc::GTT) != 0;
        assert_eq!(bo.dmabuf_fd != NO_FD, has_contents);
        if has_contents {
            assert_eq!(bench.model.dma_buf_bytes(buffer_of(bo.dmabuf_fd)), Some(old.size));
        }
        let has_offset = bo.alloc_flags & alloc::USERPTR == 0;
        assert_eq!(bo.restored_offset != 0, has_offset, "{bo:x?}");
    }
    let criu = client_with_room(&mut bench, 1);
    assert_eq!(resume(&mut bench, &criu, 200), Ok(0));
    assert_eq!(resume(&mut bench, &criu, 200), Err(Errno::EINVAL), "once");
    let again = checkpoint(&mut bench, &criu, &program);
    assert_eq!(comparable(&again), comparable(&saved));
    assert_eq!(again.devices[0].actual_gpu_id, 0x6b01);
    bench.model.check().expect("every reference has a holder");
}

#[test]
fn image_of_a_restored_program_can_be_restored() {
    let saved = image();
    let (mut bench, program, placed) = elsewhere(&saved, true);
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0));
    let criu = client_with_room(&mut bench, 1);
    assert_eq!(resume(&mut bench, &criu, 200), Ok(0));
    let second = checkpoint(&mut bench, &criu, &program);
    expect(&second, "second generation", Ok(0));
}

#[test]
fn restored_program_uses_its_old_identifiers_and_handles() {
    let saved = image();
    let (mut bench, program, placed) = elsewhere(&saved, true);
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0));
    let mut args = AllocMemoryOfGpuArgs {
        va_addr: VA + (64 << 20),
        size: PAGE,
        gpu_id: IDS[1],
        flags: alloc::GTT | alloc::WRITABLE,
        ..Default::default()
    };
    assert_eq!(program.call(&mut bench, ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
    assert_eq!(args.handle, u64::from(IDS[1]) << 32 | 1, "the lowest that is free");
    let device_ids_array_ptr = bench.scratch(&program.caller, &IDS);
    let handle = args.handle;
    let mut map = MapMemoryToGpuArgs { handle, device_ids_array_ptr, n_devices: 2, n_success: 0 };
    assert_eq!(program.call(&mut bench, ioc::MAP_MEMORY_TO_GPU, &mut map), Ok(0));
    args.gpu_id = 0x6b02;
    let result = program.call(&mut bench, ioc::ALLOC_MEMORY_OF_GPU, &mut args);
    assert_eq!(result, Err(Errno::EINVAL), "the GPU's own identifier is not known to it");
}

#[test]
fn restored_queue_goes_on_when_it_is_resumed() {
    let mut source = node(&IDS, true);
    let (old, _) = Program::with_everything(&mut source, 100, &IDS);
    let criu = client_with_room(&mut source, 1);
    let saved = checkpoint(&mut source, &criu, &old);
    let (mut bench, program, placed) = elsewhere(&saved, true);
    let (result, bos) = restore(&mut bench, &program, &placed, |_| ());
    assert_eq!(result, Ok(0));
    for bo in bos.iter().filter(|bo| bo.dmabuf_fd != NO_FD) {
        let store = Store::Gpu(GpuIndex(u8::from(bo.gpu_id == IDS[1])));
        let mut bytes = vec![0; bo.size as usize];
        source.world.read_pages(PagesAt { store, offset: bo.offset }, &mut bytes);
        bench.world.write_pages(PagesAt { store, offset: bo.restored_offset }, &bytes);
    }
    let offset = bos[0].restored_offset + 64;
    let target = PagesAt { store: Store::Gpu(GpuIndex(0)), offset };
    run(&mut bench);
    assert!(!has_copy(&mut bench, target), "the write pointer says that there is work");
    let resumer = client_with_room(&mut bench, 1);
    assert_eq!(resume(&mut bench, &resumer, 200), Ok(0));
    run(&mut bench);
    assert!(has_copy(&mut bench, target));
}

#[test]
fn what_is_missing_is_refused() {
    let saved = image();
    let (mut bench, program, placed) = elsewhere(&saved, true);
    let changes: [fn(&mut CriuArgs); 7] = [
        |args| args.bos = 0,
        |args| args.devices = 0,
        |args| args.priv_data = 0,
        |args| args.priv_data_size = 0,
        |args| args.num_devices = 0,
        |args| args.num_bos = 0,
        |args| args.num_devices = 1,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let result = restore(&mut bench, &program, &placed, change).0;
        assert_eq!(result, Err(Errno::EINVAL), "change {index}");
    }
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0), "still fresh");
}

#[test]
fn addresses_are_checked() {
    let saved = image();
    let changes: [fn(&mut CriuArgs); 4] = [
        |args| args.priv_data = 0x10,
        |args| args.devices = 0x10,
        |args| args.bos = 0x10,
        |args| args.priv_data = ROOM_END - 32,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let (mut bench, program, placed) = elsewhere(&saved, true);
        // A good beginning, whose buffers lie beyond the room.
        write(&mut bench, &program.caller, ROOM_END - 32, &placed.private[..32]);
        let result = restore(&mut bench, &program, &placed, change).0;
        assert_eq!(result, Err(Errno::EFAULT), "change {index}");
        bench.model.check().expect("every reference has a holder");
    }
}

#[test]
fn version_and_retry_of_page_faults_are_checked() {
    let saved = image();
    let (mut bench, program, mut placed) = elsewhere(&saved, false);
    placed.private[0] = 2;
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Err(Errno::EINVAL));
    (placed.private[0], placed.private[4]) = (1, 1);
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Err(Errno::EPERM));
    placed.private[4] = 0;
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0));
    let mut saved = saved;
    saved.private[4] = 1;
    expect(&saved, "GPUs that can", Ok(0));
}

#[test]
fn devices_are_checked() {
    let saved = image();
    type Change = fn(&mut Image);
    let changes: [(&str, Change); 5] = [
        ("no identifier", |image| image.devices[1].user_gpu_id = 0),
        ("unknown GPU", |image| image.devices[1].actual_gpu_id = 0x5a02),
        ("no descriptor", |image| image.devices[1].drm_fd = 999),
        ("render node of the other", |image| image.devices[1].drm_fd = image.devices[0].drm_fd),
        ("the same GPU twice", |image| image.devices[1] = image.devices[0]),
    ];
    for (what, change) in changes {
        let (mut bench, program, mut placed) = elsewhere(&saved, true);
        change(&mut placed);
        let result = restore(&mut bench, &program, &placed, |_| ()).0;
        assert_eq!(result, Err(Errno::EINVAL), "{what}");
        bench.model.check().expect("every reference has a holder");
    }
}

#[test]
fn render_node_that_is_used_already_is_refused() {
    let saved = image();
    let (mut bench, program, placed) = elsewhere(&saved, true);
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0));
    // The same process again, with fresh render nodes.
    let devices = place(&mut bench, &program.caller, &saved, &[0x6b01, 0x6b02]);
    let fresh = Image { devices, ..saved.clone() };
    assert_eq!(restore(&mut bench, &program, &fresh, |_| ()).0, Err(Errno::EINVAL));
    // Another process with the render nodes of the first.
    let other = Program::fresh(&mut bench, 201);
    for device in &placed.devices {
        let fd = device.drm_fd as i32;
        let file = bench.world.resolve_fd(&program.caller, fd).expect("it is open");
        bench.world.set_fd(other.caller.space, fd, file);
    }
    assert_eq!(restore(&mut bench, &other, &placed, |_| ()).0, Err(Errno::EINVAL));
    bench.model.check().expect("every reference has a holder");
}

#[test]
fn buffers_are_checked_and_nothing_exported_stays() {
    let saved = image();
    let find = |flag| {
        let found = saved.bos.iter().position(|bo| bo.alloc_flags & flag != 0);
        found.expect("there is one of everything")
    };
    let (doorbell, registers, user) =
        (find(alloc::DOORBELL), find(alloc::MMIO_REMAP), find(alloc::USERPTR));
    type Change = Box<dyn Fn(&mut Image)>;
    let last = BOS - 1;
    let changes: [(&str, Change, Errno); 11] = [
        ("gpu", Box::new(move |image| image.bos[last].gpu_id = 0x6b02), Errno::ENODEV),
        ("taken", Box::new(|image| private_of(image, 1).idr_handle = 0), Errno::ENOMEM),
        ("number", Box::new(|image| private_of(image, 1).idr_handle = u32::MAX), Errno::ENOMEM),
        (
            "peer",
            Box::new(move |image| private_of(image, last).mapped_gpuids[1] = 7),
            Errno::EINVAL,
        ),
        ("doorbell", Box::new(move |image| image.bos[doorbell].size = PAGE), Errno::EINVAL),
        ("registers", Box::new(move |image| image.bos[registers].size = 2 * PAGE), Errno::EINVAL),
        ("user", Box::new(move |image| private_of(image, user).user_addr = 0), Errno::EINVAL),
        ("flags", Box::new(|image| image.bos[2].alloc_flags = 0), Errno::EINVAL),
        ("size", Box::new(move |image| image.bos[last].size = 1 << 40), Errno::ENOMEM),
        ("nothing", Box::new(move |image| image.bos[last].size = 0), Errno::EINVAL),
        ("overlap", Box::new(move |image| image.bos[last].addr = VA), Errno::EINVAL),
    ];
    for (what, change, errno) in changes {
        let (mut bench, program, mut placed) = elsewhere(&saved, true);
        change(&mut placed);
        let (result, bos) = restore(&mut bench, &program, &placed, |_| ());
        assert_eq!(result, Err(errno), "{what}");
        assert_eq!(bos, placed.bos, "{what}: nothing is told");
        let tokens = saved.bos.iter().filter(|bo| bo.dmabuf_fd != NO_FD).count() as u64;
        let open = (1..=2 * tokens).filter(|id| {
            let node = DeviceNode::DmaBuf(BufferId(*id));
            bench.open(&program.caller, node).is_ok()
        });
        assert_eq!(open.count(), 0, "{what}: nothing exported is left");
        end(&mut bench, &[program.caller], &[]);
        assert_eq!(bench.model.buffers(), 0, "{what}");
    }
}

#[test]
fn failure_leaves_the_process_half_built() {
    let saved = image();
    let (mut bench, program, mut placed) = elsewhere(&saved, true);
    private_of(&mut placed, 1).idr_handle = 0;
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Err(Errno::ENOMEM));
    assert_eq!(bench.model.buffers(), 1);
    // It can even be resumed, as in the driver, since it came as far as buffers.
    let criu = client_with_room(&mut bench, 1);
    assert_eq!(resume(&mut bench, &criu, 200), Ok(0));
}

#[test]
fn private_data_is_read_to_its_end_and_no_further() {
    let saved = image();
    for cut in [1, 8, 100, 1000, 4000] {
        let mut image = saved.clone();
        image.private.truncate(saved.private.len() - cut);
        expect(&image, "cut", Err(Errno::EINVAL));
    }
    let mut longer = saved.clone();
    longer.private.push(0);
    expect(&longer, "longer", Err(Errno::EINVAL));
    for objects in [0, saved.objects - 1, saved.objects + 1, u32::MAX] {
        let image = Image { objects, ..saved.clone() };
        expect(&image, "another number of objects", Err(Errno::EINVAL));
    }
}

#[test]
fn objects_are_checked() {
    let saved = image();
    type Change = fn(&mut QueuePrivate);
    let changes: [(&str, Change); 4] = [
        ("kind", |queue| queue.object_type = 9),
        ("gpu", |queue| queue.gpu_id = 7),
        ("ring", |queue| queue.q_size = 3),
        ("stack", |queue| queue.ctl_stack_size = u32::MAX),
    ];
    for (what, change) in changes {
        let mut image = saved.clone();
        let record = OBJECTS_IN_PRIVATE..OBJECTS_IN_PRIVATE + size_of::<QueuePrivate>();
        change(bytemuck::from_bytes_mut(&mut image.private[record]));
        expect(&image, what, Err(Errno::EINVAL));
    }
    let mut image = saved.clone();
    let events = OBJECTS_IN_PRIVATE + 2 * (size_of::<QueuePrivate>() + 512) + CTL_STACK_BYTES;
    let record = events..events + size_of::<EventPrivate>();
    let first: &mut EventPrivate = bytemuck::from_bytes_mut(&mut image.private[record]);
    assert_eq!(
        (first.object_type, first.user_handle),
        (object::EVENT, u64::from(IDS[0]) << 32 | 1)
    );
    first.user_handle = 77;
    expect(&image, "page", Err(Errno::EINVAL));
}

#[test]
fn resume_is_for_restored_processes() {
    let saved = image();
    let (mut bench, program, _) = elsewhere(&saved, true);
    let criu = client_with_room(&mut bench, 1);
    let plain = client_with_room(&mut bench, 2);
    assert_eq!(resume(&mut bench, &criu, 999), Err(Errno::ESRCH));
    assert_eq!(resume(&mut bench, &criu, plain.pid), Err(Errno::ESRCH));
    assert_eq!(resume(&mut bench, &criu, program.caller.pid), Err(Errno::EINVAL));
    let kfd = bench.kfd(&criu);
    let weak = Caller { can_checkpoint: false, ..criu };
    let mut args = CriuArgs { op: op::RESUME, pid: 200, ..Default::default() };
    assert_eq!(operate(&mut bench, &weak, kfd, &mut args), Err(Errno::EACCES));
}

#[test]
fn ring_that_is_mapped_twice_halves_unless_its_size_is_doubled() {
    let mut source = node(&IDS, true);
    let old = Program::bound(&mut source, 100, &IDS);
    let flags = alloc::GTT | alloc::WRITABLE | alloc::AQL_QUEUE_MEM;
    old.alloc(&mut source, 0, (VA, 4 * PAGE), flags, 0);
    let criu = client_with_room(&mut source, 1);
    let saved = checkpoint(&mut source, &criu, &old);
    for (factor, expected) in [(1, PAGE), (2, 2 * PAGE)] {
        let (mut bench, program, mut placed) = elsewhere(&saved, true);
        placed.bos[0].size *= factor;
        assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0));
        let criu = client_with_room(&mut bench, 1);
        let again = checkpoint(&mut bench, &criu, &program);
        assert_eq!(again.bos[0].size, expected, "as the driver does it");
    }
}

#[test]
fn shared_buffer_comes_back_as_two() {
    let mut source = node(&IDS, true);
    let old = Program::bound(&mut source, 100, &IDS);
    let flags = alloc::VRAM | alloc::WRITABLE;
    let (handle, _) = old.alloc(&mut source, 0, (VA, PAGE), flags, 0);
    let mut export = ExportDmabufArgs { handle, flags: 0, dmabuf_fd: 0 };
    assert_eq!(old.call(&mut source, ioc::EXPORT_DMABUF, &mut export), Ok(0));
    let node = DeviceNode::DmaBuf(buffer_of(export.dmabuf_fd));
    let file = source.open(&old.caller, node).expect("it was exported");
    let dmabuf_fd = source.fd(&old.caller, file) as u32;
    let (va_addr, gpu_id) = (VA + PAGE, IDS[0]);
    let mut import = ImportDmabufArgs { va_addr, handle: 0, gpu_id, dmabuf_fd };
    assert_eq!(old.call(&mut source, ioc::IMPORT_DMABUF, &mut import), Ok(0));
    let criu = client_with_room(&mut source, 1);
    let saved = checkpoint(&mut source, &criu, &old);
    assert_eq!(saved.bos[0].dmabuf_fd, saved.bos[1].dmabuf_fd);
    let (mut bench, program, placed) = elsewhere(&saved, true);
    let (result, bos) = restore(&mut bench, &program, &placed, |_| ());
    assert_eq!(result, Ok(0));
    assert_ne!(bos[0].dmabuf_fd, bos[1].dmabuf_fd, "the driver knows nothing of it");
}

#[test]
fn restored_process_leaves_nothing_behind() {
    let saved = image();
    let (mut bench, program, placed) = elsewhere(&saved, true);
    assert_eq!(restore(&mut bench, &program, &placed, |_| ()).0, Ok(0));
    let counts = pause(&mut bench, &program.caller, program.kfd).expect("it can be stopped");
    assert!(save(&mut bench, &program.caller, program.kfd, counts).is_ok());
    let files = placed.devices.iter().map(|device| {
        bench.world.resolve_fd(&program.caller, device.drm_fd as i32).expect("it is open")
    });
    let files: Vec<_> = files.collect();
    end(&mut bench, &[program.caller], &files);
    assert_eq!((bench.model.buffers(), bench.world.pages_held()), (0, 0));
}
