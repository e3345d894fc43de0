//! Contains panics of user code, so that a panic affects nothing else (law 10).
//!
//! A user's object may panic when dropped, so each is wrapped in [`Contained`] on entry and can
//! then be dropped wherever its last handle is. Protocols, factories and foreign buffers are
//! exempt, by their nature or for speed; only [`discard`] drops them. No user object is dropped
//! while one of our cells is borrowed (law 2). The core's `tests/it/dropped.rs` tests every entry point.
//!
//! Contract: 44, 50.

use std::any::Any;
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs user code; a panic becomes an error with its message.
///
/// # Errors
///
/// The panic's message.
#[inline(always)]
pub fn catch_panic<R>(f: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(panic_text)
}

/// Runs user code and logs a panic. Returns true if it panicked.
pub fn contain(what: &'static str, f: impl FnOnce()) -> bool {
    catch_panic(f).map_err(|text| log_text(what, &text)).is_err()
}

/// Drops a user's object; a panic is logged.
pub fn discard<T>(what: &'static str, thing: T) {
    contain(what, move || drop(thing));
}

/// Drops user objects one by one: a second panic during unwinding would abort the process.
pub fn discard_all<T>(what: &'static str, things: impl IntoIterator<Item = T>) {
    for thing in things {
        discard(what, thing);
    }
}

/// Locks a mutex, ignoring poison: every holder leaves its contents consistent, even after a panic.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user's object that may be dropped anywhere, on any thread: a panic in its destructor is
/// contained.
#[expect(missing_debug_implementations, reason = "a user's object need not have one")]
pub struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    /// Wraps an object.
    pub fn new(thing: T) -> Contained<T> {
        Contained(Some(thing))
    }

    /// A wrapper without an object.
    pub const fn empty() -> Contained<T> {
        Contained(None)
    }

    /// The object, unless it was taken.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_mut()
    }

    /// Takes the object out.
    pub fn take(mut self) -> T {
        self.0.take().expect("only `take` and `drop` empty it")
    }
}

impl<T> Deref for Contained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("only `take` and `drop` empty it")
    }
}

impl<T> DerefMut for Contained<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("only `take` and `drop` empty it")
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        if let Some(thing) = self.0.take() {
            discard("a drop", thing);
        }
    }
}

/// Wraps a user's closure so that it may be dropped anywhere.
pub fn contain_closure(f: impl FnOnce() + 'static) -> Box<dyn FnOnce()> {
    let f = Contained::new(f);
    Box::new(move || f.take()())
}

/// Logs a panic by its payload.
pub fn log_panic(what: &'static str, payload: Box<dyn Any + Send>) {
    log_text(what, &panic_text(payload));
}

/// Logs a panic by its message, and records it.
pub fn log_text(what: &'static str, text: &str) {
    log_error!(what, %text, "a callback panicked");
    record_panic(what, text);
}

thread_local! {
    /// The panics contained in this thread, while a test records them.
    static RECORDED_PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Makes `kept` the record of contained panics; with `None`, nothing is recorded. Returns the
/// previous record.
pub fn capture_panics(kept: Option<Vec<String>>) -> Option<Vec<String>> {
    RECORDED_PANICS.replace(kept)
}

/// Records a panic that is already logged, while a test records panics.
pub fn record_panic(what: &str, text: &str) {
    let _ = RECORDED_PANICS.try_with(|witnessed| {
        if let Some(panics) = &mut *witnessed.borrow_mut() {
            panics.push(format!("{what}: {text}"));
        }
    });
}

/// The message of a panic. Any other payload is dropped; if its drop panics too, that payload is
/// leaked.
#[cold]
pub fn panic_text(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(text) => (*text).to_owned(),
            Err(payload) => {
                if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                    std::mem::forget(again);
                }
                "(no message)".to_owned()
            }
        },
    }
}
