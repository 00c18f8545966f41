//! The command processor of a compute queue: packets of the Architected Queuing Language.
//!
//! Packets are carried out one after the other, so that the barrier bit is always satisfied.

use std::mem::offset_of;

use gpu_kfd::uapi::aql::{
    Barrier, BarrierValue, FORMAT_BARRIER_VALUE, FORMAT_PM4_INDIRECT, Header, KernelDispatch,
    PACKET_BYTES, PacketType, Signal,
};

use super::kernels::BuiltinKernel;
use super::pm4;
use super::port::Port;
use super::position::{Nested, Position};
use super::step::{Step, Trouble};

/// Where every packet has the address of its completion signal.
const COMPLETION_AT: usize = offset_of!(Barrier, completion_signal);

/// A PM4 packet of four words that points to a buffer, behind the format of a vendor's packet.
const JUMP_AT: usize = 4;
const JUMP_HEADER: u32 = 0xc002_3f00;
const JUMP_WORDS_MASK: u32 = 0xf_ffff;

/// A ring of packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) base: u64,
    /// A power of two.
    pub(super) packets: u64,
}

type Packet = [u8; PACKET_BYTES];

fn word_64(packet: &Packet, at: usize) -> u64 {
    bytemuck::pod_read_unaligned(&packet[at..at + 8])
}

fn word_32(packet: &Packet, at: usize) -> u32 {
    bytemuck::pod_read_unaligned(&packet[at..at + 4])
}

/// Carries out one packet, or a part of it. Packets are written up to `write`, which may lie
/// further than the ring is long: producers take places before they are free.
pub(super) fn step(
    port: &mut Port<'_>,
    ring: Ring,
    position: &mut Position,
    write: u64,
    budget: u64,
) -> Result<Step, Trouble> {
    if position.read >= write {
        return Ok(Step::Idle);
    }
    let place = ring.base.wrapping_add(position.read % ring.packets * PACKET_BYTES as u64);
    let mut packet: Packet = [0; PACKET_BYTES];
    port.read(place, &mut packet)?;
    let header = Header::of(u16::from_le_bytes([packet[0], packet[1]])).ok_or(Trouble::Packet)?;
    let mut moved = 0;
    let is_over = match header.kind {
        PacketType::Invalid => return Ok(Step::Waits),
        PacketType::KernelDispatch => {
            let packet: KernelDispatch = bytemuck::pod_read_unaligned(&packet);
            let (bytes, end) = dispatch(port, &packet, position.done, budget)?;
            moved = bytes;
            position.done += moved;
            if !end {
                return Ok(Step::Moved(moved));
            }
            true
        }
        PacketType::BarrierAnd | PacketType::BarrierOr => {
            let all = header.kind == PacketType::BarrierAnd;
            barrier(port, &bytemuck::pod_read_unaligned(&packet), all)?
        }
        PacketType::VendorSpecific => return vendor(port, place, &packet, position, budget),
        // Only a host can serve these.
        PacketType::AgentDispatch => return Err(Trouble::Packet),
    };
    if is_over { complete(port, place, &packet, position, moved) } else { Ok(Step::Waits) }
}

fn dispatch(
    port: &mut Port<'_>,
    packet: &KernelDispatch,
    done: u64,
    budget: u64,
) -> Result<(u64, bool), Trouble> {
    let mut descriptor = [0; BuiltinKernel::DESCRIPTOR_BYTES];
    port.read(packet.kernel_object, &mut descriptor)?;
    let kernel = BuiltinKernel::of(&descriptor).ok_or(Trouble::Packet)?;
    kernel.run(port, packet.kernarg_address, done, budget)
}

fn signal_value(port: &mut Port<'_>, signal: u64) -> Result<i64, Trouble> {
    let at = signal.wrapping_add(offset_of!(Signal, value) as u64);
    Ok(port.read_u64(at)?.cast_signed())
}

/// Whether all (or one) of the signals are 0; a packet without any is over.
fn barrier(port: &mut Port<'_>, packet: &Barrier, all: bool) -> Result<bool, Trouble> {
    let mut any_named = false;
    for signal in packet.dep_signals.into_iter().filter(|signal| *signal != 0) {
        any_named = true;
        let is_zero = signal_value(port, signal)? == 0;
        if is_zero != all {
            return Ok(is_zero);
        }
    }
    Ok(all || !any_named)
}

fn vendor(
    port: &mut Port<'_>,
    place: u64,
    packet: &Packet,
    position: &mut Position,
    budget: u64,
) -> Result<Step, Trouble> {
    match packet[offset_of!(BarrierValue, format)] {
        FORMAT_BARRIER_VALUE => {
            let barrier: BarrierValue = bytemuck::pod_read_unaligned(packet);
            let value = signal_value(port, barrier.signal)? & barrier.mask;
            let holds = match barrier.condition {
                0 => value == barrier.value,
                1 => value != barrier.value,
                2 => value < barrier.value,
                3 => value >= barrier.value,
                _ => return Err(Trouble::Packet),
            };
            if holds { complete(port, place, packet, position, 0) } else { Ok(Step::Waits) }
        }
        FORMAT_PM4_INDIRECT => {
            let mut nested = match position.nested {
                Some(nested) => nested,
                None => pm4_buffer(packet)?,
            };
            let step = pm4::step(port, &mut nested, position, budget)?;
            position.nested = Some(nested);
            if step == Step::Idle {
                return complete(port, place, packet, position, 0);
            }
            Ok(step)
        }
        _ => Err(Trouble::Packet),
    }
}

fn pm4_buffer(packet: &Packet) -> Result<Nested, Trouble> {
    if word_32(packet, JUMP_AT) != JUMP_HEADER {
        return Err(Trouble::Packet);
    }
    let va =
        u64::from(word_32(packet, JUMP_AT + 4)) | u64::from(word_32(packet, JUMP_AT + 8)) << 32;
    let len_bytes = u64::from(word_32(packet, JUMP_AT + 12) & JUMP_WORDS_MASK) * 4;
    Ok(Nested { va, len_bytes, at: 0 })
}

/// Ends a packet: its place may be used again, its signal goes down by one, and a signal with a
/// mailbox interrupts the host.
fn complete(
    port: &mut Port<'_>,
    place: u64,
    packet: &Packet,
    position: &mut Position,
    moved: u64,
) -> Result<Step, Trouble> {
    let mut step = Step::Packet(moved);
    let signal = word_64(packet, COMPLETION_AT);
    if signal != 0 {
        let mut bytes = [0; size_of::<Signal>()];
        port.read(signal, &mut bytes)?;
        let now: Signal = bytemuck::pod_read_unaligned(&bytes);
        let at = |offset: usize| signal.wrapping_add(offset as u64);
        let clock = port.clock();
        port.write_u64(at(offset_of!(Signal, start_ts)), clock)?;
        port.write_u64(at(offset_of!(Signal, end_ts)), clock)?;
        let value = now.value.wrapping_sub(1).cast_unsigned();
        port.write_u64(at(offset_of!(Signal, value)), value)?;
        if now.event_mailbox_ptr != 0 {
            port.write_u64(now.event_mailbox_ptr, u64::from(now.event_id))?;
            step = Step::Interrupt(now.event_id, moved);
        }
    }
    port.write(place, &(PacketType::Invalid as u16).to_le_bytes())?;
    *position = Position { read: position.read + 1, ..Position::default() };
    Ok(step)
}
