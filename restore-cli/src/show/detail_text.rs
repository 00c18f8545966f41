//! One process, for people: what it was, its memory, descriptors, threads, signals and GPUs.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::detail::{Descriptor, Detail, Timer};
use super::{shorten, state_name};
use crate::screen::{FAINT, TITLE, size, styled, time, wrap};

/// Most threads with a line each.
const THREADS_SHOWN_MAX: usize = 64;

pub(super) fn render(detail: &Detail, width: usize) -> String {
    let row = &detail.shown.row;
    let head =
        format!("{} {}", styled(TITLE, &format!("Process {}", row.pid)), detail.shown.title());
    let mut text = wrap("", &head, width);
    text.push_str(&identity(detail, width));
    section(&mut text, "Memory", &memory(detail, width));
    let title = format!("Descriptors ({})", detail.descriptors.len());
    section(&mut text, &title, &descriptors(&detail.descriptors, width));
    section(&mut text, &format!("Threads ({})", row.threads.len()), &threads(detail, width));
    section(&mut text, "Signals", &signals(detail, width));
    section(&mut text, "Timers", &timers(&detail.timers, width));
    section(&mut text, "GPUs", &gpus(detail, width));
    text
}

/// A section that has something in it.
fn section(text: &mut String, title: &str, body: &str) {
    if !body.is_empty() {
        text.push_str(&format!("\n{}\n{body}", styled(TITLE, title)));
    }
}

fn identity(detail: &Detail, width: usize) -> String {
    let row = &detail.shown.row;
    let parent = match row.ppid {
        0 => "the root of the tree".to_owned(),
        ppid => format!("child of {ppid}"),
    };
    let place = format!("{parent}, group {}, session {}", row.pgid, row.sid);
    let mut lines = vec![
        ("name", detail.shown.name()),
        ("state", state_name(row.state).to_owned()),
        ("place", place),
    ];
    let paths = [("program", &detail.exe), ("directory", &detail.cwd), ("root", &detail.root)];
    lines.extend(paths.iter().filter_map(|(name, path)| Some((*name, (*path).clone()?))));
    if let Some(creds) = &detail.creds {
        let user = match [creds.euid, creds.suid, creds.fsuid].iter().all(|&id| id == creds.uid) {
            true => format!("user {}", creds.uid),
            false => format!(
                "user {} (effective {}, saved {}, for files {})",
                creds.uid, creds.euid, creds.suid, creds.fsuid
            ),
        };
        let groups: Vec<String> = creds.groups.iter().map(ToString::to_string).collect();
        let more =
            if groups.is_empty() { String::new() } else { format!(", {}", groups.join(", ")) };
        lines.push(("identity", format!("{user}, group {}{more}", creds.gid)));
    }
    let line = |(name, value): (&str, String)| wrap(&format!("  {name:10}"), &value, width);
    lines.into_iter().map(line).collect()
}

fn memory(detail: &Detail, width: usize) -> String {
    let line = |(kind, amount): &(super::detail::Kind, super::detail::Amount)| {
        let said = format!(
            "{} in {} mapping(s), {} saved",
            size(amount.mapped_bytes),
            amount.mappings,
            size(amount.saved_bytes)
        );
        wrap(&format!("  {:17}", kind.text()), &said, width)
    };
    detail.memory.iter().map(line).collect()
}

/// A table; a path that is too long loses its middle.
fn descriptors(rows: &[Descriptor], width: usize) -> String {
    let widest = |of: &dyn Fn(&Descriptor) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let fd = widest(&|row| row.fd.to_string().len());
    let kind = widest(&|row| row.kind.len());
    let mut text = String::new();
    for row in rows {
        let lead = format!("  {:>fd$}  {:kind$}  ", row.fd, row.kind);
        let mut rest = format!("[{}", row.flags);
        if let Some(position) = row.position {
            rest.push_str(&format!(" at {position}"));
        }
        rest.push(']');
        let left = width.saturating_sub(lead.len());
        let is_narrow = left < rest.len() + 1 + row.file.chars().count().min(30);
        let room = if is_narrow { left } else { left - rest.len() - 1 };
        let file = shorten(&row.file, room.max(8));
        match is_narrow {
            true => {
                text.push_str(&format!("{lead}{file}\n"));
                let lead = " ".repeat(lead.len());
                text.push_str(&wrap(&lead, &styled(FAINT, &rest), width));
            }
            false => text.push_str(&format!("{lead}{file} {}\n", styled(FAINT, &rest))),
        }
    }
    text
}

fn threads(detail: &Detail, width: usize) -> String {
    let mut text = String::new();
    for thread in detail.threads.iter().take(THREADS_SHOWN_MAX) {
        let mut said = format!("{} {}", thread.tid, thread.name);
        if let Some(ip) = thread.instruction {
            said.push_str(&format!(", at {ip:#x}"));
        }
        if !thread.blocked.is_empty() {
            said.push_str(&format!(", holds back {}", names(&thread.blocked)));
        }
        text.push_str(&wrap("  ", &said, width));
    }
    if detail.threads.len() > THREADS_SHOWN_MAX {
        text.push_str(&format!("  and {} more\n", detail.threads.len() - THREADS_SHOWN_MAX));
    }
    text
}

fn signals(detail: &Detail, width: usize) -> String {
    let signals = &detail.signals;
    let kinds =
        [("caught", &signals.caught), ("ignored", &signals.ignored), ("waiting", &signals.pending)];
    let there = kinds.iter().filter(|(_, list)| !list.is_empty());
    there.map(|(name, list)| wrap(&format!("  {name:10}"), &names(list), width)).collect()
}

/// Names of signals; neighbours without one, and all in a row, as a range.
fn names(signals: &[u32]) -> String {
    let name = |signal: u32| match Signal::try_from(signal as i32) {
        Ok(signal) => signal.as_str().trim_start_matches("SIG").to_owned(),
        Err(_) => signal.to_string(),
    };
    let mut words: Vec<String> = Vec::new();
    let mut at = 0;
    while at < signals.len() {
        let mut end = at;
        while end + 1 < signals.len() && signals[end + 1] == signals[end] + 1 {
            end += 1;
        }
        match end - at {
            0..=2 => words.extend(signals[at..=end].iter().map(|&signal| name(signal))),
            _ => words.push(format!("{}..{}", name(signals[at]), name(signals[end]))),
        }
        at = end + 1;
    }
    words.join(" ")
}

fn timers(timers: &[Timer], width: usize) -> String {
    let line = |timer: &Timer| {
        let left = match timer.left_ns {
            0 => "not armed".to_owned(),
            left => format!("{} left", time(Duration::from_nanos(left))),
        };
        let every = match timer.interval_ns {
            0 => String::new(),
            every => format!(", then every {}", time(Duration::from_nanos(every))),
        };
        wrap("  ", &format!("{}: {left}{every}", timer.name), width)
    };
    timers.iter().map(line).collect()
}

fn gpus(detail: &Detail, width: usize) -> String {
    let line = |gpu: &criu_image::GpuRow| {
        let node = gpu.render_minor.map_or(String::new(), |minor| format!(" (renderD{minor})"));
        let mut said = format!("{:#06x}{node}: {} buffer(s)", gpu.gpu_id, gpu.buffers);
        for (what, bytes) in [
            ("of its own memory", gpu.vram_bytes),
            ("of system memory", gpu.gtt_bytes),
            ("of the process's memory", gpu.userptr_bytes),
            ("imported", gpu.imported_bytes),
            ("of registers and the like", gpu.other_bytes),
        ] {
            if bytes > 0 {
                said.push_str(&format!(", {} {what}", size(bytes)));
            }
        }
        said.push_str(&format!(", {} queue(s)", gpu.queues));
        wrap("  ", &said, width)
    };
    detail.gpus().iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{descriptors, names, render, timers};
    use crate::show::detail::{Descriptor, Timer, read};

    const FIXTURE: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../criu-image/tests/fixtures/gpu-tree");

    #[test]
    fn a_process_has_all_sections_at_every_width() {
        let detail =
            read(FIXTURE.as_ref(), 28870).expect("records are whole").expect("it is there");
        for width in [40, 80, 200] {
            let text = anstream::adapter::strip_str(&render(&detail, width)).to_string();
            for part in
                ["Process 28870 ", "\nMemory\n", "\nDescriptors (", "\nThreads (", "\nGPUs\n"]
            {
                assert!(text.contains(part), "{width}: {part}\n{text}");
            }
            for line in text.lines() {
                // Paths outside the table are not broken.
                let is_path = line.contains('/');
                assert!(is_path || line.chars().count() <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn descriptors_stay_within_the_width_and_keep_their_ends() {
        let row = |fd: u32, file: &str, position| Descriptor {
            fd,
            kind: "reg".to_owned(),
            file: file.to_owned(),
            flags: "rw append".to_owned(),
            position,
        };
        let long = "/data/sets/imagenet/train/shard-000123-of-001024.tfrecord";
        let rows = [row(0, "/dev/null", None), row(10, long, Some(4096))];
        let plain = |width| anstream::adapter::strip_str(&descriptors(&rows, width)).to_string();
        let wide = "   0  reg  /dev/null [rw append]\n  \
                    10  reg  /data/sets/imagenet/train/shard-000123-of-001024.tfrecord \
                    [rw append at 4096]\n";
        assert_eq!(plain(100), wide);
        let narrow = "   0  reg  /dev/null [rw append]\n  \
                      10  reg  /data/sets/im...1024.tfrecord\n           [rw append at 4096]\n";
        assert_eq!(plain(40), narrow);
    }

    #[test]
    fn signals_and_timers_have_names_and_times() {
        assert_eq!(names(&[2, 15, 34, 35, 36, 37, 64]), "INT TERM 34..37 64");
        assert_eq!(names(&[1, 2]), "HUP INT");
        let timer = |left_ns, interval_ns| Timer { name: "a".to_owned(), left_ns, interval_ns };
        let text = timers(&[timer(0, 0), timer(1_500_000, 2_000_000_000)], 80);
        assert_eq!(text, "  a: not armed\n  a: 1.5 ms left, then every 2.00 s\n");
    }
}
