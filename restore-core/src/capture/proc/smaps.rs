//! `/proc/<pid>/smaps`: the mappings of an address space, with the flags that no other file has.

use super::{read, unexpected};
use crate::capture::DumpError;

/// One mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// `PROT_*`.
    pub(crate) prot: u32,
    pub(crate) shared: bool,
    pub(crate) offset_bytes: u64,
    /// Major and minor number of the file system's device.
    pub(crate) dev: (u32, u32),
    pub(crate) inode: u64,
    /// As the kernel shows it, with newlines escaped.
    pub(crate) name: Vec<u8>,
    pub(crate) page_kib: u64,
    /// The two-letter words of `VmFlags`.
    flags: Vec<[u8; 2]>,
}

impl Vma {
    /// Whether `VmFlags` has this word (proc(5)).
    pub(crate) fn has(&self, flag: &[u8; 2]) -> bool {
        self.flags.contains(flag)
    }

    /// Length in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The mappings of a process in address order.
pub(crate) fn of(pid: i32) -> Result<Vec<Vma>, DumpError> {
    parse(&read(pid, "smaps")?).ok_or_else(|| unexpected(pid, "smaps"))
}

fn parse(bytes: &[u8]) -> Option<Vec<Vma>> {
    let mut vmas: Vec<Vma> = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n') {
        if line.first().is_some_and(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()) {
            vmas.push(head(line)?);
        } else if let Some(words) = line.strip_prefix(b"VmFlags:") {
            let words = words.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
            let flags: Option<Vec<[u8; 2]>> = words.map(|word| word.try_into().ok()).collect();
            vmas.last_mut()?.flags = flags?;
        } else if let Some(size) = line.strip_prefix(b"KernelPageSize:") {
            let text = str::from_utf8(size).ok()?;
            vmas.last_mut()?.page_kib = text.trim().strip_suffix(" kB")?.parse().ok()?;
        }
    }
    Some(vmas)
}

/// `start-end perms offset major:minor inode    name`
fn head(line: &[u8]) -> Option<Vma> {
    let mut rest = line;
    let mut word = || -> Option<&[u8]> {
        let end = rest.iter().position(|&byte| byte == b' ').unwrap_or(rest.len());
        let (word, tail) = rest.split_at(end);
        rest = tail.get(1..).unwrap_or_default();
        (!word.is_empty()).then_some(word)
    };
    let (start, end) = pair(word()?, '-')?;
    let perms: [u8; 4] = word()?.try_into().ok()?;
    let offset_bytes = hex(str::from_utf8(word()?).ok()?)?;
    let (major, minor) = pair(word()?, ':')?;
    let inode = str::from_utf8(word()?).ok()?.parse().ok()?;
    let blanks = rest.iter().take_while(|&&byte| byte == b' ').count();
    let bits = [(b'r', libc::PROT_READ), (b'w', libc::PROT_WRITE), (b'x', libc::PROT_EXEC)];
    let prot = bits.iter().zip(perms).filter(|((letter, _), perm)| letter == perm);
    Some(Vma {
        start,
        end,
        prot: prot.map(|((_, bit), _)| *bit as u32).sum(),
        shared: perms[3] == b's',
        offset_bytes,
        dev: (major as u32, minor as u32),
        inode,
        name: rest[blanks..].to_vec(),
        page_kib: 0,
        flags: Vec::new(),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn pair(word: &[u8], between: char) -> Option<(u64, u64)> {
    let (first, second) = str::from_utf8(word).ok()?.split_once(between)?;
    Some((hex(first)?, hex(second)?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn mapping_is_read_with_name_and_flags() {
        let text = "7f00-8000 r-xs 00001000 fe:10 55   /a b (deleted)\nSize:  4 kB\n\
                    KernelPageSize:        4 kB\nVmFlags: rd ex mr me ht \n\
                    8000-9000 ---p 00000000 00:00 0 \nVmFlags: mr \n";
        let vmas = parse(text.as_bytes()).expect("it is whole");
        assert_eq!(vmas.len(), 2);
        let (vma, second) = (&vmas[0], &vmas[1]);
        assert_eq!((vma.start, vma.end, vma.prot, vma.shared), (0x7f00, 0x8000, 5, true));
        assert_eq!((vma.offset_bytes, vma.dev, vma.inode), (0x1000, (0xfe, 0x10), 55));
        assert_eq!((vma.name.as_slice(), vma.page_kib), (b"/a b (deleted)".as_slice(), 4));
        assert!(vma.has(b"ht") && !vma.has(b"gd"));
        assert_eq!((second.prot, second.shared, second.name.len()), (0, false, 0));
        assert!(parse(b"7f00-8000 r-xs 00001000\n").is_none());
    }

    #[test]
    fn own_stack_grows_down() {
        let vmas = super::of(std::process::id() as i32).expect("/proc is mounted");
        let stack = vmas.iter().find(|vma| vma.name == b"[stack]").expect("a stack");
        assert!(stack.has(b"gd") && stack.page_kib == 4);
    }
}
