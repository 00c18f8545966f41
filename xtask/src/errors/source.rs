//! Codes as the source has them: in a function `code` of an error, or in a table of `ErrorCode`s.
//!
//! It understands the plain forms that errors are written in here, and says so of any other:
//!
//! - `match self` with an arm for each variant (or several of one, told apart by `Errno::...` in
//!   the pattern or `ErrorKind::...` in a guard), whose body holds the code as a string. A body
//!   without a string passes on the code of what is inside.
//! - one string, for an error that is a struct;
//! - `const LOG: ErrorCode = ErrorCode { code: "...", meaning: "...", help: "..." }`, or a table
//!   `const CODES: &[ErrorCode] = &[ErrorCode { code: "...", meaning: "...", help: "..." }, ..]`,
//!   for what is no type of its own.
//!
//! `help` is read alike. Where it calls a function, that function's `match` of an errno or the
//! constant table of the same name (`ADVICE` for `advice`) is what can be said.

use std::collections::BTreeMap;

use syn::visit::{self, Visit};
use syn::{Arm, Attribute, Expr, ImplItem, Item, ItemImpl, Lit, Pat, Stmt, Type};

use super::message;
use super::{Entry, Help, Meaning};

/// What a file says.
struct Source<'a> {
    path: &'a str,
    /// Documentation and form of types and variants: `A` and `A::B`.
    documented: BTreeMap<String, (String, Option<String>)>,
    /// Advice by the name of the function that gives it.
    advice: BTreeMap<String, Vec<Advice>>,
}

/// What to do for some errors of the kernel.
struct Advice {
    operation: Option<String>,
    errnos: Vec<String>,
    text: String,
}

/// Adds what a file has.
pub(super) fn read(path: &str, text: &str, entries: &mut Vec<Entry>, faults: &mut Vec<String>) {
    if !text.contains("fn code(") && !text.contains("ErrorCode") {
        return;
    }
    let file = match syn::parse_file(text) {
        Ok(file) => file,
        Err(error) => return faults.push(format!("{path}: {error}")),
    };
    let mut source = Source { path, documented: BTreeMap::new(), advice: BTreeMap::new() };
    file.items.iter().for_each(|item| source.note(item));
    for item in &file.items {
        match item {
            Item::Impl(item) if item.trait_.is_none() => source.codes(item, entries, faults),
            Item::Const(item) => source.table(&item.ty, &item.expr, entries, faults),
            Item::Static(item) => source.table(&item.ty, &item.expr, entries, faults),
            _ => {}
        }
    }
}

impl Source<'_> {
    fn note(&mut self, item: &Item) {
        match item {
            Item::Enum(item) => {
                for variant in &item.variants {
                    let name = format!("{}::{}", item.ident, variant.ident);
                    let said = (doc(&variant.attrs), message::form(&variant.attrs));
                    self.documented.insert(name, said);
                }
            }
            Item::Struct(item) => {
                let said = (doc(&item.attrs), message::form(&item.attrs));
                self.documented.insert(item.ident.to_string(), said);
            }
            Item::Fn(item) => {
                let mut arms = Arms::default();
                arms.visit_block(&item.block);
                let advice = arms.0.iter().filter_map(advice_of_arm).collect();
                self.advice.entry(item.sig.ident.to_string()).or_insert(advice);
            }
            Item::Const(item) => {
                let mut rows = Rows::default();
                rows.visit_expr(&item.expr);
                let name = item.ident.to_string().to_lowercase();
                if !rows.0.is_empty() {
                    self.advice.insert(name, rows.0);
                }
            }
            _ => {}
        }
    }

    /// The codes of a type, if it has any.
    fn codes(&self, item: &ItemImpl, entries: &mut Vec<Entry>, faults: &mut Vec<String>) {
        let Type::Path(of) = &*item.self_ty else { return };
        let Some(name) = of.path.segments.last().map(|last| last.ident.to_string()) else { return };
        let Some(code) = body(item, "code") else { return };
        let owner = format!("{}: {name}", self.path);
        let help = body(item, "help");
        let Expr::Match(matched) = code else {
            let (doc, form) = self.documented.get(&name).cloned().unwrap_or_default();
            let texts = help.map(strings).unwrap_or_default();
            let help: Vec<Help> = texts.into_iter().map(|text| Help { when: None, text }).collect();
            entries.extend(strings(code).into_iter().map(|code| {
                let meanings =
                    vec![Meaning { doc: doc.clone(), form: form.clone(), errnos: Vec::new() }];
                Entry { code, owner: owner.clone(), meanings, help: help.clone() }
            }));
            return;
        };
        let helps = match help {
            Some(Expr::Match(helps)) => helps.arms.as_slice(),
            _ => &[],
        };
        for arm in &matched.arms {
            for code in strings(&arm.body) {
                let cases = cases(arm);
                if cases.is_empty() {
                    faults.push(format!("{owner}: {code} is not the code of a variant"));
                    continue;
                }
                let others = claimed(&matched.arms);
                let mut entry =
                    Entry { code, owner: owner.clone(), meanings: Vec::new(), help: Vec::new() };
                for case in &cases {
                    let known = self.documented.get(&format!("{name}::{}", case.variant));
                    let (doc, form) = known.cloned().unwrap_or_default();
                    entry.meanings.push(Meaning { doc, form, errnos: case.errnos.clone() });
                    entry.help.extend(self.help(case, helps, &others));
                }
                entries.push(entry);
            }
        }
    }

    /// What to do in a case: what the first arm says that is for it.
    fn help(&self, case: &Case, helps: &[Arm], others: &[String]) -> Vec<Help> {
        let is_for = |arm: &&Arm| {
            cases(arm).iter().any(|other| {
                other.variant == case.variant
                    && (other.errnos.is_empty() || meet(&other.errnos, &case.errnos))
            })
        };
        let Some(arm) = helps.iter().find(is_for) else { return Vec::new() };
        let texts = strings(&arm.body);
        if !texts.is_empty() {
            return texts.into_iter().map(|text| Help { when: None, text }).collect();
        }
        let Expr::Call(call) = &*arm.body else { return Vec::new() };
        let Expr::Path(called) = &*call.func else { return Vec::new() };
        let called = called.path.segments.last().map(|last| last.ident.to_string());
        let advice = called.and_then(|name| self.advice.get(&name));
        let is_said = |advice: &&Advice| match case.errnos.is_empty() {
            true => !meet(&advice.errnos, others),
            false => meet(&advice.errnos, &case.errnos),
        };
        let said = advice.into_iter().flatten().filter(is_said);
        said.map(|advice| {
            let errnos = advice.errnos.join(", ");
            let when = match &advice.operation {
                Some(operation) => format!("{operation}: {errnos}"),
                None => errnos,
            };
            Help { when: Some(when), text: advice.text.clone() }
        })
        .collect()
    }

    /// A table of codes.
    fn table(&self, ty: &Type, expr: &Expr, entries: &mut Vec<Entry>, faults: &mut Vec<String>) {
        let mut is_table = IsTable(false);
        is_table.visit_type(ty);
        let is_row = matches!(ty, Type::Path(path) if path.path.is_ident("ErrorCode"));
        let (Expr::Reference(_) | Expr::Struct(_), true) = (expr, is_table.0 || is_row) else {
            return;
        };
        let mut rows = CodeRows::default();
        rows.visit_expr(expr);
        for row in rows.0 {
            let field = |name: &str| row.get(name).cloned();
            let (Some(code), Some(doc)) = (field("code"), field("meaning")) else {
                faults.push(format!("{}: an ErrorCode without code or meaning", self.path));
                continue;
            };
            let meanings = vec![Meaning { doc, form: field("message"), errnos: Vec::new() }];
            let help = field("help").map(|text| Help { when: None, text });
            let owner = format!("{}: {code}", self.path);
            entries.push(Entry { code, owner, meanings, help: help.into_iter().collect() });
        }
    }
}

/// The documentation in one paragraph, links as their text.
fn doc(attrs: &[Attribute]) -> String {
    let lines = attrs.iter().filter(|attr| attr.path().is_ident("doc")).filter_map(|attr| {
        let Expr::Lit(lit) = &attr.meta.require_name_value().ok()?.value else { return None };
        match &lit.lit {
            Lit::Str(text) => Some(text.value().trim().to_owned()),
            _ => None,
        }
    });
    let text = lines.collect::<Vec<_>>().join(" ");
    // Links lead to items of the crate; here the name alone is left.
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("[`") {
        let (name, after) = after.split_once("`]").unwrap_or((after, ""));
        let after = match after.strip_prefix('(') {
            Some(target) => target.split_once(')').map_or("", |(_, rest)| rest),
            None => after,
        };
        out.push_str(&format!("{before}`{name}`"));
        rest = after;
    }
    (out + rest).trim().to_owned()
}

/// The last expression of a function of an `impl`.
fn body<'a>(item: &'a ItemImpl, name: &str) -> Option<&'a Expr> {
    item.items.iter().find_map(|item| match item {
        ImplItem::Fn(function) if function.sig.ident == name => {
            match function.block.stmts.last()? {
                Stmt::Expr(expr, None) => Some(expr),
                _ => None,
            }
        }
        _ => None,
    })
}

/// A variant, and the errors of the kernel for which an arm is.
struct Case {
    variant: String,
    errnos: Vec<String>,
}

fn cases(arm: &Arm) -> Vec<Case> {
    let mut guarded = Errnos::default();
    if let Some((_, guard)) = &arm.guard {
        guarded.visit_expr(guard);
    }
    let patterns = match &arm.pat {
        Pat::Or(or) => or.cases.iter().collect(),
        other => vec![other],
    };
    patterns
        .into_iter()
        .filter_map(|pattern| {
            let path = match pattern {
                Pat::Struct(pattern) => &pattern.path,
                Pat::TupleStruct(pattern) => &pattern.path,
                Pat::Path(pattern) => &pattern.path,
                _ => return None,
            };
            let mut errnos = Errnos::default();
            errnos.visit_pat(pattern);
            errnos.0.extend(guarded.0.iter().cloned());
            Some(Case { variant: path.segments.last()?.ident.to_string(), errnos: errnos.0 })
        })
        .collect()
}

/// All errors of the kernel that some arm names.
fn claimed(arms: &[Arm]) -> Vec<String> {
    arms.iter().flat_map(cases).flat_map(|case| case.errnos).collect()
}

fn meet(some: &[String], others: &[String]) -> bool {
    some.iter().any(|one| others.contains(one))
}

fn strings(expr: &Expr) -> Vec<String> {
    let mut found = Strings::default();
    found.visit_expr(expr);
    found.0
}

fn advice_of_arm(arm: &&Arm) -> Option<Advice> {
    let mut errnos = Errnos::default();
    errnos.visit_pat(&arm.pat);
    let text = strings(&arm.body).pop().filter(|_| !errnos.0.is_empty())?;
    Some(Advice { operation: None, errnos: errnos.0, text })
}

/// String literals.
#[derive(Default)]
struct Strings(Vec<String>);

impl Visit<'_> for Strings {
    fn visit_lit_str(&mut self, lit: &syn::LitStr) {
        self.0.push(lit.value());
    }
}

/// Errors of the kernel: `Errno::X`, and `ErrorKind::X` by the errno's name.
#[derive(Default)]
struct Errnos(Vec<String>);

impl Visit<'_> for Errnos {
    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        match names.as_slice() {
            [.., kind, name] if kind == "Errno" => self.0.push(name.clone()),
            [.., kind, name] if kind == "ErrorKind" => self.0.push(match name.as_str() {
                "StorageFull" => "ENOSPC".to_owned(),
                "QuotaExceeded" => "EDQUOT".to_owned(),
                "PermissionDenied" => "EACCES or EPERM".to_owned(),
                "NotFound" => "ENOENT".to_owned(),
                other => other.to_owned(),
            }),
            _ => {}
        }
    }
}

/// Arms of a `match`.
#[derive(Default)]
struct Arms<'a>(Vec<&'a Arm>);

impl<'a> Visit<'a> for Arms<'a> {
    fn visit_arm(&mut self, arm: &'a Arm) {
        self.0.push(arm);
    }
}

/// Rows `(beginning of an operation, Errno::X, text)`.
#[derive(Default)]
struct Rows(Vec<Advice>);

impl Visit<'_> for Rows {
    fn visit_expr_tuple(&mut self, row: &syn::ExprTuple) {
        let mut errnos = Errnos::default();
        errnos.visit_expr_tuple(row);
        let texts: Vec<String> = row.elems.iter().flat_map(strings).collect();
        if let ([operation, text], 1) = (texts.as_slice(), errnos.0.len()) {
            let operation = Some(operation.clone()).filter(|operation| !operation.is_empty());
            self.0.push(Advice { operation, errnos: errnos.0, text: text.clone() });
        }
    }
}

/// Whether a type speaks of `ErrorCode`.
struct IsTable(bool);

impl Visit<'_> for IsTable {
    fn visit_ident(&mut self, ident: &syn::Ident) {
        self.0 |= ident == "ErrorCode";
    }
}

/// Values of fields that are strings, of each `ErrorCode { ... }`.
#[derive(Default)]
struct CodeRows(Vec<BTreeMap<String, String>>);

impl Visit<'_> for CodeRows {
    fn visit_expr_struct(&mut self, row: &syn::ExprStruct) {
        let fields = row.fields.iter().filter_map(|field| {
            let syn::Member::Named(name) = &field.member else { return None };
            Some((name.to_string(), strings(&field.expr).pop()?))
        });
        self.0.push(fields.collect());
        visit::visit_expr_struct(self, row);
    }
}
