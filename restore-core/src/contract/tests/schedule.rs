//! A schedule chooses, and never makes an order that the contract forbids.

use proptest::prelude::*;

use super::super::{OutlineError, Schedule, ScheduleError, Scheduler, StepId, StepKind};
use super::{ids, is_legal, outline, small_outlines};

/// Runs a schedule to its end; with several steps under way, the one of `pick` ends next.
fn run(scheduler: &mut Scheduler, mut pick: impl FnMut(usize) -> usize) -> Vec<StepId> {
    let (mut running, mut begun) = (Vec::new(), Vec::new());
    loop {
        let started = scheduler.start();
        begun.extend(&started);
        running.extend(started);
        if running.is_empty() {
            return begun;
        }
        let step = running.swap_remove(pick(running.len()));
        scheduler.finished(step);
    }
}

proptest! {
    #[test]
    fn every_schedule_is_legal_and_complete(outline in small_outlines(), seed: u64) {
        let order = outline.sample_order(seed).unwrap();
        for schedule in [
            Schedule::Concurrent,
            Schedule::Serial,
            Schedule::Seed(seed),
            Schedule::Order(order.clone()),
        ] {
            let mut scheduler = Scheduler::new(&outline, schedule.clone()).unwrap();
            let begun = run(&mut scheduler, |count| seed as usize % count);
            prop_assert!(is_legal(&outline, &begun), "{:?}: {:?}", schedule, begun);
            prop_assert!(scheduler.is_done());
            if matches!(schedule, Schedule::Seed(_) | Schedule::Order(_)) {
                prop_assert_eq!(begun, order.clone());
            }
        }
    }

    #[test]
    fn an_order_is_taken_exactly_if_it_is_legal(
        outline in small_outlines(),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let mut order: Vec<StepId> = (0..outline.steps.len()).map(StepId).collect();
        let mut rest = shuffle.index(usize::MAX);
        for place in (1..order.len()).rev() {
            order.swap(place, rest % (place + 1));
            rest /= place + 1;
        }
        let taken = Scheduler::new(&outline, Schedule::Order(order.clone()));
        prop_assert_eq!(taken.is_ok(), is_legal(&outline, &order));
    }
}

#[test]
fn processes_go_on_at_the_same_time_and_one_process_one_after_the_other() {
    let mut scheduler = Scheduler::new(&outline(&[2, 2], &[(0, 3)]), Schedule::Concurrent).unwrap();
    assert_eq!(scheduler.start(), ids(&[0, 2]));
    assert_eq!(scheduler.start(), []);
    scheduler.finished(StepId(2));
    assert_eq!(scheduler.start(), [], "11.2 waits for its edge");
    scheduler.finished(StepId(0));
    assert_eq!(scheduler.start(), ids(&[1, 3]));
    scheduler.finished(StepId(1));
    assert!(!scheduler.is_done());
    scheduler.finished(StepId(3));
    assert!(scheduler.is_done());
}

#[test]
fn a_serial_schedule_takes_the_smallest_ready_step() {
    let mut scheduler = Scheduler::new(&outline(&[2, 2], &[(3, 1)]), Schedule::Serial).unwrap();
    assert_eq!(run(&mut scheduler, |_| 0), ids(&[0, 2, 3, 1]));
}

#[test]
fn nothing_follows_a_failed_step() {
    let mut scheduler = Scheduler::new(&outline(&[2, 1], &[]), Schedule::Serial).unwrap();
    assert_eq!(scheduler.start(), ids(&[0]));
    assert_eq!(scheduler.start(), [], "it has not ended");
    assert!(!scheduler.is_done());
}

#[test]
fn a_tree_without_device_files_is_done_at_once() {
    let mut scheduler = Scheduler::new(&outline(&[0, 0], &[]), Schedule::Concurrent).unwrap();
    assert!(scheduler.is_done());
    assert_eq!(scheduler.start(), []);
}

#[test]
fn illegal_orders_are_refused_by_rule_and_steps() {
    let refused = |order: &[usize]| {
        let outline = outline(&[3, 3], &[(1, 4)]);
        Scheduler::new(&outline, Schedule::Order(ids(order))).map(drop).unwrap_err().to_string()
    };
    for (order, text) in [
        (
            [0, 2, 1, 3, 4, 5],
            "the order breaks rule 1: 10.3 stands before 10.2 of the same process",
        ),
        ([0, 3, 4, 1, 2, 5], "the order breaks rule 5: 11.2 stands before 10.2, which it needs"),
        ([0, 1, 2, 3, 4, 4], "the order names 11.2 twice"),
        ([0, 1, 2, 3, 4, 6], "the order names step 6, but there are 6 steps"),
    ] {
        assert_eq!(refused(&order), text);
    }
    assert_eq!(refused(&[0, 1, 2, 3, 4]), "the order leaves out 11.3");
}

#[test]
fn outlines_that_break_a_rule_are_refused() {
    let refused = |outline| match Scheduler::new(&outline, Schedule::Concurrent) {
        Err(ScheduleError::Outline(error)) => (error.rule(), error.to_string()),
        other => panic!("{other:?}"),
    };
    let circle = refused(outline(&[2, 2], &[(1, 2), (3, 0)]));
    assert_eq!(circle.0, 5);
    let circle_text = "a cycle: 10.1 waits for 11.2 waits for 11.1 waits for 10.2 waits for 10.1";
    assert_eq!(circle.1, circle_text);
    assert_eq!(refused(outline(&[1], &[(0, 0)])).1, "a cycle: 10.1 waits for 10.1");
    assert_eq!(
        refused(outline(&[1], &[(0, 7)])),
        (5, OutlineError::Outside { from: 0, to: 7, steps: 1 }.to_string())
    );

    let mut misplaced = outline(&[2, 1], &[]);
    misplaced.steps.swap(1, 2);
    let (rule, text) = refused(misplaced);
    assert_eq!(rule, 1);
    assert!(text.starts_with("step 2 (10.2) does not stand"), "{text}");

    let mut render_first = outline(&[3], &[]);
    render_first.steps[0].kind = StepKind::Render;
    render_first.steps[1].kind = StepKind::Kfd;
    let text = "10.1 (render) comes before 10.2 (kfd) of the same process";
    assert_eq!(refused(render_first), (1, text.to_owned()));

    let mut descending = outline(&[3], &[]);
    descending.steps[1].fds = vec![9];
    let text = "10.2 comes before 10.3 of the same process and kind, but descriptors must ascend";
    assert_eq!(refused(descending), (1, text.to_owned()));
}

#[test]
fn a_kfd_file_may_have_any_descriptor_and_a_mapped_file_none() {
    let mut above = outline(&[3], &[]);
    above.steps[0].fds = vec![100];
    for mapped in [1, 2] {
        above.steps[mapped].fds = vec![];
        assert!(Scheduler::new(&above, Schedule::Concurrent).is_ok());
    }
}
