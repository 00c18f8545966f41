//! Numbers as people read them, and back: flags, names, device numbers, addresses.
//!
//! Names and values are those of CRIU 4.2's image tool, since its JSON is read here and ours by it.
//! That includes names that it has wrong: it calls task state 3 (stopped) `Zombie` and 6 (zombie)
//! `Stopped`.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::schema::{Flags, Names};

const PROT: &[(&str, u32)] = &[("PROT_READ", 1), ("PROT_WRITE", 2), ("PROT_EXEC", 4)];

const MAP: &[(&str, u32)] = &[
    ("MAP_SHARED", 0x1),
    ("MAP_PRIVATE", 0x2),
    ("MAP_DROPPABLE", 0x8),
    ("MAP_ANON", 0x20),
    ("MAP_GROWSDOWN", 0x100),
];

const VMA: &[(&str, u32)] = &[
    ("VMA_AREA_REGULAR", 1 << 0),
    ("VMA_AREA_STACK", 1 << 1),
    ("VMA_AREA_VSYSCALL", 1 << 2),
    ("VMA_AREA_VDSO", 1 << 3),
    ("VMA_AREA_HEAP", 1 << 5),
    ("VMA_FILE_PRIVATE", 1 << 6),
    ("VMA_FILE_SHARED", 1 << 7),
    ("VMA_ANON_SHARED", 1 << 8),
    ("VMA_ANON_PRIVATE", 1 << 9),
    ("VMA_AREA_SYSVIPC", 1 << 10),
    ("VMA_AREA_SOCKET", 1 << 11),
    ("VMA_AREA_VVAR", 1 << 12),
    ("VMA_AREA_AIORING", 1 << 13),
    ("VMA_AREA_MEMFD", 1 << 14),
    ("VMA_AREA_SHSTK", 1 << 15),
    ("VMA_AREA_UPROBES", 1 << 17),
    ("VMA_UNSUPP", 1 << 31),
];

const OPEN: &[(&str, u32)] = &[
    ("O_WRONLY", 0o1),
    ("O_RDWR", 0o2),
    ("O_CREAT", 0o100),
    ("O_EXCL", 0o200),
    ("O_NOCTTY", 0o400),
    ("O_TRUNC", 0o1000),
    ("O_APPEND", 0o2000),
    ("O_NONBLOCK", 0o4000),
    ("O_DSYNC", 0o10000),
    ("FASYNC", 0o20000),
    ("O_DIRECT", 0o40000),
    ("O_LARGEFILE", 0o100_000),
    ("O_DIRECTORY", 0o200_000),
    ("O_NOFOLLOW", 0o400_000),
    ("O_NOATIME", 0o1_000_000),
    ("O_CLOEXEC", 0o2_000_000),
];

const SEAL: &[(&str, u32)] = &[
    ("F_SEAL_SEAL", 0x1),
    ("F_SEAL_SHRINK", 0x2),
    ("F_SEAL_GROW", 0x4),
    ("F_SEAL_WRITE", 0x8),
    ("F_SEAL_FUTURE_WRITE", 0x10),
];

const PAGE: &[(&str, u32)] = &[("PE_PARENT", 1), ("PE_LAZY", 2), ("PE_PRESENT", 4)];

const TASK_STATE: &[(&str, u32)] = &[("Alive", 1), ("Zombie", 3), ("Stopped", 6)];

const SOCKET_FAMILY: &[(&str, u32)] =
    &[("UNIX", 1), ("INET", 2), ("INET6", 10), ("NETLINK", 16), ("PACKET", 17)];

const SOCKET_TYPE: &[(&str, u32)] =
    &[("STREAM", 1), ("DGRAM", 2), ("RAW", 3), ("SEQPACKET", 5), ("PACKET", 10)];

const SOCKET_PROTO: &[(&str, u32)] = &[("IP", 0), ("TCP", 6), ("UDP", 17), ("UDPLITE", 136)];

const SOCKET_STATE: &[(&str, u32)] = &[
    ("ESTABLISHED", 1),
    ("SYN_SENT", 2),
    ("SYN_RECV", 3),
    ("FIN_WAIT1", 4),
    ("FIN_WAIT2", 5),
    ("TIME_WAIT", 6),
    ("CLOSE", 7),
    ("CLOSE_WAIT", 8),
    ("LAST_ACK", 9),
    ("LISTEN", 10),
];

/// Minor numbers have this many bits in the kernel's form of a device number.
const MINOR_BITS: u32 = 20;

fn flags(set: Flags) -> &'static [(&'static str, u32)] {
    match set {
        Flags::Prot => PROT,
        Flags::Map => MAP,
        Flags::Vma => VMA,
        Flags::Open => OPEN,
        Flags::Seal => SEAL,
        Flags::Page => PAGE,
    }
}

fn names(set: Names) -> &'static [(&'static str, u32)] {
    match set {
        Names::TaskState => TASK_STATE,
        Names::SocketFamily => SOCKET_FAMILY,
        Names::SocketType => SOCKET_TYPE,
        Names::SocketProto => SOCKET_PROTO,
        Names::SocketState => SOCKET_STATE,
    }
}

/// Names of the flags that are set, and what has no name in hex; nothing for 0.
pub(crate) fn of_flags(set: Flags, value: u32, out: &mut String) {
    let mut rest = value;
    let mut separator = "";
    for &(name, bit) in flags(set).iter().filter(|&&(_, bit)| value & bit != 0) {
        out.push_str(separator);
        out.push_str(name);
        separator = " | ";
        rest &= !bit;
    }
    if rest != 0 {
        write!(out, "{separator}{rest:#x}").expect("memory takes all");
    }
}

/// The value of flags by name or number, as [`of_flags`] writes them.
pub(crate) fn to_flags(set: Flags, text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return Some(0);
    }
    let of = |part: &[u8]| match value_of(flags(set), part) {
        Some(bit) => Some(bit),
        None => u32::try_from(integer(part)?).ok(),
    };
    text.split(|&byte| byte == b'|').try_fold(0, |value, part| Some(value | of(part.trim_ascii())?))
}

/// Name of a value, if it has one.
pub(crate) fn of_name(set: Names, value: u32) -> Option<&'static str> {
    names(set).iter().find(|&&(_, known)| known == value).map(|&(name, _)| name)
}

/// Value of a name, or of a number.
pub(crate) fn to_name(set: Names, text: &[u8]) -> Option<u32> {
    value_of(names(set), text).or_else(|| u32::try_from(integer(text)?).ok())
}

fn value_of(table: &[(&str, u32)], name: &[u8]) -> Option<u32> {
    table.iter().find(|(known, _)| known.as_bytes() == name).map(|&(_, value)| value)
}

/// Major and minor of a device number in the kernel's form.
pub(crate) fn of_kdev(value: u32) -> (u32, u32) {
    (value >> MINOR_BITS, value & ((1 << MINOR_BITS) - 1))
}

/// Major and minor of a device number in the C library's form.
pub(crate) fn of_odev(value: u32) -> (u32, u32) {
    (value >> 8 & 0xfff, value & 0xff | value >> 12 & 0xfff00)
}

/// A device number in the kernel's form from `major:minor`.
pub(crate) fn to_kdev(text: &[u8]) -> Option<u32> {
    let (major, minor) = pair(text)?;
    (major >> (32 - MINOR_BITS) == 0 && minor >> MINOR_BITS == 0)
        .then_some(major << MINOR_BITS | minor)
}

/// A device number in the C library's form from `major:minor`.
pub(crate) fn to_odev(text: &[u8]) -> Option<u32> {
    let (major, minor) = pair(text)?;
    (major >> 12 == 0 && minor >> 20 == 0)
        .then_some(major << 8 | minor & 0xff | (minor & 0xfff00) << 12)
}

fn pair(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((major.trim().parse().ok()?, minor.trim().parse().ok()?))
}

/// An address of one word (version 4) or four (version 6), each in network order.
pub(crate) fn of_address(words: &[u32], out: &mut String) {
    let mut bytes = [0; 16];
    for (chunk, word) in bytes.chunks_mut(4).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    if let [a, b, c, d] = bytes[..words.len() * 4] {
        write!(out, "{a}.{b}.{c}.{d}").expect("memory takes all");
        return;
    }
    let group = |index: usize| u16::from_be_bytes([bytes[index * 2], bytes[index * 2 + 1]]);
    let zeros = longest_zeros(&std::array::from_fn(group));
    let mut index = 0;
    while index < 8 {
        if index == zeros.start && !zeros.is_empty() {
            out.push_str("::");
            index = zeros.end;
            continue;
        }
        if index > 0 && index != zeros.end {
            out.push(':');
        }
        write!(out, "{:x}", group(index)).expect("memory takes all");
        index += 1;
    }
}

/// The longest run of two or more zeros, the first of equals; empty at 8 if there is none.
fn longest_zeros(groups: &[u16; 8]) -> std::ops::Range<usize> {
    let mut best = 8..8;
    let mut index = 0;
    while index < 8 {
        let len = groups[index..].iter().take_while(|&&group| group == 0).count();
        if len > best.len().max(1) {
            best = index..index + len;
        }
        index += len.max(1);
    }
    best
}

/// The words of an address.
pub(crate) fn to_address(text: &[u8]) -> Option<Vec<u32>> {
    let address: IpAddr = std::str::from_utf8(text).ok()?.parse().ok()?;
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4);
    Some(words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
}

/// A number as Python's `int(text, 0)` reads it: a sign, a base, digits with single underscores.
pub(crate) fn integer(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (radix, rest) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ => (10, digits),
    };
    let rest = if radix == 10 { rest } else { rest.strip_prefix('_').unwrap_or(rest) };
    let mut plain = String::with_capacity(rest.len());
    for part in rest.split('_') {
        if part.is_empty() || !part.chars().all(|char| char.is_digit(radix)) {
            return None;
        }
        plain.push_str(part);
    }
    // `007` could be meant as octal; only zero may be written so.
    if radix == 10 && plain.starts_with('0') && plain.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let value = i128::from_str_radix(&plain, radix).ok()?;
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_flags(set: Flags, value: u32, text: &str) {
        let mut out = String::new();
        of_flags(set, value, &mut out);
        assert_eq!(out, text);
        assert_eq!(to_flags(set, text.as_bytes()), Some(value), "{text}");
    }

    #[test]
    fn flags_without_a_name_are_kept() {
        shown_flags(Flags::Prot, 0, "");
        shown_flags(Flags::Prot, 5, "PROT_READ | PROT_EXEC");
        shown_flags(Flags::Vma, 1 << 16 | 1, "VMA_AREA_REGULAR | 0x10000");
        shown_flags(Flags::Open, 0o10_000_000, "0x200000");
        assert_eq!(to_flags(Flags::Map, b"MAP_ANON|0x2"), Some(0x22));
        assert_eq!(to_flags(Flags::Map, b"MAP_NONSENSE"), None);
        assert_eq!(to_flags(Flags::Map, b"0x100000000"), None);
    }

    #[test]
    fn every_bit_of_every_set_comes_back() {
        for set in [Flags::Prot, Flags::Map, Flags::Vma, Flags::Open, Flags::Seal, Flags::Page] {
            for bit in 0..32 {
                let mut text = String::new();
                of_flags(set, 1 << bit, &mut text);
                assert_eq!(to_flags(set, text.as_bytes()), Some(1 << bit), "{set:?} {text}");
            }
        }
    }

    #[test]
    fn names_and_numbers_are_both_read() {
        assert_eq!(of_name(Names::SocketState, 10), Some("LISTEN"));
        assert_eq!(of_name(Names::SocketState, 99), None);
        assert_eq!(to_name(Names::SocketState, b"LISTEN"), Some(10));
        assert_eq!(to_name(Names::SocketState, b"0x63"), Some(99));
        assert_eq!(to_name(Names::SocketState, b"NONSENSE"), None);
    }

    #[test]
    fn device_numbers_come_back() {
        for value in [0, 1, 0x800_001, 0x1234_5678, u32::MAX] {
            let text = |(major, minor): (u32, u32)| format!("{major}:{minor}");
            assert_eq!(to_kdev(text(of_kdev(value)).as_bytes()), Some(value));
            assert_eq!(to_odev(text(of_odev(value)).as_bytes()), Some(value));
        }
        assert_eq!(of_kdev(8 << 20 | 17), (8, 17));
        assert_eq!(of_odev(0x0801), (8, 1));
        for text in ["", "8", "8:", "4096:0", "0:1048576", "-1:0"] {
            assert_eq!(to_kdev(text.as_bytes()), None, "{text}");
        }
    }

    fn shown_address(bytes: &[u8], text: &str) {
        let words: Vec<u32> = bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
            .collect();
        let mut out = String::new();
        of_address(&words, &mut out);
        assert_eq!(out, text);
        assert_eq!(to_address(text.as_bytes()), Some(words), "{text}");
    }

    /// Expected texts are what Python 3.11 gives.
    #[test]
    fn addresses_are_shown_as_by_python() {
        shown_address(&[127, 0, 0, 1], "127.0.0.1");
        shown_address(&[0; 16], "::");
        shown_address(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "::1");
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 1, 2, 3, 4];
        shown_address(&mapped, "::ffff:102:304");
        let mut one = [0; 16];
        one[0] = 0x20;
        shown_address(&one, "2000::");
        let groups = [0x20, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        shown_address(&groups, "2001:0:1::1:0:0");
        let single = [0, 1, 0, 0, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7];
        shown_address(&single, "1:0:2:3:4:5:6:7");
    }

    #[test]
    fn integers_are_read_as_by_python() {
        for (text, value) in [
            ("0", 0),
            ("-12", -12),
            (" +7 ", 7),
            ("0xFf", 255),
            ("0o17", 15),
            ("0b11", 3),
            ("1_000", 1000),
            ("0x_f", 15),
            ("000", 0),
        ] {
            assert_eq!(integer(text.as_bytes()), Some(value), "{text}");
        }
        for text in ["", "-", "0x", "12a", "1__0", "_1", "1_", "007", "1.0", "\u{661}"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }
}
