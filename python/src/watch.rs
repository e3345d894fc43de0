//! [`Watch`]: a Python descriptor, watched for the readers and writers of its reactor.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use couplet::{Interest, Ready};
use couplet_os::descriptor;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::descriptor::Descriptor;
use crate::looping::{LoopShared, system_error};
use crate::seat::{Seat, Seated};

/// A Python descriptor that the loop watches.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Watch {
    watched: Seated<Rc<Watched>>,
    /// Set immediately, in any thread: from then on the number may name another descriptor.
    is_stopped: Arc<AtomicBool>,
}

/// The interest that Python names `r`, `w` or `rw`.
fn interest(name: &str) -> PyResult<Interest> {
    match name {
        "r" => Ok(Interest::Readable),
        "w" => Ok(Interest::Writable),
        "rw" => Ok(Interest::Both),
        _ => Err(PyValueError::new_err("the interest is r, w or rw")),
    }
}

/// Python's name for a readiness.
fn name(ready: Ready) -> &'static str {
    match ready {
        Ready::Readable => "r",
        Ready::Writable => "w",
        Ready::Both => "rw",
    }
}

/// Whether the interest includes room for output.
fn is_to_write(interest: Interest) -> bool {
    interest != Interest::Readable
}

/// A watched descriptor, in the loop's thread.
///
/// Objects that seldom write ask for room, write, and end the request. If the descriptor
/// is registered to be read, `poll(2)` answers the first question, instead of two changes of the
/// registration and a wait.
struct Watched {
    source: BorrowedFd<'static>,
    watch: couplet::Watch<BorrowedFd<'static>>,
    ready: Rc<Py<PyAny>>,
    wanted: Cell<Interest>,
    /// The interest with which the descriptor is registered.
    registered: Cell<Interest>,
    /// The loop is to ask whether there is room.
    is_asking: Cell<bool>,
    is_stopped: Arc<AtomicBool>,
}

impl Watched {
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Changes the interest.
    fn want(self: &Rc<Self>, wanted: Interest, shared: &Rc<LoopShared>) -> PyResult<()> {
        self.wanted.set(wanted);
        if wanted != Interest::Both || self.registered.get() != Interest::Readable {
            return self.register();
        }
        if !self.is_asking.replace(true) {
            let (this, kept) = (self.clone(), shared.clone());
            shared.reactor.call_soon(move || this.ask(&kept));
        }
        Ok(())
    }

    /// Registers the descriptor with the current interest.
    fn register(&self) -> PyResult<()> {
        let wanted = self.wanted.get();
        if self.is_stopped() || self.registered.get() == wanted {
            return Ok(());
        }
        self.watch.set_interest(wanted).map_err(system_error)?;
        self.registered.set(wanted);
        Ok(())
    }

    /// Reports room if there is any now, and otherwise registers for it.
    fn ask(self: Rc<Self>, shared: &LoopShared) {
        self.is_asking.set(false);
        let awaits_room = is_to_write(self.wanted.get()) && !is_to_write(self.registered.get());
        if self.is_stopped() || !awaits_room {
            return;
        }
        // A closed descriptor has an event too: its writer notices the error.
        let has_room = descriptor::is_writable(self.source).unwrap_or(true);
        shared.queue(move |py, shared| {
            if has_room && !self.is_stopped() {
                shared.report_error(py, self.ready.call1(py, ("w",)));
            }
            if !self.is_asking.get() {
                shared.report_error(py, self.register());
            }
        });
    }
}

impl Watch {
    pub(crate) fn start(
        py: Python<'_>,
        seat: &Arc<Seat>,
        descriptor: &Descriptor,
        wanted: &str,
        ready: Py<PyAny>,
    ) -> PyResult<Watch> {
        let interest = interest(wanted)?;
        let source = descriptor.watched().map_err(system_error)?;
        let is_stopped = Arc::<AtomicBool>::default();
        let stopped = is_stopped.clone();
        let watched = Seated::make(py, seat, move |shared| {
            if stopped.load(Ordering::Acquire) {
                return Ok(None);
            }
            let ready = Rc::new(ready);
            let (weak, called) = (Rc::downgrade(shared), ready.clone());
            let watch = shared.reactor.watch(source, interest, move |_, is| {
                let Some(shared) = weak.upgrade() else { return };
                let ready = called.clone();
                shared.queue(move |py, shared| {
                    shared.report_error(py, ready.call1(py, (name(is),)));
                });
            });
            Ok(Some(Rc::new(Watched {
                source,
                watch: watch.map_err(system_error)?,
                ready,
                wanted: Cell::new(interest),
                registered: Cell::new(interest),
                is_asking: Cell::new(false),
                is_stopped: stopped,
            })))
        })?;
        Ok(Watch { watched, is_stopped })
    }
}

#[pymethods]
impl Watch {
    /// Changes the interest.
    fn set(&self, py: Python<'_>, wanted: &str) -> PyResult<()> {
        let interest = interest(wanted)?;
        self.watched.with(py, move |watched, shared| watched.want(interest, shared))
    }

    /// Stops watching.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_stopped.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.watched.with(py, |watched, _| {
            watched.watch.stop().detach();
            Ok(())
        })
    }
}
