//! Faults on demand: which call fails or is late, decided by rules, counts and a seed.
//!
//! Pure: it says what shall happen to a call, and the server does it. The same rules, seed and
//! order of calls give the same decisions.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use nix::errno::Errno;

/// Longest delay of a call: what waits longer would be taken for a hang by every time limit.
pub const DELAY_MAX: Duration = Duration::from_secs(60);

/// Highest errno that a rule may name; the kernel's own end at 133.
const ERRNO_LAST: i32 = 133;

/// Which calls of a kind a rule means; the first has number 1.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    From {
        first: u64,
        last: u64,
    },
    /// Each with this chance in 2^32.
    Chance(u32),
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Fail(Errno),
    Delay(Duration),
}

/// One rule: `CALL[@WHICH]=ACTION`.
///
/// - `CALL` is a call's name without prefix, such as `ALLOC_MEMORY_OF_GPU`, `GEM_VA`,
///   `CRIU_RESTORE` (the operation of `CRIU_OP`), `OPEN_KFD`, `OPEN_RENDER`, `OPEN_DMABUF`; or `*`.
/// - `WHICH` is `N` (the n-th call of that name since the node started), `N..` (from the n-th on),
///   `N..M` (up to and with the m-th), or `P%` (each with that chance). Without it: all.
/// - `ACTION` is an errno's name, or a delay such as `5ms`, `200us`, `1s`.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRule {
    call: String,
    which: Which,
    action: Action,
}

/// Why a rule cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultRuleError {
    /// There is no `=`.
    #[error(
        "{0:?} is no fault: expected CALL[@WHICH]=ACTION, such as ALLOC_MEMORY_OF_GPU@2=ENOMEM"
    )]
    Shape(String),
    /// The number of the call cannot be read.
    #[error("{0:?} does not say which call: expected N, N.., N..M or P%")]
    Which(String),
    /// The action is neither an errno nor a delay.
    #[error(
        "{0:?} is neither an errno nor a delay of at most {seconds} s",
        seconds = DELAY_MAX.as_secs()
    )]
    Action(String),
}

impl FaultRuleError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Shape(_) => "usage.fault-rule",
            Self::Which(_) => "usage.fault-which",
            Self::Action(_) => "usage.fault-action",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Shape(_) => {
                Some("write CALL[@WHICH]=ACTION, such as ALLOC_MEMORY_OF_GPU@2=ENOMEM")
            }
            Self::Which(_) => Some("write N, N.., N..M or P% after the @"),
            Self::Action(_) => Some("give the name of an errno, or a delay such as 5ms"),
        }
    }
}

impl FromStr for FaultRule {
    type Err = FaultRuleError;

    fn from_str(text: &str) -> Result<Self, FaultRuleError> {
        let shape = || FaultRuleError::Shape(text.to_owned());
        let (head, action) = text.split_once('=').ok_or_else(shape)?;
        let (call, which) = match head.split_once('@') {
            None => (head, Which::From { first: 1, last: u64::MAX }),
            Some((call, which)) => {
                (call, parse_which(which).ok_or_else(|| FaultRuleError::Which(which.to_owned()))?)
            }
        };
        let named = call == "*" || call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if call.is_empty() || !named {
            return Err(shape());
        }
        let action =
            parse_action(action).ok_or_else(|| FaultRuleError::Action(action.to_owned()))?;
        Ok(Self { call: call.to_ascii_uppercase(), which, action })
    }
}

fn parse_which(text: &str) -> Option<Which> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().ok()?;
        let chance = (percent / 100.0 * f64::from(u32::MAX)).round();
        return (0.0..=100.0).contains(&percent).then_some(Which::Chance(chance as u32));
    }
    let (first, last) = match text.split_once("..") {
        None => (text.parse().ok()?, text.parse().ok()?),
        Some((first, "")) => (first.parse().ok()?, u64::MAX),
        Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
    };
    (1 <= first && first <= last).then_some(Which::From { first, last })
}

fn parse_action(text: &str) -> Option<Action> {
    let units = [("ms", 1_000_000), ("us", 1_000), ("ns", 1), ("s", 1_000_000_000)];
    for (unit, nanoseconds) in units {
        if let Some(number) = text.strip_suffix(unit).and_then(|text| text.parse::<u64>().ok()) {
            let delay = Duration::from_nanos(number.checked_mul(nanoseconds)?);
            return (delay <= DELAY_MAX).then_some(Action::Delay(delay));
        }
    }
    errno_named(text).map(Action::Fail)
}

/// The errno of this name.
fn errno_named(name: &str) -> Option<Errno> {
    let known = (1..=ERRNO_LAST).map(Errno::from_raw);
    known.into_iter().find(|errno| {
        *errno != Errno::UnknownErrno && format!("{errno:?}").eq_ignore_ascii_case(name)
    })
}

/// What shall happen to a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// It waits this long before it is looked at.
    pub delay: Duration,
    /// It fails with this, and has no effect.
    pub fail: Option<Errno>,
}

/// Rules with the counts of calls so far.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    rules: Vec<FaultRule>,
    counts: BTreeMap<String, u64>,
    random: u64,
    hits: u64,
}

impl Faults {
    /// Rules that all apply; `seed` decides where a rule names a chance.
    #[must_use]
    pub fn new(rules: Vec<FaultRule>, seed: u64) -> Self {
        Self { rules, counts: BTreeMap::new(), random: seed, hits: 0 }
    }

    /// Other rules from now on, with counts that begin anew.
    pub fn replace(&mut self, rules: Vec<FaultRule>) {
        *self = Self::new(rules, self.random);
    }

    /// Calls that were changed so far.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Whether there is nothing to decide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Counts a call and says what shall happen to it. Delays of several rules add up; the first
    /// rule that fails it wins.
    pub fn decide(&mut self, call: &str) -> Decision {
        let mut decision = Decision::default();
        if self.rules.is_empty() {
            return decision;
        }
        let total = count(&mut self.counts, "*");
        let of_kind = count(&mut self.counts, call);
        for index in 0..self.rules.len() {
            let rule = &self.rules[index];
            let number = match rule.call.as_str() {
                "*" => total,
                name if name == call => of_kind,
                _ => continue,
            };
            let (which, action) = (rule.which, rule.action);
            let hit = match which {
                Which::From { first, last } => (first..=last).contains(&number),
                Which::Chance(chance) => self.draw() < chance,
            };
            match action {
                _ if !hit => {}
                Action::Fail(errno) => decision.fail = decision.fail.or(Some(errno)),
                Action::Delay(delay) => decision.delay += delay,
            }
        }
        self.hits += u64::from(decision != Decision::default());
        decision
    }

    /// Calls of this name so far; only counted while there are rules.
    #[must_use]
    pub fn calls_of(&self, call: &str) -> u64 {
        self.counts.get(call).copied().unwrap_or(0)
    }

    /// The next number of a `SplitMix64` sequence, its upper half.
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 32) as u32
    }
}

fn count(counts: &mut BTreeMap<String, u64>, call: &str) -> u64 {
    if let Some(count) = counts.get_mut(call) {
        *count += 1;
        return *count;
    }
    counts.insert(call.to_owned(), 1);
    1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::errno::Errno;

    use super::{Decision, FaultRule, FaultRuleError, Faults};

    fn faults(rules: &[&str]) -> Faults {
        let parse = |rule: &&str| rule.parse::<FaultRule>().expect("a good rule");
        Faults::new(rules.iter().map(parse).collect(), 42)
    }

    fn failures(faults: &mut Faults, call: &str, count: usize) -> Vec<Option<Errno>> {
        (0..count).map(|_| faults.decide(call).fail).collect()
    }

    #[test]
    fn nth_call_of_a_kind_fails_and_no_other() {
        let mut faults = faults(&["GEM_VA@2=EBUSY"]);
        assert_eq!(failures(&mut faults, "GEM_CREATE", 3), [None; 3]);
        assert_eq!(failures(&mut faults, "GEM_VA", 3), [None, Some(Errno::EBUSY), None]);
    }

    #[test]
    fn ranges_and_all_are_understood() {
        let hit = Some(Errno::EIO);
        assert_eq!(failures(&mut faults(&["*@2..3=EIO"]), "A", 4), [None, hit, hit, None]);
        assert_eq!(failures(&mut faults(&["A@3..=EIO"]), "A", 4), [None, None, hit, hit]);
        assert_eq!(failures(&mut faults(&["a=EIO"]), "A", 2), [hit, hit]);
    }

    #[test]
    fn delays_add_up() {
        let decision = faults(&["A=5ms", "*=200us"]).decide("A");
        assert_eq!(decision, Decision { delay: Duration::from_micros(5200), fail: None });
    }

    #[test]
    fn seed_repeats_a_run() {
        let run = |seed| {
            let rule = "A@30%=EINTR".parse().expect("a good rule");
            failures(&mut Faults::new(vec![rule], seed), "A", 200)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let hits = run(1).iter().flatten().count();
        assert!((30..90).contains(&hits), "{hits} of 200 at 30 %");
    }

    #[test]
    fn other_rules_begin_to_count_anew() {
        let mut faults = faults(&["A@2=EIO"]);
        assert_eq!(failures(&mut faults, "A", 3), [None, Some(Errno::EIO), None]);
        assert_eq!(faults.hits(), 1);
        faults.replace(vec!["A@1=EBUSY".parse().expect("a good rule")]);
        assert_eq!(faults.hits(), 0);
        assert_eq!(failures(&mut faults, "A", 2), [Some(Errno::EBUSY), None]);
    }

    #[test]
    fn bad_rules_are_named() {
        let error = |text: &str| text.parse::<FaultRule>().expect_err("a bad rule");
        assert!(matches!(error("GEM_VA"), FaultRuleError::Shape(_)));
        assert!(matches!(error("GEM VA=EIO"), FaultRuleError::Shape(_)));
        assert!(matches!(error("A@0=EIO"), FaultRuleError::Which(_)));
        assert!(matches!(error("A@3..2=EIO"), FaultRuleError::Which(_)));
        assert!(matches!(error("A@101%=EIO"), FaultRuleError::Which(_)));
        assert!(matches!(error("A=ENOTHING"), FaultRuleError::Action(_)));
        assert!(matches!(error("A=61s"), FaultRuleError::Action(_)));
    }
}
