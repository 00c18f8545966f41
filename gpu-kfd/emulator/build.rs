//! Compiles the preload library, which the node writes into its namespace.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

const SOURCE: &str = "preload/preload.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let library = out.join("libkfd-preload.so");
    let mut rustc = Command::new(env::var_os("RUSTC").expect("cargo sets it"));
    rustc
        .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "kfd_preload"])
        .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols"])
        // Nothing but the C library, which every program that loads it has.
        .args(["-l", "c", "-D", "warnings", "--target"])
        .arg(env::var_os("TARGET").expect("cargo sets it"))
        .arg("-o")
        .arg(&library)
        .arg(SOURCE);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc.status().expect("rustc runs");
    assert!(status.success(), "the preload library does not compile: {status}");
    let size = fs::metadata(&library).expect("rustc wrote it").len();
    assert!(size > 0, "an empty library");
}
