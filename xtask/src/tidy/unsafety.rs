//! Where unsafe code may stand, and what must stand above it.
//!
//! The list here and the one in ARCHITECTURE.md are compared both ways: a new place for unsafe
//! code is a decision that a reader of either sees.

use super::{File, Findings, at};

/// The only files that may hold unsafe code.
const UNSAFE_FILES: &[&str] = &[
    "gpu-kfd/emulator/examples/latency.rs",
    "gpu-kfd/emulator/preload/preload.rs",
    "gpu-kfd/emulator/src/node/raw.rs",
    "gpu-kfd/emulator/src/node/run.rs",
    "gpu-kfd/emulator/tests/node/support/calls.rs",
    "gpu-kfd/emulator/tests/node/support/process.rs",
    "gpu-kfd/src/bo.rs",
    "gpu-kfd/src/ioctl.rs",
    "gpu-kfd/src/tests.rs",
    "restore-cli/examples/blocked.rs",
    "restore-cli/examples/everything.rs",
    "restore-cli/examples/gpu_tree/family.rs",
    "restore-cli/examples/gpu_tree/memory.rs",
    "restore-cli/examples/workload.rs",
    "restore-cli/src/progress/inherited.rs",
    "restore-core/src/capture/keeper.rs",
    "restore-core/src/capture/raw.rs",
    "restore-core/src/engine/memory/pages.rs",
    "restore-core/src/files/memory.rs",
    "restore-core/src/files/raw.rs",
    "restore-core/src/probe.rs",
    "restore-core/src/remote/device.rs",
    "restore-core/src/remote/freeze.rs",
    "restore-core/src/remote/region.rs",
    "restore-core/src/remote/ring.rs",
    "restore-core/src/remote/spawn.rs",
    "restore-core/src/remote/stub.rs",
    "restore-core/src/remote/tests.rs",
    "restore-core/src/remote/tracee.rs",
    "xtask/src/bench/child.rs",
];
const LIST: &str = "xtask/src/tidy/unsafety.rs";
const ARCHITECTURE: &str = "ARCHITECTURE.md";
const HEADING: &str = "## Unsafe code";

/// Compares the files, the list, and the list in ARCHITECTURE.md.
pub(super) fn check_lists(files: &[File], findings: &mut Findings) {
    compare_files(files, UNSAFE_FILES, findings);
    match files.iter().find(|file| file.path == ARCHITECTURE) {
        Some(file) => compare_document(&file.text, UNSAFE_FILES, findings),
        None => {
            findings.push(at(ARCHITECTURE, 1, "is missing; it lists the files with unsafe code"))
        }
    }
}

fn compare_files(files: &[File], allowed: &[&str], findings: &mut Findings) {
    for file in files.iter().filter(|file| file.is_rust()) {
        let line = file.code.iter().position(|line| is_unsafe(line));
        let listed = allowed.contains(&file.path.as_str());
        match (line, listed) {
            (Some(line), false) => {
                let text = format!("unsafe code in a file that {LIST} does not list");
                findings.push(at(&file.path, line + 1, &text));
            }
            (None, true) => {
                let text = format!("listed in {LIST}, but there is no unsafe code");
                findings.push(at(&file.path, 1, &text));
            }
            _ => {}
        }
    }
    for path in allowed {
        if !files.iter().any(|file| file.path == *path) {
            findings.push(at(LIST, 1, &format!("lists {path}, which does not exist")));
        }
    }
}

fn compare_document(text: &str, allowed: &[&str], findings: &mut Findings) {
    let Some(heading) = text.lines().position(|line| line.trim_end() == HEADING) else {
        let text = format!("the heading \"{HEADING}\" is missing");
        return findings.push(at(ARCHITECTURE, 1, &text));
    };
    let section = text.lines().enumerate().skip(heading + 1);
    let bullets: Vec<(usize, &str)> = section
        .take_while(|(_, line)| !line.starts_with("## "))
        .filter_map(|(index, line)| Some((index + 1, bullet(line)?)))
        .collect();
    for (line, path) in &bullets {
        if !allowed.contains(path) {
            let text = format!("lists {path}, which {LIST} does not");
            findings.push(at(ARCHITECTURE, *line, &text));
        }
    }
    for path in allowed {
        if !bullets.iter().any(|(_, listed)| listed == path) {
            let text = format!("\"{HEADING}\" does not list {path}");
            findings.push(at(ARCHITECTURE, heading + 1, &text));
        }
    }
}

/// The path of a line such as "- `a/b.rs`: why".
fn bullet(line: &str) -> Option<&str> {
    line.strip_prefix("- `")?.split('`').next()
}

fn is_unsafe(code: &str) -> bool {
    let mut words = code.split(|char: char| !char.is_alphanumeric() && char != '_');
    words.any(|word| word == "unsafe")
}

/// Every unsafe block, function and impl says above why it is sound.
pub(super) fn check_comments(file: &File, findings: &mut Findings) {
    let lines: Vec<&str> = file.text.lines().collect();
    for (index, code) in file.code.iter().enumerate() {
        // Declarations of foreign code have nothing to prove; its calls have.
        let foreign = code.contains("unsafe extern");
        if is_unsafe(code) && !foreign && !explained(&lines, &file.code, index) {
            let text = "unsafe code without a SAFETY comment above it";
            findings.push(at(&file.path, index + 1, text));
        }
    }
}

/// Whether a comment above the statement of this line speaks of safety.
fn explained(lines: &[&str], code: &[String], index: usize) -> bool {
    for above in (0..index).rev() {
        if lines[above].contains("SAFETY:") || lines[above].contains("# Safety") {
            return code[above].trim().is_empty();
        }
        let code = code[above].trim_end();
        if code.ends_with([';', '{', '}']) || lines[above].trim().is_empty() {
            return false; // another statement
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::{check_comments, compare_document, compare_files};

    fn comments(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_comments(&File::new("a.rs", text), &mut findings);
        findings
    }

    #[test]
    fn safety_comment_satisfies_the_rule() {
        for text in [
            "// SAFETY: g has no preconditions.\nunsafe { g() }\n",
            "// SAFETY: it is plain data,\n// as asserted below.\nunsafe impl Send for A {}\n",
            "/// # Safety\n///\n/// `p` is valid.\n#[inline]\npub unsafe fn f(p: *const u8) {}\n",
            "// SAFETY: as above.\nlet a =\n    unsafe { g() };\n",
            "unsafe extern \"C\" {\n    fn g();\n}\n",
            "// unsafe is a word\nlet a = \"unsafe { g() }\";\n",
        ] {
            assert_eq!(comments(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn canaries_without_a_comment_of_their_own_are_found() {
        for text in [
            "unsafe { g() }\n",
            "// SAFETY: of the first.\nunsafe { f() };\nunsafe { g() };\n",
            "// SAFETY: far away.\n\nunsafe { g() }\n",
            "// SAFETY: of A.\nunsafe impl Send for A {}\nunsafe impl Sync for A {}\n",
        ] {
            assert_eq!(comments(text).len(), 1, "{text}");
        }
    }

    fn listed(files: &[(&str, &str)], allowed: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        let files: Vec<File> = files.iter().map(|(p, t)| File::new(p, t)).collect();
        compare_files(&files, allowed, &mut findings);
        findings
    }

    #[test]
    fn files_and_list_agree_both_ways() {
        let wild = ("a.rs", "unsafe {}");
        let tame = ("b.rs", "// unsafe");
        assert_eq!(listed(&[wild, tame], &["a.rs"]), Vec::<String>::new());
        assert_eq!(listed(&[wild], &[]).len(), 1);
        assert_eq!(listed(&[tame], &["b.rs"]).len(), 1);
        assert_eq!(listed(&[], &["gone.rs"]).len(), 1);
    }

    fn documented(text: &str, allowed: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        compare_document(text, allowed, &mut findings);
        findings
    }

    #[test]
    fn document_and_list_agree_both_ways() {
        let text = "## A\n- `x.rs`\n## Unsafe code\n- `a/b.rs`: why\n\n## C\n- `y.rs`\n";
        assert_eq!(documented(text, &["a/b.rs"]), Vec::<String>::new());
        assert_eq!(documented(text, &[]).len(), 1);
        assert_eq!(documented(text, &["a/b.rs", "x.rs"]).len(), 1);
        assert_eq!(documented("## Other\n", &["a/b.rs"]).len(), 1);
    }
}
