//! Event counters, signal files and timers.

use criu_image::FileId;
use criu_image::record::{EventfdFileEntry, FdTypes, SignalfdEntry, TimerfdEntry};
use nix::errno::Errno;

use super::{Images, field, flags, read};

fn counter(images: &mut Images, counter: u64, flags: i32) -> FileId {
    images.add(FdTypes::Eventfd, |entry, id| {
        entry.efd = Some(EventfdFileEntry {
            id,
            counter,
            flags: (libc::O_RDWR | flags) as u32,
            ..Default::default()
        });
    })
}

#[test]
fn a_counter_has_its_value_and_blocks_only_if_it_did() {
    let mut images = Images::new();
    let one = counter(&mut images, 0x1_0000_0002, 0);
    let zero = counter(&mut images, 0, libc::O_NONBLOCK);
    let full = counter(&mut images, u64::MAX - 1, 0);
    let opened = images.open();
    assert_eq!(flags(opened.fd(one)) & libc::O_NONBLOCK, 0);
    assert_eq!(read(opened.fd(one)).unwrap(), 0x1_0000_0002u64.to_le_bytes());
    assert_eq!(read(opened.fd(zero)), Err(Errno::EAGAIN));
    assert_eq!(read(opened.fd(full)).unwrap(), (u64::MAX - 1).to_le_bytes());
}

#[test]
fn a_counter_that_cannot_be_is_an_error() {
    let mut images = Images::new();
    counter(&mut images, u64::MAX, 0);
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("event counter 0x2") && text.contains("EINVAL"), "{text}");
}

#[test]
fn a_signal_file_has_its_mask() {
    let mut images = Images::new();
    let id = images.add(FdTypes::Signalfd, |entry, id| {
        entry.sgfd = Some(SignalfdEntry {
            id,
            flags: libc::O_NONBLOCK as u32,
            sigmask: 1 << (libc::SIGUSR1 - 1) | 1 << (libc::SIGTERM - 1),
            ..Default::default()
        });
    });
    let opened = images.open();
    assert_eq!(field(opened.fd(id), "sigmask:"), "0000000000004200");
    assert_eq!(flags(opened.fd(id)) & libc::O_NONBLOCK, libc::O_NONBLOCK);
}

fn timer(images: &mut Images, change: impl FnOnce(&mut TimerfdEntry)) -> FileId {
    images.add(FdTypes::Timerfd, |entry, id| {
        let mut timer = TimerfdEntry {
            id,
            clockid: libc::CLOCK_MONOTONIC as u32,
            flags: libc::O_NONBLOCK as u32,
            ..Default::default()
        };
        change(&mut timer);
        entry.tfd = Some(timer);
    })
}

fn seconds(time: &str) -> u64 {
    let digits = time.trim_start_matches('(').split(',').next().unwrap();
    digits.parse().unwrap()
}

#[test]
fn a_timer_runs_only_when_it_is_armed() {
    let mut images = Images::new();
    let id = timer(&mut images, |timer| {
        (timer.vsec, timer.isec) = (1000, 7);
    });
    let opened = images.open();
    assert_eq!(field(opened.fd(id), "it_value:"), "(0, 0)");
    opened.arm_timers().unwrap();
    assert!((990..=1000).contains(&seconds(&field(opened.fd(id), "it_value:"))));
    assert_eq!(field(opened.fd(id), "it_interval:"), "(7, 0)");
    assert_eq!(read(opened.fd(id)), Err(Errno::EAGAIN));
}

#[test]
fn an_absolute_timer_gets_what_was_left_from_now_on() {
    let mut images = Images::new();
    let absolute = libc::TFD_TIMER_ABSTIME as u32;
    let id = timer(&mut images, |timer| {
        (timer.vsec, timer.vnsec, timer.settime_flags) = (500, 999_999_999, absolute);
    });
    let opened = images.open();
    opened.arm_timers().unwrap();
    assert!((490..=501).contains(&seconds(&field(opened.fd(id), "it_value:"))));
    assert_eq!(field(opened.fd(id), "settime flags:"), "01");
}

#[test]
fn expirations_that_were_not_read_are_still_to_be_read() {
    let mut images = Images::new();
    let once = timer(&mut images, |timer| timer.ticks = 1);
    let periodic = timer(&mut images, |timer| (timer.ticks, timer.isec) = (3, 900));
    let opened = images.open();
    opened.arm_timers().unwrap();
    assert_eq!(read(opened.fd(once)).unwrap(), 1u64.to_le_bytes());
    assert_eq!(read(opened.fd(once)), Err(Errno::EAGAIN));
    assert!(seconds(&field(opened.fd(periodic), "it_value:")) > 800);
    assert_eq!(read(opened.fd(periodic)).unwrap(), 3u64.to_le_bytes());
}

#[test]
fn a_time_that_is_none_is_an_error() {
    for absolute in [0, libc::TFD_TIMER_ABSTIME as u32] {
        let mut images = Images::new();
        timer(&mut images, |timer| {
            (timer.vsec, timer.vnsec) = (i64::MAX as u64, u64::MAX >> 1);
            timer.settime_flags = absolute;
        });
        let text = images.open().arm_timers().unwrap_err().to_string();
        assert!(text.contains("timerfd_settime for timer file 0x2"), "{text}");
    }
}

#[test]
fn a_clock_that_is_none_is_an_error() {
    let mut images = Images::new();
    timer(&mut images, |timer| timer.clockid = 77);
    assert!(images.try_open().unwrap_err().to_string().contains("timerfd_create"));
}
