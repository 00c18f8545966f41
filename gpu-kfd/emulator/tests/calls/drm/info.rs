//! Queries: what the driver checks itself, what the model counts, who else answers.

use std::sync::Arc;

use bytemuck::Pod;
use gpu_kfd::uapi::amdgpu::{domain, ioc};
use gpu_kfd::uapi::info::{Info, InfoDevice, InfoHwIp, InfoVramGtt, MemoryInfo, query};
use gpu_kfd::uapi::submit::hw_ip;
use kfd_emulator::{GpuIndex, InfoSource, InfoState, World};
use nix::errno::Errno;

use super::{Ready, ready};
use crate::bench::{SCRATCH, SYSTEM_BYTES, VRAM_BYTES};

const MIB: u64 = 1 << 20;

fn ask_into<T: Pod>(
    ready: &mut Ready,
    query: u32,
    operands: [u32; 4],
    return_size: u32,
) -> Result<T, Errno> {
    let space = ready.caller.space;
    let zeros = vec![0; size_of::<T>()];
    ready.bench.world.write_user(space, SCRATCH, &zeros).expect("scratch is mapped");
    let mut args = Info { return_pointer: SCRATCH, return_size, query, operands };
    ready.call(ioc::INFO, &mut args)?;
    let mut answer = T::zeroed();
    let bytes = bytemuck::bytes_of_mut(&mut answer);
    ready.bench.world.read_user(space, SCRATCH, bytes).expect("scratch is mapped");
    Ok(answer)
}

fn ask<T: Pod>(ready: &mut Ready, query: u32, operands: [u32; 4]) -> Result<T, Errno> {
    ask_into(ready, query, operands, size_of::<T>() as u32)
}

#[test]
fn libdrm_finds_what_it_needs() {
    let mut ready = ready();
    assert_eq!(ask::<u32>(&mut ready, query::ACCEL_WORKING, [0; 4]), Ok(1));
    let device: InfoDevice = ask(&mut ready, query::DEV_INFO, [0; 4]).expect("an answer");
    assert!(device.family >= 141 && device.virtual_address_max > 1 << 32);
    let registers = [0x263e, 1, u32::MAX, 0];
    assert!(ask::<u32>(&mut ready, query::READ_MMR_REG, registers).expect("readable") != 0);
    let sdma: InfoHwIp = ask(&mut ready, query::HW_IP_INFO, [hw_ip::DMA, 0, 0, 0]).expect("known");
    assert!(sdma.available_rings != 0);
}

#[test]
fn answer_is_cut_to_the_room() {
    let mut ready = ready();
    let cut: InfoVramGtt = ask_into(&mut ready, query::VRAM_GTT, [0; 4], 8).expect("an answer");
    assert_eq!((cut.vram_size, cut.gtt_size), (VRAM_BYTES, 0));
    let none = ask_into::<u32>(&mut ready, query::ACCEL_WORKING, [0; 4], 0);
    assert_eq!(none, Err(Errno::EINVAL));
    let mut args =
        Info { return_pointer: 0, return_size: 4, query: query::ACCEL_WORKING, operands: [0; 4] };
    assert_eq!(ready.call(ioc::INFO, &mut args), Err(Errno::EINVAL));
    args.return_pointer = 0x10;
    assert_eq!(ready.call(ioc::INFO, &mut args), Err(Errno::EFAULT));
}

#[test]
fn memory_in_use_is_what_buffers_take() {
    let mut ready = ready();
    let device = ready.create(3 * MIB, domain::VRAM, 0).expect("there is room");
    ready.create(2 * MIB, domain::GTT, 0).expect("there is room");
    assert_eq!(ask::<u64>(&mut ready, query::VRAM_USAGE, [0; 4]), Ok(3 * MIB));
    assert_eq!(ask::<u64>(&mut ready, query::VIS_VRAM_USAGE, [0; 4]), Ok(3 * MIB));
    assert_eq!(ask::<u64>(&mut ready, query::GTT_USAGE, [0; 4]), Ok(2 * MIB));
    let memory: MemoryInfo = ask(&mut ready, query::MEMORY, [0; 4]).expect("an answer");
    assert_eq!((memory.vram.total_heap_size, memory.vram.heap_usage), (VRAM_BYTES, 3 * MIB));
    assert_eq!((memory.gtt.total_heap_size, memory.gtt.heap_usage), (SYSTEM_BYTES, 2 * MIB));
    assert_eq!(ready.close(device), Ok(0));
    assert_eq!(ask::<u64>(&mut ready, query::VRAM_USAGE, [0; 4]), Ok(0));
}

#[test]
fn counters_that_never_count_and_the_clock_that_does() {
    let mut ready = ready();
    for query in [query::NUM_BYTES_MOVED, query::NUM_EVICTIONS, query::NUM_VRAM_CPU_PAGE_FAULTS] {
        assert_eq!(ask::<u64>(&mut ready, query, [0; 4]), Ok(0), "{query:#x}");
    }
    assert_eq!(ask::<u32>(&mut ready, query::VRAM_LOST_COUNTER, [0; 4]), Ok(0));
    ready.bench.world.advance_ns(5000);
    assert_eq!(ask::<u64>(&mut ready, query::TIMESTAMP, [0; 4]), Ok(500));
    let limits: [u32; 10] = ask(&mut ready, query::MAX_IBS, [0; 4]).expect("an answer");
    assert_eq!((limits[0], limits[1], limits[2], limits[8]), (192, 125, 49, 16));
}

#[test]
fn queries_are_checked() {
    let mut ready = ready();
    let refused = [
        (query::CRTC_FROM_ID, [0; 4]),
        (query::HW_IP_INFO, [10, 0, 0, 0]),
        (query::HW_IP_INFO, [hw_ip::DMA, 2, 0, 0]),
        (query::HW_IP_COUNT, [10, 0, 0, 0]),
        (query::FW_VERSION, [4, 1, 0, 0]),
        (query::READ_MMR_REG, [0x263e, 129, u32::MAX, 0]),
        (query::READ_MMR_REG, [0x263e, 1, 0x00_04, 0]),
        (query::READ_MMR_REG, [0x263e, 1, 0x02_00, 0]),
        (query::NUM_HANDLES, [hw_ip::GFX, 0, 0, 0]),
        (query::VIDEO_CAPS, [0; 4]),
        (query::UQ_FW_AREAS, [0; 4]),
        (0x1000, [0; 4]),
    ];
    for (query, operands) in refused {
        let result = ask::<u32>(&mut ready, query, operands);
        assert_eq!(result, Err(Errno::EINVAL), "{query:#x} {operands:x?}");
    }
    let secret = ask::<u32>(&mut ready, query::READ_MMR_REG, [0x1234, 1, u32::MAX, 0]);
    assert_eq!(secret, Err(Errno::EFAULT));
    let handles = ask::<u32>(&mut ready, query::NUM_HANDLES, [hw_ip::UVD, 0, 0, 0]);
    assert_eq!(handles, Err(Errno::ENODATA));
    // A kind of engine that is not there has no rings; that is no error.
    let video: InfoHwIp = ask(&mut ready, query::HW_IP_INFO, [hw_ip::VCN_DEC, 0, 0, 0]).expect("0");
    assert_eq!(video, InfoHwIp::default());
}

#[derive(Debug)]
struct Nineteen;

impl InfoSource for Nineteen {
    fn answer_info(&self, info: &Info, state: &InfoState) -> Result<Vec<u8>, Errno> {
        match info.query {
            query::ACCEL_WORKING => Ok(19u32.to_le_bytes().to_vec()),
            query::VRAM_USAGE => Ok((state.vram_used_bytes + 19).to_le_bytes().to_vec()),
            _ => Err(Errno::EINVAL),
        }
    }
}

#[test]
fn each_gpu_may_be_answered_for_by_somebody_else() {
    let mut ready = ready();
    ready.bench.model.set_info_source(GpuIndex(0), Arc::new(Nineteen));
    ready.bench.model.set_info_source(GpuIndex(7), Arc::new(Nineteen));
    assert_eq!(ask::<u32>(&mut ready, query::ACCEL_WORKING, [0; 4]), Ok(19));
    ready.create(MIB, domain::VRAM, 0).expect("there is room");
    assert_eq!(ask::<u64>(&mut ready, query::VRAM_USAGE, [0; 4]), Ok(MIB + 19));
    ready.file = ready.bench.render(&ready.caller, 1);
    assert_eq!(ask::<u32>(&mut ready, query::ACCEL_WORKING, [0; 4]), Ok(1));
}
