//! Restores a checkpoint and gives it up at a chosen moment, for tests.
//!
//! `give_up IMAGES event N` makes the abort readable while event N (from 0) is being told;
//! `give_up IMAGES filled BYTES` when that much of a process is filled, or was copied into its GPU
//! buffers; `give_up IMAGES timeout MS` leaves it to the clock.
//! Prints what became of it and which events there were. Exit codes: 0 the tree runs, 1 it was
//! given up and everything undone, 2 anything else, such as a trace that breaks the contract.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use restore_core::{Event, Host, Options, RestoreError, RestorePlan, Stage, check, restore};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [images, what, number] = args.as_slice() else { panic!("IMAGES WHAT NUMBER") };
    let number: u64 = number.parse().expect("a number");
    let (abort, mut from) = std::io::pipe().expect("a pipe");
    let mut options = Options { abort: Some(Arc::new(abort.into())), ..Options::default() };
    if what == "timeout" {
        options.timeout = Some(Duration::from_millis(number));
    }
    let checkpoint = criu_image::Checkpoint::open(images).expect("images are whole");
    let host = Host::probe().expect("/proc");
    let host = match checkpoint.gpu.is_empty() {
        true => host,
        false => host.with_gpus().expect("GPUs"),
    };
    let plan = RestorePlan::new(checkpoint, &host, options).expect("nothing is refused");
    let outline = plan.outline().clone();
    let (mut events, mut steps) = (Vec::new(), Vec::new());
    let (mut to_fill, mut filled) = (BTreeMap::new(), BTreeMap::new());
    let (mut given_up, mut released) = (None, false);
    let result = restore(plan, &mut |event| {
        let now = match (what.as_str(), &event) {
            ("event", _) => events.len() as u64 == number,
            ("filled", Event::Filled(done)) => done.memory_bytes + done.gpu_bytes >= number,
            _ => false,
        };
        if now && given_up.is_none() {
            from.write_all(b"!").expect("a pipe has room");
            given_up = Some(Instant::now());
        }
        released |= matches!(event, Event::Reached(Stage::Release));
        events.push(name(&event));
        match &event {
            Event::Prepared { to_fill: all, .. } => {
                let all = all.iter().filter(|bytes| bytes.memory_bytes + bytes.gpu_bytes > 0);
                to_fill.extend(all.map(|bytes| (bytes.pid, *bytes)));
            }
            Event::Filled(bytes) => drop(filled.insert(bytes.pid, *bytes)),
            _ => {}
        }
        if let Event::Step(step) = event {
            steps.push(step);
        }
    });
    println!("events: {}", events.join(" "));
    let judged = check(&outline, &steps);
    println!("trace: {judged:?}");
    let code = match &result {
        _ if judged.is_err() => 2,
        Ok(tree) => {
            assert_eq!(to_fill, filled, "what was said first is what was done");
            let bytes = (tree.memory_bytes, tree.shared_bytes, tree.gpu_bytes);
            println!("runs: {:?} {bytes:?} {:?}", tree.processes, tree.stages);
            0
        }
        Err(failure) => {
            println!("failed: {} {:?}", failure.error, failure.left);
            let undone = failure.left.is_empty() && !released;
            match failure.error {
                RestoreError::Cancelled | RestoreError::Timeout { .. } if undone => 1,
                _ => 2,
            }
        }
    };
    if let Some(given_up) = given_up {
        println!("after: {} ms", given_up.elapsed().as_millis());
    }
    std::process::exit(code);
}

fn name(event: &Event) -> String {
    match event {
        Event::Prepared { .. } => "prepared".to_owned(),
        Event::Step(step) => format!("{}:{}", step.stage.name(), step.pid),
        Event::Filled(done) => format!("filled:{}:{}", done.memory_bytes, done.gpu_bytes),
        Event::Reached(stage) => format!("reached:{}", stage.name()),
    }
}
