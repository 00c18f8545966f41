//! A FUSE server's side of the protocol, as far as device files need it.
//!
//! Why not the crate `fuser`: it answers `INTERRUPT` with `ENOSYS`, after which the kernel sends no
//! more of them. A caller blocked in an `ioctl` of ours (waiting for events, say) could then be
//! neither interrupted, nor stopped, nor killed until the call is answered: `fs/fuse/dev.c` waits
//! without regard to signals once a request has been read.
//!
//! What is here: requests taken apart ([`Request`]), answers that any thread may give at any time
//! ([`Reply`]), and the connection with its descriptors. What files there are and what calls on
//! them do is none of its business. It refuses kernels without passthrough (before Linux 6.9).

mod channel;
mod connection;
mod reader;
mod request;
pub(crate) mod wire;

pub(crate) use channel::{RESTART, Reply};
pub(crate) use connection::Connection;
pub use connection::MountError;
pub(crate) use reader::Reader;
pub(crate) use request::{Operation, Request};
