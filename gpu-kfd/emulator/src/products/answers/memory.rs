//! `VRAM_GTT` and `MEMORY`: how much memory there is, and how much of it is taken.

use gpu_kfd::uapi::info::{HeapInfo, InfoVramGtt, MemoryInfo};

use super::super::topology::GpuSpec;
use crate::model::InfoState;

impl GpuSpec {
    /// Answer to `VRAM_GTT`.
    #[must_use]
    pub fn vram_gtt(&self, state: &InfoState) -> InfoVramGtt {
        InfoVramGtt {
            vram_size: self.vram.bytes,
            vram_cpu_accessible_size: self.vram.public_bytes,
            gtt_size: state.gtt_bytes,
        }
    }

    /// Answer to `MEMORY`.
    #[must_use]
    pub fn memory_info(&self, state: &InfoState) -> MemoryInfo {
        MemoryInfo {
            vram: heap(self.vram.bytes, state.vram_used_bytes),
            cpu_accessible_vram: heap(self.vram.public_bytes, state.vram_public_used_bytes),
            gtt: heap(state.gtt_bytes, state.gtt_used_bytes),
        }
    }
}

/// One buffer may take three quarters of what is usable.
fn heap(bytes: u64, used_bytes: u64) -> HeapInfo {
    HeapInfo {
        total_heap_size: bytes,
        usable_heap_size: bytes,
        heap_usage: used_bytes,
        max_allocation: bytes / 4 * 3,
    }
}
