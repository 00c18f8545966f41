//! Jobs: packets that a program handed to the driver through a render node, and how far they are.
//!
//! The driver's own rings stand behind them. Each row of jobs is carried out in order; rows take
//! turns, so one that waits does not hold up another.

use std::collections::{BTreeMap, VecDeque};

use nix::errno::Errno;

use super::position::Position;
use crate::model::world::{BufferId, FileId};

/// Most jobs of one row that wait: the driver lets a caller sleep after 32
/// (`amdgpu_sched_jobs`), here it is refused, later.
const JOBS_MAX: usize = 1024;

/// Packets in GPU memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndirectBuffer {
    pub(crate) va: u64,
    /// A multiple of 4.
    pub(crate) len_bytes: u64,
}

/// One submission (`DRM_IOCTL_AMDGPU_CS`) to an SDMA engine.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The open render node that it came through: its address space is the job's.
    pub(crate) file: FileId,
    /// The row of that file: a ring of a context. Its number never stands for another.
    pub(crate) context: u32,
    /// Number of the job in its row; grows.
    pub(crate) sequence: u64,
    /// Carried out one after the other.
    pub(crate) buffers: Vec<IndirectBuffer>,
    /// Where the sequence number is written at the end (chunk `FENCE`): buffer and offset.
    pub(crate) user_fence: Option<(BufferId, u64)>,
    /// Jobs of the same file, by row and sequence number, that must have ended before.
    pub(crate) after: Vec<(u32, u64)>,
}

/// The jobs of one row, and what became of those before.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    pub(super) jobs: VecDeque<Job>,
    /// Where the first job is: which of its buffers, and how far in it.
    pub(super) buffer: usize,
    pub(super) position: Position,
    completed: u64,
    /// Sequence of the first job that could not be carried out.
    failed: Option<u64>,
    /// Nobody will add to it or ask about it.
    forgotten: bool,
}

impl Row {
    fn finish(&mut self, good: bool) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.buffer = 0;
        self.position = Position::default();
        self.completed = job.sequence;
        if !good {
            self.failed = self.failed.or(Some(job.sequence));
        }
        Some(job)
    }
}

/// The jobs of all rows of all open render nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Jobs {
    pub(super) rows: BTreeMap<(FileId, u32), Row>,
}

impl Jobs {
    pub(super) fn submit(&mut self, job: Job) -> Result<(), Errno> {
        let row = self.rows.entry((job.file, job.context)).or_default();
        if row.failed.is_some() {
            return Err(Errno::ECANCELED);
        }
        if row.jobs.len() >= JOBS_MAX {
            return Err(Errno::ENOMEM);
        }
        row.jobs.push_back(job);
        Ok(())
    }

    pub(super) fn error_of(&self, file: FileId, context: u32, sequence: u64) -> Option<Errno> {
        let failed = self.rows.get(&(file, context))?.failed?;
        (failed == sequence).then_some(Errno::ETIME)
    }

    /// Whether a job that was taken has ended. A row that is not there had its last one.
    pub(super) fn is_over(&self, file: FileId, context: u32, sequence: u64) -> bool {
        self.rows.get(&(file, context)).is_none_or(|row| row.completed >= sequence)
    }

    /// Whether all that the first job of a row must come after has ended.
    pub(super) fn is_ready(&self, file: FileId, context: u32) -> bool {
        let first = self.rows.get(&(file, context)).and_then(|row| row.jobs.front());
        first.is_some_and(|job| {
            job.after.iter().all(|(context, sequence)| self.is_over(file, *context, *sequence))
        })
    }

    /// Ends the first job of a row. A forgotten row goes with its last job.
    pub(super) fn finish(&mut self, file: FileId, context: u32, good: bool) -> Option<Job> {
        let row = self.rows.get_mut(&(file, context))?;
        let job = row.finish(good)?;
        if row.forgotten && row.jobs.is_empty() {
            self.rows.remove(&(file, context));
        }
        Some(job)
    }

    pub(super) fn forget_row(&mut self, file: FileId, context: u32) {
        let Some(row) = self.rows.get_mut(&(file, context)) else { return };
        row.forgotten = true;
        if row.jobs.is_empty() {
            self.rows.remove(&(file, context));
        }
    }

    pub(super) fn forget_file(&mut self, file: FileId) {
        self.rows.retain(|(owner, _), _| *owner != file);
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{Job, Jobs};
    use crate::model::world::FileId;

    fn job(sequence: u64) -> Job {
        let (buffers, after) = (Vec::new(), Vec::new());
        Job { file: FileId(1), context: 2, sequence, buffers, user_fence: None, after }
    }

    #[test]
    fn context_with_a_failed_job_takes_no_more() {
        let mut jobs = Jobs::default();
        assert_eq!(jobs.submit(job(1)), Ok(()));
        assert!(jobs.finish(FileId(1), 2, false).is_some());
        assert!(jobs.is_over(FileId(1), 2, 1) && !jobs.is_over(FileId(1), 2, 2));
        assert_eq!(jobs.error_of(FileId(1), 2, 1), Some(Errno::ETIME));
        assert_eq!(jobs.submit(job(2)), Err(Errno::ECANCELED));
        jobs.forget_file(FileId(1));
        assert_eq!(jobs.submit(job(3)), Ok(()));
    }

    #[test]
    fn job_waits_for_what_it_comes_after() {
        let mut jobs = Jobs::default();
        assert_eq!(jobs.submit(Job { context: 1, ..job(1) }), Ok(()));
        assert_eq!(jobs.submit(Job { after: vec![(1, 1)], ..job(1) }), Ok(()));
        assert!(jobs.is_ready(FileId(1), 1) && !jobs.is_ready(FileId(1), 2));
        assert!(jobs.finish(FileId(1), 1, false).is_some());
        assert!(jobs.is_ready(FileId(1), 2) && !jobs.is_ready(FileId(1), 1));
    }

    #[test]
    fn forgotten_row_goes_with_its_last_job() {
        let mut jobs = Jobs::default();
        assert_eq!(jobs.submit(job(1)), Ok(()));
        jobs.forget_row(FileId(1), 2);
        assert!(!jobs.is_over(FileId(1), 2, 1));
        assert!(jobs.finish(FileId(1), 2, true).is_some());
        assert!(jobs.is_over(FileId(1), 2, 1) && jobs.rows.is_empty());
        assert_eq!(jobs.submit(Job { context: 3, after: vec![(2, 1)], ..job(1) }), Ok(()));
        assert!(jobs.is_ready(FileId(1), 3));
    }

    #[test]
    fn row_of_jobs_has_an_end() {
        let mut jobs = Jobs::default();
        let taken = (1..).take_while(|sequence| jobs.submit(job(*sequence)).is_ok()).count();
        assert_eq!(taken, super::JOBS_MAX);
        assert_eq!(jobs.submit(job(9999)), Err(Errno::ENOMEM));
    }
}
