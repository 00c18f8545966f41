//! Ticks of a time axis: between five and twelve, at round numbers of milliseconds.

/// A length of time, as places between two pixels.
pub(super) struct Axis {
    begin_ns: u64,
    span_ms: f64,
    left: f64,
    width: f64,
}

impl Axis {
    /// From the first moment to the last.
    pub(super) fn new((begin_ns, end_ns): (u64, u64), left: f64, right: f64) -> Self {
        // Something that took no time at all still gets an axis.
        let span_ms = (end_ns.saturating_sub(begin_ns).max(1_000)) as f64 / 1e6;
        Self { begin_ns, span_ms, left, width: right - left }
    }

    /// Where a moment is.
    pub(super) fn x(&self, ns: u64) -> f64 {
        self.place(ns.saturating_sub(self.begin_ns) as f64 / 1e6)
    }

    /// Where the last moment is.
    pub(super) fn right(&self) -> f64 {
        self.left + self.width
    }

    fn place(&self, ms: f64) -> f64 {
        self.left + ms / self.span_ms * self.width
    }

    /// Where ticks are, and what they say.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let step = step(self.span_ms);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let count = (self.span_ms / step + 1e-9).floor() as usize;
        let tick = |index: usize| {
            let ms = index as f64 * step;
            (self.place(ms), format!("{ms:.decimals$}"))
        };
        (0..=count).map(tick).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that 5 to 12 fit into the span.
fn step(span: f64) -> f64 {
    let rough = span / 12.0;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough - 1e-12);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::Axis;

    #[test]
    fn ticks_are_round_and_few_at_every_length() {
        for span_ns in (3..40).map(|power| 1_000.max(2_u64.pow(power) * 7)) {
            let ticks = Axis::new((5, 5 + span_ns), 100.0, 1100.0).ticks();
            assert!((5..=13).contains(&ticks.len()), "{span_ns}: {ticks:?}");
            let last = ticks.last().map(|tick| tick.0);
            assert!(last.is_some_and(|x| (600.0..=1100.1).contains(&x)), "{span_ns}: {ticks:?}");
        }
    }

    #[test]
    fn ticks_say_what_they_mean() {
        let check = |span_ns, expected: &[&str]| {
            let ticks = Axis::new((0, span_ns), 0.0, 1.0).ticks();
            let labels: Vec<_> = ticks.iter().map(|tick| tick.1.as_str()).collect();
            assert_eq!(labels, expected);
        };
        check(30_000_000, &["0", "5", "10", "15", "20", "25", "30"]);
        let fine = ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"];
        check(1_000_000, &fine);
        check(
            0,
            &[
                "0.0000", "0.0001", "0.0002", "0.0003", "0.0004", "0.0005", "0.0006", "0.0007",
                "0.0008", "0.0009", "0.0010",
            ],
        );
    }
}
