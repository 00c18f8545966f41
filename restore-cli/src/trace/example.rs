//! Traces for tests: restores as a scheduler would have them, with times that are made up.

use gpu_kfd::{GpuId, HostGpuId};
use restore_core::{
    DeviceStep, Edge, EdgeReason, Outline, OutlineProcess, Piece, Schedule, Scheduler, StepId,
    StepKind, TraceEvent, TraceStage,
};

/// A parent and its child with three device files each.
pub(crate) fn outline() -> Outline {
    tree(2, 2)
}

/// Processes with `/dev/kfd` and so many render nodes each.
pub(crate) fn tree(processes: usize, gpus: u32) -> Outline {
    let pairs = (0..gpus).map(|gpu| (GpuId(0xa000 + gpu), HostGpuId(0xb000 + gpu)));
    let mut outline = Outline { gpus: pairs.collect(), ..Outline::default() };
    for index in 0..processes {
        let pid = 28866 + index as i32;
        let ppid = if index == 0 { 0 } else { 28866 };
        let (memory_bytes, gpu_bytes) = (9 << 20, u64::from(gpus) << 24);
        outline.processes.push(OutlineProcess { pid, ppid, memory_bytes, gpu_bytes });
        for position in 0..=gpus as usize {
            let gpu = position.checked_sub(1).map(|gpu| outline.gpus[gpu]);
            let (kind, path) = match position {
                0 => (StepKind::Kfd, "/dev/kfd".to_owned()),
                _ => (StepKind::Render, format!("/dev/dri/renderD{}", 127 + position)),
            };
            outline.steps.push(DeviceStep {
                pid,
                position,
                kind,
                file: 0x10 + position as u32,
                fds: vec![3 + position as i32],
                path,
                gpu,
                buffers: 4,
                content_bytes: if position > 0 { 1 << 24 } else { 0 },
            });
        }
    }
    outline
}

/// The same, with a buffer that the parent makes and every other process imports.
pub(crate) fn sharing(processes: usize, gpus: u32) -> Outline {
    let mut outline = tree(processes, gpus);
    let each = gpus as usize + 1;
    for process in 1..processes {
        let reason = EdgeReason::Buffer(0x7000);
        outline.edges.push(Edge { from: StepId(1), to: StepId(process * each + 1), reason });
    }
    outline
}

/// The restore of [`outline`].
pub(crate) fn events() -> Vec<TraceEvent> {
    restore(&outline())
}

/// A legal restore: a step of a later process takes longer, contents are copied by two threads.
pub(crate) fn restore(outline: &Outline) -> Vec<TraceEvent> {
    let mut events = Vec::new();
    let mut add = |stage, pid: i32, step: Option<StepId>, times: (u64, u64)| {
        let worker = match stage {
            TraceStage::Contents => 1000 + (times.0 % 2) as usize,
            _ => (pid - 28866) as usize,
        };
        let (begin_ns, end_ns) = (times.0 * 1_000 + 77, times.1 * 1_000 + 77);
        let piece = (stage == TraceStage::Contents).then(|| {
            let step = outline.step(step.expect("contents are of a step"));
            Piece { minor: 127 + step.position as u32, bytes: step.content_bytes / 2 }
        });
        let outcome = Ok(());
        events.push(TraceEvent { stage, pid, step, worker, begin_ns, end_ns, outcome, piece });
    };
    let pids: Vec<i32> = outline.processes.iter().map(|process| process.pid).collect();
    let mut clock = 0;
    for &pid in &pids {
        add(TraceStage::Create, pid, None, (clock, clock + 200));
        clock += 150;
    }
    clock += 50;
    let mut scheduler = Scheduler::new(outline, Schedule::Concurrent).expect("it is legal");
    let mut running: Vec<(u64, StepId)> = Vec::new();
    let mut copied = clock;
    loop {
        for step in scheduler.start() {
            let pid = outline.step(step).pid;
            let end = clock + 300 + 100 * (pid - 28866) as u64 % 700;
            add(TraceStage::Device, pid, Some(step), (clock, end));
            if outline.step(step).content_bytes > 0 {
                add(TraceStage::Contents, pid, Some(step), (end, end + 700));
                add(TraceStage::Contents, pid, Some(step), (end + 201, end + 800));
                copied = copied.max(end + 800);
            }
            running.push((end, step));
        }
        let Some(place) = (0..running.len()).min_by_key(|&place| running[place]) else { break };
        let (end, step) = running.swap_remove(place);
        clock = end;
        scheduler.finished(step);
    }
    for (stage, length) in [(TraceStage::Build, 900), (TraceStage::Freeze, 250)] {
        pids.iter().for_each(|&pid| add(stage, pid, None, (clock, clock + length)));
        clock += length;
    }
    clock = clock.max(copied);
    let has_kfd = |pid| outline.steps.iter().any(|it| it.pid == pid && it.kind == StepKind::Kfd);
    for &pid in pids.iter().filter(|&&pid| has_kfd(pid)) {
        add(TraceStage::Resume, pid, None, (clock, clock + 40));
        clock += 40;
    }
    pids.iter().for_each(|&pid| add(TraceStage::Release, pid, None, (clock, clock + 60)));
    events
}
