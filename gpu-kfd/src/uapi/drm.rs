//! The calls that every DRM device has, as far as a render node needs them.

define_layouts! {
    /// Argument of `VERSION`. Lengths are room and answer; a string has no NUL.
    struct Version = "struct drm_version", 64 {
        [0] version_major: i32,
        [4] version_minor: i32,
        [8] version_patchlevel: i32,
        [12] _pad: u32,
        [16] name_len: u64,
        /// Address of a string.
        [24] name: u64,
        [32] date_len: u64,
        /// Address of a string.
        [40] date: u64,
        [48] desc_len: u64,
        /// Address of a string.
        [56] desc: u64,
    }

    /// Argument of `GET_UNIQUE`: the bus id; empty on a render node.
    struct Unique = "struct drm_unique", 16 {
        [0] unique_len: u64,
        /// Address of a string.
        [8] unique: u64,
    }

    /// Argument of `GET_CLIENT`; `idx` 0 asks for the caller's own file.
    struct Client = "struct drm_client", 40 {
        [0] idx: i32,
        [4] auth: i32,
        [8] pid: u64,
        [16] uid: u64,
        [24] magic: u64,
        [32] iocs: u64,
    }

    /// Argument of `GEM_CLOSE`.
    struct GemClose = "struct drm_gem_close", 8 {
        [0] handle: u32,
        [4] _pad: u32,
    }

    /// Argument of `GEM_CHANGE_HANDLE` (Linux 6.18): moves an object to another, free number.
    struct GemChangeHandle = "struct drm_gem_change_handle", 8 {
        [0] handle: u32,
        [4] new_handle: u32,
    }

    /// Argument of `GET_CAP`: see [`cap`].
    struct GetCap = "struct drm_get_cap", 16 {
        [0] capability: u64,
        /// Answer.
        [8] value: u64,
    }

    /// Argument of `SET_CLIENT_CAP`.
    struct SetClientCap = "struct drm_set_client_cap", 16 {
        [0] capability: u64,
        [8] value: u64,
    }

    /// Argument of `PRIME_HANDLE_TO_FD` and `PRIME_FD_TO_HANDLE`.
    struct PrimeHandle = "struct drm_prime_handle", 12 {
        [0] handle: u32,
        /// `O_CLOEXEC` and `O_RDWR`; export only.
        [4] flags: u32,
        [8] fd: i32,
    }

    /// Argument of `SYNCOBJ_CREATE`.
    struct SyncobjCreate = "struct drm_syncobj_create", 8 {
        /// Answer.
        [0] handle: u32,
        /// Bit 0: signalled from the start.
        [4] flags: u32,
    }

    /// Argument of `SYNCOBJ_DESTROY`.
    struct SyncobjDestroy = "struct drm_syncobj_destroy", 8 {
        [0] handle: u32,
        [4] _pad: u32,
    }

    /// Argument of `SYNCOBJ_HANDLE_TO_FD` and `SYNCOBJ_FD_TO_HANDLE`; headers before Linux 6.16 end
    /// after the padding.
    struct SyncobjHandle = "struct drm_syncobj_handle", 24 {
        [0] handle: u32,
        /// Bit 0: the descriptor is a sync file. Bit 1: `point` counts.
        [4] flags: u32,
        [8] fd: i32,
        [12] _pad: u32,
        [16] point: u64,
    }

    /// Argument of `SYNCOBJ_WAIT`; headers before Linux 6.6 end after the padding.
    struct SyncobjWait = "struct drm_syncobj_wait", 40 {
        /// Array of u32.
        [0] handles: u64,
        /// Absolute, monotonic clock.
        [8] timeout_nsec: i64,
        [16] count_handles: u32,
        /// See [`wait_flag`].
        [20] flags: u32,
        /// Answer: an index.
        [24] first_signaled: u32,
        [28] _pad: u32,
        [32] deadline_nsec: u64,
    }

    /// Argument of `SYNCOBJ_TIMELINE_WAIT`, as [`SyncobjWait`].
    struct SyncobjTimelineWait = "struct drm_syncobj_timeline_wait", 48 {
        [0] handles: u64,
        /// Array of u64.
        [8] points: u64,
        [16] timeout_nsec: i64,
        [24] count_handles: u32,
        [28] flags: u32,
        [32] first_signaled: u32,
        [36] _pad: u32,
        [40] deadline_nsec: u64,
    }

    /// Argument of `SYNCOBJ_RESET` and `SYNCOBJ_SIGNAL`.
    struct SyncobjArray = "struct drm_syncobj_array", 16 {
        [0] handles: u64,
        [8] count_handles: u32,
        [12] _pad: u32,
    }

    /// Argument of `SYNCOBJ_QUERY` and `SYNCOBJ_TIMELINE_SIGNAL`.
    struct SyncobjTimelineArray = "struct drm_syncobj_timeline_array", 24 {
        [0] handles: u64,
        [8] points: u64,
        [16] count_handles: u32,
        [20] flags: u32,
    }

    /// Argument of `SYNCOBJ_TRANSFER`.
    struct SyncobjTransfer = "struct drm_syncobj_transfer", 32 {
        [0] src_handle: u32,
        [4] dst_handle: u32,
        [8] src_point: u64,
        [16] dst_point: u64,
        [24] flags: u32,
        [28] _pad: u32,
    }

    /// Argument of `SYNCOBJ_EVENTFD` (Linux 6.6).
    struct SyncobjEventfd = "struct drm_syncobj_eventfd", 24 {
        [0] handle: u32,
        [4] flags: u32,
        [8] point: u64,
        [16] fd: i32,
        [20] _pad: u32,
    }

    /// Argument of `SET_CLIENT_NAME` (Linux 6.13).
    struct SetClientName = "struct drm_set_client_name", 16 {
        [0] name_len: u64,
        [8] name: u64,
    }
}

define_numbers! {
    /// Capabilities that `GET_CAP` tells.
    mod cap: u64 = "DRM_CAP_" {
        DUMB_BUFFER = 0x1;
        VBLANK_HIGH_CRTC = 0x2;
        DUMB_PREFERRED_DEPTH = 0x3;
        DUMB_PREFER_SHADOW = 0x4;
        /// See [`prime_cap`](super::prime_cap).
        PRIME = 0x5;
        TIMESTAMP_MONOTONIC = 0x6;
        ASYNC_PAGE_FLIP = 0x7;
        CURSOR_WIDTH = 0x8;
        CURSOR_HEIGHT = 0x9;
        ADDFB2_MODIFIERS = 0x10;
        PAGE_FLIP_TARGET = 0x11;
        CRTC_IN_VBLANK_EVENT = 0x12;
        SYNCOBJ = 0x13;
        SYNCOBJ_TIMELINE = 0x14;
    }

    /// Bits of the capability `PRIME`.
    mod prime_cap: u64 = "DRM_PRIME_CAP_" {
        IMPORT = 1;
        EXPORT = 2;
    }

    /// Flags of waits.
    mod wait_flag: u32 = "DRM_SYNCOBJ_WAIT_FLAGS_" {
        WAIT_ALL = 1 << 0;
        WAIT_FOR_SUBMIT = 1 << 1;
        WAIT_AVAILABLE = 1 << 2;
        WAIT_DEADLINE = 1 << 3;
    }
}

/// First number of a driver's own calls.
pub const COMMAND_BASE: u32 = 0x40;

/// First number after them.
pub const COMMAND_END: u32 = 0xa0;

/// Flag of exports: close on exec (`DRM_CLOEXEC`).
pub const CLOEXEC: u32 = 0o2_000_000;

/// Flag of exports: the dma-buf can be mapped for writing (`DRM_RDWR`).
pub const RDWR: u32 = 0o2;

define_requests! { "DRM_IOCTL_", b'd';
    /// Name and version of the driver.
    VERSION = iorw 0x00, Version;
    /// Bus id.
    GET_UNIQUE = iorw 0x01, Unique;
    /// An open file.
    GET_CLIENT = iorw 0x05, Client;
    /// Gives a handle back.
    GEM_CLOSE = iow 0x09, GemClose;
    /// What the device can do.
    GET_CAP = iorw 0x0c, GetCap;
    /// What the client can do.
    SET_CLIENT_CAP = iow 0x0d, SetClientCap;
    /// A dma-buf of an object.
    PRIME_HANDLE_TO_FD = iorw 0x2d, PrimeHandle;
    /// The object of a dma-buf.
    PRIME_FD_TO_HANDLE = iorw 0x2e, PrimeHandle;
    /// Makes a sync object.
    SYNCOBJ_CREATE = iorw 0xbf, SyncobjCreate;
    /// Ends one.
    SYNCOBJ_DESTROY = iorw 0xc0, SyncobjDestroy;
    /// Exports one.
    SYNCOBJ_HANDLE_TO_FD = iorw 0xc1, SyncobjHandle;
    /// Imports one.
    SYNCOBJ_FD_TO_HANDLE = iorw 0xc2, SyncobjHandle;
    /// Waits for some.
    SYNCOBJ_WAIT = iorw 0xc3, SyncobjWait;
    /// Takes signals back.
    SYNCOBJ_RESET = iorw 0xc4, SyncobjArray;
    /// Signals some.
    SYNCOBJ_SIGNAL = iorw 0xc5, SyncobjArray;
    /// Waits for points.
    SYNCOBJ_TIMELINE_WAIT = iorw 0xca, SyncobjTimelineWait;
    /// Reads points.
    SYNCOBJ_QUERY = iorw 0xcb, SyncobjTimelineArray;
    /// Moves a fence.
    SYNCOBJ_TRANSFER = iorw 0xcc, SyncobjTransfer;
    /// Signals points.
    SYNCOBJ_TIMELINE_SIGNAL = iorw 0xcd, SyncobjTimelineArray;
    /// Tells an eventfd.
    SYNCOBJ_EVENTFD = iorw 0xcf, SyncobjEventfd;
    /// Names the client.
    SET_CLIENT_NAME = iorw 0xd1, SetClientName;
    /// Moves an object to another handle.
    GEM_CHANGE_HANDLE = iorw 0xd2, GemChangeHandle;
}
