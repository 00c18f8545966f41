//! `decode`, `show`, `encode`, `info`: one image or one JSON document, from end to end.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use criu_image::{
    ImageCount, ImageError, ImageKind, ImageReader, JsonError, JsonOptions, count_entries,
    decode_json, encode_json,
};

use super::{FAILED, Failure};
use crate::output::Output;

/// What `decode` and `show` were asked for.
#[derive(Debug, Default)]
pub(super) struct Decode {
    pub(super) input: Option<PathBuf>,
    pub(super) output: Option<PathBuf>,
    pub(super) readable: bool,
    pub(super) payloads: bool,
    /// Name of a file that standard input stands for.
    pub(super) name: Option<String>,
}

/// Name of standard input, for messages.
const STDIN: &str = "standard input";

pub(super) fn decode(decode: &Decode) -> Result<(), Failure> {
    let fail = |error| failure(JsonError::Image(error));
    match &decode.input {
        Some(path) => export(&mut ImageReader::open_any(path).map_err(fail)?, decode),
        None => {
            let name = decode.name.as_deref().unwrap_or(STDIN);
            export(&mut ImageReader::new(io::stdin().lock(), name).map_err(fail)?, decode)
        }
    }
}

fn export<R: Read>(image: &mut ImageReader<R>, decode: &Decode) -> Result<(), Failure> {
    let output = decode.output.as_deref();
    let mut out = Output::open(output).map_err(|error| failure(JsonError::Output(error)))?;
    let options = JsonOptions {
        readable: decode.readable,
        payloads: decode.payloads,
        line_break: out.is_stdout(),
    };
    decode_json(image, &mut out, options).map_err(failure)?;
    out.finish().map_err(|error| failure(JsonError::Output(error)))
}

pub(super) fn encode(input: Option<&Path>, output: Option<&Path>) -> Result<(), Failure> {
    let json: Box<dyn Read> = match input {
        Some(path) => Box::new(File::open(path).map_err(|error| failure(JsonError::Input(error)))?),
        None => Box::new(io::stdin().lock()),
    };
    let mut out = Output::open(output).map_err(|error| failure(JsonError::Output(error)))?;
    encode_json(json, &mut out).map_err(|error| match error {
        // The library does not know what the JSON is called.
        JsonError::Syntax { .. } | JsonError::Value { .. } | JsonError::Entry { .. } => {
            let name = input.map_or(STDIN.into(), Path::to_string_lossy);
            Failure { code: FAILED, text: Some(format!("thaw image: {name}: {error}")) }
        }
        other => failure(other),
    })?;
    out.finish().map_err(|error| failure(JsonError::Output(error)))
}

pub(super) fn info(input: &Path) -> Result<(), Failure> {
    let fail = |error| failure(JsonError::Image(error));
    let name = input.file_name().unwrap_or_default();
    let raw = ImageKind::of_name(name).map(|(kind, _)| kind).filter(|kind| kind.is_raw());
    let text = match (ImageReader::open_any(input), raw) {
        (Err(ImageError::UnknownMagic { .. } | ImageError::Cut { .. }), Some(kind)) => {
            let size = std::fs::metadata(input).map_err(|source| {
                fail(ImageError::Read { file: name.to_string_lossy().into_owned(), source })
            })?;
            let (what, bytes) = (kind.describe(), size.len());
            format!("{{\n    \"raw\": \"{what}\",\n    \"bytes\": {bytes}\n}}\n")
        }
        (Err(error), _) => return Err(fail(error)),
        (Ok(mut image), _) => {
            let ImageCount { magic, count } = count_entries(&mut image).map_err(fail)?;
            format!("{{\n    \"magic\": \"{magic}\",\n    \"count\": {count}\n}}\n")
        }
    };
    let written = io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| failure(JsonError::Output(error)))
}

/// What is said of a failure: crit's words where programs may look for them.
fn failure(error: JsonError) -> Failure {
    let text = match &error {
        JsonError::Image(ImageError::UnknownMagic { found, .. }) => format!(
            "Unknown magic {found:#x}.\n\
             Maybe you are feeding me an image with raw data(i.e. pages.img)?"
        ),
        JsonError::NotJson => "Cannot read JSON.\n\
             Maybe you are feeding me an image with protobuf data? Encode expects JSON input."
            .to_owned(),
        // Whoever reads has seen enough.
        JsonError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Failure { code: FAILED, text: None };
        }
        other => return Failure::new(other),
    };
    Failure { code: FAILED, text: Some(text) }
}
