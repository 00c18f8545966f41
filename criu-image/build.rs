//! Turns `schema/` into Rust records, and into the table that everything dynamic goes by.
//!
//! No `protoc` is needed. Records hold strings as bytes, since paths and names are bytes to Linux;
//! the table keeps them apart, since JSON shows them differently. The table says of every message
//! which fields it has, how they are written, which are required, and how readable JSON shows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const CONVERSIONS: &str = "schema/conversions.txt";

fn main() {
    println!("cargo::rerun-if-changed=schema");
    let mut files: Vec<PathBuf> = fs::read_dir("schema")
        .expect("the schema folder is part of the crate")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
        .collect();
    files.sort();
    let mut set = protox::compile(&files, ["schema"]).expect("the schema is valid");
    let table = Table::new(&set);
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("schema_table.rs"), table.text()).expect("OUT_DIR is writable");
    for file in &mut set.file {
        file.message_type.iter_mut().for_each(strings_to_bytes);
    }
    prost_build::Config::new()
        .default_package_filename("records")
        .compile_fds(set)
        .expect("records can be generated");
}

fn strings_to_bytes(message: &mut DescriptorProto) {
    for field in &mut message.field {
        if field.r#type() == Type::String {
            field.set_type(Type::Bytes);
        }
    }
    message.nested_type.iter_mut().for_each(strings_to_bytes);
}

/// All messages and enums by their full name, in a fixed order, and what conversions there are.
#[derive(Default)]
struct Table {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
    conversions: BTreeMap<String, String>,
}

impl Table {
    fn new(set: &FileDescriptorSet) -> Self {
        let mut table = Self { conversions: conversions(), ..Self::default() };
        for file in &set.file {
            file.message_type.iter().for_each(|message| table.collect("", message));
            for item in &file.enum_type {
                table.enums.insert(format!(".{}", item.name()), item.clone());
            }
        }
        table
    }

    fn collect(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.collect(&name, nested);
        }
        for nested in &message.enum_type {
            self.enums.insert(format!("{name}.{}", nested.name()), nested.clone());
        }
        self.messages.insert(name, message.clone());
    }

    fn text(mut self) -> String {
        let mut text = String::from("pub(super) static MESSAGES: &[Message] = &[\n");
        let messages = std::mem::take(&mut self.messages);
        let index: BTreeMap<&str, usize> =
            messages.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
        for (name, message) in &messages {
            self.message(&mut text, name.trim_start_matches('.'), message, &index);
        }
        text.push_str("];\npub(super) static ENUMS: &[Enum] = &[\n");
        for (name, item) in &self.enums {
            let name = name.trim_start_matches('.');
            let values: Vec<(i32, &str)> =
                item.value.iter().map(|value| (value.number(), value.name())).collect();
            writeln!(text, "Enum {{ name: {name:?}, values: &{values:?} }},")
                .expect("a string takes all");
        }
        text.push_str("];\nmacro_rules! for_each_record { ($then:ident) => { $then! {\n");
        for name in messages.keys() {
            text.push_str(name.trim_start_matches('.'));
            text.push('\n');
        }
        text.push_str("} } }\npub(crate) use for_each_record;\n");
        assert!(self.conversions.is_empty(), "no such field: {:?}", self.conversions);
        text
    }

    fn message(
        &mut self,
        text: &mut String,
        name: &str,
        message: &DescriptorProto,
        index: &BTreeMap<&str, usize>,
    ) {
        let mut fields = message.field.clone();
        fields.sort_by_key(FieldDescriptorProto::number);
        // One bit for each field, so that a message is seen to be complete in one step.
        let required = fields
            .iter()
            .rev()
            .fold(0u64, |bits, field| bits << 1 | u64::from(field.label() == Label::Required));
        assert!(fields.len() <= 64, "{name} has more fields than a u64 has bits");
        writeln!(text, "Message {{ name: {name:?}, required: {required:#x}, fields: &[")
            .expect("a string takes all");
        for field in &fields {
            let kind = self.kind(field, index);
            let count = match field.label() {
                Label::Required => "Required",
                Label::Optional => "Optional",
                Label::Repeated => "Repeated",
            };
            let show = self.conversions.remove(&format!("{name}.{}", field.name()));
            let show = show.map_or("Plain".to_owned(), |conversion| show_of(field, &conversion));
            let (number, name) = (field.number(), field.name());
            writeln!(
                text,
                "Field {{ number: {number}, name: {name:?}, kind: Kind::{kind}, \
                 count: Count::{count}, show: Show::{show} }},"
            )
            .expect("a string takes all");
        }
        text.push_str("] },\n");
    }

    fn kind(&self, field: &FieldDescriptorProto, index: &BTreeMap<&str, usize>) -> String {
        match field.r#type() {
            Type::Message => format!("Message({})", index[field.type_name()]),
            Type::Enum => {
                let mut names = self.enums.keys();
                let index = names.position(|name| name == field.type_name());
                format!("Enum({})", index.expect("the compiler has resolved it"))
            }
            Type::String => "Text".to_owned(),
            Type::Bytes => "Bytes".to_owned(),
            Type::Fixed64 => "Fixed64".to_owned(),
            Type::Bool => "Bool".to_owned(),
            Type::Uint32 => "Uint32".to_owned(),
            Type::Sint32 => "Sint32".to_owned(),
            Type::Int32 => "Int32".to_owned(),
            Type::Uint64 => "Uint64".to_owned(),
            Type::Sint64 => "Sint64".to_owned(),
            Type::Int64 => "Int64".to_owned(),
            other => panic!("the schema uses no {other:?}"),
        }
    }
}

/// `Message.field` with its conversion, from the file beside the schema.
fn conversions() -> BTreeMap<String, String> {
    let text = fs::read_to_string(CONVERSIONS).expect("it is part of the crate");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows = lines.map(|line| line.split_once(' ').expect("a field and its conversion"));
    rows.map(|(field, conversion)| (field.to_owned(), conversion.trim().to_owned())).collect()
}

/// A variant of `Show`, if the field is of a type that can be shown so.
fn show_of(field: &FieldDescriptorProto, conversion: &str) -> String {
    let (name, set) = conversion.split_once(':').unwrap_or((conversion, ""));
    let of = |types: &[Type]| assert!(types.contains(&field.r#type()), "{field:?}: {conversion}");
    match name {
        "hex" => of(&[Type::Uint32, Type::Uint64, Type::Message]),
        "quoted" | "private" => of(&[Type::Bytes]),
        _ => of(&[Type::Uint32]),
    }
    let repeated = field.label() == Label::Repeated;
    assert!(name == "hex" || (name == "ip") == repeated, "{field:?}: {conversion}");
    let variant = camel(name);
    if set.is_empty() { variant } else { format!("{variant}({variant}::{})", camel(set)) }
}

fn camel(name: &str) -> String {
    name.split('-')
        .map(|word| word[..1].to_uppercase() + &word[1..])
        .collect::<Vec<String>>()
        .concat()
}
