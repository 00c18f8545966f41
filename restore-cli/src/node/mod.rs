//! `thaw node`: GPUs that are not there, for a command that needs some.

mod options;
mod run;

use gpu_kfd::{KFD_PATH, Local};
use kfd_emulator::{FaultRule, Product};
use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
Usage: thaw node run [options] [--] COMMAND [ARGUMENT ...]
       thaw node list-models [--json]
       thaw node fault [RULE ...]   inside a node: other rules, and counts anew

Runs COMMAND on an emulated node: /dev/kfd, render nodes and their sysfs, in a mount and pid
namespace of its own. Nothing is left when it ends. Exits with COMMAND's status.

      --model NAME         which product (default: gfx90a)
      --gpus N             how many GPUs (default: 1)
      --vram SIZE[,...]    device memory, for all GPUs or for each (K, M, G)
      --visible-vram SIZE[,...]  the part of it that the host can map
      --gpu-ids ID[,...]   identifiers of the GPUs
      --minors N[,...]     minors of the render nodes
      --firmware N[,...], --sdma-firmware N[,...]  versions of the firmware
      --cpu-nodes N        NUMA nodes of the machine
      --remove-gpu I[,...] GPUs, from 0, that are missing
      --seed N             which machine of its kind, and where faults with a chance fall
      --fault RULE         CALL[@WHICH]=ACTION, such as ALLOC_MEMORY_OF_GPU@2=ENOMEM,
                           CRIU_RESTORE=EINVAL, GEM_VA@10..=5ms, *@1%=EINTR; may be repeated
      --log FILE           a JSON line for each call
      --no-preload         do not make device files look like character devices to programs";

/// `thaw node ...`; returns the exit code.
pub(crate) fn run(mut parser: lexopt::Parser) -> Result<u8, lexopt::Error> {
    match parser.next()? {
        Some(Value(command)) if command == "run" => Ok(run::run(options::parse(parser)?)),
        Some(Value(command)) if command == "list-models" => list_models(parser),
        Some(Value(command)) if command == "fault" => fault(parser),
        Some(Short('h') | Long("help")) => {
            println!("{HELP}");
            Ok(0)
        }
        Some(arg) => Err(arg.unexpected()),
        None => Err("node what? (run, list-models, fault)".into()),
    }
}

fn fault(mut parser: lexopt::Parser) -> Result<u8, lexopt::Error> {
    let mut rules: Vec<String> = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(rule) => {
                let rule = rule.string()?;
                rule.parse::<FaultRule>().map_err(|error| error.to_string())?;
                rules.push(rule);
            }
            other => return Err(other.unexpected()),
        }
    }
    let set = Local::open(KFD_PATH)
        .and_then(|mut kfd| gpu_kfd::emulated::set_faults(&mut kfd, &rules.join(" ")));
    match set {
        Ok(hits) => {
            println!("{hits}");
            Ok(0)
        }
        Err(error) => {
            eprintln!("thaw: {error}");
            Ok(crate::FAILED)
        }
    }
}

fn list_models(mut parser: lexopt::Parser) -> Result<u8, lexopt::Error> {
    let mut as_json = false;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("json") => as_json = true,
            other => return Err(other.unexpected()),
        }
    }
    let models: Vec<_> = Product::all().iter().map(|product| product.summary()).collect();
    if as_json {
        println!("{}", serde_json::to_string_pretty(&models).expect("plain data"));
        return Ok(0);
    }
    println!("{:<15} {:<20} {:>4} {:>10}  description", "model", "product", "GPUs", "memory");
    for model in models {
        let gpus = format!("{}-{}", model.gpus_min, model.gpus_max);
        let memory = format!("{} MiB", model.vram_bytes >> 20);
        let (name, product, text) = (model.name, model.product, model.description);
        println!("{name:<15} {product:<20} {gpus:>4} {memory:>10}  {text}");
    }
    Ok(0)
}
