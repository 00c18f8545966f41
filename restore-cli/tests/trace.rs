//! `thaw trace` and `thaw plan` as programs: what they print, where, and how they end.

use std::path::Path;
use std::process::{Command, Output};

const HEAD: &str = "{\"trace\":\"thaw\",\"version\":1,\"processes\":[\
    {\"pid\":10,\"ppid\":0,\"memory_bytes\":0,\"gpu_bytes\":0},\
    {\"pid\":11,\"ppid\":10,\"memory_bytes\":0,\"gpu_bytes\":0}],\"steps\":[\
    {\"step\":\"10.1\",\"process\":10,\"position\":0,\"kind\":\"kfd\",\"file\":1,\"fds\":[3],\
    \"path\":\"/dev/kfd\",\"gpu\":null,\"buffers\":0,\"content_bytes\":0},\
    {\"step\":\"11.1\",\"process\":11,\"position\":0,\"kind\":\"kfd\",\"file\":2,\"fds\":[3],\
    \"path\":\"/dev/kfd\",\"gpu\":null,\"buffers\":0,\"content_bytes\":0}],\
    \"edges\":[],\"gpus\":[],\"assumptions\":[]}";

/// A line of an event; a process's worker has the process's number.
fn event(stage: &str, pid: i32, step: bool, times: (u64, u64)) -> String {
    let step = if step { format!("\"step\":\"{pid}.1\",") } else { String::new() };
    let (begin, end) = times;
    format!(
        "\n{{\"stage\":\"{stage}\",\"process\":{pid},{step}\"worker\":{pid},\
         \"begin_ns\":{begin},\"end_ns\":{end},\"outcome\":\"ok\"}}"
    )
}

/// Two device files that are restored at once, or before the child is there.
fn trace(child_exists_ns: u64) -> String {
    let created =
        event("create", 10, false, (0, 50)) + &event("create", 11, false, (40, child_exists_ns));
    let devices = event("device", 11, true, (100, 200)) + &event("device", 10, true, (150, 300));
    format!("{HEAD}{created}{devices}\n")
}

fn thaw(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_thaw")).args(args).output();
    let Output { status, stdout, stderr } = output.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("room");
    path.display().to_string()
}

#[test]
fn the_verdict_decides_the_exit_code() {
    let dir = tempfile::tempdir().expect("a folder");
    let legal = write(dir.path(), "legal", &trace(60));
    let (code, out, _) = thaw(&["trace", "check", &legal]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("1 pair(s) of steps of different processes went on at once"), "{out}");
    let illegal = write(dir.path(), "illegal", &trace(120));
    let (code, out, _) = thaw(&["trace", "check", &illegal]);
    assert_eq!(code, Some(1), "{out}");
    let text = "illegal: rule 3 is broken: 11.1 (kfd) began 0.020 us before create of 11 ended";
    assert!(out.contains(text), "{out}");
    let none = write(dir.path(), "none", "{\"a\":1}\n");
    let (code, _, said) = thaw(&["trace", "check", &none]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("none: line 1: missing field `trace`"), "{said}");
    assert_eq!(thaw(&["trace", "check", "/nowhere"]).0, Some(3));
    for wrong in [&["trace"][..], &["trace", "x", &legal], &["trace", "check"]] {
        assert_eq!(thaw(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn a_trace_that_was_cut_is_judged_with_a_remark() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = trace(60);
    let cut = write(dir.path(), "cut", &text[..text.len() - 20]);
    let (code, out, _) = thaw(&["trace", "check", &cut]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("the last line was cut and is left out"), "{out}");
    assert!(out.contains("1 of 2 device step(s) done"), "{out}");
}

#[test]
fn pictures_and_orders_go_where_they_should() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = write(dir.path(), "trace", &trace(60));
    let svg = dir.path().join("run.svg").display().to_string();
    let (code, out, said) = thaw(&["trace", "view", &file, "-o", &svg]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{said}");
    assert!(std::fs::read_to_string(&svg).expect("written").starts_with("<svg "));
    let (code, out, _) = thaw(&["trace", "view", &file, "--format", "text", "--width=60"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("P 10  ") && out.contains("2 legal orders"), "{out}");
    let (code, out, _) = thaw(&["trace", "view", &file, "--format", "chrome"]);
    assert_eq!(code, Some(0));
    assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
    let (code, out, _) = thaw(&["trace", "order", &file]);
    let labels: Vec<&str> = out.lines().filter_map(|line| line.split("  #").next()).collect();
    assert_eq!((code, &labels[1..]), (Some(0), &["11.1", "10.1"][..]), "{out}");
    let (code, _, said) = thaw(&["trace", "view", &file, "-o", "/nowhere/run.svg"]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn a_plan_of_no_images_is_an_error_and_help_is_none() {
    assert_eq!(thaw(&["plan", "-D", "/nowhere"]).0, Some(3));
    assert_eq!(thaw(&["plan"]).0, Some(2));
    assert_eq!(thaw(&["plan", "-D", "/nowhere", "--width", "1"]).0, Some(2));
    let (code, out, _) = thaw(&["plan", "--help"]);
    assert!(code == Some(0) && out.contains("--json"), "{out}");
    assert!(thaw(&["trace", "view", "--help"]).1.contains("chrome"));
}
