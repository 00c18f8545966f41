//! The program that libFuzzer drives: any bytes as a sequence of calls on the driver's model, which
//! neither panics nor loses a reference.
//!
//! `cargo xtask fuzz calls` builds it with coverage and runs it.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    kfd_emulator::run_script(input);
});
