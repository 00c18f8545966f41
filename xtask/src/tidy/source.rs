//! The code of a Rust file line by line, without its comments and without what stands in quotes.
//!
//! It is no parser: it knows comments, strings and characters, so that a rule which looks for a
//! word does not find it in prose. Line numbers stay as they are.

/// Stands for each character inside quotes, so that such a line still counts as code.
const FILLER: char = '"';

/// Where the reader is between two characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Code,
    LineComment,
    /// How deep; block comments nest.
    BlockComment(usize),
    String,
    /// Number of `#` that end it with a quote.
    RawString(usize),
}

/// The code of each line.
pub(super) fn code_lines(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut lines = vec![String::new()];
    let mut place = Place::Code;
    let mut index = 0;
    while index < chars.len() {
        if chars[index] == '\n' {
            if place == Place::LineComment {
                place = Place::Code;
            }
            lines.push(String::new());
            index += 1;
            continue;
        }
        let line = lines.last_mut().expect("it begins with one");
        let (next, length) = step(&chars, index, place);
        for &char in &chars[index..index + length] {
            match (place, next) {
                (Place::Code, Place::Code) if length == 1 => line.push(char),
                // What is longer than one character within code is a character literal.
                (Place::Code, Place::Code | Place::String | Place::RawString(_))
                | (Place::String | Place::RawString(_), _)
                    if !char.is_whitespace() =>
                {
                    line.push(FILLER);
                }
                _ => {}
            }
        }
        place = next;
        index += length;
    }
    if text.ends_with('\n') {
        lines.pop();
    }
    lines
}

/// Where the reader is after the next characters, and how many they are.
fn step(chars: &[char], index: usize, place: Place) -> (Place, usize) {
    let pair = (chars[index], chars.get(index + 1).copied());
    match (place, pair) {
        (Place::Code, ('/', Some('/'))) => (Place::LineComment, 2),
        (Place::Code, ('/', Some('*'))) => (Place::BlockComment(1), 2),
        (Place::Code, ('"', _)) => (Place::String, 1),
        (Place::Code, ('r', Some('"' | '#'))) => raw_string(chars, index),
        (Place::Code, ('\'', _)) => (Place::Code, character(chars, index)),
        (Place::BlockComment(depth), ('/', Some('*'))) => (Place::BlockComment(depth + 1), 2),
        (Place::BlockComment(1), ('*', Some('/'))) => (Place::Code, 2),
        (Place::BlockComment(depth), ('*', Some('/'))) => (Place::BlockComment(depth - 1), 2),
        (Place::String, ('\\', Some(escaped))) if escaped != '\n' => (Place::String, 2),
        (Place::String, ('"', _)) => (Place::Code, 1),
        (Place::RawString(hashes), ('"', _)) => {
            let end = chars[index + 1..].iter().take(hashes);
            if end.filter(|&&char| char == '#').count() == hashes {
                (Place::Code, 1 + hashes)
            } else {
                (place, 1)
            }
        }
        _ => (place, 1),
    }
}

/// An `r` in code: the begin of a raw string, or part of a name.
fn raw_string(chars: &[char], index: usize) -> (Place, usize) {
    let hashes = chars[index + 1..].iter().take_while(|&&char| char == '#').count();
    let before = chars[..index].iter().rev();
    let prefix: String =
        before.take_while(|char| char.is_alphanumeric() || **char == '_').collect();
    let quote = chars.get(index + 1 + hashes) == Some(&'"');
    if quote && ["", "b", "c"].contains(&prefix.as_str()) {
        (Place::RawString(hashes), 2 + hashes)
    } else {
        (Place::Code, 1)
    }
}

/// A single quote in code: how long the character literal is, or 1 if it begins a lifetime.
fn character(chars: &[char], index: usize) -> usize {
    let rest = &chars[index + 1..];
    if rest.first() == Some(&'\\') {
        // The escaped character may itself be the quote.
        let end = rest.iter().skip(2).position(|&char| char == '\'');
        return end.map_or(1, |end| end + 4);
    }
    if rest.get(1) == Some(&'\'') { 3 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::{FILLER, code_lines};

    /// In `expected` each `_` stands for a filled character.
    fn check(text: &str, expected: &[&str]) {
        let lines = code_lines(text);
        let lines: Vec<String> = lines.iter().map(|line| line.replace(FILLER, "_")).collect();
        assert_eq!(lines, expected, "{text}");
    }

    #[test]
    fn comments_are_left_out() {
        check("a; // b\n/// c\nd", &["a; ", "", "d"]);
        check("a /* b /* c\n d */ e */ f\n", &["a ", " f"]);
    }

    #[test]
    fn contents_of_strings_are_filled() {
        check("f(\"// a\", b)\n", &["f(_____, b)"]);
        check("f(\"\\\"\", b) // c\n", &["f(____, b) "]);
        check("\"a\n  unsafe\n\"; b\n", &["__", "______", "_; b"]);
        check("r#\"a\" b\"# c\n", &["________ c"]);
        check("br\"\\\" c\n", &["b____ c"]);
    }

    #[test]
    fn lifetimes_and_names_are_code() {
        check("'\"' '\\'' '\\u{1}' x", &["___ ____ _______ x"]);
        check("f::<'a>('b', \"c\")", &["f::<'a>(___, ___)"]);
        check("for r#in in bar {}", &["for r#in in bar {}"]);
    }
}
