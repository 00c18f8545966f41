//! A stream seen through a window: as many bytes at once as somebody needs, no more in memory.
//!
//! The window grows only by what has really arrived, so a length that a stream claims costs
//! nothing before the bytes are there.

use std::io::{self, Read};

/// First size of the window. Most records are far smaller, so nearly all lie whole within it.
const WINDOW_BYTES: usize = 64 << 10;

/// A stream, and the part of it that is in memory.
#[derive(Debug)]
pub(crate) struct Window<R> {
    input: R,
    buffer: Vec<u8>,
    /// Next byte in `buffer`.
    at: usize,
    /// End of what is filled.
    end: usize,
    /// Bytes of the stream before `buffer`.
    passed: u64,
}

impl<R: Read> Window<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, buffer: vec![0; WINDOW_BYTES], at: 0, end: 0, passed: 0 }
    }

    /// Offset of the next byte in the stream.
    #[inline]
    pub(crate) fn offset(&self) -> u64 {
        self.passed + self.at as u64
    }

    /// What is in memory already.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.at..self.end]
    }

    /// Passes over bytes that are in memory.
    #[inline]
    pub(crate) fn consume(&mut self, len: usize) {
        self.at += len;
        assert!(self.at <= self.end, "only what is in memory can be passed over");
    }

    /// Brings `len` bytes into memory, or all up to the end of the stream; says how many there are.
    #[inline]
    pub(crate) fn want(&mut self, len: usize) -> io::Result<usize> {
        if self.end - self.at < len {
            self.fill(len)?;
        }
        Ok(self.end - self.at)
    }

    /// The next byte, if there is one.
    #[inline]
    pub(crate) fn peek(&mut self) -> io::Result<Option<u8>> {
        if self.at == self.end {
            self.fill(1)?;
        }
        Ok(self.buffer[self.at..self.end].first().copied())
    }

    /// Brings in a piece of at most `len_max` bytes; 0 only at the end of the stream.
    pub(crate) fn want_some(&mut self, len_max: u64) -> io::Result<usize> {
        if len_max > 0 {
            self.want(1)?;
        }
        Ok((self.end - self.at).min(usize::try_from(len_max).unwrap_or(usize::MAX)))
    }

    #[cold]
    fn fill(&mut self, len: usize) -> io::Result<()> {
        self.buffer.copy_within(self.at..self.end, 0);
        self.passed += self.at as u64;
        self.end -= self.at;
        self.at = 0;
        while self.end < len {
            if self.end == self.buffer.len() {
                let size = len.min(self.buffer.len() * 2);
                self.buffer.resize(size, 0);
            }
            match self.input.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::{WINDOW_BYTES, Window};

    /// Gives one byte at a time and is interrupted before each.
    struct Slow(u8, bool);

    impl Read for Slow {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            into[0] = self.0;
            self.0 += 1;
            Ok(usize::from(self.0 <= 10))
        }
    }

    #[test]
    fn short_and_interrupted_reads_are_completed() {
        let mut window = Window::new(Slow(0, false));
        assert_eq!(window.want(4).expect("no error"), 4);
        assert_eq!(window.bytes(), [0, 1, 2, 3]);
        window.consume(3);
        assert_eq!((window.want(100).expect("no error"), window.offset()), (7, 3));
        assert_eq!(window.bytes(), [3, 4, 5, 6, 7, 8, 9]);
        window.consume(7);
        assert_eq!((window.peek().expect("no error"), window.offset()), (None, 10));
    }

    #[test]
    fn claimed_length_allocates_nothing() {
        let mut window = Window::new(&b"abc"[..]);
        assert_eq!(window.want(usize::MAX).expect("no error"), 3);
        assert!(window.buffer.len() <= WINDOW_BYTES * 2, "{}", window.buffer.len());
    }

    #[test]
    fn window_grows_by_what_arrives() {
        let bytes: Vec<u8> = (0..WINDOW_BYTES * 5).map(|index| index as u8).collect();
        let mut window = Window::new(&bytes[..]);
        assert_eq!(window.want(10).expect("no error"), WINDOW_BYTES);
        window.consume(10);
        let len = WINDOW_BYTES * 4;
        assert!(window.want(len).expect("no error") >= len);
        assert_eq!(window.bytes()[..len], bytes[10..10 + len]);
    }
}
