//! A whole image to JSON: its name, its entries, and the data that belongs to each.

use std::io::{Read, Write};

use super::JsonError;
use super::decode;
use super::print::Printer;
use crate::error::ImageError;
use crate::image::data::{Follow, MESSAGE_ALIGN_BYTES, SEMAPHORES_ALIGN_BYTES, padding};
use crate::image::format::Layout;
use crate::image::read::{Frame, ImageReader};
use crate::payload::{Record, wire_error};
use crate::record::IpcMsg;
use crate::{schema, wire};

/// How JSON is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonOptions {
    /// On many lines, with flags, names and addresses instead of numbers.
    pub readable: bool,
    /// With the data that follows records; otherwise with its size only, and not to be encoded.
    pub payloads: bool,
    /// With a line break at the end.
    pub line_break: bool,
}

/// What kind of image, and how much is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageCount {
    /// Kind, as in JSON.
    pub magic: &'static str,
    /// Entries; the head of a pagemap is none.
    pub count: u64,
}

/// Writes an image as JSON, record by record.
///
/// The JSON is that of CRIU 4.2's image tool, byte for byte, but where that drops something: a
/// field or enum value that the schema does not know is written as a number, and a name that is not
/// UTF-8 has U+DC80 to U+DCFF for its other bytes. [`encode_json`](super::encode_json) gives the
/// image back. Files of the amdgpu plugin have a form of our own.
///
/// # Errors
/// [`JsonError::Image`] if the image is damaged: what comes before has been written by then;
/// [`JsonError::Output`].
///
/// # Example
/// ```
/// use criu_image::{ImageReader, JsonOptions, decode_json, encode_json};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree/pstree.img");
/// let options = JsonOptions { readable: false, payloads: true, line_break: false };
/// let mut json = Vec::new();
/// decode_json(&mut ImageReader::open(path)?, &mut json, options)?;
/// assert!(json.starts_with(br#"{"magic": "PSTREE", "entries": [{"pid": "#));
///
/// let mut image = Vec::new();
/// encode_json(&json[..], &mut image)?;
/// assert_eq!(image, std::fs::read(path)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode_json<R: Read>(
    image: &mut ImageReader<R>,
    out: impl Write,
    options: JsonOptions,
) -> Result<(), JsonError> {
    let mut printer = Printer::new(out, options.readable);
    printer.open(b'{');
    printer.key("magic");
    printer.plain(image.magic_name());
    printer.key("entries");
    printer.open(b'[');
    let mut export = Export { image, printer: &mut printer, payloads: options.payloads };
    let ended = export.entries();
    if ended.is_ok() {
        printer.close(b']');
        printer.close(b'}');
    }
    let finished = printer.finish(options.line_break && ended.is_ok()).map_err(JsonError::Output);
    ended.map_err(JsonError::Image).and(finished)
}

/// Counts the entries of an image.
///
/// # Errors
/// [`ImageError`] if the image is damaged.
pub fn count_entries<R: Read>(image: &mut ImageReader<R>) -> Result<ImageCount, ImageError> {
    let format = image.format();
    let mut count: u64 = 0;
    match format.layout {
        Layout::Opaque | Layout::GpuPages => {
            image.pass_data()?;
            count = 1;
        }
        _ => {
            while let Some(frame) = image.frame()? {
                if !matches!(format.layout, Layout::Pagemap) {
                    check(image, frame)?;
                }
                image.end_of(frame)?;
                image.pass_data()?;
                count += 1;
            }
        }
    }
    if format.layout == Layout::Pagemap {
        count = count.saturating_sub(1);
    }
    Ok(ImageCount { magic: format.name, count })
}

/// Checks the record that was brought in; whether its fields are in order.
fn check<R: Read>(image: &ImageReader<R>, frame: Frame) -> Result<bool, ImageError> {
    let message = image.format().message(image.index()).expect("such images have records");
    check_as(image, frame, message)
}

fn check_as<R: Read>(
    image: &ImageReader<R>,
    frame: Frame,
    message: usize,
) -> Result<bool, ImageError> {
    wire::check_known(message, image.payload(frame))
        .map_err(|fault| wire_error(image.name(), frame.offset, fault))
}

struct Export<'a, R, W> {
    image: &'a mut ImageReader<R>,
    printer: &'a mut Printer<W>,
    payloads: bool,
}

impl<R: Read, W: Write> Export<'_, R, W> {
    fn entries(&mut self) -> Result<(), ImageError> {
        let format = self.image.format();
        if matches!(format.layout, Layout::Opaque | Layout::GpuPages) {
            self.printer.item();
            self.printer.open(b'{');
            if format.layout == Layout::GpuPages {
                self.printer.key("size");
                self.printer.unsigned(self.image.claimed_bytes());
            }
            self.data()?;
            self.printer.close(b'}');
            return Ok(());
        }
        while let Some(frame) = self.image.frame()? {
            let ordered = check(self.image, frame)?;
            let message = format.message(self.image.index()).expect("it was checked as one");
            self.printer.item();
            self.printer.open(b'{');
            decode::fields(self.printer, message, self.image.payload(frame), ordered);
            self.image.end_of(frame)?;
            self.data()?;
            self.printer.close(b'}');
            if self.printer.failed() {
                break; // the caller hears of it
            }
        }
        Ok(())
    }

    fn data(&mut self) -> Result<(), ImageError> {
        let follow = self.image.take_follow();
        let layout = self.image.format().layout;
        if follow == Follow::Nothing {
            return Ok(());
        }
        if !self.payloads {
            return self.size(follow, layout);
        }
        self.printer.key("extra");
        match follow {
            Follow::Nothing => Ok(()),
            Follow::Bytes { len, align_bytes } => {
                self.base64(Some(len))?;
                self.image.zeros(padding(len, align_bytes))
            }
            Follow::Rest => self.base64(None),
            Follow::Tcp { inq_len, outq_len } => {
                self.printer.open(b'{');
                self.printer.key("inq");
                self.base64(Some(inq_len))?;
                self.printer.key("outq");
                self.base64(Some(outq_len))?;
                self.printer.close(b'}');
                Ok(())
            }
            Follow::Semaphores { count } => self.semaphores(count),
            Follow::Messages { count } => self.messages(count),
        }
    }

    /// Bytes of this length, or all that are left.
    fn base64(&mut self, len: Option<u64>) -> Result<(), ImageError> {
        let printer = &mut *self.printer;
        let mut lines = printer.begin_bytes();
        let mut sink = |piece: &[u8]| {
            printer.more_bytes(&mut lines, piece);
            Ok(())
        };
        match len {
            Some(len) => self.image.stream(len, &mut sink)?,
            None => self.image.stream_rest(&mut sink)?,
        }
        self.printer.end_bytes(lines);
        Ok(())
    }

    fn semaphores(&mut self, count: u64) -> Result<(), ImageError> {
        let printer = &mut *self.printer;
        printer.open(b'[');
        let mut low = None;
        self.image.stream(count * 2, &mut |piece| {
            for &byte in piece {
                match low.take() {
                    None => low = Some(byte),
                    Some(low) => {
                        printer.item();
                        printer.unsigned(u64::from(u16::from_le_bytes([low, byte])));
                        printer.pass_on_if_full();
                    }
                }
            }
            Ok(())
        })?;
        printer.close(b']');
        self.image.zeros(padding(count * 2, SEMAPHORES_ALIGN_BYTES))
    }

    /// A record and its data by turns, in one list.
    fn messages(&mut self, count: u32) -> Result<(), ImageError> {
        self.printer.open(b'[');
        for _ in 0..count {
            let (frame, ordered, len) = self.message()?;
            self.printer.item();
            // Numbers are plain here in either form.
            let payload = self.image.payload(frame);
            decode::message(self.printer, schema::message(IpcMsg::INDEX), payload, ordered);
            self.image.consume(frame);
            self.printer.item();
            self.base64(Some(len))?;
            self.image.zeros(padding(len, MESSAGE_ALIGN_BYTES))?;
        }
        self.printer.close(b']');
        Ok(())
    }

    /// The record of a message, whether its fields are in order, and the length of its data.
    fn message(&mut self) -> Result<(Frame, bool, u64), ImageError> {
        let frame = self.image.must_frame()?;
        let ordered = check_as(self.image, frame, IpcMsg::INDEX)?;
        let message = <IpcMsg as prost::Message>::decode(self.image.payload(frame));
        let len = message.map_or(0, |message| u64::from(message.msize));
        Ok((frame, ordered, len))
    }

    /// How large the data is, in place of it. Contents of files are left out without a word.
    fn size(&mut self, follow: Follow, layout: Layout) -> Result<(), ImageError> {
        let begin = self.image.offset();
        let mut nothing = |_: &[u8]| Ok(());
        let len = match follow {
            Follow::Nothing => 0,
            Follow::Bytes { len, align_bytes } => {
                self.image.stream(len, &mut nothing)?;
                self.image.stream(padding(len, align_bytes), &mut nothing)?;
                len
            }
            Follow::Rest => {
                self.image.stream_rest(&mut nothing)?;
                self.image.offset() - begin
            }
            Follow::Tcp { inq_len, outq_len } => {
                self.image.stream(inq_len + outq_len, &mut nothing)?;
                inq_len + outq_len
            }
            Follow::Semaphores { count } => {
                let len = count * 2;
                self.image.stream(len + padding(len, SEMAPHORES_ALIGN_BYTES), &mut nothing)?;
                len
            }
            Follow::Messages { count } => {
                let mut sum = 0;
                for _ in 0..count {
                    let (frame, _, len) = self.message()?;
                    self.image.consume(frame);
                    self.image.stream(len + padding(len, MESSAGE_ALIGN_BYTES), &mut nothing)?;
                    sum += frame.len as u64 + len;
                }
                sum
            }
        };
        if layout != Layout::Ghost {
            self.printer.key("extra");
            self.printer.plain(&format!("... <{}>", human_size(len)));
        }
        Ok(())
    }
}

/// A size as the image tool shows it: `5B`, `1KB`, `1.5KB`.
fn human_size(len: u64) -> String {
    let mut value = len as f64;
    for unit in ["", "K", "M", "G", "T", "P"] {
        if value < 1024.0 {
            let digits = usize::from(value.fract() != 0.0);
            return format!("{value:.digits$}{unit}B");
        }
        value /= 1024.0;
    }
    format!("{value:.1}EB")
}

#[cfg(test)]
mod tests {
    use super::human_size;

    #[test]
    fn sizes_are_shown_as_by_crit() {
        for (len, text) in [
            (0, "0B"),
            (5, "5B"),
            (1023, "1023B"),
            (1024, "1KB"),
            (1536, "1.5KB"),
            (1 << 21, "2MB"),
        ] {
            assert_eq!(human_size(len), text);
        }
        assert_eq!(human_size(1 << 60), "1.0EB");
    }
}
