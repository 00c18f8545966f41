//! Where a result goes: standard output, or a file that is replaced when all of it is there.
//!
//! So a failure leaves no half of a file, and a file may be read and written at once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, StdoutLock, Write};
use std::path::{Path, PathBuf};

/// A result on its way.
pub(crate) enum Output {
    Stdout(StdoutLock<'static>),
    /// What is no regular file cannot be replaced.
    Device(File),
    File {
        file: File,
        partial: PathBuf,
        path: PathBuf,
    },
}

impl Output {
    /// Opens it; `None` is standard output.
    pub(crate) fn open(path: Option<&Path>) -> io::Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout(io::stdout().lock())) };
        let existing = fs::metadata(path).ok();
        if existing.as_ref().is_some_and(|metadata| !metadata.is_file()) {
            return File::options().write(true).open(path).map(Self::Device);
        }
        // A link leads to the file that is meant.
        let path = if existing.is_some() { path.canonicalize()? } else { path.to_owned() };
        let mut name = OsString::from(".");
        name.push(path.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(format!(".{}.partial", std::process::id()));
        let partial = path.with_file_name(name);
        let file = File::create_new(&partial)?;
        let output = Self::File { file, partial, path };
        if let (Self::File { file, .. }, Some(metadata)) = (&output, existing) {
            file.set_permissions(metadata.permissions())?;
        }
        Ok(output)
    }

    /// Whether lines should end here as people expect.
    pub(crate) fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout(_))
    }

    /// Puts a file in its place.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let Self::File { partial, path, .. } = &mut self {
            fs::rename(&*partial, path)?;
            partial.clear();
        }
        Ok(())
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::Device(out) | Self::File { file: out, .. } => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Device(out) | Self::File { file: out, .. } => out.flush(),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { partial, .. } = self
            && !partial.as_os_str().is_empty()
        {
            let _ = fs::remove_file(partial); // the failure itself has been told
        }
    }
}
