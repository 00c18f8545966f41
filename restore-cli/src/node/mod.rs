//! `thaw node`: GPUs that are not there, for a command that needs some.

mod options;
mod run;

use std::io::Write;

use gpu_kfd::{KFD_PATH, Local};
use kfd_emulator::{FaultRule, Product};

use crate::screen::{Screen, wrap};

/// Columns below which a table of models is none: a description has no room beside the rest.
const TABLE_WIDTH_MIN: usize = 80;

/// Give a command GPUs that are not there
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(Box<options::Run>),
    /// The models that there are
    ListModels {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Inside a node: other rules for faults, and counts of calls that begin anew
    Fault {
        /// As for thaw node run --fault; none ends all faults
        #[arg(value_name = "RULE", value_parser = rule)]
        rules: Vec<String>,
    },
}

/// Does it, and returns the exit code.
pub(crate) fn run(options: Options, screen: Screen) -> Result<u8, clap::Error> {
    match options.command {
        Command::Run(run) => {
            let node = run.configure().map_err(|text| {
                // Which option, and what it takes, is in the text.
                crate::options::wrong(crate::codes::VALUE, text)
            })?;
            Ok(run::run(&run, node))
        }
        Command::ListModels { json } => Ok(list_models(json, screen)),
        Command::Fault { rules } => Ok(fault(&rules)),
    }
}

/// A rule that is right, as it was written: the node reads it again.
fn rule(text: &str) -> Result<String, String> {
    text.parse::<FaultRule>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn fault(rules: &[String]) -> u8 {
    let set = Local::open(KFD_PATH)
        .and_then(|mut kfd| gpu_kfd::emulated::set_faults(&mut kfd, &rules.join(" ")));
    match set {
        Ok(hits) => {
            println!("{hits}");
            0
        }
        Err(error) => {
            eprintln!("thaw: {error}");
            crate::FAILED
        }
    }
}

fn list_models(json: bool, screen: Screen) -> u8 {
    let models: Vec<_> = Product::all().iter().map(|product| product.summary()).collect();
    if json {
        let list = serde_json::json!({
            "format": "thaw node list-models", "version": 1, "models": models,
        });
        println!("{}", serde_json::to_string_pretty(&list).expect("plain data"));
        return 0;
    }
    let mut out = screen.out();
    if screen.width >= TABLE_WIDTH_MIN {
        let title = format!(
            "{:<15} {:<20} {:>4} {:>10}  description",
            "model", "product", "GPUs", "memory"
        );
        let _ = writeln!(out, "{title}"); // what follows tells of a failure
    }
    let printed = models.iter().try_for_each(|model| {
        let gpus = format!("{}-{}", model.gpus_min, model.gpus_max);
        let memory = format!("{} MiB", model.vram_bytes >> 20);
        let (name, product, text) = (model.name, model.product, model.description);
        match screen.width < TABLE_WIDTH_MIN {
            true => {
                let lead = |text: &str| wrap("  ", text, screen.width);
                let short = lead(&format!("{product}, {gpus} GPUs, {memory} each"));
                write!(out, "{name}\n{short}{}", lead(text))
            }
            false => {
                let lead = format!("{name:<15} {product:<20} {gpus:>4} {memory:>10}  ");
                write!(out, "{}", wrap(&lead, text, screen.width))
            }
        }
    });
    u8::from(printed.is_err()) * crate::FAILED
}
