//! Files of traces: written, cut, read again, judged, drawn.

use std::io::Write;
use std::path::Path;

use restore_core::{StepId, TraceEvent, TraceStage};

use super::format::{Trace, TraceFault, TraceWriter};
use super::{check, chrome, example, text, view};

fn trace(outline: restore_core::Outline) -> Trace {
    let events = example::restore(&outline);
    Trace { outline, events, cut: false }
}

/// What a writer makes of a trace.
fn written(trace: &Trace) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let mut writer = TraceWriter::create(&path, &trace.outline).unwrap();
    for event in &trace.events {
        writer.event(event).unwrap();
    }
    // Not closed: each line is in the file when the call returns.
    let bytes = std::fs::read(&path).unwrap();
    drop(writer);
    bytes
}

fn with_failure() -> Trace {
    let mut trace = trace(example::sharing(3, 1));
    trace.events.retain(|event| event.begin_ns < 1_000_000);
    let failed = trace.events.iter_mut().rfind(|event| event.stage == TraceStage::Device);
    failed.unwrap().outcome = Err("EINVAL \"<&>\"\n(kfd)".to_owned());
    trace
}

#[test]
fn a_trace_is_read_as_it_was_written() {
    for trace in [trace(example::outline()), trace(example::sharing(3, 1)), with_failure()] {
        let read = Trace::parse(written(&trace).as_slice()).unwrap();
        assert_eq!((&read.outline, &read.events), (&trace.outline, &trace.events));
        assert!(!read.cut);
    }
}

#[test]
fn the_format_is_as_documented() {
    let text = String::from_utf8(written(&trace(example::sharing(2, 1)))).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "{\"trace\":\"thaw\",\"version\":1,\"processes\":[\
         {\"pid\":28866,\"ppid\":0,\"memory_bytes\":9437184,\"gpu_bytes\":16777216},\
         {\"pid\":28867,\"ppid\":28866,\"memory_bytes\":9437184,\"gpu_bytes\":16777216}],\
         \"steps\":[{\"step\":\"28866.1\",\"process\":28866,\"position\":0,\"kind\":\"kfd\",\
         \"file\":16,\"fds\":[3],\"path\":\"/dev/kfd\",\"gpu\":null,\"buffers\":4,\
         \"content_bytes\":0},{\"step\":\"28866.2\",\"process\":28866,\"position\":1,\
         \"kind\":\"render\",\"file\":17,\"fds\":[4],\"path\":\"/dev/dri/renderD128\",\
         \"gpu\":{\"saved\":40960,\"here\":45056},\"buffers\":4,\"content_bytes\":16777216},\
         {\"step\":\"28867.1\",\"process\":28867,\"position\":0,\"kind\":\"kfd\",\"file\":16,\
         \"fds\":[3],\"path\":\"/dev/kfd\",\"gpu\":null,\"buffers\":4,\"content_bytes\":0},\
         {\"step\":\"28867.2\",\"process\":28867,\"position\":1,\"kind\":\"render\",\"file\":17,\
         \"fds\":[4],\"path\":\"/dev/dri/renderD128\",\"gpu\":{\"saved\":40960,\"here\":45056},\
         \"buffers\":4,\"content_bytes\":16777216}],\
         \"edges\":[{\"from\":\"28866.2\",\"to\":\"28867.2\",\"buffer\":28672}],\
         \"gpus\":[{\"saved\":40960,\"here\":45056}],\"assumptions\":[]}"
    );
    let device = lines.find(|line| line.contains("\"device\"")).unwrap();
    assert_eq!(
        device,
        "{\"stage\":\"device\",\"process\":28866,\"step\":\"28866.1\",\"file\":\"/dev/kfd\",\
         \"worker\":0,\"begin_ns\":350077,\"end_ns\":650077,\"outcome\":\"ok\"}"
    );
}

#[test]
fn every_field_is_documented() {
    let document = include_str!("../../../docs/contract.md");
    let mut trace = with_failure();
    trace.outline.edges[0].reason = restore_core::EdgeReason::Descriptor(1);
    let text = String::from_utf8(written(&trace)).unwrap();
    let mut fields = 0;
    for line in text.lines() {
        let mut values = vec![serde_json::from_str::<serde_json::Value>(line).unwrap()];
        while let Some(value) = values.pop() {
            match value {
                serde_json::Value::Array(items) => values.extend(items),
                serde_json::Value::Object(items) => {
                    for (name, value) in items {
                        assert!(document.contains(&format!("`{name}`")), "{name}");
                        values.push(value);
                        fields += 1;
                    }
                }
                _ => {}
            }
        }
    }
    assert!(fields > 100);
    for stage in TraceStage::ALL {
        assert!(document.contains(&format!("`{}`", stage.name())), "{}", stage.name());
    }
}

#[test]
fn a_trace_that_was_cut_anywhere_is_read_up_to_there() {
    let whole = trace(example::outline());
    let bytes = written(&whole);
    let head = bytes.iter().position(|&byte| byte == b'\n').unwrap();
    for length in 0..bytes.len() {
        let result = Trace::parse(&bytes[..length]);
        if length < head {
            let fault = result.unwrap_err();
            assert!(matches!(fault, TraceFault::Empty | TraceFault::Json { line: 1, .. }));
            continue;
        }
        let read = result.unwrap();
        let lines = bytes[..length].iter().filter(|&&byte| byte == b'\n').count();
        // A line without its end may still be a whole event.
        let events = lines.saturating_sub(1);
        assert!([events, events + 1].contains(&read.events.len()), "at {length}");
        assert_eq!(read.events[..], whole.events[..read.events.len()]);
        let rest = bytes[..length].last() != Some(&b'\n') && length > head;
        assert_eq!(read.cut, rest && read.events.len() == events, "at {length}");
    }
}

#[test]
fn what_is_no_trace_is_refused_with_its_line() {
    let good = String::from_utf8(written(&trace(example::sharing(2, 1)))).unwrap();
    let refused =
        |text: String| crate::log::chain(&Trace::parse(text.as_bytes()).map(drop).unwrap_err());
    let check = |from: &str, to: &str, expected: &str| {
        assert!(good.contains(from), "{from}");
        let text = refused(good.replacen(from, to, 1));
        assert!(text.starts_with(expected), "{text}");
    };
    assert_eq!(refused(String::new()), "it is empty");
    check("\"trace\":\"thaw\"", "\"trace\":\"a\"", "line 1: it does not begin with {\"trace\"");
    check("\"version\":1", "\"version\":2", "line 1: version 2 of the format");
    check("\"to\":\"28867.2\"", "\"to\":\"28867.9\"", "line 1: an edge names step 28867.9");
    check("\"position\":1", "\"position\":2", "line 1: a step of process 28866 at position 2 is");
    check("\"position\":1", "\"position\":18446744073709551615", "line 1: a step of process 28866");
    check("\"kind\":\"kfd\"", "\"kind\":\"tty\"", "line 1: unknown variant `tty`");
    let again = good.replacen("28867.1", "28867.2", 1);
    let again =
        again.replacen("\"process\":28867,\"position\":0", "\"process\":28867,\"position\":1", 1);
    assert_eq!(refused(again), "line 1: step 28867.2 is there twice");
    check("\"stage\":\"create\"", "\"stage\":\"begin\"", "line 2: unknown variant `begin`");
    let event = "\"device\",\"process\":28866";
    check(event, "\"device\",\"process\":\"28866\"", "line 4: invalid type: string");
    check(
        "\"step\":\"28866.1\",\"file\":\"/",
        "\"step\":\"1.1\",\"file\":\"/",
        "line 4: there is no step 1.1",
    );
    let long = format!("{}{}", " ".repeat(64 << 20), good);
    assert_eq!(refused(long), "line 1 is longer than 67108864 bytes");
}

#[test]
fn a_verdict_names_the_rule_and_both_events() {
    let mut trace = trace(example::outline());
    let (text, legal) = check::report(Path::new("f"), &trace);
    assert!(legal);
    assert_eq!(
        text,
        "f: legal\n  6 of 6 device step(s) done, of 2 process(es), by 2 worker(s)\n  \
         5 pair(s) of steps of different processes went on at once\n  \
         64.0 MiB were copied into buffers within 1.400 ms (47.93 GB/s)\n  \
         every process was released\n"
    );
    let second = |event: &&mut TraceEvent| {
        event.stage == TraceStage::Device && event.step == Some(StepId(1))
    };
    trace.events.iter_mut().find(second).unwrap().begin_ns -= 50_000;
    let (text, legal) = check::report(Path::new("f"), &trace);
    assert!(!legal);
    assert_eq!(
        text,
        "f: illegal: rule 1 is broken: 28866.2 (render) began 50.000 us before 28866.1 (kfd) \
         ended\n  the rule: the device files of a process are restored in their order, one after \
         the other\n  \
         28866.1 kfd /dev/kfd, worker 0, 0.350 to 0.650 ms: ok\n  \
         28866.2 render /dev/dri/renderD128, worker 0, 0.600 to 0.950 ms: ok\n"
    );
}

#[test]
fn a_text_shows_who_was_at_work_at_once() {
    let picture = text::picture(&trace(example::outline()), 72);
    let expected = "\
P 28866  ├PF1 kfd─┤├PF2 render─────────┤├PF3 render─────────┤
C 28867  ├CF1 kfd────────────┤├CF2 render─────────┤├CF3 render─────────┤
20 legal orders; this one: legal
";
    assert_eq!(picture, expected);
    let narrow = text::picture(&trace(example::tree(64, 8)), 40);
    assert_eq!(narrow.lines().count(), 65);
    assert!(narrow.lines().take(64).all(|line| line.chars().count() <= 40), "{narrow}");
    assert!(text::picture(&with_failure(), 80).contains('✗'));
}

#[test]
fn pictures_show_every_device_file_and_edge() {
    let trace = trace(example::sharing(3, 2));
    let svg = view::svg(&trace);
    assert_eq!(svg.matches("class=\"edge\"").count(), 2);
    for name in ["F1 kfd", "F2 render", "F3 render"] {
        assert!(svg.matches(&format!(">{name}")).count() >= 3, "{name}");
    }
    assert_eq!(svg.matches("class=\"kfd\" x=").count(), 1 + 2 * 3, "legend and bars");
    assert!(svg.contains("Legal under the contract"));
    // Two pieces of each render node, in rows of its GPU; legend; strips in both panels.
    for gpu in ["g0", "g1"] {
        let bars = svg.matches(&format!("<rect class=\"{gpu}\"")).count();
        assert_eq!(bars, 3 * 2 + 1 + 3 * 2, "{gpu}");
    }
}

/// Elements open and close as XML says; enough for what a canvas can get wrong.
fn check_xml(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(begin) = rest.find('<') {
        let end = begin + rest[begin..].find('>').expect("a tag ends");
        let tag = &rest[begin + 1..end];
        rest = &rest[end + 1..];
        let name = tag.split([' ', '\n']).next().unwrap();
        if let Some(name) = name.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0]);
    for entity in svg.split('&').skip(1) {
        let known = ["amp;", "lt;", "gt;", "quot;"];
        assert!(known.iter().any(|known| entity.starts_with(known)), "&{entity:.10}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"));
}

#[test]
fn pictures_are_well_formed_whatever_the_trace() {
    let empty = Trace { outline: restore_core::Outline::default(), events: vec![], cut: false };
    let planned = Trace { outline: example::outline(), events: vec![], cut: true };
    let plain = trace(example::tree(3, 0));
    let mut strange = with_failure();
    strange.outline.assumptions.push("a < b & \"c\"".to_owned());
    strange.outline.steps[0].path = "</title>".to_owned();
    // A broken clock, and a process that the plan does not have.
    strange.events[0].end_ns = 0;
    strange.events[1].pid = 1;
    let large = trace(example::sharing(64, 4));
    for trace in [empty, planned, plain, strange, large] {
        check_xml(&view::svg(&trace));
        let json: serde_json::Value = serde_json::from_str(&chrome::json(&trace)).unwrap();
        assert!(json["traceEvents"].is_array());
        text::picture(&trace, 80);
        check::report(Path::new("f"), &trace);
    }
}

#[test]
fn slices_of_one_thread_nest_as_chrome_wants() {
    let json = chrome::json(&trace(example::sharing(3, 2)));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let of = |phase: &str| -> Vec<&serde_json::Value> {
        events.iter().filter(|event| event["ph"] == phase).collect()
    };
    assert_eq!(of("X").len(), example::restore(&example::sharing(3, 2)).len());
    assert_eq!((of("s").len(), of("f").len()), (2, 2));
    let slices: Vec<_> = of("X").into_iter().filter(|event| event["cat"] != "contents").collect();
    for a in &slices {
        for b in slices.iter().filter(|b| b["tid"] == a["tid"] && b["pid"] == a["pid"]) {
            let time = |event: &serde_json::Value| {
                let begin = event["ts"].as_f64().unwrap();
                (begin, begin + event["dur"].as_f64().unwrap())
            };
            let (a, b) = (time(a), time(b));
            let nests = a.1 <= b.0 || b.1 <= a.0 || (a.0 <= b.0) == (b.1 <= a.1);
            assert!(nests, "{a:?} {b:?}");
        }
    }
}

#[test]
fn a_writer_says_when_it_cannot_write() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        println!("skipped: this system has no /dev/full");
        return;
    }
    assert!(TraceWriter::create(full, &example::outline()).is_err());
    let mut file = std::fs::OpenOptions::new().write(true).open(full).unwrap();
    assert!(file.write_all(b"x").is_err());
}
