//! Answers, as libdrm, libhsakmt and CRIU's plugin use them.

use bytemuck::{Pod, pod_read_unaligned};
use gpu_kfd::uapi::info::{
    Info, InfoDevice, InfoFirmware, InfoHwIp, InfoVramGtt, MemoryInfo, firmware, query,
};
use gpu_kfd::uapi::submit::hw_ip;
use nix::errno::Errno;

use crate::model::{InfoSource, InfoState};
use crate::products::{GpuSpec, NodeConfig, Product};

fn gpu(product: &str) -> GpuSpec {
    let config = NodeConfig::new(Product::by_name(product).expect("a product"), 1);
    config.topology().expect("a good configuration").gpus()[0]
}

fn every_gpu() -> impl Iterator<Item = GpuSpec> {
    Product::all().iter().map(|product| gpu(product.name))
}

fn ask(gpu: &GpuSpec, query: u32, operands: [u32; 4]) -> Result<Vec<u8>, Errno> {
    let info = Info { query, operands, ..Info::default() };
    gpu.answer_info(&info, &InfoState { gtt_bytes: 1 << 30, ..InfoState::default() })
}

fn answer<T: Pod>(gpu: &GpuSpec, query: u32, operands: [u32; 4]) -> T {
    pod_read_unaligned(&ask(gpu, query, operands).expect("an answer"))
}

#[test]
fn libdrm_can_initialise_on_every_product() {
    for gpu in every_gpu() {
        assert_eq!(answer::<u32>(&gpu, query::ACCEL_WORKING, [0; 4]), 1);
        let device: InfoDevice = answer(&gpu, query::DEV_INFO, [0; 4]);
        assert_eq!(device.device_id, u32::from(gpu.chip.pci.device_id));
        // Newer families are not asked for more registers; copies of 2 MiB need it too.
        assert!(device.family >= 141);
        let config: u32 = answer(&gpu, query::READ_MMR_REG, [0x263e, 1, u32::MAX, 0]);
        assert_eq!(config, gpu.chip.gb_addr_config);
        // Both ranges are cut at 4 GiB, and something is left above.
        let low = device.virtual_address_offset..device.virtual_address_max;
        assert!(low.contains(&(1 << 32)) && low.start == 1 << 16);
        let high = device.high_va_offset..device.high_va_max;
        assert!(high.contains(&(device.high_va_offset + (1 << 32))));
        assert_eq!(device.virtual_address_alignment, 4096);
    }
}

#[test]
fn device_info_counts_the_units_of_the_topology() {
    for gpu in every_gpu() {
        let device = gpu.device_info();
        assert_eq!(device.cu_active_number * gpu.chip.shader.simds_per_cu, gpu.simd_count());
        let shown: u32 = device.cu_bitmap.iter().flatten().map(|mask| mask.count_ones()).sum();
        assert_eq!(shown, gpu.chip.shader.cus_per_xcc());
        assert_eq!(device.ids_flags & 1 == 1, gpu.chip.apu);
    }
    let mi250x = gpu("gfx90a").device_info();
    assert_eq!(mi250x.cu_bitmap[3], [0x1fff, 0x1fff, 0, 0]);
    assert_eq!((mi250x.max_engine_clock, mi250x.max_memory_clock), (1_700_000, 1_600_000));
    assert_eq!((mi250x.external_rev, mi250x.pcie_gen), (0x3d, 4));
    assert_eq!(gpu("gfx942").device_info().mall_size, 256 << 20);
}

#[test]
fn engines_have_the_rings_of_the_chip() {
    let rings = |name: &str, kind| {
        let info: InfoHwIp = answer(&gpu(name), query::HW_IP_INFO, [kind, 0, 0, 0]);
        info.available_rings
    };
    assert_eq!([rings("gfx90a", hw_ip::GFX), rings("gfx90c", hw_ip::GFX)], [0, 1]);
    assert_eq!(rings("gfx90a", hw_ip::COMPUTE), 0xff);
    let copies = ["gfx90a", "gfx942", "gfx90c"].map(|name| rings(name, hw_ip::DMA));
    assert_eq!(copies, [0x1f, 0xffff, 1]);
    assert_eq!(rings("gfx90a", hw_ip::VCN_DEC), 0);
    let gpu = gpu("gfx90a");
    assert_eq!(answer::<u32>(&gpu, query::HW_IP_COUNT, [hw_ip::DMA, 0, 0, 0]), 1);
    assert_eq!(ask(&gpu, query::HW_IP_INFO, [10, 0, 0, 0]), Err(Errno::EINVAL));
    assert_eq!(ask(&gpu, query::HW_IP_COUNT, [10, 0, 0, 0]), Err(Errno::EINVAL));
}

#[test]
fn firmware_is_that_of_the_properties() {
    let mut config = NodeConfig::new(Product::by_name("gfx90a").expect("a product"), 1);
    config.gpu(0).mec_firmware = Some(77);
    config.gpu(0).sdma_firmware = Some(8);
    let gpu = config.topology().expect("a good configuration").gpus()[0];
    let version =
        |kind, index| -> InfoFirmware { answer(&gpu, query::FW_VERSION, [kind, 0, index, 0]) };
    assert_eq!(version(firmware::GFX_MEC, 0).ver, 77);
    assert_eq!(version(firmware::SDMA, 4).ver, 8);
    assert_eq!(version(firmware::GFX_ME, 0).ver, 0);
    assert_eq!(ask(&gpu, query::FW_VERSION, [firmware::SDMA, 0, 5, 0]), Err(Errno::EINVAL));
    assert_eq!(ask(&gpu, query::FW_VERSION, [firmware::MES, 0, 0, 0]), Err(Errno::EINVAL));
}

#[test]
fn memory_is_what_the_machine_has_and_what_is_used() {
    let mut config = NodeConfig::new(Product::by_name("gfx90a").expect("a product"), 1);
    config.gpu(0).vram_bytes = Some(1 << 30);
    config.gpu(0).vram_public_bytes = Some(256 << 20);
    let gpu = config.topology().expect("a good configuration").gpus()[0];
    let sizes: InfoVramGtt = answer(&gpu, query::VRAM_GTT, [0; 4]);
    assert_eq!(sizes.vram_size, 1 << 30);
    assert_eq!((sizes.vram_cpu_accessible_size, sizes.gtt_size), (256 << 20, 1 << 30));
    let state = InfoState { vram_used_bytes: 4096, gtt_used_bytes: 8192, ..InfoState::default() };
    let info = Info { query: query::MEMORY, ..Info::default() };
    let memory: MemoryInfo =
        pod_read_unaligned(&gpu.answer_info(&info, &state).expect("an answer"));
    assert_eq!((memory.vram.heap_usage, memory.gtt.heap_usage), (4096, 8192));
    assert_eq!(memory.vram.max_allocation, 3 << 28);
}

#[test]
fn counters_and_refusals_are_the_drivers() {
    let gpu = gpu("gfx942");
    let state = InfoState { clock: 99, ..InfoState::default() };
    let info = Info { query: query::TIMESTAMP, ..Info::default() };
    assert_eq!(gpu.answer_info(&info, &state), Ok(99u64.to_ne_bytes().to_vec()));
    assert_eq!(ask(&gpu, query::NUM_EVICTIONS, [0; 4]), Ok(vec![0; 8]));
    for unknown in [query::CRTC_FROM_ID, query::VBIOS, query::SENSOR, 0x1000] {
        assert_eq!(ask(&gpu, unknown, [0; 4]), Err(Errno::EINVAL), "query {unknown:#x}");
    }
    for count in [0, 129] {
        assert_eq!(ask(&gpu, query::READ_MMR_REG, [0x263e, count, 0, 0]), Err(Errno::EINVAL));
    }
    assert_eq!(ask(&gpu, query::READ_MMR_REG, [0x263d, 1, 0, 0]), Err(Errno::EFAULT));
}
