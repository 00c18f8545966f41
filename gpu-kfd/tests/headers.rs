//! Compares every layout, request and constant with the C headers of the machine.
//!
//! A probe in C holds one line for each fact. What a header does not know shows as an error of the
//! compiler in that line, is left out and counted; the rest is compiled, run, and compared. To
//! compare with other headers, put their folder into `C_INCLUDE_PATH`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use gpu_kfd::uapi::{self, Layout};

/// Facts that must have been compared, by interface. Linux 6.1 knows 471 of them, libdrm 2.4.114
/// knows 732.
const COMPARED_MIN: [usize; 2] = [450, 700];

const INCLUDES: [&str; 2] = ["<linux/kfd_ioctl.h>", "<drm/amdgpu_drm.h>"];

/// A number here, and how C writes it.
#[derive(Debug)]
struct Fact {
    text: String,
    here: u64,
    kind: Kind,
    /// Of a field: the fact that is its struct's size.
    of: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Equal, unless the header's struct ends earlier (then: between these bounds) or later.
    Size,
    /// Equal but for the size of the argument.
    Request,
    /// Equal.
    Exact,
}

fn facts(interface: usize) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut fact = |text: String, here: u64, kind, of| {
        facts.push(Fact { text, here, kind, of });
        facts.len() - 1
    };
    let layouts = uapi::layouts()[interface].iter().copied().flatten();
    for Layout { c_type, size_bytes, fields } in layouts.filter(|layout| layout.is_public()) {
        let of = Some(fact(format!("sizeof({c_type})"), *size_bytes as u64, Kind::Size, None));
        for field in fields.iter().filter(|field| !field.is_padding()) {
            let name = field.c_name;
            let (offset, size) = (field.offset_bytes as u64, field.size_bytes as u64);
            fact(format!("offsetof({c_type}, {name})"), offset, Kind::Exact, of);
            fact(format!("sizeof((({c_type} *)0)->{name})"), size, Kind::Exact, of);
        }
    }
    for request in uapi::requests()[interface].iter().copied().flatten() {
        fact(request.c_name.to_owned(), request.number.into(), Kind::Request, None);
    }
    for number in uapi::numbers()[interface].iter().copied().flatten() {
        fact(number.c_name.to_owned(), number.value as u64, Kind::Exact, None);
    }
    facts
}

/// What a header says of each fact; `None` where it does not know it.
type Answers = Vec<Option<u64>>;

fn probe_text(include: &str, facts: &[Fact], known: &[bool]) -> String {
    let mut text = format!("#include <stddef.h>\n#include {include}\n");
    text += "static const unsigned long facts[][2] = {\n";
    for (index, (fact, known)) in facts.iter().zip(known).enumerate() {
        let line = format!("{{{index}, (unsigned long)(unsigned int)({})}},\n", fact.text);
        text += if *known { &line } else { "\n" };
    }
    text += "};\nint printf(const char *, ...);\nint main(void) {\n";
    text += "for (unsigned i = 0; i < sizeof facts / sizeof *facts; i++)\n";
    text + "printf(\"%lu %lu\\n\", facts[i][0], facts[i][1]);\nreturn 0; }\n"
}

/// Lines of the table in which the compiler found an error.
fn wrong_facts(output: &Output) -> BTreeSet<usize> {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().filter(|line| line.contains("error:"));
    let numbers = lines.filter_map(|line| {
        let (_, rest) = line.split_once("probe.c:")?;
        rest.split(':').next()?.parse::<usize>().ok()?.checked_sub(4)
    });
    numbers.collect()
}

fn ask(include: &str, facts: &[Fact]) -> Result<Answers, String> {
    let folder = tempfile::tempdir().unwrap();
    let libdrm = Path::new("/usr/include/libdrm");
    if !Path::new("/usr/include/drm/drm.h").exists() && libdrm.exists() {
        // Debian's kfd_ioctl.h includes <drm/drm.h>, which its libdrm has elsewhere.
        std::os::unix::fs::symlink(libdrm, folder.path().join("drm")).unwrap();
    }
    let (source, program) = (folder.path().join("probe.c"), folder.path().join("probe"));
    let mut known = vec![true; facts.len()];
    loop {
        fs::write(&source, probe_text(include, facts, &known)).unwrap();
        let mut cc = Command::new("cc");
        cc.arg("-w").arg("-idirafter").arg(folder.path()).arg(&source).arg("-o").arg(&program);
        let output = cc.env("LC_ALL", "C").output().map_err(|error| format!("cc: {error}"))?;
        if output.status.success() {
            break;
        }
        let wrong = wrong_facts(&output);
        let fresh = wrong.iter().filter(|index| known.get(**index) == Some(&true)).count();
        if fresh == 0 {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(text.lines().next().unwrap_or("cc failed").to_owned());
        }
        for index in wrong.into_iter().filter(|index| *index < facts.len()) {
            known[index] = false;
        }
    }
    let output = Command::new(&program).output().unwrap();
    let mut answers = vec![None; facts.len()];
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (index, value) = line.split_once(' ').unwrap();
        answers[index.parse::<usize>().unwrap()] = Some(value.parse().unwrap());
    }
    Ok(answers)
}

/// What disagrees; and notes on structs that ended elsewhere.
fn compare(facts: &[Fact], answers: &Answers) -> (Vec<String>, Vec<String>) {
    let (mut wrong, mut notes) = (Vec::new(), Vec::new());
    for (index, (fact, there)) in facts.iter().zip(answers).enumerate() {
        let (Fact { text, here, kind, .. }, Some(there)) = (fact, *there) else { continue };
        let here = here & 0xffff_ffff;
        let agrees = match kind {
            Kind::Exact => here == there,
            Kind::Size => there >= here || there >= end_of_known(facts, answers, index),
            Kind::Request => (here ^ there) & !(0x3fff << 16) == 0,
        };
        match agrees {
            false => wrong.push(format!("{text} is {there:#x} in the header, {here:#x} here")),
            true if here != there => {
                notes.push(format!("{text}: {there:#x} there, {here:#x} here"))
            }
            true => {}
        }
    }
    (wrong, notes)
}

/// Where the fields end that the header knows, if it lacks the last; else our size.
fn end_of_known(facts: &[Fact], answers: &Answers, size_at: usize) -> u64 {
    let of_it =
        |at: &usize| facts[*at].of == Some(size_at) && !facts[*at].text.starts_with("sizeof");
    let fields: Vec<usize> = (0..facts.len()).filter(of_it).collect();
    if fields.last().is_none_or(|last| answers[*last].is_some()) {
        return facts[size_at].here;
    }
    let ends = fields.iter().filter_map(|at| Some(answers[*at]? + facts[at + 1].here));
    ends.max().unwrap_or(0)
}

fn check(interface: usize) {
    let facts = facts(interface);
    let answers = match ask(INCLUDES[interface], &facts) {
        Ok(answers) => answers,
        Err(reason) => return skip(INCLUDES[interface], &reason),
    };
    let (wrong, notes) = compare(&facts, &answers);
    let compared = answers.iter().flatten().count();
    println!("{}: {compared} of {} facts compared", INCLUDES[interface], facts.len());
    notes.iter().for_each(|note| println!("  another size: {note}"));
    for (fact, _) in facts.iter().zip(&answers).filter(|(_, answer)| answer.is_none()) {
        if fact.of.is_none_or(|size_at| answers[size_at].is_some()) {
            println!("  not in this header: {}", fact.text);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= COMPARED_MIN[interface], "only {compared} facts were compared");
}

fn skip(name: &str, reason: &str) {
    println!("SKIPPED {name}: {reason}");
    if let Some(path) = std::env::var_os("THAW_SKIPS") {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{name}: {reason}").unwrap();
    }
}

#[test]
fn the_compute_drivers_numbers_are_those_of_the_header() {
    check(0);
}

#[test]
fn the_render_nodes_numbers_are_those_of_the_header() {
    check(1);
}

#[test]
fn a_canary_with_a_wrong_number_is_found() {
    let facts = facts(0);
    let Ok(answers) = ask(INCLUDES[0], &facts) else {
        return skip("canary of the header check", "no header");
    };
    for kind in [Kind::Size, Kind::Request, Kind::Exact] {
        let mut answers = answers.clone();
        let known = |at: &usize| facts[*at].kind == kind && answers[*at].is_some_and(|n| n > 8);
        let at = (0..facts.len()).find(known).unwrap();
        answers[at] = Some(1);
        assert_eq!(compare(&facts, &answers).0.len(), 1, "{:?}", facts[at]);
    }
}
