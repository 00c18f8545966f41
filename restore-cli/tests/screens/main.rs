//! What an operator sees: every command with every option, as it is printed, in snapshots.
//!
//! A snapshot is a file in `snapshots`: command lines, each with its exit status and what it
//! printed. Where that changes on purpose, `INSTA_UPDATE=always cargo test --test screens` writes
//! them anew, and the change is reviewed as any other. Nothing is written otherwise.

#[path = "../support/mod.rs"]
mod support;

mod check_show;
mod config;
mod coverage;
mod criu;
mod dump;
mod generate;
mod gpu;
mod help;
mod image;
mod json;
mod node;
mod progress;
mod redact;
mod restore;
mod scene;
mod trace;
mod usage;
