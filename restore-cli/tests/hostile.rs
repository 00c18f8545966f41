//! Damaged images: a clear error or a correct restore; no panic, no hang, no process left over.
//!
//! Every image of a small checkpoint is cut at every byte, and bits of it are flipped. What the
//! checks do not see as damage (a register or a byte of memory has no wrong value) is restored for
//! real, and then the tree must be whole or nothing of it must exist.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use restore_core::{Host, Options, RestorePlan};
use support::{Dumper, Tree, family, live, with_each_dumper};

/// Flips for each file of a checkpoint with a manifest.
const VERIFIED_FLIPS_PER_FILE: usize = 8;
/// Flips for each image file, spread evenly over it.
const FLIPS_PER_FILE: usize = 120;
/// Exit codes that a damaged checkpoint may give: failed and undone, bad images, cannot be taken.
const ERRORS: [i32; 3] = [1, 3, 4];

/// A copy of the images, one file of which is damaged at a time.
struct Copy {
    dir: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Copy {
    fn of(images: &Path, dir: PathBuf) -> Self {
        fs::create_dir(&dir).expect("a folder");
        let mut files = Vec::new();
        for entry in fs::read_dir(images).expect("the images").flatten() {
            let path = dir.join(entry.file_name());
            if path.extension().is_some_and(|extension| extension == "img") {
                let bytes = fs::read(entry.path()).expect("an image");
                fs::write(&path, &bytes).expect("room");
                files.push((path, bytes));
            }
        }
        files.sort();
        Self { dir, files }
    }

    /// Whether the images are accepted and could be restored here, as far as planning can tell.
    fn is_accepted(&self, host: &Host) -> bool {
        let Ok(checkpoint) = criu_image::Checkpoint::open(&self.dir) else { return false };
        RestorePlan::new(checkpoint, host, Options::default()).is_ok()
    }

    /// Adds the manifest to the files that are damaged.
    fn with_manifest(mut self, images: &Path) -> Self {
        let path = self.dir.join(criu_image::MANIFEST_NAME);
        let text = fs::read(images.join(criu_image::MANIFEST_NAME)).expect("a manifest");
        fs::write(&path, &text).expect("room");
        self.files.push((path, text));
        self
    }

    /// Calls `body` with bits of each file flipped, one at a time; how many.
    fn with_each_flip(&self, per_file: usize, mut body: impl FnMut(&Path, &str)) -> usize {
        let mut flips = 0;
        for (path, bytes) in &self.files {
            let step = (bytes.len() / per_file).max(1);
            for at in (0..bytes.len()).step_by(step) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << (at * 7 % 8);
                fs::write(path, &damaged).expect("room");
                flips += 1;
                body(path, &format!("{} with byte {at} flipped", path.display()));
            }
            fs::write(path, bytes).expect("room");
        }
        flips
    }

    /// The exit code of `thaw image verify`, and what it prints.
    fn verified(&self) -> (Option<i32>, String) {
        let mut thaw = Command::new(env!("CARGO_BIN_EXE_thaw"));
        let output = thaw.args(["image", "verify"]).arg(&self.dir).output().expect("thaw runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("it is text"))
    }

    /// Restores for real and checks that the outcome is one of the two; whether it ran.
    fn restores(&self, what: &str) -> bool {
        let pidfile = self.dir.join("pid");
        let _ = fs::remove_file(&pidfile);
        let status = Command::new("timeout")
            .args(["--signal=KILL", "60", env!("CARGO_BIN_EXE_thaw"), "restore", "-d", "-o"])
            .arg("thaw.log")
            .arg("--pidfile")
            .arg(&pidfile)
            .arg("-D")
            .arg(&self.dir)
            .stdin(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .expect("thaw runs");
        let log = fs::read_to_string(self.dir.join("thaw.log")).unwrap_or_default();
        assert!(status.signal().is_none(), "{what}: {status}: {log}");
        let code = status.code().expect("no signal");
        if code == 0 {
            let pid = fs::read_to_string(&pidfile).expect("a pid file");
            end(pid.parse().expect("a pid"));
        } else {
            assert!(ERRORS.contains(&code), "{what}: exit code {code}: {log}");
            assert!(log.contains("Error"), "{what}: exit code {code} without a word");
        }
        let others = others();
        assert!(others.is_empty(), "{what}: exit code {code}, {others:?} are left: {log}");
        code == 0
    }
}

fn end(root: i32) {
    for pid in family(root) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    while waitpid(None, Some(WaitPidFlag::__WALL)).is_ok() {}
}

/// Processes of this namespace beside this one, which is its init.
fn others() -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &i32| pid != 1 && pid != std::process::id() as i32).collect()
}

fn checkpoint(dir: &Path, dumper: Dumper) -> Copy {
    let tree = Tree::start(dir, &["1", "0", "0"]);
    let images = dir.join("images");
    tree.dump(&images, dumper);
    Copy::of(&images, dir.join("copy"))
}

#[test]
fn image_cut_at_any_byte_is_an_error_or_a_correct_restore() {
    with_each_dumper("image_cut_at_any_byte_is_an_error_or_a_correct_restore", |dir, dumper| {
        let copy = checkpoint(dir, dumper);
        let host = Host::probe().expect("/proc");
        assert!(copy.is_accepted(&host), "the undamaged images");
        let (mut cuts, mut restored) = (0, 0);
        for (path, bytes) in &copy.files {
            let step = (bytes.len() / 4096).max(1); // pages images at 4096 places
            for len in (0..bytes.len()).step_by(step) {
                fs::write(path, &bytes[..len]).expect("room");
                cuts += 1;
                if copy.is_accepted(&host) {
                    let what = format!("{} cut to {len} bytes", path.display());
                    restored += usize::from(copy.restores(&what));
                }
            }
            fs::write(path, bytes).expect("room");
        }
        println!("{cuts} cuts, {restored} restored all the same");
        assert!(cuts > 3000 && copy.restores("the undamaged images"));
    });
}

#[test]
fn image_with_a_flipped_bit_is_an_error_or_a_correct_restore() {
    with_each_dumper("image_with_a_flipped_bit_is_an_error_or_a_correct_restore", |dir, dumper| {
        let copy = checkpoint(dir, dumper);
        let host = Host::probe().expect("/proc");
        let (mut tried, mut restored) = (0, 0);
        let flips = copy.with_each_flip(FLIPS_PER_FILE, |_, what| {
            if copy.is_accepted(&host) {
                tried += 1;
                restored += usize::from(copy.restores(what));
            }
        });
        println!("{flips} flips, {tried} passed the checks, {restored} of them were restored");
        assert!(flips > 500 && copy.restores("the undamaged images"));
    });
}

/// A checkpoint of our own, with its manifest.
fn verified_checkpoint(dir: &Path) -> Copy {
    let tree = Tree::start(dir, &["2", "3", "1"]);
    let images = dir.join("images");
    tree.dump(&images, Dumper::Own);
    Copy::of(&images, dir.join("copy")).with_manifest(&images)
}

#[test]
fn any_flipped_bit_is_found_where_there_is_a_manifest() {
    live("any_flipped_bit_is_found_where_there_is_a_manifest", |dir: &Path| {
        let copy = verified_checkpoint(dir);
        assert!(copy.restores("the undamaged images"));
        let flips = copy.with_each_flip(VERIFIED_FLIPS_PER_FILE, |_, what| {
            assert!(!copy.restores(what), "{what} was restored");
        });
        println!("{flips} flips, all found");
        assert!(flips > 100 && copy.restores("the undamaged images"));
    });
}

#[test]
fn any_flipped_bit_is_one_line_of_verify() {
    live("any_flipped_bit_is_one_line_of_verify", |dir: &Path| {
        let copy = verified_checkpoint(dir);
        assert_eq!(copy.verified(), (Some(0), String::new()), "the undamaged images");
        let flips = copy.with_each_flip(VERIFIED_FLIPS_PER_FILE, |path, what| {
            let (code, text) = copy.verified();
            let name = path.file_name().expect("it has one").to_string_lossy();
            let told = text.lines().count() == 1 && text.starts_with(&*name);
            assert!(code == Some(3) && told, "{what}: {code:?}: {text}");
        });
        println!("{flips} flips, all found");
        assert!(flips > 100);
    });
}
