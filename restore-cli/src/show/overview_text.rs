//! A checkpoint on one screen: its head, its GPUs, and its tree with a line for each process.

use super::overview::{GpuShown, Overview, Shown, date, product};
use super::{shorten, state_name};
use crate::screen::{FAINT, TITLE, WARNING, size, styled, wrap};

/// Fewest columns that are left for what a process is called.
const TITLE_COLUMNS_MIN: usize = 24;

pub(super) fn render(overview: &Overview, width: usize) -> String {
    let mut text = head(overview, width);
    for gpu in &overview.gpus {
        text.push_str(&wrap("  ", &gpu_line(gpu), width));
    }
    text.push('\n');
    text.push_str(&table(overview, width));
    text.push('\n');
    text.push_str(&wrap("", &totals(overview), width));
    text
}

fn head(overview: &Overview, width: usize) -> String {
    let mut said = format!("{} {}", styled(TITLE, "Checkpoint"), overview.dir.display());
    said.push_str(&format!(": by {}", overview.dumper));
    if let Some(seconds) = overview.dumped_s {
        said.push_str(&format!(", {}", date(seconds)));
    }
    if let Some(micros) = overview.uptime_us {
        let (hours, minutes) = (micros / 3_600_000_000, micros / 60_000_000 % 60);
        said.push_str(&format!(", after {hours}:{minutes:02} hours of the machine"));
    }
    said.push_str(&format!(", {} on disk", size(overview.disk_bytes)));
    wrap("", &said, width)
}

fn gpu_line(gpu: &GpuShown) -> String {
    let node = gpu.minor.map_or(String::new(), |minor| format!(" (renderD{minor})"));
    let used = size(gpu.used_bytes);
    match gpu.described {
        Some((device, bytes)) => {
            let name = product(device).map_or(String::new(), |name| format!("{name}, "));
            let id = gpu.id;
            format!(
                "GPU {id:#06x}{node}: {name}device {device:#06x}, {used} of {} used",
                size(bytes)
            )
        }
        None => format!("GPU {:#06x}{node}: {used} used", gpu.id),
    }
}

/// A column before the title.
struct Column {
    name: String,
    cells: Vec<String>,
    /// Columns with higher numbers go first where there is no room.
    rank: usize,
}

impl Column {
    fn new(name: &str, rank: usize, overview: &Overview, cell: impl Fn(&Shown) -> String) -> Self {
        Self { name: name.to_owned(), cells: overview.processes.iter().map(cell).collect(), rank }
    }

    fn width(&self) -> usize {
        let cells = self.cells.iter().map(String::len).max().unwrap_or(0);
        cells.max(self.name.len())
    }
}

fn columns(overview: &Overview) -> Vec<Column> {
    let mut columns = vec![
        Column::new("PID", 0, overview, |one| one.row.pid.to_string()),
        Column::new("STATE", 4, overview, |one| state_name(one.row.state).to_owned()),
        Column::new("THREADS", 3, overview, |one| one.row.threads.len().to_string()),
        Column::new("FDS", 2, overview, |one| one.descriptors.to_string()),
        Column::new("MEMORY", 1, overview, |one| size(one.memory_bytes)),
    ];
    for gpu in &overview.gpus {
        let name = format!("GPU {:#06x}", gpu.id);
        columns.push(Column::new(&name, 5, overview, |one| match of_gpu(one, gpu) {
            0 => "-".to_owned(),
            bytes => size(bytes),
        }));
    }
    columns
}

/// What a process has on a GPU, in bytes.
fn of_gpu(process: &Shown, gpu: &GpuShown) -> u64 {
    let is_same = |row: &&criu_image::GpuRow| match gpu.minor {
        Some(minor) => row.render_minor == Some(minor),
        None => row.gpu_id == gpu.id && row.render_minor.is_none(),
    };
    process.gpus.iter().filter(is_same).map(|row| row.vram_bytes).sum()
}

fn taken(columns: &[Column]) -> usize {
    columns.iter().map(|column| column.width() + 2).sum()
}

/// The tree. What does not fit beside a process stands below it.
fn table(overview: &Overview, width: usize) -> String {
    let mut columns = columns(overview);
    let mut dropped: Vec<Column> = Vec::new();
    while taken(&columns) + TITLE_COLUMNS_MIN > width {
        let last = columns.iter().map(|column| column.rank).max().unwrap_or(0);
        if last == 0 {
            break;
        }
        let (kept, gone) = columns.into_iter().partition(|column| column.rank != last);
        columns = kept;
        dropped.extend(gone);
    }
    let mut text = String::new();
    let line = |cells: &dyn Fn(&Column) -> String, title: &str| {
        let cells = columns.iter().map(|it| format!("{:>width$}  ", cells(it), width = it.width()));
        format!("{}{title}", cells.collect::<String>())
    };
    let head = line(&|column| column.name.clone(), "COMMAND");
    text.push_str(&format!("{}\n", styled(FAINT, &head)));
    let left = width.saturating_sub(taken(&columns)).max(1);
    for (index, process) in overview.processes.iter().enumerate() {
        let branch = branch(&overview.processes, index);
        let room = left.saturating_sub(branch.chars().count()).max(8);
        let title = shorten(&process.title(), room);
        let title = match state_name(process.row.state) {
            "running" => title,
            _ => styled(WARNING, &title),
        };
        let cells = line(&|column| column.cells[index].clone(), &format!("{branch}{title}"));
        text.push_str(cells.trim_end());
        text.push('\n');
        if !dropped.is_empty() {
            text.push_str(&below(&dropped, index, width));
        }
    }
    text
}

/// What has no column of its own, in words.
fn below(dropped: &[Column], index: usize, width: usize) -> String {
    let words = dropped.iter().filter(|column| column.cells[index] != "-").map(|column| {
        let cell = &column.cells[index];
        match column.name.as_str() {
            "STATE" => cell.clone(),
            "THREADS" => format!("{cell} thread(s)"),
            "FDS" => format!("{cell} descriptor(s)"),
            "MEMORY" => cell.clone(),
            gpu => format!("{cell} of {gpu}"),
        }
    });
    wrap("         ", &words.collect::<Vec<_>>().join(", "), width)
}

/// Lines that lead from a process to its parent.
fn branch(processes: &[Shown], index: usize) -> String {
    let depth = processes[index].row.depth;
    let mut text = String::new();
    for level in 1..=depth {
        // Whether another process of this level follows before the tree goes back above it.
        let later = processes[index + 1..].iter().map(|one| one.row.depth);
        let goes_on = later.take_while(|&other| other >= level).any(|other| other == level);
        text.push_str(match (level == depth, goes_on) {
            (true, true) => "|- ",
            (true, false) => "`- ",
            (false, true) => "|  ",
            (false, false) => "   ",
        });
    }
    text
}

fn totals(overview: &Overview) -> String {
    let sum = |of: &dyn Fn(&Shown) -> u64| overview.processes.iter().map(of).sum::<u64>();
    let threads = sum(&|one| one.row.threads.len() as u64);
    let mut text = format!(
        "{} process(es), {threads} thread(s), {} descriptor(s), {} of memory",
        overview.processes.len(),
        sum(&|one| one.descriptors as u64),
        size(sum(&|one| one.memory_bytes)),
    );
    if !overview.gpus.is_empty() {
        let (bytes, count) = (size(sum(&Shown::vram_bytes)), overview.gpus.len());
        text.push_str(&format!(", {bytes} of GPU memory on {count} GPU(s)"));
    }
    text
}

#[cfg(test)]
mod tests {
    use criu_image::{GpuRow, ProcessRow};

    use super::render;
    use crate::show::overview::{GpuShown, Overview, Shown};

    fn process(pid: u32, depth: usize, command: &[&str]) -> Shown {
        let row = ProcessRow {
            pid,
            ppid: 0,
            pgid: 7,
            sid: 7,
            threads: vec![pid, pid + 1000],
            comm: b"worker".to_vec(),
            state: if command.is_empty() { 6 } else { 1 },
            depth,
        };
        let gpus = match command.is_empty() {
            true => Vec::new(),
            false => vec![GpuRow {
                gpu_id: 0xa000,
                render_minor: Some(128),
                vram_bytes: 3 << 29,
                ..GpuRow::default()
            }],
        };
        Shown {
            row,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            memory_bytes: 5 << 20,
            descriptors: 12,
            gpus,
        }
    }

    fn overview() -> Overview {
        let long = "/a/very/long/path/to/a/program/that/does/not/fit/on/a/narrow/screen";
        let gpu = |id: u32, minor: u32, used_bytes: u64| GpuShown {
            id,
            minor: Some(minor),
            described: Some((0x740f, 64 << 30)),
            used_bytes,
        };
        Overview {
            dir: "/images".into(),
            dumper: "thaw",
            dumped_s: Some(0),
            uptime_us: None,
            disk_bytes: 7 << 20,
            gpus: vec![gpu(0xa000, 128, 9 << 29), gpu(0xa001, 129, 0)],
            processes: vec![
                process(7, 0, &["python3", "train.py"]),
                process(8, 1, &[long, "--epochs"]),
                process(9, 2, &[]),
                process(10, 1, &["sh"]),
            ],
        }
    }

    fn plain(width: usize) -> String {
        anstream::adapter::strip_str(&render(&overview(), width)).to_string()
    }

    #[test]
    fn a_wide_screen_has_a_column_for_everything() {
        let expected = "\
Checkpoint /images: by thaw, 1970-01-01 00:00:00 UTC, 7.0 MiB on disk
  GPU 0xa000 (renderD128): MI210, device 0x740f, 4.5 GiB of 64.0 GiB used
  GPU 0xa001 (renderD129): MI210, device 0x740f, 0 bytes of 64.0 GiB used

PID    STATE  THREADS  FDS   MEMORY  GPU 0xa000  GPU 0xa001  COMMAND
  7  running        2   12  5.0 MiB     1.5 GiB           -  python3 train.py
  8  running        2   12  5.0 MiB     1.5 GiB           -  |- /a/very/long/pa.../screen --epochs
  9   zombie        2   12  5.0 MiB           -           -  |  `- [worker]
 10  running        2   12  5.0 MiB     1.5 GiB           -  `- sh

4 process(es), 8 thread(s), 48 descriptor(s), 20.0 MiB of memory, 4.5 GiB of GPU memory on 2
GPU(s)
";
        let text = plain(98);
        assert_eq!(text, expected, "\n{text}");
    }

    #[test]
    fn a_narrow_screen_has_the_rest_below() {
        let text = plain(40);
        for line in
            ["PID   MEMORY  COMMAND", "  7  5.0 MiB  python3 train.py", " 10  5.0 MiB  `- sh"]
        {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert!(text.contains("1.5 GiB of GPU 0xa000"), "{text}");
        assert!(text.contains("zombie"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_it_may_be() {
        for width in [40, 60, 80, 100, 200] {
            for line in plain(width).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }
}
