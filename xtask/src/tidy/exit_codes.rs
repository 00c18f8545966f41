//! The table of exit codes in README.md says what the constants of the command line say.
//!
//! A row is `| code | meaning |`; the meaning is the doc comment of the constant, without its full
//! stop. Code 0 is success and has no constant. A README without the two markers is not checked.

use std::collections::BTreeMap;

use super::{File, Findings, at};

const README: &str = "README.md";
const BEGIN: &str = "<!-- exit-codes -->";
const END: &str = "<!-- /exit-codes -->";
/// Where the constants are.
const SOURCES: &str = "restore-cli/src/";

/// Compares the table with the constants, both ways.
pub(super) fn check(files: &[File], findings: &mut Findings) {
    let Some(readme) = files.iter().find(|file| file.path == README) else {
        return;
    };
    let Some(begin) = readme.text.lines().position(|line| line.trim() == BEGIN) else {
        return;
    };
    let sources = files.iter().filter(|file| file.path.starts_with(SOURCES));
    let mut constants: BTreeMap<u8, String> =
        sources.flat_map(|file| constants(&file.text)).collect();
    let rows = readme.text.lines().enumerate().skip(begin + 1);
    for (index, line) in rows.take_while(|(_, line)| line.trim() != END) {
        let Some((code, meaning)) = row(line) else {
            continue;
        };
        match constants.remove(&code) {
            Some(documented) if documented == meaning => {}
            Some(documented) => {
                let text = format!("exit code {code} is documented as \"{documented}\"");
                findings.push(at(README, index + 1, &text));
            }
            None if code == 0 => {}
            None => {
                let text = format!("exit code {code} has no constant in {SOURCES}");
                findings.push(at(README, index + 1, &text));
            }
        }
    }
    for (code, meaning) in constants {
        let text = format!("exit code {code} is missing in the table: {meaning}");
        findings.push(at(README, begin + 1, &text));
    }
}

/// Code and meaning of a row; nothing for the head of the table.
fn row(line: &str) -> Option<(u8, &str)> {
    let mut cells = line.trim().strip_prefix('|')?.split('|').map(str::trim);
    let code = cells.next()?.trim_matches('`').parse().ok()?;
    Some((code, cells.next()?.trim_end_matches('.')))
}

/// Constants `NAME: u8 = N;` with the doc comment above.
fn constants(text: &str) -> Vec<(u8, String)> {
    let mut found = Vec::new();
    let mut doc = String::new();
    for line in text.lines() {
        if let Some(more) = line.strip_prefix("///") {
            doc = format!("{doc} {}", more.trim());
            continue;
        }
        let value = line.contains("const ").then(|| line.split(": u8 = ").nth(1)).flatten();
        if let Some(code) = value.and_then(|value| value.trim_end_matches(';').parse().ok()) {
            found.push((code, doc.trim().trim_end_matches('.').to_owned()));
        }
        doc.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::check;

    const SOURCE: &str = "/// It failed.\npub(crate) const FAILED: u8 = 1;\n\
                          /// The command line\n/// is wrong.\nconst USAGE: u8 = 2;\n";

    fn findings(rows: &str) -> Vec<String> {
        let table = "<!-- exit-codes -->\n| code | meaning |\n|---|---|\n";
        let readme = format!("# A\n{table}{rows}<!-- /exit-codes -->\n| 9 | other table |\n");
        let files = [File::new("README.md", &readme), File::new("restore-cli/src/main.rs", SOURCE)];
        let mut findings = Vec::new();
        check(&files, &mut findings);
        findings
    }

    #[test]
    fn table_and_constants_agree_both_ways() {
        let good = "| 0 | restored |\n| `1` | It failed |\n";
        let whole = format!("{good}| 2 | The command line is wrong. |\n");
        assert_eq!(findings(&whole), Vec::<String>::new());
        assert_eq!(findings(good).len(), 1);
        assert_eq!(findings(&format!("{whole}| 3 | More |\n")).len(), 1);
        assert_eq!(findings(&whole.replace("wrong", "right")).len(), 1);
    }
}
