//! Who may use the engines, for how long, and what comes of it.

use super::aql;
use super::code::Code;
use super::port::{Port, Shared};
use super::position::Position;
use super::sdma;
use super::step::{PACKET_COST_BYTES, Step, Trouble};
use crate::model::process::Process;
use crate::model::queues::{Queue, QueueKind, State};
use crate::model::world::{FileId, SpaceId, World};
use crate::model::{Model, Progress};

/// What one queue may move before the next has its turn.
const TURN_BYTES: u64 = 1 << 20;

/// Somebody who gives packets to engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// A queue of a process, by number.
    Queue(SpaceId, u32),
    /// The jobs of a context of an open render node.
    Row(FileId, u32),
}

/// What an engine did in one step, and the cost of it.
type Stepped = Result<Step, Trouble>;

/// What is shared by all turns of one call.
struct Run<'a> {
    world: &'a mut dyn World,
    chunk: Vec<u8>,
    progress: Progress,
    jobs_ended: bool,
}

impl Model {
    /// Looks at doorbells and carries out packets, up to about `budget_bytes` of copies.
    ///
    /// Whoever waits for a signal, a fence or a value in memory is looked at again in the next
    /// call: nothing wakes it.
    pub fn run_queues(&mut self, world: &mut dyn World, budget_bytes: u64) -> Progress {
        let sources = self.sources();
        let listening = !sources.is_empty();
        let progress = Progress { listening, ..Progress::default() };
        let mut run = Run { world, chunk: Vec::new(), progress, jobs_ended: false };
        let mut ready = vec![true; sources.len()];
        let mut left = budget_bytes;
        if !sources.is_empty() {
            self.engines.turn = (self.engines.turn + 1) % sources.len();
        }
        loop {
            let before = left;
            for place in 0..sources.len() {
                if left == 0 {
                    break;
                }
                let place = (place + self.engines.turn) % sources.len();
                let (spent, more) = self.turn(&mut run, sources[place], left.min(TURN_BYTES));
                ready[place] = more;
                left = left.saturating_sub(spent);
            }
            if left == 0 || left == before {
                break;
            }
        }
        run.progress.more = left == 0 && ready.contains(&true);
        let (progress, jobs_ended) = (run.progress, run.jobs_ended);
        if jobs_ended {
            self.fences_advanced();
        }
        progress
    }

    /// Whether [`Model::run_queues`] could do anything, now or when a doorbell rings.
    pub fn has_queues(&self) -> bool {
        let runs = |process: &Process| process.queues.iter().any(|(_, q)| process.queues.runs(q));
        self.processes.values().any(runs)
            || self.engines.jobs.rows.values().any(|row| !row.jobs.is_empty())
    }

    fn sources(&self) -> Vec<Source> {
        let mut sources = Vec::new();
        for (space, process) in &self.processes {
            let queues = process.queues.iter();
            let runs = queues.filter(|(_, queue)| process.queues.runs(queue));
            sources.extend(runs.map(|(id, _)| Source::Queue(*space, id)));
        }
        let rows = self.engines.jobs.rows.iter().filter(|(_, row)| !row.jobs.is_empty());
        sources.extend(rows.map(|((file, context), _)| Source::Row(*file, *context)));
        sources
    }

    /// One turn: what it has cost, and whether it could have gone on.
    fn turn(&mut self, run: &mut Run<'_>, source: Source, budget: u64) -> (u64, bool) {
        let mut spent = 0;
        while spent < budget {
            let stepped = match source {
                Source::Queue(space, id) => self.step_queue(run, space, id, budget - spent),
                Source::Row(file, context) => self.step_row(run, file, context, budget - spent),
            };
            match stepped {
                Ok(Step::Idle | Step::Waits) => return (spent, false),
                Ok(Step::Moved(bytes)) => {
                    run.progress.bytes += bytes;
                    spent += bytes.max(PACKET_COST_BYTES);
                }
                Ok(Step::Packet(bytes)) => {
                    run.progress.packets += 1;
                    run.progress.bytes += bytes;
                    spent += bytes.max(PACKET_COST_BYTES);
                }
                Ok(Step::Interrupt(number, bytes)) => {
                    run.progress.packets += 1;
                    run.progress.bytes += bytes;
                    spent += bytes.max(PACKET_COST_BYTES);
                    if let Source::Queue(space, _) = source {
                        self.interrupt_from_engine(run.world, space, number);
                    }
                }
                Err(trouble) => {
                    run.progress.faults += 1;
                    self.stop(run, source, trouble);
                    return (spent + PACKET_COST_BYTES, false);
                }
            }
        }
        (spent, true)
    }

    /// An engine cannot go on with what it was given.
    ///
    /// A fault takes all queues of the process from that GPU, for good (`kfd_dqm_evict_pasid`). A
    /// packet that no engine knows hangs the queue.
    fn stop(&mut self, run: &mut Run<'_>, source: Source, trouble: Trouble) {
        let (space, id) = match source {
            Source::Queue(space, id) => (space, id),
            Source::Row(file, context) => return self.end_job(run, file, context, false),
        };
        let Some(process) = self.processes.get_mut(&space) else { return };
        let Some(queue) = process.queues.get_mut(id) else { return };
        let gpu = queue.shape.gpu;
        match trouble {
            Trouble::Fault(fault) => {
                process.queues.evict(gpu);
                self.memory_exception(run.world, space, gpu, fault.va);
            }
            Trouble::Packet => {
                queue.state.halted = true;
                self.hw_exception(run.world, space, gpu);
            }
        }
    }

    /// One step of a queue. What is read is shown at the read pointer when no more can be read.
    fn step_queue(&mut self, run: &mut Run<'_>, space: SpaceId, id: u32, budget: u64) -> Stepped {
        let Self { processes, files, memory, .. } = self;
        let Some(process) = processes.get_mut(&space) else { return Ok(Step::Idle) };
        let Process { queues, devices, ranges, .. } = process;
        if !queues.get(id).is_some_and(|queue| queues.runs(queue)) {
            return Ok(Step::Idle);
        }
        let Some(queue) = queues.get_mut(id) else { return Ok(Step::Idle) };
        let gpu = queue.shape.gpu;
        let render = devices[usize::from(gpu.0)].render;
        let Some(file) = render.and_then(|render| files.render(render)) else {
            return Ok(Step::Idle);
        };
        let mut port = Port {
            vm: &file.vm,
            memory,
            world: run.world,
            shared: Some(Shared { ranges, space, gpu }),
            chunk: &mut run.chunk,
            tolerant: false,
            faults: 0,
        };
        let before = queue.state.position.read;
        let stepped = listen(&mut port, queue).and_then(|()| match queue.shape.kind {
            QueueKind::Aql => step_aql(&mut port, queue, budget),
            QueueKind::Sdma | QueueKind::SdmaXgmi => step_sdma(&mut port, queue, budget),
        });
        if queue.state.position.read != before {
            port.write_u64(queue.shape.read_pointer_va, queue.state.position.read)?;
        }
        stepped
    }

    /// One step of the first job of a context.
    fn step_row(&mut self, run: &mut Run<'_>, file: FileId, context: u32, budget: u64) -> Stepped {
        let Self { engines, files, memory, .. } = self;
        if !engines.jobs.is_ready(file, context) {
            return Ok(Step::Waits);
        }
        let Some(row) = engines.jobs.rows.get_mut(&(file, context)) else {
            return Ok(Step::Idle);
        };
        let Some(job) = row.jobs.front() else { return Ok(Step::Idle) };
        let Some(render) = files.render(file) else {
            row.jobs.clear();
            return Ok(Step::Idle);
        };
        let Some(buffer) = job.buffers.get(row.buffer) else {
            self.end_job(run, file, context, true);
            return Ok(Step::Packet(0));
        };
        let (base, end) = (buffer.va, buffer.len_bytes & !3);
        let code = Code { base, ring_bytes: None, at: row.position.read.min(end), end };
        let mut port = Port {
            vm: &render.vm,
            memory,
            world: run.world,
            shared: None,
            chunk: &mut run.chunk,
            tolerant: true,
            faults: 0,
        };
        let stepped = sdma::step(&mut port, code, &mut row.position, budget);
        run.progress.faults += port.faults;
        if stepped == Ok(Step::Idle) {
            row.buffer += 1;
            row.position = Position::default();
            return Ok(Step::Packet(0));
        }
        stepped
    }

    fn end_job(&mut self, run: &mut Run<'_>, file: FileId, context: u32, good: bool) {
        let Some(job) = self.engines.jobs.finish(file, context, good) else { return };
        run.jobs_ended = true;
        let Some((buffer, offset)) = job.user_fence.filter(|_| good) else { return };
        let fits = |size: u64| offset.checked_add(8).is_some_and(|end| end <= size);
        if let Some(found) = self.memory.find(buffer).filter(|found| fits(found.size_bytes)) {
            run.world.write_pages(found.at.plus(offset), &job.sequence.to_le_bytes());
        }
    }
}

/// Learns how far packets are written: from memory when the engine gets the queue, else from the
/// doorbell. An AQL queue's doorbell only says that there is something; the count is in memory.
fn listen(port: &mut Port<'_>, queue: &mut Queue) -> Result<(), Trouble> {
    let mut bytes = [0; 8];
    port.world.read_pages(queue.doorbell_at, &mut bytes);
    let doorbell = u64::from_le_bytes(bytes);
    let State { doorbell_seen, reload, write, .. } = &mut queue.state;
    let rung = doorbell != *doorbell_seen;
    if !*reload && !rung {
        return Ok(());
    }
    if *reload || !queue.shape.kind.is_sdma() {
        // The doorbell was read first: whoever rings it has written the count before.
        *write = port.read_u64(queue.shape.write_pointer_va)?;
    }
    if rung && queue.shape.kind.is_sdma() {
        *write = if *reload { doorbell.max(*write) } else { doorbell };
    }
    *doorbell_seen = doorbell;
    *reload = false;
    Ok(())
}

fn step_sdma(port: &mut Port<'_>, queue: &mut Queue, budget: u64) -> Stepped {
    let State { position, write, .. } = &mut queue.state;
    let size = u64::from(queue.shape.ring_bytes);
    let written = write.checked_sub(position.read).filter(|bytes| *bytes <= size);
    if written.is_none_or(|bytes| bytes % 4 != 0) {
        return Err(Trouble::Packet);
    }
    let code =
        Code { base: queue.shape.ring_va, ring_bytes: Some(size), at: position.read, end: *write };
    sdma::step(port, code, position, budget)
}

fn step_aql(port: &mut Port<'_>, queue: &mut Queue, budget: u64) -> Stepped {
    let packets = u64::from(queue.shape.ring_bytes) / gpu_kfd::uapi::aql::PACKET_BYTES as u64;
    let ring = aql::Ring { base: queue.shape.ring_va, packets };
    aql::step(port, ring, &mut queue.state.position, queue.state.write, budget)
}
