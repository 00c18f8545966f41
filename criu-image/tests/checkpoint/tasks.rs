//! What core images say of tasks and threads: sizes and ranges, and what they point at.

use criu_image::record::{
    CgSetEntry, CgroupEntry, CredsEntry, InventoryEntry, ItimerEntry, MmEntry, PosixTimerEntry,
    RlimitEntry, SaEntry, SeccompEntry, SeccompFilter, SeccompMode, SiginfoEntry, SignalQueueEntry,
    TaskCoreEntry, TaskRlimitsEntry, TaskTimersEntry, UserDescT, UserX86XsaveEntry,
};

use crate::draft::{Draft, ROOT, THREAD, accepted, refused};

fn task(edit: impl FnOnce(&mut TaskCoreEntry)) -> impl FnOnce(&mut Draft) {
    move |draft| draft.edit_task(ROOT, edit)
}

fn queue(number: u8, len_bytes: usize) -> Option<SignalQueueEntry> {
    let mut siginfo = vec![0; len_bytes];
    if let Some(first) = siginfo.first_mut() {
        *first = number;
    }
    Some(SignalQueueEntry { signals: vec![SiginfoEntry { siginfo }] })
}

#[test]
fn pending_signals_are_whole_and_exist() {
    accepted(task(|task| task.signals_s = queue(10, 128)));
    for (number, len_bytes) in [(10, 127), (10, 129), (10, 0), (10, 3), (0, 128), (65, 128)] {
        refused(task(|task| task.signals_s = queue(number, len_bytes)), "is no signal");
        let of_thread = |draft: &mut Draft| {
            draft.edit_thread(THREAD, |core| core.signals_p = queue(number, len_bytes));
        };
        refused(of_thread, "core-11.img, byte 8: pending signal");
    }
}

#[test]
fn signal_actions_are_complete() {
    for count in [1, 61, 63, 65] {
        let change = task(|task| task.sigactions = vec![SaEntry::default(); count]);
        refused(change, &format!("{count} signal actions are not 62"));
    }
    refused(task(|task| task.sigactions.clear()), "signal actions in files of their own");
}

#[test]
fn resource_limits_exist_and_are_in_order() {
    let limits = |count: usize, cur: u64, max: u64| {
        task(move |task| {
            let rlimits = vec![RlimitEntry { cur, max }; count];
            task.rlimits = Some(TaskRlimitsEntry { rlimits });
        })
    };
    accepted(limits(16, 1, u64::MAX));
    refused(limits(17, 1, 2), "more than 16 resource limits");
    refused(limits(1, 3, 2), "resource limit 0x3 exceeds its maximum 0x2");
}

#[test]
fn names_fit_a_thread() {
    accepted(task(|task| task.comm = vec![b'x'; 15]));
    refused(task(|task| task.comm = vec![b'x'; 16]), "a name of 16 bytes is no thread's");
    refused(task(|task| task.comm = b"a\0b".to_vec()), "a name of 3 bytes is no thread's");
    let of_thread = |draft: &mut Draft| {
        draft.edit_thread(THREAD, |core| core.comm = Some(vec![b'x'; 99]));
    };
    refused(of_thread, "core-11.img, byte 8: a name of 99 bytes");
}

#[test]
fn timers_hold_times_that_exist() {
    let itimer = |vusec| {
        let virt = ItimerEntry { vusec, ..Default::default() };
        task(move |task| task.timers = Some(TaskTimersEntry { virt, ..Default::default() }))
    };
    accepted(itimer(999_999));
    refused(itimer(1_000_000), "an interval timer with a million microseconds");
    let posix = |timers: Vec<PosixTimerEntry>| {
        task(move |task| {
            task.timers = Some(TaskTimersEntry { posix: timers, ..Default::default() });
        })
    };
    let timer =
        PosixTimerEntry { it_id: 3, vnsec: 999_999_999, si_signo: 64, ..Default::default() };
    accepted(posix(vec![timer]));
    refused(posix(vec![timer, timer]), "timer 3 occurs twice");
    let late = PosixTimerEntry { insec: 1_000_000_000, ..timer };
    refused(posix(vec![late]), "timer 3 has a time or signal that does not exist");
    let odd = PosixTimerEntry { si_signo: 65, ..timer };
    refused(posix(vec![odd]), "timer 3 has a time or signal that does not exist");
}

#[test]
fn registers_have_their_sizes() {
    let regs = |edit: fn(&mut criu_image::record::ThreadInfoX86)| {
        move |draft: &mut Draft| draft.edit_regs(THREAD, edit)
    };
    let words = "core-11.img, byte 8: floating-point registers have the wrong size";
    refused(regs(|regs| regs.fpregs.st_space.truncate(31)), words);
    refused(regs(|regs| regs.fpregs.xmm_space.push(0)), words);
    let segments = "more thread-local segments than a thread has";
    refused(regs(|regs| regs.tls = vec![UserDescT::default(); 4]), segments);
}

#[test]
fn vector_state_is_whole_or_absent() {
    let with = |xsave: UserX86XsaveEntry| {
        move |draft: &mut Draft| {
            draft.edit_regs(ROOT, |regs| regs.fpregs.xsave = Some(xsave));
        }
    };
    let whole = UserX86XsaveEntry {
        ymmh_space: vec![0; 64],
        opmask_reg: vec![0; 8],
        zmm_upper: vec![0; 64],
        hi16_zmm: vec![0; 128],
        pkru: vec![0; 2],
        ..Default::default()
    };
    accepted(with(whole.clone()));
    accepted(with(UserX86XsaveEntry::default()));
    let mut cut = whole.clone();
    cut.ymmh_space.pop();
    refused(with(cut), "vector state ymmh_space has 63 words of 64");
    let mut long = whole;
    long.hi16_zmm.push(0);
    refused(with(long), "vector state hi16_zmm has 129 words of 128");
}

#[test]
fn credentials_have_sizes_of_the_kernel() {
    let creds = |creds: CredsEntry| {
        move |draft: &mut Draft| draft.edit_thread(THREAD, |core| core.creds = Some(creds))
    };
    accepted(creds(CredsEntry {
        cap_eff: vec![0; 2],
        groups: vec![1; 65_536],
        ..Default::default()
    }));
    let many = CredsEntry { groups: vec![1; 65_537], ..Default::default() };
    refused(creds(many), "65537 groups, limit 65536");
    let wide = CredsEntry { cap_amb: vec![0; 3], ..Default::default() };
    refused(creds(wide), "a capability set of 3 words, limit 2");
}

#[test]
fn auxiliary_vectors_have_a_limit() {
    let change = |draft: &mut Draft| {
        draft.edit("mm-10.img", |mm: &mut MmEntry| mm.mm_saved_auxv = vec![0; 129]);
    };
    refused(change, "auxiliary vector of 129 words");
}

#[test]
fn seccomp_filters_are_saved() {
    let with = |index: u32, chain: Vec<Option<u32>>| {
        move |draft: &mut Draft| {
            draft.edit_thread(THREAD, |core| {
                core.seccomp_mode = Some(SeccompMode::Filter as i32);
                core.seccomp_filter = Some(index);
            });
            let filter = |prev| SeccompFilter { prev, ..Default::default() };
            let seccomp_filters = chain.into_iter().map(filter).collect();
            draft.put("seccomp.img", &[SeccompEntry { seccomp_filters }]);
        }
    };
    accepted(with(1, vec![None, Some(0)]));
    refused(with(2, vec![None, Some(0)]), "filter 2 is not among the 2 saved");
    refused(with(0, vec![Some(0)]), "filter 0 does not come after the one that it extends");
    refused(with(0, vec![Some(1), None]), "filter 0 does not come after the one that it extends");
    let without = |draft: &mut Draft| {
        with(0, vec![None])(draft);
        draft.files.remove("seccomp.img");
    };
    refused(without, "seccomp.img is missing: threads are filtered");
}

#[test]
fn control_group_sets_are_saved() {
    let with = |set: u32, known: &[u32]| {
        let sets = known.iter().map(|&id| CgSetEntry { id, ..Default::default() }).collect();
        move |draft: &mut Draft| {
            draft.edit_task(ROOT, |task| task.cg_set = Some(set));
            draft.edit("inventory.img", |entry: &mut InventoryEntry| entry.root_cg_set = Some(1));
            draft.put("cgroup.img", &[CgroupEntry { sets, ..Default::default() }]);
        }
    };
    accepted(with(2, &[1, 2]));
    accepted(with(0, &[2]));
    accepted(with(1, &[2]));
    refused(with(3, &[1, 2]), "core-10.img, byte 8: control group set 3 is not in cgroup.img");
}
