//! A checked checkpoint, for people and for programs.

use std::path::Path;

use serde_json::{Value, json};

use super::finding::{Finding, Section, Weight};
use super::images::Checked;
use crate::screen::{BAD, FAINT, GOOD, TITLE, WARNING, styled, wrap};

/// The longest of `ok`, `note`, `blocks`, `damage`, and a blank.
const VERDICT_COLUMNS: usize = 7;

/// What was looked at, what was found, and in one line what it comes to.
pub(super) fn render(dir: &Path, checked: &Checked, width: usize) -> String {
    let tree = match checked.tree {
        Some((count, root)) => format!(": {count} process(es), root {root}"),
        None => String::new(),
    };
    let head = format!("{} {}{tree}", styled(TITLE, "Checkpoint"), dir.display());
    let mut text = wrap("", &head, width);
    text.push('\n');
    for section in &checked.sections {
        text.push_str(&lines(section, width));
    }
    for (index, assumption) in checked.assumptions.iter().enumerate() {
        if index == 0 {
            text.push_str("\nAssumed, since the images do not say:\n");
        }
        text.push_str(&wrap("  - ", assumption, width));
    }
    text.push('\n');
    text.push_str(&wrap("", &summary(checked), width));
    text
}

fn summary(checked: &Checked) -> String {
    match checked.blocking() {
        0 => styled(GOOD, "this host can take this checkpoint"),
        1 => styled(BAD, "1 thing stands in the way"),
        count => styled(BAD, &format!("{count} things stand in the way")),
    }
}

fn mark(weight: Option<Weight>) -> String {
    let (style, text) = match weight {
        None => (GOOD, "ok"),
        Some(weight @ Weight::Note) => (WARNING, weight.text()),
        Some(weight) => (BAD, weight.text()),
    };
    format!("{}{}", styled(style, text), " ".repeat(VERDICT_COLUMNS - text.len()))
}

fn lines(section: &Section, width: usize) -> String {
    let said = format!("{}: {}", section.what, section.found);
    let mut text = wrap(&mark(section.weight()), &said, width);
    for (index, finding) in section.findings.iter().enumerate() {
        text.push_str(&finding_lines(section, finding, width));
        // What helps all of several in a row is said once.
        let next = section.findings.get(index + 1);
        let help = finding.help.as_ref().filter(|_| next.is_none_or(|it| it.help != finding.help));
        let lead = format!("{}  -> ", " ".repeat(VERDICT_COLUMNS));
        text.extend(help.map(|help| wrap(&lead, help, width)));
    }
    if let Some(table) = &section.table {
        text.push('\n');
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

fn finding_lines(section: &Section, finding: &Finding, width: usize) -> String {
    let indent = " ".repeat(VERDICT_COLUMNS);
    // Where findings of a section weigh differently, each has its word.
    let word = match Some(finding.weight) == section.weight() {
        true => String::new(),
        false => format!("({}) ", finding.weight.text()),
    };
    let code = styled(FAINT, &format!("[{}]", finding.code));
    let said = format!("{word}{} {code}", finding.text.replace('\n', " "));
    wrap(&format!("{indent}- "), &said, width)
}

/// One object in one line.
pub(super) fn json_text(dir: &Path, checked: &Checked) -> String {
    let sections: Vec<Value> = checked.sections.iter().map(section_json).collect();
    let gpus: Vec<Value> = checked
        .needs
        .gpus
        .iter()
        .map(|(saved, here, bytes)| json!({ "saved": saved, "here": here, "vram_bytes": bytes }))
        .collect();
    let needs = json!({
        "memory_bytes": checked.needs.memory_bytes,
        "gpu_system_bytes": checked.needs.gpu_system_bytes,
        "ids": checked.needs.ids,
        "gpus": gpus,
    });
    let (dir, takes) = (json!(dir.to_string_lossy()), checked.blocking() == 0);
    let (processes, root) = checked.tree.unzip();
    let (processes, root) = (json!(processes), json!(root));
    let (sections, assumptions) = (json!(sections), json!(checked.assumptions));
    format!(
        "{{\"format\":\"thaw check\",\"version\":1,\"images\":{dir},\"takes\":{takes},\
         \"processes\":{processes},\"root\":{root},\"needs\":{needs},\
         \"sections\":{sections},\"assumptions\":{assumptions}}}\n"
    )
}

fn section_json(section: &Section) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "weight": finding.weight.text(),
            "code": finding.code,
            "text": finding.text,
            "help": finding.help,
            "processes": finding.pids,
        })
    };
    json!({
        "what": section.what,
        "verdict": section.weight().map_or("ok", Weight::text),
        "found": section.found,
        "findings": section.findings.iter().map(finding).collect::<Vec<_>>(),
        "table": section.table,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::{json_text, render};
    use crate::check::codes;
    use crate::check::finding::{Finding, Section, Weight};
    use crate::check::images::{Checked, Needs};

    fn checked() -> Checked {
        let taken = Finding::of(
            "host.id-taken",
            "id 7, needed for a process, is process 7 (sh)".to_owned(),
            Some(
                "end it, or restore in a new pid namespace: unshare --fork --pid --mount-proc thaw",
            ),
        );
        let swap = Finding::own(codes::MEMORY, "5.0 GiB were saved, 4.0 GiB are available");
        Checked {
            tree: Some((2, 7)),
            sections: vec![
                Section::new("images", "every byte is compared with the manifest", Vec::new()),
                Section::new("ids", "1 of 3 are taken", vec![taken.with_pids(vec![7])]),
                Section::new("memory", "5.0 GiB needed", vec![swap.with_weight(Weight::Note)]),
            ],
            assumptions: Vec::new(),
            needs: Needs { ids: vec![7, 8, 9], gpus: vec![(1, 2, 3)], ..Needs::default() },
        }
    }

    fn plain(checked: &Checked, width: usize) -> String {
        let text = render(Path::new("/images"), checked, width);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn each_section_has_a_word_and_the_last_line_says_what_it_comes_to() {
        let expected = "\
Checkpoint /images: 2 process(es), root 7

ok     images: every byte is compared with the manifest
blocks ids: 1 of 3 are taken
       - id 7, needed for a process, is process 7 (sh) [host.id-taken]
         -> end it, or restore in a new pid namespace: unshare --fork --pid
            --mount-proc thaw
note   memory: 5.0 GiB needed
       - 5.0 GiB were saved, 4.0 GiB are available [host.memory]
         -> free memory, or add swap

1 thing stands in the way
";
        assert_eq!(plain(&checked(), 80), expected);
        let mut good = checked();
        good.sections.remove(1);
        assert!(plain(&good, 80).ends_with("\nthis host can take this checkpoint\n"));
        good.sections[0].findings.push(Finding::own(codes::PROC, "no"));
        good.sections[0].findings.push(Finding::own(codes::PROC, "no"));
        assert!(plain(&good, 80).ends_with("\n2 things stand in the way\n"));
    }

    #[test]
    fn no_line_is_wider_than_it_may_be() {
        for width in [40, 80, 200] {
            for line in plain(&checked(), width).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn json_has_everything() {
        let text = json_text(Path::new("/images"), &checked());
        assert!(text.starts_with("{\"format\":\"thaw check\",\"version\":1,"), "{text}");
        let value: Value = serde_json::from_str(&text).expect("one object");
        assert_eq!((&value["takes"], &value["processes"]), (&false.into(), &2.into()));
        let ids = &value["sections"][1];
        assert_eq!((&ids["verdict"], &ids["what"]), (&"blocks".into(), &"ids".into()));
        assert_eq!(ids["findings"][0]["code"], "host.id-taken");
        assert_eq!(ids["findings"][0]["processes"], serde_json::json!([7]));
        assert_eq!(value["needs"]["gpus"][0]["vram_bytes"], 3);
    }
}
