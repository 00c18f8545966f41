//! A harmless machine has one end state; one that is broken on purpose is found out.

use std::collections::{BTreeMap, BTreeSet};

use restore_core::{Outline, StepId};

use super::{Found, Report, Which, explore};
use crate::trace::example;

/// A machine whose end state is which steps were done, by process: the order is not in it.
fn sound(outline: &Outline, order: &[StepId]) -> Vec<u8> {
    let mut state: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for &step in order {
        let step = outline.step(step);
        state.entry(step.pid).or_default().push(step.position);
    }
    let lines: Vec<String> = state.iter().map(|(pid, done)| format!("{pid}: {done:?}")).collect();
    lines.join("\n").into_bytes()
}

/// One whose handles are numbered across processes: state leaks from one to the other.
fn leaking(outline: &Outline, order: &[StepId]) -> Vec<u8> {
    let line = |number: usize| {
        let place = order.iter().position(|step| step.0 == number).unwrap();
        format!("{} has handle {place}\n", outline.label(StepId(number)))
    };
    (0..order.len()).map(line).collect::<String>().into_bytes()
}

#[test]
fn a_sound_machine_has_one_end_state_after_every_order() {
    for (outline, count) in [(example::outline(), 20), (example::sharing(3, 1), 30)] {
        let mut seen = BTreeSet::new();
        let found = explore(&outline, Which::All, |order| {
            seen.insert(order.to_vec());
            Ok(sound(&outline, order))
        });
        assert_eq!((found.orders, seen.len(), found.states.len()), (count, count, 1));
        assert!(found.is_one());
        let text = Report { outline: &outline, found: &found }.to_string();
        assert_eq!(text, format!("{count} of {count} legal order(s) run: 1 end state(s)\n"));
    }
}

#[test]
fn a_leak_between_processes_is_found_with_both_orders() {
    let outline = example::outline();
    let found = explore(&outline, Which::All, |order| Ok(leaking(&outline, order)));
    assert!(!found.is_one());
    assert_eq!((found.states.len(), found.other_states), (8, 12));
    let text = Report { outline: &outline, found: &found }.to_string();
    let begin = "\
20 of 20 legal order(s) run: 8 or more end state(s)
1 order(s) end like 28866.1 28866.2 28866.3 28867.1 28867.2 28867.3
1 order(s) end like 28866.1 28866.2 28867.1 28866.3 28867.2 28867.3, which differs:
  line 3
    first: 28866.3 has handle 2
    other: 28866.3 has handle 3
";
    assert!(text.starts_with(begin), "{text}");
    assert!(text.ends_with("12 order(s) end differently again\n"), "{text}");
}

#[test]
fn a_failure_is_told_with_its_order_and_stops_nothing() {
    let outline = example::outline();
    let found = explore(&outline, Which::All, |order| match order[0] {
        StepId(0) => Ok(sound(&outline, order)),
        _ => Err("28867.1: EBUSY".to_owned()),
    });
    assert_eq!((found.orders, found.failed, found.failures.len()), (20, 10, 8));
    assert!(!found.is_one());
    let text = Report { outline: &outline, found: &found }.to_string();
    let line = "  28867.1 28866.1 28866.2 28866.3 28867.2 28867.3: 28867.1: EBUSY\n";
    assert!(text.contains("10 order(s) failed:\n") && text.contains(line), "{text}");
}

#[test]
fn samples_are_different_orders_and_come_again_from_their_seed() {
    let run = |outline: &Outline, count, seed| {
        let mut orders = Vec::new();
        let found = explore(outline, Which::Sample { count, seed }, |order| {
            orders.push(order.to_vec());
            Ok(sound(outline, order))
        });
        assert_eq!(found.orders, orders.len());
        orders
    };
    let large = example::sharing(12, 4);
    let orders = run(&large, 50, 7);
    assert_eq!(orders.iter().collect::<BTreeSet<_>>().len(), 50);
    assert_eq!(run(&large, 50, 7), orders);
    assert_ne!(run(&large, 50, 1_000_000), orders);
    assert_eq!(large.sample_order(7), Some(orders[0].clone()), "the seed of --schedule");
    // There are not more than there are.
    assert_eq!(run(&example::outline(), 100, 1).len(), 20);
}

#[test]
fn long_lines_are_shown_where_they_differ() {
    let outline = example::outline();
    let mut found = Found::default();
    let state = |end: &str| format!("same\n{}{end}{}", "a".repeat(500), "b".repeat(500));
    found.note(vec![StepId(0)], Ok(state("1").into_bytes()));
    found.note(vec![StepId(1)], Ok(state("\u{1}").into_bytes()));
    found.note(vec![StepId(2)], Ok(b"same".to_vec()));
    let text = Report { outline: &outline, found: &found }.to_string();
    assert!(text.contains(&format!("line 2\n    first: ...{}1b", "a".repeat(80))), "{text}");
    assert!(text.contains("\\x01b") && text.contains("other: (no such line)"), "{text}");
    assert!(text.lines().all(|line| line.len() < 200), "{text}");
}
