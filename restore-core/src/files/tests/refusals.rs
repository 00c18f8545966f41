//! What is not restored: all of it is named, once, with those who have it.

use criu_image::record::{FdTypes, NsFileEntry, TtyFileEntry, UnixSkEntry, VmaEntry};
use criu_image::{Remap, vma_status};

use super::{Images, PID, thread};

#[test]
fn all_are_named_with_their_processes() {
    let mut images = Images::new();
    let socket = images.add(FdTypes::Unixsk, |entry, id| {
        entry.usk = Some(UnixSkEntry { id, ..Default::default() });
    });
    images.add(FdTypes::Tty, |entry, id| {
        entry.tty = Some(TtyFileEntry { id, ..Default::default() });
    });
    images.process(PID + 1);
    images.descriptor(socket);
    images.add(FdTypes::Ns, |entry, id| {
        entry.nsf = Some(NsFileEntry { id, ..Default::default() });
    });
    let lines: Vec<String> = images.refusals().iter().map(ToString::to_string).collect();
    let expected = [
        format!("unix socket of processes {PID}, {} (files.img, file 0x2)", PID + 1),
        format!("terminal of process {PID} (files.img, file 0x3)"),
        format!("namespace file of process {} (files.img, file 0x4)", PID + 1),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&expected), "{line}");
        assert!(line.contains("restore the checkpoint with criu"), "{line}");
    }
}

#[test]
fn nothing_is_passed_over_in_silence() {
    for kind in 0..=20 {
        let kind = FdTypes::try_from(kind).expect("the kinds have no gaps");
        let mut images = Images::new();
        images.add(kind, |_, _| ());
        assert_eq!(images.refusals().len(), 1, "{kind:?} without its description");
    }
}

#[test]
fn a_file_that_is_needed_twice_is_named_once() {
    let mut images = Images::new();
    let id = images.reg_with("/dev/null", libc::O_RDONLY, |file| file.ext = Some(true));
    let vma = VmaEntry {
        start: 0x10000,
        end: 0x11000,
        shmid: id.0.into(),
        status: vma_status::FILE_PRIVATE,
        ..Default::default()
    };
    images.body().mm.vmas = vec![vma];
    images.check_refused(&["external file"]);
}

#[test]
fn a_mapping_of_what_cannot_be_mapped_is_refused() {
    let mut images = Images::new();
    let id = images.add(FdTypes::Eventfd, |_, _| ());
    let vma =
        VmaEntry { shmid: id.0.into(), status: vma_status::FILE_SHARED, ..Default::default() };
    let refusal = super::super::mapping_key(&vma, &images.checkpoint).unwrap_err();
    assert!(refusal.what.contains("mapping of a file of kind"), "{refusal}");
}

#[test]
fn a_file_that_no_image_describes_is_refused() {
    let mut images = Images::new();
    let id = images.reg("/dev/null", libc::O_RDONLY);
    images.checkpoint.files.remove(&id);
    images.check_refused(&["file that is not described"]);
}

fn check_proc(path: &str, expected: Option<&str>) {
    let mut images = Images::new();
    images.body().threads.push(thread(PID + 1));
    let dead = images.reg(format!("/proc/{}", PID + 5), libc::O_RDONLY);
    images.checkpoint.remaps.insert(dead, Remap::Procfs(PID + 5));
    images.checkpoint.fd_tables.values_mut().for_each(Vec::clear);
    images.reg(path.replace("PID", &PID.to_string()), libc::O_RDONLY);
    match expected {
        Some(expected) => images.check_refused(&[expected]),
        None => drop(super::plan(&images.checkpoint, &super::needs(&images.checkpoint)).unwrap()),
    }
}

#[test]
fn proc_entries_that_do_not_exist_in_time_are_refused() {
    let of_thread = format!("/proc entry of a thread of process {PID}");
    let of_descriptor = format!("/proc entry of a descriptor or mapping of process {PID}");
    let dead = format!("/proc entry of process {}, which has exited", PID + 5);
    check_proc("/proc/PID", None);
    check_proc("/proc/PID/fd", None);
    check_proc("/proc/PID/task/PID/maps", None);
    check_proc("/proc/stat", None);
    check_proc("/proc/1/stat", None);
    check_proc(&format!("/proc/PID/task/{}/comm", PID + 1), Some(&of_thread));
    check_proc("/proc/PID/fdinfo/3", Some(&of_descriptor));
    check_proc("/proc/PID/task/PID/fd/0", Some(&of_descriptor));
    let thread = format!("/proc entry of thread {}", PID + 1);
    check_proc(&format!("/proc/{}/stat", PID + 1), Some(&thread));
    // Only the first file of a dead process has a remap in the images.
    check_proc(&format!("/proc/{}/maps", PID + 5), Some(&dead));
}

#[test]
fn a_remap_to_a_process_of_the_tree_is_none() {
    let mut images = Images::new();
    let id = images.reg(format!("/proc/{PID}/stat"), libc::O_RDONLY);
    images.checkpoint.remaps.insert(id, Remap::Procfs(PID));
    let opened = images.open();
    assert_eq!(opened.late().count(), 1);
}

#[test]
fn a_working_directory_in_proc_of_the_tree_is_refused() {
    let mut images = Images::new();
    let id = images.reg(format!("/proc/{PID}"), libc::O_RDONLY | libc::O_DIRECTORY);
    images.body().fs.cwd_id = id.0;
    images.check_refused(&["program, directory or mapping in /proc/<pid> of the tree"]);
    assert_eq!(images.refusals()[0].pids, [PID]);
    images.body().fs.cwd_id = super::ROOT;
    let vma =
        VmaEntry { shmid: id.0.into(), status: vma_status::FILE_PRIVATE, ..Default::default() };
    images.body().mm.vmas = vec![vma];
    images.check_refused(&["program, directory or mapping in /proc/<pid> of the tree"]);
}
