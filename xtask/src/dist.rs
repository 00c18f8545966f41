//! A release: one program that needs nothing of the system, man pages, completions, and checksums.
//!
//! The program is linked with the system's C library, statically. Not with musl: the library that
//! an emulated node loads into programs is built along, and must be of the C library that those
//! have.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;

/// What it is built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Shells, and where each looks for completions.
const SHELLS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/thaw"),
    ("zsh", "share/zsh/site-functions/_thaw"),
    ("fish", "share/fish/vendor_completions.d/thaw.fish"),
];
/// Files of the repository that go along.
const FILES: [&str; 4] = ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Builds it into `target/dist` and says what is there.
pub(crate) fn run() -> Result<(), String> {
    let program = build()?;
    check_static(&program)?;
    check_works(&program)?;
    let version = command::output(Command::new(&program).arg("--version"))?;
    let number = version.split_whitespace().nth(1).ok_or("thaw does not say its version")?;
    let name = format!("thaw-{number}-x86_64-linux");
    let dist = PathBuf::from("target/dist");
    let folder = dist.join(&name);
    let _ = fs::remove_dir_all(&folder); // of an earlier run, if there was one
    let man = folder.join("share/man/man1");
    make_folder(&man)?;
    install(&program, &folder.join("bin/thaw"))?;
    command::run(Command::new(&program).args(["generate", "man"]).arg(&man))?;
    for (shell, place) in SHELLS {
        let text =
            command::output(Command::new(&program).args(["generate", "completions", shell]))?;
        let place = folder.join(place);
        make_folder(place.parent().expect("it is below the folder"))?;
        fs::write(&place, text).map_err(|error| format!("{}: {error}", place.display()))?;
    }
    for file in FILES {
        install(Path::new(file), &folder.join("share/doc/thaw").join(file))?;
    }
    for entry in fs::read_dir("docs").map_err(|error| format!("docs: {error}"))?.flatten() {
        if entry.path().is_file() {
            let name = entry.file_name();
            install(&entry.path(), &folder.join("share/doc/thaw/docs").join(name))?;
        }
    }
    pack(&dist, &name)
}

/// The program, linked statically.
fn build() -> Result<PathBuf, String> {
    let mut cargo = command::cargo(&["build", "--release", "--locked", "-p", "restore-cli"]);
    // With a target named, flags are not for what runs while it is built.
    cargo.args(["--target", TARGET]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS");
    command::run(&mut cargo)?;
    let release = command::release_folder();
    let target = release.parent().expect("it is below the target folder");
    Ok(target.join(TARGET).join("release/thaw"))
}

/// The program dumps and restores a process, where that can be tried: what is linked statically is
/// another program than the one that tests run.
fn check_works(program: &Path) -> Result<(), String> {
    const TRIAL: &str = "set -e; cd \"$2\"; mkdir images; setsid sleep 1000 & \
        \"$1\" dump -v1 -t $! -D images -j; wait $! || true; \
        \"$1\" restore -v1 -d -D images -j; kill -0 $!; kill $!";
    if !nix::unistd::geteuid().is_root() {
        println!("xtask: only root can try the program: it was not");
        return Ok(());
    }
    let folder = Path::new("target/dist/trial");
    let _ = fs::remove_dir_all(folder); // of an earlier run, if there was one
    make_folder(folder)?;
    let mut trial = Command::new("unshare");
    trial.args(["--fork", "--pid", "--mount-proc", "--kill-child", "sh", "-c", TRIAL, "sh"]);
    command::run(trial.arg(program).arg(folder))?;
    fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// A program that asks for no loader needs no library either.
fn check_static(program: &Path) -> Result<(), String> {
    let headers = command::output(Command::new("readelf").arg("-lW").arg(program))?;
    match headers.lines().find(|line| line.trim_start().starts_with("INTERP")) {
        None => Ok(()),
        Some(_) => Err(format!("{} is not linked statically", program.display())),
    }
}

fn make_folder(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

fn install(from: &Path, to: &Path) -> Result<(), String> {
    make_folder(to.parent().expect("it is below the folder"))?;
    let copied = fs::copy(from, to);
    copied.map(drop).map_err(|error| format!("{} to {}: {error}", from.display(), to.display()))
}

/// One archive, the same for the same contents, and the sums of everything.
fn pack(dist: &Path, name: &str) -> Result<(), String> {
    let archive = format!("{name}.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"]);
    command::run(tar.arg("-C").arg(dist).args(["-czf"]).arg(dist.join(&archive)).arg(name))?;
    let sums = "find \"$1\" \"$2\" -type f | LC_ALL=C sort | xargs sha256sum > SHA256SUMS";
    let mut shell = Command::new("sh");
    shell.current_dir(dist).args(["-c", sums, "sh", &archive, name]);
    command::run(&mut shell)?;
    let size = fs::metadata(dist.join(&archive)).map_err(|error| error.to_string())?.len();
    println!("{}: {:.1} MiB", dist.join(&archive).display(), size as f64 / 1048576.0);
    println!("{}: to check, run sha256sum -c SHA256SUMS there", dist.join("SHA256SUMS").display());
    Ok(())
}
