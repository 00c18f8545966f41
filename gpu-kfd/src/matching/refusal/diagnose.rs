//! Finds out why there is no match: what is missing to each saved GPU alone, or else what is
//! between GPUs that cannot be kept.

use super::{Refusal, RefusalReason, RefusalRow, Subject, Verdict};
use crate::matching::pose::pose;
use crate::matching::prefer;
use crate::matching::rules::{Rule, Rules};
use crate::matching::saved::GpuId;
use crate::matching::side::{Rank, Side};
use crate::matching::solver::{Bits, Budget, distinct, solve};
use crate::topology::HostGpuId;

/// Steps for each question that an explanation asks. It is not worth more.
const STEPS_MAX: u64 = 5_000;
/// Rules about what is between GPUs.
const BETWEEN: [Rule; 3] = [Rule::Links, Rule::Hive, Rule::Numa];

/// The refusal of a match that does not exist.
pub(in crate::matching) fn refuse(
    saved: &Side,
    here: &Side,
    rules: Rules,
    chosen: &[Option<usize>],
) -> Refusal {
    let problem = pose(saved, here, rules, chosen);
    let gpus = &problem.domains[..saved.gpus.len()];
    let refusal = |reason, pairs, between| Refusal {
        reason,
        saved: saved.clone(),
        here: here.clone(),
        rules,
        pairs,
        between,
    };
    if let Some((crowd, room)) = crowd(gpus) {
        let ids = |side: &Side, of: &Bits| of.iter().map(|gpu| side.gpus[gpu].id).collect();
        let (saved_ids, here_ids): (Vec<u32>, Vec<u32>) = (ids(saved, &crowd), ids(here, &room));
        let reason = RefusalReason::NoPartner {
            saved: saved_ids.into_iter().map(GpuId).collect(),
            here: here_ids.into_iter().map(HostGpuId).collect(),
        };
        let pairs = crowd.iter().flat_map(|gpu| {
            let others: Bits = match chosen[gpu] {
                Some(only) => Bits::single(only),
                None => (0..here.gpus.len()).collect(),
            };
            others.without(&gpus[gpu]).iter().map(move |other| (gpu, other))
        });
        return refusal(reason, pairs.collect(), Vec::new());
    }
    let ways_out = ways_out(saved, here, rules, chosen);
    let mut blamed: Vec<Rule> = ways_out.iter().flatten().copied().collect();
    if blamed.is_empty() {
        blamed = BETWEEN.into_iter().filter(|&rule| rules.has(rule)).collect();
    }
    blamed.sort();
    blamed.dedup();
    let context = Context { saved, here, domains: gpus };
    let between = blamed.iter().flat_map(|&rule| context.rows(rule)).collect();
    refusal(RefusalReason::Apart { ways_out }, Vec::new(), between)
}

/// Variables that together have fewer values than they are, with these values (Hall's condition
/// broken); `None` if all can have different values.
fn crowd(domains: &[Bits]) -> Option<(Bits, Bits)> {
    let mut partners = vec![None; domains.len()];
    if distinct(domains, &mut partners) {
        return None;
    }
    let mut crowd: Bits =
        (0..domains.len()).filter(|&variable| partners[variable].is_none()).collect();
    let mut room = Bits::default();
    let mut waiting: Vec<usize> = crowd.iter().collect();
    while let Some(variable) = waiting.pop() {
        for value in domains[variable].without(&room).iter() {
            room.insert(value);
            // Each such value is taken, or the matching were not the largest.
            let holder = partners.iter().position(|&partner| partner == Some(value));
            if let Some(holder) = holder.filter(|&holder| !crowd.has(holder)) {
                crowd.insert(holder);
                waiting.push(holder);
            }
        }
    }
    Some((crowd, room))
}

/// Smallest sets of rules between GPUs without which there is a match.
fn ways_out(saved: &Side, here: &Side, rules: Rules, chosen: &[Option<usize>]) -> Vec<Vec<Rule>> {
    let order = prefer::order(saved, here);
    let on: Vec<Rule> = BETWEEN.into_iter().filter(|&rule| rules.has(rule)).collect();
    let sets = |size: u32| {
        let on = &on;
        let masks = (0_u32..1 << on.len()).filter(move |mask| mask.count_ones() == size);
        masks.map(move |mask| {
            let picked = on.iter().enumerate().filter(|(place, _)| mask >> place & 1 == 1);
            picked.map(|(_, &rule)| rule).collect::<Vec<Rule>>()
        })
    };
    let helps = |set: &Vec<Rule>| {
        let fewer = set.iter().fold(rules, |rules, &rule| rules.without(rule));
        let mut problem = pose(saved, here, fewer, chosen);
        problem.narrow();
        matches!(solve(&problem, &order, &mut Budget(STEPS_MAX)), Ok(Some(_)))
    };
    (1..=on.len() as u32)
        .map(|size| sets(size).filter(helps).collect::<Vec<_>>())
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// What rows are made of.
struct Context<'a> {
    saved: &'a Side,
    here: &'a Side,
    /// Which GPUs do for each saved one alone.
    domains: &'a [Bits],
}

impl Context<'_> {
    /// Rows that say where a rule cannot hold; one for all GPUs if it can hold for any part alone.
    fn rows(&self, rule: Rule) -> Vec<RefusalRow> {
        let rows = match rule {
            Rule::Hive => self.hive_rows(),
            Rule::Numa => self.numa_rows(),
            _ => self.link_rows(),
        };
        if rows.is_empty() { vec![self.whole_row(rule)] } else { rows }
    }

    fn row(&self, subject: Subject, rule: Rule, saved: String, here: String) -> RefusalRow {
        RefusalRow { subject, rule, saved, here, verdict: Verdict::Fails }
    }

    /// How many of some saved GPUs can be among some GPUs here at once.
    fn room(&self, gpus: &[usize], among: &Bits) -> usize {
        let domains: Vec<Bits> =
            gpus.iter().map(|&gpu| self.domains[gpu].intersection(among)).collect();
        let mut partners = vec![None; domains.len()];
        distinct(&domains, &mut partners);
        partners.iter().flatten().count()
    }

    fn ids(&self, gpus: &[usize]) -> Subject {
        Subject::Group(gpus.iter().map(|&gpu| GpuId(self.saved.gpus[gpu].id)).collect())
    }

    /// GPUs of this host by hive, those without one alone.
    fn hives_here(&self) -> Vec<Bits> {
        let hives: Bits = self.here.hives.iter().copied().collect();
        let members = |hive| {
            let gpus = 0..self.here.gpus.len();
            gpus.filter(|&gpu| self.here.hives[gpu] == hive).collect()
        };
        hives.iter().map(members).collect()
    }

    fn hive_rows(&self) -> Vec<RefusalRow> {
        let hives = self.hives_here();
        let row = |members: Vec<usize>| {
            let best = hives.iter().map(|hive| self.room(&members, hive)).max().unwrap_or(0);
            let (saved, here) =
                (format!("{} in one hive", members.len()), format!("room for {best} in one"));
            let row = || self.row(self.ids(&members), Rule::Hive, saved, here);
            (best < members.len()).then(row)
        };
        self.saved.hive_members().into_iter().filter_map(row).collect()
    }

    /// GPUs with a link to a CPU.
    fn at_cpu(side: &Side, cpu: usize) -> Vec<usize> {
        let point = side.gpus.len() + cpu;
        (0..side.gpus.len()).filter(|&gpu| side.rank(gpu, point) > Rank::None).collect()
    }

    fn numa_rows(&self) -> Vec<RefusalRow> {
        let here: Vec<Bits> = (0..self.here.cpus.len())
            .map(|cpu| Self::at_cpu(self.here, cpu).into_iter().collect())
            .collect();
        let row = |cpu: usize| {
            let gpus = Self::at_cpu(self.saved, cpu);
            let best = here.iter().map(|at| self.room(&gpus, at)).max().unwrap_or(0);
            let saved = format!("{} at node {}", gpus.len(), self.saved.cpus[cpu]);
            let here = format!("room for {best} at one");
            let row = || self.row(self.ids(&gpus), Rule::Numa, saved, here);
            (best < gpus.len()).then(row)
        };
        (0..self.saved.cpus.len()).filter_map(row).collect()
    }

    /// Links of a saved GPU to others; whether some GPU here has as many that are not worse.
    fn link_rows(&self) -> Vec<RefusalRow> {
        let row = |gpu: usize| {
            let others = 0..self.saved.gpus.len();
            let peers: Vec<(usize, Rank, Rank)> = others
                .map(|other| (other, self.saved.rank(gpu, other), self.saved.rank(other, gpu)))
                .filter(|&(_, out, back)| out.max(back) > Rank::None)
                .collect();
            let kept = |value: usize| {
                let domain = |&(other, out, back): &(usize, Rank, Rank)| {
                    let meets = |&peer: &usize| {
                        self.here.rank(value, peer) >= out && self.here.rank(peer, value) >= back
                    };
                    self.domains[other].iter().filter(|peer| *peer != value).filter(meets).collect()
                };
                let domains: Vec<Bits> = peers.iter().map(domain).collect();
                let mut partners = vec![None; domains.len()];
                distinct(&domains, &mut partners);
                partners.iter().flatten().count()
            };
            let best = self.domains[gpu].iter().map(kept).max().unwrap_or(0);
            let saved = format!("{} to saved GPUs", peers.len());
            let here = format!("at most {best} as good");
            let row = || {
                let subject = Subject::Gpu(GpuId(self.saved.gpus[gpu].id));
                self.row(subject, Rule::Links, saved, here)
            };
            (best < peers.len()).then(row)
        };
        (0..self.saved.gpus.len()).filter_map(row).collect()
    }

    /// Each part would find its place, all together do not.
    fn whole_row(&self, rule: Rule) -> RefusalRow {
        let sizes = |groups: Vec<usize>| {
            let mut groups: Vec<usize> = groups.into_iter().filter(|&size| size > 0).collect();
            groups.sort_unstable_by(|a, b| b.cmp(a));
            let texts: Vec<String> = groups.iter().map(usize::to_string).collect();
            texts.join(" + ")
        };
        let hives = |side: &Side| {
            let sizes = sizes(side.hive_members().iter().map(Vec::len).collect());
            if sizes.is_empty() { "no hive".to_owned() } else { format!("hives of {sizes}") }
        };
        let cpus = |side: &Side| {
            let at = |cpu| Self::at_cpu(side, cpu).len();
            format!("nodes with {}", sizes((0..side.cpus.len()).map(at).collect()))
        };
        let links = |side: &Side| {
            let gpus = side.gpus.len();
            let pairs = (0..gpus).flat_map(|a| (0..a).map(move |b| (a, b)));
            let of = |rank| {
                let best = |&(a, b): &(usize, usize)| side.rank(a, b).max(side.rank(b, a)) == rank;
                pairs.clone().filter(best).count()
            };
            format!("{} XGMI, {} PCIe", of(Rank::Xgmi), of(Rank::PciExpress))
        };
        let (saved, here) = match rule {
            Rule::Hive => (hives(self.saved), hives(self.here)),
            Rule::Numa => (cpus(self.saved), cpus(self.here)),
            _ => (links(self.saved), links(self.here)),
        };
        self.row(Subject::All, rule, saved, here)
    }
}
