//! Takes a thread's floating-point and vector state out of an XSAVE area, as the images hold it:
//! one array for each component, wherever this processor keeps it.
//!
//! State that the images have no place for is an error, never dropped.

use criu_image::record::{UserX86FpregsEntry, UserX86XsaveEntry};

/// Offset of the XSAVE header, and where it ends.
const HEADER: usize = 512;
const EXTENDED: usize = 576;
/// Where the kernel notes which components the area has room for (`sw_reserved`, Linux 6.18).
const ENABLED: usize = 464;

/// Components that the images have arrays for (Intel SDM volume 1, chapter 13): x87, SSE, AVX, both
/// of MPX, the three of AVX-512, PKRU.
const KNOWN: u64 = 0b10_1111_1111;

/// Where this processor keeps each component: size and offset in bytes. Asked once, since asking
/// traps where the processor is virtual.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    components: [(usize, usize); 10],
}

impl Layout {
    pub(crate) fn of_host() -> Self {
        let mut components = [(0, 0); 10];
        for number in [2u32, 3, 4, 5, 6, 7, 9] {
            let layout = std::arch::x86_64::__cpuid_count(0xd, number);
            components[number as usize] = (layout.eax as usize, layout.ebx as usize);
        }
        Self { components }
    }
}

/// The state in `area`, as the kernel gives it for a stopped task; the error has the bits of
/// components in use that the images cannot hold.
pub(super) fn read(area: &[u8], layout: &Layout) -> Result<UserX86FpregsEntry, u64> {
    let half = |at: usize| u32::from(u16::from_le_bytes([area[at], area[at + 1]]));
    let mut entry = UserX86FpregsEntry {
        cwd: half(0),
        swd: half(2),
        twd: half(4),
        fop: half(6),
        rip: word(area, 8),
        rdp: word(area, 16),
        mxcsr: word(area, 24) as u32,
        mxcsr_mask: (word(area, 24) >> 32) as u32,
        st_space: words32(&area[32..160]),
        xmm_space: words32(&area[160..416]),
        padding: Vec::new(),
        xsave: None,
    };
    if area.len() < EXTENDED {
        return Ok(entry);
    }
    let (present, enabled) = (word(area, HEADER), word(area, ENABLED));
    if present & !KNOWN != 0 {
        return Err(present & !KNOWN);
    }
    let component = |number: u32, len: usize| -> &[u8] {
        let (size, offset) = layout.components[number as usize];
        let has = enabled >> number & 1 != 0 && size != 0 && offset + size <= area.len();
        if has { &area[offset..offset + size.min(len)] } else { &[] }
    };
    entry.xsave = Some(UserX86XsaveEntry {
        xstate_bv: present,
        ymmh_space: words32(component(2, 256)),
        bndreg_state: words64(component(3, 64)),
        bndcsr_state: words64(component(4, 64)),
        opmask_reg: words64(component(5, 64)),
        zmm_upper: words64(component(6, 512)),
        hi16_zmm: words64(component(7, 1024)),
        pkru: words32(component(9, 8)),
        cet: None,
    });
    Ok(entry)
}

fn word(area: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(area[at..at + 8].try_into().expect("eight bytes"))
}

fn words32(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.chunks_exact(4);
    words.map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

fn words64(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|bytes| word(bytes, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Layout, read};

    #[test]
    fn state_without_a_place_is_refused() {
        let mut area = vec![0; 4096];
        area[HEADER] = 3;
        assert_eq!(
            read(&area, &Layout::of_host())
                .expect("x87 and SSE")
                .xsave
                .expect("a header")
                .xstate_bv,
            3
        );
        area[HEADER + 2] = 2; // AMX tile configuration
        assert_eq!(read(&area, &Layout::of_host()), Err(1 << 17));
    }
}
