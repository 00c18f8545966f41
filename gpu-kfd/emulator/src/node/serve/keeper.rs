//! The threads that serve a node, and the one that keeps them.
//!
//! They have a mount namespace and a table of descriptors of their own. The table makes every end a
//! clean one: the descriptors of `/dev/fuse` are in no other, so when these threads are killed
//! (with their process, say), the connection ends and every caller is woken, also one that is a
//! thread of the same process and would else keep the descriptors open by waiting for them.
//!
//! | thread | does | may wait for |
//! |---|---|---|
//! | keeper | sets up; notices clients that end; ends last | clients |
//! | reader | answers requests, carries out calls | nothing but the next request |
//! | naming | calls that may name descriptors | the device, `descriptors` |
//! | late | calls that shall be late | time |
//! | pump | queues, time; ends the connection | the device |
//!
//! One reader is enough: a call costs 3 µs of processor time in all, while waking a second thread
//! on another processor costs 20 to 60 µs (measured on a virtual machine with 2 processors, Linux
//! 6.18). It also keeps the order of requests: what a process closed is closed before its next call
//! is carried out.

use std::any::Any;
use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use crossbeam::sync::Parker;
use nix::errno::Errno;
use nix::sys::epoll::EpollTimeout;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::gettid;

use super::control::Control;
use super::descriptors::Resolver;
use super::engine::{Call, Engine};
use super::files::Files;
use super::late::{self, Late};
use super::pump;
use super::server::Server;
use super::watch::Watch;
use super::world::{Outside, Stores};
use crate::model::{GpuIndex, Store};
use crate::node::callers::Callers;
use crate::node::device::Device;
use crate::node::fuse::{Connection, Reader};
use crate::node::namespace::{self, FILES, Paths};
use crate::node::{StartError, raw};
use crate::products::Sysfs;

/// How long the reader looks for the next request before it sleeps, if callers take turns. Measured
/// on 2 processors, of 0, 20, 50 and 100 µs: with four callers a call takes 13 to 25 µs on average
/// with 20 µs, and 30 to 50 µs if the reader sleeps at once; longer gains nothing.
const SPIN: Duration = Duration::from_micros(20);
/// How often address spaces are looked at that may have ended without a sign: when a program
/// executes another one and keeps its device files open.
const LOOK_MS: u16 = 100;

/// What the keeper needs.
pub(crate) struct Plan {
    pub(crate) device: Box<dyn Device>,
    pub(crate) files: Files,
    pub(crate) sysfs: Sysfs,
    pub(crate) resolver: Resolver,
    pub(crate) control: Arc<Control>,
    pub(crate) parker: Parker,
    pub(crate) watch: Watch,
}

/// Sets up and serves until the node ends. Tells `ready` the keeper's thread id when all is set up.
pub(crate) fn keep(plan: Plan, ready: &Sender<Result<i32, StartError>>) {
    let control = Arc::clone(&plan.control);
    let kept = catch_unwind(AssertUnwindSafe(|| {
        let started = set_up(plan).and_then(|ground| Serving::start(ground, ready));
        if let Err(error) = started {
            // The owner waits for it.
            let _ = ready.send(Err(error));
        }
    }));
    if let Err(panic) = kept {
        control.fail(format!("the keeper panicked: {}", text_of(&*panic)));
    }
}

/// What is there before anybody serves.
struct Ground {
    connection: Connection,
    /// Aborts the connection when it is written to.
    abort: File,
    engine: Arc<Engine>,
    callers: Arc<Callers>,
    server: Server,
    calls: Receiver<Call>,
    late_calls: Receiver<Late>,
    files: Files,
    sysfs: Sysfs,
    control: Arc<Control>,
    parker: Parker,
}

fn set_up(plan: Plan) -> Result<Ground, StartError> {
    let Plan { device, files, sysfs, resolver, control, parker, watch } = plan;
    raw::own_descriptors().map_err(StartError::System)?;
    namespace::enter_new()?;
    namespace::renew_dev()?;
    let connection = Connection::mount(Path::new(FILES))?;
    let abort = namespace::abort_switch()?;
    let paths = Arc::new(Paths::new()?);
    let stores = Stores::new(files.minors().len()).map_err(StartError::System)?;
    let backing = passed_through(&connection, &stores).map_err(StartError::System)?;
    let number = namespace::device().map_err(StartError::System)?;
    let callers = Arc::new(Callers::new().map_err(StartError::System)?);
    let outside = Outside {
        stores,
        callers: Arc::clone(&callers),
        resolver,
        control: Arc::clone(&control),
        device: number,
    };
    let engine = Arc::new(Engine::new(device, Arc::new(outside)));
    let (naming, calls) = unbounded();
    let (late, late_calls) = unbounded();
    let server = Server {
        files: files.clone(),
        engine: Arc::clone(&engine),
        callers: Arc::clone(&callers),
        naming,
        late,
        watch,
        paths,
        backing,
        number: u64::from(number.0) << 32 | u64::from(number.1),
    };
    Ok(Ground {
        connection,
        abort,
        engine,
        callers,
        server,
        calls,
        late_calls,
        files,
        sysfs,
        control,
        parker,
    })
}

/// Ids of the stores for passthrough: of `/dev/kfd`, then of each GPU.
fn passed_through(connection: &Connection, stores: &Stores) -> Result<Vec<i32>, Errno> {
    let gpus = (0..stores.gpus()).map(|index| Store::Gpu(GpuIndex(index as u8)));
    let all = std::iter::once(Store::Kfd).chain(gpus);
    all.map(|store| connection.passthrough_to(stores.file(store))).collect()
}

/// Threads that run.
struct Serving {
    threads: Vec<JoinHandle<()>>,
    callers: Arc<Callers>,
    engine: Arc<Engine>,
    control: Arc<Control>,
    /// Set when the reader has ended, and so the connection.
    ended: Arc<EventFd>,
}

impl Serving {
    /// Starts the threads, shows the files, tells the owner, and serves.
    fn start(ground: Ground, ready: &Sender<Result<i32, StartError>>) -> Result<(), StartError> {
        let Ground { connection, abort, engine, callers, server, calls, late_calls, .. } = ground;
        let Ground { files, sysfs, control, parker, .. } = ground;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let ended = EventFd::from_value_and_flags(0, flags).map_err(StartError::System)?;
        let ended = Arc::new(ended);
        callers.also_wait_for(&*ended).map_err(StartError::System)?;
        let reader = Reader::new(&connection, SPIN).map_err(StartError::System)?;
        let mut serving = Self { threads: Vec::new(), callers, engine, control, ended };
        let shown = serving
            .start_threads(reader, server, (calls, late_calls), parker, abort)
            .and_then(|()| Ok(namespace::show_devices(&files)?))
            .and_then(|()| Ok(namespace::show_sysfs(&sysfs)?));
        match shown {
            Ok(()) => drop(ready.send(Ok(gettid().as_raw()))),
            Err(_) => serving.control.stop(),
        }
        serving.serve();
        shown
    }

    fn start_threads(
        &mut self,
        reader: Reader,
        server: Server,
        (calls, late_calls): (Receiver<Call>, Receiver<Late>),
        parker: Parker,
        mut abort: File,
    ) -> Result<(), StartError> {
        let (engine, control) = (Arc::clone(&self.engine), Arc::clone(&self.control));
        self.thread("kfd-pump", None, move || {
            let ran = catch_unwind(AssertUnwindSafe(|| pump::run(&engine, &control, &parker)));
            engine.abandon();
            abort.write_all(b"1").map_err(|error| format!("cannot abort: {error}"))?;
            ran.map_err(|panic| text_of(&*panic))
        })?;
        let engine = Arc::clone(&self.engine);
        self.thread("kfd-naming", None, move || {
            calls.into_iter().for_each(|call| engine.call_and_wait(call));
            Ok(())
        })?;
        self.thread("kfd-late", None, move || {
            late::run(&late_calls);
            Ok(())
        })?;
        let end = End { control: Arc::clone(&self.control), ended: Arc::clone(&self.ended) };
        self.thread("kfd-reader", Some(end), move || {
            let read = reader.run(|request, reply| server.handle(request, reply));
            read.map_err(|error| format!("cannot read requests: {error}"))
        })
    }

    /// Starts a thread whose failure ends the node. `end` is dropped when the failure is noted.
    fn thread(
        &mut self,
        name: &str,
        end: Option<End>,
        body: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), StartError> {
        let control = Arc::clone(&self.control);
        let full = name.to_owned();
        let guarded = move || {
            let _end = end;
            let failure = match catch_unwind(AssertUnwindSafe(body)) {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => failure,
                Err(panic) => text_of(&*panic),
            };
            control.fail(format!("{full}: {failure}"));
        };
        let started = Builder::new().name(name.to_owned()).spawn(guarded);
        self.threads.push(started.map_err(StartError::Thread)?);
        Ok(())
    }

    /// Looks after clients until the connection has ended, then waits for the threads.
    fn serve(mut self) {
        while self.ended.read() == Err(Errno::EAGAIN) && self.reader_runs() {
            let limit = match self.callers.has_spaces() {
                true => EpollTimeout::from(LOOK_MS),
                false => EpollTimeout::NONE,
            };
            if let Err(error) = self.callers.wait(limit) {
                self.control.fail(format!("cannot wait for clients: {error}"));
                break;
            }
            self.engine.end_spaces(&self.callers);
        }
        self.control.stop();
        for thread in self.threads.drain(..) {
            // Its failure was noted by the thread itself.
            let _ = thread.join();
        }
    }

    /// Whether there is a reader that will say when it ends.
    fn reader_runs(&self) -> bool {
        self.threads.len() == 4
    }
}

/// Tells, when dropped, that the reader has ended.
struct End {
    control: Arc<Control>,
    ended: Arc<EventFd>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.control.stop();
        // It fails only if it was set 2^64 times.
        let _ = self.ended.write(1);
    }
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".into())
}
