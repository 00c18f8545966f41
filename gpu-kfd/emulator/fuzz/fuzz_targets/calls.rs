//! Any bytes as a sequence of calls on the driver's model: it neither panics nor loses a reference.
//!
//! `cargo fuzz run --fuzz-dir gpu-kfd/emulator/fuzz --sanitizer none calls` on a stable toolchain.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    kfd_emulator::run_script(bytes);
});
