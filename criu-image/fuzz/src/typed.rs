//! Any bytes as records of one kind of image, with types; the first two choose the kind.
//!
//! What is read strictly can be written, and is read the same.

use criu_image::record::{self as r};
use criu_image::{ImageKind, ImageReader, ImageWriter, Record};

use crate::Target;

const COMMON: u32 = 0x5456_4319;
const SERVICE: u32 = 0x5510_5940;

/// Numbers of images that no kind has any more, with their records.
macro_rules! old {
    ($($magic:literal $record:ident)*) => {
        &[$(($magic, same::<r::$record> as Target)),*]
    };
}

const OLD: &[(u32, Target)] = old! {
    0x5412_3737 VmaEntry
    0x5651_3555 PipeEntry
    0x5836_4939 FifoEntry
    0x5534_4201 SaEntry
    0x5437_3943 UnixSkEntry
    0x5644_3851 InetSkEntry
    0x6045_4618 PacketSockEntry
    0x5746_4056 ItimerEntry
    0x5260_3957 PosixTimerEntry
    0x5402_3547 CredsEntry
    0x5036_3636 RegFileEntry
    0x5925_5641 ExtFileEntry
    0x4452_3722 EventfdFileEntry
    0x4502_3858 EventpollFileEntry
    0x4443_3746 EventpollTfdEntry
    0x5732_3820 SignalfdEntry
    0x4842_4431 InotifyFileEntry
    0x5943_3025 TtyFileEntry
    0x5711_3925 RlimitEntry
    0x5509_6122 FanotifyFileEntry
    0x5925_5647 SiginfoEntry
    0x5800_5614 NetlinkSkEntry
    0x6139_4011 NsFileEntry
    0x5714_3751 TunfileEntry
    0x5049_3712 TimerfdEntry
};

pub(crate) fn run(input: &[u8]) {
    let Some((&choice, rest)) = input.split_first_chunk::<2>() else { return };
    let choice = usize::from(u16::from_le_bytes(choice));
    let kinds: Vec<ImageKind> = ImageKind::all().filter(|kind| kind.magic() != 0).collect();
    let choice = choice % (kinds.len() + OLD.len());
    match kinds.get(choice) {
        Some(&kind) => by_kind(kind, &[&head(kind), rest].concat()),
        None => {
            let (magic, same) = OLD[choice - kinds.len()];
            same(&[&COMMON.to_le_bytes(), &magic.to_le_bytes(), rest].concat());
        }
    }
}

fn head(kind: ImageKind) -> Vec<u8> {
    let family = match kind {
        ImageKind::Inventory => None,
        ImageKind::StatsDump | ImageKind::StatsRestore | ImageKind::IrmapCache => Some(SERVICE),
        _ => Some(COMMON),
    };
    family.into_iter().chain([kind.magic()]).flat_map(u32::to_le_bytes).collect()
}

/// Reads all records of a type without and with what the schema does not know.
fn all<R: Record>(image: &[u8]) -> Vec<R> {
    let open = || ImageReader::new(image, "fuzz.img").expect("the head is ours");
    let strict: Result<Vec<_>, _> = open().records::<R>().collect();
    let lenient: Result<Vec<_>, _> = open().lenient().records::<R>().collect();
    let records = |records: Vec<(u64, R)>| records.into_iter().map(|(_, record)| record).collect();
    let Ok(strict) = strict else { return Vec::new() };
    assert!(lenient.is_ok_and(|lenient| lenient.len() == strict.len()));
    records(strict)
}

/// Records of images that are nothing but records of one type.
fn same<R: Record>(image: &[u8]) {
    for record in all::<R>(image) {
        // Twice: what prost makes of a record must not change when it is written.
        let again = R::decode(&record.encode_to_vec()[..]).expect("prost reads what it wrote");
        assert!(again.encode_to_vec() == record.encode_to_vec());
    }
}

fn written<R: Record + PartialEq>(image: &[u8], kind: ImageKind) {
    let records = all::<R>(image);
    let mut writer = ImageWriter::new(Vec::new(), kind).expect("it has records");
    for record in &records {
        writer.record(record).expect("it was read from such an image");
    }
    let bytes = writer.finish().expect("memory takes all");
    assert!(all::<R>(&bytes) == records);
}

fn by_kind(kind: ImageKind, image: &[u8]) {
    use ImageKind as K;
    match kind {
        K::Inventory => written::<r::InventoryEntry>(image, kind),
        K::Pstree => written::<r::PstreeEntry>(image, kind),
        K::Core => written::<r::CoreEntry>(image, kind),
        K::Ids => written::<r::TaskKobjIdsEntry>(image, kind),
        K::Mm => written::<r::MmEntry>(image, kind),
        K::Fs => written::<r::FsEntry>(image, kind),
        K::Fdinfo => written::<r::FdinfoEntry>(image, kind),
        K::Files => written::<r::FileEntry>(image, kind),
        K::RemapFpath => written::<r::RemapFilePathEntry>(image, kind),
        K::MemfdInode => written::<r::MemfdInodeEntry>(image, kind),
        K::Seccomp => written::<r::SeccompEntry>(image, kind),
        K::Timens => written::<r::TimensEntry>(image, kind),
        K::Pidns => written::<r::PidnsEntry>(image, kind),
        K::Cgroup => written::<r::CgroupEntry>(image, kind),
        K::FileLocks => written::<r::FileLockEntry>(image, kind),
        K::TtyInfo => written::<r::TtyInfoEntry>(image, kind),
        K::TtyData => written::<r::TtyDataEntry>(image, kind),
        K::Utsns => written::<r::UtsnsEntry>(image, kind),
        K::IpcVar => written::<r::IpcVarEntry>(image, kind),
        K::Mountpoints => written::<r::MntEntry>(image, kind),
        K::Netdev => written::<r::NetDeviceEntry>(image, kind),
        K::Netns => written::<r::NetnsEntry>(image, kind),
        K::Userns => written::<r::UsernsEntry>(image, kind),
        K::Cpuinfo => written::<r::CpuinfoEntry>(image, kind),
        K::Apparmor => written::<r::ApparmorEntry>(image, kind),
        K::BpfmapFile => written::<r::BpfmapFileEntry>(image, kind),
        K::BinfmtMisc => written::<r::BinfmtMiscEntry>(image, kind),
        K::Autofs => written::<r::AutofsEntry>(image, kind),
        K::Pidfd => written::<r::PidfdEntry>(image, kind),
        K::InotifyWd => written::<r::InotifyWdEntry>(image, kind),
        K::FanotifyMark => written::<r::FanotifyMarkEntry>(image, kind),
        K::StatsDump | K::StatsRestore => written::<r::StatsEntry>(image, kind),
        K::IrmapCache => written::<r::IrmapCacheEntry>(image, kind),
        K::ThawGpu => written::<r::ThawGpuEntry>(image, kind),
        K::Pagemap | K::ShmemPagemap => {
            pair::<r::PagemapHead, r::PagemapEntry>(image);
        }
        K::GhostFile => pair::<r::GhostFileEntry, r::GhostChunkEntry>(image),
        K::PipesData | K::FifoData => same::<r::PipeDataEntry>(image),
        K::SkQueues => same::<r::SkPacketEntry>(image),
        K::TcpStream => same::<r::TcpStreamEntry>(image),
        K::IpcShm => same::<r::IpcShmEntry>(image),
        K::IpcMsg => same::<r::IpcMsgEntry>(image),
        K::IpcSem => same::<r::IpcSemEntry>(image),
        K::BpfmapData => same::<r::BpfmapDataEntry>(image),
        other => unreachable!("{other:?} has a number and so records"),
    }
}

/// A record of one type, then those of another.
fn pair<A: Record, B: Record>(image: &[u8]) {
    let mut reader = ImageReader::new(image, "fuzz.img").expect("the head is ours");
    if matches!(reader.next_record::<A>(), Ok(Some(_))) {
        let _ = reader.records::<B>().take_while(Result::is_ok).count();
    }
}
