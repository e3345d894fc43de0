//! Watching foreign descriptors: [`Reactor::watch`]. Twisted's `addReader` and `addWriter`.
//!
//! Contract: 106.

use std::any::type_name;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::panic::Location;
use std::rc::Rc;

use super::watches::AnyWatch;
use crate::defer::{Deferred, Resolver};
use crate::driver::{Interest, Ready, WatchId, World};
use crate::panics::{Contained, contain};
use crate::recorder::{Reactor, Source};

/// A descriptor watched by the loop, returned by [`Reactor::watch`]; cheap to clone. Dropping it
/// changes nothing.
pub struct Watch<S> {
    reactor: Reactor,
    cell: Rc<WatchCell<S>>,
}

type Callback<S> = Box<dyn FnMut(&mut S, Ready)>;
type Parts<S> = (Contained<S>, Contained<Callback<S>>);

struct WatchCell<S> {
    id: WatchId,
    place: Source,
    interest: Cell<Interest>,
    state: RefCell<WatchState<S>>,
}

enum WatchState<S> {
    Watching(Parts<S>),
    /// The callback is running; with the resolver of a [`Watch::stop`] called from inside it.
    Calling(Option<Resolver<S>>),
    Ended,
}

/// The watch has ended: it was stopped, its callback panicked, or the run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watch of this descriptor has ended")]
pub struct NotWatching;

impl Reactor {
    /// Calls `callback` in each turn in which `source` is ready for `interest`, from the next turn
    /// on. The loop owns the source; [`Watch::stop`] returns it, and the end of the run drops it.
    ///
    /// Watches are level-triggered: the callback need not read everything; it is called again as
    /// long as the source is ready. So the source should be non-blocking, and a callback that
    /// cannot use its readiness should change the interest or stop the watch. An end of stream, a
    /// hang-up or an error makes the source ready for everything: a read or write then reports
    /// which. A panic in the callback is logged, ends the watch and drops the source.
    ///
    /// Only on Unix. Twisted's `addReader` and `addWriter`.
    ///
    /// ```
    /// use std::{cell::RefCell, rc::Rc};
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use couplet::Interest;
    ///
    /// let line = Rc::new(RefCell::new(String::new()));
    /// let slot = line.clone();
    /// couplet::run(|reactor| {
    ///     let (ours, mut theirs) = UnixStream::pair()?;
    ///     ours.set_nonblocking(true)?;
    ///     theirs.write_all(b"Rose is a rose")?;
    ///     let stopping = reactor.clone();
    ///     reactor.watch(ours, Interest::Readable, move |socket, _ready| {
    ///         let mut bytes = [0; 80];
    ///         let n = socket.read(&mut bytes).unwrap_or(0);
    ///         slot.borrow_mut().push_str(&String::from_utf8_lossy(&bytes[..n]));
    ///         stopping.stop();
    ///     })?;
    ///     Ok(())
    /// })?;
    /// assert_eq!(*line.borrow(), "Rose is a rose");
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// # Errors
    ///
    /// When the system cannot watch the source: it is closed, already watched, or a regular file
    /// (which is always ready).
    #[track_caller]
    pub fn watch<S: AsFd + 'static>(
        &self,
        source: S,
        interest: Interest,
        callback: impl FnMut(&mut S, Ready) + 'static,
    ) -> io::Result<Watch<S>> {
        let id = self.records().watches.borrow_mut().new_id();
        let source = Contained::new(source);
        self.world().watch(id, source.as_fd(), interest)?;
        let cell = Rc::new(WatchCell {
            id,
            place: Location::caller(),
            interest: Cell::new(interest),
            state: RefCell::new(WatchState::Watching((source, Contained::new(Box::new(callback))))),
        });
        self.records().watches.borrow_mut().insert(id, cell.clone());
        Ok(Watch { reactor: self.clone(), cell })
    }
}

impl<S: AsFd + 'static> Watch<S> {
    /// Ends the watch and returns the source: immediately, or, when called in the callback, once
    /// the callback has returned. The callback is not called again, not even in this turn.
    ///
    /// Fails with [`NotWatching`] if the watch has ended already.
    pub fn stop(&self) -> Deferred<S> {
        if let WatchState::Calling(stopping @ None) = &mut *self.cell.state.borrow_mut() {
            let (deferred, resolver) = Deferred::new();
            *stopping = Some(resolver);
            return deferred;
        }
        let Some((source, callback)) = self.cell.take_parts(WatchState::Ended) else {
            return Deferred::fail(NotWatching);
        };
        let records = self.reactor.records();
        records.watches.borrow_mut().remove(self.cell.id);
        records.world.unwatch(source.as_fd());
        drop(callback);
        Deferred::succeed(source.take())
    }

    /// Changes the interest, from the next turn on.
    ///
    /// # Errors
    ///
    /// The system's error, or one that wraps [`NotWatching`].
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        match &*self.cell.state.borrow() {
            WatchState::Ended => Err(io::Error::other(NotWatching)),
            WatchState::Calling(_) => {
                // Applied when the callback has returned.
                self.cell.interest.set(interest);
                Ok(())
            }
            WatchState::Watching((source, _)) => {
                self.cell.interest.set(interest);
                self.reactor.world().rewatch(self.cell.id, source.as_fd(), interest)
            }
        }
    }

    /// True until the watch has ended.
    pub fn is_watching(&self) -> bool {
        !matches!(&*self.cell.state.borrow(), WatchState::Ended)
    }
}

impl<S> WatchCell<S> {
    /// Takes the source and the callback out of an idle watch, whose next state is `next`.
    fn take_parts(&self, next: WatchState<S>) -> Option<Parts<S>> {
        let mut state = self.state.borrow_mut();
        if !matches!(&*state, WatchState::Watching(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, next) {
            WatchState::Watching(parts) => Some(parts),
            WatchState::Calling(_) | WatchState::Ended => None,
        }
    }
}

impl<S: AsFd + 'static> AnyWatch for WatchCell<S> {
    fn place(&self) -> Source {
        self.place
    }

    fn ready(&self, world: &dyn World, ready: Ready) -> bool {
        let Some((mut source, mut callback)) = self.take_parts(WatchState::Calling(None)) else {
            return false;
        };
        let before = self.interest.get();
        let panicked = contain("callback of a watch", || callback(&mut source, ready));
        let stop_resolver = match self.state.replace(WatchState::Ended) {
            WatchState::Calling(stop_resolver) => stop_resolver,
            WatchState::Watching(_) | WatchState::Ended => None,
        };
        if stop_resolver.is_none() && !panicked {
            let rearmed = match self.interest.get() {
                same if same == before => world.rearm(self.id, source.as_fd(), same),
                other => world.rewatch(self.id, source.as_fd(), other),
            };
            match rearmed {
                Ok(()) => {
                    self.state.replace(WatchState::Watching((source, callback)));
                    return true;
                }
                Err(error) => log_error!(%error, "cannot watch a descriptor any longer"),
            }
        }
        world.unwatch(source.as_fd());
        drop(callback);
        if let Some(stop_resolver) = stop_resolver {
            stop_resolver.callback(source.take());
        }
        false
    }

    fn end(&self, world: &dyn World) {
        if let Some((source, callback)) = self.take_parts(WatchState::Ended) {
            world.unwatch(source.as_fd());
            drop((source, callback));
        }
    }
}

impl<S> Clone for Watch<S> {
    fn clone(&self) -> Self {
        Watch { reactor: self.reactor.clone(), cell: self.cell.clone() }
    }
}

impl<S> fmt::Debug for Watch<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("source", &type_name::<S>())
            .field("interest", &self.cell.interest.get())
            .finish_non_exhaustive()
    }
}
