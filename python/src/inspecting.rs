//! Shows the loop to the inspector: the names of protocols, factories and functions of Python, and the
//! stack of a callback that hangs.
//!
//! The inspector's thread never takes the interpreter's lock. Everything about Python's objects is in
//! the loop's own answers; the stack comes from Python's `faulthandler`, whose signal handler needs
//! no lock either.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use couplet::hooks::{Note, NoteRow, note_rows};
use couplet::inspect::{Inspect, Inspector};
use couplet::reactor::Snapshot;
use couplet::{Address, LoopOptions, Reactor, Transport};
use couplet_core::hooks::inspector as hooks;
use couplet_os::signals::SignalledThread;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::connection::Connection;
use crate::descriptor::Descriptor;
use crate::locked;
use crate::looping::{LoopShared, system_error};
use crate::timers;

/// The columns of a timed call.
const CALL: [&str; 7] = ["call", "kind", "name", "place", "since", "due", "why"];

/// The columns of a Deferred.
const DEFERRED: [&str; 7] =
    ["deferred", "place", "since", "state", "callbacks", "awaited_by", "why"];

/// Maximum number of class names, which are kept for ever. Further classes share one name.
const NAMES: usize = 10_000;

/// How long a hanging thread may take to write its stack.
const PATIENCE: Duration = Duration::from_millis(50);

/// Ends the first line of a stack.
const HEAD_ENDS: &str = "(most recent call first):";

/// The end of that line.
const HEAD: &[u8] = b"(most recent call first):\n";

/// The most bytes of stacks that are kept until they are read.
const MOST_STACK: usize = 256 * 1024;

/// How a loop is to be inspected: the arguments of Python's `inspect`.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Inspection {
    inspector: Inspector,
    rows: Py<PyAny>,
    place: Py<PyAny>,
    describe: Py<PyAny>,
    stacks: Option<Stacks>,
    /// The endpoint could not be opened: the loop runs without an inspector.
    has_failed: AtomicBool,
}

#[pymethods]
impl Inspection {
    /// An inspection at an endpoint. `rows` returns the rows of timed calls and of Deferreds, `place`
    /// the place of its caller, and `describe` the name of a function. `signal` makes a thread write
    /// its stack to the pipe whose other end is `stacks`.
    #[new]
    #[pyo3(signature = (endpoint, *, name, token, is_public, ring_size, rows, place, describe, signal, stacks))]
    #[expect(clippy::too_many_arguments, reason = "named arguments of Python's")]
    fn new(
        endpoint: String,
        name: &str,
        token: Option<String>,
        is_public: bool,
        ring_size: Option<usize>,
        rows: Py<PyAny>,
        place: Py<PyAny>,
        describe: Py<PyAny>,
        signal: i32,
        stacks: Option<Descriptor>,
    ) -> PyResult<Inspection> {
        // Deferreds are Python's.
        let inspector = Inspector::at(endpoint).histories(0);
        let mut inspector = inspector.program(name, "").public(is_public);
        if let Some(token) = token {
            inspector = inspector.token(token);
        }
        if let Some(bytes) = ring_size {
            inspector = inspector.ring_size(bytes);
        }
        // Python logs the URL.
        inspector = inspector.announce(|_| ());
        let stacks = stacks.map(|pipe| Stacks::new(signal, pipe)).transpose()?;
        if let Some(stacks) = &stacks {
            let stacks = stacks.clone();
            inspector = inspector.frames(move || stacks.frames());
        }
        let has_failed = AtomicBool::new(false);
        Ok(Inspection { inspector, rows, place, describe, stacks, has_failed })
    }

    /// The URL of the inspector's page, with its token; for a UNIX socket, its endpoint. `None`
    /// without a running inspector.
    #[getter]
    fn url(&self) -> Option<String> {
        self.inspector.url()
    }

    /// Closes the inspector.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.inspector.close());
    }
}

impl Inspection {
    /// Makes a loop with an inspector, in its thread.
    ///
    /// # Errors
    ///
    /// The endpoint can't be opened. The next loop is made without an inspector.
    pub(crate) fn make(&self, options: LoopOptions) -> io::Result<couplet::Loop> {
        if self.has_failed.load(Ordering::Relaxed) {
            return couplet::Loop::with_options(options);
        }
        if let Some(stacks) = &self.stacks {
            // Only one thread takes the loop.
            let _ = stacks.thread.set(SignalledThread::current());
        }
        let made = couplet::Loop::with_options(options.inspect(&self.inspector));
        self.has_failed.store(made.is_err(), Ordering::Relaxed);
        made
    }

    /// The place of Python's that makes this call.
    pub(crate) fn place(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.place.call0(py)
    }
}

/// The stacks of the loop's thread.
#[derive(Clone)]
struct Stacks {
    signal: i32,
    written: Arc<Written>,
    /// Set when a thread takes the loop.
    thread: Arc<OnceLock<SignalledThread>>,
}

/// Stacks that Python has written, as its `faulthandler` does: a head, and a line for each frame.
#[derive(Default)]
struct Written {
    bytes: Mutex<Vec<u8>>,
    has_more: Condvar,
}

impl Stacks {
    /// Starts the thread that reads the pipe until the process ends.
    fn new(signal: i32, pipe: Descriptor) -> PyResult<Stacks> {
        let mut pipe = File::from(pipe.detached().map_err(system_error)?);
        let written = Arc::<Written>::default();
        let reading = written.clone();
        let thread = std::thread::Builder::new().name("couplet stacks".to_owned());
        let read = move || {
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                let mut bytes = locked(&reading.bytes);
                if bytes.len() + count <= MOST_STACK {
                    bytes.extend_from_slice(&chunk[..count]);
                }
                reading.has_more.notify_all();
            }
        };
        thread.spawn(read).map_err(system_error)?;
        Ok(Stacks { signal, written, thread: Arc::default() })
    }

    /// The stack of the loop's thread, innermost call first. Empty if it does not answer.
    ///
    /// The signal is blocked in its own handler. So once one stack has begun, another signal makes
    /// the thread write the next stack exactly when the first one is complete.
    fn frames(&self) -> Vec<String> {
        let Some(thread) = self.thread.get() else { return Vec::new() };
        locked(&self.written.bytes).clear();
        for heads in 1..=2 {
            if thread.send(self.signal).is_err() || !self.written.wait_for(heads) {
                break;
            }
        }
        frames_in(&locked(&self.written.bytes))
    }
}

impl Written {
    /// Waits for this many heads; false on a timeout.
    fn wait_for(&self, heads: usize) -> bool {
        let bytes = locked(&self.bytes);
        let is_missing = |bytes: &mut Vec<u8>| {
            bytes.windows(HEAD.len()).filter(|window| *window == HEAD).count() < heads
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the inspector's thread waits for a signal handler"
        )]
        let waited = self.has_more.wait_timeout_while(bytes, PATIENCE, is_missing);
        waited.is_ok_and(|(_, outcome)| !outcome.timed_out())
    }
}

/// The frames of the first stack in a text of `faulthandler`'s, as lines of a backtrace.
fn frames_in(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let stack = text.lines().skip_while(|line| !line.ends_with(HEAD_ENDS)).skip(1);
    let stack = stack.take_while(|line| !line.ends_with(HEAD_ENDS));
    let frame = |line: &str| {
        let (file, rest) = line.trim().strip_prefix("File \"")?.split_once("\", line ")?;
        let (line, function) = rest.split_once(" in ")?;
        Some(format!("  py: {function} ({file}:{line})"))
    };
    stack.filter_map(frame).collect()
}

/// An inspected loop, in its thread.
pub(crate) struct Inspected {
    describe: Py<PyAny>,
    rows: Py<PyAny>,
    /// The addresses of ports, and the functions that get their connections.
    ports: RefCell<Vec<(Address, Weak<Py<PyAny>>)>>,
    /// Adds the rows of timed calls and Deferreds.
    note: RefCell<Option<Note>>,
}

impl Inspected {
    pub(crate) fn new(py: Python<'_>, by: &Inspection) -> Option<Box<Inspected>> {
        if by.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let (describe, rows) = (by.describe.clone_ref(py), by.rows.clone_ref(py));
        let (ports, note) = (RefCell::default(), RefCell::default());
        Some(Box::new(Inspected { describe, rows, ports, note }))
    }

    /// Adds Python's names and rows to the snapshots of the loop, if it is inspected.
    pub(crate) fn show(shared: &Rc<LoopShared>) {
        let Some(inspected) = &shared.inspected else { return };
        let weak = Rc::downgrade(shared);
        hooks::revise_snapshots(&shared.reactor, move |snapshot| {
            let Some(shared) = weak.upgrade() else { return };
            if let Some(inspected) = &shared.inspected {
                inspected.revise(snapshot);
            }
        });
        let weak = Rc::downgrade(shared);
        let rows = move || {
            let Some(shared) = weak.upgrade() else { return Vec::new() };
            Python::attach(|py| {
                let rows = shared.inspected.as_ref().map(|inspected| inspected.rows(py));
                rows.unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|error| {
                    shared.report(py, error);
                    Vec::new()
                })
            })
        };
        inspected.note.replace(Some(note_rows(&shared.reactor, rows)));
    }

    /// Names the factories of ports. Timed calls of Python's have rows with their own places.
    fn revise(&self, snapshot: &mut Snapshot) {
        snapshot.pending.retain(|it| it.place.file() != timers::FILE);
        let ports = self.ports.borrow();
        Python::attach(|py| {
            for port in &mut snapshot.ports {
                let mut known = ports.iter().filter(|(host, _)| *host == port.host);
                let accepted = known.find_map(|(_, accepted)| accepted.upgrade());
                port.factory = accepted.and_then(|accepted| factory_name(accepted.bind(py)));
            }
        });
    }

    /// The rows of timed calls and Deferreds.
    fn rows(&self, py: Python<'_>) -> PyResult<Vec<NoteRow>> {
        type Row = [String; 7];
        let (calls, deferreds): (Vec<Row>, Vec<Row>) = self.rows.call0(py)?.extract(py)?;
        let row = |view, names: [&'static str; 7]| {
            move |row: Row| NoteRow::new(view, names.into_iter().zip(row))
        };
        let calls = calls.into_iter().map(row("calls", CALL));
        Ok(calls.chain(deferreds.into_iter().map(row("deferreds", DEFERRED))).collect())
    }

    /// A port was opened; its connections go to a function of Python's.
    pub(crate) fn add_port(&self, port: &couplet::Port, accepted: Weak<Py<PyAny>>) {
        let mut ports = self.ports.borrow_mut();
        ports.retain(|(_, accepted)| accepted.strong_count() > 0);
        ports.push((port.host(), accepted));
    }

    /// Has the events of the loop name the class of a protocol that was built.
    pub(crate) fn name_protocol(
        &self,
        py: Python<'_>,
        transport: &Transport,
        connection: &Py<Connection>,
    ) {
        if let Some(name) = protocol_name(py, connection) {
            hooks::name_protocol(transport, name);
        }
    }

    /// Records a timed call until the result is dropped.
    pub(crate) fn enter(
        &self,
        py: Python<'_>,
        reactor: &Reactor,
        function: &Py<PyAny>,
    ) -> Option<Box<dyn Any>> {
        let describe = || {
            let name = self.describe.call1(py, (function,)).and_then(|name| name.extract(py));
            name.map_or_else(|_| "a function".into(), |name: String| name.into())
        };
        hooks::enter(reactor, "timed call", describe)
    }
}

/// The class of a connection's protocol; behind a wrapper, such as the TLS protocol, the class of
/// the protocol inside.
pub(crate) fn protocol_name(py: Python<'_>, connection: &Py<Connection>) -> Option<&'static str> {
    /// Maximum nested wrappers.
    const WRAPPERS: usize = 8;
    let mut protocol = connection.get().protocol(py)?.into_bound(py);
    for _ in 0..WRAPPERS {
        // Not by `getattr`, which may call the program.
        let Ok(state) = protocol.getattr(intern!(py, "__dict__")) else { break };
        let Ok(state) = state.cast_into::<PyDict>() else { break };
        let inner = ["wrappedProtocol", "_channel"]
            .into_iter()
            .find_map(|name| state.get_item(name).ok().flatten().filter(|inner| !inner.is_none()));
        let Some(inner) = inner else { break };
        protocol = inner;
    }
    class_name(&protocol)
}

/// The class of the factory of a port that owns this method.
fn factory_name(accepted: &Bound<'_, PyAny>) -> Option<&'static str> {
    let port = accepted.getattr(intern!(accepted.py(), "__self__")).ok()?;
    class_name(&port.getattr(intern!(accepted.py(), "factory")).ok()?)
}

/// The name of an object's class, with its module.
fn class_name(object: &Bound<'_, PyAny>) -> Option<&'static str> {
    let name = object.get_type().fully_qualified_name().ok()?;
    Some(kept(name.to_str().ok()?))
}

/// The name, kept for ever, because the events of loops refer to it.
fn kept(name: &str) -> &'static str {
    static KEPT: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut all = locked(&KEPT);
    if let Some(known) = all.get(name) {
        return known;
    }
    if all.len() >= NAMES {
        return "a class of Python's";
    }
    let name = &*Box::leak(name.to_owned().into_boxed_str());
    all.insert(name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_stacks_is_taken() {
        let text = b"in old\nStack (most recent call first):\n  File \"/a b.py\", line 12 in f\n\
                     \x20 File \"c.py\", line 3 in <module>\nStack (most recent call first):\n\
                     \x20 File \"d.py\", line 3 in g\n";
        assert_eq!(frames_in(text), ["  py: f (/a b.py:12)", "  py: <module> (c.py:3)"]);
        assert!(frames_in(b"nothing\n").is_empty());
    }
}
