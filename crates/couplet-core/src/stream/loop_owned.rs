//! [`LoopOwned`]: a value of the loop's thread in a `Send` wrapper, sent back to be dropped.

use couplet_os::tethered::Tethered;

use crate::{Reactor, Remote};

/// A value of the loop's thread that is `Send`: only that thread can access it, and drops it.
pub struct LoopOwned<T: 'static> {
    /// `None` on its way back.
    value: Option<Tethered<T>>,
    remote: Remote,
}

impl<T: 'static> LoopOwned<T> {
    /// Wraps a value of this loop's thread.
    pub fn new(reactor: &Reactor, value: T) -> LoopOwned<T> {
        LoopOwned { value: Some(Tethered::new(value)), remote: reactor.remote() }
    }

    /// The value; `None` outside the loop's thread.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.value.as_ref()?.get()
    }

    /// The value, mutable; `None` outside the loop's thread.
    #[inline]
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.value.as_mut()?.get_mut()
    }

    /// Takes the value out; `None` outside the loop's thread.
    pub fn into_inner(mut self) -> Option<T> {
        match self.value.take()?.into_inner() {
            Ok(value) => Some(value),
            Err(away) => {
                self.value = Some(away);
                None
            }
        }
    }
}

impl<T: 'static> std::fmt::Debug for LoopOwned<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoopOwned").finish_non_exhaustive()
    }
}

impl<T: 'static> Drop for LoopOwned<T> {
    fn drop(&mut self) {
        if let Some(value) = self.value.take_if(|value| !value.is_home()) {
            // If the loop was dropped, its connections are closed, and the value is leaked.
            let _ = self.remote.call(move |_| drop(value));
        }
    }
}
