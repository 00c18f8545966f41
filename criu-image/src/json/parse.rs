//! Reads JSON piece by piece, in as much memory as the longest single value needs.
//!
//! It takes what Python's `json` module takes, but for numbers with a fraction, `NaN` and
//! `Infinity`, which no image has. A string is bytes: U+DC80 to U+DCFF are bytes that are no UTF-8
//! (see [`Printer::text`](super::print::Printer::text)). It knows no images.

use std::io::{self, Read};

use super::JsonError;
use crate::image::window::Window;

/// Longest string that is held in memory, and longest value that is kept for later. Larger ones are
/// data of images, which are passed on piece by piece.
pub(crate) const HELD_BYTES_MAX: usize = 256 << 20;
/// Longer than any number that fits 64 bits.
const NUMBER_CHARS_MAX: usize = 24;

/// So many digits always fit 64 bits.
const DIGITS_SAFE: usize = 19;

/// A whole number as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) negative: bool,
    pub(crate) magnitude: u64,
}

/// JSON that is being read.
#[derive(Debug)]
pub(crate) struct Parser<R> {
    window: Window<R>,
    /// Offset of the first byte in the whole document.
    base: u64,
}

impl<R: Read> Parser<R> {
    pub(crate) fn new(input: R, base: u64) -> Self {
        Self { window: Window::new(input), base }
    }

    /// Offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.base + self.window.offset()
    }

    pub(crate) fn syntax(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { offset: self.offset(), expected }
    }

    /// The next byte that is no white space.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<u8, JsonError> {
        loop {
            match self.window.peek().map_err(JsonError::Input)? {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.window.consume(1),
                Some(byte) => return Ok(byte),
                None => return Err(self.syntax("more")),
            }
        }
    }

    /// Takes this byte, which must come next but for white space.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), JsonError> {
        if self.peek()? != byte {
            return Err(self.syntax(expected));
        }
        self.window.consume(1);
        Ok(())
    }

    /// Goes to the next element of a list that was opened; `false` at its end.
    #[inline]
    pub(crate) fn next_item(&mut self, first: &mut bool) -> Result<bool, JsonError> {
        self.next_of(first, b']', "a comma or the end of the list")
    }

    /// Reads the next name of an object that was opened into `name`; `false` at its end.
    #[inline]
    pub(crate) fn next_key(
        &mut self,
        first: &mut bool,
        name: &mut Vec<u8>,
    ) -> Result<bool, JsonError> {
        if !self.next_of(first, b'}', "a comma or the end of the object")? {
            return Ok(false);
        }
        self.string(name)?;
        self.take(b':', "a colon")?;
        Ok(true)
    }

    /// Passes over the next name of an object if it is this one, written as Python does. What
    /// [`next_key`](Self::next_key) does in the usual case, in half the time.
    #[inline]
    pub(crate) fn next_key_is(&mut self, first: &mut bool, name: &str) -> bool {
        let bytes = self.window.bytes();
        let rest = if *first { Some(bytes) } else { bytes.strip_prefix(b", ") };
        let rest = rest.and_then(|rest| rest.strip_prefix(b"\""));
        let rest = rest.and_then(|rest| rest.strip_prefix(name.as_bytes()));
        let Some(rest) = rest.and_then(|rest| rest.strip_prefix(b"\": ")) else { return false };
        let len = bytes.len() - rest.len();
        self.window.consume(len);
        *first = false;
        true
    }

    #[inline]
    fn next_of(
        &mut self,
        first: &mut bool,
        end: u8,
        expected: &'static str,
    ) -> Result<bool, JsonError> {
        let byte = self.peek()?;
        if byte == end {
            self.window.consume(1);
            return Ok(false);
        }
        if !std::mem::replace(first, false) {
            self.take(b',', expected)?;
            if self.peek()? == end {
                return Err(self.syntax("another value after the comma"));
            }
        }
        Ok(true)
    }

    /// Reads a string of bounded length; `into` is emptied before.
    #[inline]
    pub(crate) fn string(&mut self, into: &mut Vec<u8>) -> Result<(), JsonError> {
        into.clear();
        let begin = self.offset();
        self.pieces(&mut |piece| {
            if into.len() + piece.len() > HELD_BYTES_MAX {
                return Err(JsonError::Syntax { offset: begin, expected: "a shorter string" });
            }
            into.extend_from_slice(piece);
            Ok(())
        })
    }

    /// Reads a string of any length.
    pub(crate) fn pieces(
        &mut self,
        sink: &mut impl FnMut(&[u8]) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.take(b'"', "a string")?;
        loop {
            self.window.want(1).map_err(JsonError::Input)?;
            let bytes = self.window.bytes();
            let plain = bytes.iter().position(|&byte| !is_plain(byte)).unwrap_or(bytes.len());
            if plain > 0 {
                sink(&bytes[..plain])?;
            }
            let special = bytes.get(plain).copied();
            self.window.consume(plain);
            match special {
                Some(b'"') => {
                    self.window.consume(1);
                    return Ok(());
                }
                Some(b'\\') => self.escape(sink)?,
                Some(byte @ 0x80..) => self.character(byte, sink)?,
                Some(_) => return Err(self.syntax("no control character in a string")),
                None if plain == 0 => return Err(self.syntax("the end of the string")),
                None => {}
            }
        }
    }

    fn escape(
        &mut self,
        sink: &mut impl FnMut(&[u8]) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        self.window.want(2).map_err(JsonError::Input)?;
        let byte = match self.window.bytes().get(1) {
            Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'u') => return self.unicode(sink),
            _ => return Err(self.syntax("an escape")),
        };
        self.window.consume(2);
        sink(&[byte])
    }

    fn unicode(
        &mut self,
        sink: &mut impl FnMut(&[u8]) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        const BAD: &str = "a character: this is half of one";
        let unit = self.unit()?;
        let mut code = u32::from(unit);
        if (0xd800..0xdc00).contains(&unit) {
            let begin = self.offset();
            self.window.want(2).map_err(JsonError::Input)?;
            if !self.window.bytes().starts_with(b"\\u") {
                return Err(self.syntax(BAD));
            }
            let low = self.unit()?;
            if !(0xdc00..0xe000).contains(&low) {
                return Err(JsonError::Syntax { offset: begin, expected: BAD });
            }
            code = 0x1_0000 + (u32::from(unit - 0xd800) << 10) + u32::from(low - 0xdc00);
        } else if (0xdc80..0xdd00).contains(&unit) {
            return sink(&[(unit & 0xff) as u8]);
        }
        let char = char::from_u32(code).ok_or_else(|| self.syntax(BAD))?;
        sink(char.encode_utf8(&mut [0; 4]).as_bytes())
    }

    /// `\uXXXX`
    fn unit(&mut self) -> Result<u16, JsonError> {
        self.window.want(6).map_err(JsonError::Input)?;
        let digits = self.window.bytes().get(2..6).filter(|d| d.iter().all(u8::is_ascii_hexdigit));
        let unit = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let unit = unit.ok_or_else(|| self.syntax("four hexadecimal digits"))?;
        self.window.consume(6);
        Ok(unit)
    }

    /// A character of several bytes.
    fn character(
        &mut self,
        lead: u8,
        sink: &mut impl FnMut(&[u8]) -> Result<(), JsonError>,
    ) -> Result<(), JsonError> {
        let len = lead.leading_ones() as usize;
        self.window.want(len).map_err(JsonError::Input)?;
        let bytes = self.window.bytes().get(..len).unwrap_or_default();
        if std::str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == 1) {
            sink(bytes)?;
            self.window.consume(len);
            return Ok(());
        }
        Err(self.syntax("UTF-8"))
    }

    /// Reads a whole number.
    #[inline]
    pub(crate) fn number(&mut self) -> Result<Number, JsonError> {
        self.peek()?;
        self.window.want(NUMBER_CHARS_MAX).map_err(JsonError::Input)?;
        let bytes = self.window.bytes();
        let negative = bytes.first() == Some(&b'-');
        let begin = usize::from(negative);
        let mut at = begin;
        let mut magnitude: u64 = 0;
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            at += 1;
        }
        let digits = &bytes[begin..at];
        let zero = bytes.get(begin) == Some(&b'0') && at > begin + 1;
        if at == begin || zero || matches!(bytes.get(at), Some(b'.' | b'e' | b'E')) {
            return Err(self.syntax("a whole number"));
        }
        if digits.len() > DIGITS_SAFE && !is_of_64_bits(digits) {
            return Err(self.syntax("a number of 64 bits"));
        }
        self.window.consume(at);
        Ok(Number { negative, magnitude })
    }

    /// Reads `true` or `false`.
    pub(crate) fn truth(&mut self) -> Result<bool, JsonError> {
        let (word, value): (&[u8], bool) = match self.peek()? {
            b't' => (b"true", true),
            _ => (b"false", false),
        };
        self.window.want(word.len()).map_err(JsonError::Input)?;
        if !self.window.bytes().starts_with(word) {
            return Err(self.syntax("true or false"));
        }
        self.window.consume(word.len());
        Ok(value)
    }

    /// Copies a value as it is written, to be read later; whether it is one is seen then.
    pub(crate) fn keep(&mut self, into: &mut Vec<u8>) -> Result<(), JsonError> {
        self.peek()?;
        let mut scan = Scan::default();
        loop {
            self.window.want(1).map_err(JsonError::Input)?;
            let bytes = self.window.bytes();
            if bytes.is_empty() {
                return Err(self.syntax("more"));
            }
            let len = bytes.iter().position(|&byte| !scan.goes_on(byte)).unwrap_or(bytes.len());
            into.extend_from_slice(&bytes[..len]);
            let is_whole = len < bytes.len();
            self.window.consume(len);
            if into.len() > HELD_BYTES_MAX {
                let expected = "a shorter value, or \"magic\" first and \"extra\" last";
                return Err(self.syntax(expected));
            }
            if is_whole {
                return Ok(());
            }
        }
    }

    /// The document must end here.
    pub(crate) fn end(&mut self) -> Result<(), JsonError> {
        loop {
            match self.window.peek().map_err(JsonError::Input)? {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.window.consume(1),
                Some(_) => return Err(self.syntax("the end")),
                None => return Ok(()),
            }
        }
    }

    /// Whether the first byte can be that of a document.
    pub(crate) fn begins_like_json(&mut self) -> io::Result<bool> {
        let first = self.window.peek()?;
        Ok(matches!(first, None | Some(b'{' | b' ' | b'\n' | b'\r' | b'\t')))
    }
}

#[cold]
fn is_of_64_bits(digits: &[u8]) -> bool {
    std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u64>().is_ok())
}

/// How far a value has been copied.
#[derive(Debug, Default)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The value was closed; the next byte is not its own.
    closed: bool,
}

impl Scan {
    /// Whether this byte belongs to the value.
    fn goes_on(&mut self, byte: u8) -> bool {
        if self.closed {
            return false;
        }
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            self.closed = !self.in_string && self.depth == 0;
            return true;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' | b',' | b' ' | b'\n' | b'\r' | b'\t' if self.depth == 0 => return false,
            b'}' | b']' => {
                self.depth -= 1;
                self.closed = self.depth == 0;
            }
            _ => {}
        }
        true
    }
}

/// Whether a byte of a string stands for itself.
#[inline]
fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::{Number, Parser};

    fn string(json: &str) -> Option<Vec<u8>> {
        let mut parser = Parser::new(json.as_bytes(), 0);
        let mut text = Vec::new();
        parser.string(&mut text).and_then(|()| parser.end()).ok().map(|()| text)
    }

    fn number(json: &str) -> Option<Number> {
        let mut parser = Parser::new(json.as_bytes(), 0);
        parser.number().and_then(|number| parser.end().map(|()| number)).ok()
    }

    #[test]
    fn strings_are_bytes() {
        assert_eq!(string(r#" "a\"\\\/\n" "#), Some(b"a\"\\/\n".to_vec()));
        assert_eq!(string(r#""\u00e9\ud83d\ude00""#), Some("é\u{1f600}".into()));
        assert_eq!(string("\"é\u{1f600}\""), Some("é\u{1f600}".into()));
        assert_eq!(string(r#""/x/\udcff\udcfe""#), Some(b"/x/\xff\xfe".to_vec()));
    }

    #[test]
    fn halves_of_characters_and_cut_strings_are_refused() {
        for json in [
            r#""\ud83d""#,
            r#""\ud83d\u0041""#,
            r#""\udc00""#,
            r#""\u12""#,
            r#""\x""#,
            r#""a"#,
            r#""a\"#,
            "\"\n\"",
        ] {
            assert_eq!(string(json), None, "{json}");
        }
        let mut parser = Parser::new(&b"\"\xff\""[..], 0);
        assert!(parser.string(&mut Vec::new()).is_err());
    }

    #[test]
    fn numbers_are_whole_and_of_64_bits() {
        let value = |negative, magnitude| Some(Number { negative, magnitude });
        assert_eq!(number("0"), value(false, 0));
        assert_eq!(number("-12"), value(true, 12));
        assert_eq!(number("18446744073709551615"), value(false, u64::MAX));
        for digits in 1..=19 {
            for digit in ["1", "9"] {
                let text = digit.repeat(digits);
                assert_eq!(number(&text), value(false, text.parse().expect("it fits")));
            }
        }
        for json in [
            "18446744073709551616",
            "28446744073709551615",
            "1.0",
            "1e3",
            "01",
            "-",
            "+1",
            "NaN",
            "",
            "1x",
        ] {
            assert_eq!(number(json), None, "{json}");
        }
    }

    #[test]
    fn kept_value_is_copied_as_it_is_written() {
        for (json, kept) in [
            ("{\"a\": [1, \"]}\\\"\"]}, 2", "{\"a\": [1, \"]}\\\"\"]}"),
            (" 12,", "12"),
            ("\"a\\\\\" ]", "\"a\\\\\""),
            ("[]}", "[]"),
        ] {
            let mut into = Vec::new();
            Parser::new(json.as_bytes(), 0).keep(&mut into).expect("it is a value");
            assert_eq!(String::from_utf8_lossy(&into), kept);
        }
        assert!(Parser::new(&b"[1, 2"[..], 0).keep(&mut Vec::new()).is_err());
    }

    #[test]
    fn lists_have_commas_between_elements_only() {
        let list = |json: &str| {
            let mut parser = Parser::new(json.as_bytes(), 0);
            parser.take(b'[', "a list")?;
            let (mut first, mut count) = (true, 0);
            while parser.next_item(&mut first)? {
                parser.number()?;
                count += 1;
            }
            parser.end().map(|()| count)
        };
        assert_eq!(list("[]").ok(), Some(0));
        assert_eq!(list("[1, 2 ,3]").ok(), Some(3));
        for json in ["[1,]", "[,1]", "[1 2]", "[1", "[1}"] {
            assert!(list(json).is_err(), "{json}");
        }
    }
}
