//! Which GPU of this host each saved GPU becomes.
//!
//! A process keeps the GPU ids that it was started with; on a restore the driver is told which GPU
//! stands for each. The choice obeys [`Rules`]: each GPU must be one on which the saved state runs,
//! and what was between GPUs must still be there. There may be more GPUs here than were saved.
//!
//! - Rules for a GPU alone ([`Rule::is_pairwise`]): properties are equal, or no less here. And for
//!   each link to a CPU there must be one that is not worse.
//! - [`Rule::Links`]: where two saved GPUs had XGMI, the two here have it; where they had PCIe, the
//!   two have PCIe or XGMI. Both ways, if the saved link led both ways.
//! - [`Rule::Hive`]: GPUs of one hive become GPUs of one hive. Two saved hives may become one. GPUs
//!   belong to one hive if XGMI joins them or the driver says so (`hive_id`).
//! - [`Rule::Numa`]: there is a CPU node here for each saved one, no two the same, such that each
//!   GPU has the links to these nodes that it had, none worse.
//!
//! The search is complete: it finds a match whenever there is one, within a limit of steps that no
//! known machine comes near ([`RefusalReason::Undecided`] says when it was reached). The result
//! depends on nothing but the arguments, and changes as little as it can: see [`match_gpus`].
//!
//! It is pure: no file is read and no variable looked up here.

mod map;
mod pairwise;
mod pose;
mod prefer;
mod refusal;
mod rules;
mod saved;
mod side;
mod solver;
#[cfg(test)]
mod tests;

pub use map::{UserMap, UserMapError};
pub use refusal::{Detail, Refusal, RefusalReason, RefusalRow, Subject, Verdict};
pub use rules::{Comparison, Rule, Rules, SwitchError};
pub use saved::{
    CPUS_MAX, GPUS_MAX, GpuId, GpuProperties, SavedCpu, SavedGpu, SavedLink, SavedTopology,
    SavedTopologyError,
};
use side::Side;
use solver::{Budget, Exhausted};

use crate::topology::{HostGpuId, Topology};

/// Steps of a search. Known machines take fewer than a thousand. With 64 GPUs and random links all
/// of them take two seconds (measured, optimised build).
const STEPS_MAX: u64 = 200_000;

/// A GPU of this host for each saved GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuMatch {
    gpus: Vec<(GpuId, HostGpuId)>,
    cpus: Vec<(u32, u32)>,
}

impl GpuMatch {
    /// The GPU that a saved one becomes; `None` for an id that was not saved.
    #[must_use]
    pub fn host_of(&self, saved: GpuId) -> Option<HostGpuId> {
        self.gpus.iter().find(|(id, _)| *id == saved).map(|&(_, here)| here)
    }

    /// All pairs, in the order of the checkpoint.
    #[must_use]
    pub fn gpus(&self) -> &[(GpuId, HostGpuId)] {
        &self.gpus
    }

    /// Numbers of CPU nodes, saved and here: which stands for which. Empty if [`Rule::Numa`] is
    /// switched off.
    #[must_use]
    pub fn cpus(&self) -> &[(u32, u32)] {
        &self.cpus
    }

    /// Whether every GPU keeps its id.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.gpus.iter().all(|(saved, here)| saved.0 == here.0)
    }
}

/// Finds a GPU of this host for each saved GPU.
///
/// What `map` says is taken as given, and checked against the rules like any other choice: with
/// [`Rules::none`] any map is accepted. Saved GPUs that it leaves out are matched around it.
///
/// Of several matches the first GPU of the checkpoint keeps its id if it can in any of them, or
/// else its place in the order, or else takes the first GPU that it can; then the second, and so
/// on. A GPU whose id another saved GPU has is taken last.
///
/// # Errors
/// A [`Refusal`] says why there is none, as a value and as a table: too few GPUs, GPUs that do not
/// fit, hives or links or NUMA that cannot be kept, ids in `map` that do not exist.
///
/// # Example
/// ```
/// use gpu_kfd::{Rule, Rules, SavedTopology, Topology, UserMap, match_gpus};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Topology::read_without_caches(Topology::SYSFS)?;
/// let saved = SavedTopology::of_host(&host)?;
/// let rules = Rules::all().without(Rule::FwVersion);
/// match match_gpus(&saved, &host, rules, &UserMap::default()) {
///     Ok(found) => assert!(found.is_identity()),
///     Err(refusal) => eprintln!("{refusal}"),
/// }
/// # Ok(())
/// # }
/// ```
pub fn match_gpus(
    saved: &SavedTopology,
    host: &Topology,
    rules: Rules,
    map: &UserMap,
) -> Result<GpuMatch, Box<Refusal>> {
    let (saved, here) = (Side::saved(saved), Side::host(host));
    match_sides(&saved, &here, rules, map, &mut Budget(STEPS_MAX))
}

fn match_sides(
    saved: &Side,
    here: &Side,
    rules: Rules,
    map: &UserMap,
    budget: &mut Budget,
) -> Result<GpuMatch, Box<Refusal>> {
    let refuse = |reason| {
        let (saved, here) = (saved.clone(), here.clone());
        Box::new(Refusal { reason, saved, here, rules, pairs: Vec::new(), between: Vec::new() })
    };
    let (gpus, cpus) = (here.gpus.len(), here.cpus.len());
    if gpus > GPUS_MAX || cpus > CPUS_MAX {
        return Err(refuse(RefusalReason::TooManyHere { gpus, cpus }));
    }
    let chosen = chosen(saved, here, map).map_err(refuse)?;
    if saved.gpus.len() > gpus {
        return Err(refuse(RefusalReason::FewerHere { saved: saved.gpus.len(), here: gpus }));
    }
    let problem = pose::pose(saved, here, rules, &chosen);
    let limit = budget.0;
    match prefer::best(&problem, &prefer::order(saved, here), budget) {
        Ok(Some(values)) => Ok(as_match(saved, here, &values)),
        Ok(None) => Err(Box::new(refusal::refuse(saved, here, rules, &chosen))),
        Err(Exhausted) => Err(refuse(RefusalReason::Undecided { steps: limit })),
    }
}

/// For each saved GPU the one that the user chose.
fn chosen(saved: &Side, here: &Side, map: &UserMap) -> Result<Vec<Option<usize>>, RefusalReason> {
    let place = |side: &Side, id| side.gpus.iter().position(|gpu| gpu.id == id);
    let mut chosen = vec![None; saved.gpus.len()];
    for (from, to) in map.pairs() {
        let at = place(saved, from.0).ok_or(RefusalReason::UnknownSaved { id: from })?;
        let value = place(here, to.0).ok_or(RefusalReason::UnknownHere { id: to })?;
        chosen[at] = Some(value);
    }
    Ok(chosen)
}

fn as_match(saved: &Side, here: &Side, values: &[usize]) -> GpuMatch {
    let (gpus, cpus) = values.split_at(saved.gpus.len());
    let gpu = |(gpu, &value): (&side::Gpu, &usize)| (GpuId(gpu.id), HostGpuId(here.gpus[value].id));
    let cpu = |(&cpu, &value): (&u32, &usize)| (cpu, here.cpus[value - here.gpus.len()]);
    GpuMatch {
        gpus: saved.gpus.iter().zip(gpus).map(gpu).collect(),
        cpus: saved.cpus.iter().zip(cpus).map(cpu).collect(),
    }
}
