//! Compares the vdso of the checkpoint with this kernel's, byte for byte, before any task exists.
//!
//! A thread may have been stopped inside it, and the program keeps addresses of its functions. Its
//! pages are never written: the kernel maps its own.

use std::fs::File;
use std::os::unix::fs::FileExt;

use criu_image::ImageDir;

use crate::engine::{RestoreError, Stage, StepError};
use crate::files::ObjectKey;
use crate::host::Vdso;
use crate::plan::{Kind, MemoryPlan, ProcessPlan};

const PAGE_BYTES: u64 = 4096;

/// Checks every process whose vdso the dump has saved.
pub(in crate::engine) fn check(
    processes: &[ProcessPlan],
    here: &Vdso,
    images: &ImageDir,
) -> Result<(), RestoreError> {
    for process in processes {
        if let Kind::Live(live) = &process.kind {
            check_one(process.pid, &live.memory, here, images)?;
        }
    }
    Ok(())
}

/// Checks one process.
pub(crate) fn check_one(
    pid: i32,
    memory: &MemoryPlan,
    here: &Vdso,
    images: &ImageDir,
) -> Result<(), RestoreError> {
    let fail = |source| RestoreError::Step { pid, stage: Stage::Prepare, source };
    match difference(memory, here, images).map_err(fail)? {
        Some(address) => Err(RestoreError::Vdso { pid, address }),
        None => Ok(()),
    }
}

/// Address of the first page that differs.
fn difference(
    memory: &MemoryPlan,
    here: &Vdso,
    images: &ImageDir,
) -> Result<Option<u64>, StepError> {
    let (Some((start, _)), Some(ObjectKey::Pages(id))) = (memory.vdso, memory.pages) else {
        return Ok(None);
    };
    let code = start + here.code_offset_bytes;
    let path = images.path().join(format!("pages-{id}.img"));
    let fail = |source| StepError::PagesFile { path: path.clone(), source };
    let mut page = [0; PAGE_BYTES as usize];
    let mut file = None;
    for fill in memory.vdso_pages.iter().filter(|fill| fill.start >= code) {
        let file: &mut File = match &mut file {
            Some(file) => file,
            none => none.insert(File::open(&path).map_err(fail)?),
        };
        for at in (0..fill.len_bytes).step_by(PAGE_BYTES as usize) {
            file.read_exact_at(&mut page, fill.offset_bytes + at).map_err(fail)?;
            let within = (fill.start + at - code) as usize;
            let ours = here.code.get(within..within + page.len());
            if ours != Some(&page[..]) {
                return Ok(Some(fill.start + at));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::{PAGE_BYTES, difference};
    use crate::files::ObjectKey;
    use crate::host::Vdso;
    use crate::plan::{Fill, MemoryPlan};

    #[test]
    fn vdso_of_another_kernel_is_found_by_its_first_different_page() {
        let dir = tempfile::tempdir().expect("a folder");
        let images = criu_image::ImageDir::unverified(dir.path());
        let saved: Vec<u8> = (0..3 * PAGE_BYTES).map(|at| (at / 7) as u8).collect();
        std::fs::write(dir.path().join("pages-4.img"), &saved).expect("room");
        let code = saved[PAGE_BYTES as usize..].to_vec();
        let mut here = Vdso { len_bytes: 6 * PAGE_BYTES, code_offset_bytes: 4 * PAGE_BYTES, code };
        let start = 0x7000_0000;
        let memory = MemoryPlan {
            vdso: Some((start, here.len_bytes)),
            pages: Some(ObjectKey::Pages(4)),
            vdso_pages: vec![Fill {
                start: start + here.code_offset_bytes,
                len_bytes: 2 * PAGE_BYTES,
                offset_bytes: PAGE_BYTES,
            }],
            ..MemoryPlan::default()
        };
        assert_eq!(difference(&memory, &here, &images).expect("it can be read"), None);
        here.code[PAGE_BYTES as usize + 5] ^= 1;
        let second = start + here.code_offset_bytes + PAGE_BYTES;
        assert_eq!(difference(&memory, &here, &images).expect("it can be read"), Some(second));
    }
}
