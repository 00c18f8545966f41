//! What every DRM device answers: version, capabilities, the client's name; the end of a handle.

use nix::errno::Errno;

use gpu_kfd::uapi::drm::{GemClose, GetCap, SetClientName, Version, cap, prime_cap};

use crate::model::{Call, Model};

/// Version of amdgpu's interface in Linux 6.18 (`KMS_DRIVER_MAJOR`, `KMS_DRIVER_MINOR`).
const VERSION: (i32, i32, i32) = (3, 64, 0);
const NAME: &str = "amdgpu";
const DESCRIPTION: &str = "AMD GPU";
/// DRM has no dates any more and says this (`drm_version`, Linux 6.14).
const DATE: &str = "0";

/// `DRM_CLIENT_NAME_MAX_LEN`.
const CLIENT_NAME_BYTES_MAX: u64 = 64;

/// Copies as much of a text as there is room for, and says how long it is.
fn copy_text(
    call: &mut Call<'_>,
    address: u64,
    len_bytes: &mut u64,
    text: &str,
) -> Result<(), Errno> {
    let len = (text.len() as u64).min(*len_bytes) as usize;
    *len_bytes = text.len() as u64;
    if len == 0 || address == 0 {
        return Ok(());
    }
    call.world.write_user(call.caller.space, address, &text.as_bytes()[..len])
}

impl Model {
    pub(super) fn drm_version(
        &mut self,
        call: &mut Call<'_>,
        args: &mut Version,
    ) -> Result<i32, Errno> {
        (args.version_major, args.version_minor, args.version_patchlevel) = VERSION;
        copy_text(call, args.name, &mut args.name_len, NAME)?;
        copy_text(call, args.date, &mut args.date_len, DATE)?;
        copy_text(call, args.desc, &mut args.desc_len, DESCRIPTION)?;
        Ok(0)
    }

    /// # Errors
    /// `EOPNOTSUPP` for what only a display has, `EINVAL` for what nobody knows.
    pub(super) fn get_cap(&mut self, args: &mut GetCap) -> Result<i32, Errno> {
        args.value = match args.capability {
            cap::PRIME => prime_cap::IMPORT | prime_cap::EXPORT,
            cap::TIMESTAMP_MONOTONIC => 1,
            cap::SYNCOBJ | cap::SYNCOBJ_TIMELINE => 0,
            cap::DUMB_BUFFER..=cap::DUMB_PREFER_SHADOW
            | cap::ASYNC_PAGE_FLIP..=cap::CURSOR_HEIGHT
            | cap::ADDFB2_MODIFIERS..=cap::CRTC_IN_VBLANK_EVENT => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::EINVAL),
        };
        Ok(0)
    }

    /// The name is looked at and forgotten: only the driver's debug files show it.
    pub(super) fn set_client_name(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetClientName,
    ) -> Result<i32, Errno> {
        if args.name_len > CLIENT_NAME_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let mut name = vec![0; args.name_len as usize];
        call.world.read_user(call.caller.space, args.name, &mut name)?;
        let is_printable = name.iter().all(u8::is_ascii_graphic);
        if is_printable { Ok(0) } else { Err(Errno::EINVAL) }
    }

    pub(super) fn gem_close(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemClose,
    ) -> Result<i32, Errno> {
        let file = self.files.render_mut(call.file).ok_or(Errno::EBADF)?;
        file.close_handle(&mut self.memory, call.world, args.handle)?;
        Ok(0)
    }
}
