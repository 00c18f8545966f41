//! Whether this host can take a checkpoint: everything that stands in the way, at once.
//!
//! Each section is looked at whatever the others have found, unless images are so damaged that
//! nothing can be said. It changes nothing.

use std::path::Path;

use criu_image::{Checkpoint, MANIFEST_NAME, verify};
use gpu_kfd::Detail;
use restore_core::{Host, Options, PlanError, Survey, examine_files};

use super::codes;
use super::facts::{Capability, Facts};
use super::finding::{Finding, Section, Weight};
use super::host::{Judged, Use, Verdict};
use super::{ids, memory, rights};
use crate::log::chain;

/// All that was found.
#[derive(Debug)]
pub(super) struct Checked {
    /// Processes, and the root's id; none if the images cannot be understood.
    pub(super) tree: Option<(usize, u32)>,
    pub(super) sections: Vec<Section>,
    pub(super) assumptions: Vec<String>,
    pub(super) needs: Needs,
}

/// What a restore would take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) memory_bytes: u64,
    pub(super) gpu_system_bytes: u64,
    pub(super) ids: Vec<i32>,
    /// Saved id, id here, bytes of its own memory.
    pub(super) gpus: Vec<(u32, u32, u64)>,
}

impl Checked {
    /// The weightiest of all findings.
    pub(super) fn weight(&self) -> Option<Weight> {
        self.sections.iter().filter_map(Section::weight).max()
    }

    /// How many findings stand in the way.
    pub(super) fn blocking(&self) -> usize {
        let findings = self.sections.iter().flat_map(|section| &section.findings);
        findings.filter(|finding| finding.weight > Weight::Note).count()
    }
}

/// Looks at everything.
pub(super) fn check(
    dir: &Path,
    options: &Options,
    columns: usize,
    (facts, judged): (&Facts, &Judged),
) -> Checked {
    let mut sections = vec![images(dir)];
    let checkpoint = match Checkpoint::open(dir) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            // What verify finds it finds too; if it has found nothing, this is what is wrong.
            if sections[0].weight().is_none_or(|weight| weight < Weight::Damage) {
                let finding = Finding::of_image(&error).with_weight(Weight::Damage);
                sections[0].findings.push(finding);
            }
            return Checked {
                tree: None,
                sections,
                assumptions: Vec::new(),
                needs: Needs::default(),
            };
        }
    };
    let (host, mut broken) = look(&checkpoint);
    let survey = Survey::of(&checkpoint, &host, options);
    sections.push(supported(&survey));
    let holders = ids::holders(survey.ids.keys());
    sections.push(ids::section(&survey.ids, &holders));
    sections.push(files(&checkpoint));
    let here = memory::Available::look();
    sections.extend([memory::section(&survey, &here), memory::descriptors(&survey, &here)]);
    if !checkpoint.gpu.is_empty() {
        sections.push(matched(&survey, columns));
        sections.extend(memory::gpus(&survey, facts));
    }
    broken.extend(survey.compare_vdso(&checkpoint, &host).err().map(|e| Finding::of_vdso(&e)));
    sections.push(this_host(&checkpoint, (facts, judged), broken));
    let gpus = survey.gpus.iter().map(|need| (need.saved.0, need.here.0, need.vram_bytes));
    let needs = Needs {
        memory_bytes: survey.memory_bytes,
        gpu_system_bytes: survey.gpu_system_bytes,
        ids: survey.ids.keys().copied().collect(),
        gpus: gpus.collect(),
    };
    let root = checkpoint.processes.first().map_or(0, |process| process.pid);
    let tree = Some((checkpoint.processes.len(), root));
    Checked { tree, sections, assumptions: survey.assumptions, needs }
}

/// The host as plans see it, and what of it cannot be read.
fn look(checkpoint: &Checkpoint) -> (Host, Vec<Finding>) {
    let mut broken = Vec::new();
    let empty = || Host { vdso: None, own_mappings: Vec::new(), huge_pages: false, gpus: None };
    let host = Host::probe().unwrap_or_else(|error| {
        broken.push(Finding::own(crate::codes::PROC, format!("cannot read /proc: {error}")));
        empty()
    });
    if checkpoint.gpu.is_empty() {
        return (host, broken);
    }
    match host.clone().with_gpus() {
        Ok(host) => (host, broken),
        Err(error) => {
            broken.push(Finding::own(codes::GPU_TOPOLOGY, chain(&error)));
            (host, broken)
        }
    }
}

fn images(dir: &Path) -> Section {
    let findings = match verify(dir) {
        Ok(found) => found.iter().map(Finding::of_image).collect(),
        Err(error) => vec![Finding::of_image(&error)],
    };
    let found = match dir.join(MANIFEST_NAME).exists() {
        true => "every byte is compared with the manifest",
        false => "compared with each other; there is no manifest of their contents",
    };
    Section::new("images", found, findings)
}

/// What plans find, but for GPUs.
fn supported(survey: &Survey) -> Section {
    let others = survey.findings.iter().filter(|error| !is_about_gpus(error));
    let findings: Vec<Finding> = others.flat_map(Finding::of_plan).collect();
    let found = match findings.len() {
        0 => "nothing that cannot be restored".to_owned(),
        count => format!("{count} thing(s) that cannot be restored"),
    };
    Section::new("supported", found, findings)
}

fn is_about_gpus(error: &PlanError) -> bool {
    matches!(error, PlanError::Gpus(_) | PlanError::NoGpus)
}

fn matched(survey: &Survey, columns: usize) -> Section {
    let errors = survey.findings.iter().filter(|error| is_about_gpus(error));
    let findings: Vec<Finding> = errors.clone().flat_map(Finding::of_plan).collect();
    let found = match findings.is_empty() {
        true => format!("{} have a match here", survey.gpus.len()),
        false => "there is no match".to_owned(),
    };
    let mut section = Section::new("GPUs", found, findings);
    let columns = columns.min(usize::from(u16::MAX)) as u16;
    section.table = errors
        .filter_map(|error| match error {
            PlanError::Gpus(refusal) => Some(refusal.table(Detail::Failing, columns)),
            _ => None,
        })
        .next();
    section
}

fn files(checkpoint: &Checkpoint) -> Section {
    let found = examine_files(checkpoint);
    let findings: Vec<Finding> =
        found.into_iter().map(|it| Finding::of_file(&it.error, it.pids)).collect();
    let said = match findings.len() {
        0 => "all are there, with the size and mode that they had".to_owned(),
        count => format!("{count} are not as they were"),
    };
    Section::new("files", said, findings)
}

/// What of the kernel and of our privileges the checkpoint needs.
fn this_host(
    checkpoint: &Checkpoint,
    (facts, judged): (&Facts, &Judged),
    mut findings: Vec<Finding>,
) -> Section {
    let wanted: &[Use] = match checkpoint.gpu.is_empty() {
        true => &[Use::Restore],
        false => &[Use::Restore, Use::Gpus],
    };
    let lacks = judged.items.iter().filter(|item| {
        item.verdict == Verdict::Missing
            && item.only.is_none()
            && item.uses.iter().any(|one| wanted.contains(one))
    });
    for item in lacks {
        let text = format!("{}: {}", item.what, item.found);
        let finding = Finding::own(item.code.unwrap_or(codes::KERNEL), text);
        findings.push(finding.with_help(item.help.clone().unwrap_or_default()));
    }
    let unknown = judged.items.iter().filter(|item| item.verdict == Verdict::Unknown);
    for item in unknown.filter(|item| item.uses.iter().any(|one| wanted.contains(one))) {
        let code = item.code.unwrap_or(codes::KERNEL);
        let text = format!("{}: {}", item.what, item.found);
        findings.push(Finding::own(code, text).with_weight(Weight::Note));
    }
    let own = rights::Own::look();
    for (capability, why) in rights::needed(checkpoint, &own) {
        if !facts.has(capability) {
            findings.push(lacking(capability, &why));
        }
    }
    let found = match findings.iter().any(|finding| finding.weight > Weight::Note) {
        false => "the kernel and the privileges that are needed are there",
        true => "something that is needed is missing",
    };
    Section::new("host", found, findings)
}

fn lacking(Capability(_, name): Capability, why: &str) -> Finding {
    let text = format!("{name} is not effective, which is needed for {why}");
    Finding::own(codes::PRIVILEGE, text).with_help(format!("run thaw as root, or give it {name}"))
}
