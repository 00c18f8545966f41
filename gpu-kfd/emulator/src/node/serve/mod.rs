//! Serving: threads, requests, the device behind its lock, and what it finds outside itself.

mod control;
mod descriptors;
mod engine;
mod files;
mod keeper;
mod late;
mod pump;
mod server;
mod watch;
mod world;

pub(crate) use control::Control;
pub(crate) use descriptors::Resolver;
pub(crate) use files::Files;
pub(crate) use keeper::{Plan, keep};
pub(crate) use watch::Watch;
