//! The code that a process runs while it is being restored, and the memory that it shares with us.
//!
//! A target has no libc, no stack and no data of its own: it has this page of instructions and
//! one slot of shared memory. It waits for a batch of system calls in the slot, carries them out
//! in order, stops at the first that fails, says how far it came, and waits again.
//! It refuses to outlive us: a process asks for SIGKILL at its parent's death before anything
//! else, and leaves at once if the parent has already gone; a root that is not our child looks at
//! a pidfd of ours whenever it waits.

use core::arch::global_asm;

/// Size of the code page in bytes.
pub(crate) const CODE_BYTES: usize = 4096;

/// Size of one system-call record in bytes (`Op`).
pub(crate) const OP_BYTES: usize = 80;

/// Size of the head of a slot in bytes (`SlotHead`).
pub(crate) const HEAD_BYTES: usize = 64;

/// `Op::flags`: go on with the batch although this call fails.
pub(crate) const OP_MAY_FAIL: u32 = 1;

/// `Op::flags`: the first argument is the result of the call before this one.
pub(crate) const OP_FIRST_FROM_LAST: u32 = 2;

/// `SlotHead::start`: the task is a process whose parent's death must end it.
pub(crate) const START_TIED: u32 = 1;

/// `SlotHead::start`: the task is not our child; it ends when `watched` shows that we have ended.
/// Cleared when a guard has taken over.
pub(crate) const START_WATCHING: u32 = 2;

/// How often a watching task looks, in nanoseconds.
pub(crate) const WATCH_PERIOD_NS: u64 = 50_000_000;

/// One system call, as the stub reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Op {
    pub(crate) nr: u32,
    pub(crate) flags: u32,
    pub(crate) args: [u64; 6],
    pub(crate) ret: i64,
    /// Slot of the new task, if this call makes one; else 0.
    pub(crate) child_slot: u64,
    pub(crate) pad: u64,
}

/// Head of a slot. `posted` and `done` are futex words.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct SlotHead {
    /// Number of batches posted; written by the restorer.
    pub(crate) posted: u32,
    /// Number of batches finished; written by the stub.
    pub(crate) done: u32,
    /// Calls in the posted batch.
    pub(crate) count: u32,
    /// Calls of the finished batch that did not fail before the first failure.
    pub(crate) completed: u32,
    /// `START_*` bits.
    pub(crate) start: u32,
    /// Pid that `getppid` must return when the task begins, if `START_TIED`.
    pub(crate) parent: u32,
    /// `struct pollfd` of a pidfd of the restorer: descriptor, then `POLLIN`.
    pub(crate) watched: [i32; 2],
    pub(crate) pad: [u64; 2],
    /// `struct timespec` of `WATCH_PERIOD_NS`.
    pub(crate) period: [u64; 2],
}

const _: () = {
    assert!(size_of::<Op>() == OP_BYTES);
    assert!(core::mem::offset_of!(Op, args) == 8);
    assert!(core::mem::offset_of!(Op, ret) == 56);
    assert!(core::mem::offset_of!(Op, child_slot) == 64);
    assert!(size_of::<SlotHead>() == HEAD_BYTES);
    assert!(core::mem::offset_of!(SlotHead, done) == 4);
    assert!(core::mem::offset_of!(SlotHead, completed) == 12);
    assert!(core::mem::offset_of!(SlotHead, parent) == 20);
    assert!(core::mem::offset_of!(SlotHead, watched) == 24);
    assert!(core::mem::offset_of!(SlotHead, period) == 48);
};

// r12 slot, r13d batch number, rbx current op, r14d its index, ebp batch length, r15 child's slot.
// The numbers are those of the x86-64 system-call table; none of these registers is touched by
// `syscall` (which clobbers rax, rcx and r11 only).
global_asm!(
    ".pushsection .text.thaw_stub,\"ax\",@progbits",
    ".balign 64",
    ".globl thaw_stub_begin",
    ".hidden thaw_stub_begin",
    "thaw_stub_begin:",
    "    xor r13d, r13d",
    "    test dword ptr [r12 + 16], 1",
    "    jz 20f",
    "    mov eax, 157", // prctl(PR_SET_PDEATHSIG, SIGKILL)
    "    mov edi, 1",
    "    mov esi, 9",
    "    syscall",
    "    mov eax, 110", // getppid
    "    syscall",
    "    cmp eax, dword ptr [r12 + 20]",
    "    jne 90f",
    "20: mov eax, dword ptr [r12]",
    "    cmp eax, r13d",
    "    jne 40f",
    "    mov eax, 202", // futex(&posted, FUTEX_WAIT, r13d, no limit or the period)
    "    mov rdi, r12",
    "    xor esi, esi",
    "    mov edx, r13d",
    "    xor r10d, r10d",
    "    test dword ptr [r12 + 16], 2",
    "    jz 30f",
    "    lea r10, [r12 + 48]",
    "30: syscall",
    "    cmp rax, -110", // ETIMEDOUT
    "    jne 20b",
    "    test dword ptr [r12 + 16], 2",
    "    jz 20b",
    "    mov eax, 7", // poll(&watched, 1, 0)
    "    lea rdi, [r12 + 24]",
    "    mov esi, 1",
    "    xor edx, edx",
    "    syscall",
    "    test eax, eax",
    "    jg 90f",
    "    jmp 20b",
    "40: mov r13d, eax",
    "    lea rbx, [r12 + 64]",
    "    mov ebp, dword ptr [r12 + 8]",
    "    xor r14d, r14d",
    "50: cmp r14d, ebp",
    "    jae 70f",
    "    mov eax, dword ptr [rbx]",
    "    mov rdi, qword ptr [rbx + 8]",
    "    mov rsi, qword ptr [rbx + 16]",
    "    mov rdx, qword ptr [rbx + 24]",
    "    mov r10, qword ptr [rbx + 32]",
    "    mov r8, qword ptr [rbx + 40]",
    "    mov r9, qword ptr [rbx + 48]",
    "    mov r15, qword ptr [rbx + 64]",
    "    test dword ptr [rbx + 4], 2",
    "    jz 55f",
    "    mov rdi, qword ptr [rbx - 24]",
    "55: syscall",
    "    test rax, rax",
    "    jnz 60f",
    "    test r15, r15",
    "    jz 60f",
    "    mov r12, r15", // a new task: its slot is in a register, never in the parent's op
    "    jmp thaw_stub_begin",
    "60: mov qword ptr [rbx + 56], rax",
    "    test dword ptr [rbx + 4], 1",
    "    jnz 65f",
    "    cmp rax, -4095",
    "    jae 70f",
    "65: add rbx, 80",
    "    inc r14d",
    "    jmp 50b",
    "70: mov dword ptr [r12 + 12], r14d",
    "    mov dword ptr [r12 + 4], r13d",
    "    mov eax, 202", // futex(&done, FUTEX_WAKE, 1)
    "    lea rdi, [r12 + 4]",
    "    mov esi, 1",
    "    mov edx, 1",
    "    syscall",
    "    jmp 20b",
    "90: mov eax, 231", // exit_group(0)
    "    xor edi, edi",
    ".globl thaw_stub_syscall",
    ".hidden thaw_stub_syscall",
    "thaw_stub_syscall:",
    "    syscall",
    "    ud2",
    ".globl thaw_stub_end",
    ".hidden thaw_stub_end",
    "thaw_stub_end:",
    ".popsection",
);

unsafe extern "C" {
    static thaw_stub_begin: u8;
    static thaw_stub_syscall: u8;
    static thaw_stub_end: u8;
}

/// The stub's instructions, to be copied to the start of the shared region.
pub(crate) fn code() -> &'static [u8] {
    let begin = &raw const thaw_stub_begin;
    let len = (&raw const thaw_stub_end).addr() - begin.addr();
    assert!(len <= CODE_BYTES, "the stub outgrew its page");
    // SAFETY: both symbols delimit one section of this program's text, emitted above, which is
    // mapped readable for as long as the program runs and never written.
    unsafe { core::slice::from_raw_parts(begin, len) }
}

/// Offset in bytes of a `syscall` instruction in the stub that returns to a trap.
pub(crate) fn syscall_offset_bytes() -> u64 {
    ((&raw const thaw_stub_syscall).addr() - (&raw const thaw_stub_begin).addr()) as u64
}

#[cfg(test)]
mod tests {
    use super::{code, syscall_offset_bytes};

    #[test]
    fn stub_has_a_syscall_instruction_where_the_final_unmap_expects_it() {
        let at = syscall_offset_bytes() as usize;
        assert_eq!(&code()[at..at + 2], &[0x0f, 0x05]);
    }

    #[test]
    fn stub_needs_no_relocation_outside_itself() {
        // Every branch is short or near and relative; an absolute address would differ from the
        // copy's place. A jump out of the page would show as a length beyond the page.
        assert!(code().len() > 64 && code().len() < 512);
    }
}
