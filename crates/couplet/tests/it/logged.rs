//! What the library logs while a test runs.

use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, subscriber};

/// Runs `f` and gives the records of this thread meanwhile that are warnings or errors: the
/// message and the fields of each, in a line.
pub(crate) fn logged<R>(f: impl FnOnce() -> R) -> (R, Vec<String>) {
    LazyLock::force(&SECOND);
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let result = subscriber::with_default(Lines(lines.clone()), f);
    let lines = std::mem::take(&mut *lines.lock().expect("nothing panics while it is locked"));
    (result, lines)
}

/// While `tracing` knows of one subscriber alone, it asks only the thread that comes by a place
/// first whether anybody wants its records: a test that has no subscriber would silence the place
/// for all others.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Lines(Arc::default())));

struct Lines(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().expect("nothing panics while it is locked").push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
