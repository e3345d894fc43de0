//! [`TaskLocal`]: values that belong to a task, or to part of one.
//!
//! Contract: 127.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::LocalKey;

/// Declares [`TaskLocal`]s.
///
/// ```
/// couplet::task_local! {
///     /// The request that is being answered.
///     pub static REQUEST: u64;
/// }
///
/// async fn log(text: &str) {
///     REQUEST.with(|request| println!("{request:?}: {text}"));
/// }
///
/// couplet::run_until(|reactor| {
///     reactor.spawn(REQUEST.scope(7, async {
///         log("answered").await;
///         Ok(())
///     }))
/// })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
#[macro_export]
macro_rules! task_local {
    ($($(#[$meta:meta])* $visible:vis static $name:ident: $type:ty;)*) => {
        $(
            $(#[$meta])*
            $visible static $name: $crate::task::TaskLocal<$type> = {
                ::std::thread_local! {
                    static PLACE: ::std::cell::RefCell<::std::option::Option<$type>> =
                        const { ::std::cell::RefCell::new(::std::option::Option::None) };
                }
                $crate::task::TaskLocal::new(&PLACE)
            };
        )*
    };
}

/// A value that is set while a future is polled: see [`task_local!`](crate::task_local). Tasks that
/// the future spawns do not inherit it; give each its own [`scope`](Self::scope).
pub struct TaskLocal<T: 'static> {
    place: &'static LocalKey<RefCell<Option<T>>>,
}

impl<T: 'static> TaskLocal<T> {
    #[doc(hidden)]
    pub const fn new(place: &'static LocalKey<RefCell<Option<T>>>) -> TaskLocal<T> {
        TaskLocal { place }
    }

    /// Runs `future` with this value. Scopes nest; the innermost value applies.
    pub fn scope<F: Future>(&'static self, value: T, future: F) -> Scoped<T, F> {
        Scoped { local: self, value: Some(value), future: Some(Box::pin(future)) }
    }

    /// Calls `f` with the value; with `None` outside a [`scope`](Self::scope), or within another
    /// call of `with`, which holds the value.
    pub fn with<R>(&'static self, f: impl FnOnce(Option<&mut T>) -> R) -> R {
        let mut value = None;
        let taken = SwapGuard::new(self, &mut value);
        f(taken.value.as_mut())
    }

    /// A copy of the value.
    pub fn get(&'static self) -> Option<T>
    where
        T: Clone,
    {
        self.with(|value| value.cloned())
    }
}

impl<T: 'static> fmt::Debug for TaskLocal<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLocal").finish_non_exhaustive()
    }
}

/// Swaps a value with the thread's, and swaps them back on drop, even after a panic.
struct SwapGuard<'a, T: 'static> {
    local: &'static TaskLocal<T>,
    value: &'a mut Option<T>,
}

impl<'a, T> SwapGuard<'a, T> {
    fn new(local: &'static TaskLocal<T>, value: &'a mut Option<T>) -> SwapGuard<'a, T> {
        let mut swapped = SwapGuard { local, value };
        swapped.swap();
        swapped
    }

    fn swap(&mut self) {
        // The slot has been destroyed if the thread is ending.
        let swap =
            |place: &RefCell<Option<T>>| std::mem::swap(&mut *place.borrow_mut(), self.value);
        let _ = self.local.place.try_with(swap);
    }
}

impl<T> Drop for SwapGuard<'_, T> {
    fn drop(&mut self) {
        self.swap();
    }
}

/// A future that runs with a task-local value; see [`TaskLocal::scope`].
#[must_use = "futures do nothing unless they are polled"]
pub struct Scoped<T: 'static, F> {
    local: &'static TaskLocal<T>,
    value: Option<T>,
    /// `None` once it is dropped.
    future: Option<Pin<Box<F>>>,
}

/// The value is never pinned.
impl<T, F> Unpin for Scoped<T, F> {}

impl<T: 'static, F: Future> Future for Scoped<T, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Scoped { local, value, future } = &mut *self;
        let _swapped = SwapGuard::new(local, value);
        match future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<T: 'static, F> Drop for Scoped<T, F> {
    /// Destructors within the future can read the value too.
    fn drop(&mut self) {
        let _swapped = SwapGuard::new(self.local, &mut self.value);
        self.future = None;
    }
}

impl<T: 'static, F> fmt::Debug for Scoped<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").finish_non_exhaustive()
    }
}
