//! The rules of a match, one for each property, and how each is switched off.
//!
//! They are those of CRIU 4.2's amdgpu plugin, with three differences. GPUs may be left over
//! here, so `io_links_count` (which grows with the GPUs of a hive) need not be equal but no less,
//! and links are compared one by one. Every rule can be switched off, not only the seven of
//! CRIU. A value of a variable that is neither yes nor no is an error, which CRIU passes over.

use std::fmt;

/// How a rule compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Both the same.
    Equal,
    /// Here no less than saved.
    AtLeast,
    /// Every saved link has a link here that is not worse: XGMI for XGMI, XGMI or PCIe for PCIe.
    NotWorse,
    /// What was in one hive is in one hive.
    OneHive,
    /// GPUs of one CPU node go to GPUs of one CPU node, those of two nodes to those of two.
    OneNode,
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Equal => "equal",
            Self::AtLeast => "saved <= here",
            Self::NotWorse => "not worse",
            Self::OneHive => "one hive",
            Self::OneNode => "one node each",
        })
    }
}

macro_rules! rules {
    ($(
        $(#[$meta:meta])*
        $name:ident: $comparison:ident $property:literal $variable:literal,
    )*) => {
        /// A rule of a match.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $( $(#[$meta])* $name, )*
        }

        impl Rule {
            /// Every rule, in the order in which tables show them.
            pub const ALL: &[Self] = &[$( Self::$name, )*];

            /// How it compares.
            #[must_use]
            pub fn comparison(self) -> Comparison {
                match self { $( Self::$name => Comparison::$comparison, )* }
            }

            /// What it compares, as the driver names it where it does.
            #[must_use]
            pub fn property(self) -> &'static str {
                match self { $( Self::$name => $property, )* }
            }

            /// The variable that switches it off, if it is `0` or `NO`.
            #[must_use]
            pub fn variable(self) -> &'static str {
                match self { $( Self::$name => $variable, )* }
            }
        }
    };
}

rules! {
    /// PCI vendor.
    VendorId: Equal "vendor_id" "KFD_VENDOR_CHECK",
    /// PCI device. The saved state of a queue is that of a chip: between two chips that differ it
    /// is refused by the driver at best. Two ids of one chip, as of a card and of its virtual
    /// functions, are the reason to switch this off.
    DeviceId: Equal "device_id" "KFD_DEVICE_CHECK",
    /// SIMD units.
    SimdCount: Equal "simd_count" "KFD_SIMD_COUNT_CHECK",
    /// Shader arrays.
    ArrayCount: Equal "array_count" "KFD_ARRAY_COUNT_CHECK",
    /// Shader arrays of an engine.
    SimdArraysPerEngine: Equal "simd_arrays_per_engine" "KFD_SIMD_ARRAYS_CHECK",
    /// Compute units of a shader array.
    CuPerSimdArray: Equal "cu_per_simd_array" "KFD_CU_COUNT_CHECK",
    /// SIMD units of a compute unit.
    SimdPerCu: Equal "simd_per_cu" "KFD_SIMD_PER_CU_CHECK",
    /// Waves of a SIMD unit.
    MaxWavesPerSimd: Equal "max_waves_per_simd" "KFD_MAX_WAVES_CHECK",
    /// Work-items of a wave.
    WaveFrontSize: Equal "wave_front_size" "KFD_WAVE_FRONT_CHECK",
    /// Local data share.
    LdsSize: Equal "lds_size_in_kb" "KFD_LDS_SIZE_CHECK",
    /// Waves with scratch memory.
    MaxSlotsScratchCu: Equal "max_slots_scratch_cu" "KFD_SCRATCH_CHECK",
    /// Memory banks.
    MemBanksCount: Equal "mem_banks_count" "KFD_MEM_BANKS_CHECK",
    /// SDMA engines.
    NumSdmaEngines: Equal "num_sdma_engines" "KFD_SDMA_CHECK",
    /// SDMA engines for XGMI.
    NumSdmaXgmiEngines: Equal "num_sdma_xgmi_engines" "KFD_SDMA_XGMI_CHECK",
    /// Queues of an SDMA engine.
    NumSdmaQueuesPerEngine: Equal "num_sdma_queues_per_engine" "KFD_SDMA_QUEUES_CHECK",
    /// Compute queues.
    NumCpQueues: Equal "num_cp_queues" "KFD_CP_QUEUES_CHECK",
    /// Whether a CPU can map all VRAM.
    VramPublic: Equal "vram_public" "KFD_VRAM_PUBLIC_CHECK",
    /// Capability bits. A variable of CRIU's.
    Capability: Equal "capability" "KFD_CAPABILITY_CHECK",
    /// VRAM. A variable of CRIU's.
    VramSize: AtLeast "vram_size" "KFD_VRAM_SIZE_CHECK",
    /// Global wave sync entries. A variable of CRIU's.
    NumGws: AtLeast "num_gws" "KFD_NUM_GWS_CHECK",
    /// Caches. A variable of CRIU's.
    CachesCount: AtLeast "caches_count" "KFD_CACHES_COUNT_CHECK",
    /// Direct links, whatever they lead to.
    IoLinksCount: AtLeast "io_links_count" "KFD_IO_LINKS_CHECK",
    /// Firmware of the compute engine. A variable of CRIU's.
    FwVersion: AtLeast "fw_version" "KFD_FW_VER_CHECK",
    /// Firmware of the SDMA engines. A variable of CRIU's.
    SdmaFwVersion: AtLeast "sdma_fw_version" "KFD_SDMA_FW_VER_CHECK",
    /// Links between saved GPUs, and from a GPU to a CPU.
    Links: NotWorse "links" "KFD_LINK_CHECK",
    /// XGMI hives.
    Hive: OneHive "hive" "KFD_HIVE_CHECK",
    /// CPU nodes. A variable of CRIU's.
    Numa: OneNode "numa" "KFD_NUMA_CHECK",
}

impl Rule {
    /// Whether it compares a GPU with a GPU; the others compare what is between GPUs.
    #[must_use]
    pub fn is_pairwise(self) -> bool {
        matches!(self.comparison(), Comparison::Equal | Comparison::AtLeast)
    }

    fn bit(self) -> u32 {
        1 << self as u32
    }
}

// The set of rules is one bit each.
const _: () = assert!(Rule::ALL.len() <= 32);

/// A value of a variable that says neither yes nor no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value}: expected 0 or NO to switch the rule off, 1 or YES to keep it")]
pub struct SwitchError {
    /// The variable.
    pub variable: &'static str,
    /// What it says.
    pub value: String,
}

impl SwitchError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "usage.gpu-check"
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        Some("set the variable to 0 or NO to switch its rule off, or to 1 or YES to keep it")
    }
}

/// Which rules are to hold. [`Default`] is all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    off: u32,
}

impl Rules {
    /// Every rule.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// No rule: any GPU goes for any other.
    #[must_use]
    pub fn none() -> Self {
        Rule::ALL.iter().fold(Self::all(), |rules, &rule| rules.without(rule))
    }

    /// The same without one.
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self { off: self.off | rule.bit() }
    }

    /// Whether a rule is to hold.
    #[must_use]
    pub fn has(self, rule: Rule) -> bool {
        self.off & rule.bit() == 0
    }

    /// Rules that were switched off, in the order of [`Rule::ALL`].
    pub fn switched_off(self) -> impl Iterator<Item = Rule> {
        Rule::ALL.iter().copied().filter(move |&rule| !self.has(rule))
    }

    /// Reads the variables [`Rule::variable`]: `0` and `NO` switch a rule off, `1` and `YES` keep
    /// it, in capitals or not, as for CRIU. A variable that is not set keeps its rule.
    ///
    /// `lookup` gives the value of a variable, such as `|name| std::env::var(name).ok()`.
    ///
    /// # Errors
    /// [`SwitchError`] names the first variable with another value.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SwitchError> {
        let mut rules = Self::all();
        for &rule in Rule::ALL {
            let variable = rule.variable();
            match lookup(variable) {
                None => {}
                Some(value) if value == "1" || value.eq_ignore_ascii_case("yes") => {}
                Some(value) if value == "0" || value.eq_ignore_ascii_case("no") => {
                    rules = rules.without(rule);
                }
                Some(value) => return Err(SwitchError { variable, value }),
            }
        }
        Ok(rules)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Rule, Rules};

    #[test]
    fn variables_switch_rules_as_those_of_criu_do() {
        let check = |value: &str| {
            let lookup = |name: &str| (name == "KFD_NUMA_CHECK").then(|| value.to_owned());
            Rules::from_lookup(lookup)
        };
        for value in ["0", "NO", "no", "No"] {
            assert_eq!(check(value), Ok(Rules::all().without(Rule::Numa)), "{value}");
        }
        for value in ["1", "YES", "yes"] {
            assert_eq!(check(value), Ok(Rules::all()), "{value}");
        }
        for value in ["", "2", "false", "off", " 0", "N"] {
            let error = check(value).expect_err("it is neither yes nor no");
            assert_eq!((error.variable, error.value.as_str()), ("KFD_NUMA_CHECK", value));
        }
        let error = check("maybe").expect_err("it is neither yes nor no").to_string();
        let expected = "KFD_NUMA_CHECK=maybe: expected 0 or NO to switch the rule off, \
                        1 or YES to keep it";
        assert_eq!(error, expected);
        assert_eq!(Rules::from_lookup(|_| None), Ok(Rules::all()));
        assert_eq!(Rules::from_lookup(|_| Some("NO".to_owned())), Ok(Rules::none()));
    }

    #[test]
    fn each_rule_has_a_variable_and_a_switch_of_its_own() {
        let variables: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.variable()).collect();
        assert_eq!(variables.len(), Rule::ALL.len());
        let of_criu = [
            "KFD_FW_VER_CHECK",
            "KFD_SDMA_FW_VER_CHECK",
            "KFD_CACHES_COUNT_CHECK",
            "KFD_NUM_GWS_CHECK",
            "KFD_VRAM_SIZE_CHECK",
            "KFD_NUMA_CHECK",
            "KFD_CAPABILITY_CHECK",
        ];
        assert!(of_criu.iter().all(|variable| variables.contains(variable)));
        for &rule in Rule::ALL {
            let rules = Rules::all().without(rule);
            assert_eq!(rules.switched_off().collect::<Vec<_>>(), [rule]);
        }
        assert!(Rule::ALL.iter().all(|&rule| !Rules::none().has(rule)));
    }
}
