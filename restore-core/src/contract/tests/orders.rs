//! All legal orders, none twice, none else.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{Outline, StepId};
use super::{ids, is_legal, outline, small_outlines};

/// Every permutation that the definition calls legal.
fn brute_force(outline: &Outline) -> Vec<Vec<StepId>> {
    fn go(outline: &Outline, order: &mut Vec<StepId>, found: &mut Vec<Vec<StepId>>) {
        if order.len() == outline.steps.len() {
            if is_legal(outline, order) {
                found.push(order.clone());
            }
            return;
        }
        for step in (0..outline.steps.len()).map(StepId) {
            if !order.contains(&step) {
                order.push(step);
                go(outline, order, found);
                order.pop();
            }
        }
    }
    let mut found = Vec::new();
    go(outline, &mut Vec::new(), &mut found);
    found
}

proptest! {
    #[test]
    fn orders_are_those_of_the_definition(outline in small_outlines()) {
        let expected = brute_force(&outline);
        let orders: Vec<_> = outline.orders().collect();
        prop_assert_eq!(&orders, &expected);
        prop_assert_eq!(outline.count_orders(), Some(expected.len() as u128));
    }

    #[test]
    fn samples_are_legal_and_repeatable(outline in small_outlines(), seed: u64) {
        let order = outline.sample_order(seed).unwrap();
        prop_assert!(is_legal(&outline, &order));
        prop_assert_eq!(outline.sample_order(seed), Some(order));
    }
}

#[test]
fn two_processes_with_three_files_have_twenty_orders() {
    let example = outline(&[3, 3], &[]);
    assert_eq!(example.count_orders(), Some(20));
    let orders: BTreeSet<_> = example.orders().collect();
    assert_eq!(orders.len(), 20);
    // PF1 PF2 PF3 CF1 CF2 CF3; CF1 PF1 CF2 PF2 CF3 PF3; CF1 CF2 PF1 CF3 PF2 PF3.
    for order in [[0, 1, 2, 3, 4, 5], [3, 0, 4, 1, 5, 2], [3, 4, 0, 5, 1, 2]] {
        assert!(orders.contains(&ids(&order)), "{order:?}");
    }
}

#[test]
fn every_order_comes_from_some_seed() {
    for example in [outline(&[3, 3], &[]), outline(&[2, 2, 1], &[(1, 2), (0, 4)])] {
        let all: BTreeSet<_> = example.orders().collect();
        let sampled: BTreeSet<_> =
            (0..2_000).filter_map(|seed| example.sample_order(seed)).collect();
        assert_eq!(sampled, all);
    }
}

#[test]
fn counts_are_exact_where_they_fit() {
    let counts =
        |lengths: &[usize], edges: &[(usize, usize)]| outline(lengths, edges).count_orders();
    assert_eq!(counts(&[], &[]), Some(1));
    assert_eq!(counts(&[0, 0], &[]), Some(1));
    assert_eq!(counts(&[3, 3, 3], &[]), Some(1680));
    // 24! / 3!^8
    assert_eq!(counts(&[3; 8], &[]), Some(369_398_958_888_960_000));
    // All of one before the last of the other: it is last.
    assert_eq!(counts(&[3, 3], &[(2, 5)]), Some(10));
    // The same beside a process that shares nothing: 10 * 9! / (6! 3!)
    assert_eq!(counts(&[3, 3, 3], &[(2, 5)]), Some(840));
    // 126 files in two chains: near the end of u128, which intermediate products must not leave.
    assert_eq!(counts(&[63, 63], &[]), Some(6_034_934_435_761_406_706_427_864_636_568_328_000));
    assert_eq!(counts(&[5; 64], &[]), None);
    let entangled: Vec<_> = (1..32).map(|process| (1, process * 5)).collect();
    assert_eq!(counts(&[5; 32], &entangled), None);
}

#[test]
fn what_contradicts_itself_has_no_order() {
    let circle = outline(&[2, 2], &[(1, 2), (3, 0)]);
    assert_eq!(circle.orders().count(), 0);
    assert_eq!(circle.count_orders(), Some(0));
    assert_eq!(circle.sample_order(1), None);
}
