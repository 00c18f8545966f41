//! Whole checkpoints: what good ones give, and that each cross-check refuses what it is there for.

#![allow(missing_docs)]

mod damage;
mod diff;
mod directory;
mod draft;
mod explore;
mod files;
mod manifest;
mod memory;
mod pages;
mod tasks;
mod tree;
mod verify;
mod whole;
