//! Captures the library's log during a test.

use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, subscriber};

/// Runs `f`. Returns its result, and a line with the message and the fields of each warning and
/// error that this thread logged in it.
pub fn logged<R>(f: impl FnOnce() -> R) -> (R, Vec<String>) {
    logged_at(Level::WARN, f)
}

/// Like [`logged`], at this level and above, without access lines.
pub fn logged_at<R>(level: Level, f: impl FnOnce() -> R) -> (R, Vec<String>) {
    kept(f, move |event| *event.level() <= level && !is_access(event))
}

/// Like [`logged`], only access lines.
pub fn access_lines<R>(f: impl FnOnce() -> R) -> (R, Vec<String>) {
    kept(f, is_access)
}

fn is_access(event: &Metadata<'_>) -> bool {
    event.target().starts_with("couplet::access::")
}

fn kept<R>(
    f: impl FnOnce() -> R,
    keeps: impl Fn(&Metadata<'_>) -> bool + Send + Sync + 'static,
) -> (R, Vec<String>) {
    LazyLock::force(&SECOND);
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let taken = lines.clone();
    let push = move |line| taken.lock().expect("no panic while locked").push(line);
    let result = subscriber::with_default(Lines(keeps, push), f);
    let lines = std::mem::take(&mut *lines.lock().expect("no panic while locked"));
    (result, lines)
}

/// A subscriber that calls a function with the line of each warning and error.
pub fn warnings(take: impl Fn(String) + Send + Sync + 'static) -> impl Subscriber {
    Lines(is_warning, take)
}

/// With a single subscriber, `tracing` caches a callsite's interest as seen by the first thread to
/// reach it, so a test without a subscriber would silence that callsite for all others. A second
/// subscriber prevents this.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(warnings(drop)));

fn is_warning(event: &Metadata<'_>) -> bool {
    *event.level() <= Level::WARN
}

struct Lines<K, T>(K, T);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl<K, T> Subscriber for Lines<K, T>
where
    K: Fn(&Metadata<'_>) -> bool + Send + Sync + 'static,
    T: Fn(String) + Send + Sync + 'static,
{
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        (self.0)(metadata)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        (self.1)(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}
