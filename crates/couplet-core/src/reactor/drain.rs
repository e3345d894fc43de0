//! Draining, so that a server ends without cutting off its clients: the ports close, the
//! connections are asked to finish, and the remaining ones are closed and finally aborted.
//!
//! Contract: 105b.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use super::options::Drain;
use super::port::{Port, PortCell};
use super::records::LoopRequest;
use crate::defer::{Deferred, Resolver};
use crate::driver::Key;
use crate::recorder::{Reactor, loop_ended};
use crate::sorted::SortedMap;
use crate::timers::TimerKey;

/// How the connections of a drain ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Connections that ended on their own in time.
    pub finished: usize,
    /// Connections that were closed and flushed their written bytes.
    pub closed: usize,
    /// Connections that were reset: they did not flush in time, or asked to be
    /// [reset unless closed](crate::SocketOption::ResetUnlessClosed).
    pub aborted: usize,
}

impl Drained {
    /// The number of connections that have ended.
    pub(super) fn count(self) -> usize {
        self.finished + self.closed + self.aborted
    }
}

/// A drain in progress.
pub(super) struct DrainCell {
    /// The port to drain; `None` for all.
    pub(super) port: Option<Rc<PortCell>>,
    pub(super) times: Drain,
    pub(super) stage: Cell<DrainStage>,
    /// Connections that have not ended.
    pub(super) left: RefCell<SortedMap<Key, ()>>,
    /// Connections that have not been asked to finish yet, by key.
    pub(super) unasked: RefCell<VecDeque<Key>>,
    pub(super) dues: Cell<Dues>,
    pub(super) drained: Cell<Drained>,
    pub(super) timer: Cell<Option<TimerKey>>,
    pub(super) resolver: RefCell<Option<Resolver<Drained>>>,
}

/// The next times of the first stage.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Dues {
    /// When to look for silent peers.
    pub(super) patience: Option<Instant>,
    /// When to ask the next group of connections.
    pub(super) group: Option<GroupDue>,
}

/// The time of a group of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupDue {
    /// By the pace. The time of the next group is reckoned from this one.
    pub(super) planned: Instant,
    /// A random moment near that.
    pub(super) at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainStage {
    /// Recorded; the turn will begin it.
    Requested,
    /// Connections finish on their own, until this time.
    Finishing(Instant),
    /// Unfinished connections were closed.
    Closing,
}

/// How a connection ends, for the counts of all drains that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrainOutcome {
    Finished,
    Closed,
    Aborted,
}

impl Port {
    /// Stops listening, asks the connections accepted by this port to finish
    /// ([`Protocol::draining`](crate::Protocol::draining)), and fires when all of them have ended.
    /// Connections that do not finish in time are closed, as by
    /// [`lose_connection`](crate::Transport::lose_connection) but with the reason
    /// [`Shutdown`](crate::Reason::Shutdown), and finally aborted.
    ///
    /// Cancelling it ends the first stage immediately.
    ///
    /// ```
    /// # use couplet::{Protocol, Transport};
    /// # struct Echo;
    /// # impl Protocol for Echo { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    /// use std::time::Duration;
    ///
    /// couplet::run_until(|reactor| {
    ///     let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo).expect("a free port");
    ///     port.drain(Duration::from_secs(5)).map(|drained| println!("{drained:?}"))
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn drain(&self, times: impl Into<Drain>) -> Deferred<Drained> {
        self.cell.reactor.request_drain(Some(self.cell.clone()), times.into())
    }
}

impl Reactor {
    /// Drains all ports, as [`Port::drain`] does one, including the connections of ports that were
    /// already stopped, and [adopted](Self::adopt) connections. Outgoing connections stay: a server
    /// may need them to finish. So do ports that
    /// [accept while draining](Port::accept_while_draining).
    ///
    /// Nothing else is stopped. To drain before a stop, let the stop wait for the drain:
    ///
    /// ```
    /// use couplet::Shutdown;
    /// use std::time::Duration;
    ///
    /// couplet::run(|reactor| {
    ///     let draining = reactor.clone();
    ///     reactor.on(Shutdown::Before, move || draining.drain(Duration::from_secs(5)).map(|_| ()));
    /// #   reactor.stop();
    ///     Ok(())
    /// })?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    ///
    /// [`LoopOptions::drain`](super::LoopOptions::drain) does so when a SIGTERM arrives.
    pub fn drain(&self, times: impl Into<Drain>) -> Deferred<Drained> {
        self.request_drain(None, times.into())
    }

    fn request_drain(&self, port: Option<Rc<PortCell>>, times: Drain) -> Deferred<Drained> {
        let cell = Rc::new(DrainCell {
            port,
            times,
            stage: Cell::new(DrainStage::Requested),
            left: RefCell::default(),
            unasked: RefCell::default(),
            dues: Cell::default(),
            drained: Cell::default(),
            timer: Cell::new(None),
            resolver: RefCell::new(None),
        });
        let (reactor, hastened) = (self.clone(), Rc::downgrade(&cell));
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            if let Some(cell) = hastened.upgrade() {
                reactor.records().request(LoopRequest::Drain(cell));
            }
        });
        *cell.resolver.borrow_mut() = Some(resolver);
        self.records().request(LoopRequest::Drain(cell));
        deferred
    }
}

impl Drop for DrainCell {
    /// The loop ended first.
    fn drop(&mut self) {
        if let Some(resolver) = self.resolver.take() {
            resolver.errback(loop_ended());
        }
    }
}
