//! The program that libFuzzer drives: one of the targets, by name, on one input after the other.
//!
//! `cargo xtask fuzz` builds it with coverage and runs it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

/// Names the target to run.
const TARGET: &str = "THAW_FUZZ_TARGET";

static RUN: LazyLock<criu_image_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var(TARGET).unwrap_or_default();
    let found = criu_image_fuzz::TARGETS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("{TARGET} names no target")).1
});

fuzz_target!(|input: &[u8]| RUN(input));
