//! What the owner of a node and its serving threads share: whether it ends, and why.
//!
//! No descriptor is here: owner and serving threads have different tables of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crossbeam::sync::Unparker;

/// State of a node that runs or ends.
#[derive(Debug)]
pub(crate) struct Control {
    stopping: AtomicBool,
    failure: Mutex<Option<String>>,
    /// The thread that ends the node; see `pump`.
    pump: Unparker,
}

impl Control {
    pub(crate) fn new(pump: Unparker) -> Self {
        Self { stopping: AtomicBool::new(false), failure: Mutex::new(None), pump }
    }

    /// Asks the node to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.pump.unpark();
    }

    /// Ends the node because it cannot go on; the first reason stays.
    pub(crate) fn fail(&self, reason: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(reason);
        drop(failure);
        self.stop();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Why the node could not go on.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes the thread that runs the queues.
    pub(crate) fn wake_pump(&self) {
        self.pump.unpark();
    }
}
