//! Calls that shall be late: kept by a thread of their own until their time has come.

use std::collections::BTreeMap;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::world::now_ns;

/// What happens to a late call: it goes on, or a signal came to its caller meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    Interrupted,
}

/// What the thread is told.
pub(crate) enum Late {
    /// Keep a request until a time of [`now_ns`].
    Keep { unique: u64, until_ns: u64, then: Box<dyn FnOnce(Then) + Send> },
    /// A signal came to the caller of a request, which may be here or not.
    Interrupt { unique: u64 },
}

/// Keeps requests until whoever sends them has gone; what is left then is dropped, which answers.
pub(crate) fn run(told: &Receiver<Late>) {
    let mut kept = BTreeMap::new();
    loop {
        let next: Option<(u64, u64)> = kept.first_key_value().map(|(key, _)| *key);
        let message = match next {
            None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((until_ns, _)) => {
                told.recv_timeout(Duration::from_nanos(until_ns.saturating_sub(now_ns())))
            }
        };
        match message {
            Ok(Late::Keep { unique, until_ns, then }) => {
                kept.insert((until_ns, unique), then);
            }
            Ok(Late::Interrupt { unique }) => {
                let found = kept.keys().find(|(_, other)| *other == unique).copied();
                if let Some(then) = found.and_then(|key| kept.remove(&key)) {
                    then(Then::Interrupted);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                while let Some(first) = kept.first_entry() {
                    if first.key().0 > now_ns() {
                        break;
                    }
                    first.remove()(Then::GoOn);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use crossbeam::channel::unbounded;

    use super::{Late, Then, now_ns, run};

    #[test]
    fn calls_go_on_in_the_order_of_their_time_and_a_signal_ends_a_wait() {
        let (sender, told) = unbounded();
        let (done, seen) = mpsc::channel();
        let start = now_ns();
        for (unique, wait_ns) in [(1, 30_000_000), (2, 10_000_000), (3, u64::MAX - start)] {
            let done = done.clone();
            let then = Box::new(move |then| done.send((unique, then)).expect("a reader"));
            let until_ns = start + wait_ns;
            sender.send(Late::Keep { unique, until_ns, then }).expect("a thread");
        }
        let thread = std::thread::spawn(move || run(&told));
        assert_eq!(seen.recv(), Ok((2, Then::GoOn)));
        assert!(now_ns() - start >= 10_000_000);
        sender.send(Late::Interrupt { unique: 9 }).expect("a thread");
        sender.send(Late::Interrupt { unique: 3 }).expect("a thread");
        assert_eq!(seen.recv(), Ok((3, Then::Interrupted)));
        assert_eq!(seen.recv(), Ok((1, Then::GoOn)));
        assert!(now_ns() - start >= 30_000_000);
        drop(sender);
        thread.join().expect("it ends when nobody is left");
    }
}
