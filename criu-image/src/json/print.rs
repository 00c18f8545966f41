//! Writes JSON as Python's `json` module does, which is how CRIU's image tool looks.
//!
//! Plain: everything on one line, `", "` and `": "` between things. Readable: four spaces for each
//! level. Everything is ASCII; what is not is escaped.

use std::io::{self, Write};

use super::base64;

/// What is gathered before it is passed on.
const BUFFER_BYTES: usize = 64 << 10;

/// A JSON document that is being written.
///
/// An error of the output is kept and told at the end, so that what writes need not look at each
/// of a hundred million small steps.
#[derive(Debug)]
pub(crate) struct Printer<W> {
    out: W,
    buffer: Vec<u8>,
    /// Flags, names and addresses instead of numbers.
    readable: bool,
    /// A line for each value.
    lines: bool,
    depth: usize,
    /// Nothing stands in the innermost object or list yet.
    fresh: bool,
    failure: Option<io::Error>,
}

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W, readable: bool) -> Self {
        let buffer = Vec::with_capacity(BUFFER_BYTES + (BUFFER_BYTES >> 2));
        Self { out, buffer, readable, lines: readable, depth: 0, fresh: true, failure: None }
    }

    /// For a short text within others: readable, but on one line.
    pub(crate) fn one_line(out: W) -> Self {
        let buffer = Vec::new();
        Self { out, buffer, readable: true, lines: false, depth: 0, fresh: true, failure: None }
    }

    /// Whether numbers are shown for people.
    #[inline]
    pub(crate) fn readable(&self) -> bool {
        self.readable
    }

    /// Begins an object with `{`, or a list with `[`.
    #[inline]
    pub(crate) fn open(&mut self, bracket: u8) {
        self.buffer.push(bracket);
        self.depth += 1;
        self.fresh = true;
    }

    /// Ends the innermost object or list.
    #[inline]
    pub(crate) fn close(&mut self, bracket: u8) {
        self.depth -= 1;
        if !self.fresh && self.lines {
            self.new_line();
        }
        self.buffer.push(bracket);
        self.fresh = false;
        if self.buffer.len() >= BUFFER_BYTES {
            self.pass_on();
        }
    }

    /// Comes before each element of a list.
    #[inline]
    pub(crate) fn item(&mut self) {
        if !self.fresh {
            self.buffer.push(b',');
        }
        if self.lines {
            self.new_line();
        } else if !self.fresh {
            self.buffer.push(b' ');
        }
        self.fresh = false;
    }

    /// Comes before each value of an object. The name needs no escapes.
    #[inline]
    pub(crate) fn key(&mut self, name: &str) {
        self.item();
        self.buffer.push(b'"');
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.extend_from_slice(b"\": ");
    }

    /// A number, or text that needs no escapes.
    #[inline]
    pub(crate) fn raw(&mut self, text: &str) {
        self.buffer.extend_from_slice(text.as_bytes());
    }

    #[inline]
    pub(crate) fn unsigned(&mut self, value: u64) {
        self.raw(itoa::Buffer::new().format(value));
    }

    #[inline]
    pub(crate) fn signed(&mut self, value: i64) {
        self.raw(itoa::Buffer::new().format(value));
    }

    /// A string that needs no escapes.
    #[inline]
    pub(crate) fn plain(&mut self, text: &str) {
        self.buffer.push(b'"');
        self.raw(text);
        self.buffer.push(b'"');
    }

    /// A string of any bytes. What is not UTF-8 becomes U+DC80 to U+DCFF, as file names do in
    /// Python (PEP 383): it is no text, yet comes back byte for byte.
    pub(crate) fn text(&mut self, bytes: &[u8]) {
        self.buffer.push(b'"');
        if bytes.iter().all(|&byte| is_plain(byte)) {
            self.buffer.extend_from_slice(bytes);
        } else {
            for chunk in bytes.utf8_chunks() {
                chunk.valid().chars().for_each(|char| self.escaped(char));
                for &byte in chunk.invalid() {
                    self.unit(0xdc00 | u16::from(byte));
                }
            }
        }
        self.buffer.push(b'"');
    }

    fn escaped(&mut self, char: char) {
        let short = match char {
            '"' => b'"',
            '\\' => b'\\',
            '\n' => b'n',
            '\r' => b'r',
            '\t' => b't',
            '\u{8}' => b'b',
            '\u{c}' => b'f',
            _ if char.is_ascii() && is_plain(char as u8) => {
                self.buffer.push(char as u8);
                return;
            }
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    self.unit(*unit);
                }
                return;
            }
        };
        self.buffer.extend_from_slice(&[b'\\', short]);
    }

    fn unit(&mut self, unit: u16) {
        write!(self.buffer, "\\u{unit:04x}").expect("memory takes all");
    }

    /// Bytes as a string in base64.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let mut lines = self.begin_bytes();
        self.more_bytes(&mut lines, bytes);
        self.end_bytes(lines);
    }

    /// Begins a string in base64 whose bytes come piece by piece.
    pub(crate) fn begin_bytes(&mut self) -> base64::Lines {
        self.buffer.push(b'"');
        base64::Lines::default()
    }

    pub(crate) fn more_bytes(&mut self, lines: &mut base64::Lines, bytes: &[u8]) {
        for piece in bytes.chunks(BUFFER_BYTES >> 2) {
            lines.add(piece, &mut self.buffer);
            self.pass_on_if_full();
        }
    }

    pub(crate) fn end_bytes(&mut self, lines: base64::Lines) {
        lines.finish(&mut self.buffer);
        self.buffer.push(b'"');
        self.pass_on_if_full();
    }

    /// Adds a line break after the document, if asked for, and passes on what is left.
    pub(crate) fn finish(mut self, line_break: bool) -> io::Result<()> {
        if line_break {
            self.buffer.push(b'\n');
        }
        self.pass_on();
        match self.failure {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }

    fn new_line(&mut self) {
        const SPACES: &[u8; 64] = &[b' '; 64];
        self.buffer.push(b'\n');
        let mut left = self.depth * 4;
        while left > 0 {
            let len = left.min(SPACES.len());
            self.buffer.extend_from_slice(&SPACES[..len]);
            left -= len;
        }
    }

    #[inline]
    pub(crate) fn pass_on_if_full(&mut self) {
        if self.buffer.len() >= BUFFER_BYTES {
            self.pass_on();
        }
    }

    /// Whether the output still takes anything; if not, there is no use in going on.
    pub(crate) fn failed(&self) -> bool {
        self.failure.is_some()
    }

    #[cold]
    fn pass_on(&mut self) {
        if self.failure.is_none() {
            self.failure = self.out.write_all(&self.buffer).err();
        }
        self.buffer.clear();
    }
}

/// Whether a byte stands for itself in a JSON string.
fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte) && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::Printer;

    fn printed(readable: bool, print: impl FnOnce(&mut Printer<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, readable);
        print(&mut printer);
        printer.finish(false).expect("memory takes all");
        String::from_utf8(out).expect("JSON is ASCII")
    }

    fn text(bytes: &[u8]) -> String {
        printed(false, |printer| printer.text(bytes))
    }

    fn some(printer: &mut Printer<&mut Vec<u8>>) {
        printer.open(b'{');
        printer.key("a");
        printer.open(b'[');
        printer.item();
        printer.unsigned(1);
        printer.item();
        printer.signed(-2);
        printer.close(b']');
        printer.key("b");
        printer.open(b'{');
        printer.close(b'}');
        printer.close(b'}');
    }

    #[test]
    fn separators_are_those_of_python() {
        assert_eq!(printed(false, some), r#"{"a": [1, -2], "b": {}}"#);
        let readable = "{\n    \"a\": [\n        1,\n        -2\n    ],\n    \"b\": {}\n}";
        assert_eq!(printed(true, some), readable);
    }

    #[test]
    fn text_is_escaped_as_by_python() {
        assert_eq!(text(b"a/b \"c\" \\"), r#""a/b \"c\" \\""#);
        assert_eq!(text(b"\n\r\t\x08\x0c\x00\x1f\x7f"), r#""\n\r\t\b\f\u0000\u001f\u007f""#);
        assert_eq!(text("é\u{ffff}\u{1f600}".as_bytes()), r#""\u00e9\uffff\ud83d\ude00""#);
    }

    /// crit writes such a path as the text of a Python literal, and saves that when it encodes.
    #[test]
    fn path_that_is_not_utf8_keeps_its_bytes() {
        assert_eq!(text(b"/x/\xff\xfe"), r#""/x/\udcff\udcfe""#);
        // What would be a surrogate in UTF-8 is not UTF-8.
        assert_eq!(text(b"\xed\xb3\xbf"), r#""\udced\udcb3\udcbf""#);
    }

    #[test]
    fn long_document_is_passed_on_whole() {
        let list = printed(false, |printer| {
            printer.open(b'[');
            for value in 0..100_000 {
                printer.item();
                printer.open(b'{');
                printer.key("n");
                printer.unsigned(value);
                printer.close(b'}');
            }
            printer.close(b']');
        });
        assert_eq!(list.matches("{\"n\": ").count(), 100_000);
        assert!(list.starts_with("[{\"n\": 0}, ") && list.ends_with(", {\"n\": 99999}]"));
    }
}
