//! The thread that lets queues run, watches time, and ends the node.
//!
//! A doorbell is a word in memory: nothing tells that it was rung, so it must be looked at. While
//! there is work that is done without a pause; then ever more seldom, down to once in a
//! millisecond; and never, if there are no queues.

use std::thread;
use std::time::Duration;

use crossbeam::sync::Parker;

use super::control::Control;
use super::engine::{Engine, Pause};
use super::world::now_ns;
use crate::model::Progress;

/// How much the engines copy before other calls get their turn: 30 µs of copying.
const BUDGET_BYTES: u64 = 256 << 10;
/// How long doorbells are looked at without a pause after the last packet. A program that waits for
/// one packet mostly sends the next one within that time.
const EAGER_NS: u64 = 50_000;
/// First pause after that; each further one is twice as long.
const PAUSE_NS_MIN: u64 = 20_000;
/// Longest pause: how late the first packet after a long rest may be noticed.
const PAUSE_NS_MAX: u64 = 1_000_000;

/// How long to wait before the queues are looked at again.
#[derive(Debug)]
pub(crate) struct Pace {
    last_work_ns: u64,
    pause_ns: u64,
    /// What the pump does at present.
    pub(crate) planned: Pause,
    /// There were queues when it last looked.
    pub(crate) listening: bool,
    /// Somebody waits since it last looked, most likely for work that was just handed over.
    pub(crate) expected: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            last_work_ns: 0,
            pause_ns: PAUSE_NS_MIN,
            planned: Pause::None,
            listening: false,
            expected: false,
        }
    }
}

impl Pace {
    /// A caller begins to wait: whoever rings a doorbell and waits should not wait for a pause.
    pub(crate) fn expect_work(&mut self) {
        self.expected = true;
        self.pause_ns = PAUSE_NS_MIN;
    }

    pub(crate) fn after(&mut self, progress: Progress, now_ns: u64) -> Pause {
        self.listening = progress.listening;
        self.expected = false;
        if progress.packets > 0 || progress.more {
            self.last_work_ns = now_ns;
            self.pause_ns = PAUSE_NS_MIN;
        }
        if progress.more {
            return Pause::None;
        }
        if !progress.listening {
            return Pause::Forever;
        }
        if now_ns.saturating_sub(self.last_work_ns) < EAGER_NS {
            return Pause::None;
        }
        let pause = self.pause_ns;
        self.pause_ns = (pause * 2).min(PAUSE_NS_MAX);
        Pause::Until(now_ns + pause)
    }
}

/// Runs until the node is asked to end.
pub(crate) fn run(engine: &Engine, control: &Control, parker: &Parker) {
    while !control.is_stopping() {
        match engine.run_queues(BUDGET_BYTES) {
            Pause::None => thread::yield_now(),
            Pause::Until(time) => {
                parker.park_timeout(Duration::from_nanos(time.saturating_sub(now_ns())));
            }
            Pause::Forever => parker.park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{EAGER_NS, PAUSE_NS_MAX, PAUSE_NS_MIN, Pace, Pause, Progress};

    const IDLE: Progress =
        Progress { packets: 0, bytes: 0, faults: 0, more: false, listening: true };
    const WORK: Progress = Progress { packets: 1, ..IDLE };

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew_after_work() {
        let mut pace = Pace::default();
        let mut now = 1_000_000_000;
        assert_eq!(pace.after(WORK, now), Pause::None);
        now += EAGER_NS - 1;
        assert_eq!(pace.after(IDLE, now), Pause::None, "still eager");
        let mut pauses = Vec::new();
        for _ in 0..10 {
            now += EAGER_NS;
            let Pause::Until(time) = pace.after(IDLE, now) else { panic!("{pace:?}") };
            pauses.push(time - now);
        }
        assert_eq!(pauses[..3], [PAUSE_NS_MIN, 2 * PAUSE_NS_MIN, 4 * PAUSE_NS_MIN]);
        assert_eq!(pauses[9], PAUSE_NS_MAX);
        assert_eq!(pace.after(WORK, now), Pause::None);
        now += EAGER_NS;
        assert_eq!(pace.after(IDLE, now), Pause::Until(now + PAUSE_NS_MIN));
    }

    #[test]
    fn without_queues_nobody_looks() {
        let mut pace = Pace::default();
        assert_eq!(pace.after(Progress { listening: false, ..IDLE }, 5), Pause::Forever);
        let more = Progress { more: true, listening: false, ..IDLE };
        assert_eq!(pace.after(more, 5), Pause::None, "work that is left goes on");
    }
}
