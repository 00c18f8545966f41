//! A report as one page that needs nothing else: no script, no font, no picture from elsewhere.
//!
//! The data of the page stand in it once more as JSON, for those who read pages by program.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

use super::summary::{counted, rate};
use super::{Outcome, Problem, Report, Verb};
use crate::markup::escape;
use crate::screen::{size, time};
use crate::trace::picture;

const STYLE: &str = include_str!("page.css");

/// The page.
pub(super) fn html(report: &Report) -> String {
    let mut page = Page(String::new());
    page.head(report);
    page.facts(report);
    if let Some(problem) = &report.error {
        page.failure(problem);
    }
    if let Some(trace) = &report.picture {
        page.0.push_str("<h2>Timeline</h2>\n<div class=\"scroll\" id=\"timeline\">\n");
        page.0.push_str(&picture(trace));
        page.0.push_str("</div>\n");
    }
    page.stages(report);
    page.tree(report);
    page.gpus(report);
    page.list("Assumed, since the images do not say", &report.assumptions);
    page.list("Warnings", &report.warnings);
    page.foot(report);
    page.0
}

struct Page(String);

impl Page {
    fn head(&mut self, report: &Report) {
        let verb = report.command.name();
        let title = format!("thaw {verb} of {}", report.images.display());
        let (class, verdict) = match report.outcome {
            Outcome::Done if report.command == Verb::Dump => {
                ("good", "Done: its images are in place")
            }
            Outcome::Done => ("good", "Done: the tree runs"),
            Outcome::Failed => ("bad", "Failed"),
        };
        let _ = write!(
            self.0,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <h1>{title}</h1>\n<p><span class=\"verdict {class}\">{verdict}</span> \
             <span class=\"dim\">on {}, Linux {}, {}</span></p>\n",
            escape(&report.host.name),
            escape(&report.host.kernel),
            utc(report.began_unix_s),
            title = escape(&title),
        );
    }

    fn facts(&mut self, report: &Report) {
        let mut facts = vec![("took", time(Duration::from_nanos(report.ns)))];
        if let Some(root) = report.root {
            facts.push(("root", root.to_string()));
        }
        let threads: usize = report.processes.iter().map(|process| process.threads).sum();
        facts.push(("processes", report.processes.len().to_string()));
        facts.push(("threads", threads.to_string()));
        facts.push(("memory", size(report.memory_bytes + report.shared_bytes)));
        if report.gpu_bytes > 0 {
            facts.push(("GPU contents", size(report.gpu_bytes)));
        }
        if let Some(frozen) = report.frozen_ns {
            facts.push(("frozen for", time(Duration::from_nanos(frozen))));
        }
        if let Some(bytes) = report.image_bytes {
            facts.push(("images", size(bytes)));
        }
        if let Some(rate) = rate(report.moved_bytes(), report.ns) {
            facts.push(("rate", rate));
        }
        self.0.push_str("<dl class=\"facts\">\n");
        for (name, value) in facts {
            let _ = writeln!(self.0, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
        }
        self.0.push_str("</dl>\n");
    }

    fn failure(&mut self, problem: &Problem) {
        let _ = writeln!(
            self.0,
            "<section class=\"failure\" id=\"failure\">\n<pre>{}</pre>\n<dl>",
            escape(&problem.text)
        );
        let place = &problem.place;
        let parts = [
            ("code", Some(problem.code.to_owned())),
            ("process", place.process.map(|process| process.to_string())),
            ("step", place.step.clone()),
            ("file", place.file.clone()),
            ("call", place.call.clone()),
            ("errno", place.errno.clone()),
        ];
        let causes = problem.causes.iter().map(|cause| ("why", cause.clone()));
        let ends = [("now", Some(problem.state.clone())), ("do", problem.help.clone())];
        let parts = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let ends = ends.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in parts.chain(causes).chain(ends) {
            let _ = writeln!(self.0, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
        }
        self.0.push_str("</dl>\n");
        for item in &problem.items {
            let (text, code) = (escape(&item.text), item.code);
            let _ = writeln!(self.0, "<p>{text} <code class=\"dim\">{code}</code></p>");
        }
        self.0.push_str("</section>\n");
    }

    fn stages(&mut self, report: &Report) {
        let longest = report.stages.iter().map(|stage| stage.ns).max().unwrap_or(0);
        if longest == 0 {
            return;
        }
        self.0.push_str(
            "<h2>Stages</h2>\n<table id=\"stages\">\n<tr><th>stage</th><th class=\"n\">time</th>\
             <th></th></tr>\n",
        );
        for stage in &report.stages {
            let _ = writeln!(
                self.0,
                "<tr data-ns=\"{}\"><td>{}</td><td class=\"n\">{}</td><td class=\"w\">\
                 <div class=\"bar\" style=\"width:{:.1}%\"></div></td></tr>",
                stage.ns,
                stage.name,
                time(Duration::from_nanos(stage.ns)),
                stage.ns as f64 * 100.0 / longest as f64
            );
        }
        self.0.push_str("</table>\n");
    }

    fn tree(&mut self, report: &Report) {
        if report.processes.is_empty() {
            return;
        }
        let _ = writeln!(
            self.0,
            "<h2>Tree: {}</h2>\n<table id=\"tree\">\n<tr><th>process</th><th>name</th>\
             <th class=\"n\">threads</th><th class=\"n\">memory</th><th class=\"n\">GPU contents\
             </th></tr>",
            counted(report.processes.len(), "process", "processes")
        );
        let mut depths: BTreeMap<i32, usize> = BTreeMap::new();
        for process in &report.processes {
            // Parents come before their children.
            let depth = depths.get(&process.ppid).map_or(0, |depth| depth + 1);
            depths.insert(process.pid, depth);
            let indent = "  ".repeat(depth);
            let threads = match process.threads {
                0 => "exited".to_owned(),
                threads => threads.to_string(),
            };
            let _ = writeln!(
                self.0,
                "<tr><td><span class=\"indent\">{indent}</span>{}</td><td><code>{}</code></td>\
                 <td class=\"n\">{threads}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
                process.pid,
                escape(&process.name),
                size(process.memory_bytes),
                size(process.gpu_bytes),
            );
        }
        self.0.push_str("</table>\n");
    }

    fn gpus(&mut self, report: &Report) {
        if report.gpus.is_empty() {
            return;
        }
        self.0.push_str(
            "<h2>GPUs</h2>\n<table id=\"gpus\">\n<tr><th>in the checkpoint</th><th>here</th>\
             <th class=\"n\">processes</th><th class=\"n\">contents</th></tr>\n",
        );
        for gpu in &report.gpus {
            let (saved, here) = (gpu.saved, gpu.here);
            let _ = writeln!(
                self.0,
                "<tr><td>{saved:#x}</td><td>{here:#x}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td></tr>",
                gpu.processes,
                size(gpu.content_bytes),
            );
        }
        self.0.push_str("</table>\n");
    }

    fn list(&mut self, title: &str, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let _ = writeln!(self.0, "<h2>{title}</h2>\n<ul>");
        for line in lines {
            let _ = writeln!(self.0, "<li>{}</li>", escape(line));
        }
        self.0.push_str("</ul>\n");
    }

    fn foot(&mut self, report: &Report) {
        let _ = write!(
            self.0,
            "<footer>thaw {}</footer>\n\
             <script type=\"application/json\" id=\"report\">{}</script>\n</body>\n</html>\n",
            escape(&report.thaw),
            // Nothing in it can end the element.
            report.json().replace('<', "\\u003c"),
        );
    }
}

/// A moment as `2026-11-30T23:59:59Z`.
fn utc(unix_s: u64) -> String {
    let moment = UNIX_EPOCH + Duration::from_secs(unix_s);
    humantime::format_rfc3339_seconds(moment).to_string()
}
