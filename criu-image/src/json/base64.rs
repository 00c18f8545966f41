//! Base64 as Python's `base64` module has it: lines of 76 characters, and a decoder that passes
//! over what is no base64.
//!
//! Both work piece by piece, since contents of files may be of any size.

/// Bytes that make one line.
const LINE_BYTES: usize = 57;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Line break within a JSON string.
const BREAK: &[u8] = b"\\n";

/// Bytes on their way to lines of base64.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// What has not made a line yet.
    rest: Vec<u8>,
}

impl Lines {
    /// Writes the lines that the bytes complete.
    pub(crate) fn add(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            let (first, others) = bytes.split_at(bytes.len().min(LINE_BYTES - self.rest.len()));
            self.rest.extend_from_slice(first);
            bytes = others;
            if self.rest.len() < LINE_BYTES {
                return;
            }
            line(&self.rest, out);
            self.rest.clear();
        }
        let mut lines = bytes.chunks_exact(LINE_BYTES);
        lines.by_ref().for_each(|bytes| line(bytes, out));
        self.rest.extend_from_slice(lines.remainder());
    }

    /// Writes what is left.
    pub(crate) fn finish(self, out: &mut Vec<u8>) {
        if !self.rest.is_empty() {
            line(&self.rest, out);
        }
    }
}

fn line(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        let digit = |shift: u32| ALPHABET[(bits >> shift & 63) as usize];
        let mut digits = [digit(18), digit(12), digit(6), digit(0)];
        digits[group.len() + 1..].fill(b'=');
        out.extend_from_slice(&digits);
    }
    out.extend_from_slice(BREAK);
}

/// Characters of base64 on their way to bytes.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bits: u32,
    /// Digits in `bits`, at most three.
    digits: u8,
    padding: u8,
    /// Padding has ended the data; the rest is passed over.
    ended: bool,
}

impl Decoder {
    /// Takes a character; gives the byte that it completes.
    #[inline]
    pub(crate) fn add(&mut self, char: u8) -> Option<u8> {
        let value = match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                self.padding += u8::from(self.digits >= 2 && !self.ended);
                self.ended |= self.digits >= 2 && self.digits + self.padding >= 4;
                return None;
            }
            _ => return None,
        };
        if self.ended {
            return None;
        }
        self.padding = 0;
        self.bits = self.bits << 6 | u32::from(value);
        self.digits = (self.digits + 1) % 4;
        match self.digits {
            1 => None,
            2 => Some((self.bits >> 4) as u8),
            3 => Some((self.bits >> 2) as u8),
            _ => Some(self.bits as u8),
        }
    }

    /// Whether the data was whole: digits in groups of four, or ended by padding.
    pub(crate) fn is_whole(&self) -> bool {
        self.ended || self.digits == 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Lines};

    fn encode(bytes: &[u8], piece: usize) -> String {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        bytes.chunks(piece).for_each(|piece| lines.add(piece, &mut out));
        lines.finish(&mut out);
        String::from_utf8(out).expect("base64 is ASCII")
    }

    fn decode(text: &str) -> Option<Vec<u8>> {
        let mut decoder = Decoder::default();
        let bytes = text.bytes().filter_map(|char| decoder.add(char)).collect();
        decoder.is_whole().then_some(bytes)
    }

    #[test]
    fn lines_end_after_76_characters_and_at_the_end() {
        assert_eq!(encode(b"", 1), "");
        assert_eq!(encode(b"a", 1), "YQ==\\n");
        assert_eq!(encode(b"ab", 1), "YWI=\\n");
        assert_eq!(encode(b"abc", 1), "YWJj\\n");
        let two = [&"A".repeat(76), "\\n", "AA==", "\\n"].concat();
        assert_eq!(encode(&[0; 58], 58), two);
    }

    #[test]
    fn pieces_make_no_difference() {
        let bytes: Vec<u8> = (0..1000).map(|index| (index * 7) as u8).collect();
        let whole = encode(&bytes, 1000);
        for piece in [1, 3, 56, 57, 58, 100, 999] {
            assert_eq!(encode(&bytes, piece), whole, "{piece}");
        }
        let lines: String = whole.split("\\n").collect();
        assert_eq!(decode(&lines), Some(bytes));
    }

    #[test]
    fn what_is_no_base64_is_passed_over() {
        assert_eq!(decode("Y W\nJ-j*"), Some(b"abc".to_vec()));
        assert_eq!(decode("YQ=="), Some(b"a".to_vec()));
        assert_eq!(decode("YQ==YQ=="), Some(b"a".to_vec()), "padding ends the data");
        assert_eq!(decode("YWI="), Some(b"ab".to_vec()));
    }

    #[test]
    fn data_that_was_cut_is_refused() {
        for cut in ["Y", "YQ", "YQ=", "YWI", "YWJjY"] {
            assert_eq!(decode(cut), None, "{cut}");
        }
        // A line between others may end anywhere.
        assert_eq!(decode("YWJj\nYQ=="), Some(b"abca".to_vec()));
    }
}
