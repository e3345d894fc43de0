//! Forwards Couplet's log events to the log of the Python program.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Called with a level and a text.
static LOG: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

struct ToPython(AtomicU64);

/// A message, followed by its fields.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

impl Subscriber for ToPython {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target().starts_with("couplet")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        // The inspector's thread must not wait for the interpreter's lock, which a callback may hold.
        if std::thread::current().name() == Some("couplet inspector") {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let level = if *event.metadata().level() == Level::WARN { "warn" } else { "error" };
        Python::attach(|py| {
            if let Some(log) = LOG.get(py)
                && let Err(error) = log.call1(py, (level, text.message + &text.fields))
            {
                error.write_unraisable(py, None);
            }
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Sends Couplet's log events to this function.
#[pyfunction]
pub(crate) fn log_to(py: Python<'_>, log: Py<PyAny>) {
    if LOG.set(py, log).is_ok() {
        // A subscriber that the program has already set keeps the events.
        let _ = tracing::subscriber::set_global_default(ToPython(AtomicU64::new(0)));
    }
}
