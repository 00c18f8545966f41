//! What this machine offers to a restore: read once, before anything is planned.
//!
//! Only what plans depend on is here. It makes no change to the system and needs no privilege.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};

/// This kernel's vdso as it is mapped in the restorer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vdso {
    /// Length of the vvar and vdso mappings together, in bytes.
    pub len_bytes: u64,
    /// Offset of the code from the lowest of those mappings, in bytes.
    pub code_offset_bytes: u64,
    /// The code pages.
    pub code: Vec<u8>,
}

/// Facts about this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The vdso, unless the kernel was started without one.
    pub vdso: Option<Vdso>,
    /// Address ranges that the restorer itself uses.
    pub own_mappings: Vec<(u64, u64)>,
    /// Whether transparent huge pages are not switched off for the whole system.
    pub huge_pages: bool,
    /// Its GPUs, if they were looked for and the KFD driver is there.
    pub gpus: Option<gpu_kfd::Topology>,
}

impl Host {
    /// Reads the facts from `/proc/self`.
    ///
    /// # Errors
    /// Any error of reading `/proc`, which must be mounted, and for this pid namespace.
    pub fn probe() -> io::Result<Self> {
        let own = fs::read_link("/proc/self")?;
        if own.as_os_str() != std::process::id().to_string().as_str() {
            // Its pids would lead us to processes that are not of the tree.
            return Err(io::Error::other("/proc is that of another pid namespace"));
        }
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mut own_mappings = Vec::new();
        let mut special: Vec<(u64, u64, bool)> = Vec::new();
        for line in maps.lines() {
            let Some((start, end)) = range(line) else {
                continue;
            };
            own_mappings.push((start, end));
            if line.ends_with("[vdso]") {
                special.push((start, end, true));
            } else if line.ends_with("[vvar]") || line.ends_with("[vvar_vclock]") {
                special.push((start, end, false));
            }
        }
        let huge_pages = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .is_ok_and(|text| !text.contains("[never]"));
        Ok(Self { vdso: read_vdso(&special)?, own_mappings, huge_pages, gpus: None })
    }

    /// Looks for GPUs as well. Only checkpoints with GPU state need it.
    ///
    /// # Errors
    /// The driver's topology is there and cannot be understood.
    pub fn with_gpus(mut self) -> Result<Self, gpu_kfd::TopologyError> {
        if std::path::Path::new(gpu_kfd::Topology::SYSFS).exists() {
            self.gpus = Some(gpu_kfd::Topology::read_without_caches(gpu_kfd::Topology::SYSFS)?);
        }
        Ok(self)
    }
}

fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

fn read_vdso(special: &[(u64, u64, bool)]) -> io::Result<Option<Vdso>> {
    let Some(&(start, end, _)) = special.iter().find(|(_, _, code)| *code) else {
        return Ok(None);
    };
    let lowest = special.iter().map(|&(start, ..)| start).min().unwrap_or(start);
    let len_bytes = special.iter().map(|&(start, end, _)| end - start).sum();
    let mut code = vec![0; (end - start) as usize];
    let mut memory = fs::File::open("/proc/self/mem")?;
    memory.seek(SeekFrom::Start(start))?;
    memory.read_exact(&mut code)?;
    Ok(Some(Vdso { len_bytes, code_offset_bytes: start - lowest, code }))
}

#[cfg(test)]
mod tests {
    use super::Host;

    #[test]
    fn own_vdso_is_an_elf_image_behind_its_data_pages() {
        let host = Host::probe().expect("/proc is mounted");
        let Some(vdso) = host.vdso else { return };
        assert_eq!(&vdso.code[..4], b"\x7fELF");
        assert_eq!(vdso.len_bytes, vdso.code_offset_bytes + vdso.code.len() as u64);
        assert!(host.own_mappings.len() > 4);
    }
}
