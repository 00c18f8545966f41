//! Puts a thread's floating-point and vector state, as the images hold it, into an XSAVE area.
//!
//! The images keep one array for each component; where a component lies in the area differs
//! between processors (`cpuid` leaf 0xd), so it is placed by this host's layout. State that
//! this host cannot hold is an error, never dropped.

use criu_image::record::UserX86FpregsEntry;

/// Components of the XSAVE area (Intel SDM volume 1, chapter 13).
const AVX: u32 = 2;
const BNDREGS: u32 = 3;
const BNDCSR: u32 = 4;
const OPMASK: u32 = 5;
const ZMM_HI256: u32 = 6;
const HI16_ZMM: u32 = 7;
const PKRU: u32 = 9;

/// Offset of the XSAVE header (`xstate_bv`, `xcomp_bv`).
const HEADER: usize = 512;
/// End of the header, and of the smallest area.
const EXTENDED: usize = 576;
/// x87 and SSE, which are in the legacy part and always present.
const LEGACY_BITS: u64 = 3;

/// Why the state does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XstateError {
    /// The component is not enabled on this host, or its size differs.
    #[error(
        "vector state component {component} ({saved_bytes} bytes) does not fit this processor \
         ({here_bytes} bytes)"
    )]
    Component {
        /// Number of the component.
        component: u32,
        /// Size in the images.
        saved_bytes: usize,
        /// Size here; 0 if absent.
        here_bytes: usize,
    },
    /// The legacy part has the wrong size.
    #[error("floating-point state has {got} words where {expected} are expected")]
    Legacy {
        /// Words in the images.
        got: usize,
        /// Words of an FXSAVE image.
        expected: usize,
    },
}

impl XstateError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Component { .. } => "restore.vector-state",
            Self::Legacy { .. } => "restore.float-state",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Component { .. } => {
                Some("restore on a processor with the features of the one of the dump")
            }
            Self::Legacy { .. } => {
                Some("dump again: the images are not as the kernel has such state")
            }
        }
    }
}

/// Fills `area` (as read from a task of this host) with the saved state.
///
/// # Errors
/// See [`XstateError`].
pub(in crate::engine) fn fill(
    area: &mut [u8],
    saved: &UserX86FpregsEntry,
) -> Result<(), XstateError> {
    legacy(area, saved)?;
    let Some(xsave) = &saved.xsave else {
        if area.len() >= EXTENDED {
            put64(area, HEADER, LEGACY_BITS);
        }
        return Ok(());
    };
    let mut present = xsave.xstate_bv & LEGACY_BITS;
    let components: [(u32, Vec<u8>); 7] = [
        (AVX, bytes32(&xsave.ymmh_space)),
        (BNDREGS, bytes64(&xsave.bndreg_state)),
        (BNDCSR, bytes64(&xsave.bndcsr_state)),
        (OPMASK, bytes64(&xsave.opmask_reg)),
        (ZMM_HI256, bytes64(&xsave.zmm_upper)),
        (HI16_ZMM, bytes64(&xsave.hi16_zmm)),
        (PKRU, bytes32(&xsave.pkru)),
    ];
    for (component, bytes) in components {
        if bytes.is_empty() || xsave.xstate_bv >> component & 1 == 0 {
            continue; // in its initial state
        }
        place(area, component, &bytes)?;
        present |= 1 << component;
    }
    put64(area, HEADER, present);
    put64(area, HEADER + 8, 0); // standard, not compacted, format
    Ok(())
}

fn legacy(area: &mut [u8], saved: &UserX86FpregsEntry) -> Result<(), XstateError> {
    for (got, expected) in [(saved.st_space.len(), 32), (saved.xmm_space.len(), 64)] {
        if got != expected {
            return Err(XstateError::Legacy { got, expected });
        }
    }
    let mut head = Vec::with_capacity(32);
    for half in [saved.cwd, saved.swd, saved.twd, saved.fop] {
        head.extend((half as u16).to_le_bytes());
    }
    head.extend(saved.rip.to_le_bytes());
    head.extend(saved.rdp.to_le_bytes());
    head.extend(saved.mxcsr.to_le_bytes());
    // mxcsr_mask (28..32) is the processor's: what was read from this host stays.
    area[..28].copy_from_slice(&head);
    area[32..160].copy_from_slice(&bytes32(&saved.st_space));
    area[160..416].copy_from_slice(&bytes32(&saved.xmm_space));
    Ok(())
}

fn place(area: &mut [u8], component: u32, bytes: &[u8]) -> Result<(), XstateError> {
    let layout = std::arch::x86_64::__cpuid_count(0xd, component);
    let (size, offset) = (layout.eax as usize, layout.ebx as usize);
    let saved_bytes = bytes.len();
    // The images round PKRU's 4 bytes of content up to the component's 8.
    if size == 0 || saved_bytes > size || offset + size > area.len() {
        return Err(XstateError::Component { component, saved_bytes, here_bytes: size });
    }
    area[offset..offset + saved_bytes].copy_from_slice(bytes);
    Ok(())
}

fn put64(area: &mut [u8], at: usize, value: u64) {
    area[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn bytes32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn bytes64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
