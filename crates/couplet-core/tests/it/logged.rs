//! Captures the library's log during a test.

use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, subscriber};

/// Runs `f`. Returns its result, and a line with the message and the fields of each warning and
/// error that this thread logged in it.
pub(crate) fn logged<R>(f: impl FnOnce() -> R) -> (R, Vec<String>) {
    logged_at(Level::WARN, f)
}

/// Like [`logged`], at this level and above.
pub(crate) fn logged_at<R>(level: Level, f: impl FnOnce() -> R) -> (R, Vec<String>) {
    LazyLock::force(&SECOND);
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let result = subscriber::with_default(Lines(level, lines.clone()), f);
    let lines = std::mem::take(&mut *lines.lock().expect("no panic while locked"));
    (result, lines)
}

/// A subscriber that keeps warnings and errors.
#[allow(dead_code, reason = "not every binary needs it")]
pub(crate) fn lines_to(lines: Arc<Mutex<Vec<String>>>) -> impl Subscriber {
    Lines(Level::WARN, lines)
}

/// With a single subscriber, `tracing` caches a callsite's interest as seen by the first thread to
/// reach it, so a test without a subscriber would silence that callsite for all others. A second
/// subscriber prevents this.
static SECOND: LazyLock<Dispatch> =
    LazyLock::new(|| Dispatch::new(Lines(Level::WARN, Arc::default())));

struct Lines(Level, Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.0
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.1.lock().expect("no panic while locked").push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
