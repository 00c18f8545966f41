//! The driver's private data of a KFD file, version 1, taken apart and put together.
//!
//! Packed little-endian structures (`kfd_priv.h`, Linux 5.18 to 6.18): the process; 8 bytes for
//! each GPU; 272 for each buffer object; then as many objects as the file says, each beginning with
//! its type: queues with MQD and control stack, events, ranges of shared virtual memory with their
//! attributes. How many attributes a range has is not written: four, and one for each GPU.
//! It changes nothing and knows no driver.

use crate::record::{
    CriuKfd, KfdPrivate, KfdPrivateBo, KfdPrivateEvent, KfdPrivateQueue, KfdPrivateSvmAttribute,
    KfdPrivateSvmRange,
};

/// `KFD_CRIU_PRIV_VERSION`
const VERSION: u32 = 1;
/// `MAX_GPU_INSTANCE`: GPUs that the list of a buffer object has room for.
const MAPPED_GPUS_MAX: usize = 64;
const BO_BYTES: u64 = 272;
const DEVICE_BYTES: u64 = 8;
/// Attributes of a range beside those of each GPU (`svm_range_get_info`).
const ATTRIBUTES_COMMON: usize = 4;
const EVENT_PAYLOAD_WORDS: usize = 4;

const QUEUE: u32 = 0;
const EVENT: u32 = 1;
const SVM_RANGE: u32 = 2;

/// Why private data was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivateError {
    /// A version whose layout is not known.
    #[error("private data has version {found}, known is {VERSION}")]
    Version {
        /// Version found.
        found: u32,
    },
    /// The counts of the file ask for more than there is.
    #[error("private data is cut: {needed_bytes} more byte(s) are needed at byte {offset_bytes}")]
    Cut {
        /// Where more was expected, from the start of the private data.
        offset_bytes: usize,
        /// How much is missing.
        needed_bytes: u64,
    },
    /// The counts of the file ask for less than there is.
    #[error("{len_bytes} byte(s) are left after the last object of the private data")]
    Trailing {
        /// How much is left.
        len_bytes: usize,
    },
    /// An object that is none of version 1, or that comes before one that it must follow.
    #[error("object at byte {offset_bytes} of the private data has type {found}")]
    Object {
        /// Where it begins.
        offset_bytes: usize,
        /// Type found.
        found: u32,
    },
    /// Something stands where nothing belongs.
    #[error("padding at byte {offset_bytes} of the private data is not zero")]
    Padding {
        /// Where it begins.
        offset_bytes: usize,
    },
}

impl PrivateError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Version { .. } => "images.gpu-version",
            Self::Cut { .. } => "images.gpu-cut",
            Self::Trailing { .. } => "images.gpu-trailing",
            Self::Object { .. } => "images.gpu-object",
            Self::Padding { .. } => "images.gpu-padding",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Version { .. } => Some("use a thaw that knows the kernel of the dump"),
            Self::Cut { .. } => Some("copy the file again, or dump again"),
            Self::Trailing { .. } => Some("copy the file again, or dump again"),
            Self::Object { .. } => Some("copy the file again, or dump again"),
            Self::Padding { .. } => Some("copy the file again, or dump again"),
        }
    }
}

/// Takes the private data of a KFD file apart. Putting the result together again with [`pack`]
/// gives the same bytes.
///
/// # Errors
/// [`PrivateError`] says what does not fit the counts of the file.
pub fn unpack(kfd: &CriuKfd) -> Result<KfdPrivate, PrivateError> {
    let mut data = Reader { bytes: &kfd.priv_data, at: 0 };
    let version = data.word()?;
    if version != VERSION {
        return Err(PrivateError::Version { found: version });
    }
    let xnack_mode = data.word()?;
    let gpus = kfd.num_of_gpus as usize;
    data.need(u64::from(kfd.num_of_gpus) * DEVICE_BYTES)?;
    let devices = (0..gpus).map(|_| data.long()).collect::<Result<_, _>>()?;
    data.need(kfd.num_of_bos.saturating_mul(BO_BYTES))?;
    let bos = (0..kfd.num_of_bos).map(|_| data.bo()).collect::<Result<_, _>>()?;
    let mut private = KfdPrivate { version, xnack_mode, devices, bos, ..Default::default() };
    let mut last = QUEUE;
    for _ in 0..kfd.num_of_objects {
        let offset_bytes = data.at;
        let found = data.word()?;
        if found < last || found > SVM_RANGE {
            return Err(PrivateError::Object { offset_bytes, found });
        }
        last = found;
        data.zeros(4)?;
        match found {
            QUEUE => private.queues.push(data.queue()?),
            EVENT => private.events.push(data.event()?),
            _ => private.svm_ranges.push(data.range(gpus)?),
        }
    }
    match data.bytes.len() - data.at {
        0 => Ok(private),
        len_bytes => Err(PrivateError::Trailing { len_bytes }),
    }
}

/// Puts private data together; `None` if a list is longer than the driver's structure has room for.
pub fn pack(private: &KfdPrivate) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    words(&mut out, &[private.version, private.xnack_mode]);
    longs(&mut out, &private.devices);
    for bo in &private.bos {
        longs(&mut out, &[bo.user_addr]);
        words(&mut out, &[bo.idr_handle]);
        let unused = MAPPED_GPUS_MAX.checked_sub(bo.mapped_gpu_ids.len())?;
        words(&mut out, &bo.mapped_gpu_ids);
        out.resize(out.len() + unused * 4 + 4, 0);
    }
    private.queues.iter().try_for_each(|queue| pack_queue(&mut out, queue))?;
    for event in &private.events {
        words(&mut out, &[EVENT, 0]);
        longs(&mut out, &[event.user_handle]);
        words(&mut out, &[event.event_id, event.auto_reset, event.r#type, event.signaled]);
        if event.payload.len() != EVENT_PAYLOAD_WORDS {
            return None;
        }
        longs(&mut out, &event.payload);
    }
    for range in &private.svm_ranges {
        words(&mut out, &[SVM_RANGE, 0]);
        longs(&mut out, &[range.start_addr, range.size]);
        if range.attributes.len() != ATTRIBUTES_COMMON + private.devices.len() {
            return None;
        }
        for attribute in &range.attributes {
            words(&mut out, &[attribute.r#type, attribute.value]);
        }
    }
    Some(out)
}

fn pack_queue(out: &mut Vec<u8>, queue: &KfdPrivateQueue) -> Option<()> {
    words(out, &[QUEUE, 0]);
    longs(
        out,
        &[
            queue.q_address,
            queue.q_size,
            queue.read_ptr_addr,
            queue.write_ptr_addr,
            queue.doorbell_off,
            queue.eop_ring_buffer_address,
            queue.ctx_save_restore_area_address,
        ],
    );
    words(
        out,
        &[
            queue.gpu_id,
            queue.r#type,
            queue.format,
            queue.q_id,
            queue.priority,
            queue.q_percent,
            queue.doorbell_id,
            queue.gws,
            queue.sdma_id,
            queue.eop_ring_buffer_size,
            queue.ctx_save_restore_area_size,
            u32::try_from(queue.ctl_stack.len()).ok()?,
            u32::try_from(queue.mqd.len()).ok()?,
            0,
        ],
    );
    out.extend_from_slice(&queue.mqd);
    out.extend_from_slice(&queue.ctl_stack);
    Some(())
}

fn words(out: &mut Vec<u8>, values: &[u32]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

fn longs(out: &mut Vec<u8>, values: &[u64]) {
    values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Refuses what cannot be there before any memory is taken for it.
    fn need(&self, len: u64) -> Result<(), PrivateError> {
        let left = (self.bytes.len() - self.at) as u64;
        if len > left {
            let (offset_bytes, needed_bytes) = (self.at, len - left);
            return Err(PrivateError::Cut { offset_bytes, needed_bytes });
        }
        Ok(())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PrivateError> {
        self.need(len as u64)?;
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32, PrivateError> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes were taken")))
    }

    fn long(&mut self) -> Result<u64, PrivateError> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes were taken")))
    }

    fn zeros(&mut self, len: usize) -> Result<(), PrivateError> {
        let offset_bytes = self.at;
        match self.take(len)?.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(PrivateError::Padding { offset_bytes }),
        }
    }

    fn bo(&mut self) -> Result<KfdPrivateBo, PrivateError> {
        let (user_addr, idr_handle) = (self.long()?, self.word()?);
        let mut mapped_gpu_ids =
            (0..MAPPED_GPUS_MAX).map(|_| self.word()).collect::<Result<Vec<u32>, _>>()?;
        let used = mapped_gpu_ids.iter().rposition(|&id| id != 0).map_or(0, |last| last + 1);
        mapped_gpu_ids.truncate(used);
        self.zeros(4)?;
        Ok(KfdPrivateBo { user_addr, idr_handle, mapped_gpu_ids })
    }

    fn queue(&mut self) -> Result<KfdPrivateQueue, PrivateError> {
        let mut queue = KfdPrivateQueue {
            q_address: self.long()?,
            q_size: self.long()?,
            read_ptr_addr: self.long()?,
            write_ptr_addr: self.long()?,
            doorbell_off: self.long()?,
            eop_ring_buffer_address: self.long()?,
            ctx_save_restore_area_address: self.long()?,
            gpu_id: self.word()?,
            r#type: self.word()?,
            format: self.word()?,
            q_id: self.word()?,
            priority: self.word()?,
            q_percent: self.word()?,
            doorbell_id: self.word()?,
            gws: self.word()?,
            sdma_id: self.word()?,
            eop_ring_buffer_size: self.word()?,
            ctx_save_restore_area_size: self.word()?,
            ..Default::default()
        };
        let (ctl_stack_len, mqd_len) = (self.word()?, self.word()?);
        self.zeros(4)?;
        queue.mqd = self.take(mqd_len as usize)?.to_vec();
        queue.ctl_stack = self.take(ctl_stack_len as usize)?.to_vec();
        Ok(queue)
    }

    fn event(&mut self) -> Result<KfdPrivateEvent, PrivateError> {
        Ok(KfdPrivateEvent {
            user_handle: self.long()?,
            event_id: self.word()?,
            auto_reset: self.word()?,
            r#type: self.word()?,
            signaled: self.word()?,
            payload: (0..EVENT_PAYLOAD_WORDS).map(|_| self.long()).collect::<Result<_, _>>()?,
        })
    }

    fn range(&mut self, gpus: usize) -> Result<KfdPrivateSvmRange, PrivateError> {
        let (start_addr, size) = (self.long()?, self.long()?);
        let count = ATTRIBUTES_COMMON + gpus;
        let attribute = |_| {
            let (r#type, value) = (self.word()?, self.word()?);
            Ok(KfdPrivateSvmAttribute { r#type, value })
        };
        let attributes = (0..count).map(attribute).collect::<Result<_, _>>()?;
        Ok(KfdPrivateSvmRange { start_addr, size, attributes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one of everything for two GPUs.
    fn file() -> (CriuKfd, KfdPrivate) {
        let queue = KfdPrivateQueue {
            q_address: 0x1000,
            gpu_id: 7,
            mqd: vec![1; 5],
            ctl_stack: vec![2; 3],
            ..Default::default()
        };
        let event =
            KfdPrivateEvent { event_id: 3, payload: vec![1, 2, 3, 4], ..Default::default() };
        let attributes = (0..6).map(|value| KfdPrivateSvmAttribute { r#type: value, value });
        let private = KfdPrivate {
            version: 1,
            xnack_mode: 1,
            devices: vec![0, 9],
            bos: vec![
                KfdPrivateBo { user_addr: 1, idr_handle: 2, mapped_gpu_ids: vec![0, 7] },
                KfdPrivateBo::default(),
            ],
            queues: vec![queue.clone(), queue],
            events: vec![event],
            svm_ranges: vec![KfdPrivateSvmRange {
                start_addr: 0x2000,
                size: 0x1000,
                attributes: attributes.collect(),
            }],
        };
        let priv_data = pack(&private).expect("it fits");
        let kfd = CriuKfd {
            num_of_gpus: 2,
            num_of_bos: 2,
            num_of_objects: 4,
            priv_data,
            ..Default::default()
        };
        (kfd, private)
    }

    #[test]
    fn private_data_comes_back() {
        let (kfd, private) = file();
        assert_eq!(kfd.priv_data.len(), 8 + 16 + 2 * 272 + 2 * (120 + 8) + 64 + 24 + 6 * 8);
        assert_eq!(unpack(&kfd), Ok(private));
    }

    #[test]
    fn every_cut_is_an_error() {
        let (mut kfd, _) = file();
        while kfd.priv_data.pop().is_some() {
            assert!(
                matches!(unpack(&kfd), Err(PrivateError::Cut { .. })),
                "{}",
                kfd.priv_data.len()
            );
        }
    }

    #[test]
    fn counts_that_do_not_fit_are_errors() {
        let change = |change: fn(&mut CriuKfd)| {
            let (mut kfd, _) = file();
            change(&mut kfd);
            unpack(&kfd).expect_err("it does not fit")
        };
        assert!(matches!(change(|kfd| kfd.num_of_objects -= 1), PrivateError::Trailing { .. }));
        assert!(matches!(change(|kfd| kfd.num_of_objects += 1), PrivateError::Cut { .. }));
        assert!(matches!(change(|kfd| kfd.num_of_bos = u64::MAX), PrivateError::Cut { .. }));
        assert!(matches!(change(|kfd| kfd.num_of_gpus = u32::MAX), PrivateError::Cut { .. }));
        change(|kfd| kfd.num_of_gpus = 1);
        change(|kfd| kfd.num_of_bos = 1);
    }

    #[test]
    fn other_versions_and_objects_are_errors() {
        let change = |at: usize, value: u8| {
            let (mut kfd, _) = file();
            kfd.priv_data[at] = value;
            unpack(&kfd).expect_err("it is not known")
        };
        let objects = 8 + 16 + 2 * 272;
        assert_eq!(change(0, 2), PrivateError::Version { found: 2 });
        let unknown = PrivateError::Object { offset_bytes: objects, found: 9 };
        assert_eq!(change(objects, 9), unknown);
        // The second queue would come after an event.
        assert!(matches!(
            change(objects, 1),
            PrivateError::Object { .. } | PrivateError::Padding { .. }
        ));
        let padding = PrivateError::Padding { offset_bytes: objects + 4 };
        assert_eq!(change(objects + 4, 1), padding);
    }
}
