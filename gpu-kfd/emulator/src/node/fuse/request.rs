//! Requests as they are read, taken apart and checked.

use bytemuck::{Pod, pod_read_unaligned};
use nix::errno::Errno;

use super::wire::{self, InHeader, opcode};

/// A request: who calls, about which node, and what it asks for.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) header: InHeader,
    pub(crate) operation: Operation<'a>,
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Operation<'a> {
    /// The node of a name in the folder.
    Lookup(&'a [u8]),
    Getattr,
    Setattr(wire::SetattrIn),
    Open,
    Release(wire::ReleaseIn),
    Ioctl {
        args: wire::IoctlIn,
        /// What the kernel copied from the caller; empty if the request number says "no write".
        block: &'a [u8],
    },
    /// A signal came to a caller whose request has been read.
    Interrupt(u64),
    Statfs,
    /// Reading or writing.
    Transfer,
    Opendir,
    Readdir(wire::ReadIn),
    Releasedir,
    /// The kernel forgets nodes; the nodes of this server need no count.
    Forget,
    Destroy,
    /// Anything else: the server does not have it, and the kernel need not ask again.
    Unknown,
}

impl<'a> Request<'a> {
    /// Takes a message apart.
    ///
    /// # Errors
    /// `EIO` if it is shorter than its opcode says. The kernel sends no such message; the header is
    /// given back if it is there, so that the request can be answered.
    pub(crate) fn parse(message: &'a [u8]) -> Result<Self, (Option<InHeader>, Errno)> {
        let (header, body) = take::<InHeader>(message).ok_or((None, Errno::EIO))?;
        let operation = Operation::parse(header.opcode, body);
        Ok(Self { header, operation: operation.ok_or((Some(header), Errno::EIO))? })
    }
}

impl<'a> Operation<'a> {
    fn parse(code: u32, body: &'a [u8]) -> Option<Self> {
        Some(match code {
            opcode::LOOKUP => Self::Lookup(body.split(|byte| *byte == 0).next()?),
            opcode::GETATTR => Self::Getattr,
            opcode::SETATTR => Self::Setattr(take(body)?.0),
            opcode::OPEN => Self::Open,
            opcode::RELEASE => Self::Release(take(body)?.0),
            opcode::IOCTL => {
                let (args, block) = take::<wire::IoctlIn>(body)?;
                Self::Ioctl { args, block: block.get(..args.in_size as usize)? }
            }
            opcode::INTERRUPT => Self::Interrupt(take::<wire::InterruptIn>(body)?.0.unique),
            opcode::STATFS => Self::Statfs,
            opcode::READ | opcode::WRITE => Self::Transfer,
            opcode::OPENDIR => Self::Opendir,
            opcode::READDIR => Self::Readdir(take(body)?.0),
            opcode::RELEASEDIR => Self::Releasedir,
            opcode::FORGET | opcode::BATCH_FORGET => Self::Forget,
            opcode::DESTROY => Self::Destroy,
            _ => Self::Unknown,
        })
    }
}

/// A structure at the begin of some bytes, and the rest.
fn take<T: Pod>(bytes: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = bytes.split_at_checked(size_of::<T>())?;
    Some((pod_read_unaligned(head), rest))
}

#[cfg(test)]
mod tests {
    use bytemuck::bytes_of;

    use super::super::wire::{InHeader, IoctlIn, opcode};
    use super::{Operation, Request};

    fn message(code: u32, body: &[u8]) -> Vec<u8> {
        let header = InHeader { opcode: code, unique: 7, pid: 3, ..InHeader::default() };
        [bytes_of(&header), body].concat()
    }

    #[test]
    fn a_call_has_its_block_and_nothing_beyond() {
        let args = IoctlIn { fh: 5, cmd: 9, in_size: 2, out_size: 4, ..IoctlIn::default() };
        let message = message(opcode::IOCTL, &[bytes_of(&args), &[1, 2, 3]].concat());
        let request = Request::parse(&message).expect("it is whole");
        let Operation::Ioctl { args, block } = request.operation else {
            panic!("{request:?}");
        };
        assert_eq!((args.fh, args.cmd, args.out_size, block), (5, 9, 4, &[1, 2][..]));
        assert_eq!((request.header.unique, request.header.pid), (7, 3));
    }

    #[test]
    fn a_message_cut_anywhere_is_refused() {
        let args = IoctlIn { in_size: 3, ..IoctlIn::default() };
        let whole = message(opcode::IOCTL, &[bytes_of(&args), &[1, 2, 3]].concat());
        for length in 0..whole.len() {
            let error = Request::parse(&whole[..length]).expect_err("a part of it is missing");
            assert_eq!(error.0.is_some(), length >= size_of::<InHeader>(), "{length}");
        }
        assert!(Request::parse(&whole).is_ok());
    }

    #[test]
    fn a_name_ends_at_its_zero() {
        let message = message(opcode::LOOKUP, b"kfd\0");
        let request = Request::parse(&message).expect("it is whole");
        assert!(matches!(request.operation, Operation::Lookup(b"kfd")));
    }
}
