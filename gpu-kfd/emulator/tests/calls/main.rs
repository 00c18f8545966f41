//! Calls of the driver, one after the other, on a model in a world of plain memory.

mod aql;
mod bench;
mod criu;
mod drm;
mod event_sequences;
mod events;
mod garbage;
mod memory;
mod queues;
mod reference;
mod rig;
mod sdma;
mod sequences;
mod svm;
