//! The text of an error as a form: values are shown by their names.

use syn::{Attribute, LitStr};

/// The form of an `#[error(...)]`; nothing if the text is that of the error inside.
pub(super) fn form(attrs: &[Attribute]) -> Option<String> {
    let attr = attrs.iter().find(|attr| attr.path().is_ident("error"))?;
    let parsed = attr.parse_args_with(|input: syn::parse::ParseStream<'_>| {
        let text: LitStr = input.parse()?;
        let mut tokens: Vec<String> = Vec::new();
        while !input.is_empty() {
            input.step(|cursor| match cursor.token_tree() {
                Some((token, rest)) => {
                    tokens.push(token.to_string());
                    Ok(((), rest))
                }
                None => Err(cursor.error("a token is expected")),
            })?;
        }
        Ok((text.value(), tokens))
    });
    let (text, tokens) = parsed.ok()?;
    let arguments: Vec<String> = tokens.split(|token| token == ",").skip(1).map(name).collect();
    Some(fill(&text, &arguments))
}

/// How an argument is shown: `path.display()` as its field, what to do (which stands apart in the
/// list) not at all.
fn name(tokens: &[String]) -> String {
    let field = tokens.iter().find(|token| *token != "." && *token != "*");
    match field {
        Some(field) if field.ends_with("advised") || field == "Advice" => String::new(),
        Some(field) if is_field(field) => format!("<{field}>"),
        _ => "...".to_owned(),
    }
}

fn is_field(word: &str) -> bool {
    word.starts_with(|char: char| char.is_ascii_lowercase())
}

fn fill(text: &str, arguments: &[String]) -> String {
    let mut arguments = arguments.iter();
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        if rest[at..].starts_with("{{") || rest[at..].starts_with("}}") {
            out.push_str(&rest[at..=at]);
            rest = &rest[at + 2..];
            continue;
        }
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end);
        let value = rest[at + 1..end].split(':').next().unwrap_or_default();
        match value {
            "" => out.push_str(arguments.next().map_or("...", String::as_str)),
            field if is_field(field) => out.push_str(&format!("<{field}>")),
            _ => out.push_str("..."),
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::form;

    fn check(attribute: &str, expected: Option<&str>) {
        let item = format!("{attribute} struct A;");
        let item: syn::ItemStruct = syn::parse_str(&item).expect("an item");
        assert_eq!(form(&item.attrs).as_deref(), expected, "{attribute}");
    }

    #[test]
    fn values_are_shown_by_name() {
        check(r#"#[error("{file} at {at:#x}")]"#, Some("<file> at <at>"));
        check(r#"#[error("{} of {what}", path.display())]"#, Some("<path> of <what>"));
        check(r#"#[error("{call}: {errno}{}", advised(*.errno))]"#, Some("<call>: <errno>"));
        check(r#"#[error("{} thing(s), {0}, {LIMIT}", .0.len())]"#, Some("... thing(s), ..., ..."));
        check(r#"#[error("{}", .labels.join(" waits for "))]"#, Some("<labels>"));
        check(r#"#[error("a {{b}}")]"#, Some("a {b}"));
        check("#[error(transparent)]", None);
        check("", None);
    }
}
