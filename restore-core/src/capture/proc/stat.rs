//! `/proc/<pid>/stat`: place in the tree, state, scheduling, layout of the address space.

use super::{read, unexpected};
use crate::capture::DumpError;

/// The fields that a dump needs; numbering and meaning as in proc(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) comm: Vec<u8>,
    pub(crate) state: u8,
    pub(crate) ppid: i32,
    pub(crate) pgid: i32,
    pub(crate) sid: i32,
    /// `PF_*` flags of the kernel.
    pub(crate) flags: u32,
    pub(crate) nice: i32,
    pub(crate) rt_priority: u32,
    pub(crate) policy: u32,
    pub(crate) start_code: u64,
    pub(crate) end_code: u64,
    pub(crate) start_stack: u64,
    pub(crate) start_data: u64,
    pub(crate) end_data: u64,
    pub(crate) start_brk: u64,
    pub(crate) arg_start: u64,
    pub(crate) arg_end: u64,
    pub(crate) env_start: u64,
    pub(crate) env_end: u64,
    /// As `wait` gives it.
    pub(crate) exit_code: u32,
}

impl Stat {
    /// Of a process.
    pub(crate) fn of(pid: i32) -> Result<Self, DumpError> {
        parse(&read(pid, "stat")?).ok_or_else(|| unexpected(pid, "stat"))
    }

    /// Of a thread.
    pub(crate) fn of_thread(pid: i32, tid: i32) -> Result<Self, DumpError> {
        let name = format!("task/{tid}/stat");
        parse(&read(pid, &name)?).ok_or_else(|| unexpected(pid, &name))
    }

    /// Whether it has exited.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

fn parse(bytes: &[u8]) -> Option<Stat> {
    // The name may hold anything, closing brackets too.
    let open = bytes.iter().position(|&byte| byte == b'(')?;
    let close = bytes.iter().rposition(|&byte| byte == b')')?;
    let comm = bytes.get(open + 1..close)?.to_vec();
    let rest = str::from_utf8(bytes.get(close + 1..)?).ok()?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the manual page is the first word here.
    let word = |field: usize| words.get(field - 3).copied();
    let number = |field: usize| word(field)?.parse::<u64>().ok();
    let signed = |field: usize| word(field)?.parse::<i64>().ok();
    Some(Stat {
        comm,
        state: *word(3)?.as_bytes().first()?,
        ppid: signed(4)? as i32,
        pgid: signed(5)? as i32,
        sid: signed(6)? as i32,
        flags: number(9)? as u32,
        nice: signed(19)? as i32,
        start_code: number(26)?,
        end_code: number(27)?,
        start_stack: number(28)?,
        rt_priority: number(40)? as u32,
        policy: number(41)? as u32,
        start_data: number(45)?,
        end_data: number(46)?,
        start_brk: number(47)?,
        arg_start: number(48)?,
        arg_end: number(49)?,
        env_start: number(50)?,
        env_end: number(51)?,
        exit_code: signed(52)? as u32,
    })
}

#[cfg(test)]
mod tests {
    use super::{Stat, parse};

    #[test]
    fn name_with_brackets_and_spaces_is_kept() {
        let numbers: Vec<String> = (4..=52).map(|field: u32| field.to_string()).collect();
        let text = format!("7 (a) b) S {}\n", numbers.join(" "));
        let stat = parse(text.as_bytes()).expect("it is whole");
        assert_eq!((stat.comm.as_slice(), stat.state), (b"a) b".as_slice(), b'S'));
        assert_eq!((stat.ppid, stat.nice, stat.env_end, stat.exit_code), (4, 19, 51, 52));
        assert!(parse(b"7 (a) S 1 2").is_none());
    }

    #[test]
    fn own_entry_is_read() {
        let own = std::process::id() as i32;
        let stat = Stat::of(own).expect("/proc is mounted");
        assert!(!stat.is_zombie() && stat.start_code < stat.end_code);
    }
}
