//! The library's warnings and errors: `tracing` events, printed to stderr as long as the program
//! has no subscriber, as Twisted prints critical events until a program starts its log.
//!
//! A subscriber that the program sets receives every later event, however late it is set.
//! `tracing::subscriber::NoSubscriber`, set before the first line, silences these lines.
//!
//! A thread that must not wait for the program's log [redirects](redirect) its events.
//!
//! Contract: 119d.

use std::cell::Cell;
use std::fmt::{self, Debug, Write as _};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber, dispatcher};

use crate::backlog::Backlog;

#[doc(hidden)]
#[macro_export]
macro_rules! log_warn {
    ($($event:tt)*) => { $crate::events::emit(|| ::tracing::warn!($($event)*)) };
}

#[doc(hidden)]
#[macro_export]
macro_rules! log_error {
    ($($event:tt)*) => { $crate::events::emit(|| ::tracing::error!($($event)*)) };
}

/// Set with the first line, since `tracing` counts our subscriber as the program's.
static PRINTS: AtomicBool = AtomicBool::new(false);

static STDERR: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Texts(write_line)));

thread_local! {
    /// Whether the thread runs a simulation, where failures are expected.
    static SIMULATES: Cell<bool> = const { Cell::new(false) };
}

/// Emits an event, to the program's subscriber if it has one.
pub fn emit(event: impl FnOnce()) {
    let was_chosen = dispatcher::has_been_set() && !PRINTS.load(Ordering::Relaxed);
    let has_none = || dispatcher::get_default(|current| current.is::<NoSubscriber>());
    if was_chosen || SIMULATES.get() || !has_none() {
        return event();
    }
    PRINTS.store(true, Ordering::Relaxed);
    dispatcher::with_default(&STDERR, event);
}

/// Passes this thread's warnings and errors to `to`, each as its level and its text, until the
/// returned guard is dropped. The thread's other events are discarded. Other threads keep the
/// program's subscriber, or print their events if it has none.
pub fn redirect(to: impl Fn(Level, String) + Send + Sync + 'static) -> impl Sized {
    if !dispatcher::has_been_set() {
        // From now on `tracing` says that one was set.
        PRINTS.store(true, Ordering::Relaxed);
    }
    let to = move |metadata: &Metadata<'_>, text| to(*metadata.level(), text);
    dispatcher::set_default(&Dispatch::new(Texts(to)))
}

/// Suppresses the printed events of this thread until the returned guard is dropped.
pub fn print_nothing() -> impl Sized {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            SIMULATES.set(self.0);
        }
    }
    Before(SIMULATES.replace(true))
}

/// Queues an event for stderr as a line: level, target, message and fields.
fn write_line(metadata: &Metadata<'_>, text: String) {
    let line = format!("{} {}: {text}\n", metadata.level(), metadata.target());
    Backlog::stderr().push(line);
}

/// Passes each warning and error to a function, with its message and fields as a text.
struct Texts<F>(F);

impl<F: Fn(&Metadata<'_>, String) + Send + Sync + 'static> Subscriber for Texts<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= LevelFilter::WARN
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::WARN)
    }

    fn event(&self, event: &Event<'_>) {
        let mut parts = Parts::default();
        event.record(&mut parts);
        let Parts { message, fields } = parts;
        (self.0)(event.metadata(), format!("{}{}", message.0, fields.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Parts {
    message: Escaped,
    fields: Escaped,
}

impl Visit for Parts {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a `String` does not fail, and a formatting error cuts only its own field.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

/// Text with control characters escaped, since they could forge further lines or control a
/// terminal. A line break continues the event, indented.
#[derive(Default)]
struct Escaped(String);

impl fmt::Write for Escaped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '\n' => self.0.push_str("\n    "),
                '\t' => self.0.push(c),
                c if c.is_control() => self.0.extend(c.escape_default()),
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}
