//! The SDMA engine: copies, fills, fences, waits.
//!
//! A packet is read when it is carried out, not before, and again when it goes on after a pause.
//! Its data are never held: they go from place to place by way of the port's buffer.

use gpu_kfd::uapi::sdma::{Packet, atomic};

use super::code::Code;
use super::port::Port;
use super::position::{Nested, Position};
use super::step::{Step, Trouble, part};

/// Words that show every packet whole but no-ops and writes.
const PEEK_WORDS: usize = 8;

/// Words of a packet that sends the engine into a buffer.
const INDIRECT_WORDS: u64 = 6;

/// Bytes of a write packet before its data.
const WRITE_HEAD_BYTES: u64 = 16;

/// A poll that looks for ever.
const RETRIES_ENDLESS: u32 = 0xfff;

fn advance(position: &mut Position, words: u64) {
    position.done = 0;
    match &mut position.nested {
        Some(nested) => nested.at += words * 4,
        None => position.read += words * 4,
    }
}

/// Carries out one packet, or a part of it. `outer` begins where `position` says.
pub(super) fn step(
    port: &mut Port<'_>,
    outer: Code,
    position: &mut Position,
    budget: u64,
) -> Result<Step, Trouble> {
    let code = match position.nested {
        None => outer,
        Some(nested) if nested.at >= nested.len_bytes => {
            position.nested = None;
            advance(position, INDIRECT_WORDS);
            return Ok(Step::Packet(0));
        }
        Some(Nested { va, len_bytes, at }) => {
            Code { base: va, ring_bytes: None, at, end: len_bytes }
        }
    };
    let mut words = [0; PEEK_WORDS];
    let words = code.peek(port, &mut words)?;
    if words.is_empty() {
        return Ok(Step::Idle);
    }
    let length = Packet::length(words).map_err(|_| Trouble::Packet)? as u64;
    if length > code.words_left() {
        return Err(Trouble::Packet);
    }
    if length <= PEEK_WORDS as u64 {
        let (packet, _) = Packet::decode(words).map_err(|_| Trouble::Packet)?;
        return carry_out(port, &code, position, (packet, length), budget);
    }
    if words[0] & 0xff == gpu_kfd::uapi::sdma::NOP {
        advance(position, length);
        return Ok(Step::Packet(0));
    }
    // Only a write is longer otherwise.
    let destination = u64::from(words[1]) | u64::from(words[2]) << 32;
    let total = length * 4 - WRITE_HEAD_BYTES;
    let (from, to) = (WRITE_HEAD_BYTES + position.done, destination.wrapping_add(position.done));
    let moved = code.copy_out(port, from, to, part(total.saturating_sub(position.done), budget))?;
    Ok(moved_some(position, moved, (total, length)))
}

/// `moved` bytes more of a packet with `total` bytes and `length` words are done.
fn moved_some(position: &mut Position, moved: u64, (total, length): (u64, u64)) -> Step {
    position.done += moved;
    if position.done < total {
        return Step::Moved(moved);
    }
    advance(position, length);
    Step::Packet(moved)
}

fn carry_out(
    port: &mut Port<'_>,
    code: &Code,
    position: &mut Position,
    (packet, length): (Packet, u64),
    budget: u64,
) -> Result<Step, Trouble> {
    let done = position.done;
    match packet {
        Packet::CopyLinear { source, destination, bytes } => {
            let moved = part(bytes.saturating_sub(done), budget);
            port.copy(destination.wrapping_add(done), source.wrapping_add(done), moved)?;
            return Ok(moved_some(position, moved, (bytes, length)));
        }
        Packet::Fill { destination, value, unit, bytes } => {
            let value = &value.to_le_bytes()[..unit.bytes() as usize];
            let moved = part(bytes.saturating_sub(done), budget);
            port.fill(destination.wrapping_add(done), value, moved)?;
            return Ok(moved_some(position, moved, (bytes, length)));
        }
        Packet::Write { destination, words } => {
            port.write(destination, bytemuck::cast_slice(&words))?;
        }
        Packet::Fence { address, value } => port.write_u32(address, value)?,
        Packet::Timestamp { address } => {
            let clock = port.clock();
            port.write_u64(address, clock)?;
        }
        Packet::Trap { context } => {
            advance(position, length);
            return Ok(Step::Interrupt(context, 0));
        }
        Packet::Indirect { address, words } => {
            if position.nested.is_some() {
                return Err(Trouble::Packet);
            }
            let len_bytes = u64::from(words) * 4;
            position.nested = Some(Nested { va: address, len_bytes, at: 0 });
            return Ok(Step::Packet(0));
        }
        Packet::Conditional { address, reference, words } => {
            let skipped = match port.read_u32(address)? == reference {
                true => 0,
                false => u64::from(words),
            };
            if length + skipped > code.words_left() {
                return Err(Trouble::Packet);
            }
            advance(position, skipped);
        }
        Packet::PollMemory { address, condition, reference, mask, retries, .. } => {
            let holds = condition.holds(port.read_u32(address)? & mask, reference);
            let over = retries != RETRIES_ENDLESS && done >= u64::from(retries);
            if !holds && !over {
                position.done += 1;
                return Ok(Step::Waits);
            }
        }
        Packet::Atomic { operation, address, source, compare, repeats } => {
            let changed = change(port, operation, address, source, compare)?;
            if repeats && !changed {
                return Ok(Step::Waits);
            }
        }
        // There is no cache to flush, and registers are not for user queues.
        Packet::Nop { .. } | Packet::FlushHost { .. } | Packet::WriteRegister { .. } => {}
    }
    advance(position, length);
    Ok(Step::Packet(0))
}

/// An atomic change; says whether its comparison held.
fn change(
    port: &mut Port<'_>,
    operation: u32,
    address: u64,
    source: u64,
    compare: u64,
) -> Result<bool, Trouble> {
    let (word, compares) = (source as u32, compare as u32);
    match operation {
        atomic::SWAP_32 | atomic::COMPARE_SWAP_32 | atomic::ADD_32 | atomic::SUBTRACT_32 => {
            let old = port.read_u32(address)?;
            let new = match operation {
                atomic::SWAP_32 => word,
                atomic::ADD_32 => old.wrapping_add(word),
                atomic::SUBTRACT_32 => old.wrapping_sub(word),
                _ if old == compares => word,
                _ => return Ok(false),
            };
            port.write_u32(address, new)?;
        }
        atomic::SWAP_64 | atomic::COMPARE_SWAP_64 | atomic::ADD_64 | atomic::SUBTRACT_64 => {
            let old = port.read_u64(address)?;
            let new = match operation {
                atomic::SWAP_64 => source,
                atomic::ADD_64 => old.wrapping_add(source),
                atomic::SUBTRACT_64 => old.wrapping_sub(source),
                _ if old == compare => source,
                _ => return Ok(false),
            };
            port.write_u64(address, new)?;
        }
        _ => return Err(Trouble::Packet),
    }
    Ok(true)
}
