//! Everything that the fuzzer found worth keeping, once more: the model still holds.

use std::fs;
use std::path::Path;

#[test]
fn every_kept_script_runs_to_its_end() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/calls");
    let mut succeeded = 0;
    for file in fs::read_dir(corpus).expect("there is a corpus") {
        let input = fs::read(file.expect("a file").path()).expect("it can be read");
        succeeded += kfd_emulator::run_script(&input).succeeded;
    }
    assert!(succeeded > 100, "only {succeeded} calls succeeded: the corpus reaches nothing");
}
