//! `thaw check`: whether this host can dump and restore, or take a checkpoint, and what stands in
//! the way. It changes nothing.

mod codes;
mod facts;
mod finding;
mod host;
mod host_text;
mod ids;
mod images;
mod images_text;
mod look;
mod memory;
mod rights;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::options::restore::Planning;
use crate::options::wrong_switch;
use crate::screen::Screen;
use crate::{BAD_IMAGES, UNFIT_HOST};
use finding::Weight;
use host::{Judged, Use};

/// Say what this host can do, or whether it can take a checkpoint
///
/// Without -D, each thing that dumps, restores, GPUs and thaw node need of the kernel and of the
/// caller's privileges is tried: whether it is there, and if not, how to get it. With -D,
/// everything that stands in the way of a restore is told at once: damage, what is not supported,
/// ids that are taken, files, memory, GPUs. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 dumps and restores work here, or the checkpoint can be taken; \
                        1 failed; 2 usage; 3 the images are damaged; 4 this host cannot. \
                        Without -D, GPUs that are not there are no failure."
)]
pub(crate) struct Options {
    /// Directory of the images of a checkpoint
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    planning: Planning,
}

/// Does it, and returns the exit code.
///
/// # Errors
/// What is wrong with the command line and is found only now.
pub(crate) fn run(options: &Options, screen: Screen) -> Result<u8, clap::Error> {
    let planning = options.planning.options().map_err(wrong_switch)?;
    let facts = look::facts();
    let judged = host::judge(&facts);
    let (text, code) = match &options.images_dir {
        None => of_host(&facts, &judged, options.json, screen.width),
        Some(dir) => {
            let checked = images::check(dir, &planning, screen.width, (&facts, &judged));
            of_images(dir, &checked, options.json, screen.width)
        }
    };
    Ok(print(screen, &text).map_or_else(|failed| failed, |()| code))
}

fn of_host(facts: &facts::Facts, judged: &Judged, as_json: bool, width: usize) -> (String, u8) {
    let text = match as_json {
        true => host_json(facts, judged),
        false => host_text::render(facts, judged, width),
    };
    let works = judged.works(Use::Dump) && judged.works(Use::Restore);
    (text, if works { 0 } else { UNFIT_HOST })
}

fn of_images(dir: &Path, checked: &images::Checked, as_json: bool, width: usize) -> (String, u8) {
    let text = match as_json {
        true => images_text::json_text(dir, checked),
        false => images_text::render(dir, checked, width),
    };
    let code = match checked.weight() {
        None | Some(Weight::Note) => 0,
        Some(Weight::Blocks) => UNFIT_HOST,
        Some(Weight::Damage) => BAD_IMAGES,
    };
    (text, code)
}

fn print(screen: Screen, text: &str) -> Result<(), u8> {
    let mut out = screen.out();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| screen.unwritten("check", &error))
}

fn host_json(facts: &facts::Facts, judged: &Judged) -> String {
    let items: Vec<_> = judged.items.iter().map(item_json).collect();
    let works: serde_json::Map<String, serde_json::Value> =
        Use::ALL.iter().map(|&one| (one.name().to_owned(), judged.works(one).into())).collect();
    let gpus: Vec<_> = facts.gpus.iter().flatten().map(gpu_json).collect();
    let (kernel, items) = (json!(facts.release), json!(items));
    let (works, gpus) = (json!(works), json!(gpus));
    format!(
        "{{\"format\":\"thaw check\",\"version\":1,\"kernel\":{kernel},\"works\":{works},\
         \"items\":{items},\"gpus\":{gpus}}}\n"
    )
}

fn item_json(item: &host::Item) -> serde_json::Value {
    let uses: Vec<&str> = item.uses.iter().map(|one| one.name()).collect();
    json!({
        "what": item.what,
        "verdict": item.verdict.text(),
        "found": item.found,
        "needed_for": uses,
        "only_for": item.only,
        "code": item.code.map(|code| code.code),
        "meaning": item.code.map(|code| code.meaning),
        "help": item.help,
    })
}

fn gpu_json(gpu: &facts::Gpu) -> serde_json::Value {
    json!({
        "id": gpu.id,
        "model": gpu.model,
        "pci": gpu.pci,
        "render_minor": gpu.minor,
        "opens": gpu.render == facts::Device::Opens,
        "vram_bytes": gpu.vram_bytes,
        "free_bytes": gpu.free_bytes,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::facts::example;
    use super::{host, host_json};

    #[test]
    fn json_says_what_works_and_what_is_there() {
        let mut facts = example::host();
        facts.probes.scan_pages = Err(nix::errno::Errno::ENOTTY);
        let text = host_json(&facts, &host::judge(&facts));
        assert!(text.starts_with("{\"format\":\"thaw check\",\"version\":1,"), "{text}");
        let value: Value = serde_json::from_str(&text).expect("one object");
        assert_eq!(
            (&value["works"]["dump"], &value["works"]["restore"]),
            (&false.into(), &true.into())
        );
        let items = value["items"].as_array().expect("a list");
        let missing: Vec<&Value> =
            items.iter().filter(|item| item["verdict"] == "missing").collect();
        assert_eq!(missing.len(), 1, "{text}");
        assert_eq!(missing[0]["code"], "host.kernel");
        assert_eq!(missing[0]["needed_for"], serde_json::json!(["dump"]));
        assert_eq!(value["gpus"][0]["free_bytes"], 60_u64 << 30);
    }
}
