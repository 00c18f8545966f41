//! A judged host for people, in so many columns.

use super::facts::Facts;
use super::host::{Group, Item, Judged, Use, Verdict};
use crate::screen::{BAD, FAINT, GOOD, TITLE, WARNING, styled, wrap};

/// The longest of `ok`, `missing`, `unknown`, and a blank.
const VERDICT_COLUMNS: usize = 8;

/// What works first, then everything that was looked at.
pub(super) fn render(facts: &Facts, judged: &Judged, width: usize) -> String {
    let mut text =
        wrap("", &format!("{} Linux {}", styled(TITLE, "This host:"), facts.release), width);
    for wanted in Use::ALL {
        text.push_str(&work(judged, wanted, width));
    }
    let groups = [
        (Group::Kernel, "Kernel"),
        (Group::Privileges, "Privileges"),
        (Group::Gpus, "GPUs"),
        (Group::Node, "Emulated nodes (thaw node)"),
    ];
    for (group, title) in groups {
        text.push_str(&format!("\n{}\n", styled(TITLE, title)));
        for item in judged.items.iter().filter(|item| item.group == group) {
            text.push_str(&line(item, width));
        }
    }
    text
}

fn work(judged: &Judged, wanted: Use, width: usize) -> String {
    let lacking: Vec<&str> = judged.lacking(wanted).map(|item| item.what.as_str()).collect();
    let said = match lacking.as_slice() {
        [] => styled(GOOD, "works"),
        lacking => format!("{} lacks {}", styled(BAD, "does not work:"), lacking.join(", ")),
    };
    wrap(&format!("  {:10}", wanted.text()), &said, width)
}

/// The verdict, the thing, what was found and what it is for; below it what helps.
fn line(item: &Item, width: usize) -> String {
    let style = match (item.verdict, item.only) {
        (Verdict::Ok, _) => GOOD,
        (Verdict::Missing, None) => BAD,
        (Verdict::Missing | Verdict::Unknown, _) => WARNING,
    };
    let verdict = item.verdict.text();
    let gap = " ".repeat(VERDICT_COLUMNS - verdict.len());
    let uses: Vec<&str> = item.uses.iter().map(|one| one.text()).collect();
    let uses = format!("[{}]", uses.join(", "));
    let mut said = format!("{}: {} {}", item.what, item.found, styled(FAINT, &uses));
    if let (Some(only), true) = (item.only, item.verdict != Verdict::Ok) {
        said.push_str(&format!(" only for {only}"));
    }
    let mut text = wrap(&format!("  {}{gap}", styled(style, verdict)), &said, width);
    if let Some(help) = &item.help {
        let lead = format!("  {:VERDICT_COLUMNS$}-> ", "");
        text.push_str(&wrap(&lead, help, width));
    }
    text
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::render;
    use crate::check::facts::{Kfd, example};
    use crate::check::host::judge;
    use crate::screen::columns;

    fn plain(facts: &crate::check::facts::Facts, width: usize) -> String {
        let text = render(facts, &judge(facts), width);
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_good_host_has_a_line_for_each_thing() {
        let text = plain(&example::host(), 100);
        let head = "This host: Linux 6.18.5-amd64\n  dump      works\n  restore   works\n  \
                    GPUs      works\n  thaw node works\n\nKernel\n";
        assert!(text.starts_with(head), "{text}");
        for line in [
            "  ok      choosing process ids: clone3 with set_tid works [restore]",
            "  ok      CAP_SYS_ADMIN: effective [dump, restore, GPUs, thaw node]",
            "  ok      GPU 0x1267: gfx90a at 0000:c1:00.0, renderD128, 60.0 GiB of 64.0 GiB free \
             [GPUs]",
            "  ok      /dev/fuse: opens [thaw node]",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(!text.contains("->") && !text.contains("missing"), "{text}");
    }

    #[test]
    fn what_is_missing_is_said_with_what_helps() {
        let mut host = example::host();
        host.probes.scan_pages = Err(Errno::ENOTTY);
        (host.kfd, host.gpus) = (Kfd::Missing, Ok(Vec::new()));
        host.filtered = true;
        let text = plain(&host, 80);
        for part in [
            "  dump      does not work: lacks finding pages\n",
            "  restore   works\n",
            "  GPUs      does not work: lacks /dev/kfd\n",
            "  missing finding pages: PAGEMAP_SCAN fails: ",
            "          -> use Linux 6.7 or later; a checkpoint can be restored without it\n",
            "  unknown seccomp: a filter: it may forbid calls",
            "  missing /dev/kfd: not there [GPUs]\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn no_line_is_wider_than_it_may_be() {
        let mut host = example::host();
        host.capabilities = 0;
        host.probes.trace = Err(Errno::EPERM);
        for width in [40, 80, 200] {
            for line in plain(&host, width).lines() {
                // A word may be longer than what is left, but none of ours is.
                assert!(columns(line) <= width, "{width}: {line}");
            }
        }
    }
}
