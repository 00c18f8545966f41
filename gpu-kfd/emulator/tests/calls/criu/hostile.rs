//! Images that nobody vouches for: any bytes are answered, and leave nothing behind.

use std::sync::OnceLock;

use gpu_kfd::uapi::criu::CriuArgs;
use proptest::prelude::*;

use super::{BOS, Image, client_with_room, elsewhere, end, image, restore, resume};

/// Queues may have any ring by now: they are looked at, and not waited for.
const BUDGET_BYTES: u64 = 1 << 16;

/// The image that is damaged: made once.
fn good() -> &'static Image {
    static GOOD: OnceLock<Image> = OnceLock::new();
    GOOD.get_or_init(image)
}

/// Restores, resumes, lets queues run, and ends. Identifiers and descriptors of GPUs are those of
/// the node where the image has good ones.
fn attempt(image: &Image, change: impl FnOnce(&mut CriuArgs)) {
    let (mut bench, program, placed) = elsewhere(good(), true);
    let mut image = image.clone();
    for ((device, was), here) in image.devices.iter_mut().zip(&good().devices).zip(&placed.devices)
    {
        if device.actual_gpu_id == was.actual_gpu_id {
            device.actual_gpu_id = here.actual_gpu_id;
        }
        if device.drm_fd == was.drm_fd {
            device.drm_fd = here.drm_fd;
        }
    }
    let (restored, _) = restore(&mut bench, &program, &image, change);
    bench.model.check().expect("every reference has a holder");
    let criu = client_with_room(&mut bench, 1);
    let resumed = resume(&mut bench, &criu, program.caller.pid);
    assert!(resumed.is_ok() || restored.is_err() || image.private != good().private);
    bench.model.run_queues(&mut bench.world, BUDGET_BYTES);
    bench.model.check().expect("every reference has a holder");
    end(&mut bench, &[program.caller, criu], &[]);
    assert_eq!(bench.model.buffers(), 0, "what was exported to a process ends with it");
}

fn unchanged(_: &mut CriuArgs) {}

type Changes = Vec<(prop::sample::Index, u8)>;

fn flip(bytes: &mut [u8], changes: &Changes) {
    for (at, value) in changes {
        bytes[at.index(bytes.len())] = *value;
    }
}

fn changes() -> impl Strategy<Value = Changes> {
    let value = prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), value), 1..12)
}

/// Where objects begin in private data.
const OBJECTS_AT: usize = 24 + BOS * 272;

#[test]
fn undamaged_image_is_restored() {
    attempt(good(), unchanged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn flipped_private_data(changes in changes()) {
        let mut image = good().clone();
        flip(&mut image.private, &changes);
        attempt(&image, unchanged);
    }

    #[test]
    fn flipped_heads_of_private_data(changes in changes()) {
        let mut image = good().clone();
        // Process, and the numbers and first identifiers of buffers.
        flip(&mut image.private[..1000], &changes);
        attempt(&image, unchanged);
    }

    #[test]
    fn flipped_objects(changes in changes()) {
        let mut image = good().clone();
        flip(&mut image.private[OBJECTS_AT..OBJECTS_AT + 700], &changes);
        attempt(&image, unchanged);
    }

    #[test]
    fn flipped_buckets(bos in changes(), devices in changes(), touch in any::<bool>()) {
        let mut image = good().clone();
        flip(bytemuck::cast_slice_mut(&mut image.bos), &bos);
        if touch {
            flip(bytemuck::cast_slice_mut(&mut image.devices), &devices);
        }
        attempt(&image, unchanged);
    }

    #[test]
    fn cut_and_lengthened(
        len in any::<prop::sample::Index>(),
        objects in 0..12u32,
        more in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut image = Image { objects, ..good().clone() };
        image.private.truncate(len.index(image.private.len()));
        image.private.extend(more);
        image.private.push(0);
        attempt(&image, unchanged);
    }

    #[test]
    fn counts_and_sizes_that_are_not_there(
        size in any::<u64>(),
        objects in any::<u32>(),
        bos in prop_oneof![0..20u32, any::<u32>()],
        devices in prop_oneof![0..4u32, any::<u32>()],
    ) {
        attempt(good(), |args| {
            (args.priv_data_size, args.num_objects) = (size, objects);
            (args.num_bos, args.num_devices) = (bos, devices);
        });
    }

    #[test]
    fn any_bytes_at_all(
        private in prop::collection::vec(any::<u8>(), 1..4000),
        kept in prop_oneof![Just(0), Just(24), Just(OBJECTS_AT)],
        objects in 0..100u32,
    ) {
        let mut image = Image { objects, ..good().clone() };
        image.private.truncate(kept);
        image.private.extend(private);
        attempt(&image, unchanged);
    }
}
