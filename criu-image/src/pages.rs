//! Memory contents of one process or one shared memory, wherever they lie.
//!
//! A pagemap says which pages were saved; they lie one after the other in a pages file, or in the
//! checkpoint before it (`parent`), which may itself have one. This follows them by address.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::image::ImageReader;
use crate::kind::ImageKind;
use crate::record::{PagemapEntry, PagemapHead};

/// Size of a page; images of systems with larger ones are not read.
pub const PAGE_BYTES: usize = 4096;
/// Most checkpoints before a checkpoint. Each pre-dump makes one; nobody makes as many. The runs of
/// each are in memory.
pub(crate) const PARENTS_MAX: usize = 64;

/// `PE_PARENT`, `PE_LAZY`, `PE_PRESENT` (CRIU 4.2, `pagemap.h`).
const PE_PARENT: u32 = 1;
const PE_LAZY: u32 = 2;
const PE_PRESENT: u32 = 4;

/// Where the contents of some pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagesAt {
    /// In the pages file of this checkpoint, from this byte on.
    Here {
        /// Offset in bytes.
        offset_bytes: u64,
    },
    /// In the checkpoint before this one.
    Parent,
    /// Nowhere: they were to be fetched from the source when they are needed.
    Nowhere,
}

/// Consecutive pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRun {
    /// First address (or offset, for shared memory) in bytes.
    pub start: u64,
    /// Length in bytes, a multiple of 4096.
    pub len_bytes: u64,
    /// Where their contents are.
    pub at: PagesAt,
}

impl MemoryRun {
    /// Address after the last.
    pub fn end(&self) -> u64 {
        self.start + self.len_bytes
    }
}

/// Saved memory, by address.
///
/// ```no_run
/// use criu_image::Memory;
/// let memory = Memory::of_process("/var/lib/images", 1234)?;
/// for page in memory.pages() {
///     let (address, contents) = page?;
///     println!("{address:#x} begins with {:02x?}", &contents[..8]);
/// }
/// let mut word = [0; 8];
/// if memory.read(0x7fff_0000_1000, &mut word)? == word.len() {
///     println!("{:#x}", u64::from_le_bytes(word));
/// }
/// # Ok::<(), criu_image::ImageError>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    runs: Vec<MemoryRun>,
    name: String,
    pages: Option<(File, String)>,
    parent: Option<Box<Memory>>,
}

impl Memory {
    /// Private memory of a process: `pagemap-<pid>.img`.
    ///
    /// # Errors
    /// [`ImageError`] if the pagemap, its pages or those of a parent are missing, damaged, or of a
    /// later version of CRIU; [`ImageError::Unsupported`] if there are too many parents.
    pub fn of_process(dir: impl AsRef<Path>, pid: u32) -> Result<Self, ImageError> {
        Self::open(dir.as_ref(), ImageKind::Pagemap, pid.into(), 0)
    }

    /// Contents of shared memory: `pagemap-shmem-<shmid>.img`. Addresses are offsets in it.
    ///
    /// # Errors
    /// Those of [`of_process`](Self::of_process).
    pub fn of_shared(dir: impl AsRef<Path>, shmid: u64) -> Result<Self, ImageError> {
        Self::open(dir.as_ref(), ImageKind::ShmemPagemap, shmid, 0)
    }

    fn open(dir: &Path, kind: ImageKind, id: u64, depth: usize) -> Result<Self, ImageError> {
        let name = kind.file_name(id);
        if depth > PARENTS_MAX {
            let feature = "a checkpoint with so many parents";
            return Err(ImageError::Unsupported { file: name, feature });
        }
        let mut image = ImageReader::open(dir.join(&name))?;
        let Some((_, head)) = image.next_record::<PagemapHead>()? else {
            let expected = "at least one";
            return Err(ImageError::Count { file: name, found: 0, expected });
        };
        let mut memory = Self { runs: Vec::new(), name, pages: None, parent: None };
        let (mut offset_bytes, mut needs_parent) = (0, false);
        while let Some((at, entry)) = image.next_record::<PagemapEntry>()? {
            let run = memory.run(at, &entry, offset_bytes)?;
            match run.at {
                PagesAt::Here { .. } => offset_bytes += run.len_bytes,
                PagesAt::Parent => needs_parent = true,
                PagesAt::Nowhere => {}
            }
            memory.runs.push(run);
        }
        if offset_bytes > 0 {
            let name = ImageKind::Pages.file_name(head.pages_id.into());
            memory.pages = Some((open_pages(dir, &name, offset_bytes)?, name));
        }
        if needs_parent {
            let link = dir.join("parent");
            // What it leads to, since a path must not lead through too many links.
            let parent: PathBuf = link
                .canonicalize()
                .map_err(|source| ImageError::Read { file: link.display().to_string(), source })?;
            memory.parent = Some(Box::new(Self::open(&parent, kind, id, depth + 1)?));
        }
        Ok(memory)
    }

    fn run(&self, at: u64, entry: &PagemapEntry, offset: u64) -> Result<MemoryRun, ImageError> {
        let start = entry.vaddr;
        let pages = entry.nr_pages.unwrap_or(entry.compat_nr_pages.into());
        let len_bytes = pages.checked_mul(PAGE_BYTES as u64).filter(|&len| len > 0);
        let end = len_bytes.and_then(|len| start.checked_add(len));
        let last_end = self.runs.last().map_or(0, MemoryRun::end);
        let in_order = start >= last_end && start.is_multiple_of(PAGE_BYTES as u64);
        let (Some(len_bytes), Some(_), true) = (len_bytes, end, in_order) else {
            let reason = format!("{pages} pages at {start:#x} are no range, or out of order");
            return Err(crate::checkpoint::contradiction(&self.name, at, reason));
        };
        let flags = entry.flags.unwrap_or(PE_PRESENT);
        let at = if entry.in_parent == Some(true) || flags & PE_PARENT != 0 {
            PagesAt::Parent
        } else if flags & PE_PRESENT == 0 && flags & PE_LAZY != 0 {
            PagesAt::Nowhere
        } else {
            PagesAt::Here { offset_bytes: offset }
        };
        Ok(MemoryRun { start, len_bytes, at })
    }

    /// All saved pages as runs, in ascending order of address, without overlap.
    pub fn runs(&self) -> &[MemoryRun] {
        &self.runs
    }

    /// Sum of all runs, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.len_bytes).sum()
    }

    /// Reads bytes from an address on, up to the first page that was not saved. Returns how many
    /// there are, which may be 0.
    ///
    /// # Errors
    /// [`ImageError::Missing`] if a page should be in a parent and is not; [`ImageError::Read`].
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<usize, ImageError> {
        let mut done = 0;
        let mut index = self.runs.partition_point(|run| run.end() <= address);
        while done < into.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let Some(run) = self.runs.get(index).filter(|run| run.start <= at) else { break };
            let left = usize::try_from(run.end() - at).unwrap_or(usize::MAX);
            let len = left.min(into.len() - done);
            if !self.read_run(run, at, &mut into[done..done + len])? {
                break;
            }
            done += len;
            index += 1;
        }
        Ok(done)
    }

    /// Reads within one run; `false` if its contents are nowhere.
    fn read_run(&self, run: &MemoryRun, at: u64, into: &mut [u8]) -> Result<bool, ImageError> {
        match (run.at, &self.pages, &self.parent) {
            (PagesAt::Here { offset_bytes }, Some((file, name)), _) => {
                let fail = |source| ImageError::Read { file: name.clone(), source };
                file.read_exact_at(into, offset_bytes + (at - run.start)).map_err(fail)?;
                Ok(true)
            }
            (PagesAt::Parent, _, Some(parent)) => {
                if parent.read(at, into)? == into.len() {
                    return Ok(true);
                }
                let file = format!("parent/{}", parent.name);
                let needed_for = format!("page {at:#x} of {}", self.name);
                Err(ImageError::Missing { file, needed_for })
            }
            _ => Ok(false),
        }
    }

    /// Every saved page with its address, in ascending order. Pages that are nowhere are left out.
    /// It ends after an error.
    pub fn pages(&self) -> impl Iterator<Item = Result<(u64, [u8; PAGE_BYTES]), ImageError>> {
        let addresses = self
            .runs
            .iter()
            .filter(|run| run.at != PagesAt::Nowhere)
            .flat_map(|run| (run.start..run.end()).step_by(PAGE_BYTES));
        addresses.scan(false, |ended, address| {
            let mut page = [0; PAGE_BYTES];
            let read = if *ended { return None } else { self.read(address, &mut page) };
            *ended = read.is_err();
            Some(read.map(|_| (address, page)))
        })
    }
}

fn open_pages(dir: &Path, name: &str, needed: u64) -> Result<File, ImageError> {
    let path = dir.join(name);
    let size = crate::payload::file_size(&path, name)?;
    if size < needed {
        let (file, needed_bytes) = (name.to_owned(), needed - size);
        return Err(ImageError::Cut { file, offset_bytes: size, needed_bytes });
    }
    File::open(path).map_err(|source| ImageError::Read { file: name.to_owned(), source })
}
