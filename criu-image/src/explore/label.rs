//! What an open file is called: a path, or its kind and number.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::source::Source;
use crate::error::ImageError;
use crate::json::quoted;
use crate::kind::ImageKind;
use crate::record::{FdTypes, FileEntry, PipeEntry, RegFileEntry, UnixSkEntry};
use crate::schema;

/// An open file as a view shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLabel {
    /// Kind, as in JSON, or its number if the schema has no name for it.
    pub kind: String,
    /// `file_entry.id`.
    pub id: u32,
    /// Path, or a description such as `pipe[7]`. What is longer than a path of Linux can be (4096
    /// bytes) ends with `...`.
    pub text: Arc<[u8]>,
}

/// `PATH_MAX`: a damaged image must not fill the screen with one name, again and again.
pub(crate) const LABEL_BYTES_MAX: usize = 4096;

/// What is shown of an open file: the entries themselves are a hundred times as large. Text is
/// shared by all rows that show it.
#[derive(Debug, Default)]
struct Shown {
    path: Option<Arc<[u8]>>,
    pipe: Option<u32>,
    unix: Option<Arc<[u8]>>,
}

/// Open files by id.
#[derive(Debug, Default)]
pub(super) struct Labels {
    files: BTreeMap<u32, Shown>,
}

impl Labels {
    pub(super) fn read(source: &Source) -> Result<Self, ImageError> {
        let mut labels = Self::default();
        if let Some(image) = source.find(ImageKind::Files, 0)? {
            for record in image.records::<FileEntry>() {
                let (_, entry) = record?;
                let shown = labels.files.entry(entry.id).or_default();
                // A TUN device has two entries, the first of which is its path.
                shown.path = shown.path.take().or(entry.reg.map(|reg| cut(reg.name)));
                shown.pipe = shown.pipe.or(entry.pipe.map(|pipe| pipe.pipe_id));
                shown.unix = shown.unix.take().or(entry.usk.as_ref().map(unix));
            }
        }
        if labels.files.is_empty() {
            labels.read_old(source)?;
        }
        Ok(labels)
    }

    /// Before `files.img` there was an image for each kind.
    fn read_old(&mut self, source: &Source) -> Result<(), ImageError> {
        for reg in source.all_of_old::<RegFileEntry>("reg-files.img")? {
            self.files.entry(reg.id).or_default().path = Some(cut(reg.name));
        }
        for pipe in source.all_of_old::<PipeEntry>("pipes.img")? {
            self.files.entry(pipe.id).or_default().pipe = Some(pipe.pipe_id);
        }
        for socket in source.all_of_old::<UnixSkEntry>("unixsk.img")? {
            self.files.entry(socket.id).or_default().unix = Some(unix(&socket));
        }
        Ok(())
    }

    /// The file with this id, which something says is of this kind.
    pub(super) fn label(&self, kind: i32, id: u32) -> FileLabel {
        let name = schema::enumeration_named("FdTypes").name(kind);
        let name = name.map_or_else(|| kind.to_string(), str::to_owned);
        let file = self.files.get(&id);
        let text = match FdTypes::try_from(kind) {
            Ok(FdTypes::Reg) => regular(file),
            Ok(FdTypes::Pipe) => match file.and_then(|file| file.pipe) {
                Some(id) => format!("pipe[{id}]").into_bytes().into(),
                None => b"pipe[?]"[..].into(),
            },
            Ok(FdTypes::Unixsk) => match file.and_then(|file| file.unix.as_ref()) {
                Some(label) => label.clone(),
                None => b"unix[?]"[..].into(),
            },
            _ => format!("{name}.{id}").into_bytes().into(),
        };
        FileLabel { kind: name, id, text }
    }

    /// The path of the regular file with this id.
    pub(super) fn path(&self, id: u32) -> Arc<[u8]> {
        regular(self.files.get(&id))
    }
}

fn cut(mut text: Vec<u8>) -> Arc<[u8]> {
    if text.len() > LABEL_BYTES_MAX {
        text.truncate(LABEL_BYTES_MAX);
        text.extend(b"...");
    }
    text.into()
}

fn regular(file: Option<&Shown>) -> Arc<[u8]> {
    match file.and_then(|file| file.path.as_ref()).filter(|path| !path.is_empty()) {
        Some(path) => path.clone(),
        None => b"unknown path"[..].into(),
    }
}

fn unix(socket: &UnixSkEntry) -> Arc<[u8]> {
    let mut text = format!("unix[{} ({})", socket.ino, socket.peer).into_bytes();
    if !socket.name.is_empty() {
        text.push(b' ');
        text.extend(quoted::encode(&socket.name));
    }
    text.push(b']');
    cut(text)
}
