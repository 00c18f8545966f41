//! A checkpoint, or a process of it, for programs: one object in one line, with nothing cut.

use std::path::Path;

use serde_json::{Value, json};

use super::detail::Detail;
use super::overview::{Overview, Shown, product};
use super::state_name;

fn object(rest: &str) -> String {
    format!("{{\"format\":\"thaw show\",\"version\":1,{rest}}}\n")
}

pub(super) fn overview(overview: &Overview) -> String {
    let gpus: Vec<Value> = overview
        .gpus
        .iter()
        .map(|gpu| {
            json!({
                "id": gpu.id,
                "render_minor": gpu.minor,
                "device": gpu.described.map(|(device, _)| device),
                "model": gpu.described.and_then(|(device, _)| product(device)),
                "vram_bytes": gpu.described.map(|(_, bytes)| bytes),
                "used_bytes": gpu.used_bytes,
            })
        })
        .collect();
    let processes: Vec<Value> = overview.processes.iter().map(process).collect();
    let (dir, dumper) = (json!(overview.dir.to_string_lossy()), json!(overview.dumper));
    let (dumped, uptime) = (json!(overview.dumped_s), json!(overview.uptime_us));
    let (disk, gpus, processes) = (overview.disk_bytes, json!(gpus), json!(processes));
    object(&format!(
        "\"images\":{dir},\"dumper\":{dumper},\"dumped_unix_s\":{dumped},\"uptime_us\":{uptime},\
         \"disk_bytes\":{disk},\"gpus\":{gpus},\"processes\":{processes}"
    ))
}

fn process(shown: &Shown) -> Value {
    json!({
        "pid": shown.row.pid,
        "ppid": shown.row.ppid,
        "group": shown.row.pgid,
        "session": shown.row.sid,
        "name": shown.name(),
        "command": shown.command,
        "state": state_name(shown.row.state),
        "threads": shown.row.threads,
        "memory_bytes": shown.memory_bytes,
        "descriptors": shown.descriptors,
        "gpus": gpus(shown),
    })
}

fn gpus(shown: &Shown) -> Vec<Value> {
    let gpu = |gpu: &criu_image::GpuRow| {
        json!({
            "id": gpu.gpu_id,
            "render_minor": gpu.render_minor,
            "buffers": gpu.buffers,
            "vram_bytes": gpu.vram_bytes,
            "gtt_bytes": gpu.gtt_bytes,
            "userptr_bytes": gpu.userptr_bytes,
            "other_bytes": gpu.other_bytes,
            "imported_bytes": gpu.imported_bytes,
            "queues": gpu.queues,
        })
    };
    shown.gpus.iter().map(gpu).collect()
}

pub(super) fn detail(dir: &Path, detail: &Detail) -> String {
    let creds = detail.creds.as_ref().map(|creds| {
        json!({
            "uid": creds.uid, "euid": creds.euid, "suid": creds.suid, "fsuid": creds.fsuid,
            "gid": creds.gid, "egid": creds.egid, "sgid": creds.sgid, "fsgid": creds.fsgid,
            "groups": creds.groups,
        })
    });
    let memory = detail.memory.iter().map(|(kind, amount)| {
        json!({
            "kind": kind.text(),
            "mappings": amount.mappings,
            "mapped_bytes": amount.mapped_bytes,
            "saved_bytes": amount.saved_bytes,
        })
    });
    let descriptors = detail.descriptors.iter().map(|row| {
        json!({
            "fd": row.fd,
            "kind": row.kind,
            "file": row.file,
            "flags": row.flags,
            "position": row.position,
        })
    });
    let threads = detail.threads.iter().map(|thread| {
        json!({
            "tid": thread.tid,
            "name": thread.name,
            "instruction": thread.instruction,
            "blocked": thread.blocked,
        })
    });
    let timers = detail.timers.iter().map(|timer| {
        json!({ "name": timer.name, "left_ns": timer.left_ns, "interval_ns": timer.interval_ns })
    });
    let mut process = process(&detail.shown);
    let Value::Object(fields) = &mut process else { unreachable!("it was made as an object") };
    for (name, value) in [
        ("exe", json!(detail.exe)),
        ("cwd", json!(detail.cwd)),
        ("root", json!(detail.root)),
        ("credentials", json!(creds)),
        ("memory", memory.collect()),
        ("descriptors", descriptors.collect()),
        ("threads", threads.collect()),
        ("timers", timers.collect()),
        (
            "signals",
            json!({
                "caught": detail.signals.caught,
                "ignored": detail.signals.ignored,
                "pending": detail.signals.pending,
            }),
        ),
    ] {
        fields.insert(name.to_owned(), value);
    }
    object(&format!("\"images\":{},\"process\":{process}", json!(dir.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    const FIXTURE: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../criu-image/tests/fixtures/gpu-tree");

    #[test]
    fn json_begins_with_its_format_and_holds_everything() {
        let overview = crate::show::overview::read(FIXTURE.as_ref()).expect("records are whole");
        let text = super::overview(&overview);
        assert!(text.starts_with("{\"format\":\"thaw show\",\"version\":1,"), "{text}");
        let value: Value = serde_json::from_str(&text).expect("one object");
        assert_eq!(value["processes"][1]["pid"], 28870);
        assert!(value["processes"][0]["gpus"][0]["vram_bytes"].as_u64() > Some(0), "{text}");
        assert_eq!(value["dumper"], "criu");
        let detail = crate::show::detail::read(FIXTURE.as_ref(), 28870);
        let detail = detail.expect("records are whole").expect("it is there");
        let text = super::detail(FIXTURE.as_ref(), &detail);
        let value: Value = serde_json::from_str(&text).expect("one object");
        let process = &value["process"];
        assert_eq!(process["threads"][0]["tid"], 28870);
        assert_eq!(process["descriptors"].as_array().map(Vec::len), Some(detail.descriptors.len()));
        assert!(process["signals"]["caught"].is_array() && process["exe"].is_string(), "{text}");
    }
}
