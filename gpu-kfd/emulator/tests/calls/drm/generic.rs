//! What every DRM device has.

use gpu_kfd::uapi::drm::{
    Client, GetCap, SetClientCap, SetClientName, SyncobjCreate, Unique, Version, cap, ioc,
};
use gpu_kfd::uapi::{amdgpu, with_argument_bytes};
use kfd_emulator::World;
use nix::errno::Errno;

use super::ready;
use crate::bench::SCRATCH;

fn text(ready: &mut super::Ready, address: u64, len: u64) -> String {
    let mut bytes = vec![0; len as usize];
    let space = ready.caller.space;
    ready.bench.world.read_user(space, address, &mut bytes).expect("scratch is mapped");
    String::from_utf8(bytes).expect("ASCII")
}

#[test]
fn version_tells_lengths_first_and_texts_then() {
    let mut ready = ready();
    let mut args = Version::default();
    assert_eq!(ready.call(ioc::VERSION, &mut args), Ok(0));
    assert_eq!((args.version_major, args.version_minor), (3, 64));
    assert!(args.name_len == 6 && args.date_len > 0 && args.desc_len > 0);
    (args.name, args.date, args.desc) = (SCRATCH, SCRATCH + 0x100, SCRATCH + 0x200);
    assert_eq!(ready.call(ioc::VERSION, &mut args), Ok(0));
    assert_eq!(text(&mut ready, args.name, args.name_len), "amdgpu");
    assert_eq!(text(&mut ready, args.desc, args.desc_len), "AMD GPU");
    assert!(!text(&mut ready, args.date, args.date_len).is_empty());
}

#[test]
fn version_writes_no_more_than_there_is_room_for() {
    let mut ready = ready();
    let mut args = Version { name: SCRATCH, name_len: 3, ..Default::default() };
    assert_eq!(ready.call(ioc::VERSION, &mut args), Ok(0));
    assert_eq!(args.name_len, 6);
    assert_eq!(text(&mut ready, SCRATCH, 6), "amd\0\0\0");
    let mut args = Version { name: 0x10, name_len: 6, ..Default::default() };
    assert_eq!(ready.call(ioc::VERSION, &mut args), Err(Errno::EFAULT));
}

#[test]
fn capabilities_are_those_of_a_device_without_display_and_sync_objects() {
    let mut ready = ready();
    let mut ask = |capability| {
        let mut args = GetCap { capability, value: 7 };
        ready.call(ioc::GET_CAP, &mut args).map(|_| args.value)
    };
    assert_eq!(ask(cap::PRIME), Ok(3));
    assert_eq!(ask(cap::TIMESTAMP_MONOTONIC), Ok(1));
    assert_eq!([ask(cap::SYNCOBJ), ask(cap::SYNCOBJ_TIMELINE)], [Ok(0), Ok(0)]);
    for capability in [cap::DUMB_BUFFER, cap::CURSOR_WIDTH, cap::CRTC_IN_VBLANK_EVENT] {
        assert_eq!(ask(capability), Err(Errno::EOPNOTSUPP), "{capability:#x}");
    }
    assert_eq!([ask(0), ask(0x15), ask(u64::MAX)], [Err(Errno::EINVAL); 3]);
    let mut args = SyncobjCreate::default();
    assert_eq!(ready.call(ioc::SYNCOBJ_CREATE, &mut args), Err(Errno::EOPNOTSUPP));
}

#[test]
fn what_is_not_for_render_nodes_is_refused() {
    let mut ready = ready();
    assert_eq!(ready.call(ioc::GET_UNIQUE, &mut Unique::default()), Err(Errno::EACCES));
    assert_eq!(ready.call(ioc::GET_CLIENT, &mut Client::default()), Err(Errno::EACCES));
    let mut args = SetClientCap::default();
    assert_eq!(ready.call(ioc::SET_CLIENT_CAP, &mut args), Err(Errno::EACCES));
    // AUTH_MAGIC, GEM_FLINK, MODE_GETRESOURCES, AMDGPU_SCHED.
    for number in [0x11, 0x0a, 0xa0, 0x55] {
        let request = with_argument_bytes(ioc::VERSION & !0xff | number, 8);
        assert_eq!(ready.call(request, &mut 0u64), Err(Errno::EACCES), "{number:#x}");
    }
}

#[test]
fn unknown_calls_are_told_apart_by_their_letter() {
    let mut ready = ready();
    for number in [0x03, 0x4a, 0x5a, 0x9f, 0xd3, 0xff] {
        let request = with_argument_bytes(ioc::VERSION & !0xff | number, 8);
        assert_eq!(ready.call(request, &mut 0u64), Err(Errno::EINVAL), "{number:#x}");
    }
    let of_kfd = gpu_kfd::uapi::kfd::ioc::GET_VERSION;
    assert_eq!(ready.call(of_kfd, &mut 0u64), Err(Errno::ENOTTY));
    // User queues.
    let request = with_argument_bytes(ioc::VERSION & !0xff | 0x56, 8);
    assert_eq!(ready.call(request, &mut 0u64), Err(Errno::EOPNOTSUPP));
}

#[test]
fn what_a_request_does_not_call_input_is_zero() {
    let mut ready = ready();
    let handle = ready.page();
    // The number of GEM_MMAP, but as if it had output only.
    let request = amdgpu::ioc::GEM_MMAP & !(1 << 30);
    let mut args = amdgpu::GemMmapIn { handle, _pad: 0 };
    assert_eq!(ready.call(request, &mut args), Err(Errno::ENOENT));
}

#[test]
fn what_a_driver_does_not_call_output_comes_back_as_it_went() {
    let mut ready = ready();
    let handle = ready.page();
    let high = 0xffff_8000_1000_0000;
    let mut args = amdgpu::GemVa {
        handle,
        operation: amdgpu::va_op::MAP,
        va_address: high,
        map_size: 4096,
        ..Default::default()
    };
    assert_eq!(ready.call(amdgpu::ioc::GEM_VA | 1 << 31, &mut args), Ok(0));
    assert_eq!(args.va_address, high);
}

#[test]
fn client_name_is_looked_at() {
    let mut ready = ready();
    let name = ready.bench.scratch(&ready.caller, b"trainer-1");
    let mut set =
        |name_len, name| ready.call(ioc::SET_CLIENT_NAME, &mut SetClientName { name_len, name });
    assert_eq!(set(9, name), Ok(0));
    assert_eq!(set(0, 0), Ok(0));
    assert_eq!(set(12, name), Err(Errno::EINVAL), "NUL is not printable");
    assert_eq!(set(65, name), Err(Errno::EINVAL));
    assert_eq!(set(4, 0x10), Err(Errno::EFAULT));
}

#[test]
fn handle_is_closed_once() {
    let mut ready = ready();
    let handle = ready.page();
    assert_eq!(ready.close(handle), Ok(0));
    assert_eq!(ready.close(handle), Err(Errno::EINVAL));
    assert_eq!(ready.bench.model.buffers(), 0);
}
