//! Panics of user code: each is contained where it concerns nobody else (law 10).

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs user code whose panic concerns nobody else: it is logged, and its text given.
pub(crate) fn contain(what: &'static str, f: impl FnOnce()) -> Option<String> {
    let payload = catch_unwind(AssertUnwindSafe(f)).err()?;
    Some(log_panic(what, payload))
}

pub(super) fn log_panic(what: &'static str, payload: Box<dyn Any + Send>) -> String {
    let text = panic_text(payload);
    tracing::error!(what, %text, "a callback panicked");
    text
}

/// The message of a panic. A payload of another kind is leaked: its drop could panic again.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(payload) => {
                std::mem::forget(payload);
                "a panic without a message".to_owned()
            }
        },
    }
}
