//! A world of plain memory, for tests and fuzzing of the [`Model`](crate::Model).
//!
//! Nothing here is a system call: client memory, pages and time are values that a test sets.

use std::collections::BTreeMap;

use nix::errno::Errno;

use crate::model::{Caller, FileId, PagesAt, SpaceId, Store, World};

const PAGE_BYTES: u64 = 4096;

type Page = Box<[u8; PAGE_BYTES as usize]>;

/// A client: its memory and descriptors.
#[derive(Clone, Debug, Default)]
struct Client {
    pid: i32,
    tracer: Option<i32>,
    memory: BTreeMap<u64, Page>,
    files: BTreeMap<i32, FileId>,
}

/// Memory of clients, pages of stores, and a clock that stands still until it is moved.
#[derive(Clone, Debug, Default)]
pub struct FakeWorld {
    clients: BTreeMap<SpaceId, Client>,
    pages: BTreeMap<(Store, u64), Page>,
    now_ns: u64,
}

impl FakeWorld {
    /// An empty world at time 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client with this process id (seen alike by everybody) and returns it as a caller that
    /// may checkpoint.
    pub fn add_client(&mut self, pid: i32) -> Caller {
        let space = SpaceId(pid as u64);
        self.clients.insert(space, Client { pid, ..Client::default() });
        Caller { space, pid, can_checkpoint: true }
    }

    /// Maps zeroed pages into a client's memory: all that hold any of these bytes.
    pub fn map_user(&mut self, space: SpaceId, address: u64, len_bytes: u64) {
        let client = self.clients.entry(space).or_default();
        for page in address / PAGE_BYTES..=(address + len_bytes.max(1) - 1) / PAGE_BYTES {
            client.memory.entry(page).or_insert_with(zeros);
        }
    }

    /// Gives a client a descriptor.
    pub fn set_fd(&mut self, space: SpaceId, fd: i32, file: FileId) {
        self.clients.entry(space).or_default().files.insert(fd, file);
    }

    /// Takes a descriptor away.
    pub fn close_fd(&mut self, space: SpaceId, fd: i32) {
        self.clients.entry(space).or_default().files.remove(&fd);
    }

    /// Makes a client the ptrace parent of another.
    pub fn trace(&mut self, tracer: &Caller, of: SpaceId) {
        self.clients.entry(of).or_default().tracer = Some(tracer.pid);
    }

    /// The client is gone: its memory cannot be read any more.
    pub fn remove_client(&mut self, space: SpaceId) {
        self.clients.remove(&space);
    }

    /// Moves the clock.
    pub fn advance_ns(&mut self, by_ns: u64) {
        self.now_ns += by_ns;
    }

    /// Pages that hold anything, of all stores.
    #[must_use]
    pub fn pages_held(&self) -> usize {
        self.pages.len()
    }
}

fn zeros() -> Page {
    Box::new([0; PAGE_BYTES as usize])
}

/// Cuts a range at page borders: page number, offset in it, length.
fn cuts(start: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = start;
    let mut left = len;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let inside = (at % PAGE_BYTES) as usize;
        let part = left.min(PAGE_BYTES as usize - inside);
        let cut = (at / PAGE_BYTES, inside, part);
        at = at.wrapping_add(part as u64);
        left -= part;
        Some(cut)
    })
}

impl World for FakeWorld {
    fn read_user(&mut self, space: SpaceId, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let client = self.clients.get(&space).ok_or(Errno::EFAULT)?;
        let mut done = 0;
        for (page, inside, part) in cuts(address, into.len()) {
            let page = client.memory.get(&page).ok_or(Errno::EFAULT)?;
            into[done..done + part].copy_from_slice(&page[inside..inside + part]);
            done += part;
        }
        Ok(())
    }

    fn write_user(&mut self, space: SpaceId, address: u64, from: &[u8]) -> Result<(), Errno> {
        let client = self.clients.get_mut(&space).ok_or(Errno::EFAULT)?;
        let mut done = 0;
        for (page, inside, part) in cuts(address, from.len()) {
            let page = client.memory.get_mut(&page).ok_or(Errno::EFAULT)?;
            page[inside..inside + part].copy_from_slice(&from[done..done + part]);
            done += part;
        }
        Ok(())
    }

    fn read_pages(&mut self, at: PagesAt, into: &mut [u8]) {
        let mut done = 0;
        for (page, inside, part) in cuts(at.offset, into.len()) {
            match self.pages.get(&(at.store, page)) {
                Some(page) => {
                    into[done..done + part].copy_from_slice(&page[inside..inside + part]);
                }
                None => into[done..done + part].fill(0),
            }
            done += part;
        }
    }

    fn write_pages(&mut self, at: PagesAt, from: &[u8]) {
        let mut done = 0;
        for (page, inside, part) in cuts(at.offset, from.len()) {
            let page = self.pages.entry((at.store, page)).or_insert_with(zeros);
            page[inside..inside + part].copy_from_slice(&from[done..done + part]);
            done += part;
        }
    }

    fn discard_pages(&mut self, at: PagesAt, len_bytes: u64) {
        let first = at.offset / PAGE_BYTES;
        let end = (at.offset + len_bytes).div_ceil(PAGE_BYTES);
        let gone: Vec<_> =
            self.pages.range((at.store, first)..(at.store, end)).map(|(key, _)| *key).collect();
        for key in gone {
            self.pages.remove(&key);
        }
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn resolve_fd(&mut self, caller: &Caller, fd: i32) -> Result<FileId, Errno> {
        let client = self.clients.get(&caller.space).ok_or(Errno::EBADF)?;
        client.files.get(&fd).copied().ok_or(Errno::EBADF)
    }

    fn space_of_pid(&mut self, _caller: &Caller, pid: i32) -> Option<SpaceId> {
        let mut clients = self.clients.iter();
        clients.find(|(_, client)| client.pid == pid).map(|(space, _)| *space)
    }

    fn own_pid(&mut self, space: SpaceId) -> u32 {
        self.clients.get(&space).map_or(0, |client| client.pid as u32)
    }

    fn is_tracer(&mut self, caller: &Caller, of: SpaceId) -> bool {
        self.clients.get(&of).is_some_and(|client| client.tracer == Some(caller.pid))
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::FakeWorld;
    use crate::model::{PagesAt, SpaceId, Store, World};

    #[test]
    fn memory_ends_where_it_is_not_mapped() {
        let mut world = FakeWorld::new();
        let space = world.add_client(7).space;
        world.map_user(space, 0x1000, 0x2000);
        assert_eq!(world.write_user(space, 0x1ffe, &[1, 2, 3, 4]), Ok(()));
        let mut bytes = [0; 4];
        assert_eq!(world.read_user(space, 0x1ffe, &mut bytes), Ok(()));
        assert_eq!(bytes, [1, 2, 3, 4]);
        assert_eq!(world.read_user(space, 0x2ffe, &mut bytes), Err(Errno::EFAULT));
        assert_eq!(world.read_user(SpaceId(8), 0x1000, &mut bytes), Err(Errno::EFAULT));
    }

    #[test]
    fn discarded_pages_are_zero() {
        let mut world = FakeWorld::new();
        let at = PagesAt { store: Store::Kfd, offset: 0x5000 };
        world.write_pages(at, &[9; 8192]);
        world.discard_pages(at, 4096);
        let mut bytes = [1; 2];
        world.read_pages(at.plus(4095), &mut bytes);
        assert_eq!(bytes, [0, 9]);
        assert_eq!(world.pages_held(), 1);
    }
}
