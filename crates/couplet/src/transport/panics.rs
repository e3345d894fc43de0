//! Panics of user code: each is contained where it concerns nobody else (law 10).

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs user code whose panic concerns nobody else: it is logged. True if there was one.
pub(crate) fn contain(what: &'static str, f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| log_panic(what, payload)).is_err()
}

/// Something of the user's that may be dropped anywhere, in any thread: a panic in that is contained.
pub(crate) struct Contained<T> {
    what: &'static str,
    thing: Option<T>,
}

impl<T> Contained<T> {
    pub(crate) fn new(what: &'static str, thing: T) -> Contained<T> {
        Contained { what, thing: Some(thing) }
    }

    /// Takes it out, once.
    pub(crate) fn take(&mut self) -> Option<T> {
        self.thing.take()
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        if let Some(thing) = self.take() {
            contain(self.what, move || drop(thing));
        }
    }
}

pub(super) fn log_panic(what: &'static str, payload: Box<dyn Any + Send>) {
    let text = panic_text(payload);
    tracing::error!(what, %text, "a callback panicked");
    witness(what, &text);
}

thread_local! {
    /// The panics that were contained in this thread, while a test asks for them.
    static WITNESSED: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Keeps the texts of the panics that are contained from now on; gives back what was kept before.
pub(crate) fn keep_panics(kept: Option<Vec<String>>) -> Option<Vec<String>> {
    WITNESSED.replace(kept)
}

pub(super) fn witness(what: &str, text: &str) {
    let _ = WITNESSED.try_with(|witnessed| {
        if let Some(panics) = &mut *witnessed.borrow_mut() {
            panics.push(format!("{what}: {text}"));
        }
    });
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
