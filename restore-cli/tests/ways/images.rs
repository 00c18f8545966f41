//! Images that are missing, damaged, of another dump, or contradict themselves.
//!
//! After each row the image that was damaged is put back; then the same directory restores well.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Now, Row, Scene, thaw};
use crate::support::eye::Eye;
use crate::support::{Tree, live};
use Now::{Undone, Untouched};

/// Takes all rights of root away.
pub(crate) const WITHOUT_RIGHTS: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

/// A tree that was dumped, and its images.
pub(crate) struct Saved {
    pub(crate) scene: Scene,
    pub(crate) tree: Tree,
    pub(crate) images: PathBuf,
    /// Copies of all files in the images.
    files: Vec<(PathBuf, Vec<u8>)>,
    answered: usize,
}

impl Saved {
    pub(crate) fn new(scene: Scene, mut tree: Tree, args: &[&str]) -> Self {
        let images = scene.dir.join("images");
        fs::create_dir(&images).expect("a folder");
        tree.ask();
        let status = tree.dump_command(&images, args).status().expect("thaw runs");
        assert!(status.success(), "{}", crate::support::errors(&images.join("dump.log")));
        tree.reap();
        let entries = fs::read_dir(&images).expect("a folder").flatten();
        let files = entries.map(|entry| (entry.path(), fs::read(entry.path()).expect("a file")));
        let files = files.collect();
        let answered = tree.pids.len();
        Self { scene, tree, images, files, answered }
    }

    /// A restore of the images.
    pub(crate) fn restore(&self, args: &[&str]) -> Command {
        self.restore_through(&[], args)
    }

    pub(crate) fn restore_through(&self, through: &[&str], args: &[&str]) -> Command {
        let images = self.images.to_str().expect("a plain path");
        thaw(through, &[&["restore", "-d", "--json", "-D", images], args].concat())
    }

    pub(crate) fn fails(&mut self, args: &[&str]) {
        let command = self.restore(args);
        self.scene.fails(command);
    }

    /// One of its images, by the beginning of its name.
    pub(crate) fn image(&self, begin: &str) -> PathBuf {
        let name = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))
        };
        let found = self.files.iter().map(|(path, _)| path).find(|path| name(path));
        found.unwrap_or_else(|| panic!("no image {begin}")).clone()
    }

    /// Changes one of the files.
    fn edit(&self, begin: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.image(begin);
        let mut bytes = fs::read(&path).expect("it is there");
        change(&mut bytes);
        fs::write(path, bytes).expect("room");
    }

    /// Changes one of the images as JSON.
    pub(crate) fn edit_json(&self, begin: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let path = self.image(begin);
        let json = self.scene.dir.join("edited.json");
        let convert = |what: &str, from: &PathBuf, to: &PathBuf| {
            let mut thaw = Command::new(env!("CARGO_BIN_EXE_thaw"));
            thaw.args(["image", what, "-i"]).arg(from).arg("-o").arg(to);
            assert!(thaw.status().expect("thaw runs").success(), "{what} {begin}");
        };
        convert("decode", &path, &json);
        let text = fs::read_to_string(&json).expect("it was written");
        let mut value = serde_json::from_str(&text).expect("JSON");
        change(&mut value);
        fs::write(&json, value.to_string()).expect("room");
        convert("encode", &json, &path);
        fs::remove_file(json).expect("it was written");
    }

    pub(crate) fn remove(&self, begin: &str) {
        fs::remove_file(self.image(begin)).expect("it is there");
    }

    /// Without the sums of the dump, as criu's own images are.
    pub(crate) fn without_manifest(&self) {
        self.remove(criu_image::MANIFEST_NAME);
    }

    /// Does what each row needs; after each the images as they were restore well.
    pub(crate) fn go_through(mut self, ways: &'static [(Row, Play)]) {
        for (row, play) in ways {
            self.scene.begin(row);
            play(&mut self);
            self.restores_well(&[]);
        }
        self.scene.end();
    }

    /// The images as they were restore well.
    pub(crate) fn restores_well(&mut self, args: &[&str]) {
        let _ = fs::remove_dir_all(&self.images);
        fs::create_dir(&self.images).expect("a folder");
        for (path, bytes) in &self.files {
            fs::write(path, bytes).expect("room");
        }
        let output = self.restore(args).output().expect("thaw runs");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return self.scene.note(format!("does not restore afterwards: {said}"));
        }
        let answers = self.tree.ask();
        if !answers.values().all(|answer| answer.intact) {
            self.scene.note(format!("is restored damaged: {answers:?}"));
        }
        self.tree.kill();
        self.tree.put_status_back(self.answered);
    }
}

/// What is done for a row.
pub(crate) type Play = fn(&mut Saved);

pub(crate) fn rows() -> Vec<&'static Row> {
    WAYS.iter().map(|(row, _)| row).collect()
}

#[test]
fn images_that_are_not_as_they_should_be() {
    live("images::images_that_are_not_as_they_should_be", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir, "/dev/shm".as_ref()]));
        let tree = Tree::start(dir, &["2", "1", "1"]);
        Saved::new(scene, tree, &[]).go_through(WAYS);
    });
}

const WAYS: &[(Row, Play)] = &[
    (
        Row::restore("no directory", (3, "images.unreadable", Untouched), &["/images", "path"]),
        |saved| {
            fs::remove_dir_all(&saved.images).expect("it is there");
            saved.fails(&[]);
        },
    ),
    (
        Row::restore("empty directory", (3, "images.missing", Untouched), &["inventory.img"]),
        |saved| {
            fs::remove_dir_all(&saved.images).expect("it is there");
            fs::create_dir(&saved.images).expect("a folder");
            saved.fails(&[]);
        },
    ),
    (Row::restore("no inventory", (3, "images.missing", Untouched), &["inventory.img"]), |saved| {
        saved.without_manifest();
        saved.remove("inventory.img");
        saved.fails(&[]);
    }),
    (Row::restore("no pages", (3, "manifest.missing", Untouched), &["pages-", "copy"]), |saved| {
        saved.remove("pages-");
        saved.fails(&[]);
    }),
    (Row::restore("pages cut", (3, "manifest.length", Untouched), &["pages-", "copy"]), |saved| {
        saved.edit("pages-", |bytes| bytes.truncate(bytes.len() / 2));
        saved.fails(&[]);
    }),
    (Row::restore("record cut", (3, "images.cut", Untouched), &["core-", "copy"]), |saved| {
        saved.without_manifest();
        saved.edit("core-", |bytes| bytes.truncate(bytes.len() - 3));
        saved.fails(&[]);
    }),
    (
        Row::restore("bit flipped in a record", (3, "manifest.damaged", Untouched), &["mm-"]),
        |saved| {
            saved.edit("mm-", |bytes| bytes[20] ^= 4);
            saved.fails(&[]);
        },
    ),
    (Row::restore("bit flipped in pages", (1, "manifest.damaged", Undone), &["pages-"]), |saved| {
        saved.edit("pages-", |bytes| *bytes.last_mut().expect("not empty") ^= 1);
        saved.fails(&[]);
    }),
    (
        Row::restore("file of another kind", (3, "images.magic", Untouched), &["pstree.img"]),
        |saved| {
            saved.without_manifest();
            fs::copy(saved.image("inventory.img"), saved.image("pstree.img")).expect("room");
            saved.fails(&[]);
        },
    ),
    (
        Row::restore("record too long", (3, "images.record-too-long", Untouched), &["core-"]),
        |saved| {
            saved.without_manifest();
            saved.edit("core-", |bytes| bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes()));
            saved.fails(&[]);
        },
    ),
    (
        Row::restore(
            "field that nobody knows",
            (3, "images.unknown-field", Untouched),
            &["CRIU 4.2", "core-"],
        ),
        |saved| {
            saved.without_manifest();
            saved.edit("core-", |bytes| {
                bytes.extend([0x98, 0x3f, 1]); // field 1011, a number
                let len = (bytes.len() - 12) as u32;
                bytes[8..12].copy_from_slice(&len.to_le_bytes());
            });
            saved.fails(&[]);
        },
    ),
    (
        Row::restore(
            "parent that is not there",
            (3, "images.contradiction", Untouched),
            &["pstree"],
        ),
        |saved| {
            saved.without_manifest();
            saved.edit_json("pstree.img", |json| json["entries"][1]["ppid"] = 77.into());
            saved.fails(&[]);
        },
    ),
    (
        Row::restore("image of no process", (3, "images.no-owner", Untouched), &["core-7777.img"]),
        |saved| {
            saved.without_manifest();
            let other = saved.images.join("core-7777.img");
            fs::copy(saved.image("core-"), other).expect("room");
            saved.fails(&[]);
        },
    ),
    (
        Row::restore("file of another dump", (3, "manifest.unlisted", Untouched), &["fs-7777.img"]),
        |saved| {
            let other = saved.images.join("fs-7777.img");
            fs::copy(saved.image("fs-"), other).expect("room");
            saved.fails(&[]);
        },
    ),
    (
        Row::restore("manifest damaged", (3, "manifest.malformed", Untouched), &["line", "copy"]),
        |saved| {
            saved.edit(criu_image::MANIFEST_NAME, |bytes| bytes.extend(b"what is this\n"));
            saved.fails(&[]);
        },
    ),
    (
        Row::restore(
            "image that may not be read",
            (3, "images.unreadable", Untouched),
            &["mm-", "user"],
        ),
        |saved| {
            let denied = fs::Permissions::from_mode(0o000);
            fs::set_permissions(saved.image("mm-"), denied).expect("it is ours");
            let command = saved.restore_through(&WITHOUT_RIGHTS, &[]);
            saved.scene.fails(command);
        },
    ),
    (
        Row::restore(
            "process with seccomp",
            (4, "unsupported.images", Untouched),
            &["seccomp", "core-", "use criu"],
        )
        .item("unsupported.seccomp"),
        |saved| {
            saved.without_manifest();
            saved.edit_json("core-", |json| {
                json["entries"][0]["thread_core"]["seccomp_mode"] = 1.into();
            });
            saved.fails(&[]);
        },
    ),
];
