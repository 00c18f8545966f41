//! `INFO`: what a program may ask of a GPU.

use std::sync::Arc;

use bytemuck::bytes_of;
use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::create;
use gpu_kfd::uapi::info::{Info, InfoHwIp, query};
use gpu_kfd::uapi::submit::hw_ip;

use super::answers::{ENGINE_KINDS, InfoSource, InfoState};
use super::submit::ibs_max;
use crate::model::memory::Kind;
use crate::model::world::GpuIndex;
use crate::model::{Call, Model};

/// Instances of a kind of engine that can be asked for (`AMDGPU_HW_IP_INSTANCE_MAX_COUNT`).
const INSTANCES_MAX: u32 = 2;

/// Most registers that one query reads.
const REGISTERS_MAX: u32 = 128;

/// Where the shader engine and array of a register read stand, and what means all of them.
const PLACE_MASK: u32 = 0xff;
const ARRAY_SHIFT: u32 = 8;
/// Shader engines, and arrays in one, that there may be (`AMDGPU_GFX_MAX_SE`,
/// `AMDGPU_GFX_MAX_SH_PER_SE`).
const SHADER_ENGINES_MAX: u32 = 4;
const SHADER_ARRAYS_MAX: u32 = 2;

/// Size of the answer to `VCE_CLOCK_TABLE`: six entries of 16 bytes, and their number.
const VCE_CLOCK_TABLE_BYTES: usize = 104;

/// Size of the answer to `GPUVM_FAULT`: address, status, hub.
const GPUVM_FAULT_BYTES: usize = 16;

/// Nanoseconds of one tick of the reference clock: 100 MHz.
const TICK_NS: u64 = 10;

impl Model {
    /// Says who answers what is asked of a GPU, in place of a plain one of its configuration. No
    /// effect if there is no such GPU.
    pub fn set_info_source(&mut self, gpu: GpuIndex, source: Arc<dyn InfoSource>) {
        if let Some(known) = self.info_sources.get_mut(usize::from(gpu.0)) {
            *known = source;
        }
    }

    /// # Errors
    /// `EINVAL` without room for an answer, for an unknown query, and for what a query does not
    /// know; `EFAULT`, also for a register that nobody may read; `ENODATA` for video handles.
    pub(super) fn info(&mut self, call: &mut Call<'_>, args: &mut Info) -> Result<i32, Errno> {
        if args.return_size == 0 || args.return_pointer == 0 {
            return Err(Errno::EINVAL);
        }
        check_operands(args)?;
        let gpu = self.render_of(call)?.gpu;
        let now_ns = call.world.now_ns();
        let mut answer = match fixed_answer(args)? {
            Some(answer) => answer,
            None => self.answer(gpu, args, now_ns)?,
        };
        answer.truncate(args.return_size as usize);
        call.world.write_user(call.caller.space, args.return_pointer, &answer)?;
        Ok(0)
    }

    fn answer(&self, gpu: GpuIndex, args: &Info, now_ns: u64) -> Result<Vec<u8>, Errno> {
        let state = InfoState {
            vram_used_bytes: self.memory.gpu(gpu).vram_used_bytes,
            vram_public_used_bytes: self.visible_used_bytes(gpu),
            gtt_bytes: self.memory.system_bytes(),
            gtt_used_bytes: self.used_bytes(gpu, |kind, _| kind == Kind::Gtt),
            clock: now_ns / TICK_NS,
        };
        self.info_sources[usize::from(gpu.0)].answer_info(args, &state)
    }

    /// The rings of a kind of engine, a bit for each.
    pub(super) fn rings_of(&self, gpu: GpuIndex, ip: u32) -> u32 {
        let asked = Info { query: query::HW_IP_INFO, operands: [ip, 0, 0, 0], ..Info::default() };
        let source = &self.info_sources[usize::from(gpu.0)];
        let answer = source.answer_info(&asked, &InfoState::default()).unwrap_or_default();
        let engine = answer.get(..size_of::<InfoHwIp>());
        engine.map_or(0, |bytes| bytemuck::pod_read_unaligned::<InfoHwIp>(bytes).available_rings)
    }

    fn used_bytes(&self, gpu: GpuIndex, counts: impl Fn(Kind, u64) -> bool) -> u64 {
        let of_gpu = self.memory.buffers().filter(|(_, buffer)| buffer.gpu == gpu);
        let counted = of_gpu.filter(|(_, buffer)| counts(buffer.kind, buffer.gem_flags));
        counted.map(|(_, buffer)| buffer.size_bytes).sum()
    }

    /// Device memory in use that the host may map.
    fn visible_used_bytes(&self, gpu: GpuIndex) -> u64 {
        let config = &self.memory.gpu(gpu).config;
        if config.vram_visible_bytes >= config.vram_bytes {
            return self.memory.gpu(gpu).vram_used_bytes;
        }
        let visible = |kind, flags| kind == Kind::Vram && flags & create::NO_CPU_ACCESS == 0;
        self.used_bytes(gpu, visible).min(config.vram_visible_bytes)
    }
}

/// What the driver checks before it looks at the GPU.
fn check_operands(args: &Info) -> Result<(), Errno> {
    let [_, second, third, _] = args.operands;
    let good = match args.query {
        query::HW_IP_INFO => second < INSTANCES_MAX,
        query::FW_VERSION => second == 0,
        query::READ_MMR_REG => {
            let (engine, array) = (third & PLACE_MASK, third >> ARRAY_SHIFT & PLACE_MASK);
            (engine < SHADER_ENGINES_MAX || engine == PLACE_MASK)
                && (array < SHADER_ARRAYS_MAX || array == PLACE_MASK)
                && second <= REGISTERS_MAX
        }
        _ => true,
    };
    if good { Ok(()) } else { Err(Errno::EINVAL) }
}

/// What is the same for every GPU, since it never happens here or is the driver's own.
fn fixed_answer(args: &Info) -> Result<Option<Vec<u8>>, Errno> {
    Ok(Some(match args.query {
        query::NUM_BYTES_MOVED | query::NUM_EVICTIONS | query::NUM_VRAM_CPU_PAGE_FAULTS => {
            bytes_of(&0u64).to_vec()
        }
        query::RAS_ENABLED_FEATURES => bytes_of(&0u64).to_vec(),
        query::VRAM_LOST_COUNTER => bytes_of(&0u32).to_vec(),
        query::VCE_CLOCK_TABLE => vec![0; VCE_CLOCK_TABLE_BYTES],
        query::GPUVM_FAULT => vec![0; GPUVM_FAULT_BYTES],
        query::MAX_IBS => {
            (0..ENGINE_KINDS).flat_map(|kind| (ibs_max(kind) as u32).to_le_bytes()).collect()
        }
        query::NUM_HANDLES if args.operands[0] == hw_ip::UVD => return Err(Errno::ENODATA),
        _ => return Ok(None),
    }))
}
