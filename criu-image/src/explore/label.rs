//! What an open file is called: a path, or its kind and number.

use std::collections::BTreeMap;

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
    /// Path, or a description such as `pipe[7]`.
    pub text: Vec<u8>,
}

/// Open files by id.
#[derive(Debug, Default)]
pub(super) struct Labels {
    files: BTreeMap<u32, FileEntry>,
}

impl Labels {
    pub(super) fn read(source: &Source) -> Result<Self, ImageError> {
        let mut labels = Self::default();
        for entry in source.all::<FileEntry>(ImageKind::Files, 0)? {
            labels.files.insert(entry.id, entry);
        }
        if labels.files.is_empty() {
            labels.read_old(source)?;
        }
        Ok(labels)
    }

    /// Before `files.img` there was an image for each kind.
    fn read_old(&mut self, source: &Source) -> Result<(), ImageError> {
        for reg in source.all_of_old::<RegFileEntry>("reg-files.img")? {
            self.entry(reg.id).reg.replace(reg);
        }
        for pipe in source.all_of_old::<PipeEntry>("pipes.img")? {
            self.entry(pipe.id).pipe.replace(pipe);
        }
        for usk in source.all_of_old::<UnixSkEntry>("unixsk.img")? {
            self.entry(usk.id).usk.replace(usk);
        }
        Ok(())
    }

    fn entry(&mut self, id: u32) -> &mut FileEntry {
        self.files.entry(id).or_default()
    }

    /// The file with this id, which something says is of this kind.
    pub(super) fn label(&self, kind: i32, id: u32) -> FileLabel {
        let name = schema::enumeration_named("FdTypes").name(kind);
        let name = name.map_or_else(|| kind.to_string(), str::to_owned);
        let file = self.files.get(&id);
        let text = match FdTypes::try_from(kind) {
            Ok(FdTypes::Reg) => regular(file),
            Ok(FdTypes::Pipe) => match file.and_then(|file| file.pipe.as_ref()) {
                Some(pipe) => format!("pipe[{}]", pipe.pipe_id).into_bytes(),
                None => b"pipe[?]".to_vec(),
            },
            Ok(FdTypes::Unixsk) => match file.and_then(|file| file.usk.as_ref()) {
                Some(socket) => unix(socket),
                None => b"unix[?]".to_vec(),
            },
            _ => format!("{name}.{id}").into_bytes(),
        };
        FileLabel { kind: name, id, text }
    }

    /// The path of the regular file with this id.
    pub(super) fn path(&self, id: u32) -> Vec<u8> {
        regular(self.files.get(&id))
    }
}

fn regular(file: Option<&FileEntry>) -> Vec<u8> {
    match file.and_then(|file| file.reg.as_ref()).filter(|reg| !reg.name.is_empty()) {
        Some(reg) => reg.name.clone(),
        None => b"unknown path".to_vec(),
    }
}

fn unix(socket: &UnixSkEntry) -> Vec<u8> {
    let mut text = format!("unix[{} ({})", socket.ino, socket.peer).into_bytes();
    if !socket.name.is_empty() {
        text.push(b' ');
        text.extend(quoted::encode(&socket.name));
    }
    text.push(b']');
    text
}
