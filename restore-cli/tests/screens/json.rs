//! JSON as it is printed, made readable and comparable without changing the order of what is in it.

use std::sync::LazyLock;

use regex::Regex;

/// Times and sizes of JSON; what they are called ends alike everywhere.
static VOLATILE: LazyLock<Regex> = LazyLock::new(|| {
    let names = "[a-z_]*(?:_ns|_us|_bytes|unix_s)|ns|bytes|worker";
    Regex::new(&format!(r#"("(?:{names})": ?)-?[0-9]+"#)).expect("it is right")
});
static COLORS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("\x1b\\[[0-9;]*[A-Za-z]").expect("it is right"));

/// Numbers that differ each time become `0`.
pub(crate) fn volatile_left_out(text: &str) -> String {
    VOLATILE.replace_all(text, "${1}0").into_owned()
}

/// The text without what makes colours.
pub(crate) fn without_colors(text: &str) -> String {
    COLORS.replace_all(text, "").into_owned()
}

/// Most columns of an object that stays in one line.
const LINE_MAX: usize = 90;

/// A document in lines: what is short stays in one. Only white space is added.
pub(crate) fn in_lines(text: &str) -> String {
    let (mut out, mut depth) = (String::new(), 0);
    let bytes: Vec<char> = text.chars().collect();
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            '"' => {
                let end = end_of_string(&bytes, index);
                out.extend(&bytes[index..end]);
                index = end;
                continue;
            }
            open @ ('{' | '[') => {
                let end = end_of_value(&bytes, index);
                if depth > 0 && end - index <= LINE_MAX {
                    out.extend(&bytes[index..end]);
                    index = end;
                    continue;
                }
                depth += 1;
                out.push(open);
                new_line(&mut out, depth);
            }
            close @ ('}' | ']') => {
                depth -= 1;
                new_line(&mut out, depth);
                out.push(close);
            }
            ',' => {
                out.push(',');
                new_line(&mut out, depth);
            }
            other => out.push(other),
        }
        index += 1;
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.push_str(&"  ".repeat(depth));
}

/// Behind the quote that ends the string which begins here.
fn end_of_string(text: &[char], begin: usize) -> usize {
    let mut index = begin + 1;
    while text[index] != '"' {
        index += if text[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// Behind the bracket that closes the one here.
fn end_of_value(text: &[char], begin: usize) -> usize {
    let (mut depth, mut index) = (0, begin);
    loop {
        match text[index] {
            '"' => {
                index = end_of_string(text, index);
                continue;
            }
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ => {}
        }
        index += 1;
        if depth == 0 {
            return index;
        }
    }
}
