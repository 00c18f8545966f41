//! Files and trees are looked at before a restore: everything is found at once, and nothing
//! changed.

use criu_image::record::{FdTypes, GhostFileEntry, UnixSkEntry, VmaEntry};
use criu_image::{Ghost, Remap, task_state, vma_status};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Images, PID};
use crate::files::examine;
use crate::{Host, IdUse, Options, PlanError, Survey, TreeError};

/// Last part of the path, code, and processes of each finding.
fn found(images: &Images) -> Vec<(String, &'static str, Vec<u32>)> {
    let name = |path: &[u8]| {
        let text = String::from_utf8_lossy(path).into_owned();
        text.rsplit('/').next().expect("there is a last part").to_owned()
    };
    let findings = examine(&images.checkpoint);
    findings.iter().map(|it| (name(&it.path), it.error.code(), it.pids.clone())).collect()
}

#[test]
fn all_files_that_are_not_as_they_were_are_found_with_their_processes() {
    let mut images = Images::new();
    let good = images.file("good", "four");
    images.reg_with(&good, libc::O_RDWR, |file| file.size = Some(4));
    let grown = images.file("grown", "longer");
    let id = images.reg_with(&grown, libc::O_RDONLY, |file| file.size = Some(4));
    images.reg("/nowhere/lost", libc::O_RDONLY);
    images.process(PID + 1);
    images.descriptor(id);
    let before = images.names();
    assert_eq!(
        found(&images),
        [
            ("grown".to_owned(), "files.size", vec![PID, PID + 1]),
            ("lost".to_owned(), "files.missing", vec![PID]),
        ]
    );
    assert_eq!(images.names(), before);
}

#[test]
fn a_fifo_is_looked_at_and_not_waited_for() {
    let mut images = Images::new();
    let path = images.path("fifo");
    mkfifo(&path, Mode::S_IRWXU).expect("room");
    images.reg_with(&path, libc::O_RDONLY, |file| file.mode = Some(0o010_700));
    assert_eq!(found(&images), []);
    images.reg_with(&path, libc::O_RDONLY, |file| file.mode = Some(0o100_700));
    assert_eq!(found(&images), [("fifo".to_owned(), "files.mode", vec![PID])]);
}

#[test]
fn a_deleted_file_is_not_missed() {
    let mut images = Images::new();
    let path = images.path("deleted");
    let id = images.reg_with(&path, libc::O_RDWR, |file| file.size = Some(4));
    assert_eq!(found(&images).len(), 1, "without its ghost it is missing");
    let entry = GhostFileEntry { mode: libc::S_IFREG | 0o600, ..Default::default() };
    let ghost = Ghost { id: 1, entry, extents: Vec::new() };
    images.checkpoint.remaps.insert(id, Remap::Ghost(ghost));
    assert_eq!(found(&images), []);
    assert_eq!(images.names(), Vec::<String>::new(), "nothing is made");
}

#[test]
fn a_survey_goes_on_after_the_first_finding() {
    let mut images = Images::new();
    images.checkpoint.processes[0].task.task_state = task_state::ALIVE;
    images.checkpoint.processes[0].sid = PID + 5;
    images.add(FdTypes::Unixsk, |entry, id| {
        entry.usk = Some(UnixSkEntry { id, ..Default::default() });
    });
    let vdso = VmaEntry { start: 0x10000, end: 0x11000, status: vma_status::VDSO, ..vma() };
    images.body().mm.vmas.push(vdso);
    let host = Host::probe().expect("/proc is mounted");
    let survey = Survey::of(&images.checkpoint, &host, &Options::default());
    let codes: Vec<&str> = survey.findings.iter().map(PlanError::code).collect();
    assert_eq!(codes, ["tree.foreign-session", "unsupported.images", "host.vdso-size"]);
    let refused = survey.findings.iter().find_map(|error| match error {
        PlanError::Refused(list) => Some(list),
        _ => None,
    });
    assert_eq!(refused.expect("the socket").len(), 1);
    assert_eq!(survey.ids.get(&(PID as i32)), Some(&IdUse::Process));
    assert_eq!(survey.fd_max, Some(0));
    // What the caller allows is no finding.
    let options = Options { shell_job: true, ..Options::default() };
    let survey = Survey::of(&images.checkpoint, &host, &options);
    let is_session =
        |error: &PlanError| matches!(error, PlanError::Tree(TreeError::ForeignSession { .. }));
    assert!(!survey.findings.iter().any(is_session), "{:?}", survey.findings);
}

#[test]
fn ids_of_leaders_that_have_gone_are_needed_too() {
    let mut images = Images::new();
    images.checkpoint.processes[0].pgid = PID;
    images.process(PID + 1);
    let child = images.checkpoint.processes.last_mut().expect("made so");
    (child.parent, child.ppid, child.sid, child.pgid) = (Some(0), PID, PID, PID + 7);
    let host = Host::probe().expect("/proc is mounted");
    let survey = Survey::of(&images.checkpoint, &host, &Options::default());
    assert_eq!(survey.ids.get(&(PID as i32 + 7)), Some(&IdUse::Leader));
    assert_eq!(survey.ids.len(), 3, "{:?}", survey.ids);
}

fn vma() -> VmaEntry {
    VmaEntry { prot: 5, flags: 2, fd: -1, ..Default::default() }
}
