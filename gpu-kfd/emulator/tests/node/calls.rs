//! Calls through a node: what goes in comes out, waits end when they should, and nobody hangs.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::support::client::{KFD, open};
use crate::support::{calls, live, node, until};

#[test]
fn blocks_are_copied_both_ways() {
    live("calls::blocks_are_copied_both_ways", || {
        let (node, _) = node();
        node.enter(|| {
            let file = open(KFD);
            let mut block = [1, 2, u64::MAX - 1];
            assert_eq!(calls::echo(&file, &mut block), Ok(7));
            assert_eq!(block, [2, 3, u64::MAX]);
            assert_eq!(calls::only_in(&file, &[40, 2]), Ok(42));
            let mut large = [5; 16_000];
            assert_eq!(calls::large(&file, &mut large), Ok(0));
            assert!(large.iter().all(|byte| *byte == 6));
        })
        .expect("a thread inside");
    });
}

#[test]
fn a_call_that_fails_gives_its_block_back_too() {
    live("calls::a_call_that_fails_gives_its_block_back_too", || {
        let (node, _) = node();
        node.enter(|| {
            let mut block = [1, 2, 3];
            assert_eq!(calls::fail(&open(KFD), &mut block), Err(Errno::ENOSPC));
            assert_eq!(block, [2, 3, 4]);
        })
        .expect("a thread inside");
    });
}

#[test]
fn a_parked_call_blocks_nobody_and_is_answered_by_another() {
    live("calls::a_parked_call_blocks_nobody_and_is_answered_by_another", || {
        let (node, record) = node();
        node.enter(|| {
            let file = open(KFD);
            std::thread::scope(|scope| {
                let waits: Vec<_> = (0..3)
                    .map(|_| {
                        scope.spawn(|| {
                            let mut block = [60_000, 0];
                            (calls::wait(&file, &mut block), block)
                        })
                    })
                    .collect();
                until("three waits", || record.notes().waits == 3);
                assert_eq!(calls::echo(&file, &mut [0; 3]), Ok(7), "others are served");
                calls::wake(&file).expect("it wakes");
                for wait in waits {
                    assert_eq!(wait.join().expect("no panic"), (Ok(1), [60_000, 1]));
                }
            });
        })
        .expect("a thread inside");
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    live("calls::a_wait_ends_at_its_deadline", || {
        let (node, _) = node();
        node.enter(|| {
            let file = open(KFD);
            std::thread::scope(|scope| {
                // A later deadline first: the earlier one must not wait for it.
                let long = scope.spawn(|| calls::wait(&file, &mut [300, 0]));
                let begin = Instant::now();
                assert_eq!(calls::wait(&file, &mut [50, 0]), Err(Errno::ETIME));
                let short = begin.elapsed();
                assert!(short >= Duration::from_millis(50), "{short:?}");
                assert_eq!(long.join().expect("no panic"), Err(Errno::ETIME));
                let long = begin.elapsed();
                assert!(short < long, "{short:?} {long:?}");
            });
        })
        .expect("a thread inside");
    });
}

#[test]
fn engines_run_when_there_is_work_and_rest_when_there_is_none() {
    live("calls::engines_run_when_there_is_work_and_rest_when_there_is_none", || {
        let (node, record) = node();
        node.enter(|| {
            let file = open(KFD);
            for _ in 0..100 {
                calls::echo(&file, &mut [0; 3]).expect("it answers");
            }
            let idle = record.notes().runs;
            assert!(idle <= 1, "{idle} runs without a queue");
            std::thread::scope(|scope| {
                let wait = scope.spawn(|| calls::wait(&file, &mut [60_000, 0]));
                until("the wait", || record.notes().waits == 1);
                calls::ring(&file).expect("it takes work");
                assert_eq!(wait.join().expect("no panic"), Ok(2), "the work ended the wait");
            });
        })
        .expect("a thread inside");
    });
}

#[test]
fn closing_is_seen_before_the_next_call() {
    live("calls::closing_is_seen_before_the_next_call", || {
        let (node, record) = node();
        node.enter(|| {
            let other = open(KFD);
            for round in 1..200 {
                drop(open(KFD));
                calls::echo(&other, &mut [0; 3]).expect("it answers");
                assert_eq!(record.notes().released.len(), round);
            }
        })
        .expect("a thread inside");
    });
}

#[test]
fn a_node_that_ends_wakes_those_who_wait() {
    live("calls::a_node_that_ends_wakes_those_who_wait", || {
        let (node, record) = node();
        let file = node.enter(|| open(KFD)).expect("a thread inside");
        std::thread::scope(|scope| {
            let wait = scope.spawn(|| calls::wait(&file, &mut [60_000, 0]));
            until("the wait", || record.notes().waits == 1);
            drop(node);
            assert_eq!(wait.join().expect("no panic"), Err(Errno::ENODEV));
        });
        let after = calls::echo(&file, &mut [0; 3]);
        assert!(matches!(after, Err(Errno::ENOTCONN | Errno::ECONNABORTED)), "{after:?}");
    });
}

#[test]
fn a_driver_that_panics_ends_the_node_and_hangs_nobody() {
    live("calls::a_driver_that_panics_ends_the_node_and_hangs_nobody", || {
        let (node, record) = node();
        node.enter(|| {
            let file = open(KFD);
            std::thread::scope(|scope| {
                let wait = scope.spawn(|| calls::wait(&file, &mut [60_000, 0]));
                until("the wait", || record.notes().waits == 1);
                assert_eq!(calls::panic(&file), Err(Errno::EIO));
                assert_eq!(wait.join().expect("no panic"), Err(Errno::ENODEV));
            });
        })
        .expect("a thread inside");
        let failure = node.failure().expect("it is noted");
        assert!(failure.contains("the stub panics when asked to"), "{failure}");
    });
}
