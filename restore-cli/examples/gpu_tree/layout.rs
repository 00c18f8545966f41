//! What a tree shall have, as text: one text for each process, words in the order in which they
//! are carried out. It knows no device; a word that means nothing is refused with the word.

use std::str::FromStr;

/// Where a buffer's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    Vram,
    /// System memory that the driver has.
    System,
    /// Memory of the process.
    User,
}

/// What is done with a buffer beside making it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Views {
    /// It is mapped into the process.
    pub(crate) cpu: bool,
    /// It is mapped on its GPU.
    pub(crate) gpu: bool,
    /// The process has it at another address than the GPU.
    pub(crate) apart: bool,
}

/// One word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    At { fd: i32 },
    Kfd,
    Render { gpu: usize },
    Null,
    Fork { process: usize },
    Vm { file: usize },
    KfdBuffer { memory: Memory, gpu: usize, size_bytes: u64, views: Views },
    GemBuffer { memory: Memory, file: usize, size_bytes: u64, views: Views },
    Hole { file: usize },
    Export { buffer: usize, name: String },
    Import { file: usize, name: String, views: Views },
    KfdImport { gpu: usize, name: String },
    Forget { buffer: usize },
    Keep { buffer: usize },
    Take { name: String },
    Queue { gpu: usize, size_bytes: u64 },
}

/// All processes; the first is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) processes: Vec<Vec<Word>>,
}

impl Layout {
    /// Takes one text for each process.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, String> {
        let words = |text: &String| text.split_whitespace().map(word).collect();
        let processes = texts.iter().map(words).collect::<Result<Vec<Vec<Word>>, String>>()?;
        let layout = Self { processes };
        layout.check_forks()?;
        Ok(layout)
    }

    /// Every process but the root has exactly one parent, and parents come first.
    fn check_forks(&self) -> Result<(), String> {
        let mut forked = vec![false; self.processes.len()];
        for (parent, words) in self.processes.iter().enumerate() {
            for word in words {
                let Word::Fork { process } = *word else { continue };
                if process <= parent || process >= forked.len() || forked[process] {
                    return Err(format!("process {parent} cannot fork process {process}"));
                }
                forked[process] = true;
            }
        }
        match forked.iter().skip(1).position(|forked| !forked) {
            Some(at) => Err(format!("nobody forks process {}", at + 1)),
            None if forked.is_empty() => Err("no process".to_owned()),
            None => Ok(()),
        }
    }

    /// Names under which buffers are passed on, each once, with how many processes wait for it.
    pub(crate) fn names(&self) -> Vec<(String, usize)> {
        let mut names: Vec<(String, usize)> = Vec::new();
        for word in self.processes.iter().flatten() {
            let (name, waits) = match word {
                Word::Export { name, .. } => (name, 0),
                Word::Import { name, .. } | Word::KfdImport { name, .. } | Word::Take { name } => {
                    (name, 1)
                }
                _ => continue,
            };
            match names.iter_mut().find(|(known, _)| known == name) {
                Some((_, count)) => *count += waits,
                None => names.push((name.clone(), waits)),
            }
        }
        names
    }
}

fn word(text: &str) -> Result<Word, String> {
    let mut parts = text.split('+');
    let mut fields = parts.next().unwrap_or_default().split(':');
    let mut views = Views { cpu: true, gpu: true, apart: false };
    for option in parts {
        match option {
            "nocpu" => views.cpu = false,
            "nova" => views.gpu = false,
            "apart" => views.apart = true,
            _ => return Err(format!("{text}: no such option: {option}")),
        }
    }
    let missing = || format!("{text}: too few fields");
    let name = fields.next().unwrap_or_default();
    let fields: Vec<&str> = fields.collect();
    let field = |at: usize| fields.get(at).copied().ok_or_else(missing);
    let number = |at: usize| parse::<usize>(field(at)?);
    let kfd = |memory| {
        let (gpu, size_bytes) = (number(0)?, size(field(1)?)?);
        Ok(Word::KfdBuffer { memory, gpu, size_bytes, views })
    };
    let gem = |memory| {
        let (file, size_bytes) = (number(0)?, size(field(1)?)?);
        Ok(Word::GemBuffer { memory, file, size_bytes, views })
    };
    match name {
        "at" => Ok(Word::At { fd: parse(field(0)?)? }),
        "kfd" => Ok(Word::Kfd),
        "render" => Ok(Word::Render { gpu: number(0)? }),
        "null" => Ok(Word::Null),
        "fork" => Ok(Word::Fork { process: number(0)? }),
        "vm" => Ok(Word::Vm { file: number(0)? }),
        "vram" => kfd(Memory::Vram),
        "gtt" => kfd(Memory::System),
        "userptr" => kfd(Memory::User),
        "gem" => gem(Memory::Vram),
        "sysgem" => gem(Memory::System),
        "usergem" => gem(Memory::User),
        "hole" => Ok(Word::Hole { file: number(0)? }),
        "export" => Ok(Word::Export { buffer: number(0)?, name: field(1)?.to_owned() }),
        "import" => Ok(Word::Import { file: number(0)?, name: field(1)?.to_owned(), views }),
        "kfdimport" => Ok(Word::KfdImport { gpu: number(0)?, name: field(1)?.to_owned() }),
        "forget" => Ok(Word::Forget { buffer: number(0)? }),
        "keep" => Ok(Word::Keep { buffer: number(0)? }),
        "take" => Ok(Word::Take { name: field(0)?.to_owned() }),
        "queue" => {
            let size_bytes = if fields.len() > 1 { size(field(1)?)? } else { 64 << 10 };
            Ok(Word::Queue { gpu: number(0)?, size_bytes })
        }
        _ => Err(format!("no such word: {text}")),
    }
}

fn parse<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("not a number: {text}"))
}

/// Bytes: a number, with `K`, `M` or `G` behind it if wanted; whole pages.
fn size(text: &str) -> Result<u64, String> {
    let units = [("K", 10), ("M", 20), ("G", 30)];
    let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
    let (number, bits) = unit.unwrap_or((text, 0));
    let bytes = parse::<u64>(number)? << bits;
    if bytes == 0 || !bytes.is_multiple_of(4096) {
        return Err(format!("not a number of whole pages: {text}"));
    }
    Ok(bytes)
}
