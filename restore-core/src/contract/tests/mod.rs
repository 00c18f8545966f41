//! What the contract's code promises: schedules, orders and verdicts, on outlines built by hand or
//! at random.

mod orders;
mod schedule;
mod trace;

use gpu_kfd::{GpuId, HostGpuId};
use proptest::prelude::*;

use super::{DeviceStep, Edge, EdgeReason, Outline, OutlineProcess, StepId, StepKind};

/// Processes 10, 11, ... with so many files each: kfd first, then render nodes. Edges are pairs of
/// step numbers.
fn outline(lengths: &[usize], edges: &[(usize, usize)]) -> Outline {
    let mut outline = Outline::default();
    for (index, &length) in lengths.iter().enumerate() {
        let pid = 10 + index as i32;
        let ppid = if index == 0 { 0 } else { 10 };
        outline.processes.push(OutlineProcess { pid, ppid, memory_bytes: 0, gpu_bytes: 0 });
        for position in 0..length {
            let gpu = position as u32;
            outline.steps.push(DeviceStep {
                pid,
                position,
                kind: if position == 0 { StepKind::Kfd } else { StepKind::Render },
                file: position as u32 + 1,
                fds: vec![position as i32 + 3],
                path: "/dev/kfd".to_owned(),
                gpu: (position > 0).then_some((GpuId(gpu), HostGpuId(gpu))),
                buffers: usize::from(position == 0),
                content_bytes: 0,
            });
        }
    }
    let edges = edges.iter().map(|&(from, to)| Edge {
        from: StepId(from),
        to: StepId(to),
        reason: EdgeReason::Buffer(1),
    });
    outline.edges = edges.collect();
    outline
}

fn ids(numbers: &[usize]) -> Vec<StepId> {
    numbers.iter().copied().map(StepId).collect()
}

/// Whether an order has all steps, each after what it waits for; by the definition.
fn is_legal(outline: &Outline, order: &[StepId]) -> bool {
    let place = |id: StepId| order.iter().position(|&other| other == id);
    let all = (0..outline.steps.len()).map(StepId);
    order.len() == outline.steps.len()
        && all.clone().all(|id| place(id).is_some())
        && all.clone().all(|id| outline.before(id).all(|before| place(before) < place(id)))
}

/// Small outlines: up to 3 processes, 6 steps, edges that follow a random order of all steps and so
/// close no cycle.
fn small_outlines() -> impl Strategy<Value = Outline> {
    let lengths = prop::collection::vec(0_usize..4, 1..4)
        .prop_filter("brute force takes n! tries", |lengths| lengths.iter().sum::<usize>() <= 6);
    (lengths, any::<u64>(), prop::collection::vec(any::<(u16, u16)>(), 0..4)).prop_map(
        |(lengths, seed, pairs)| {
            let free = outline(&lengths, &[]);
            let order = free.sample_order(seed).expect("chains have an order");
            let mut edges = Vec::new();
            for (a, b) in pairs {
                if order.is_empty() {
                    break;
                }
                let (a, b) = (usize::from(a) % order.len(), usize::from(b) % order.len());
                if a != b {
                    edges.push((order[a.min(b)].0, order[a.max(b)].0));
                }
            }
            outline(&lengths, &edges)
        },
    )
}
