//! A log of every call, as JSON lines: one object a line, in the order in which calls ended.
//!
//! Records go through a bounded channel to one thread that writes, so that a slow disk delays
//! callers only when it falls far behind, and no record is dropped.

use std::io::{self, BufWriter, Write};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};
use serde::Serialize;

/// Records that may wait for the writer: some hundred milliseconds of the fastest callers.
const WAITING_MAX: usize = 1 << 16;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallRecord {
    /// When it came, in nanoseconds of `CLOCK_MONOTONIC`.
    pub begin_ns: u64,
    /// When it was answered.
    pub end_ns: u64,
    /// Process of the caller, as the node's server sees it.
    pub pid: i32,
    /// Thread of the caller.
    pub tid: i32,
    /// The device file: `kfd`, `renderD128`, `dmabuf:7`.
    pub device: String,
    /// Which open of it.
    pub file: u64,
    /// Name of the call (`ALLOC_MEMORY_OF_GPU`, `OPEN_KFD`), or its number in hex.
    pub call: String,
    /// What it returned, if it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<i32>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// A fault that was asked for made it fail or wait.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fault: bool,
}

/// The writing end; clones write to the same log.
#[derive(Clone, Debug)]
pub struct CallLog {
    records: Sender<CallRecord>,
}

/// Ends when every [`CallLog`] is gone; joining it says whether all was written.
#[derive(Debug)]
pub struct CallLogWriter {
    thread: JoinHandle<io::Result<u64>>,
}

impl CallLog {
    /// A log that is written to `sink`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<(Self, CallLogWriter)> {
        let (records, waiting) = bounded(WAITING_MAX);
        let builder = std::thread::Builder::new().name("call-log".to_owned());
        let thread = builder.spawn(move || write(sink, &waiting))?;
        Ok((Self { records }, CallLogWriter { thread }))
    }

    /// Adds a record. One that comes after the writer failed is dropped; [`CallLogWriter::finish`]
    /// tells of the failure.
    pub fn add(&self, record: CallRecord) {
        let _ = self.records.send(record);
    }
}

impl CallLogWriter {
    /// Waits until everything is written, and returns how many records that was. All [`CallLog`]s
    /// must be dropped before.
    ///
    /// # Errors
    /// The first failure to write.
    pub fn finish(self) -> io::Result<u64> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn write(sink: impl Write, waiting: &Receiver<CallRecord>) -> io::Result<u64> {
    let mut sink = BufWriter::new(sink);
    let mut count = 0;
    while let Ok(record) = waiting.recv() {
        serde_json::to_writer(&mut sink, &record)?;
        sink.write_all(b"\n")?;
        count += 1;
        // Whoever reads along sees whole lines as soon as calls pause.
        if waiting.is_empty() {
            sink.flush()?;
        }
    }
    sink.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::mpsc;

    use super::{CallLog, CallRecord};

    struct Pipe(mpsc::Sender<Vec<u8>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(call: &str) -> CallRecord {
        CallRecord {
            begin_ns: 5,
            end_ns: 9,
            pid: 7,
            tid: 8,
            device: "renderD128".to_owned(),
            file: 3,
            call: call.to_owned(),
            result: None,
            errno: Some("ENOMEM".to_owned()),
            fault: true,
        }
    }

    #[test]
    fn each_record_is_a_line() {
        let (sender, written) = mpsc::channel();
        let (log, writer) = CallLog::start(Pipe(sender)).expect("a thread");
        log.add(record("GEM_VA"));
        log.add(CallRecord { result: Some(0), errno: None, fault: false, ..record("GEM_MMAP") });
        drop(log);
        assert_eq!(writer.finish().expect("all is written"), 2);
        let text = String::from_utf8(written.iter().flatten().collect()).expect("JSON is UTF-8");
        let expected = concat!(
            r#"{"begin_ns":5,"end_ns":9,"pid":7,"tid":8,"device":"renderD128","file":3,"#,
            r#""call":"GEM_VA","errno":"ENOMEM","fault":true}"#,
            "\n",
            r#"{"begin_ns":5,"end_ns":9,"pid":7,"tid":8,"device":"renderD128","file":3,"#,
            r#""call":"GEM_MMAP","result":0}"#,
            "\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn failure_to_write_is_told_at_the_end() {
        let (sender, written) = mpsc::channel();
        drop(written);
        let (log, writer) = CallLog::start(Pipe(sender)).expect("a thread");
        log.add(record("GEM_VA"));
        drop(log);
        writer.finish().expect_err("nobody reads");
    }
}
