//! The manifest beside the images: a checksum of each file, and of each 1 MiB of the large ones.
//!
//! It is not CRIU's; upstream ignores it. Its name has no `.img`, so that it is no image.
//! A text file: one line for each file with the checksum of all of it (of a large one: of its
//! blocks' checksums), one line for each block, and a last line with the checksum of all
//! lines before it. Checksums are XXH3-128: they find damage, they do not stop a forger.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use twox_hash::XxHash3_128;
use twox_hash::xxhash3_128::Hasher;

/// Name of the file.
pub const MANIFEST_NAME: &str = "thaw-manifest";
/// Block that has a checksum of its own, in bytes.
pub const BLOCK_BYTES: usize = 1 << 20;
/// Longest manifest that is read: 16 TiB of pages.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;
const FIRST_LINE: &str = "thaw-manifest 1";

/// Checksum of some bytes.
pub fn checksum(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

/// Length and checksums of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSum {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Checksum of each block; the last one may be short.
    pub blocks: Vec<u128>,
}

impl FileSum {
    /// Of a file in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            len_bytes: bytes.len() as u64,
            blocks: bytes.chunks(BLOCK_BYTES).map(checksum).collect(),
        }
    }

    fn whole(&self) -> u128 {
        match self.blocks.as_slice() {
            [one] => *one,
            many => {
                checksum(&many.iter().flat_map(|block| block.to_le_bytes()).collect::<Vec<u8>>())
            }
        }
    }

    /// Compares one block; `index` counts blocks from the start of the file.
    ///
    /// # Errors
    /// [`ManifestError::Damaged`], naming the file and the block.
    pub fn check(&self, file: &str, index: usize, bytes: &[u8]) -> Result<(), ManifestError> {
        if self.blocks.get(index) == Some(&checksum(bytes)) {
            return Ok(());
        }
        let offset_bytes = (index * BLOCK_BYTES) as u64;
        Err(ManifestError::Damaged { file: file.to_owned(), offset_bytes, len_bytes: bytes.len() })
    }

    /// Compares the length of a file.
    ///
    /// # Errors
    /// [`ManifestError::Length`].
    pub(crate) fn check_len(&self, file: &str, here_bytes: u64) -> Result<(), ManifestError> {
        let (file, saved_bytes) = (file.to_owned(), self.len_bytes);
        if here_bytes == saved_bytes {
            return Ok(());
        }
        Err(ManifestError::Length { file, here_bytes, saved_bytes })
    }

    /// Compares a file of the right length up to its first damage. `block` has room for a block.
    fn compare(&self, dir: &Path, name: &str, block: &mut [u8]) -> Result<(), ManifestError> {
        let fail = |source| ManifestError::Read { file: name.to_owned(), source };
        let file = match File::open(dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be_there(name) => {
                return Ok(());
            }
            other => other.map_err(fail)?,
        };
        let mut left = self.len_bytes;
        for index in 0..self.blocks.len() {
            let block = &mut block[..left.min(BLOCK_BYTES as u64) as usize];
            file.read_exact_at(block, (index * BLOCK_BYTES) as u64).map_err(fail)?;
            self.check(name, index, block)?;
            left -= block.len() as u64;
        }
        Ok(())
    }
}

/// What is wrong with a manifest, or what it says is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file could not be read.
    #[error("cannot read {file}")]
    Read {
        /// File.
        file: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The manifest itself is damaged.
    #[error("{MANIFEST_NAME}, line {line}: {reason}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Why.
        reason: &'static str,
    },
    /// A file is not as the dump wrote it.
    #[error(
        "{file} is damaged: the {len_bytes} bytes from {offset_bytes:#x} are not those of the dump"
    )]
    Damaged {
        /// File.
        file: String,
        /// Where the block begins.
        offset_bytes: u64,
        /// Its length.
        len_bytes: usize,
    },
    /// A file has another length than the dump wrote.
    #[error("{file} has {here_bytes} bytes, the dump wrote {saved_bytes}")]
    Length {
        /// File.
        file: String,
        /// Length found.
        here_bytes: u64,
        /// Length written.
        saved_bytes: u64,
    },
    /// Something that is no regular file has the name of one.
    #[error("{file} is no regular file")]
    NoFile {
        /// File.
        file: String,
    },
    /// A file that the manifest lists is not there.
    #[error("{file} is missing: {MANIFEST_NAME} lists it")]
    Missing {
        /// File.
        file: String,
    },
    /// An image that the manifest does not list.
    #[error("{file} is none of the files that {MANIFEST_NAME} lists")]
    Unlisted {
        /// File.
        file: String,
    },
}

impl ManifestError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "manifest.unreadable",
            Self::Malformed { .. } => "manifest.malformed",
            Self::Damaged { .. } => "manifest.damaged",
            Self::Length { .. } => "manifest.length",
            Self::NoFile { .. } => "manifest.no-file",
            Self::Missing { .. } => "manifest.missing",
            Self::Unlisted { .. } => "manifest.unlisted",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => {
                Some("check that this user may read the directory, and that its disk is sound")
            }
            Self::Malformed { .. } => Some("copy the manifest of the dump again"),
            Self::Damaged { .. } => {
                Some("copy the file again from where the dump wrote it, or dump again")
            }
            Self::Length { .. } => {
                Some("copy the file again from where the dump wrote it, or dump again")
            }
            Self::NoFile { .. } => Some("put the regular file of the dump in its place"),
            Self::Missing { .. } => Some("copy the whole directory of the dump again"),
            Self::Unlisted { .. } => {
                Some("take it out of the directory: it is of no dump, or of another one")
            }
        }
    }

    /// The file that it is about.
    pub fn file(&self) -> &str {
        match self {
            Self::Malformed { .. } => MANIFEST_NAME,
            Self::Read { file, .. }
            | Self::Damaged { file, .. }
            | Self::Length { file, .. }
            | Self::NoFile { file }
            | Self::Missing { file }
            | Self::Unlisted { file } => file,
        }
    }
}

/// All files of a dump.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// By name.
    pub files: BTreeMap<String, FileSum>,
}

impl Manifest {
    /// As it stands in the file.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for (name, sum) in &self.files {
            let _ = writeln!(text, "file {:032x} {} {name}", sum.whole(), sum.len_bytes);
            if sum.blocks.len() > 1 {
                for block in &sum.blocks {
                    let _ = writeln!(text, "block {block:032x}");
                }
            }
        }
        let end = checksum(text.as_bytes());
        let _ = writeln!(text, "end {end:032x}");
        text
    }

    /// Reads the manifest of a directory, if there is one.
    ///
    /// # Errors
    /// [`ManifestError::Read`] and [`ManifestError::Malformed`].
    pub fn open(dir: &Path) -> Result<Option<Self>, ManifestError> {
        let path = dir.join(MANIFEST_NAME);
        let fail = |source| ManifestError::Read { file: MANIFEST_NAME.to_owned(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
            Ok(found) if !found.is_file() || found.len() > MANIFEST_BYTES_MAX => {
                let reason = "it is no regular file of a sane size";
                return Err(ManifestError::Malformed { line: 1, reason });
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(fail)?;
        let text = str::from_utf8(&bytes);
        let text = text.map_err(|_| ManifestError::Malformed { line: 1, reason: "no text" })?;
        Self::parse(text).map(Some)
    }

    /// Reads what [`Manifest::to_text`] wrote.
    ///
    /// # Errors
    /// [`ManifestError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let fail = |line: usize, reason| Err(ManifestError::Malformed { line: line + 1, reason });
        let lines: Vec<&str> = text.lines().collect();
        let Some((last, body)) = lines.split_last() else { return fail(0, "it is empty") };
        let before = text.len().saturating_sub(last.len() + 1);
        let end = last.strip_prefix("end ").and_then(hash);
        if !text.ends_with('\n') || end != Some(checksum(&text.as_bytes()[..before])) {
            return fail(body.len(), "it is damaged or cut: its own checksum differs");
        }
        if body.first() != Some(&FIRST_LINE) {
            return fail(0, "it is of another version");
        }
        let mut manifest = Self::default();
        let mut wholes = Vec::new();
        let mut current: Option<(String, FileSum)> = None;
        for (at, line) in body.iter().enumerate().skip(1) {
            if let Some(block) = line.strip_prefix("block ") {
                let (Some((_, sum)), Some(block)) = (current.as_mut(), hash(block)) else {
                    return fail(at, "a block without a file or a checksum");
                };
                sum.blocks.push(block);
                continue;
            }
            manifest.files.extend(current.take());
            let Some((whole, sum)) = file_line(line) else { return fail(at, "it is no file") };
            wholes.push((at, whole, sum.0.clone()));
            current = Some(sum);
        }
        manifest.files.extend(current.take());
        for (at, whole, name) in wholes {
            let sum = manifest.files.get_mut(&name).expect("it was just inserted");
            let count = sum.len_bytes.div_ceil(BLOCK_BYTES as u64);
            if sum.blocks.is_empty() && count == 1 {
                sum.blocks.push(whole);
            }
            if sum.blocks.len() as u64 != count || sum.whole() != whole {
                return fail(at, "the blocks are not those of the file");
            }
        }
        Ok(manifest)
    }

    /// Reads every file of the directory and compares; returns how many bytes the files have.
    ///
    /// # Errors
    /// The first file that is damaged, missing, or not listed though it is an image.
    pub fn verify(&self, dir: &Path) -> Result<u64, ManifestError> {
        self.findings(dir).into_iter().next().map_or(Ok(()), Err)?;
        Ok(self.files.values().map(|sum| sum.len_bytes).sum())
    }

    /// Reads every file of the directory and compares; returns what is wrong, at most one finding
    /// for each file.
    pub fn findings(&self, dir: &Path) -> Vec<ManifestError> {
        let mut findings = self.names(dir);
        let known: BTreeSet<String> =
            findings.iter().map(|found| found.file().to_owned()).collect();
        let mut block = vec![0; BLOCK_BYTES];
        for (name, sum) in self.files.iter().filter(|(name, _)| !known.contains(*name)) {
            findings.extend(sum.compare(dir, name, &mut block).err());
        }
        findings
    }

    /// Compares the names and lengths of the images of a directory with the list.
    ///
    /// # Errors
    /// See [`Manifest::verify`].
    pub fn check_names(&self, dir: &Path) -> Result<(), ManifestError> {
        self.names(dir).into_iter().next().map_or(Ok(()), Err)
    }

    /// Every file that is missing, of another length, or not listed.
    fn names(&self, dir: &Path) -> Vec<ManifestError> {
        let mut findings = Vec::new();
        for (name, sum) in &self.files {
            match fs::metadata(dir.join(name)) {
                Ok(found) if found.is_file() => {
                    findings.extend(sum.check_len(name, found.len()).err());
                }
                Ok(_) => findings.push(ManifestError::NoFile { file: name.clone() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if must_be_there(name) {
                        findings.push(ManifestError::Missing { file: name.clone() });
                    }
                }
                Err(source) => findings.push(ManifestError::Read { file: name.clone(), source }),
            }
        }
        let listed = fs::read_dir(dir).and_then(|entries| {
            for entry in entries {
                let file = entry?.file_name().to_string_lossy().into_owned();
                if file.ends_with(".img") && !self.files.contains_key(&file) {
                    findings.push(ManifestError::Unlisted { file });
                }
            }
            Ok(())
        });
        let file = || dir.display().to_string();
        findings.extend(listed.err().map(|source| ManifestError::Read { file: file(), source }));
        findings
    }
}

/// Statistics are no part of the state: whoever has removed them may restore.
fn must_be_there(name: &str) -> bool {
    name.ends_with(".img")
}

fn hash(text: &str) -> Option<u128> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

fn file_line(line: &str) -> Option<(u128, (String, FileSum))> {
    let mut words = line.strip_prefix("file ")?.splitn(3, ' ');
    let whole = hash(words.next()?)?;
    let len_bytes = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| !name.is_empty() && !name.contains('/'))?;
    Some((whole, (name.to_owned(), FileSum { len_bytes, blocks: Vec::new() })))
}

/// Checksums of a file that is written piece by piece.
pub struct Summer {
    sum: FileSum,
    /// The block that is not complete, and how much of it there is.
    open: Hasher,
    open_bytes: usize,
}

impl Default for Summer {
    fn default() -> Self {
        Self { sum: FileSum::default(), open: Hasher::new(), open_bytes: 0 }
    }
}

impl std::fmt::Debug for Summer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Summer").field("len_bytes", &self.sum.len_bytes).finish_non_exhaustive()
    }
}

impl Summer {
    /// Takes in the next bytes of the file.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.sum.len_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.open_bytes == 0 && bytes.len() >= BLOCK_BYTES {
                self.sum.blocks.push(checksum(&bytes[..BLOCK_BYTES]));
                bytes = &bytes[BLOCK_BYTES..];
                continue;
            }
            let (head, tail) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.open_bytes));
            self.open.write(head);
            self.open_bytes += head.len();
            bytes = tail;
            if self.open_bytes == BLOCK_BYTES {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let whole = std::mem::replace(&mut self.open, Hasher::new());
        self.sum.blocks.push(whole.finish_128());
        self.open_bytes = 0;
    }

    /// The sums of the whole file.
    pub fn finish(mut self) -> FileSum {
        if self.open_bytes != 0 {
            self.close();
        }
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, FileSum, Manifest, ManifestError, Summer};

    fn manifest() -> Manifest {
        let large = vec![7; 2 * BLOCK_BYTES + 5];
        let files = [
            ("a.img".to_owned(), FileSum::of(b"abc")),
            ("empty.img".to_owned(), FileSum::of(b"")),
            ("pages-1.img".to_owned(), FileSum::of(&large)),
        ];
        Manifest { files: files.into() }
    }

    #[test]
    fn text_is_read_as_it_was_written() {
        let manifest = manifest();
        let text = manifest.to_text();
        assert_eq!(Manifest::parse(&text).expect("it is whole"), manifest);
        assert_eq!(text.lines().filter(|line| line.starts_with("block ")).count(), 3);
    }

    #[test]
    fn every_cut_and_every_flip_of_the_manifest_is_found() {
        let text = manifest().to_text();
        for len in 0..text.len() {
            assert!(Manifest::parse(&text[..len]).is_err(), "cut at {len}");
        }
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).expect("ASCII stays ASCII");
            assert!(Manifest::parse(&flipped).is_err(), "flip at {at}");
        }
    }

    #[test]
    fn pieces_give_the_sums_of_the_whole() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 9).map(|at| (at * 31 / 7) as u8).collect();
        for piece in [1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, bytes.len()] {
            let mut summer = Summer::default();
            bytes.chunks(piece).for_each(|chunk| summer.update(chunk));
            assert_eq!(summer.finish(), FileSum::of(&bytes), "pieces of {piece}");
        }
    }

    #[test]
    fn flipped_bit_and_missing_file_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let bytes: Vec<u8> = (0..BLOCK_BYTES + 100).map(|at| at as u8).collect();
        std::fs::write(dir.path().join("pages-1.img"), &bytes).expect("room");
        let files = [("pages-1.img".to_owned(), FileSum::of(&bytes))];
        let manifest = Manifest { files: files.into() };
        assert_eq!(manifest.verify(dir.path()).expect("it is whole"), bytes.len() as u64);
        let mut damaged = bytes.clone();
        damaged[BLOCK_BYTES + 1] ^= 4;
        std::fs::write(dir.path().join("pages-1.img"), &damaged).expect("room");
        let found = manifest.verify(dir.path());
        let expected = BLOCK_BYTES as u64;
        assert!(matches!(found, Err(ManifestError::Damaged { offset_bytes, .. })
            if offset_bytes == expected));
        std::fs::write(dir.path().join("pages-1.img"), &bytes).expect("room");
        std::fs::write(dir.path().join("core-1.img"), b"").expect("room");
        assert!(matches!(manifest.verify(dir.path()), Err(ManifestError::Unlisted { .. })));
    }
}
