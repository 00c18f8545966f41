//! AMD's libraries in a folder of their own, and programs that are built and run with them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use kfd_emulator::{
    FaultRule, Faults, Node, NodeConfig, NodeFiles, Preload, Product, RunOptions, Topology,
};
use nix::mount::{MsFlags, mount};

use crate::support::{live, skip};

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// A folder that looks like a root with AMD's packages in it, and one for what is built.
pub(crate) struct Rocm {
    root: PathBuf,
    pub(crate) work: tempfile::TempDir,
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Standard output, then standard error.
    pub(crate) text: String,
}

/// Runs `body` with AMD's libraries in namespaces of its own, or skips with a reason.
pub(crate) fn with_rocm(name: &str, body: impl FnOnce(&Rocm)) {
    let Some(root) = std::env::var_os("THAW_ROCM").map(PathBuf::from) else {
        let why = std::env::var("THAW_NO_ROCM").unwrap_or_else(|_| "THAW_ROCM is not set".into());
        return skip(name, &format!("no ROCm libraries ({why})"));
    };
    live(name, || {
        show_shared_files(&root);
        let work = tempfile::tempdir().expect("a folder");
        body(&Rocm { root, work });
    });
}

/// Product names are looked for in `/usr/share/libdrm`, and nowhere else by this libdrm.
fn show_shared_files(root: &Path) {
    let lowers = format!("lowerdir={}:/usr/share", root.join("usr/share").display());
    mount(Some("overlay"), "/usr/share", Some("overlay"), MsFlags::MS_RDONLY, Some(&*lowers))
        .expect("an overlay in a mount namespace of our own");
}

impl Rocm {
    /// Compiles a program of `tests/programs`.
    pub(crate) fn compile(&self, name: &str, libraries: &[&str]) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name);
        let program = self.work.path().join(name).with_extension("");
        let folder = self.root.join(LIBRARIES);
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-o"]).arg(&program).arg(source);
        for include in ["usr/include", "usr/include/hsakmt", "usr/include/libdrm"] {
            compiler.arg("-I").arg(self.root.join(include));
        }
        compiler.arg("-L").arg(&folder);
        // What the libraries need themselves is there too.
        compiler.arg(format!("-Wl,-rpath-link,{}", folder.display()));
        compiler.args(libraries.iter().map(|library| format!("-l{library}")));
        assert!(compiler.status().expect("a C compiler").success(), "{name} does not compile");
        program
    }

    /// A command in a node that finds AMD's libraries.
    pub(crate) fn command(&self, node: &Node, program: impl AsRef<OsStr>) -> Command {
        let mut command = node.command(program, Preload::Yes);
        command.env("LD_LIBRARY_PATH", self.root.join(LIBRARIES)).stdin(Stdio::null());
        command
    }

    /// AMD's program of this name.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.root.join("usr/bin").join(name)
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, node: &Node, command: Command) -> Ended {
        run(node, command, self.work.path())
    }
}

/// Runs a command to its end, with its output in files of a folder.
pub(crate) fn run(node: &Node, mut command: Command, folder: &Path) -> Ended {
    let (out, errors) = (folder.join("out"), folder.join("errors"));
    command.stdout(File::create(&out).expect("a file"));
    command.stderr(File::create(&errors).expect("a file"));
    let status = node.run(command, &RunOptions::default()).expect("it starts");
    let read = |path| fs::read_to_string(path).expect("what was just written");
    Ended { status, text: read(out) + &read(errors) }
}

/// So many GPUs of a product.
pub(crate) fn topology(product: &str, gpus: u32) -> Topology {
    configured(product, gpus, |_| {})
}

/// The same with changes.
pub(crate) fn configured(product: &str, gpus: u32, turn: impl FnOnce(&mut NodeConfig)) -> Topology {
    let mut config = NodeConfig::new(Product::by_name(product).expect("a product"), gpus);
    turn(&mut config);
    config.topology().expect("a good configuration")
}

/// A node with the real driver.
pub(crate) fn node(topology: &Topology) -> Node {
    node_with_faults(topology, &[])
}

/// The same with calls that fail.
pub(crate) fn node_with_faults(topology: &Topology, rules: &[&str]) -> Node {
    let rules = rules.iter().map(|rule| rule.parse::<FaultRule>().expect("a good rule")).collect();
    let driver = Box::new(topology.model());
    Node::start_watched(NodeFiles::of(topology), driver, Faults::new(rules, 1), None)
        .expect("a node starts")
}
