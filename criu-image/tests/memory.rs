//! What is in memory does not grow with the image: the peak of this process, alone with itself.

use std::io::{self, Read, Write};

use criu_image::record::{
    CgControllerEntry, CgroupDirEntry, CgroupEntry, CoreEntry, FdinfoEntry, FileEntry,
    FileLockEntry, GhostFileEntry, MmEntry, NsFileEntry, PagemapEntry, PagemapHead, PstreeEntry,
    RegFileEntry, TaskKobjIdsEntry, VmaEntry,
};
use criu_image::vma_status::FILE_PRIVATE;
use criu_image::{
    Checkpoint, ImageKind, ImageReader, JsonOptions, View, ViewKind, decode_json, diff,
    encode_json, verify,
};
use prost::Message;

const PLAIN: JsonOptions = JsonOptions { readable: false, payloads: true, line_break: false };

/// The head of an image, and its first record.
fn head(magic: u32, record: &impl Message) -> Vec<u8> {
    [&0x5456_4319u32.to_le_bytes()[..], &magic.to_le_bytes(), &framed(record)].concat()
}

fn framed(record: &impl Message) -> Vec<u8> {
    [&(record.encoded_len() as u32).to_le_bytes()[..], &record.encode_to_vec()].concat()
}

/// A pagemap as a stream that is never in memory as a whole.
struct Pagemap {
    entry: Vec<u8>,
    at: usize,
    left: u64,
}

impl Read for Pagemap {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.entry.len() && self.left > 0 {
            self.at = 0;
            self.left -= 1;
            if self.left.is_multiple_of(1000) {
                let entry = PagemapEntry { vaddr: self.left << 12, ..Default::default() };
                self.entry = framed(&entry);
            }
        }
        let len = into.len().min(self.entry.len() - self.at);
        into[..len].copy_from_slice(&self.entry[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn pagemap(entries: u64) -> impl Read {
    let head = head(0x5608_4025, &PagemapHead { pages_id: 1 });
    let entry = framed(&PagemapEntry::default());
    io::Cursor::new(head).chain(Pagemap { at: entry.len(), entry, left: entries })
}

/// Hands on what is written to a reader in another thread.
fn pipe_through(entries: u64) -> (u64, u64) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let decoding = std::thread::spawn(move || {
        let mut image = ImageReader::new(pagemap(entries), "pagemap-1.img").expect("an image");
        decode_json(&mut image, writer, PLAIN).expect("a good image");
    });
    let mut size = Size(0);
    encode_json(reader, &mut size).expect("JSON of ours");
    decoding.join().expect("it ends well");
    (size.0, io::copy(&mut pagemap(entries), &mut io::sink()).expect("it can be read"))
}

struct Size(u64);

impl Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Largest resident set of this process in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux has it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

fn memory_of_many_records() {
    let (small, _) = pipe_through(1000);
    assert!(small > 0);
    let before = peak_kib();
    let (written, read) = pipe_through(500_000);
    assert_eq!(written, read);
    assert!(read > 2 << 20, "{read}");
    let grown = peak_kib().saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} KiB for an image of {read} bytes");
}

fn memory_of_contents() {
    let len = 32 << 20;
    let entry = GhostFileEntry { mode: 0o100_644, ..Default::default() };
    let head = head(0x5258_3605, &entry);
    let file = || io::Cursor::new(head.clone()).chain(io::repeat(7).take(len));
    let before = peak_kib();
    let (reader, writer) = io::pipe().expect("a pipe");
    let decoding = {
        let mut image = ImageReader::new(file(), "ghost-file-1.img").expect("an image");
        std::thread::spawn(move || decode_json(&mut image, writer, PLAIN).expect("a good image"))
    };
    let mut size = Size(0);
    encode_json(reader, &mut size).expect("JSON of ours");
    decoding.join().expect("it ends well");
    assert_eq!(size.0, head.len() as u64 + len);
    let grown = peak_kib().saturating_sub(before);
    assert!(grown < 4 << 10, "{grown} KiB for {len} bytes");
}

/// One MiB of the smallest records that take most memory, in every way that reads all of them.
fn memory_of_many_small_records() {
    let dir = tempfile::tempdir().expect("a folder");
    let nsf = |id| NsFileEntry { id, ns_id: 0, ns_cflag: 0, flags: 0 };
    let file = |id| FileEntry { r#type: 14, id, nsf: Some(nsf(id)), ..Default::default() };
    put(&dir, "files.img", |index| framed(&file(index)));
    put(&dir, "pstree.img", |index| {
        framed(&PstreeEntry { pid: index + 1, ppid: 0, pgid: 1, sid: 1, threads: vec![] })
    });
    put(&dir, "cgroup.img", |_| {
        let directory = CgroupDirEntry::default();
        let controller = CgControllerEntry { dirs: vec![directory; 20], ..Default::default() };
        framed(&CgroupEntry { controllers: vec![controller], ..Default::default() })
    });
    put(&dir, "filelocks.img", |_| framed(&FileLockEntry::default()));
    let _ = Checkpoint::open(dir.path());
    let _ = verify(dir.path());
    for (_, kind) in ViewKind::NAMES {
        let _ = View::open(dir.path(), kind);
    }
    for name in ["files.img", "pstree.img", "cgroup.img", "filelocks.img"] {
        let path = dir.path().join(name);
        diff(&path, &path, &mut |_| true).expect("it is an image");
    }
    let peak = peak_kib() >> 10;
    assert!(peak < 256, "{peak} MiB");
}

/// Records that all refer to each other: rows of a view must not hold copies.
fn memory_of_references() {
    let dir = tempfile::tempdir().expect("a folder");
    let reg = RegFileEntry { id: 1, name: vec![b'x'; 300 << 10], ..Default::default() };
    let file = FileEntry { r#type: 1, id: 1, reg: Some(reg), ..Default::default() };
    put_some(&dir, "files.img", 0, |_| framed(&file));
    put_some(&dir, "pstree.img", 200 << 10, |_| {
        framed(&PstreeEntry { pid: 1, ppid: 1, pgid: 1, sid: 1, threads: vec![] })
    });
    let ids = TaskKobjIdsEntry { files_id: 1, ..Default::default() };
    put_some(&dir, "ids-1.img", 0, |_| framed(&ids));
    let descriptor = FdinfoEntry { id: 1, r#type: 1, ..Default::default() };
    put_some(&dir, "fdinfo-1.img", 200 << 10, |_| framed(&descriptor));
    let vma = VmaEntry { shmid: 1, status: FILE_PRIVATE, ..Default::default() };
    let mm = MmEntry { vmas: vec![vma; 5000], ..Default::default() };
    put_some(&dir, "mm-1.img", 0, |_| framed(&mm));
    put_some(&dir, "core-1.img", 0, |_| framed(&CoreEntry::default()));
    for (_, kind) in ViewKind::NAMES {
        let view = View::open(dir.path(), kind).expect("all that it needs is there");
        view.write_text(io::sink()).expect("it takes all");
        view.write_json(io::sink()).expect("it takes all");
    }
    let peak = peak_kib() >> 10;
    assert!(peak < 256, "{peak} MiB");
}

/// Fills an image of 1 MiB.
fn put(dir: &tempfile::TempDir, name: &str, record: impl Fn(u32) -> Vec<u8>) {
    put_some(dir, name, 1 << 20, record);
}

/// Fills an image with so many bytes, and at least one record.
fn put_some(dir: &tempfile::TempDir, name: &str, len: usize, record: impl Fn(u32) -> Vec<u8>) {
    let (kind, _) = ImageKind::of_name(name.as_ref()).expect("a name of an image");
    let mut bytes = [0x5456_4319u32, kind.magic()].map(u32::to_le_bytes).concat();
    (0..)
        .map(record)
        .take_while(|record| {
            bytes.extend(record);
            bytes.len() < len
        })
        .for_each(drop);
    std::fs::write(dir.path().join(name), bytes).expect("room");
}

/// One test: the peak is that of the whole process.
#[test]
fn memory_does_not_grow_with_the_image() {
    memory_of_many_records();
    memory_of_contents();
    memory_of_many_small_records();
    memory_of_references();
}
