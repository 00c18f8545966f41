//! Nothing is left out: every option of every command stands in the command line of a snapshot, and
//! every snapshot belongs to a test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::help;

/// An option as it can be written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Known {
    id: String,
    long: Option<String>,
    short: Option<char>,
    takes_value: bool,
}

impl Known {
    fn name(&self) -> String {
        let short = || self.short.map(|short| format!("-{short}"));
        let long = self.long.as_ref().map(|long| format!("--{long}"));
        long.or_else(short).unwrap_or_default()
    }
}

/// All commands with their options, as thaw lists them.
pub(crate) fn commands() -> BTreeMap<String, Vec<Known>> {
    let thaw = Command::new(env!("CARGO_BIN_EXE_thaw")).args(["generate", "options"]).output();
    let list: Value = serde_json::from_slice(&thaw.expect("thaw runs").stdout).expect("JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let known = |option: &Value| Known {
        id: text(&option["name"]).expect("a name"),
        long: text(&option["long"]),
        short: option["short"].as_str().and_then(|short| short.chars().next()),
        takes_value: option["takes_value"].as_bool().expect("it says so"),
    };
    let all = list["commands"].as_array().expect("a list").iter().map(|command| {
        let options = command["options"].as_array().expect("a list").iter().map(known);
        // What has neither is an argument: a command cannot do without.
        let options = options.filter(|known| known.long.is_some() || known.short.is_some());
        (text(&command["command"]).expect("a name"), options.collect())
    });
    all.collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens")
}

/// Files of a folder whose names end so, with what is in them.
fn files(folder: &Path, end: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("one").path());
    let mut files: Vec<(String, String)> = entries
        .filter(|path| path.to_string_lossy().ends_with(end))
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect();
    files.sort();
    files
}

/// What one command line has: its command, and its options. `None` if it is none of thaw.
fn used(line: &str, commands: &BTreeMap<String, Vec<Known>>) -> Vec<(String, String)> {
    let words: Vec<&str> = line.split([' ', '\'']).filter(|word| !word.is_empty()).collect();
    let Some(begin) = words.iter().position(|word| *word == "thaw") else { return Vec::new() };
    let (mut command, mut rest) = ("thaw".to_owned(), &words[begin + 1..]);
    let mut used = Vec::new();
    while let Some((&word, after)) = rest.split_first() {
        rest = after;
        // Another program, or this one again.
        if ["--", "|", "||", "&&", ";", ">"].contains(&word) {
            used.extend(self::used(&after.join(" "), commands));
            break;
        }
        let below = format!("{command} {word}");
        if commands.contains_key(&below) {
            command = below;
            continue;
        }
        for known in &commands[&command] {
            let long = known.long.as_ref().map(|long| format!("--{long}"));
            let is_long = long.is_some_and(|long| word.split('=').next() == Some(&long));
            let is_short = !word.starts_with("--")
                && known.short.is_some_and(|short| word.starts_with(&format!("-{short}")));
            if is_long || is_short {
                used.push((command.clone(), known.name()));
                // Its value is not another option.
                let is_apart = known.takes_value && !word.contains('=') && is_long;
                if let Some((_, after)) =
                    rest.split_first().filter(|(value, _)| is_apart && !value.starts_with('-'))
                {
                    rest = after;
                }
            }
        }
    }
    used
}

#[test]
fn every_option_of_every_command_is_in_a_snapshot() {
    let commands = commands();
    let mut missing: BTreeSet<(String, String)> = BTreeSet::new();
    let mut everywhere = BTreeSet::new();
    for (command, options) in &commands {
        for known in options {
            let is_global = command != "thaw"
                && commands["thaw"].contains(known)
                && known.long.as_deref() != Some("help");
            match is_global {
                true => everywhere.insert(known.name()),
                false => missing.insert((command.clone(), known.name())),
            };
        }
    }
    let mut bare: BTreeSet<String> = commands.keys().cloned().collect();
    for (_, text) in files(&folder().join("snapshots"), ".snap") {
        for line in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            for (command, option) in used(line, &commands) {
                everywhere.remove(&option);
                missing.remove(&("thaw".to_owned(), option.clone()));
                missing.remove(&(command, option));
            }
            let plain = line.split(" --").next().unwrap_or_default();
            bare.retain(|command| line.contains("--help") || !plain.contains(command.as_str()));
        }
    }
    assert!(missing.is_empty(), "in no snapshot: {missing:#?}");
    assert!(everywhere.is_empty(), "in no snapshot: {everywhere:?}");
    assert!(bare.is_empty(), "only the help is in a snapshot: {bare:?}");
}

/// Of two options with one name in a command, clap gives the value of one to the other, and says
/// so in builds for debugging only.
#[test]
fn no_two_options_of_a_command_have_one_name() {
    for (command, options) in commands() {
        for (index, known) in options.iter().enumerate() {
            let is_same = |other: &&Known| {
                other.id == known.id
                    || (known.long.is_some() && other.long == known.long)
                    || (known.short.is_some() && other.short == known.short)
            };
            let other = options[index + 1..].iter().find(is_same);
            assert_eq!(other, None, "{command} {}", known.name());
        }
    }
}

#[test]
fn option_is_found_in_each_way_of_writing() {
    let commands = commands();
    let found = |line: &str| -> Vec<String> {
        used(line, &commands)
            .into_iter()
            .map(|(command, name)| format!("{command} {name}"))
            .collect()
    };
    assert_eq!(found("thaw dump -t PID1 -v4"), ["thaw dump --tree", "thaw dump --verbosity"]);
    assert_eq!(found("thaw trace view x --format svg"), ["thaw trace view --format"]);
    assert_eq!(
        found("A=1 thaw plan --report=a --json"),
        ["thaw plan --report", "thaw plan --json"]
    );
    assert_eq!(found("script -qec 'thaw dump -R' /dev/null"), ["thaw dump --leave-running"]);
    assert_eq!(found("thaw node run -- sh -c 'thaw dump -R'"), ["thaw dump --leave-running"]);
    assert_eq!(found("cat dump --json"), Vec::<String>::new());
}

/// One whose test is gone would show what nobody sees.
#[test]
fn every_snapshot_belongs_to_a_test() {
    let helps: Vec<String> = commands().keys().map(|command| help::name(command)).collect();
    let sources = files(&folder(), ".rs");
    for (name, _) in files(&folder().join("snapshots"), ".snap") {
        let name = name.trim_start_matches("screens__").trim_end_matches(".snap");
        let base = name.split('.').next().expect("a part");
        let is_named = ['"', '.'].iter().any(|end| {
            let literal = format!("\"{base}{end}");
            sources.iter().any(|(_, text)| text.contains(&literal))
        });
        assert!(is_named || helps.iter().any(|help| help == base), "{name} is of no test");
    }
}
