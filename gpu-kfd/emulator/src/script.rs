//! Any bytes as a sequence of calls: what fuzzing feeds the [`Model`](crate::Model) with.
//!
//! Every byte string is a script. Arguments are zeros with some words set, often to what earlier
//! calls returned, so that scripts come past the first check. After each step every reference must
//! have a holder; a script that ends leaves no page behind.

use gpu_kfd::uapi::{self, Request};

use crate::fake::FakeWorld;
use crate::model::{
    BufferId, Caller, DeviceNode, FileId, GpuConfig, GpuIndex, Model, Outcome, PagesAt, Store,
    TOKEN_FIRST, Ticket, World,
};

const CLIENTS: usize = 3;
const GPUS: u8 = 2;
/// Client memory that scripts may name, in bytes from this address on.
const SCRATCH: u64 = 0x7000_0000;
const SCRATCH_BYTES: u64 = 0x2_0000;
/// Longest argument that is passed: SVM and CS calls have variable ones.
const ARG_BYTES_MAX: usize = 512;
/// Steps of one script; longer ones find nothing that shorter ones do not.
const STEPS_MAX: usize = 4096;
const VRAM_BYTES: u64 = 16 << 20;
const SYSTEM_BYTES: u64 = 16 << 20;
const BUDGET_BYTES: u64 = 1 << 20;

/// What a script did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScriptReport {
    /// Calls that were made.
    pub calls: u64,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Calls that were parked.
    pub parked: u64,
    /// Packets that engines carried out.
    pub packets: u64,
}

/// Runs a script on a fresh node.
///
/// # Panics
/// If the model is found inconsistent: that is what fuzzing looks for.
pub fn run_script(bytes: &[u8]) -> ScriptReport {
    let mut machine = Machine::new();
    let mut bytes = Bytes(bytes);
    for _ in 0..STEPS_MAX {
        let Some(step) = bytes.byte() else { break };
        machine.step(step, &mut bytes);
        machine.model.check().expect("every reference has a holder");
    }
    machine.end()
}

/// The rest of a script; beyond its end there are zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn small(&mut self) -> usize {
        usize::from(self.byte().unwrap_or(0))
    }

    fn word(&mut self) -> u64 {
        let mut word = [0; 8];
        word.iter_mut().for_each(|byte| *byte = self.byte().unwrap_or(0));
        u64::from_le_bytes(word)
    }
}

struct Machine {
    model: Model,
    world: FakeWorld,
    clients: Vec<Caller>,
    files: Vec<(usize, FileId)>,
    requests: Vec<&'static Request>,
    /// Numbers that calls returned: handles, offsets, tokens, identifiers.
    seen: Vec<u64>,
    tickets: Vec<Ticket>,
    next_pid: i32,
    report: ScriptReport,
}

impl Machine {
    fn new() -> Self {
        let config = |gpu: u8| GpuConfig {
            gpu_id: 0x5a01 + u32::from(gpu),
            render_minor: 128 + u32::from(gpu),
            vram_bytes: VRAM_BYTES,
            vram_visible_bytes: VRAM_BYTES,
            sdma_queues_max: 4,
            sdma_xgmi_queues_max: 4,
            compute_queues_max: 4,
            gb_addr_config: 0x2a11_0042,
            offset_first: GpuConfig::OFFSET_FIRST,
            hive_id: 0,
            xnack: gpu == 0,
        };
        let requests = uapi::requests().into_iter().flatten().flat_map(|table| table.iter());
        let mut machine = Self {
            model: Model::new((0..GPUS).map(config).collect(), SYSTEM_BYTES),
            world: FakeWorld::new(),
            clients: Vec::new(),
            files: Vec::new(),
            requests: requests.collect(),
            seen: vec![0x5a01, 0x5a02, SCRATCH, SCRATCH + 0x100, SCRATCH + 0x8000, 0x10_0000_0000],
            tickets: Vec::new(),
            next_pid: 1,
            report: ScriptReport::default(),
        };
        for _ in 0..CLIENTS {
            let client = machine.fresh_client();
            machine.clients.push(client);
        }
        machine
    }

    fn fresh_client(&mut self) -> Caller {
        let caller = self.world.add_client(self.next_pid);
        self.next_pid += 1;
        self.world.map_user(caller.space, SCRATCH, SCRATCH_BYTES);
        caller
    }

    fn step(&mut self, step: u8, bytes: &mut Bytes<'_>) {
        match step % 16 {
            0 => self.open(bytes),
            1 => self.close(bytes),
            2 => self.write_memory(bytes),
            3 => self.write_pages(bytes),
            4 => {
                self.report.packets += self.model.run_queues(&mut self.world, BUDGET_BYTES).packets;
            }
            5 => self.wait(bytes),
            6 if bytes.small().is_multiple_of(8) => self.end_client(bytes.small() % CLIENTS),
            _ => self.call(bytes),
        }
        for finished in self.model.take_finished() {
            self.tickets.retain(|ticket| *ticket != finished.ticket);
        }
    }

    fn open(&mut self, bytes: &mut Bytes<'_>) {
        let client = bytes.small() % CLIENTS;
        let node = match bytes.small() % 4 {
            0 | 1 => DeviceNode::Kfd,
            2 => DeviceNode::Render(GpuIndex(bytes.byte().unwrap_or(0) % (GPUS + 1))),
            _ => {
                let token = self.number(bytes) as u32;
                DeviceNode::DmaBuf(BufferId(u64::from(token.wrapping_sub(TOKEN_FIRST))))
            }
        };
        let caller = self.clients[client];
        if let Ok(file) = self.model.open(&caller, node) {
            self.world.set_fd(caller.space, self.files.len() as i32 + 3, file);
            self.files.push((client, file));
        }
    }

    fn close(&mut self, bytes: &mut Bytes<'_>) {
        if self.files.is_empty() {
            return;
        }
        let at = bytes.small() % self.files.len();
        let (client, file) = self.files.swap_remove(at);
        for fd in 3..=self.files.len() as i32 + 3 {
            if self.world.resolve_fd(&self.clients[client], fd) == Ok(file) {
                self.world.close_fd(self.clients[client].space, fd);
            }
        }
        self.model.release(&mut self.world, file);
    }

    fn write_memory(&mut self, bytes: &mut Bytes<'_>) {
        let space = self.clients[bytes.small() % CLIENTS].space;
        let offset = bytes.small() as u64 * 8;
        for word in 0..bytes.small() % 32 {
            let value = self.number(bytes);
            let address = SCRATCH + offset + word as u64 * 8;
            // Scratch is mapped for every client that lives.
            let _ = self.world.write_user(space, address, &value.to_le_bytes());
        }
    }

    /// Rings doorbells and writes rings and buffers.
    fn write_pages(&mut self, bytes: &mut Bytes<'_>) {
        let offset = self.number(bytes) & ((1 << 62) | ((1 << 62) - 1));
        let store = match bytes.small() % 3 {
            0 => Store::Kfd,
            gpu => Store::Gpu(GpuIndex(gpu as u8 - 1)),
        };
        // What nobody allocated must stay untouched, or it would count as a leak.
        if store == Store::Kfd || self.seen.contains(&offset) {
            let value = self.number(bytes).to_le_bytes();
            let at = PagesAt { store, offset: offset & !7 };
            if store == Store::Kfd
                && !self.seen.iter().any(|seen| seen & !0x1fff == offset & !0x1fff)
            {
                return;
            }
            self.world.write_pages(at, &value);
        }
    }

    fn wait(&mut self, bytes: &mut Bytes<'_>) {
        match self.tickets.pop() {
            Some(ticket) if bytes.small().is_multiple_of(2) => {
                self.model.interrupt(&mut self.world, ticket);
            }
            Some(ticket) => self.tickets.push(ticket),
            None => {}
        }
        self.world.advance_ns(bytes.small() as u64 * 1_000_000);
        let now_ns = self.world.now_ns();
        self.model.expire(now_ns);
    }

    fn end_client(&mut self, client: usize) {
        let caller = self.clients[client];
        let files: Vec<FileId> = self
            .files
            .iter()
            .filter(|(owner, _)| *owner == client)
            .map(|(_, file)| *file)
            .collect();
        self.files.retain(|(owner, _)| *owner != client);
        for file in files {
            self.model.release(&mut self.world, file);
        }
        self.model.space_ended(&mut self.world, caller.space);
        self.world.remove_client(caller.space);
        self.clients[client] = self.fresh_client();
    }

    /// A number that a call may make sense of: one that was seen, a small one, or any.
    fn number(&mut self, bytes: &mut Bytes<'_>) -> u64 {
        match bytes.small() {
            kind @ 0..=127 => self.seen[kind % self.seen.len()],
            128..=199 => bytes.small() as u64,
            200..=219 => 1 << (bytes.small() % 64),
            220..=239 => bytes.small() as u64 * 4096,
            _ => bytes.word(),
        }
    }

    fn call(&mut self, bytes: &mut Bytes<'_>) {
        if self.files.is_empty() {
            return self.open(bytes);
        }
        let (owner, file) = self.files[bytes.small() % self.files.len()];
        let client = if bytes.small().is_multiple_of(16) { bytes.small() % CLIENTS } else { owner };
        let mut request = self.requests[bytes.small() % self.requests.len()].number;
        if bytes.small().is_multiple_of(32) {
            request = bytes.word() as u32;
        }
        let size = uapi::argument_bytes(request) + (bytes.small() / 64) * 8;
        let mut arg = vec![0; size.min(ARG_BYTES_MAX)];
        for _ in 0..bytes.small() % 12 {
            let value = self.number(bytes).to_le_bytes();
            let half = bytes.small();
            let at = half % (arg.len() / 4 + 1) * 4;
            let len = if half < 128 { 4 } else { 8 };
            let end = (at + len).min(arg.len());
            arg[at.min(end)..end].copy_from_slice(&value[..end - at.min(end)]);
        }
        let caller = self.clients[client];
        self.report.calls += 1;
        match self.model.ioctl(&mut self.world, &caller, file, request, &mut arg) {
            Outcome::Done(Ok(_)) => {
                self.report.succeeded += 1;
                self.remember(&arg);
            }
            Outcome::Done(Err(_)) => {}
            Outcome::Later(ticket) => {
                self.report.parked += 1;
                self.tickets.push(ticket);
            }
        }
    }

    fn remember(&mut self, arg: &[u8]) {
        for word in arg.chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            for number in [word, word >> 32, word & 0xffff_ffff] {
                if number != 0 && !self.seen.contains(&number) {
                    self.seen.push(number);
                }
            }
        }
        // The newest are the most useful; the first six are constants.
        if self.seen.len() > 120 {
            self.seen.drain(6..40);
        }
    }

    fn end(mut self) -> ScriptReport {
        for client in 0..CLIENTS {
            self.end_client(client);
        }
        self.model.check().expect("every reference has a holder");
        assert_eq!(self.model.buffers(), 0, "buffers outlive all of their holders");
        self.report
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ScriptReport, run_script};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn any_bytes_are_a_script_that_ends(
            bytes in prop::collection::vec(any::<u8>(), 0..4000)
        ) {
            run_script(&bytes);
        }
    }

    /// A generator that reaches little would prove little.
    #[test]
    fn scripts_come_past_the_first_check() {
        let mut sum = ScriptReport::default();
        for seed in 0..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let bytes: Vec<u8> = (0..4000)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 32) as u8
                })
                .collect();
            let report = run_script(&bytes);
            sum.calls += report.calls;
            sum.succeeded += report.succeeded;
            sum.parked += report.parked;
            sum.packets += report.packets;
        }
        assert!(sum.calls > 10_000, "{sum:?}");
        assert!(sum.succeeded > sum.calls / 50, "{sum:?}");
    }
}
