//! Dumps a tree that goes on, for tests, and checks that what the dump tells on its way adds up.
//!
//! `dump_progress PID IMAGES`. Prints what became of it.

use std::collections::BTreeMap;

use restore_core::{DumpEvent, DumpOptions, DumpPhase, Leave, dump};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [pid, images] = args.as_slice() else { panic!("PID IMAGES") };
    let mut options = DumpOptions::new(pid.parse().expect("a pid"), images);
    options.leave = Leave::Running;
    let (mut expected, mut saved, mut shared) = (BTreeMap::new(), BTreeMap::new(), (0, 0));
    let dumped = dump(options, &mut |event| match event {
        DumpEvent::Expected { processes, shared_bytes } => {
            let some = processes.iter().filter(|bytes| bytes.memory_bytes + bytes.gpu_bytes > 0);
            expected.extend(some.map(|bytes| (bytes.pid, *bytes)));
            shared.0 = shared_bytes;
        }
        DumpEvent::Saved(bytes) => drop(saved.insert(bytes.pid, bytes)),
        DumpEvent::SavedShared { bytes } => shared.1 = bytes,
        _ => {}
    });
    let dumped = dumped.expect("it is dumped");
    assert_eq!(expected, saved, "what was said first is what was done");
    assert!(!saved.is_empty());
    assert_eq!(shared.0, shared.1, "memory without holes");
    let scanned: u64 = saved.values().map(|bytes| bytes.memory_bytes).sum();
    assert_eq!(scanned, 4096 * dumped.pages.scanned);
    assert!(dumped.pages.written <= dumped.pages.scanned && dumped.pages.written > 0);
    let phases: Vec<DumpPhase> = dumped.phases.iter().map(|(phase, _)| *phase).collect();
    use DumpPhase::{Ask, Freeze, LetGo, Place, Read, Write};
    assert_eq!(phases, [Freeze, Read, Ask, Write, LetGo, Place]);
    let gpu_bytes: u64 = saved.values().map(|bytes| bytes.gpu_bytes).sum();
    assert_eq!(gpu_bytes, dumped.gpu_bytes);
    let stats = dumped.stats().dump.expect("of a dump");
    assert!(
        stats.memdump_time > 0 && stats.memwrite_time > 0 && stats.memdump_time < stats.frozen_time
    );
    println!("{:?} {shared:?} {gpu_bytes} {:?}", dumped.tree, dumped.phases);
}
