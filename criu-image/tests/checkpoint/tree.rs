//! The process tree: one root, parents first, no id twice, states that are known.

use criu_image::record::core_entry::March;
use criu_image::record::{CoreEntry, InventoryEntry, PstreeEntry, ThreadInfoAarch64};

use crate::draft::{CHILD, Draft, ROOT, THREAD, ZOMBIE, accepted, pstree, refused};

fn tree(entries: &[PstreeEntry]) -> impl FnOnce(&mut Draft) {
    move |draft| draft.put("pstree.img", entries)
}

#[test]
fn only_known_image_versions_are_read() {
    for version in [1, 3] {
        let change = |draft: &mut Draft| {
            draft.edit("inventory.img", |inventory: &mut InventoryEntry| {
                inventory.img_version = version;
            });
        };
        refused(change, &format!("image version {version} is not 2"));
    }
    let change = |draft: &mut Draft| {
        draft
            .edit("inventory.img", |inventory: &mut InventoryEntry| inventory.fdinfo_per_id = None);
    };
    refused(change, "without descriptor tables by id");
}

#[test]
fn there_is_one_root() {
    refused(tree(&[]), "pstree.img holds 0 record(s) where at least one is expected");
    refused(tree(&[pstree(ROOT, 1, &[ROOT, THREAD])]), "root 10 has parent 1");
    let two = [pstree(ROOT, 0, &[ROOT, THREAD]), pstree(CHILD, 0, &[CHILD])];
    refused(tree(&two), "30 is a second root");
    refused(tree(&[pstree(ZOMBIE, 0, &[])]), "the root has exited");
}

#[test]
fn parents_come_before_their_children() {
    let orphan = [pstree(ROOT, 0, &[ROOT, THREAD]), pstree(CHILD, 77, &[CHILD])];
    refused(tree(&orphan), "parent 77 of process 30 does not come before it");
    let own = [pstree(ROOT, 0, &[ROOT, THREAD]), pstree(CHILD, CHILD, &[CHILD])];
    refused(tree(&own), "parent 30 of process 30 does not come before it");
}

#[test]
fn no_id_is_taken_twice() {
    let whole = [pstree(ROOT, 0, &[ROOT, THREAD]), pstree(CHILD, ROOT, &[CHILD])];
    let again = [whole[0].clone(), pstree(ROOT, ROOT, &[ROOT])];
    refused(tree(&again), "id 10 is taken twice");
    let thread_and_process = [whole[0].clone(), pstree(THREAD, ROOT, &[THREAD])];
    refused(tree(&thread_and_process), "id 11 is taken twice");
    refused(tree(&[pstree(ROOT, 0, &[ROOT, THREAD, THREAD])]), "id 11 is taken twice");
    refused(tree(&[pstree(ROOT, 0, &[ROOT, ROOT])]), "id 10 is taken twice");
    let shared = [whole[0].clone(), pstree(CHILD, ROOT, &[CHILD, THREAD])];
    refused(tree(&shared), "id 11 is taken twice");
}

#[test]
fn ids_are_within_the_kernels_range() {
    refused(tree(&[pstree(0, 0, &[])]), "0 is no process or thread id");
    refused(tree(&[pstree(ROOT, 0, &[ROOT, 1 << 23])]), "8388608 is no process or thread id");
    let group = PstreeEntry { pgid: 0, ..pstree(ROOT, 0, &[ROOT]) };
    refused(tree(&[group]), "id 0 of process 10 is no id");
}

#[test]
fn a_process_is_among_its_own_threads() {
    refused(tree(&[pstree(ROOT, 0, &[THREAD])]), "10 is not among its own threads");
}

#[test]
fn threads_of_a_zombie_mean_nothing() {
    accepted(|draft| {
        draft.edit_all("pstree.img", |tree: &mut Vec<PstreeEntry>| {
            tree[1].threads = vec![0, ROOT, 1 << 30];
        });
    });
}

#[test]
fn leaders_and_threads_have_the_parts_that_are_theirs() {
    let change =
        |draft: &mut Draft| draft.edit("core-30.img", |core: &mut CoreEntry| core.tc = None);
    refused(change, "core-30.img, byte 8: the part of a process (tc) is missing");
    let change = |draft: &mut Draft| {
        draft.files.insert("core-11.img".to_owned(), draft.files["core-10.img"].clone());
    };
    refused(change, "core-11.img, byte 8: a thread has the part of a process (tc)");
    let change = |draft: &mut Draft| {
        draft.edit("core-11.img", |core: &mut CoreEntry| core.thread_core = None);
    };
    refused(change, "core-11.img, byte 8: the part of a thread is missing");
    let change = |draft: &mut Draft| {
        draft.edit("core-10.img", |core: &mut CoreEntry| core.thread_info = None);
    };
    refused(change, "core-10.img, byte 8: registers are missing");
}

#[test]
fn states_are_known() {
    for state in [0, 4, 5, 7] {
        let change = |draft: &mut Draft| draft.edit_task(CHILD, |task| task.task_state = state);
        refused(change, &format!("task state {state} is unknown"));
    }
}

#[test]
fn other_architectures_are_refused_by_name() {
    let change = |draft: &mut Draft| {
        draft.edit("core-10.img", |core: &mut CoreEntry| core.mtype = March::Aarch64 as i32);
    };
    refused(change, "core-10.img: an architecture other than x86-64");
    let registers = Some(ThreadInfoAarch64::default());
    let change = |draft: &mut Draft| {
        let mtype = March::Aarch64 as i32;
        let core = CoreEntry { mtype, ti_aarch64: registers.clone(), ..Default::default() };
        draft.put("core-10.img", &[core]);
    };
    refused(change, "core-10.img: an architecture other than x86-64");
    let change = |draft: &mut Draft| {
        draft.edit("core-10.img", |core: &mut CoreEntry| core.ti_aarch64 = registers.clone());
    };
    refused(change, "core-10.img, byte 8: registers of another architecture");
}
