//! What follows a record, as far as the record says it.

use prost::Message;

use super::format::{Data, Format, Layout};
use crate::record::{
    BpfmapDataEntry, GhostChunkEntry, GhostFileEntry, IpcMsgEntry, IpcSemEntry, IpcShmEntry,
    PipeDataEntry, SkPacketEntry, TcpStreamEntry,
};

/// Data between a record and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    Nothing,
    /// Bytes, then zeros up to a multiple of `align_bytes`.
    Bytes {
        len: u64,
        align_bytes: u64,
    },
    /// Received bytes, then bytes to be sent.
    Tcp {
        inq_len: u64,
        outq_len: u64,
    },
    /// Values of 16 bits, then zeros up to a multiple of 8 bytes.
    Semaphores {
        count: u64,
    },
    /// Records, each followed by bytes that are padded to a multiple of 8.
    Messages {
        count: u32,
    },
    /// Everything up to the end of the file.
    Rest,
}

/// How the data of one message of a queue is padded.
pub(crate) const MESSAGE_ALIGN_BYTES: u64 = 8;
/// How values of semaphores are padded.
pub(crate) const SEMAPHORES_ALIGN_BYTES: u64 = 8;
/// How the contents of a shared memory segment are padded.
const SEGMENT_ALIGN_BYTES: u64 = 4;

/// Zeros after `len` bytes.
pub(crate) fn padding(len: u64, align_bytes: u64) -> u64 {
    len.checked_next_multiple_of(align_bytes).map_or(0, |padded| padded - len)
}

impl Follow {
    /// What follows the record with this index, whose payload was checked against the schema.
    pub(crate) fn of(
        format: &Format,
        index: u64,
        payload: &[u8],
    ) -> Result<Self, prost::DecodeError> {
        let plain = |len: u64| Self::Bytes { len, align_bytes: 1 };
        Ok(match format.layout {
            Layout::Records(_, data) => return Self::of_data(data, payload),
            Layout::Ghost if index > 0 => plain(GhostChunkEntry::decode(payload)?.len),
            Layout::Ghost => match GhostFileEntry::decode(payload)?.chunks {
                Some(true) => Self::Nothing,
                _ => Self::Rest,
            },
            Layout::Pagemap | Layout::Gpu(_) => Self::Nothing,
            Layout::Opaque | Layout::GpuPages => Self::Rest,
        })
    }

    fn of_data(data: Data, payload: &[u8]) -> Result<Self, prost::DecodeError> {
        let plain = |len: u32| Self::Bytes { len: u64::from(len), align_bytes: 1 };
        Ok(match data {
            Data::None => Self::Nothing,
            Data::Pipe => plain(PipeDataEntry::decode(payload)?.bytes),
            Data::Packet => plain(SkPacketEntry::decode(payload)?.length),
            Data::Tcp => {
                let stream = TcpStreamEntry::decode(payload)?;
                let (inq_len, outq_len) = (stream.inq_len.into(), stream.outq_len.into());
                Self::Tcp { inq_len, outq_len }
            }
            Data::Map => {
                let map = BpfmapDataEntry::decode(payload)?;
                let len = u64::from(map.keys_bytes) + u64::from(map.values_bytes);
                Self::Bytes { len, align_bytes: 1 }
            }
            Data::Semaphores => {
                let count = IpcSemEntry::decode(payload)?.nsems.into();
                Self::Semaphores { count }
            }
            Data::Segment => {
                let segment = IpcShmEntry::decode(payload)?;
                // Since CRIU 3.13 the contents are in a pagemap of their own.
                let len = if segment.in_pagemaps == Some(true) { 0 } else { segment.size };
                Self::Bytes { len, align_bytes: SEGMENT_ALIGN_BYTES }
            }
            Data::Messages => Self::Messages { count: IpcMsgEntry::decode(payload)?.qnum },
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::{Follow, padding};
    use crate::image::format::Format;
    use crate::record::{GhostFileEntry, IpcDescEntry, IpcShmEntry};

    fn follow(name: &str, record: &impl Message) -> Follow {
        let format = Format::of_name(name.as_bytes()).expect("a format");
        Follow::of(format, 0, &record.encode_to_vec()).expect("a record of ours")
    }

    #[test]
    fn padding_is_less_than_a_unit() {
        let lens = [0, 1, 7, 8, 9].map(|len| padding(len, 8));
        assert_eq!(lens, [0, 7, 1, 0, 7]);
        assert_eq!(padding(u64::MAX, 8), 0);
    }

    /// crit reads the size of the segment whatever the record says, and so eats what follows.
    #[test]
    fn segment_in_a_pagemap_has_no_data() {
        let mut segment = IpcShmEntry { size: 4097, ..Default::default() };
        segment.desc = IpcDescEntry::default();
        let whole = Follow::Bytes { len: 4097, align_bytes: 4 };
        assert_eq!(follow("IPCNS_SHM", &segment), whole);
        segment.in_pagemaps = Some(true);
        assert_eq!(follow("IPCNS_SHM", &segment), Follow::Bytes { len: 0, align_bytes: 4 });
    }

    #[test]
    fn ghost_without_chunks_is_followed_by_all() {
        assert_eq!(follow("GHOST_FILE", &GhostFileEntry::default()), Follow::Rest);
        let sparse = GhostFileEntry { chunks: Some(true), ..Default::default() };
        assert_eq!(follow("GHOST_FILE", &sparse), Follow::Nothing);
    }
}
