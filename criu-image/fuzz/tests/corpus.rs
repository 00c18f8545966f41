//! Everything that the fuzzer found worth keeping, once more: each statement still holds.

use std::fs;
use std::path::Path;

use criu_image_fuzz::TARGETS;

#[test]
fn every_kept_input_passes() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, run) in TARGETS {
        let mut count = 0;
        for file in fs::read_dir(corpus.join(name)).expect("each target has a corpus") {
            let input = fs::read(file.expect("a file").path()).expect("it can be read");
            run(&input);
            count += 1;
        }
        assert!(count > 0, "{name} has no inputs");
    }
}
