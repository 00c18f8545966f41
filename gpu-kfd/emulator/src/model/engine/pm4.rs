//! The few commands in PM4 that a runtime puts into an AQL packet: flushes, writes, waits.
//!
//! ROCr does so to invalidate caches. Numbers are those of `soc15d.h` in amdgpu. Nothing here
//! starts a wave; a dispatch in PM4 is a packet that this engine does not know.

use super::code::Code;
use super::port::Port;
use super::position::{Nested, Position};
use super::step::{Step, Trouble, part};

/// Words that show every packet whole but no-ops and writes.
const PEEK_WORDS: usize = 8;

/// Bytes of a write before its data.
const WRITE_HEAD_BYTES: u64 = 16;

mod op {
    pub(super) const NOP: u32 = 0x10;
    pub(super) const CONTEXT_CONTROL: u32 = 0x28;
    pub(super) const WRITE_DATA: u32 = 0x37;
    pub(super) const WAIT_REG_MEM: u32 = 0x3c;
    pub(super) const EVENT_WRITE: u32 = 0x46;
    pub(super) const RELEASE_MEM: u32 = 0x49;
    pub(super) const ACQUIRE_MEM: u32 = 0x58;
    pub(super) const SET_SH_REG: u32 = 0x76;
    pub(super) const SET_UCONFIG_REG: u32 = 0x79;
}

/// Word of a packet of type 2: a no-op without a body.
const TYPE_2: u32 = 2;
const TYPE_3: u32 = 3;

/// Count of a no-op that is one word.
const COUNT_NONE: u32 = 0x3fff;

/// Carries out one packet of the buffer that `position` is in, or a part of it.
pub(super) fn step(
    port: &mut Port<'_>,
    nested: &mut Nested,
    position: &mut Position,
    budget: u64,
) -> Result<Step, Trouble> {
    let code = Code { base: nested.va, ring_bytes: None, at: nested.at, end: nested.len_bytes };
    let mut words = [0; PEEK_WORDS];
    let words = code.peek(port, &mut words)?;
    let Some(&header) = words.first() else { return Ok(Step::Idle) };
    let (operation, count) = (header >> 8 & 0xff, header >> 16 & 0x3fff);
    let length = match header >> 30 {
        TYPE_2 => 1,
        TYPE_3 if operation == op::NOP && count == COUNT_NONE => 1,
        TYPE_3 => u64::from(count) + 2,
        _ => return Err(Trouble::Packet),
    };
    if length > code.words_left() {
        return Err(Trouble::Packet);
    }
    let body = &words[1..];
    let mut end = Step::Packet(0);
    match operation {
        _ if header >> 30 == TYPE_2 => {}
        op::WRITE_DATA if length >= 5 => {
            end = write_data(port, &code, (body, length), &mut position.done, budget)?;
            if matches!(end, Step::Moved(_)) {
                return Ok(end);
            }
        }
        op::WAIT_REG_MEM if length == 7 && body[0] >> 4 & 3 == 1 => {
            let value = port.read_u32(address(body, 1))? & body[4];
            if !holds(body[0] & 7, value, body[3]) {
                return Ok(Step::Waits);
            }
        }
        op::RELEASE_MEM if length == 8 => end = release_mem(port, body)?,
        op::NOP
        | op::CONTEXT_CONTROL
        | op::WAIT_REG_MEM
        | op::EVENT_WRITE
        | op::ACQUIRE_MEM
        | op::SET_SH_REG
        | op::SET_UCONFIG_REG => {}
        _ => return Err(Trouble::Packet),
    }
    nested.at += length * 4;
    position.done = 0;
    Ok(end)
}

fn address(body: &[u32], at: usize) -> u64 {
    u64::from(body[at]) | u64::from(body[at + 1]) << 32
}

/// Writes the words behind the address. Registers are not for user queues.
fn write_data(
    port: &mut Port<'_>,
    code: &Code,
    (body, length): (&[u32], u64),
    done: &mut u64,
    budget: u64,
) -> Result<Step, Trouble> {
    if !matches!(body[0] >> 8 & 0xf, 2 | 5) {
        return Ok(Step::Packet(0));
    }
    let total = length * 4 - WRITE_HEAD_BYTES;
    let (from, to) = (WRITE_HEAD_BYTES + *done, address(body, 1).wrapping_add(*done));
    let moved = code.copy_out(port, from, to, part(total.saturating_sub(*done), budget))?;
    *done += moved;
    Ok(if *done < total { Step::Moved(moved) } else { Step::Packet(moved) })
}

/// Writes a value when all before it is done, and interrupts the host if that is asked for.
fn release_mem(port: &mut Port<'_>, body: &[u32]) -> Result<Step, Trouble> {
    let to = address(body, 2);
    match body[1] >> 29 {
        1 => port.write_u32(to, body[4])?,
        2 => port.write_u64(to, address(body, 4))?,
        3 => {
            let clock = port.clock();
            port.write_u64(to, clock)?;
        }
        _ => {}
    }
    let interrupts = body[1] >> 24 & 7 != 0;
    Ok(if interrupts { Step::Interrupt(body[6], 0) } else { Step::Packet(0) })
}

fn holds(function: u32, value: u32, reference: u32) -> bool {
    match function {
        1 => value < reference,
        2 => value <= reference,
        3 => value == reference,
        4 => value != reference,
        5 => value >= reference,
        6 => value > reference,
        _ => true,
    }
}
