//! What the node's files look like, where they are, and what is behind them.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::process::Command;

use kfd_emulator::{Node, NodeConfig, NodeFiles, Preload, Product};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};

use crate::support::client::{Client, KFD, RENDER, listen, open, role, say};
use crate::support::stub::{Record, Stub};
use crate::support::{calls, live, node, node_with};

/// What a path leads to: type, device number and, for links, where to.
fn listing(folder: &str) -> BTreeMap<String, (bool, u64, String)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let look = |entry: fs::DirEntry| {
        let metadata = entry.metadata().expect("it is there");
        let kind = metadata.file_type();
        let link = fs::read_link(entry.path()).unwrap_or_default();
        let number = if kind.is_char_device() { metadata.rdev() } else { 0 };
        let name = entry.file_name().into_string().expect("UTF-8");
        (name, (kind.is_dir(), number, link.display().to_string()))
    };
    entries.map(look).collect()
}

#[test]
fn device_files_are_where_programs_look_and_nowhere_else() {
    live("files::device_files_are_where_programs_look_and_nowhere_else", || {
        let (dev, mounts) = (listing("/dev"), fs::read_to_string("/proc/self/mounts"));
        let (node, _) = node_with(2);
        node.enter(|| {
            assert!(fs::metadata(KFD).expect("it is there").is_file());
            let names: Vec<String> = listing("/dev/dri").into_keys().collect();
            assert_eq!(names, ["renderD128", "renderD129"]);
            let mut inside = listing("/dev");
            for ours in ["kfd", "dri", ".kfd-emulator"] {
                assert!(inside.remove(ours).is_some(), "{ours}");
            }
            assert_eq!(inside, dev, "the rest is as it was");
            File::options().write(true).open("/dev/null").expect("devices work");
            fs::write("/dev/shm/of-kfd-test", "x").expect("shared memory works");
            fs::remove_file("/dev/shm/of-kfd-test").expect("it was made");
            let file = open(KFD);
            let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
            assert_eq!(link.expect("it is open").to_str(), Some(KFD));
        })
        .expect("inside");
        assert_eq!(listing("/dev"), dev);
        let now = fs::read_to_string("/proc/self/mounts").expect("they are there");
        assert_eq!(now, mounts.expect("they are there"));
        assert!(fs::metadata(KFD).is_err() || dev.contains_key("kfd"));
    });
}

#[test]
fn device_files_have_no_contents_and_keep_their_modes() {
    live("files::device_files_have_no_contents_and_keep_their_modes", || {
        let (node, _) = node();
        node.enter(|| {
            for path in [KFD, RENDER] {
                let mut file = open(path);
                let error = file.read(&mut [0; 10]).expect_err("there is nothing to read");
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                let error = file.write(&[0; 10]).expect_err("nothing takes it");
                assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
                let mode = fs::set_permissions(path, Permissions::from_mode(0o600));
                assert_eq!(mode.expect_err("refused").raw_os_error(), Some(libc::EPERM));
                File::create(path).expect("truncating means nothing to a device");
                File::open(path).expect("reading only is a way to open it");
                assert!(fs::remove_file(path).is_err());
            }
            assert_eq!(
                calls::echo(&File::open("/").expect("a folder"), &mut [0; 3]),
                Err(Errno::ENOTTY)
            );
        })
        .expect("inside");
    });
}

/// As a client: reads and writes words of the device files through mappings, as told.
fn map_as_told() {
    while let Some(line) = listen() {
        let words: Vec<&str> = line.split(' ').collect();
        let offset: u64 = words[1].parse().expect("a number");
        let value: u64 = words[2].parse().expect("a number");
        let page = calls::Page::shared(&open(words[0]), offset);
        let before = page.read();
        if value != 0 {
            page.write(value);
        }
        say(before);
    }
}

#[test]
fn mappings_are_the_pages_that_the_driver_sees() {
    const NAME: &str = "files::mappings_are_the_pages_that_the_driver_sees";
    live(NAME, || {
        if role().is_some() {
            return map_as_told();
        }
        let (node, _) = node_with(2);
        let mut client = Client::start(&node, NAME, "maps");
        node.enter(|| {
            let file = open(KFD);
            let driver = |store: u64, offset: u64, value: u64| {
                let mut block = [store, offset, value, 0];
                calls::pages(&file, &mut block).expect("it answers");
                block[3]
            };
            let far = 3 << 60 | 1 << 46 | 5 << 32;
            for (store, path, offset) in
                [(0, KFD, far), (1, RENDER, 1 << 40), (2, "/dev/dri/renderD129", 1 << 40)]
            {
                let page = calls::Page::shared(&open(path), offset);
                assert_eq!(page.read(), 0, "nobody has written");
                page.write(0x1111);
                assert_eq!(client.ask(&format!("{path} {offset} 8738")), "4369");
                assert_eq!(driver(store, offset, 0x3333), 0x2222);
                assert_eq!(page.read(), 0x3333);
                assert_eq!(driver(store, offset, u64::MAX), 0x3333, "and discarded");
                assert_eq!(page.read(), 0);
                page.write(store + 1);
            }
            assert_eq!(driver(1, 1 << 40, 0), 2, "equal offsets of two GPUs");
            assert_eq!(driver(2, 1 << 40, 0), 3, "are different memory");
            let maps = fs::read_to_string("/proc/self/maps").expect("it is there");
            assert!(!maps.contains(KFD), "none is left");
            let _page = calls::Page::shared(&open(KFD), far);
            let maps = fs::read_to_string("/proc/self/maps").expect("it is there");
            let line = maps.lines().find(|line| line.ends_with(KFD)).expect("its name");
            assert!(line.contains(&format!("{far:x}")), "{line}");
        })
        .expect("inside");
        client.finish();
    });
}

#[test]
fn private_mappings_without_rights_reserve_addresses() {
    live("files::private_mappings_without_rights_reserve_addresses", || {
        let (node, _) = node();
        node.enter(|| {
            let file = open(RENDER);
            calls::map_and_unmap(&file, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE, 4096)
                .expect("as libhsakmt does for memory that the host must not touch");
            let all = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
            calls::map_and_unmap(&file, all, MapFlags::MAP_SHARED, 4096).expect("code");
        })
        .expect("inside");
    });
}

#[test]
fn descriptors_in_arguments_are_resolved() {
    const NAME: &str = "files::descriptors_in_arguments_are_resolved";
    live(NAME, || {
        let resolve = |file: &File, fd: i32| {
            let mut block = [fd as u64, 0];
            calls::resolve(file, &mut block).map(|_| block[1])
        };
        let identity = |file: &File| {
            let mut block = [0; 4];
            calls::whoami(file, &mut block).expect("it says");
            block
        };
        if role().is_some() {
            let (kfd, render) = (open(KFD), open(RENDER));
            let found = resolve(&kfd, render.as_raw_fd()).expect("it is one");
            assert_eq!(found, identity(&render)[1]);
            return say("right");
        }
        let (node, _) = node();
        let mut client = Client::start(&node, NAME, "resolves");
        node.enter(|| {
            let (kfd, render, other) = (open(KFD), open(RENDER), open(RENDER));
            assert_ne!(identity(&render)[1], identity(&other)[1], "each open is another");
            assert_eq!((identity(&kfd)[0], identity(&render)[0]), (1, 2 | 128 << 32));
            assert_eq!(identity(&kfd)[3], identity(&render)[3], "of one node");
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for file in [&kfd, &render, &other].repeat(50) {
                            assert_eq!(resolve(&kfd, file.as_raw_fd()), Ok(identity(file)[1]));
                            let copy = file.try_clone().expect("a descriptor");
                            assert_eq!(resolve(&kfd, copy.as_raw_fd()), Ok(identity(file)[1]));
                            // Quick calls in between, which the lock is busy for.
                            calls::echo(file, &mut [0; 3]).expect("it answers");
                        }
                    });
                }
            });
            let null = open("/dev/null");
            for number in [null.as_raw_fd(), -1, 9999] {
                assert_eq!(resolve(&kfd, number), Err(Errno::EBADF), "{number}");
            }
        })
        .expect("inside");
        assert_eq!(client.hear(), "right");
        client.finish();
    });
}

#[test]
fn another_nodes_files_are_not_resolved() {
    live("files::another_nodes_files_are_not_resolved", || {
        let (one, other) = (node().0, node().0);
        let theirs = other.enter(|| open(RENDER)).expect("inside");
        one.enter(|| {
            let mut block = [theirs.as_raw_fd() as u64, 0];
            assert_eq!(calls::resolve(&open(KFD), &mut block), Err(Errno::EBADF));
        })
        .expect("inside");
    });
}

/// Exports a buffer and opens the dma-buf as our own programs do.
fn export(file: &File, buffer: u64) -> File {
    let mut block = [buffer];
    calls::export(file, &mut block).expect("it exports");
    let path = calls::path_of(file, block[0] as u32).expect("it is exported");
    open(&path)
}

fn link_of(file: &File) -> String {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("it is open");
    link.display().to_string()
}

#[test]
fn dma_bufs_look_like_those_of_the_kernel() {
    live("files::dma_bufs_look_like_those_of_the_kernel", || {
        let (node, record) = node();
        node.enter(|| {
            let file = open(KFD);
            let mut dma_buf = export(&file, 7);
            assert_eq!(link_of(&dma_buf), "/dmabuf:7");
            assert_eq!(dma_buf.seek(SeekFrom::End(0)).expect("it has a size"), 8 * 4096);
            let mut block = [0; 4];
            calls::whoami(&dma_buf, &mut block).expect("it says");
            assert_eq!((block[0], block[2]), (3, 7));
            let again = export(&file, 7);
            let inode = |file: &File| file.metadata().expect("it is open").ino();
            assert_eq!(inode(&again), inode(&dma_buf), "one object");
            assert_ne!(inode(&export(&file, 8)), inode(&dma_buf), "another");
            let shared = MapFlags::MAP_SHARED;
            let mapped = calls::map_and_unmap(&dma_buf, ProtFlags::PROT_READ, shared, 0);
            assert_eq!(mapped, Err(Errno::ENODEV), "a buffer is mapped through its device file");
            assert_eq!(calls::path_of(&file, 0x4000_0063), Err(Errno::ENOENT), "not exported");
            assert_eq!(calls::path_of(&file, 5), Err(Errno::EINVAL), "no token");
        })
        .expect("inside");
        assert_eq!(record.notes().opened.len(), 1 + 3);
    });
}

#[test]
fn dma_bufs_can_be_opened_where_the_node_has_no_number_and_by_any_user() {
    const NAME: &str = "files::dma_bufs_can_be_opened_where_the_node_has_no_number_and_by_any_user";
    live(NAME, || {
        if let Some(role) = role() {
            let file = open(KFD);
            if role == "user" {
                let nobody = nix::unistd::Uid::from_raw(65534);
                nix::unistd::setresuid(nobody, nobody, nobody).expect("root may");
            }
            return say(link_of(&export(&file, 9)));
        }
        let (node, _) = node();
        let own = std::env::current_exe().expect("a path");
        for (unshare, role, link) in [
            (&["--pid", "--fork", "--mount-proc"][..], "in a pid namespace", "/dmabuf:9"),
            (&["--pid", "--fork", "--mount"], "with a foreign /proc", "/dmabuf:9"),
            (&["--mount"], "user", "/dev/.kfd-emulator/files/dmabuf:9"),
        ] {
            let mut command = node.command("unshare", Preload::No);
            command.args(unshare).arg("--").arg(&own);
            let mut client = Client::of(crate::support::client::as_client(command, NAME, role));
            assert_eq!(client.hear(), link, "{role}");
            client.finish();
        }
    });
}

#[test]
fn the_preload_library_shows_what_a_driver_has() {
    const NAME: &str = "files::the_preload_library_shows_what_a_driver_has";
    live(NAME, || {
        if role().is_some() {
            let file = open(RENDER);
            let metadata = file.metadata().expect("it is open");
            assert!(metadata.file_type().is_char_device(), "statx");
            assert_eq!(metadata.rdev(), nix::sys::stat::makedev(226, 128));
            let stat = nix::sys::stat::stat(KFD).expect("it is there");
            assert_eq!((stat.st_mode, stat.st_size), (0o020_666, 0), "stat");
            assert_eq!(stat.st_rdev, nix::sys::stat::makedev(510, 0));
            assert!(fs::metadata("/etc/passwd").expect("it is there").is_file());
            let dma_buf = calls::prime_export(&file, 3).expect("a descriptor");
            assert_eq!(link_of(&dma_buf), "/dmabuf:3");
            let stat = nix::sys::stat::fstat(&dma_buf).expect("it is open");
            assert_eq!((stat.st_mode, stat.st_size), (0o600, 4 * 4096), "no type, as a real one");
            return say("right");
        }
        let (node, _) = node();
        let mut client =
            Client::of(crate::support::client::command(&node, NAME, "looks", Preload::Yes));
        assert_eq!(client.hear(), "right");
        client.finish();
        let mut stat = node.command("stat", Preload::Yes);
        let output = stat.args(["-c", "%F %t:%T %s", KFD, RENDER]).output().expect("it runs");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "character special file 1fe:0 0\ncharacter special file e2:80 0\n"
        );
    });
}

#[test]
fn checkpointed_buffers_become_descriptors_all_or_none() {
    const NAME: &str = "files::checkpointed_buffers_become_descriptors_all_or_none";
    live(NAME, || {
        if role().is_some() {
            let file = open(KFD);
            let mut block = [0];
            calls::export(&file, &mut block).expect("it exports");
            let token = block[0] as u32;
            let none = u32::MAX;
            let files = calls::criu_checkpoint(&file, [token, none, token]).expect("both open");
            assert_eq!(files[1], none);
            for number in [files[0], files[2]] {
                let link = fs::read_link(format!("/proc/self/fd/{number}")).expect("it is open");
                assert_eq!(link.to_str(), Some("/dmabuf:0"));
            }
            let open_files = || fs::read_dir("/proc/self/fd").expect("it is there").count();
            let before = open_files();
            let unknown = token + 50;
            let failed = calls::criu_checkpoint(&file, [token, none, unknown]);
            assert_eq!(failed, Err(Errno::EMFILE));
            assert_eq!(open_files(), before, "nothing is left open");
            return say("right");
        }
        let (node, _) = node();
        let mut client =
            Client::of(crate::support::client::command(&node, NAME, "looks", Preload::Yes));
        assert_eq!(client.hear(), "right");
        client.finish();
    });
}

#[test]
fn sysfs_shows_the_topology_inside_and_the_host_beside_it() {
    live("files::sysfs_shows_the_topology_inside_and_the_host_beside_it", || {
        let product = Product::by_name("gfx90a").expect("a product");
        let topology = NodeConfig::new(product, 2).topology().expect("a good configuration");
        let classes = listing("/sys/class");
        let files = NodeFiles::of(&topology);
        let minors = files.render_minors.clone();
        let node = Node::start(files, Box::new(Stub::new(&Record::default()))).expect("a node");
        node.enter(|| {
            for (path, entry) in topology.sysfs().iter() {
                match entry {
                    kfd_emulator::Entry::Dir => assert!(path.is_dir(), "{}", path.display()),
                    kfd_emulator::Entry::File(content) => {
                        let read = fs::read(path);
                        let read = read.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                        assert_eq!(&read, content, "{}", path.display());
                    }
                    kfd_emulator::Entry::Link(to) => {
                        assert_eq!(&fs::read_link(path).expect("a link"), to);
                        assert!(path.exists(), "{} leads nowhere", path.display());
                    }
                }
            }
            let inside = listing("/sys/class");
            assert!(classes.keys().all(|name| inside.contains_key(name)), "the host's are there");
            for minor in &minors {
                assert!(fs::exists(format!("/dev/dri/renderD{minor}")).expect("no error"));
            }
        })
        .expect("inside");
        assert_eq!(listing("/sys/class"), classes);
        let lsmod = node.command("sh", Preload::No).args(["-c", "lsmod | grep amdgpu"]).output();
        let text = String::from_utf8(lsmod.expect("it runs").stdout).expect("text");
        assert!(text.starts_with("amdgpu "), "{text}");
    });
}

#[test]
fn a_command_keeps_its_folder() {
    live("files::a_command_keeps_its_folder", || {
        let (node, _) = node();
        let folder = tempfile::tempdir().expect("a folder");
        let pwd = |command: &mut Command| {
            let output = command.current_dir(folder.path()).output().expect("it runs");
            String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
        };
        let inside = pwd(&mut node.command("pwd", Preload::No));
        assert_eq!(inside, folder.path().display().to_string());
    });
}
