//! Names of unix sockets as quoted-printable text, as Python's `quopri` module writes it.
//!
//! Python's form keeps line breaks as they are, and makes all of them alike. Where that would lose
//! bytes, line breaks are quoted too: the result is then not Python's, but comes back.

/// Longest line, with the `=` that continues it.
const LINE_CHARS: usize = 76;

/// Bytes as quoted text, which is ASCII.
pub(crate) fn encode(bytes: &[u8]) -> Vec<u8> {
    let text = encode_with(bytes, false);
    if decode(&text) == bytes { text } else { encode_with(bytes, true) }
}

fn encode_with(bytes: &[u8], quote_breaks: bool) -> Vec<u8> {
    let first_break = bytes.iter().position(|&byte| byte == b'\n');
    let crlf = first_break.is_some_and(|at| at > 0 && bytes[at - 1] == b'\r');
    let line_break: &[u8] = if crlf && !quote_breaks { b"\r\n" } else { b"\n" };
    let mut out = Vec::with_capacity(bytes.len());
    let mut line_len = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (byte, next) = (bytes[at], bytes.get(at + 1).copied());
        at += 1;
        let is_break = byte == b'\n' || byte == b'\r' && next == Some(b'\n');
        if is_break && !quote_breaks {
            quote_last_blank(&mut out);
            out.extend_from_slice(line_break);
            line_len = 0;
            at += usize::from(byte == b'\r');
        } else if must_quote(byte, next, line_len == 0, quote_breaks) {
            if line_len + 3 >= LINE_CHARS {
                out.push(b'=');
                out.extend_from_slice(line_break);
                line_len = 0;
            }
            quote(byte, &mut out);
            line_len += 3;
        } else {
            if line_len + 1 >= LINE_CHARS && next.is_some_and(|next| next != b'\n') {
                out.push(b'=');
                out.extend_from_slice(line_break);
                line_len = 0;
            }
            out.push(byte);
            line_len += 1;
        }
    }
    out
}

fn must_quote(byte: u8, next: Option<u8>, begins_line: bool, quote_breaks: bool) -> bool {
    match byte {
        b'=' | 127.. => true,
        b'.' => begins_line && matches!(next, None | Some(b'\n' | b'\r' | 0)),
        b'\n' | b'\r' => quote_breaks,
        b' ' | b'\t' => next.is_none(),
        _ => byte < b' ',
    }
}

/// A blank before a line break would be lost on the way.
fn quote_last_blank(out: &mut Vec<u8>) {
    if let Some(&blank @ (b' ' | b'\t')) = out.last() {
        out.pop();
        quote(blank, out);
    }
}

fn quote(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |value: u8| DIGITS[usize::from(value)];
    out.extend_from_slice(&[b'=', digit(byte >> 4), digit(byte & 15)]);
}

/// Quoted text as bytes. An `=` that quotes nothing stands for itself.
pub(crate) fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'=' {
            out.push(byte);
            continue;
        }
        match after {
            [] => {}
            [b'\n' | b'\r', ..] => {
                let end = after.iter().position(|&byte| byte == b'\n');
                rest = end.map_or(&[], |end| &after[end + 1..]);
            }
            [b'=', others @ ..] => {
                out.push(b'=');
                rest = others;
            }
            [high, low, others @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(value_of(*high) << 4 | value_of(*low));
                rest = others;
            }
            _ => out.push(b'='),
        }
    }
    out
}

fn value_of(digit: u8) -> u8 {
    (digit as char).to_digit(16).map_or(0, |value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    fn check(bytes: &[u8], text: &str) {
        assert_eq!(String::from_utf8_lossy(&encode(bytes)), text, "{bytes:?}");
        assert_eq!(decode(text.as_bytes()), bytes, "{text:?}");
    }

    /// Expected texts are what Python 3.11 gives.
    #[test]
    fn names_are_quoted_as_by_python() {
        check(b"", "");
        check(b"/run/socket", "/run/socket");
        check(b"\0abs=\xff", "=00abs=3D=FF");
        check(b"a b\t", "a b=09");
        check(b"a \nb", "a=20\nb");
        check(b".\n.x\n.", "=2E\n.x\n=2E");
        check(b"a\r\nb\r\n", "a\r\nb\r\n");
        check(b"lone\rreturn", "lone\rreturn");
        let long = "x".repeat(80);
        check(long.as_bytes(), &format!("{}=\n{}", "x".repeat(75), "x".repeat(5)));
        check(&[0xff; 26], &format!("{}=\n=FF", "=FF".repeat(25)));
    }

    /// Python makes all line breaks alike, so such a name does not come back from crit.
    #[test]
    fn name_with_both_kinds_of_line_breaks_comes_back() {
        check(b"a\r\nb\nc", "a=0D=0Ab=0Ac");
        check(b"a\nb\r\nc", "a=0Ab=0D=0Ac");
    }

    #[test]
    fn text_that_quotes_nothing_is_read_as_by_python() {
        for (text, bytes) in [
            ("a=", &b"a"[..]),
            ("a==b", b"a=b"),
            ("a=g1", b"a=g1"),
            ("a=\r\nb", b"ab"),
            ("a=\rb", b"a"),
            ("=4", b"=4"),
            ("=4a=4A", b"JJ"),
        ] {
            assert_eq!(decode(text.as_bytes()), bytes, "{text}");
        }
    }

    #[test]
    fn every_short_name_comes_back() {
        let chars = [b'a', b'.', b'=', b' ', b'\t', b'\r', b'\n', 0, 0xff];
        for index in 0..chars.len().pow(5) {
            let mut rest = index;
            let name: Vec<u8> = std::iter::repeat_with(|| {
                let char = chars[rest % chars.len()];
                rest /= chars.len();
                char
            })
            .take(5)
            .collect();
            assert_eq!(decode(&encode(&name)), name, "{name:?}");
        }
    }
}
