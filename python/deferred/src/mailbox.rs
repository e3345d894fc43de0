//! [`Mailbox`]: the functions that other threads have the reactor's thread call. A thread without
//! any other work waits for the interpreter's lock and announces them by `callFromThread`.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ThreadId};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::{locked, promise};

/// Maximum functions per call of `drain`, after which connections and timers have a turn.
const MOST: usize = 256;

/// A function for Python to call once, with at most one argument.
pub(crate) type Function =
    Box<dyn FnOnce(Python<'_>, Option<Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> + Send>;

/// A Python context, which any thread may hold.
pub(crate) type PyContext = Arc<Py<PyAny>>;

/// A function for the reactor's thread, and the context to call it in, if not the reactor's.
type Job = (Option<PyContext>, Function);

pub(crate) struct Mailbox {
    reactor: Py<PyAny>,
    announcer: Arc<Announcer>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Law 9: one for each future that ended or was woken, and each call that began or was dropped.
    jobs: VecDeque<Job>,
    /// A call of `drain` is on its way.
    is_announced: bool,
    /// The thread that drained last: it runs the reactor.
    home: Option<ThreadId>,
}

impl Mailbox {
    pub(crate) fn open(reactor: &Bound<'_, PyAny>) -> PyResult<Arc<Mailbox>> {
        Ok(Arc::new(Mailbox {
            reactor: reactor.clone().unbind(),
            announcer: Announcer::of_this_process(reactor.py())?,
            queue: Mutex::default(),
        }))
    }

    pub(crate) fn is_of_this_process(&self) -> bool {
        self.announcer.is_of_this_process()
    }

    /// Has the reactor's thread call `f`, in a later turn. For any thread.
    pub(crate) fn post(self: &Arc<Self>, context: Option<PyContext>, f: Function) {
        let mut queue = locked(&self.queue);
        queue.jobs.push_back((context, f));
        if std::mem::replace(&mut queue.is_announced, true) {
            return;
        }
        let is_home = queue.home == Some(thread::current().id());
        drop(queue);
        if is_home {
            Python::try_attach(|py| self.announce(py));
        } else {
            // Sending fails only when the interpreter exits.
            let _ = self.announcer.messages.send(Some(self.clone()));
        }
    }

    /// Calls `f` now, in the current context, if this is the reactor's thread.
    pub(crate) fn call(self: &Arc<Self>, context: Option<PyContext>, f: Function) {
        if locked(&self.queue).home == Some(thread::current().id()) {
            Python::try_attach(|py| call(py, (None, f)));
        } else {
            self.post(context, f);
        }
    }

    /// Has the reactor's thread drain the mailbox.
    fn announce(self: &Arc<Self>, py: Python<'_>) {
        let mailbox = self.clone();
        let drain = Once::make(
            py,
            Box::new(move |py, _| {
                mailbox.drain(py);
                Ok(py.None())
            }),
        );
        let announced =
            drain.and_then(|drain| self.reactor.call_method1(py, "callFromThread", (drain,)));
        if let Err(error) = announced {
            locked(&self.queue).is_announced = false;
            error.write_unraisable(py, Some(self.reactor.bind(py)));
        }
    }

    fn drain(self: &Arc<Self>, py: Python<'_>) {
        let mut queue = locked(&self.queue);
        queue.home = Some(thread::current().id());
        queue.is_announced = queue.jobs.len() > MOST;
        let is_more = queue.is_announced;
        let some = queue.jobs.len().min(MOST);
        let jobs: Vec<Job> = queue.jobs.drain(..some).collect();
        drop(queue);
        if is_more {
            self.announce(py);
        }
        for job in jobs {
            call(py, job);
        }
    }
}

/// The thread that waits for the interpreter's lock: one in each process.
struct Announcer {
    process: u32,
    /// Law 9: one for each mailbox, because of `is_announced`. `None` ends the thread.
    messages: Sender<Option<Arc<Mailbox>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Announcer {
    fn of_this_process(py: Python<'_>) -> PyResult<Arc<Announcer>> {
        // Locked only by threads that have the interpreter's lock, so no fork copies it locked.
        static ANNOUNCER: Mutex<Option<Arc<Announcer>>> = Mutex::new(None);
        let mut announcer = locked(&ANNOUNCER);
        if let Some(announcer) = announcer.as_ref().filter(|it| it.is_of_this_process()) {
            return Ok(announcer.clone());
        }
        let (messages, mailboxes) = channel();
        let thread = thread::Builder::new()
            .name("couplet-deferred".into())
            .spawn(move || announce_all(mailboxes))?;
        let started = Arc::new(Announcer {
            process: std::process::id(),
            messages,
            thread: Mutex::new(Some(thread)),
        });
        *announcer = Some(started.clone());
        drop(announcer);
        started.clone().end_at_exit(py)?;
        Ok(started)
    }

    fn is_of_this_process(&self) -> bool {
        self.process == std::process::id()
    }

    /// A thread that asks for the lock of an exiting interpreter never continues, or aborts the
    /// process.
    fn end_at_exit(self: Arc<Self>, py: Python<'_>) -> PyResult<()> {
        let end: Function = Box::new(move |py, _| {
            promise::leak();
            // A fork copies no threads.
            if self.is_of_this_process()
                && let Some(thread) = locked(&self.thread).take()
            {
                let _ = self.messages.send(None);
                let _ = py.detach(|| thread.join());
            }
            Ok(py.None())
        });
        py.import("atexit")?.call_method1("register", (Once::make(py, end)?,))?;
        Ok(())
    }
}

fn announce_all(mailboxes: Receiver<Option<Arc<Mailbox>>>) {
    let mut mailboxes = mailboxes.into_iter();
    // One attachment for all: each new one makes a thread state.
    Python::try_attach(|py| {
        while let Some(mailbox) = py.detach(|| mailboxes.next()).flatten() {
            mailbox.announce(py);
        }
    });
}

/// Makes a call and logs its exception.
fn call(py: Python<'_>, (context, f): Job) {
    let called = Once::make(py, f).and_then(|once| within(py, context.as_deref(), &once));
    let Err(error) = called else { return };
    let log =
        |error: &PyErr| py.import("twisted.python.log")?.call_method1("err", (error.value(py),));
    if log(&error).is_err() {
        error.write_unraisable(py, None);
    }
}

/// Calls `once` in the context, or in the current one.
pub(crate) fn within(
    py: Python<'_>,
    context: Option<&Py<PyAny>>,
    once: &Bound<'_, Once>,
) -> PyResult<()> {
    if let Some(context) = context {
        let ran = context.call_method1(py, "run", (once,));
        // A context can't be entered twice, but a turn inside a call in the context may try to.
        if locked(&once.get().0).is_none() {
            return ran.map(drop);
        }
    }
    once.call0().map(drop)
}

/// A Rust function as a Python function that does something only once.
#[pyclass(frozen, module = "couplet_twisted_deferred")]
pub(crate) struct Once(Mutex<Option<Function>>);

impl Once {
    pub(crate) fn make(py: Python<'_>, f: Function) -> PyResult<Bound<'_, Once>> {
        Bound::new(py, Once(Mutex::new(Some(f))))
    }
}

#[pymethods]
impl Once {
    #[pyo3(signature = (argument=None))]
    fn __call__(&self, py: Python<'_>, argument: Option<Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let function = locked(&self.0).take();
        function.map_or_else(|| Ok(py.None()), |function| caught(|| function(py, argument))?)
    }
}

/// The result of `f`.
///
/// # Errors
///
/// A panic, as a `RuntimeError` with its message.
pub(crate) fn caught<R>(f: impl FnOnce() -> R) -> PyResult<R> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        PyRuntimeError::new_err(format!("a Rust future panicked: {}", message(&*panic)))
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
