//! Who a thread is: ids, groups, capabilities and the like.
//!
//! Set by each thread itself, after nothing else needs privilege and when the tracer already
//! holds it. The order matters: user ids change while `SECBIT_NO_SETUID_FIXUP` keeps the
//! capabilities, the secure bits follow, and the capability sets come last.

use criu_image::Thread;
use criu_image::record::CredsEntry;

use crate::remote::ring::{CallError, Remote};

/// `_LINUX_CAPABILITY_VERSION_3` (linux/capability.h).
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// `SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS` (linux/securebits.h).
const KEEP_ALL: u64 = 1 << 2 | 1 << 4;
/// `CAP_LAST_CAP` never exceeded the 64 bits that the images hold.
const CAPABILITIES: u32 = 64;
const PR_CAP_AMBIENT_RAISE: u64 = 2;

/// Credentials and the parent-death signal, which changing them would clear.
pub(super) fn set(
    remote: &mut Remote,
    thread: &Thread,
    bounding_here: u64,
) -> Result<(), CallError> {
    if let Some(creds) = &thread.core.creds {
        identity(remote, creds)?;
        capabilities(remote, creds, bounding_here)?;
        if creds.no_new_privs.unwrap_or(0) != 0 {
            let args = [
                libc::PR_SET_NO_NEW_PRIVS.into(),
                1u64.into(),
                0u64.into(),
                0u64.into(),
                0u64.into(),
            ];
            remote.queue("no new privileges", libc::SYS_prctl, args)?;
        }
    }
    let signal = thread.core.pdeath_sig.unwrap_or(0);
    let args = [libc::PR_SET_PDEATHSIG.into(), signal.into()];
    remote.queue("parent-death signal", libc::SYS_prctl, args)
}

fn identity(remote: &mut Remote, creds: &CredsEntry) -> Result<(), CallError> {
    let groups: Vec<u8> = creds.groups.iter().flat_map(|group| group.to_le_bytes()).collect();
    let args = [(creds.groups.len() as u64).into(), groups.as_slice().into()];
    remote.queue("groups", libc::SYS_setgroups, args)?;
    let args = [libc::PR_SET_SECUREBITS.into(), KEEP_ALL.into()];
    remote.queue("secure bits", libc::SYS_prctl, args)?;
    let args = [creds.gid.into(), creds.egid.into(), creds.sgid.into()];
    remote.queue("group ids", libc::SYS_setresgid, args)?;
    remote.queue("file-system group id", libc::SYS_setfsgid, [creds.fsgid.into()])?;
    let args = [creds.uid.into(), creds.euid.into(), creds.suid.into()];
    remote.queue("user ids", libc::SYS_setresuid, args)?;
    remote.queue("file-system user id", libc::SYS_setfsuid, [creds.fsuid.into()])
}

fn capabilities(
    remote: &mut Remote,
    creds: &CredsEntry,
    bounding_here: u64,
) -> Result<(), CallError> {
    let bounding = set_of(&creds.cap_bnd);
    for capability in (0..CAPABILITIES).filter(|c| (bounding_here & !bounding) >> c & 1 != 0) {
        let args = [libc::PR_CAPBSET_DROP.into(), capability.into()];
        remote.queue("bounding set", libc::SYS_prctl, args)?;
    }
    let args = [libc::PR_SET_SECUREBITS.into(), creds.secbits.into()];
    remote.queue("secure bits", libc::SYS_prctl, args)?;
    let header = [CAPABILITY_VERSION.to_le_bytes(), 0u32.to_le_bytes()].concat();
    let data: Vec<u8> = (0..2)
        .flat_map(|word| [&creds.cap_eff, &creds.cap_prm, &creds.cap_inh].map(|set| (set, word)))
        .flat_map(|(set, word)| set.get(word).copied().unwrap_or(0).to_le_bytes())
        .collect();
    let args = [header.as_slice().into(), data.as_slice().into()];
    remote.queue("capabilities", libc::SYS_capset, args)?;
    let ambient = set_of(&creds.cap_amb);
    for capability in (0..CAPABILITIES).filter(|c| ambient >> c & 1 != 0) {
        let args = [
            libc::PR_CAP_AMBIENT.into(),
            PR_CAP_AMBIENT_RAISE.into(),
            capability.into(),
            0u64.into(),
            0u64.into(),
        ];
        remote.queue("ambient capability", libc::SYS_prctl, args)?;
    }
    Ok(())
}

/// A capability set as the images hold it: 32 bits a word, low word first.
fn set_of(words: &[u32]) -> u64 {
    let word = |index: usize| u64::from(words.get(index).copied().unwrap_or(0));
    word(0) | word(1) << 32
}
