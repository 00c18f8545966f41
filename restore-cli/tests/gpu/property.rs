//! Random trees: dumped on one node, restored on another under a random schedule and by a random
//! number of workers, and then all is as it was. A seed says which trees: `THAW_TREE_SEED` begins
//! with another one, `THAW_TREES` has so many, `THAW_TREE_GPUS` on nodes of this size; a failure
//! names the tree in full.
//!
//! What a driver cannot restore is not made: memory of the KFD that two KFD states have. What the
//! dump cannot know is not made either: render files that the KFD uses but that are not the first
//! of their process.

use std::fmt::Write;
use std::path::Path;

use super::cycle::{Tree, assert_good, assert_same, assert_same_state, assert_well, state_of};
use super::node::{self, Part};
use super::support::live_node;

/// Trees of an ordinary run, and of a long one (`THAW_LONG_TESTS=1`).
const TREES: u64 = 30;
const TREES_LONG: u64 = 500;
/// Trees that go over the same pair of nodes.
const BATCH: usize = 6;
/// The first seed of a run.
const SEED: u64 = 1;

const PROCESSES_MAX: u64 = 12;
const GPUS_MAX: u64 = 8;
/// Words of one process beyond its opens.
const WORDS_MAX: u64 = 6;

/// `SplitMix64`: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// One of so many.
    fn below(&mut self, count: u64) -> u64 {
        self.next() % count
    }

    /// True once in so many times.
    fn once_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// A process that is being made up.
#[derive(Clone, Default)]
struct Making {
    words: String,
    /// GPU of each render file; those of its parent at its fork come first.
    renders: Vec<u64>,
    /// How many of them are its parent's.
    inherited: usize,
    has_kfd: bool,
    /// GPUs whose first own render file the KFD has.
    computing: Vec<u64>,
    /// For each buffer whether it can be passed on: GPU, and whether it is the KFD's.
    buffers: Vec<Buffer>,
    /// Its own descriptors begin here.
    first_fd: u64,
    next_fd: u64,
}

#[derive(Clone, Copy)]
struct Buffer {
    gpu: u64,
    is_mapped: bool,
}

/// A tree with how it is to be dumped and restored.
struct Case {
    seed: u64,
    layout: Vec<String>,
    args: Vec<String>,
}

fn case(seed: u64, gpus: u64) -> Case {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    // Small trees are as good as large ones, and quicker.
    let most = if random.once_in(4) { PROCESSES_MAX } else { 4 };
    let count = 1 + random.below(most) as usize;
    let mut processes: Vec<Making> = Vec::new();
    for number in 0..count {
        let mut making = Making { first_fd: 3, next_fd: 3, ..Making::default() };
        if number > 0 {
            let parent = random.below(number as u64) as usize;
            fork(&mut random, &mut processes, parent, number, &mut making);
        }
        open(&mut random, &mut making, gpus);
        for _ in 0..random.below(WORDS_MAX) {
            word(&mut random, &mut making);
        }
        processes.push(making);
    }
    share(&mut random, &mut processes);
    let layout = processes.into_iter().map(|process| process.words.trim().to_owned()).collect();
    let mut args = vec!["--verify".to_owned()];
    let workers = random.below(5);
    if workers > 0 {
        args.extend(["--workers".to_owned(), workers.to_string()]);
    }
    args.push("--schedule".to_owned());
    args.push(match random.below(4) {
        0 => "concurrent".to_owned(),
        1 => "serial".to_owned(),
        _ => format!("seed:{}", random.next() % 1_000_000),
    });
    Case { seed, layout, args }
}

/// The child comes before all that its parent has, or after it: then it has the parent's files.
fn fork(
    random: &mut Random,
    processes: &mut [Making],
    parent: usize,
    number: usize,
    child: &mut Making,
) {
    let word = format!("fork:{number} ");
    let parent = &mut processes[parent];
    if random.once_in(3) {
        parent.words.push_str(&word);
        child.renders.clone_from(&parent.renders);
        child.next_fd = parent.next_fd;
    } else {
        parent.words.insert_str(0, &word);
        child.renders = parent.renders[..parent.inherited].to_vec();
        child.next_fd = parent.first_fd;
    }
    (child.inherited, child.first_fd) = (child.renders.len(), child.next_fd);
}

/// Descriptors only rise, so that none is taken, and the first file of a GPU has the lowest.
fn at(random: &mut Random, making: &mut Making) {
    if random.once_in(3) {
        making.next_fd += random.below(5);
    }
    let _ = write!(making.words, "at:{} ", making.next_fd);
    making.next_fd += 1;
}

/// `/dev/kfd` and render nodes, in any order.
fn open(random: &mut Random, making: &mut Making, gpus: u64) {
    let mut opens: Vec<Option<u64>> = Vec::new();
    if !random.once_in(4) {
        opens.push(None);
    }
    if random.once_in(12) {
        opens.push(None);
    }
    for _ in 0..random.below(gpus.min(4) + 1) {
        opens.push(Some(random.below(gpus)));
    }
    for place in (1..opens.len()).rev() {
        opens.swap(place, random.below(place as u64 + 1) as usize);
    }
    for open in opens {
        at(random, making);
        match open {
            None => {
                making.words.push_str("kfd ");
                making.has_kfd = true;
            }
            Some(gpu) => {
                let _ = write!(making.words, "render:{gpu} ");
                making.renders.push(gpu);
            }
        }
    }
}

const SIZES: [&str; 6] = ["4K", "8K", "64K", "68K", "256K", "1M"];
const VIEWS: [&str; 5] = ["", "", "", "+apart", "+nova"];

/// One thing that a process makes with its own files.
fn word(random: &mut Random, making: &mut Making) {
    let own: Vec<usize> = (making.inherited..making.renders.len()).collect();
    let size = *random.pick(&SIZES);
    let mut views = (*random.pick(&VIEWS)).to_owned();
    if random.once_in(6) {
        views.push_str("+nocpu");
    }
    if own.is_empty() {
        at(random, making);
        making.words.push_str("null ");
        return;
    }
    let file = *random.pick(&own);
    let gpu = making.renders[file];
    let kind = random.below(if making.has_kfd { 9 } else { 4 });
    let is_kfd = matches!(kind, 4..=8);
    if is_kfd && !making.computing.contains(&gpu) {
        making.computing.push(gpu);
    }
    // A GPU address space has one buffer at an address: those of the KFD and of the file that it
    // uses count together, and so do all of a file.
    let text = match kind {
        0 => format!("gem:{file}:{size}{views} "),
        1 => format!("sysgem:{file}:{size}{views} "),
        2 => format!("hole:{file} "),
        3 if random.once_in(2) => {
            at(random, making);
            "null ".to_owned()
        }
        3 => format!("gem:{file}:{size} "),
        4 | 5 => format!("vram:{gpu}:{size}{views} "),
        6 => format!("gtt:{gpu}:{size}{views} "),
        7 => format!("userptr:{gpu}:{size} "),
        _ => format!("queue:{gpu}:{} ", random.pick(&SIZES[..3])),
    };
    let makes = ["gem", "sysgem", "vram", "gtt", "userptr"];
    let name = text.split(':').next().unwrap_or_default();
    if makes.contains(&name) {
        let is_mapped = !text.contains("+nocpu") && name != "userptr";
        making.buffers.push(Buffer { gpu, is_mapped });
    }
    making.words.push_str(&text);
}

/// Buffers that several processes have, and dma-bufs that are kept open. Words that wait come last,
/// those that give before them, so no two processes wait for each other.
fn share(random: &mut Random, processes: &mut [Making]) {
    let mut takers: Vec<(usize, String)> = Vec::new();
    for number in 0..random.below(4) {
        let from = random.below(processes.len() as u64) as usize;
        let candidates: Vec<usize> = (0..processes[from].buffers.len())
            .filter(|&buffer| processes[from].buffers[buffer].is_mapped)
            .collect();
        if candidates.is_empty() {
            continue;
        }
        let buffer = *random.pick(&candidates);
        let gpu = processes[from].buffers[buffer].gpu;
        // A driver gives one open file for all exports of a buffer, an emulated node one for each,
        // which a restore makes one again: so a buffer is kept or taken.
        let is_kept = random.once_in(3);
        if is_kept {
            at(random, &mut processes[from]);
            let _ = write!(processes[from].words, "keep:{buffer} ");
        }
        // Each buffer goes by one name.
        processes[from].buffers[buffer].is_mapped = false;
        let _ = write!(processes[from].words, "export:{buffer}:n{number} ");
        for (to, process) in processes.iter().enumerate() {
            let own = (process.inherited..process.renders.len())
                .find(|&file| process.renders[file] == gpu);
            if to == from || random.once_in(3) {
                continue;
            }
            match own {
                Some(file) => takers.push((to, format!("import:{file}:n{number} "))),
                None if !is_kept && random.once_in(2) => {
                    takers.push((to, format!("take:n{number} ")))
                }
                None => {}
            }
        }
    }
    for (to, word) in takers {
        processes[to].words.push_str(&word);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Dumps and restores cases that have nodes of the same kind.
fn batch(dir: &Path, cases: &[Case], gpus: u64) {
    let from = format!("--gpus {gpus}");
    let to = format!("--gpus {gpus} --seed {}", 2 + cases[0].seed % 1000);
    let (from, to): (Vec<&str>, Vec<&str>) =
        (from.split_whitespace().collect(), to.split_whitespace().collect());
    let tree = |case: &Case| {
        let layout: Vec<&str> = case.layout.iter().map(String::as_str).collect();
        Tree::new(&dir.join(case.seed.to_string()), "", &layout)
    };
    let trees: Vec<Tree> = cases.iter().map(tree).collect();
    for case in cases {
        println!("seed {}: {gpus} GPUs {:?} {:?}", case.seed, case.layout, case.args);
    }
    let dumps: Vec<Part> = trees.iter().map(|tree| tree.dumping(&[])).collect();
    let before = node::run(&from, dir, &dumps);
    let mut parts = Vec::new();
    for (case, tree) in cases.iter().zip(&trees) {
        let args: Vec<&str> = case.args.iter().map(String::as_str).collect();
        parts.push(tree.restoring(&args));
        if !tree.has_queues() {
            parts.push(tree.restoring_again(&args));
        }
    }
    let mut after = node::run(&to, dir, &parts).into_iter();
    for ((case, tree), before) in cases.iter().zip(&trees).zip(&before) {
        println!("seed {} is judged", case.seed);
        assert_good(before);
        assert_well(&before.answers);
        let came = after.next().expect("a result for each part");
        assert_good(&came);
        assert_same(&before.answers, &came.answers);
        if !tree.has_queues() {
            assert_good(&after.next().expect("a result for each part"));
            assert_same_state(&state_of(&tree.images()), &state_of(&tree.again()));
        }
        std::fs::remove_dir_all(&tree.dir).expect("it was made");
    }
}

/// Every so many-th part of all trees, so that parts can run at once.
fn trees(name: &str, part: u64, parts: u64) {
    let is_long = std::env::var_os("THAW_LONG_TESTS").is_some();
    let count = number("THAW_TREES").unwrap_or(if is_long { TREES_LONG } else { TREES });
    let first = number("THAW_TREE_SEED").unwrap_or(SEED);
    let seeds: Vec<u64> = (first..first + count).filter(|seed| seed % parts == part).collect();
    live_node(name, |dir| {
        for seeds in seeds.chunks(BATCH) {
            // A tree depends on nothing but its seed and this number.
            let gpus = number("THAW_TREE_GPUS").unwrap_or(1 + seeds[0] / 2 % GPUS_MAX);
            let cases: Vec<Case> = seeds.iter().map(|&seed| case(seed, gpus)).collect();
            batch(dir, &cases, gpus);
        }
    });
}

#[test]
fn random_trees_come_back_as_they_were_even_seeds() {
    trees("property::random_trees_come_back_as_they_were_even_seeds", 0, 2);
}

#[test]
fn random_trees_come_back_as_they_were_odd_seeds() {
    trees("property::random_trees_come_back_as_they_were_odd_seeds", 1, 2);
}

/// The same seed is the same tree, and trees are not all alike.
#[test]
fn seeds_say_which_trees() {
    let all: Vec<Vec<String>> = (1..200).map(|seed| case(seed, 4).layout).collect();
    let again: Vec<Vec<String>> = (1..200).map(|seed| case(seed, 4).layout).collect();
    assert_eq!(all, again);
    let has = |word: &str| all.iter().flatten().filter(|text| text.contains(word)).count();
    let words =
        ["kfd", "render", "vram", "gtt", "userptr", "gem", "sysgem", "hole", "queue", "keep"];
    let more = ["export", "import", "take", "at:", "fork", "null", "+apart", "+nova", "+nocpu"];
    for word in words.iter().chain(&more) {
        assert!(has(word) > 3, "{word}: {}", has(word));
    }
    assert!(all.iter().any(|tree| tree.len() > 8));
}
