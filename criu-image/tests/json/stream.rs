//! Typed reading and writing, record by record, with the data between them.

use criu_image::record::{
    IpcMsg, IpcMsgEntry, PagemapEntry, PagemapHead, PipeDataEntry, RlimitEntry,
};
use criu_image::{ImageError, ImageKind, ImageReader, ImageWriter, WriteError};

#[test]
fn records_and_data_are_read_in_turn_or_passed_over() {
    let mut image = ImageWriter::new(Vec::new(), ImageKind::PipesData).expect("it has records");
    for text in ["one", "", "three"] {
        let entry = PipeDataEntry { bytes: text.len() as u32, ..Default::default() };
        image.record(&entry).expect("a record");
        image.data(text.as_bytes()).expect("its data");
    }
    let bytes = image.finish().expect("it is whole");
    let mut image = ImageReader::new(&bytes[..], "pipes-data.img").expect("an image");
    let mut offsets = Vec::new();
    while let Some((offset, entry)) = image.next_record::<PipeDataEntry>().expect("a good image") {
        offsets.push(offset);
        if entry.bytes == 5 {
            let mut data = Vec::new();
            assert_eq!(image.copy_data(&mut data).expect("it is there"), 5);
            assert_eq!(data, b"three");
            assert_eq!(image.copy_data(&mut data).expect("nothing more"), 0);
        }
    }
    assert_eq!(offsets, [8, 8 + 4 + 4 + 3, 8 + 2 * (4 + 4) + 3]);
}

#[test]
fn other_records_than_the_image_has_are_refused() {
    let bytes = crate::image(0x5711_3925, &[&crate::framed(&RlimitEntry { cur: 1, max: 2 })]);
    let mut image = ImageReader::new(&bytes[..], "rlimit-1.img").expect("an image");
    let error = image.next_record::<PipeDataEntry>().expect_err("it has others");
    assert!(matches!(error, ImageError::WrongRecord { wanted: "PipeDataEntry", .. }), "{error}");
    assert!(image.next_record::<RlimitEntry>().expect("a good image").is_some());
    let mut image = ImageWriter::new(Vec::new(), ImageKind::Pagemap).expect("it has records");
    let error = image.record(&PagemapEntry::default()).expect_err("the head comes first");
    assert!(matches!(error, WriteError::WrongRecord { kind: "PAGEMAP", .. }), "{error}");
    image.record(&PagemapHead::default()).expect("the head");
    image.record(&PagemapEntry::default()).expect("an entry");
    assert!(image.record(&PagemapHead::default()).is_err());
    assert!(matches!(ImageWriter::new(Vec::new(), ImageKind::Pages), Err(WriteError::NoRecords)));
}

#[test]
fn image_is_not_finished_before_its_data() {
    let new = || ImageWriter::new(Vec::new(), ImageKind::PipesData).expect("it has records");
    let entry = PipeDataEntry { bytes: 3, ..Default::default() };
    let mut image = new();
    image.record(&entry).expect("a record");
    assert!(matches!(image.record(&entry), Err(WriteError::DataMissing { missing: 3 })));
    assert!(matches!(image.data(b"four"), Err(WriteError::TooMuchData { .. })));
    image.data(b"a").expect("a part");
    assert!(matches!(image.finish(), Err(WriteError::DataMissing { missing: 2 })));
}

#[test]
fn messages_of_a_queue_are_written_as_they_are_read() {
    let mut image = ImageWriter::new(Vec::new(), ImageKind::IpcMsg).expect("it has records");
    let queue = IpcMsgEntry { qnum: 2, ..Default::default() };
    image.record(&queue).expect("a queue");
    for text in ["hello", "12345678"] {
        assert!(image.record(&queue).is_err(), "its messages come first");
        let message = IpcMsg { mtype: 1, msize: text.len() as u32 };
        image.record(&message).expect("a message");
        image.data(text.as_bytes()).expect("its data");
    }
    image.record(&IpcMsgEntry::default()).expect("an empty queue");
    let bytes = image.finish().expect("it is whole");
    let mut image = ImageReader::new(&bytes[..], "ipcns-msg-1.img").expect("an image");
    let (_, first) = image.next_record::<IpcMsgEntry>().expect("a good image").expect("a queue");
    let mut data = Vec::new();
    image.copy_data(&mut data).expect("its messages");
    assert_eq!((first, data.len()), (queue, 2 * (4 + 4) + 8 + 8));
    assert!(image.next_record::<IpcMsgEntry>().expect("a good image").is_some());
    assert!(image.next_record::<IpcMsgEntry>().expect("a good image").is_none());
    crate::round_trip(&bytes);
}

#[test]
fn iteration_ends_after_an_error() {
    let good = crate::framed(&RlimitEntry { cur: 1, max: 2 });
    let bytes = crate::image(0x5711_3925, &[&good, &good, &crate::framed_bytes(&[8]), &good]);
    let image = ImageReader::new(&bytes[..], "rlimit-1.img").expect("an image");
    let records: Vec<_> = image.records::<RlimitEntry>().map(|record| record.is_ok()).collect();
    assert_eq!(records, [true, true, false]);
}
