//! Panics of user code: each is contained where it concerns nobody else (law 10).
//!
//! What a user hands in may panic when it is dropped, and so it is put into a [`Contained`] where it
//! comes in: then it may be dropped wherever the last handle goes. Only protocols, factories and
//! foreign buffers are not, for their sake or for speed; nothing drops them but [`discard`].
//! Nothing of the user's is dropped while something of ours is borrowed (law 2).
//! `tests/it/dropped.rs` tries each way in.

use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs user code whose panic concerns nobody else: it is logged. True if there was one.
pub(crate) fn contain(what: &'static str, f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| log_panic(what, payload)).is_err()
}

/// Drops something of the user's.
pub(crate) fn discard<T>(what: &'static str, thing: T) {
    contain(what, move || drop(thing));
}

/// Drops things of the user's, each by itself: a second panic while one unwinds ends the process.
pub(crate) fn discard_all<T>(what: &'static str, things: impl IntoIterator<Item = T>) {
    for thing in things {
        discard(what, thing);
    }
}

/// Something of the user's that may be dropped anywhere, in any thread: a panic in that is contained.
pub(crate) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(crate) fn new(thing: T) -> Contained<T> {
        Contained(Some(thing))
    }

    /// Takes it out, to be used up.
    pub(crate) fn take(mut self) -> T {
        self.0.take().expect("only its end takes it out")
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only its end takes it out")
    }
}

impl<T> DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("only its end takes it out")
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        if let Some(thing) = self.0.take() {
            discard("a drop", thing);
        }
    }
}

/// A call of the user's, kept for later.
pub(crate) fn kept(f: impl FnOnce() + 'static) -> Box<dyn FnOnce()> {
    let f = Contained::new(f);
    Box::new(move || f.take()())
}

pub(crate) fn log_panic(what: &'static str, payload: Box<dyn Any + Send>) {
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

pub(crate) fn witness(what: &str, text: &str) {
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
