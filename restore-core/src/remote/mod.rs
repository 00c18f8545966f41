//! System calls carried out by the processes that are being restored.
//!
//! `stub` is what a target executes and the memory layout it expects; `region` maps that memory
//! on our side; `ring` queues calls and waits for them; `spawn` makes the first task and kills
//! what must not be left; `device` makes calls on a target's device files; `freeze` gives a task
//! its final registers and lets it go; `tracee` is a task of somebody else's tree that carries out
//! calls for us and then goes on as before.
//! Nothing here knows what a checkpoint is.

pub(crate) mod device;
pub(crate) mod freeze;
pub(crate) mod region;
pub(crate) mod ring;
pub(crate) mod spawn;
pub(crate) mod stub;
pub(crate) mod tracee;

#[cfg(test)]
mod tests;
