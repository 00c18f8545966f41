//! What waits for the tasks: descriptors of processes, `/proc/<pid>`, owners, watches.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use criu_image::FileId;
use criu_image::record::{
    EventfdFileEntry, EventpollFileEntry, EventpollTfdEntry, FdTypes, FownEntry, PidfdEntry,
    PipeEntry,
};

use super::super::{EpollAdd, ObjectKey, epoll_adds, raw};
use super::{Images, PID, field, flags, needs_root, read, shown, thread};

/// A process that stands for one of the tree. It waits for its standard input to be closed.
struct Task(Child);

impl Task {
    fn new() -> Self {
        let mut cat = Command::new("cat");
        cat.stdin(Stdio::piped()).stdout(Stdio::null());
        Self(cat.spawn().expect("cat is part of every system"))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pidfd(images: &mut Images, nspid: i32, ino: u32, flags: i32) -> FileId {
    images.add(FdTypes::Pidfd, |entry, id| {
        entry.pidfd = Some(PidfdEntry {
            id,
            ino,
            nspid,
            flags: (libc::O_RDWR | flags) as u32,
            ..Default::default()
        });
    })
}

#[test]
fn a_pidfd_is_opened_when_its_process_exists() {
    let task = Task::new();
    let mut images = Images::of(task.pid());
    let id = pidfd(&mut images, task.pid() as i32, 1, libc::O_NONBLOCK);
    let mut opened = images.open();
    let numbers: Vec<(ObjectKey, i32)> = opened.late().collect();
    assert_eq!(numbers.len(), 1);
    assert_eq!(numbers[0].0, ObjectKey::File(id));
    assert!(opened.inherited().all(|(key, _)| key != ObjectKey::File(id)));
    assert_eq!(shown(opened.late_fd(id)), Path::new("/dev/null"));
    opened.open_late().unwrap();
    assert_eq!(opened.late().collect::<Vec<_>>(), numbers, "the numbers stay");
    assert_eq!(field(opened.late_fd(id), "Pid:"), task.pid().to_string());
    assert_eq!(flags(opened.late_fd(id)) & libc::O_NONBLOCK, libc::O_NONBLOCK);
}

#[test]
fn pidfds_of_the_dead_are_of_one_process_if_they_were() {
    let mut images = Images::new();
    let [a, b, c] = [(7, 0), (7, libc::O_NONBLOCK), (8, 0)]
        .map(|(ino, flags)| pidfd(&mut images, -1, ino, flags));
    let mut opened = images.open();
    opened.open_late().unwrap();
    let [a, b, c] = [a, b, c].map(|id| opened.late_fd(id));
    assert!([a, b, c].iter().all(|fd| field(fd, "Pid:") == "-1"));
    let inode = |fd: &OwnedFd| File::from(fd.try_clone().unwrap()).metadata().unwrap().ino();
    assert_eq!(inode(a), inode(b));
    assert_ne!(inode(a), inode(c));
    assert_eq!(flags(b) & libc::O_NONBLOCK, libc::O_NONBLOCK);
}

#[test]
fn pidfds_of_threads_and_strangers_are_refused() {
    let mut images = Images::new();
    images.body().threads.push(thread(PID + 1));
    pidfd(&mut images, PID as i32 + 1, 1, 0);
    pidfd(&mut images, 1, 1, 0);
    images.check_refused(&[
        &format!("pidfd of {}, a thread or outside the tree", PID + 1),
        "pidfd of 1, a thread or outside the tree",
    ]);
}

#[test]
fn proc_of_the_tree_is_opened_when_the_tree_exists() {
    let task = Task::new();
    let mut images = Images::of(task.pid());
    let path = format!("/proc/{}/stat", task.pid());
    let id = images.reg_with(&path, libc::O_RDONLY, |file| file.pos = 1);
    let own = images.reg("/proc/version", libc::O_RDONLY);
    let mut opened = images.open();
    assert_eq!(shown(opened.fd(own)), Path::new("/proc/version"));
    opened.open_late().unwrap();
    assert_eq!(shown(opened.late_fd(id)), Path::new(&path));
    let stat = read(opened.late_fd(id)).unwrap();
    assert!(stat.starts_with(&task.pid().to_string().as_bytes()[1..]));
}

#[test]
fn a_process_that_is_gone_again_is_an_error() {
    let task = Task::new();
    let mut images = Images::of(task.pid());
    pidfd(&mut images, task.pid() as i32, 1, 0);
    let mut opened = images.open();
    drop(task);
    let text = opened.open_late().unwrap_err().to_string();
    assert!(text.contains("pidfd_open") && text.contains("ESRCH"), "{text}");
}

fn owned_pipe(images: &mut Images, fown: FownEntry, flags: i32) -> FileId {
    images.add(FdTypes::Pipe, |entry, id| {
        entry.pipe = Some(PipeEntry { id, pipe_id: id, flags: flags as u32, fown });
    })
}

fn owner(pid: u32, pid_type: u32) -> FownEntry {
    FownEntry {
        uid: nix::unistd::getuid().as_raw(),
        euid: nix::unistd::geteuid().as_raw(),
        signum: libc::SIGUSR1 as u32,
        pid_type,
        pid,
    }
}

#[test]
fn owners_and_signals_are_set_last() {
    let task = Task::new();
    let pid = task.pid();
    let mut images = Images::of(pid);
    let group = nix::unistd::getpgrp().as_raw() as u32;
    images.checkpoint.processes[0].pgid = group;
    let wanted = [(0, pid), (1, pid), (2, group)];
    let ids = wanted.map(|(kind, pid)| owned_pipe(&mut images, owner(pid, kind), libc::O_ASYNC));
    let mut opened = images.open();
    opened.open_late().unwrap();
    for id in ids {
        assert_eq!(flags(opened.fd(id)) & libc::O_ASYNC, 0);
        assert_eq!(raw::owner(opened.fd(id)).unwrap().1, 0);
    }
    opened.arm_timers().unwrap();
    for (id, (kind, pid)) in ids.into_iter().zip(wanted) {
        let signal = libc::SIGUSR1;
        assert_eq!(raw::owner(opened.fd(id)), Ok((kind as i32, pid as i32, signal)));
        assert_eq!(flags(opened.fd(id)) & libc::O_ASYNC, libc::O_ASYNC);
    }
}

#[test]
fn asynchronous_notification_alone_is_kept() {
    let mut images = Images::new();
    let id = owned_pipe(&mut images, FownEntry::default(), libc::O_ASYNC);
    let opened = images.open();
    opened.arm_timers().unwrap();
    assert_eq!(flags(opened.fd(id)) & libc::O_ASYNC, libc::O_ASYNC);
}

/// `O_ASYNC` that was given to open could not be set again: no signal would ever be sent.
#[test]
fn asynchronous_notification_of_a_path_has_effect() {
    let task = Task::new();
    let mut images = Images::of(task.pid());
    let path = images.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let id = images.reg_with(&path, libc::O_RDWR | libc::O_ASYNC, |file| {
        file.fown = owner(task.pid(), 1);
        file.pos = u64::MAX;
    });
    let opened = images.open();
    assert_eq!(flags(opened.fd(id)) & libc::O_ASYNC, 0);
    opened.arm_timers().unwrap();
    nix::unistd::write(opened.fd(id), b"x").unwrap();
    let mut task = task;
    assert_eq!(task.0.wait().unwrap().signal(), Some(libc::SIGUSR1));
}

#[test]
fn the_owner_of_a_fifo_stands_with_its_path() {
    let task = Task::new();
    let mut images = Images::of(task.pid());
    let path = images.path("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let regf = images.reg_with(&path, libc::O_RDWR, |file| file.fown = owner(task.pid(), 1));
    images.checkpoint.fd_tables.values_mut().for_each(|table| drop(table.pop()));
    let id = images.add(FdTypes::Fifo, |entry, id| {
        entry.fifo = Some(criu_image::record::FifoEntry { id, pipe_id: 1, regf_id: Some(regf.0) });
    });
    let opened = images.open();
    opened.arm_timers().unwrap();
    assert_eq!(raw::owner(opened.fd(id)).unwrap().1, task.pid() as i32);
}

#[test]
fn an_owner_is_named_under_the_ids_that_named_it() {
    if needs_root("an_owner_is_named_under_the_ids_that_named_it") {
        return;
    }
    let task = Task::new();
    let mut images = Images::of(task.pid());
    let fown = FownEntry { uid: 12_345, euid: 23_456, ..owner(task.pid(), 1) };
    let id = owned_pipe(&mut images, fown, libc::O_RDONLY);
    let opened = images.open();
    opened.arm_timers().unwrap();
    assert_eq!(raw::owner_ids(opened.fd(id)), Ok((12_345, 23_456)));
    assert!(nix::unistd::getuid().is_root() && nix::unistd::geteuid().is_root());
    assert!(nix::sys::prctl::get_dumpable().unwrap());
}

#[test]
fn ids_that_mean_no_change_do_not_make_root_the_owner() {
    let task = Task::new();
    let mut images = Images::of(task.pid());
    let fown = FownEntry { uid: u32::MAX, euid: u32::MAX, ..owner(task.pid(), 1) };
    owned_pipe(&mut images, fown, libc::O_RDONLY);
    let text = images.open().arm_timers().unwrap_err().to_string();
    assert!(text.contains("F_SETOWN_EX"), "{text}");
}

#[test]
fn owners_outside_the_tree_are_refused() {
    let mut images = Images::new();
    images.body().threads.push(thread(PID + 1));
    owned_pipe(&mut images, owner(PID + 1, 0), libc::O_RDONLY);
    for (pid, kind) in [(PID + 1, 1), (1, 2), (PID, 9)] {
        owned_pipe(&mut images, owner(pid, kind), libc::O_RDONLY);
    }
    let outside = |pid: u32| format!("signals of a file to {pid}, outside the tree");
    images.check_refused(&[&outside(PID + 1), &outside(1), &outside(PID)]);
}

fn epoll(images: &mut Images, watched: &[u32]) -> FileId {
    let watch = |tfd: &u32| EventpollTfdEntry {
        tfd: *tfd,
        events: libc::EPOLLIN as u32,
        data: u64::from(*tfd) << 40,
        ..Default::default()
    };
    let tfd = watched.iter().map(watch).collect();
    images.add(FdTypes::Eventpoll, |entry, id| {
        entry.epfd =
            Some(EventpollFileEntry { id, flags: libc::O_RDWR as u32, tfd, ..Default::default() });
    })
}

fn counter(images: &mut Images) -> FileId {
    images.add(FdTypes::Eventfd, |entry, id| {
        entry.efd = Some(EventfdFileEntry { id, ..Default::default() });
    })
}

#[test]
fn watches_are_added_once_by_the_process_that_was_dumped_with_them() {
    let mut images = Images::new();
    counter(&mut images);
    let id = epoll(&mut images, &[0]);
    images.descriptor(id); // a second number for the same instance
    images.process(PID + 1);
    counter(&mut images); // the watched number, but another file
    images.descriptor(id);
    let adds = |index: usize| epoll_adds(&images.checkpoint, &images.checkpoint.processes[index]);
    let expected = EpollAdd { epoll_fd: 1, target_fd: 0, events: libc::EPOLLIN as u32, data: 0 };
    assert_eq!(adds(0), [expected]);
    assert_eq!(adds(1), []);
    assert_eq!(field(images.open().fd(id), "flags:"), "02000002");
}

#[test]
fn watches_that_cannot_be_added_are_refused() {
    let mut images = Images::new();
    counter(&mut images);
    let id = epoll(&mut images, &[0, 0, 3]);
    images.process(PID + 1);
    images.descriptor(id);
    for _ in 0..3 {
        counter(&mut images); // descriptor 3 is open here, where it was not watched
    }
    images.check_refused(&[
        "epoll watch of descriptor 0, which it already watches",
        "epoll watch of descriptor 3, which is closed",
    ]);
}
