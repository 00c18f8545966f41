//! Address spaces: the mappings as records, and which pages of them are saved.

pub(crate) mod pages;
pub(crate) mod shared;

use criu_image::record::{MmEntry, VmaEntry};
use criu_image::vma_status::{
    ANON_PRIVATE, EXT_PLUGIN, FILE_PRIVATE, FILE_SHARED, GUARD, HEAP, MEMFD, REGULAR, VDSO,
    VSYSCALL, VVAR,
};

use super::ask::Asked;
use super::facts::Facts;
use super::proc::smaps::Vma;
use super::raw;
use crate::refusal::{Refusal, RefusalKind};

/// `MAP_DROPPABLE` (linux/mman.h, Linux 6.11).
const MAP_DROPPABLE: u32 = 8;
/// The name of a private mapping of huge pages without a file.
const ANONYMOUS_HUGE: &[u8] = b"/anon_hugepage (deleted)";
/// Where the page size of a huge-page mapping stands in its flags.
const HUGE_SHIFT: u32 = 26;
/// `madvise` numbers that `VmFlags` tell of (proc(5), asm-generic/mman-common.h).
const ADVICE: [(&[u8; 2], u32); 8] = [
    (b"rr", 1),
    (b"sr", 2),
    (b"dc", 10),
    (b"mg", 12),
    (b"hg", 14),
    (b"nh", 15),
    (b"dd", 16),
    (b"wf", 18),
];

/// What a mapping is of, as the file table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Memory without a file.
    Anonymous,
    /// A file of `files.img`.
    File(u32),
    /// A memory file.
    Memory(u32),
    /// A device file of a GPU, by its path.
    Device(u32),
}

/// The word at an address of a stopped process.
pub(crate) fn word_at(pid: i32, address: u64) -> Option<u64> {
    let mut word = [0; 8];
    let read = raw::read_memory(pid, &mut word, &[(address, 8)]).ok()?;
    (read == 8).then(|| u64::from_le_bytes(word))
}

/// Why a mapping cannot be captured, if it cannot.
pub(crate) fn refuse(pid: i32, vma: &Vma) -> Option<Refusal> {
    let name = vma.name.as_slice();
    let (kind, what) = match name {
        b"[vdso]" | b"[vvar]" | b"[vvar_vclock]" | b"[vsyscall]" => return None,
        b"[uprobes]" => (RefusalKind::Uprobes, "uprobes mapping"),
        _ if name.starts_with(b"/SYSV") => {
            (RefusalKind::SysvMemory, "System V shared memory mapping")
        }
        _ if name.starts_with(b"/[aio]") => (RefusalKind::AioRing, "asynchronous I/O ring"),
        _ if name.starts_with(b"socket:[") => {
            (RefusalKind::PacketSocket, "mapping of a packet socket")
        }
        _ if name.starts_with(b"anon_inode:") => {
            (RefusalKind::KernelObject, "mapping of a kernel object")
        }
        _ if vma.has(b"ss") => (RefusalKind::ShadowStack, "shadow stack"),
        _ if vma.has(b"pf") || vma.has(b"io") => (RefusalKind::DeviceMapping, "device mapping"),
        _ if vma.has(b"um") || vma.has(b"uw") || vma.has(b"ui") => {
            (RefusalKind::Userfaultfd, "memory under userfaultfd")
        }
        _ => return None,
    };
    let place =
        format!("mapping {:#x}-{:#x} {}", vma.start, vma.end, String::from_utf8_lossy(name));
    Some(Refusal::new(kind, what, place.trim_end(), pid as u32))
}

/// Whether the kernel makes this mapping itself.
fn special(vma: &Vma) -> Option<u32> {
    Some(match vma.name.as_slice() {
        b"[vdso]" => REGULAR | ANON_PRIVATE | VDSO,
        b"[vvar]" | b"[vvar_vclock]" => REGULAR | ANON_PRIVATE | VVAR,
        b"[vsyscall]" => ANON_PRIVATE | VSYSCALL,
        _ => return None,
    })
}

/// The record of one mapping.
fn entry(vma: &Vma, source: Source, access: Option<u32>, heap: (u64, u64)) -> VmaEntry {
    let mut flags = if vma.shared { libc::MAP_SHARED } else { libc::MAP_PRIVATE } as u32;
    let mut status = special(vma).unwrap_or(REGULAR);
    let is_special = status != REGULAR;
    let mut shmid = 0;
    match source {
        Source::Anonymous => {
            flags |= libc::MAP_ANONYMOUS as u32;
            status |= ANON_PRIVATE;
            if !is_special && vma.start < heap.1 && vma.end > heap.0 {
                status |= HEAP;
            }
        }
        Source::File(id) | Source::Memory(id) | Source::Device(id) => {
            shmid = u64::from(id);
            status |= if vma.shared { FILE_SHARED } else { FILE_PRIVATE };
            status |= match source {
                Source::Memory(_) => MEMFD,
                Source::Device(_) => EXT_PLUGIN,
                _ => 0,
            };
        }
    }
    let bits: [(&[u8; 2], u32); 4] = [
        (b"gd", libc::MAP_GROWSDOWN as u32),
        (b"lo", libc::MAP_LOCKED as u32),
        (b"nr", libc::MAP_NORESERVE as u32),
        (b"ht", libc::MAP_HUGETLB as u32 | (vma.page_kib << 10).trailing_zeros() << HUGE_SHIFT),
    ];
    flags |= bits.iter().filter(|(flag, _)| vma.has(flag)).map(|(_, bit)| bit).sum::<u32>();
    if vma.has(b"dp") {
        flags = flags & !(libc::MAP_PRIVATE as u32) | MAP_DROPPABLE;
    }
    let madv = ADVICE.iter().filter(|(flag, _)| vma.has(flag)).map(|(_, bit)| 1u64 << bit).sum();
    VmaEntry {
        start: vma.start,
        end: vma.end,
        pgoff: if source == Source::Anonymous { 0 } else { vma.offset_bytes },
        shmid,
        prot: vma.prot,
        flags,
        status,
        fd: -1,
        madv: Some(madv).filter(|&bits| bits != 0),
        fdflags: access,
    }
}

/// A range of pages that are guarded (`MADV_GUARD_INSTALL`), as upstream lists them.
fn guard(start: u64, end: u64) -> VmaEntry {
    VmaEntry { start, end, status: GUARD, fd: -1, ..VmaEntry::default() }
}

/// The kernel's data pages for the vdso are several mappings since Linux 6.13, and one to CRIU.
fn is_one_vvar(last: &mut VmaEntry, next: &VmaEntry) -> bool {
    let both = last.status & next.status & VVAR != 0 && last.end == next.start;
    if both {
        last.end = next.end;
    }
    both
}

/// Everything of `mm-<pid>.img`, with what each mapping is of and the guarded ranges.
pub(crate) fn mm(
    facts: &Facts,
    asked: &Asked,
    exe: u32,
    sources: &[Source],
    guards: &[(u64, u64)],
) -> MmEntry {
    let stat = &facts.stat;
    let heap = (stat.start_brk, asked.brk);
    let accesses = facts.mapped.iter().map(|mapped| mapped.map(|(_, access)| access));
    let vmas = facts.vmas.iter().zip(sources).zip(accesses);
    let mut vmas: Vec<VmaEntry> = vmas
        .map(|((vma, &source), access)| {
            entry(vma, source, access.filter(|_| source != Source::Anonymous), heap)
        })
        .collect();
    vmas.dedup_by(|next, last| is_one_vvar(last, next));
    vmas.extend(guards.iter().map(|&(start, end)| guard(start, end)));
    MmEntry {
        mm_start_code: stat.start_code,
        mm_end_code: stat.end_code,
        mm_start_data: stat.start_data,
        mm_end_data: stat.end_data,
        mm_start_stack: stat.start_stack,
        mm_start_brk: stat.start_brk,
        mm_brk: asked.brk,
        mm_arg_start: stat.arg_start,
        mm_arg_end: stat.arg_end,
        mm_env_start: stat.env_start,
        mm_env_end: stat.env_end,
        exe_file_id: exe,
        mm_saved_auxv: facts.auxv.clone(),
        vmas,
        dumpable: Some(asked.dumpable),
        aios: Vec::new(),
        thp_disabled: Some(facts.leader().status.thp_disabled),
    }
}

/// Whether a mapping's own pages are saved with its process, if it is none of a device. Droppable
/// ones may go at any time, and do so here, as upstream has it.
pub(crate) fn is_saved(vma: &Vma) -> bool {
    if vma.name == b"[vdso]" {
        return true;
    }
    special(vma).is_none() && !vma.shared && !vma.has(b"dp")
}

/// Whether a private mapping shows a file where it has no page of its own.
pub(crate) fn shows_file(vma: &Vma) -> bool {
    vma.inode != 0 && vma.name != ANONYMOUS_HUGE
}

/// Whether the file of a mapping is only how the kernel makes huge pages without one.
pub(crate) fn is_anonymous_huge(vma: &Vma) -> bool {
    vma.name == ANONYMOUS_HUGE
}
