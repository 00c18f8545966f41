//! From requests of the kernel to jobs for the device.
//!
//! Runs on the thread that reads requests, so nothing here may wait: what needs the device becomes
//! a job, what names descriptors goes to a thread of its own, the rest is answered at once.

use std::sync::Arc;

use bytemuck::{Zeroable, bytes_of, pod_read_unaligned};
use crossbeam::channel::Sender;
use gpu_kfd::emulated::ioc::{OPEN_PATH, SET_FAULTS, WHOAMI};
use gpu_kfd::emulated::{OpenPath, SetFaults, WhoAmI, kind};
use gpu_kfd::uapi::{kfd, same_call};
use nix::errno::Errno;

use super::descriptors::names_descriptors;
use super::engine::{Call, Engine, Job};
use super::files::{Files, id_of, root_attributes};
use super::late::{Late, Then};
use super::watch::{Fate, Watch, call_name, open_name};
use super::world::now_ns;
use crate::fault::Decision;
use crate::model::{BufferId, DeviceNode, FileId, Store, TOKEN_FIRST};
use crate::node::callers::{Callers, Identity};
use crate::node::fuse::wire::{
    Attr, AttrOut, Dirent, EntryOut, InHeader, IoctlIn, OpenOut, ROOT_ID, ReadIn, StatfsOut, fattr,
    fopen,
};
use crate::node::fuse::{Operation, RESTART, Reply, Request};
use crate::node::namespace::Paths;

/// Names and attributes never change: the kernel may keep them for 30 years.
const VALID_SECONDS: u64 = 1 << 30;
/// Types of folder entries (`dirent.h`).
const DT_DIR: u32 = 4;
const DT_REG: u32 = 8;

/// What answers requests.
pub(crate) struct Server {
    pub(crate) files: Files,
    pub(crate) engine: Arc<Engine>,
    pub(crate) callers: Arc<Callers>,
    /// Takes calls that may name descriptors. Each caller has one call at most in it.
    pub(crate) naming: Sender<Call>,
    /// Takes calls that shall be late.
    pub(crate) late: Sender<Late>,
    pub(crate) watch: Watch,
    pub(crate) paths: Arc<Paths>,
    /// Ids of the stores for passthrough: of `/dev/kfd`, then of each GPU.
    pub(crate) backing: Vec<i32>,
    /// Tells this node from others that run.
    pub(crate) number: u64,
}

impl Server {
    /// Answers a request, or sees to it that it will be answered.
    pub(crate) fn handle(&self, request: Request<'_>, reply: Reply) {
        let Request { header, operation } = request;
        match operation {
            Operation::Ioctl { args, block } => self.ioctl(&header, &args, block, reply),
            Operation::Lookup(name) => self.lookup(&header, name, reply),
            Operation::Getattr => self.attributes(&header, reply),
            Operation::Setattr(args) => self.set_attributes(&header, args.valid, reply),
            Operation::Open => self.open(&header, reply),
            Operation::Release(args) => {
                // If `exec` closes the file, the old address space has gone by now.
                self.callers.look();
                self.engine.end_spaces(&self.callers);
                self.engine.submit(Job::Release { file: FileId(args.fh), reply });
            }
            Operation::Interrupt(unique) => {
                reply.none();
                // It fails only if the node ends.
                let _ = self.late.send(Late::Interrupt { unique });
                self.engine.submit(Job::Interrupt { unique });
            }
            Operation::Opendir => reply.data(&OpenOut::zeroed()),
            Operation::Readdir(args) => reply.bytes(&self.entries(&args)),
            Operation::Releasedir => reply.empty(),
            Operation::Statfs => {
                reply.data(&StatfsOut { bsize: 4096, namelen: 255, ..StatfsOut::zeroed() });
            }
            // A device without these operations.
            Operation::Transfer => reply.error(Errno::EINVAL),
            Operation::Forget | Operation::Destroy => reply.none(),
            Operation::Unknown => reply.error(Errno::ENOSYS),
        }
    }

    fn identify(&self, header: &InHeader) -> Result<Identity, Errno> {
        let identity = self.callers.identify(header.pid as i32);
        self.engine.end_spaces(&self.callers);
        identity
    }

    fn lookup(&self, header: &InHeader, name: &[u8], reply: Reply) {
        let node = self.files.by_name(name).filter(|_| header.nodeid == ROOT_ID);
        match node {
            None => reply.error(Errno::ENOENT),
            Some(DeviceNode::DmaBuf(buffer)) => {
                let files = self.files.clone();
                self.ask_bytes(buffer, move |bytes| match bytes {
                    Some(bytes) => answer_entry(&files, DeviceNode::DmaBuf(buffer), bytes, reply),
                    None => reply.error(Errno::ENOENT),
                });
            }
            Some(node) => answer_entry(&self.files, node, 0, reply),
        }
    }

    fn attributes(&self, header: &InHeader, reply: Reply) {
        if header.nodeid == ROOT_ID {
            return answer_attributes(root_attributes(), reply);
        }
        match self.files.by_id(header.nodeid) {
            None => reply.error(Errno::ESTALE),
            Some(node @ DeviceNode::DmaBuf(buffer)) => {
                let files = self.files.clone();
                self.ask_bytes(buffer, move |bytes| match bytes {
                    Some(bytes) => answer_attributes(files.attributes(node, bytes), reply),
                    None => reply.error(Errno::ESTALE),
                });
            }
            Some(node) => answer_attributes(self.files.attributes(node, 0), reply),
        }
    }

    fn ask_bytes(&self, buffer: BufferId, then: impl FnOnce(Option<u64>) + Send + 'static) {
        self.engine.submit(Job::DmaBufBytes { buffer, then: Box::new(then) });
    }

    /// Owners and modes do not change here. A size that is set, as `O_TRUNC` does, means nothing to
    /// a device.
    fn set_attributes(&self, header: &InHeader, valid: u32, reply: Reply) {
        if valid & (fattr::MODE | fattr::UID | fattr::GID) != 0 {
            return reply.error(Errno::EPERM);
        }
        self.attributes(header, reply);
    }

    fn open(&self, header: &InHeader, reply: Reply) {
        let Some(node) = self.files.by_id(header.nodeid) else {
            return reply.error(Errno::EISDIR);
        };
        let identity = match self.identify(header) {
            Ok(identity) => identity,
            Err(error) => return reply.error(error),
        };
        // Reads and writes come here, to be refused; `mmap` goes to the store.
        let plain = fopen::DIRECT_IO | fopen::NOFLUSH;
        let mapped = plain | fopen::PASSTHROUGH;
        let (open_flags, backing_id) = match node {
            DeviceNode::Kfd => (mapped, self.backing_of(Store::Kfd)),
            DeviceNode::Render(gpu) => (mapped, self.backing_of(Store::Gpu(gpu))),
            DeviceNode::DmaBuf(_) => (plain, 0),
        };
        let Fate { decision, note } =
            self.watch.meet(&self.files, header, node, || open_name(node));
        let pid = identity.pid;
        let unique = reply.unique();
        let then = move |opened: Result<FileId, Errno>| {
            let (file, result) = match opened {
                Ok(file) => (file.0, 0),
                Err(error) => (0, -(error as i32)),
            };
            note.into_iter().for_each(|note| note.of(pid, file).end(result));
            match opened {
                Ok(file) => reply.data(&OpenOut { fh: file.0, open_flags, backing_id }),
                Err(error) => reply.error(error),
            }
        };
        let engine = Arc::clone(&self.engine);
        self.when_due(decision, unique, move |then_what| match (then_what, decision.fail) {
            (Then::Interrupted, _) => then(Err(Errno::EINTR)),
            (Then::GoOn, Some(error)) => then(Err(error)),
            (Then::GoOn, None) => {
                engine.submit(Job::Open { identity, node, then: Box::new(then) });
            }
        });
    }

    /// Goes on with a request at once, or when it has been late for long enough.
    fn when_due(&self, decision: Decision, unique: u64, then: impl FnOnce(Then) + Send + 'static) {
        if decision.delay.is_zero() {
            return then(Then::GoOn);
        }
        let until_ns = now_ns() + decision.delay.as_nanos() as u64;
        // It fails only if the node ends; then the reply is dropped, which answers.
        let _ = self.late.send(Late::Keep { unique, until_ns, then: Box::new(then) });
    }

    fn backing_of(&self, store: Store) -> i32 {
        match store {
            Store::Kfd => self.backing[0],
            Store::Gpu(gpu) => self.backing[1 + usize::from(gpu.0)],
        }
    }

    fn ioctl(&self, header: &InHeader, args: &IoctlIn, block: &[u8], reply: Reply) {
        let Some(node) = self.files.by_id(header.nodeid) else {
            return reply.error(Errno::ENOTTY);
        };
        match args.cmd {
            WHOAMI => reply.ioctl(0, bytes_of(&self.who_is(node, args.fh))),
            OPEN_PATH => self.open_path(header, block, reply),
            SET_FAULTS => self.set_faults(header, block, reply),
            _ => self.call(header, node, args, block, reply),
        }
    }

    fn who_is(&self, node: DeviceNode, file: u64) -> WhoAmI {
        let (kind, object) = match node {
            DeviceNode::Kfd => (kind::KFD, 0),
            DeviceNode::Render(_) => (kind::RENDER, 0),
            DeviceNode::DmaBuf(buffer) => (kind::DMA_BUF, buffer.0),
        };
        WhoAmI { kind, minor: self.files.minor(node), file, object, node: self.number }
    }

    fn open_path(&self, header: &InHeader, block: &[u8], reply: Reply) {
        // The kernel copies as much as the request number says, which is the whole structure.
        let mut answer: OpenPath = pod_read_unaligned(block);
        let Some(number) = answer.token.checked_sub(TOKEN_FIRST) else {
            return reply.error(Errno::EINVAL);
        };
        let buffer = BufferId(number.into());
        let name = format!("dmabuf:{number}");
        let path = self.paths.of_dma_buf(&name, header.uid == 0);
        self.ask_bytes(buffer, move |bytes| {
            if bytes.is_none() {
                return reply.error(Errno::ENOENT);
            }
            answer.length = path.len() as u32;
            answer.path.fill(0);
            answer.path[..path.len()].copy_from_slice(path.as_bytes());
            reply.ioctl(0, bytes_of(&answer));
        });
    }

    fn set_faults(&self, header: &InHeader, block: &[u8], reply: Reply) {
        if header.uid != 0 {
            return reply.error(Errno::EPERM);
        }
        let mut answer: SetFaults = pod_read_unaligned(block);
        let text = answer.rules.get(..answer.length as usize);
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        let rules = text.map(|text| text.split_whitespace().map(str::parse).collect());
        let Some(Ok(rules)) = rules else {
            return reply.error(Errno::EINVAL);
        };
        answer.hits = self.watch.set_faults(rules);
        reply.ioctl(0, bytes_of(&answer));
    }

    fn call(
        &self,
        header: &InHeader,
        node: DeviceNode,
        args: &IoctlIn,
        block: &[u8],
        mut reply: Reply,
    ) {
        let identified = self.identify(header).and_then(|identity| {
            // The one call that looks at capabilities.
            let is_checkpoint = same_call(args.cmd, kfd::ioc::CRIU_OP);
            let may = is_checkpoint && self.callers.can_checkpoint(&identity)?;
            Ok((identity, may))
        });
        let (identity, can_checkpoint) = match identified {
            Ok(found) => found,
            Err(error) => return reply.error(error),
        };
        let name = || call_name(node, args.cmd, block);
        let Fate { decision, note } = self.watch.meet(&self.files, header, node, name);
        if let Some(note) = note {
            let note = note.of(identity.pid, args.fh);
            reply.observe(move |result| note.end(result));
        }
        let out_bytes = args.out_size as usize;
        let mut whole = vec![0; block.len().max(out_bytes)];
        whole[..block.len()].copy_from_slice(block);
        let (file, request) = (FileId(args.fh), args.cmd);
        let call = Call { identity, can_checkpoint, file, request, block: whole, out_bytes, reply };
        let (engine, naming) = (&self.engine, &self.naming);
        if decision == Decision::default() {
            return carry_out(engine, naming, call);
        }
        let (engine, naming) = (Arc::clone(engine), naming.clone());
        self.when_due(decision, call.reply.unique(), move |then| match (then, decision.fail) {
            (Then::Interrupted, _) => call.reply.ioctl(RESTART, &call.block[..out_bytes]),
            (Then::GoOn, Some(error)) => call.reply.error(error),
            (Then::GoOn, None) => carry_out(&engine, &naming, call),
        });
    }

    /// Entries of the root folder from an offset on, as many as fit.
    fn entries(&self, args: &ReadIn) -> Vec<u8> {
        let dots = [".", ".."].map(|name| (ROOT_ID, name.to_owned(), DT_DIR));
        let files = self.files.list().into_iter().map(|(ino, name)| (ino, name, DT_REG));
        let all = dots.into_iter().chain(files).enumerate().skip(args.offset as usize);
        let mut bytes = Vec::new();
        for (index, (ino, name, kind)) in all {
            let off = index as u64 + 1;
            let head = Dirent { ino, off, namelen: name.len() as u32, kind };
            let length = (size_of::<Dirent>() + name.len()).next_multiple_of(8);
            if bytes.len() + length > args.size as usize {
                break;
            }
            let end = bytes.len() + length;
            bytes.extend_from_slice(bytes_of(&head));
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(end, 0);
        }
        bytes
    }
}

/// Has the device do a call.
fn carry_out(engine: &Engine, naming: &Sender<Call>, call: Call) {
    if !names_descriptors(call.request) {
        return engine.submit(Job::Call(call));
    }
    // It fails only if the node ends; then the reply is dropped, which answers.
    let _ = naming.send(call);
}

fn answer_entry(files: &Files, node: DeviceNode, bytes: u64, reply: Reply) {
    // A dma-buf's name is looked up each time: it goes with the last descriptor.
    let is_dma_buf = matches!(node, DeviceNode::DmaBuf(_));
    match id_of(node) {
        Ok(nodeid) => reply.data(&EntryOut {
            nodeid,
            entry_valid: if is_dma_buf { 0 } else { VALID_SECONDS },
            attr_valid: VALID_SECONDS,
            attr: files.attributes(node, bytes),
            ..EntryOut::zeroed()
        }),
        Err(error) => reply.error(error),
    }
}

fn answer_attributes(attr: Attr, reply: Reply) {
    reply.data(&AttrOut { attr_valid: VALID_SECONDS, attr, ..AttrOut::zeroed() });
}
