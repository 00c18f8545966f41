//! Texts inside of SVG and HTML: whatever they hold, they end no element and no attribute.

/// The text as it stands in markup, between elements or in quotes of either kind.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no way to write other control characters.
            char if char.is_control() && char != '\n' => escaped.push('\u{fffd}'),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn texts_cannot_end_their_element() {
        assert_eq!(escape("<a b=\"&\">\n\u{1}"), "&lt;a b=&quot;&amp;&quot;&gt;\n\u{fffd}");
        assert_eq!(escape("it's"), "it&#39;s");
    }
}
