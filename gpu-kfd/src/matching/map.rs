//! The map that a user gives: which GPU of this host a saved one becomes.
//!
//! It is text as from a command line, `SAVED=HERE,...`. Which ids exist is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::saved::{GPUS_MAX, GpuId};
use crate::topology::HostGpuId;

/// GPUs of this host that a user chose for saved ones. It may leave saved GPUs out, which are then
/// matched as without a map. [`Default`] chooses nothing.
///
/// ```
/// let map: gpu_kfd::UserMap = "0x1a2b=0x3c4d, 52041=1170".parse()?;
/// assert_eq!(map.host_of(gpu_kfd::GpuId(0xcb49)), Some(gpu_kfd::HostGpuId(0x492)));
/// # Ok::<(), gpu_kfd::UserMapError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserMap {
    pairs: BTreeMap<GpuId, HostGpuId>,
}

/// Why a map cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserMapError {
    /// An item without `=`, or with two.
    #[error("{item:?} is not a pair SAVED=HERE of GPU ids")]
    NotAPair {
        /// The item.
        item: String,
    },
    /// Something that is no id.
    #[error("{id:?} in {item:?} is no GPU id: a decimal number, or a hexadecimal one with 0x")]
    NotAnId {
        /// What stands for the id.
        id: String,
        /// The item.
        item: String,
    },
    /// 0 is no GPU.
    #[error("0 in {item:?} is no GPU id: it stands for a CPU")]
    Zero {
        /// The item.
        item: String,
    },
    /// One saved GPU on the left of two pairs.
    #[error("saved GPU {id} is mapped twice")]
    SavedTwice {
        /// Its id.
        id: GpuId,
    },
    /// One GPU of this host on the right of two pairs.
    #[error("GPU {id} of this host is given to two saved GPUs")]
    HereTwice {
        /// Its id.
        id: HostGpuId,
    },
    /// More pairs than any process has GPUs.
    #[error("more than {GPUS_MAX} pairs")]
    TooMany,
}

impl UserMapError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAPair { .. } => "usage.gpu-map-pair",
            Self::NotAnId { .. } => "usage.gpu-map-id",
            Self::Zero { .. } => "usage.gpu-map-zero",
            Self::SavedTwice { .. } => "usage.gpu-map-saved-twice",
            Self::HereTwice { .. } => "usage.gpu-map-here-twice",
            Self::TooMany => "usage.gpu-map-too-many",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NotAPair { .. } => {
                Some("write pairs SAVED=HERE with commas between, such as 0xf85e=0x1267")
            }
            Self::NotAnId { .. } => {
                Some("give ids as decimal numbers, or hexadecimal ones with 0x")
            }
            Self::Zero { .. } => Some("give the ids of GPUs"),
            Self::SavedTwice { .. } => Some("map each saved GPU once"),
            Self::HereTwice { .. } => Some("give each GPU of this host to one saved GPU"),
            Self::TooMany => Some("leave out the GPUs that need not be chosen"),
        }
    }
}

impl UserMap {
    /// The GPU that was chosen for a saved one.
    #[must_use]
    pub fn host_of(&self, saved: GpuId) -> Option<HostGpuId> {
        self.pairs.get(&saved).copied()
    }

    /// All pairs, by the id of the saved one.
    pub fn pairs(&self) -> impl Iterator<Item = (GpuId, HostGpuId)> {
        self.pairs.iter().map(|(&saved, &here)| (saved, here))
    }

    /// Whether nothing was chosen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

impl FromStr for UserMap {
    type Err = UserMapError;

    /// Reads `SAVED=HERE,...`. Ids are decimal, or hexadecimal with `0x`; blanks around them are
    /// passed over. An empty text is an empty map.
    fn from_str(text: &str) -> Result<Self, UserMapError> {
        let mut pairs = BTreeMap::new();
        let mut taken = BTreeSet::new();
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        for item in text.split(',').map(str::trim) {
            let not_a_pair = || UserMapError::NotAPair { item: item.to_owned() };
            let (saved, here) = item.split_once('=').ok_or_else(not_a_pair)?;
            if here.contains('=') {
                return Err(not_a_pair());
            }
            let (saved, here) = (GpuId(id(saved, item)?), HostGpuId(id(here, item)?));
            if pairs.insert(saved, here).is_some() {
                return Err(UserMapError::SavedTwice { id: saved });
            }
            if !taken.insert(here) {
                return Err(UserMapError::HereTwice { id: here });
            }
            if pairs.len() > GPUS_MAX {
                return Err(UserMapError::TooMany);
            }
        }
        Ok(Self { pairs })
    }
}

impl fmt::Display for UserMap {
    /// What [`FromStr`] reads.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (saved, here)) in self.pairs().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{saved}={here}")?;
        }
        Ok(())
    }
}

fn id(text: &str, item: &str) -> Result<u32, UserMapError> {
    let text = text.trim();
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` takes a sign.
    let plain = digits.chars().all(|digit| digit.is_digit(radix));
    match u32::from_str_radix(digits, radix) {
        Ok(0) if plain => Err(UserMapError::Zero { item: item.to_owned() }),
        Ok(id) if plain => Ok(id),
        _ => Err(UserMapError::NotAnId { id: text.to_owned(), item: item.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::saved::{GPUS_MAX, GpuId};
    use super::{UserMap, UserMapError as Error};
    use crate::topology::HostGpuId;

    fn check(text: &str, expected: &[(u32, u32)]) {
        let map: UserMap = text.parse().expect("a map");
        let pairs: Vec<(u32, u32)> = map.pairs().map(|(saved, here)| (saved.0, here.0)).collect();
        assert_eq!(pairs, expected, "{text}");
        assert_eq!(map.to_string().parse(), Ok(map), "{text}");
    }

    #[test]
    fn ids_are_decimal_or_hexadecimal() {
        check("", &[]);
        check("  ", &[]);
        check("1=2", &[(1, 2)]);
        check(" 0x1F = 31 , 0XfF=0x00000001", &[(31, 31), (255, 1)]);
        check("4294967295=0xffffffff", &[(u32::MAX, u32::MAX)]);
    }

    fn refuse(text: &str, expected: &str) {
        let error = text.parse::<UserMap>().expect_err("it is no map");
        assert_eq!(error.to_string(), expected, "{text}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let no_id = "is no GPU id: a decimal number, or a hexadecimal one with 0x";
        refuse("1", "\"1\" is not a pair SAVED=HERE of GPU ids");
        refuse("1=2,", "\"\" is not a pair SAVED=HERE of GPU ids");
        refuse("1=2=3", "\"1=2=3\" is not a pair SAVED=HERE of GPU ids");
        refuse("1:2", "\"1:2\" is not a pair SAVED=HERE of GPU ids");
        refuse("=2", &format!("\"\" in \"=2\" {no_id}"));
        refuse("1=a2b", &format!("\"a2b\" in \"1=a2b\" {no_id}"));
        refuse("1=0x", &format!("\"0x\" in \"1=0x\" {no_id}"));
        refuse("1=+2", &format!("\"+2\" in \"1=+2\" {no_id}"));
        refuse("1=0x+2", &format!("\"0x+2\" in \"1=0x+2\" {no_id}"));
        refuse("4294967296=1", &format!("\"4294967296\" in \"4294967296=1\" {no_id}"));
        refuse("3=1, 0x0=2", "0 in \"0x0=2\" is no GPU id: it stands for a CPU");
        refuse("1=2,0x1=3", "saved GPU 0x0001 is mapped twice");
        refuse("1=2,3=0x2", "GPU 0x0002 of this host is given to two saved GPUs");
    }

    #[test]
    fn map_of_too_many_pairs_is_refused() {
        let pairs: Vec<String> = (1..=GPUS_MAX + 1).map(|id| format!("{id}={id}")).collect();
        assert_eq!(pairs.join(",").parse::<UserMap>(), Err(Error::TooMany));
        let map: UserMap = pairs[1..].join(",").parse().expect("as many as a process may have");
        assert_eq!(map.host_of(GpuId(1)), None);
        assert_eq!(map.host_of(GpuId(2)), Some(HostGpuId(2)));
    }
}
