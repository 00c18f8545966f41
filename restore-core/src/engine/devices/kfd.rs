//! `/dev/kfd` of a target, with the state of its process.
//!
//! The driver wants a fresh render node for each GPU, to take its address space over. Those are the
//! files that the process will have as its render nodes, if it has any of that GPU.

use std::path::Path;

use gpu_kfd::uapi::criu::BoBucket;
use gpu_kfd::{FileNumber, KFD_PATH, KfdFd, RestoreDevice};

use super::copy::CopyJob;
use super::{Hands, StepError, render_path};
use crate::plan::devices::{BufferKey, KfdState, Through};

impl Hands<'_> {
    pub(super) fn kfd(&mut self, state: Option<&KfdState>) -> Result<i32, StepError> {
        let number = self.open(Path::new(KFD_PATH))?;
        self.devices.kfd.get_or_insert(number);
        let Some(state) = state else { return Ok(number) };
        let mut devices = Vec::new();
        for device in &state.devices {
            let render = self.open(&render_path(device.minor))?;
            self.devices.compute.insert(device.here, render);
            devices.push(RestoreDevice {
                user_gpu_id: device.user.0,
                actual_gpu_id: device.here.0,
                render: FileNumber(render),
            });
        }
        let buckets: Vec<BoBucket> = state.buffers.iter().map(|buffer| buffer.bucket).collect();
        let mut kfd = KfdFd::of(self.file(number, Path::new(KFD_PATH)));
        let restored = kfd.restore(&devices, &buckets, &state.private, state.objects)?;
        for (index, (buffer, restored)) in state.buffers.iter().zip(restored).enumerate() {
            let through = match buffer.through {
                Through::Kfd => number,
                Through::Render(here) => self.devices.compute[&here],
            };
            let key = BufferKey { file: self.plan.file, index };
            self.devices.shown.insert(key, (through, restored.mmap_offset));
            let Some(dmabuf) = restored.contents else { continue };
            self.hand_on(buffer.object, &dmabuf)?;
            if let Some(contents) = &buffer.contents {
                self.done.copies.push(CopyJob::new(self.plan.step, contents.clone(), dmabuf));
            }
        }
        Ok(number)
    }
}
