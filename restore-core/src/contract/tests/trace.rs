//! Each rule has a trace that breaks it, and a legal one beside it.

use proptest::prelude::*;

use super::super::trace::overlaps;
use super::super::{Outline, Piece, StepId, StepKind, TraceEvent, TraceStage, check};
use super::{outline, small_outlines};

/// Two processes with three files each; 11.2 waits for 10.2, and 10.2 has contents.
fn example() -> Outline {
    let mut example = outline(&[3, 3], &[(1, 4)]);
    example.steps[1].content_bytes = 4096;
    example
}

fn event(stage: TraceStage, pid: i32, times: (u64, u64)) -> TraceEvent {
    let worker = pid as usize - 10;
    let (begin_ns, end_ns) = times;
    let outcome = Ok(());
    TraceEvent { stage, pid, step: None, worker, begin_ns, end_ns, outcome, piece: None }
}

fn device(step: usize, times: (u64, u64)) -> TraceEvent {
    let pid = 10 + step as i32 / 3;
    TraceEvent { step: Some(StepId(step)), ..event(TraceStage::Device, pid, times) }
}

/// A legal restore of the example.
fn legal() -> Vec<TraceEvent> {
    use TraceStage::{Build, Contents, Create, Freeze, Release, Resume};
    let piece = Some(Piece { minor: 128, bytes: 4096 });
    let copy = TraceEvent { worker: 7, stage: Contents, piece, ..device(1, (300, 700)) };
    vec![
        event(Create, 10, (0, 50)),
        event(Create, 11, (20, 60)),
        event(Build, 10, (60, 500)),
        device(0, (100, 200)),
        device(1, (200, 300)),
        device(2, (350, 400)),
        copy,
        event(Build, 11, (60, 600)),
        device(3, (150, 260)),
        device(4, (300, 450)),
        device(5, (450, 460)),
        event(Freeze, 10, (600, 700)),
        event(Freeze, 11, (600, 650)),
        event(Resume, 10, (700, 750)),
        event(Resume, 11, (700, 720)),
        event(Release, 10, (750, 760)),
        event(Release, 11, (750, 770)),
    ]
}

fn find(events: &mut [TraceEvent], stage: TraceStage, pid: i32) -> &mut TraceEvent {
    let mut events = events.iter_mut();
    events.find(|event| event.stage == stage && event.pid == pid).expect("it is there")
}

fn step(events: &mut [TraceEvent], step: usize) -> &mut TraceEvent {
    let mut events = events.iter_mut();
    let found = |event: &&mut TraceEvent| {
        event.stage == TraceStage::Device && event.step == Some(StepId(step))
    };
    events.find(found).expect("it is there")
}

/// The change breaks a rule, and the text says so.
fn breaks(rule: u8, text: &str, change: impl FnOnce(&mut Vec<TraceEvent>)) {
    let mut events = legal();
    change(&mut events);
    let violation = check(&example(), &events).expect_err(text);
    assert_eq!((violation.rule, violation.text.as_str()), (rule, text));
    // The order of lines in a file is no evidence.
    events.reverse();
    assert_eq!(check(&example(), &events).expect_err(text).rule, rule);
}

fn keeps(change: impl FnOnce(&mut Vec<TraceEvent>)) {
    let mut events = legal();
    change(&mut events);
    assert_eq!(check(&example(), &events).map(drop), Ok(()));
}

#[test]
fn a_legal_trace_is_summed_up() {
    let checked = check(&example(), &legal()).unwrap();
    assert!(checked.complete);
    assert_eq!((checked.processes, checked.steps, checked.workers), (2, 6, 2));
    assert_eq!(checked.failures, 0);
    // 10.1 with 11.1; 10.2 with 11.1; 10.3 with 11.2.
    assert_eq!(checked.overlaps, 3);
}

#[test]
fn rule_1_one_file_of_a_process_after_the_other() {
    breaks(1, "10.2 (render) began 0.050 us before 10.1 (kfd) ended", |events| {
        step(events, 1).begin_ns = 150;
    });
    breaks(1, "10.3 (render) began 0.095 us before 10.2 (render) ended", |events| {
        (step(events, 2).begin_ns, step(events, 2).end_ns) = (205, 210);
    });
    breaks(1, "11.3 (render) began, but 11.2 (render) never did", |events| {
        events.retain(|event| event.step != Some(StepId(4)));
    });
    breaks(1, "11.3 (render) happened twice", |events| events.push(device(5, (470, 480))));
    keeps(|events| step(events, 2).begin_ns = 300);
}

#[test]
fn rule_1_contents_after_the_step_that_makes_the_buffers() {
    let text = "contents of 10.2 (render) began 0.010 us before 10.2 (render) ended";
    breaks(1, text, |events| find(events, TraceStage::Contents, 10).begin_ns = 290);
    keeps(|events| find(events, TraceStage::Contents, 10).begin_ns = 650);
    keeps(|events| {
        let mut more = find(events, TraceStage::Contents, 10).clone();
        more.worker = 8;
        events.push(more);
    });
}

#[test]
fn rule_1_nothing_of_a_process_goes_on_after_a_failure() {
    breaks(1, "10.3 (render) began, but 10.2 (render) had failed", |events| {
        events.retain(|event| event.begin_ns < 600 && event.stage != TraceStage::Contents);
        step(events, 1).outcome = Err("EINVAL".to_owned());
    });
}

#[test]
fn rule_1_holds_in_the_plan_itself() {
    let mut turned = example();
    turned.steps[0].kind = StepKind::Render;
    turned.steps[1].kind = StepKind::Kfd;
    assert_eq!(check(&turned, &legal()).unwrap_err().rule, 1);
}

#[test]
fn rule_3_every_task_before_the_first_device_file() {
    breaks(3, "10.1 (kfd) began 0.001 us before create of 11 ended", |events| {
        find(events, TraceStage::Create, 11).end_ns = 101;
    });
    breaks(3, "10.1 (kfd) began, but process 11 is not there", |events| {
        events.retain(|event| event.stage != TraceStage::Create || event.pid != 11);
    });
    keeps(|events| find(events, TraceStage::Create, 11).end_ns = 100);
}

#[test]
fn rule_3_parents_before_children() {
    breaks(3, "create of 11 began before create of 10, its parent's", |events| {
        find(events, TraceStage::Create, 10).begin_ns = 30;
    });
    keeps(|events| find(events, TraceStage::Create, 10).begin_ns = 20);
}

#[test]
fn rule_4_one_worker_for_the_life_of_a_process() {
    breaks(4, "worker 0 did create of 10, and worker 1 did 10.3 (render)", |events| {
        step(events, 2).worker = 1;
    });
    // Two processes may have the same one.
    keeps(|events| events.iter_mut().for_each(|event| event.worker = 3));
}

#[test]
fn rule_5_an_edge_is_waited_for() {
    breaks(5, "11.2 (render) began 0.020 us before 10.2 (render) ended", |events| {
        step(events, 4).begin_ns = 280;
    });
    keeps(|events| step(events, 4).begin_ns = 320);
    // Without the edge the same trace is legal.
    let mut events = legal();
    step(&mut events, 4).begin_ns = 280;
    let mut free = example();
    free.edges.clear();
    assert_eq!(check(&free, &events).map(drop), Ok(()));
    free.edges = example().edges;
    free.edges.extend(outline(&[3, 3], &[(5, 0)]).edges);
    let circle = check(&free, &legal()).unwrap_err();
    assert_eq!(circle.rule, 5);
    assert!(circle.text.contains("a cycle: "), "{}", circle.text);
}

#[test]
fn rule_7_nothing_runs_before_all_is_complete() {
    breaks(7, "release of 11 began 0.010 us before freeze of 10 ended", |events| {
        find(events, TraceStage::Contents, 10).end_ns = 500;
        find(events, TraceStage::Release, 11).begin_ns = 690;
    });
    let lacking = "release of 10 began, but 10.2 (render) lacks contents";
    breaks(7, lacking, |events| events.retain(|event| event.stage != TraceStage::Contents));
    breaks(7, lacking, |events| {
        let piece = Some(Piece { minor: 128, bytes: 4095 });
        find(events, TraceStage::Contents, 10).piece = piece;
    });
    breaks(7, "release of 10 began, but 11.3 (render) is not restored", |events| {
        events.retain(|event| event.step != Some(StepId(5)));
    });
    breaks(7, "release of 10 happened twice", |events| {
        events.push(event(TraceStage::Release, 10, (800, 810)));
    });
}

#[test]
fn rule_7_nothing_runs_if_anything_failed() {
    let fail = |events: &mut Vec<TraceEvent>| {
        find(events, TraceStage::Freeze, 11).outcome = Err("EIO".to_owned());
    };
    breaks(7, "release of 10 happened, but freeze of 11 failed", fail);
    keeps(|events| {
        fail(events);
        events.retain(|event| event.begin_ns < 700);
    });
}

#[test]
fn rule_8_devices_resume_last() {
    breaks(8, "resume of 10 began 0.050 us before contents of 10.2 (render) ended", |events| {
        find(events, TraceStage::Resume, 10).begin_ns = 650;
    });
    breaks(8, "resume of 11 began 0.010 us before freeze of 10 ended", |events| {
        find(events, TraceStage::Contents, 10).end_ns = 500;
        find(events, TraceStage::Resume, 11).begin_ns = 690;
    });
    breaks(8, "resume of 10 began, but 11.3 (render) is not restored", |events| {
        events.retain(|event| event.step != Some(StepId(5)));
        events.retain(|event| event.stage != TraceStage::Release);
    });
}

#[test]
fn rule_8_each_process_with_queues_resumes_once() {
    breaks(8, "release of 10 began, but 11 did not resume", |events| {
        events.retain(|event| event.stage != TraceStage::Resume || event.pid != 11);
    });
    breaks(8, "resume of 11 happened twice", |events| {
        events.push(event(TraceStage::Resume, 11, (730, 740)));
    });
    breaks(8, "release of 10 happened, but resume of 11 failed", |events| {
        find(events, TraceStage::Resume, 11).outcome = Err("EBUSY".to_owned());
    });
    let mut without = example();
    without.steps[3].kind = StepKind::Render;
    assert_eq!(check(&without, &legal()).unwrap_err().text, "resume of 11 has nothing to resume");
}

#[test]
fn rule_8_open_kfd_without_state_does_not_resume() {
    let mut empty = example();
    empty.steps[3].buffers = 0;
    assert_eq!(check(&empty, &legal()).unwrap_err().text, "resume of 11 has nothing to resume");
    let mut events = legal();
    events.retain(|event| event.stage != TraceStage::Resume || event.pid != 11);
    assert!(check(&empty, &events).is_ok());
}

#[test]
fn rule_0_what_makes_no_sense() {
    breaks(0, "10.1 (kfd) ends before it begins", |events| step(events, 0).end_ns = 99);
    breaks(0, "freeze of 10.1 (kfd) does not fit its stage", |events| {
        find(events, TraceStage::Freeze, 10).step = Some(StepId(0));
    });
    breaks(0, "10.1 (kfd) does not fit its stage", |events| {
        step(events, 0).piece = Some(Piece { minor: 128, bytes: 1 });
    });
    breaks(0, "device of 10 does not fit its stage", |events| step(events, 0).step = None);
    breaks(0, "device of 10 is of a step that the plan does not have", |events| {
        step(events, 0).step = Some(StepId(6));
    });
    breaks(0, "11.1 (kfd) is of a step of another process", |events| {
        step(events, 0).step = Some(StepId(3));
    });
    breaks(0, "build of 12 is of a process that the plan does not have", |events| {
        find(events, TraceStage::Build, 10).pid = 12;
    });
}

#[test]
fn a_trace_may_end_at_any_moment() {
    for moment in 0..=770 {
        // Events are written when they end.
        let seen: Vec<_> = legal().into_iter().filter(|event| event.end_ns <= moment).collect();
        let checked = check(&example(), &seen).unwrap_or_else(|violation| {
            panic!("until {moment}: {violation}");
        });
        assert_eq!(checked.complete, moment == 770, "until {moment}");
    }
}

proptest! {
    #[test]
    fn a_serial_trace_is_legal_exactly_if_its_order_is(
        outline in small_outlines(),
        seed: u64,
        swap in any::<(prop::sample::Index, prop::sample::Index)>(),
    ) {
        let mut order = outline.sample_order(seed).unwrap();
        if !order.is_empty() {
            let count = order.len();
            order.swap(swap.0.index(count), swap.1.index(count));
        }
        let mut events: Vec<_> = outline.processes.iter()
            .map(|process| event(TraceStage::Create, process.pid, (0, 0)))
            .collect();
        events.extend(order.iter().enumerate().map(|(place, &step)| {
            let begin = place as u64 * 10;
            let pid = outline.step(step).pid;
            TraceEvent { step: Some(step), ..event(TraceStage::Device, pid, (begin, begin + 10)) }
        }));
        let legal = super::is_legal(&outline, &order);
        prop_assert_eq!(check(&outline, &events).is_ok(), legal);
    }

    #[test]
    fn overlaps_are_those_of_the_definition(
        times in prop::collection::vec((0_u64..20, 1_u64..10), 0..12),
    ) {
        let events: Vec<_> = times.iter()
            .map(|&(begin, length)| device(0, (begin, begin + length)))
            .collect();
        let mut expected = 0;
        for (index, a) in events.iter().enumerate() {
            let later = events[index + 1..].iter();
            expected += later.filter(|b| a.begin_ns < b.end_ns && b.begin_ns < a.end_ns).count();
        }
        prop_assert_eq!(overlaps(&events.iter().collect::<Vec<_>>()), expected as u64);
    }
}
