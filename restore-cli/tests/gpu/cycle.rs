//! There and back: a tree is dumped on one node and restored on another, and both its answers and
//! its state are what they were.

use std::path::{Path, PathBuf};

use criu_image::{Checkpoint, state_text};
use serde_json::Value;

use super::node::{self, Came, Part};

/// A layout, one text for each process, and the options of its first node.
pub(crate) struct Tree {
    pub(crate) layout: Vec<String>,
    pub(crate) node: Vec<String>,
    pub(crate) dir: PathBuf,
}

impl Tree {
    pub(crate) fn new(dir: &Path, node: &str, layout: &[&str]) -> Self {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let layout = layout.iter().map(|text| (*text).to_owned()).collect();
        Self { layout, node: words(node), dir: dir.to_owned() }
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// The tree is started and dumped; what it answered before.
    pub(crate) fn dump(&self) -> Vec<Value> {
        let came = self.dump_with(&[], &[]);
        assert_good(&came);
        assert_well(&came.answers);
        came.answers
    }

    /// The same with more options for node and dump, whatever comes of it.
    pub(crate) fn dump_with(&self, node: &[&str], args: &[&str]) -> Came {
        let mut options: Vec<&str> = self.node.iter().map(String::as_str).collect();
        options.extend(node);
        one(node::run(&options, &self.dir, &[self.dumping(args)]))
    }

    pub(crate) fn dumping(&self, args: &[&str]) -> Part {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Part::Dump { images: self.images(), layout: self.layout.clone(), args }
    }

    /// The tree is restored on a node with these options, asked and ended.
    pub(crate) fn restore(&self, node: &str, args: &[&str]) -> Came {
        let options: Vec<&str> = node.split_whitespace().collect();
        one(node::run(&options, &self.dir, &[self.restoring(args)]))
    }

    /// Where it is dumped to once more.
    pub(crate) fn again(&self) -> PathBuf {
        self.dir.join("again")
    }

    /// Whether its GPUs work, which makes its state another one all the time.
    pub(crate) fn has_queues(&self) -> bool {
        self.layout.iter().any(|words| words.contains("queue:"))
    }

    pub(crate) fn restoring_again(&self, args: &[&str]) -> Part {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Part::Again { images: self.images(), args, again: self.again() }
    }

    pub(crate) fn restoring(&self, args: &[&str]) -> Part {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Part::Restore { images: self.images(), args }
    }

    /// Restores it and checks that it goes on as it was.
    pub(crate) fn restore_well(&self, before: &[Value], node: &str, args: &[&str]) {
        let came = self.restore(node, args);
        assert_good(&came);
        assert_same(before, &came.answers);
    }

    /// Restores it, dumps it before it has run, and gives the state of that.
    pub(crate) fn state_after(&self, node: &str, args: &[&str]) -> String {
        let options: Vec<&str> = node.split_whitespace().collect();
        let came = one(node::run(&options, &self.dir, &[self.restoring_again(args)]));
        assert_good(&came);
        state_of(&self.again())
    }
}

/// A layout with a name for people.
pub(crate) type Named<'a> = (&'a str, &'a [&'a str]);

/// Trees that are dumped one after the other on a node with the first options, and restored one
/// after the other on a node with the second options. A tree without queues is restored twice: to
/// be asked, and to be dumped again before it has run.
pub(crate) fn there_and_back(dir: &Path, nodes: (&str, &str), trees: &[Named<'_>], args: &[&str]) {
    let from: Vec<&str> = nodes.0.split_whitespace().collect();
    let to: Vec<&str> = nodes.1.split_whitespace().collect();
    let tree = |(name, layout): &Named<'_>| Tree::new(&dir.join(name), nodes.0, layout);
    let all: Vec<Tree> = trees.iter().map(tree).collect();
    let dumps: Vec<Part> = all.iter().map(|tree| tree.dumping(&[])).collect();
    let before = node::run(&from, dir, &dumps);
    let mut parts: Vec<Part> = all.iter().map(|tree| tree.restoring(args)).collect();
    let again: Vec<&Tree> = all.iter().filter(|tree| !tree.has_queues()).collect();
    parts.extend(again.iter().map(|tree| tree.restoring_again(args)));
    for ((name, _), before) in trees.iter().zip(&before) {
        println!("{name} is dumped");
        assert_good(before);
        assert_well(&before.answers);
    }
    let after = node::run(&to, dir, &parts);
    for ((name, _), (before, after)) in trees.iter().zip(before.iter().zip(&after)) {
        println!("{name} is restored");
        assert_good(after);
        assert_same(&before.answers, &after.answers);
    }
    for (tree, came) in again.iter().zip(&after[all.len()..]) {
        println!("{} is dumped again", tree.dir.display());
        assert_good(came);
        assert_same_state(&state_of(&tree.images()), &state_of(&tree.again()));
    }
}

/// thaw did what it was asked to, and nothing is left of it.
pub(crate) fn assert_good(came: &Came) {
    assert_eq!((came.code, came.left.len()), (0, 0), "{}\n{:?}", came.said, came.left);
}

pub(crate) fn state_of(images: &Path) -> String {
    let checkpoint = Checkpoint::open(images).expect("what we wrote is whole");
    state_text(&checkpoint).expect("it can be read")
}

fn one(mut came: Vec<Came>) -> Came {
    assert_eq!(came.len(), 1);
    came.remove(0)
}

/// Every process has found all that it has as it was.
pub(crate) fn assert_well(answers: &[Value]) {
    assert!(!answers.is_empty());
    for answer in answers {
        assert_eq!(answer["wrong"], Value::Array(Vec::new()), "{answer}");
    }
}

/// The same processes with the same contents and descriptors; queues have gone on.
pub(crate) fn assert_same(before: &[Value], after: &[Value]) {
    assert_well(after);
    assert_eq!(before.len(), after.len(), "all processes answer");
    for (before, after) in before.iter().zip(after) {
        for field in ["process", "pid", "contents"] {
            assert_eq!(before[field], after[field], "{field}: {before}\n{after}");
        }
        let numbers = |answer: &Value| -> Vec<String> {
            answer["descriptors"].as_object().expect("a table").keys().cloned().collect()
        };
        assert_eq!(numbers(before), numbers(after), "{before}\n{after}");
        assert!(after["rounds"].as_u64() >= before["rounds"].as_u64(), "{before}\n{after}");
        // Memory that several processes have mapped is still one: each sees what all have answered.
        assert_eq!(after["answers"].as_u64(), before["answers"].as_u64().map(|count| count + 1));
    }
}

/// First difference of two texts, for people.
pub(crate) fn first_difference(one: &str, other: &str) -> Option<String> {
    let pair = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    match pair {
        Some((one, other)) => Some(format!("-{}\n+{}", near(one, other), near(other, one))),
        None if one.lines().count() != other.lines().count() => {
            Some(format!("{} lines, {} lines", one.lines().count(), other.lines().count()))
        }
        None => None,
    }
}

/// The beginning of a line, and what is around the place where it begins to differ.
fn near(line: &str, other: &str) -> String {
    let bytes = line.bytes().zip(other.bytes());
    let at = bytes.take_while(|(one, other)| one == other).count();
    let part = |from: usize, to: usize| {
        String::from_utf8_lossy(&line.as_bytes()[from.min(line.len())..to.min(line.len())])
            .into_owned()
    };
    format!("{} ... {}", part(0, 60), part(at.saturating_sub(60), at + 100))
}

/// Fails with the first line that differs.
pub(crate) fn assert_same_state(one: &str, other: &str) {
    if let Some(difference) = first_difference(one, other) {
        panic!("states differ:\n{difference}");
    }
}
