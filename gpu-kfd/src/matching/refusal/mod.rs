//! Why GPUs could not be matched, as a value: a reason, and each comparison that was made.

mod diagnose;
mod table;

use std::fmt;

pub(super) use diagnose::refuse;

use super::pairwise;
use super::rules::{Rule, Rules};
use super::saved::GpuId;
use super::side::Side;
use crate::topology::HostGpuId;

/// Columns of a table where nobody says how wide it may be.
const COLUMNS: u16 = 100;

/// Ids that a text names before it counts the rest: a machine of eight GPUs is named in full.
const LISTED_MAX: usize = 8;

/// Why there is no match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// This host has more GPUs, or CPU nodes with links to GPUs, than the limits
    /// [`GPUS_MAX`](super::GPUS_MAX) and [`CPUS_MAX`](super::CPUS_MAX).
    TooManyHere {
        /// GPUs of this host.
        gpus: usize,
        /// CPU nodes of this host that have links to GPUs.
        cpus: usize,
    },
    /// The user's map names a GPU that the checkpoint does not have.
    UnknownSaved {
        /// Its id.
        id: GpuId,
    },
    /// The user's map names a GPU that this host does not have, or hides from this process.
    UnknownHere {
        /// Its id.
        id: HostGpuId,
    },
    /// This host has fewer GPUs than were saved.
    FewerHere {
        /// How many were saved.
        saved: usize,
        /// How many are here.
        here: usize,
    },
    /// Some saved GPUs fit fewer GPUs than they are, each looked at alone.
    NoPartner {
        /// These saved GPUs.
        saved: Vec<GpuId>,
        /// The GPUs here that fit any of them: fewer than they are.
        here: Vec<HostGpuId>,
    },
    /// Looked at alone, each saved GPU has a GPU here. But what is between GPUs (links, hives,
    /// NUMA) cannot be kept.
    Apart {
        /// Smallest sets of rules without which there is a match, if that could be found out.
        ways_out: Vec<Vec<Rule>>,
    },
    /// The search took too long to find a match or to rule one out. A map decides it.
    Undecided {
        /// Steps that it took.
        steps: u64,
    },
}

impl RefusalReason {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooManyHere { .. } => "gpu.too-many-here",
            Self::UnknownSaved { .. } => "gpu.unknown-saved",
            Self::UnknownHere { .. } => "gpu.unknown-here",
            Self::FewerHere { .. } => "gpu.fewer-here",
            Self::NoPartner { .. } => "gpu.no-partner",
            Self::Apart { .. } => "gpu.apart",
            Self::Undecided { .. } => "gpu.undecided",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::TooManyHere { .. } => Some("let the container have fewer GPUs"),
            Self::UnknownSaved { .. } => {
                Some("give --gpu-map ids of the checkpoint: thaw image x DIR gpu lists them")
            }
            Self::UnknownHere { .. } => {
                Some("give --gpu-map ids of this host: the files gpu_id in its topology")
            }
            Self::FewerHere { .. } => {
                Some("restore on a host with as many GPUs, or let the container have more")
            }
            Self::NoPartner { .. } => {
                Some("restore on GPUs of the same kind, or switch off rules (KFD_*_CHECK=0)")
            }
            Self::Apart { .. } => Some(
                "restore where GPUs are linked as they were, or switch off rules (KFD_*_CHECK=0)",
            ),
            Self::Undecided { .. } => Some("decide it with --gpu-map"),
        }
    }
}

/// What a row of a refusal is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A saved GPU as one of this host.
    Pair(GpuId, HostGpuId),
    /// A saved GPU with all that it is linked to.
    Gpu(GpuId),
    /// GPUs that belong together: a saved hive, or the GPUs of a CPU node.
    Group(Vec<GpuId>),
    /// All saved GPUs.
    All,
}

/// What became of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The rule does not hold.
    Fails,
    /// It holds.
    Holds,
    /// It does not hold, but was switched off.
    SwitchedOff,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalRow {
    /// What was compared.
    pub subject: Subject,
    /// By which rule.
    pub rule: Rule,
    /// What was saved, with its unit.
    pub saved: String,
    /// What is here, with its unit.
    pub here: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

/// Which comparisons to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Detail {
    /// Those that fail, of the GPUs that have no partner.
    #[default]
    Failing,
    /// Every rule for every saved GPU with every GPU of this host, too.
    Everything,
}

/// Why GPUs could not be matched. [`fmt::Display`] gives a summary and the table of what fails,
/// 100 columns wide.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub(super) reason: RefusalReason,
    pub(super) saved: Side,
    pub(super) here: Side,
    pub(super) rules: Rules,
    /// Saved GPUs and those here that did not do for them.
    pub(super) pairs: Vec<(usize, usize)>,
    /// Comparisons of what is between GPUs.
    pub(super) between: Vec<RefusalRow>,
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        self.reason.help()
    }

    /// Why there is no match.
    #[must_use]
    pub fn reason(&self) -> &RefusalReason {
        &self.reason
    }

    /// The rules that were to hold.
    #[must_use]
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Comparisons, pairs of GPUs first, in the order of the checkpoint, of this host, and of
    /// [`Rule::ALL`].
    #[must_use]
    pub fn rows(&self, detail: Detail) -> Vec<RefusalRow> {
        let mut rows = match detail {
            Detail::Failing => self.pairs.iter().flat_map(|&pair| self.pair_rows(pair)).collect(),
            Detail::Everything => {
                let here = self.here.gpus.len();
                let all = 0..self.saved.gpus.len() * here;
                all.flat_map(|at| self.pair_rows((at / here, at % here))).collect::<Vec<_>>()
            }
        };
        if detail == Detail::Failing {
            rows.retain(|row| row.verdict == Verdict::Fails);
        }
        rows.extend(self.between.iter().cloned());
        rows
    }

    /// The summary, and the comparisons as a table of at most `columns` columns (but no fewer than
    /// 80). Comparisons that differ in the GPUs only share a row.
    #[must_use]
    pub fn table(&self, detail: Detail, columns: u16) -> String {
        table::render(self, detail, columns)
    }

    fn pair_rows(&self, (saved, here): (usize, usize)) -> Vec<RefusalRow> {
        let (mine, its) = (&self.saved.gpus[saved], &self.here.gpus[here]);
        let subject = Subject::Pair(GpuId(mine.id), HostGpuId(its.id));
        let compare = |&rule: &Rule| {
            let value = |of| pairwise::shown(rule, pairwise::value(rule, of).unwrap_or_default());
            RefusalRow {
                subject: subject.clone(),
                rule,
                saved: value(&mine.properties),
                here: value(&its.properties),
                verdict: self
                    .verdict(rule, pairwise::holds(rule, &mine.properties, &its.properties)),
            }
        };
        let mut rows: Vec<RefusalRow> =
            Rule::ALL.iter().filter(|rule| rule.is_pairwise()).map(compare).collect();
        if let Some(worse) = pairwise::worse_cpu_link(&self.saved, &self.here, saved, here) {
            let best = self.here.cpu_ranks(here).max().unwrap_or_default();
            rows.push(RefusalRow {
                subject,
                rule: Rule::Links,
                saved: pairwise::shown_way("CPU", worse),
                here: pairwise::shown_way("CPU", best),
                verdict: self.verdict(Rule::Links, false),
            });
        }
        rows
    }

    fn verdict(&self, rule: Rule, holds: bool) -> Verdict {
        match (holds, self.rules.has(rule)) {
            (true, _) => Verdict::Holds,
            (false, true) => Verdict::Fails,
            (false, false) => Verdict::SwitchedOff,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.table(Detail::Failing, COLUMNS))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pair(saved, here) => write!(formatter, "{saved} -> {here}"),
            Self::Gpu(saved) => write!(formatter, "{saved}"),
            Self::Group(saved) => formatter.write_str(&list(saved)),
            Self::All => formatter.write_str("all saved GPUs"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fails => "fails",
            Self::Holds => "holds",
            Self::SwitchedOff => "off",
        })
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyHere { gpus, cpus } => write!(
                formatter,
                "this host has {gpus} GPUs and {cpus} CPU nodes with GPUs, limits {} and {}",
                super::GPUS_MAX,
                super::CPUS_MAX
            ),
            Self::UnknownSaved { id } => {
                write!(formatter, "the map names saved GPU {id}, which the checkpoint has not")
            }
            Self::UnknownHere { id } => write!(
                formatter,
                "the map names GPU {id}, which this host has not or hides from this process"
            ),
            Self::FewerHere { saved, here } => {
                write!(formatter, "{} saved, this host has {here}", gpus(*saved))
            }
            Self::NoPartner { saved, here } if here.is_empty() => {
                write!(formatter, "no GPU of this host will do for saved {}", named(saved))
            }
            Self::NoPartner { saved, here } => write!(
                formatter,
                "for saved {} no other GPUs of this host will do than {}",
                named(saved),
                list(here),
            ),
            Self::Apart { ways_out } => {
                formatter.write_str(
                    "the rules for each GPU alone allow a match, those for what is between GPUs \
                     do not",
                )?;
                for (index, rules) in ways_out.iter().enumerate() {
                    let start = if index == 0 { ": it would take" } else { " or" };
                    formatter.write_str(start)?;
                    for rule in rules {
                        write!(formatter, " {}=0", rule.variable())?;
                    }
                }
                Ok(())
            }
            Self::Undecided { steps } => write!(
                formatter,
                "no match was found or ruled out in {steps} steps; a map of saved GPUs to GPUs of \
                 this host decides it"
            ),
        }
    }
}

/// A number of GPUs.
fn gpus(count: usize) -> String {
    if count == 1 { "1 GPU".to_owned() } else { format!("{count} GPUs") }
}

/// GPUs by their ids.
fn named<T: fmt::Display>(ids: &[T]) -> String {
    format!("{} {}", if ids.len() == 1 { "GPU" } else { "GPUs" }, list(ids))
}

/// The first few, and how many more there are.
fn list<T: fmt::Display>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().take(LISTED_MAX).map(T::to_string).collect();
    let more = match items.len().saturating_sub(LISTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    texts.join(" ") + &more
}
