//! Turns `schema/*.proto` into Rust records and into the table that `wire.rs` checks input against.
//!
//! No `protoc` is needed. Strings become bytes, since paths and names are bytes to Linux. The
//! table says of every message which fields it has, of what wire type, and which are required:
//! what prost would default or drop is refused by it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

fn main() {
    println!("cargo::rerun-if-changed=schema");
    let mut files: Vec<PathBuf> = fs::read_dir("schema")
        .expect("the schema folder is part of the crate")
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    files.sort();
    let mut set = protox::compile(&files, ["schema"]).expect("the schema is valid");
    for file in &mut set.file {
        file.message_type.iter_mut().for_each(strings_to_bytes);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("wire_table.rs"), table(&set)).expect("OUT_DIR is writable");
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

/// All messages and enums by their full name, in a fixed order.
#[derive(Default)]
struct Names {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Names {
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
}

fn table(set: &FileDescriptorSet) -> String {
    let mut names = Names::default();
    for file in &set.file {
        for message in &file.message_type {
            names.collect("", message);
        }
        for item in &file.enum_type {
            names.enums.insert(format!(".{}", item.name()), item.clone());
        }
    }
    let message_index: BTreeMap<&str, usize> =
        names.messages.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    let enum_index: BTreeMap<&str, usize> =
        names.enums.keys().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
    let mut text = String::from("pub(super) static MESSAGES: &[Message] = &[\n");
    for (name, message) in &names.messages {
        let name = name.trim_start_matches('.');
        let mut fields = message.field.clone();
        fields.sort_by_key(prost_types::FieldDescriptorProto::number);
        // One bit for each field, so that a message is seen to be complete in one step.
        let required = fields
            .iter()
            .rev()
            .fold(0u64, |bits, field| bits << 1 | u64::from(field.label() == Label::Required));
        assert!(fields.len() <= 64, "{name} has more fields than a u64 has bits");
        writeln!(text, "Message {{ name: {name:?}, required: {required:#x}, fields: &[")
            .expect("a string takes all");
        for field in &fields {
            let kind = match field.r#type() {
                Type::Message => format!("Kind::Message({})", message_index[field.type_name()]),
                Type::Enum => format!("Kind::Enum({})", enum_index[field.type_name()]),
                Type::Bytes => "Kind::Bytes".to_owned(),
                Type::Fixed64 => "Kind::Fixed64".to_owned(),
                Type::Bool => "Kind::Bool".to_owned(),
                Type::Uint32 | Type::Sint32 => "Kind::Varint32".to_owned(),
                Type::Int32 => "Kind::Int32".to_owned(),
                Type::Uint64 | Type::Sint64 | Type::Int64 => "Kind::Varint64".to_owned(),
                other => panic!("the schema uses no {other:?}"),
            };
            let count = match field.label() {
                Label::Required => "Count::Required",
                Label::Optional => "Count::Optional",
                Label::Repeated => "Count::Repeated",
            };
            let (number, name) = (field.number(), field.name());
            writeln!(
                text,
                "Field {{ number: {number}, name: {name:?}, kind: {kind}, count: {count} }},"
            )
            .expect("a string takes all");
        }
        text.push_str("] },\n");
    }
    text.push_str("];\npub(super) static ENUMS: &[&[i32]] = &[\n");
    for item in names.enums.values() {
        let values: Vec<i32> = item.value.iter().map(|value| value.number()).collect();
        writeln!(text, "&{values:?},").expect("a string takes all");
    }
    text.push_str("];\n");
    text
}
