//! Whole checkpoints: what good ones give, and that each cross-check refuses what it is there for.

#![allow(missing_docs)]

mod damage;
mod directory;
mod draft;
mod explore;
mod files;
mod memory;
mod tasks;
mod tree;
mod whole;
