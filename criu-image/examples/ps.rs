//! Lists the processes of a checkpoint: `cargo run -p criu-image --example ps -- DIR...`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for dir in std::env::args_os().skip(1) {
        match criu_image::Checkpoint::open(&dir) {
            Ok(checkpoint) => {
                for process in &checkpoint.processes {
                    let memory = process.body.as_ref().map_or(0, |b| b.pages.total_bytes());
                    let comm = String::from_utf8_lossy(&process.task.comm);
                    println!(
                        "{:>7} {:>7} {:>9} KiB {comm}",
                        process.pid,
                        process.ppid,
                        memory >> 10
                    );
                }
            }
            Err(error) => {
                eprintln!("{}: {error}", dir.display());
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}
