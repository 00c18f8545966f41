//! The simplest model of buffers that could be right: lists of holders, everything computed anew.
//!
//! It knows no references, offsets or address spaces of GPUs: what a GPU has free is the sum over
//! all buffers that anybody holds. It says which errno a call must give.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use crate::bench::{SYSTEM_BYTES, VRAM_BYTES};

/// A buffer: its GPU, size and kind, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Object {
    pub(crate) gpu: usize,
    pub(crate) size_bytes: u64,
    pub(crate) is_vram: bool,
}

/// A handle of the KFD.
#[derive(Clone, Debug)]
struct Bo {
    object: usize,
    va: u64,
    mapped: BTreeSet<usize>,
}

/// One process.
#[derive(Clone, Debug, Default)]
struct Client {
    acquired: BTreeSet<usize>,
    bos: BTreeMap<(usize, u32), Bo>,
    /// Exports that nobody opened.
    exports: Vec<usize>,
    /// Open dma-bufs, by name.
    dma_bufs: BTreeMap<usize, usize>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Reference {
    objects: Vec<Object>,
    clients: BTreeMap<usize, Client>,
}

impl Reference {
    pub(crate) fn add_client(&mut self, client: usize) {
        self.clients.entry(client).or_default();
    }

    pub(crate) fn end(&mut self, client: usize) {
        self.clients.remove(&client);
    }

    fn of(&mut self, client: usize) -> &mut Client {
        self.clients.get_mut(&client).expect("the test made it")
    }

    /// Every object that anybody holds, once.
    fn held(&self) -> BTreeSet<usize> {
        let clients = self.clients.values();
        let objects = clients.flat_map(|client| {
            let bos = client.bos.values().map(|bo| bo.object);
            bos.chain(client.exports.iter().copied()).chain(client.dma_bufs.values().copied())
        });
        objects.collect()
    }

    /// Device memory that a GPU has free, in bytes.
    pub(crate) fn free_bytes(&self, gpu: usize) -> u64 {
        let held = self.held().into_iter().map(|object| self.objects[object]);
        let used = held.filter(|object| object.is_vram && object.gpu == gpu);
        VRAM_BYTES - used.map(|object| object.size_bytes).sum::<u64>()
    }

    fn system_free_bytes(&self) -> u64 {
        let held = self.held().into_iter().map(|object| self.objects[object]);
        SYSTEM_BYTES - held.filter(|o| !o.is_vram).map(|o| o.size_bytes).sum::<u64>()
    }

    pub(crate) fn acquire(&mut self, client: usize, gpu: usize) -> Result<(), Errno> {
        if self.of(client).acquired.insert(gpu) { Ok(()) } else { Err(Errno::EBUSY) }
    }

    pub(crate) fn alloc(
        &mut self,
        client: usize,
        object: Object,
        va: u64,
    ) -> Result<(usize, u32), Errno> {
        if object.size_bytes == 0 {
            return Err(Errno::EINVAL);
        }
        if !self.of(client).acquired.contains(&object.gpu) {
            return Err(Errno::ENODEV);
        }
        let free =
            if object.is_vram { self.free_bytes(object.gpu) } else { self.system_free_bytes() };
        if object.size_bytes > free {
            return Err(Errno::ENOMEM);
        }
        self.objects.push(object);
        let object_number = self.objects.len() - 1;
        Ok(self.add_bo(client, object.gpu, object_number, va))
    }

    fn add_bo(&mut self, client: usize, gpu: usize, object: usize, va: u64) -> (usize, u32) {
        let bos = &mut self.of(client).bos;
        let number = (0..).find(|number| !bos.contains_key(&(gpu, *number))).expect("endless");
        bos.insert((gpu, number), Bo { object, va, mapped: BTreeSet::new() });
        (gpu, number)
    }

    pub(crate) fn free(&mut self, client: usize, bo: (usize, u32)) -> Result<(), Errno> {
        let bos = &mut self.of(client).bos;
        if !bos.get(&bo).ok_or(Errno::EINVAL)?.mapped.is_empty() {
            return Err(Errno::EBUSY);
        }
        bos.remove(&bo);
        Ok(())
    }

    /// What stands at these addresses of a GPU for a client, other than `except`.
    fn is_taken(
        &mut self,
        client: usize,
        gpu: usize,
        except: (usize, u32),
        va: u64,
        end: u64,
    ) -> bool {
        let objects = self.objects.clone();
        self.of(client).bos.iter().any(|(key, bo)| {
            let bo_end = bo.va + objects[bo.object].size_bytes;
            *key != except && bo.mapped.contains(&gpu) && bo.va < end && va < bo_end
        })
    }

    pub(crate) fn map(&mut self, client: usize, bo: (usize, u32), gpu: usize) -> Result<(), Errno> {
        if !self.of(client).acquired.contains(&bo.0) {
            return Err(Errno::ENODEV);
        }
        let found = self.of(client).bos.get(&bo).cloned().ok_or(Errno::ENOMEM)?;
        if !self.of(client).acquired.contains(&gpu) {
            return Err(Errno::ENODEV);
        }
        let end = found.va + self.objects[found.object].size_bytes;
        if found.mapped.contains(&gpu) {
            return Ok(());
        }
        if self.is_taken(client, gpu, bo, found.va, end) {
            return Err(Errno::EINVAL);
        }
        self.of(client).bos.get_mut(&bo).expect("just found").mapped.insert(gpu);
        Ok(())
    }

    pub(crate) fn unmap(
        &mut self,
        client: usize,
        bo: (usize, u32),
        gpu: usize,
    ) -> Result<(), Errno> {
        let bo = self.of(client).bos.get_mut(&bo).ok_or(Errno::ENOMEM)?;
        if bo.mapped.remove(&gpu) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    pub(crate) fn export(&mut self, client: usize, bo: (usize, u32)) -> Result<usize, Errno> {
        let object = self.of(client).bos.get(&bo).ok_or(Errno::EINVAL)?.object;
        self.of(client).exports.push(object);
        Ok(object)
    }

    /// Opens a dma-buf: takes an export of the client's own, else anybody's, else joins an open
    /// one.
    pub(crate) fn open_dma_buf(
        &mut self,
        client: usize,
        object: usize,
        name: usize,
    ) -> Result<(), Errno> {
        let mut exporters = vec![client];
        exporters.extend(self.clients.keys().copied());
        let exporter = exporters.into_iter().find(|id| self.clients[id].exports.contains(&object));
        let is_open =
            self.clients.values().any(|c| c.dma_bufs.values().any(|open| *open == object));
        match exporter {
            Some(exporter) => {
                let exports = &mut self.of(exporter).exports;
                let at = exports.iter().position(|other| *other == object).expect("just found");
                exports.remove(at);
            }
            None if is_open => {}
            None => return Err(Errno::ENOENT),
        }
        self.of(client).dma_bufs.insert(name, object);
        Ok(())
    }

    pub(crate) fn close_dma_buf(&mut self, client: usize, name: usize) {
        self.of(client).dma_bufs.remove(&name);
    }

    pub(crate) fn import(
        &mut self,
        client: usize,
        gpu: usize,
        name: usize,
        va: u64,
    ) -> Result<(usize, u32), Errno> {
        if !self.of(client).acquired.contains(&gpu) {
            return Err(Errno::ENODEV);
        }
        let object = *self.of(client).dma_bufs.get(&name).ok_or(Errno::EBADF)?;
        Ok(self.add_bo(client, gpu, object, va))
    }
}
