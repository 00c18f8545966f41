//! Pipes and fifos: contents in order, capacity, ends that are closed, openings that do not wait.

use criu_image::record::{FdTypes, FifoEntry, PipeEntry};
use criu_image::{DataSpan, FileId, PipeData};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, write};

use super::{Images, flags, read};

const LARGEFILE: i32 = 0o100_000;

fn end(images: &mut Images, pipe_id: u32, flags: i32) -> FileId {
    images.add(FdTypes::Pipe, |entry, id| {
        entry.pipe = Some(PipeEntry { id, pipe_id, flags: flags as u32, ..Default::default() });
    })
}

fn data(capacity_bytes: Option<u32>, offset_bytes: u64, len_bytes: u64) -> PipeData {
    let data = DataSpan { offset_bytes, len_bytes };
    PipeData { capacity_bytes, data }
}

#[test]
fn has_contents_capacity_flags_and_both_ends() {
    let mut images = Images::new();
    images.image("pipes-data.img", b"--first second--");
    let kept = data(Some(8192), 2, 12);
    images.checkpoint.pipe_data.insert(7, kept);
    let reader = end(&mut images, 7, libc::O_RDONLY | libc::O_NONBLOCK);
    let writer = end(&mut images, 7, libc::O_WRONLY);
    let opened = images.open();
    let (reader, writer) = (opened.fd(reader), opened.fd(writer));
    assert_eq!(fcntl(reader, FcntlArg::F_GETPIPE_SZ), Ok(8192));
    let mask = libc::O_ACCMODE | libc::O_NONBLOCK;
    assert_eq!(flags(reader) & mask, libc::O_RDONLY | libc::O_NONBLOCK);
    assert_eq!(flags(writer) & mask, libc::O_WRONLY);
    write(writer, b", third").unwrap();
    assert_eq!(read(reader).unwrap(), b"first second, third");
    assert_eq!(read(reader), Err(Errno::EAGAIN));
}

#[test]
fn an_end_that_nobody_has_is_closed() {
    let mut images = Images::new();
    images.image("pipes-data.img", b"rest");
    images.checkpoint.pipe_data.insert(1, data(None, 0, 4));
    let reader = end(&mut images, 1, libc::O_RDONLY);
    let writer = end(&mut images, 2, libc::O_WRONLY);
    let opened = images.open();
    assert_eq!(read(opened.fd(reader)).unwrap(), b"rest");
    assert_eq!(read(opened.fd(reader)).unwrap(), b"");
    assert_eq!(write(opened.fd(writer), b"x"), Err(Errno::EPIPE));
}

#[test]
fn several_open_files_of_one_end_are_one_pipe() {
    let mut images = Images::new();
    let reader = end(&mut images, 3, libc::O_RDONLY);
    let again = end(&mut images, 3, libc::O_RDONLY | LARGEFILE | libc::O_NONBLOCK);
    let both = end(&mut images, 3, libc::O_RDWR | LARGEFILE);
    let opened = images.open();
    write(opened.fd(both), b"one").unwrap();
    assert_eq!(read(opened.fd(again)).unwrap(), b"one");
    write(opened.fd(both), b"two").unwrap();
    assert_eq!(read(opened.fd(reader)).unwrap(), b"two");
    assert_eq!(flags(opened.fd(reader)) & libc::O_NONBLOCK, 0);
    assert_eq!(flags(opened.fd(again)) & libc::O_NONBLOCK, libc::O_NONBLOCK);
}

#[test]
fn is_one_of_pipe2_or_opened_again_as_it_was() {
    for (order, last) in [(0, LARGEFILE), (LARGEFILE, 0)] {
        let mut images = Images::new();
        let first = end(&mut images, 3, libc::O_RDONLY | order);
        let second = end(&mut images, 3, libc::O_RDONLY | last);
        let opened = images.open();
        assert_eq!(flags(opened.fd(first)) & LARGEFILE, order);
        assert_eq!(flags(opened.fd(second)) & LARGEFILE, last);
    }
}

#[test]
fn more_than_the_capacity_is_an_error_and_not_a_wait() {
    let mut images = Images::new();
    images.image("pipes-data.img", &[1; 8192]);
    images.checkpoint.pipe_data.insert(1, data(Some(4096), 0, 8192));
    end(&mut images, 1, libc::O_RDONLY);
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("a pipe with 8192 bytes") && text.contains("too small"), "{text}");
}

#[test]
fn contents_longer_than_a_piece_arrive_whole() {
    let mut images = Images::new();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    images.image("pipes-data.img", &bytes);
    let kept = data(Some(1 << 18), 0, bytes.len() as u64);
    images.checkpoint.pipe_data.insert(1, kept);
    let reader = end(&mut images, 1, libc::O_RDONLY);
    let opened = images.open();
    let mut found = Vec::new();
    while let Ok(piece) = read(opened.fd(reader)) {
        if piece.is_empty() {
            break;
        }
        found.extend(piece);
    }
    assert!(found == bytes);
}

#[test]
fn a_cut_image_is_an_error() {
    let mut images = Images::new();
    images.image("pipes-data.img", b"short");
    images.checkpoint.pipe_data.insert(1, data(None, 0, 6));
    end(&mut images, 1, libc::O_RDONLY);
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("cannot read pipes-data.img"), "{text}");
}

/// Adds a fifo at a path of the tests' own; makes it unless it is to be a deleted one.
fn fifo(images: &mut Images, pipe_id: u32, flags: i32) -> FileId {
    let path = images.path("fifo");
    if !path.exists() {
        mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    }
    let regf = images.reg_with(&path, flags, |file| file.mode = Some(0o010_600));
    let pid = images.checkpoint.processes[0].pid;
    // The path's entry serves the fifo only: no descriptor has it.
    images.checkpoint.fd_tables.get_mut(&pid).unwrap().pop();
    images.add(FdTypes::Fifo, |entry, id| {
        entry.fifo = Some(FifoEntry { id, pipe_id, regf_id: Some(regf.0) });
    })
}

#[test]
fn a_fifo_opens_without_a_partner_and_keeps_its_contents() {
    let mut images = Images::new();
    images.image("fifo-data.img", b"waiting");
    images.checkpoint.fifo_data.insert(5, data(Some(4096), 0, 7));
    let reader = fifo(&mut images, 5, libc::O_RDONLY);
    let opened = images.open();
    assert_eq!(flags(opened.fd(reader)) & libc::O_NONBLOCK, 0);
    assert_eq!(fcntl(opened.fd(reader), FcntlArg::F_GETPIPE_SZ), Ok(4096));
    assert_eq!(read(opened.fd(reader)).unwrap(), b"waiting");
    assert_eq!(read(opened.fd(reader)).unwrap(), b"", "no writer is left over");
}

#[test]
fn all_files_of_a_fifo_share_it_and_it_is_filled_once() {
    let mut images = Images::new();
    images.image("fifo-data.img", b"once");
    images.checkpoint.fifo_data.insert(5, data(None, 0, 4));
    let writer = fifo(&mut images, 5, libc::O_WRONLY);
    let reader = fifo(&mut images, 5, libc::O_RDONLY | libc::O_NONBLOCK);
    let opened = images.open();
    write(opened.fd(writer), b", more").unwrap();
    assert_eq!(read(opened.fd(reader)).unwrap(), b"once, more");
    assert_eq!(read(opened.fd(reader)), Err(Errno::EAGAIN));
}

#[test]
fn a_file_in_the_place_of_a_fifo_is_left_alone() {
    let mut images = Images::new();
    fifo(&mut images, 5, libc::O_WRONLY);
    std::fs::remove_file(images.path("fifo")).unwrap();
    let path = images.file("fifo", "mine");
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("mode"), "{text}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
}
