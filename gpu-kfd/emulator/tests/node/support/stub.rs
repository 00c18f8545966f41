//! A driver that does little, and notes what it was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kfd_emulator::{
    BufferId, Caller, Device, DeviceNode, FileId, Finished, GpuIndex, Outcome, PagesAt, Progress,
    SpaceId, Store, TOKEN_FIRST, Ticket, World,
};
use nix::errno::Errno;

/// What the stub was told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) opened: Vec<(DeviceNode, SpaceId)>,
    pub(crate) released: Vec<FileId>,
    pub(crate) ended: Vec<SpaceId>,
    /// Waits that began.
    pub(crate) waits: usize,
    pub(crate) interrupts: usize,
    /// How often the engines ran.
    pub(crate) runs: usize,
    /// Calls that made the driver do anything, in order, by number.
    pub(crate) calls: Vec<u32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Record(Arc<Mutex<Notes>>);

impl Record {
    pub(crate) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Wait {
    deadline_ns: u64,
    arg: Vec<u8>,
}

pub(crate) struct Stub {
    record: Record,
    files: u64,
    tickets: u64,
    waits: BTreeMap<Ticket, Wait>,
    finished: Vec<Finished>,
    buffers: BTreeMap<BufferId, u64>,
    /// Runs of the engines until the waits end.
    work: u64,
}

impl Stub {
    pub(crate) fn new(record: &Record) -> Self {
        Self {
            record: record.clone(),
            files: 0,
            tickets: 0,
            waits: BTreeMap::new(),
            finished: Vec::new(),
            buffers: BTreeMap::new(),
            work: 0,
        }
    }

    fn finish_all(&mut self, result: Result<i32, Errno>) {
        for (ticket, wait) in std::mem::take(&mut self.waits) {
            self.finished.push(Finished { ticket, result, arg: wait.arg });
        }
    }

    fn finish(&mut self, ticket: Ticket, result: Result<i32, Errno>) {
        if let Some(wait) = self.waits.remove(&ticket) {
            self.finished.push(Finished { ticket, result, arg: wait.arg });
        }
    }

    fn answer(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        number: u32,
        arg: &mut [u8],
    ) -> Result<i32, Errno> {
        let mut words: Vec<u64> = arg
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
            .collect();
        let result = self.answer_words(world, caller, number, &mut words);
        for (bytes, word) in arg.chunks_exact_mut(8).zip(&words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        result
    }

    fn answer_words(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        number: u32,
        words: &mut [u64],
    ) -> Result<i32, Errno> {
        match number {
            1 => words.iter_mut().for_each(|word| *word += 1),
            2 => {
                words.iter_mut().for_each(|word| *word += 1);
                return Err(Errno::ENOSPC);
            }
            4 => self.finish_all(Ok(1)),
            5 => {
                let capable = u64::from(caller.can_checkpoint);
                words.copy_from_slice(&[caller.space.0, caller.pid as u64, capable]);
            }
            6 => return memory(world, caller, words),
            7 => pages(world, words),
            8 => return Ok(words.iter().sum::<u64>() as i32),
            9 => {
                self.buffers.insert(BufferId(words[0]), 4096 * (1 + words[0]));
                words[0] += u64::from(TOKEN_FIRST);
            }
            10 => panic!("the stub panics when asked to"),
            12 => {
                let space = world.space_of_pid(caller, words[0] as i32).ok_or(Errno::ESRCH)?;
                words[1] = space.0;
                words[2] = u64::from(world.own_pid(space));
            }
            13 => self.work = 3,
            0x15 => words[1] = world.resolve_fd(caller, words[0] as i32)?.0,
            0x22 => {
                if words.len() == 7 {
                    return Ok(0);
                }
                words[1] = u64::from(caller.can_checkpoint);
                if words[0] as i32 >= 0 {
                    let tracer = world.is_tracer(caller, SpaceId(words[0]));
                    words[0] = u64::from(tracer);
                }
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(7)
    }
}

fn memory(world: &mut dyn World, caller: &Caller, words: &mut [u64]) -> Result<i32, Errno> {
    let mut bytes = vec![7; words[1] as usize];
    match words[2] {
        0 => world.read_user(caller.space, words[0], &mut bytes)?,
        _ => world.write_user(caller.space, words[0], &bytes)?,
    }
    Ok(bytes.iter().map(|byte| i32::from(*byte)).sum())
}

fn pages(world: &mut dyn World, words: &mut [u64]) {
    let store = match words[0] {
        0 => Store::Kfd,
        gpu => Store::Gpu(GpuIndex(gpu as u8 - 1)),
    };
    let at = PagesAt { store, offset: words[1] };
    let mut before = [0; 8];
    world.read_pages(at, &mut before);
    words[3] = u64::from_ne_bytes(before);
    match words[2] {
        0 => {}
        u64::MAX => world.discard_pages(at, 4096),
        value => world.write_pages(at, &value.to_ne_bytes()),
    }
}

impl Device for Stub {
    fn open(
        &mut self,
        _: &mut dyn World,
        caller: &Caller,
        node: DeviceNode,
    ) -> Result<FileId, Errno> {
        if let DeviceNode::DmaBuf(buffer) = node
            && !self.buffers.contains_key(&buffer)
        {
            return Err(Errno::ENOENT);
        }
        self.record.notes().opened.push((node, caller.space));
        self.files += 1;
        Ok(FileId(self.files))
    }

    fn release(&mut self, _: &mut dyn World, file: FileId) {
        self.record.notes().released.push(file);
    }

    fn space_ended(&mut self, _: &mut dyn World, space: SpaceId) {
        self.record.notes().ended.push(space);
    }

    fn ioctl(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        _: FileId,
        request: u32,
        arg: &mut [u8],
    ) -> Outcome {
        let number = request & 0xff;
        self.record.notes().calls.push(number);
        if number == 0x2d {
            let buffer = u32::from_ne_bytes(arg[..4].try_into().expect("4 bytes"));
            self.buffers.insert(BufferId(buffer.into()), 4096 * (1 + u64::from(buffer)));
            arg[8..12].copy_from_slice(&(buffer + TOKEN_FIRST).to_ne_bytes());
            return Outcome::Done(Ok(0));
        }
        if number == 11 {
            arg.iter_mut().for_each(|byte| *byte += 1);
            return Outcome::Done(Ok(0));
        }
        if number != 3 {
            return Outcome::Done(self.answer(world, caller, number, arg));
        }
        let millis = u64::from_ne_bytes(arg[..8].try_into().expect("8 bytes"));
        arg[8] += 1;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let deadline_ns = world.now_ns() + millis * 1_000_000;
        self.waits.insert(ticket, Wait { deadline_ns, arg: arg.to_vec() });
        self.record.notes().waits += 1;
        Outcome::Later(ticket)
    }

    fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    fn interrupt(&mut self, _: &mut dyn World, ticket: Ticket) {
        self.record.notes().interrupts += 1;
        self.finish(ticket, Err(Errno::EINTR));
    }

    fn expire(&mut self, now_ns: u64) {
        let over: Vec<Ticket> = self
            .waits
            .iter()
            .filter(|(_, wait)| wait.deadline_ns <= now_ns)
            .map(|(ticket, _)| *ticket)
            .collect();
        over.into_iter().for_each(|ticket| self.finish(ticket, Err(Errno::ETIME)));
    }

    fn next_deadline_ns(&self) -> Option<u64> {
        self.waits.values().map(|wait| wait.deadline_ns).min()
    }

    fn run_queues(&mut self, _: &mut dyn World, _: u64) -> Progress {
        self.record.notes().runs += 1;
        if self.work == 0 {
            return Progress::default();
        }
        self.work -= 1;
        if self.work == 0 {
            self.finish_all(Ok(2));
        }
        Progress { packets: 1, listening: self.work > 0, ..Progress::default() }
    }

    fn has_queues(&self) -> bool {
        self.work > 0
    }

    fn dma_buf_bytes(&self, buffer: BufferId) -> Option<u64> {
        self.buffers.get(&buffer).copied()
    }

    fn abandon_calls(&mut self) {
        self.finish_all(Err(Errno::ENODEV));
    }
}
