//! How far the fill of one process has come, said now and then.

use std::time::{Duration, Instant};

/// Least time between two words: as often as a display is drawn. A word costs the coordinator to
/// wake up, so more of them would slow the fill.
const PERIOD: Duration = Duration::from_millis(50);

/// Counts bytes, and says how many more there are. What is left is said when it is dropped.
pub(in crate::engine) struct Meter<'a> {
    say: &'a dyn Fn(u64),
    unsaid_bytes: u64,
    said: Instant,
}

impl<'a> Meter<'a> {
    pub(in crate::engine) fn new(say: &'a dyn Fn(u64)) -> Self {
        Self { say, unsaid_bytes: 0, said: Instant::now() }
    }

    /// So many more bytes are in place.
    pub(super) fn add(&mut self, bytes: u64) {
        self.unsaid_bytes += bytes;
        if self.said.elapsed() >= PERIOD {
            self.flush();
            self.said = Instant::now();
        }
    }

    fn flush(&mut self) {
        if self.unsaid_bytes > 0 {
            (self.say)(std::mem::take(&mut self.unsaid_bytes));
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::Meter;
    use std::cell::RefCell;

    #[test]
    fn every_byte_is_said_once_and_seldom() {
        let said = RefCell::new(Vec::new());
        let say = |bytes| said.borrow_mut().push(bytes);
        let mut meter = Meter::new(&say);
        (0..100).for_each(|_| meter.add(3));
        drop(meter);
        drop(Meter::new(&say));
        let said = said.into_inner();
        assert_eq!(said.iter().sum::<u64>(), 300);
        assert!(said.len() < 100 && !said.contains(&0), "{said:?}");
    }
}
