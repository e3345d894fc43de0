//! Calls from other threads: [`Remote`], the only handle to a loop that is `Send`.
//!
//! Twisted's `callFromThread` and `blockingCallFromThread`.
//!
//! Contract: 96, 98.

use std::fmt;
use std::panic::Location;
use std::sync::{Arc, mpsc};

use super::tasks::{RemoteCall, WakeQueue};
use crate::defer::{Deferred, Result};
use crate::driver::Signal;
use crate::panics::Contained;
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use crate::transport::{ConnectionId, Tell, TellFn, Transport};

/// A handle to a loop for other threads: `Send`, `Sync`, and cheap to clone.
///
/// A call is recorded, wakes the loop, and runs in the loop's thread: first in, first out, before
/// the timed calls of that turn. Calls made before the loop runs, or between two runs, wait for the
/// next turn. Once the loop is dropped, every call returns [`LoopGone`].
///
/// Created by [`Reactor::remote`].
///
/// ```
/// # fn main() -> couplet::Result<()> {
/// couplet::run(|reactor| {
///     let remote = reactor.remote();
///     std::thread::spawn(move || {
///         // … something slow, and then:
///         remote.call(|reactor| reactor.stop())
///     });
///     Ok(())
/// })
/// # }
/// ```
#[derive(Clone)]
pub struct Remote {
    queue: Arc<WakeQueue>,
}

/// The loop was dropped and accepts no calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the loop was dropped")]
pub struct LoopGone;

/// [`Remote::block_on_reactor`] was called in the loop's own thread, where it would deadlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block_on_reactor was called in the loop's own thread, where it would deadlock")]
pub struct WouldWaitForItself;

/// A value that another thread may own: any that is [`Send`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be moved to another thread",
    label = "holds something that stays in its thread, such as an `Rc`, a `Reactor` or a `Transport`",
    note = "give the other thread owned data or an `Arc`, and for calls into the loop `reactor.remote()`"
)]
pub trait ForThread: Send {}

#[diagnostic::do_not_recommend]
impl<T: Send> ForThread for T {}

impl Remote {
    /// Runs `f` in the loop's thread. A panic in `f` is logged and has no other effect. Twisted's
    /// `callFromThread`.
    ///
    /// # Errors
    ///
    /// [`LoopGone`]; `f` is dropped.
    #[track_caller]
    pub fn call(&self, f: impl FnOnce(&Reactor) + ForThread + 'static) -> Result<(), LoopGone> {
        let f = Contained::new(f);
        let call = Box::new(move |reactor: &Reactor| f.take()(reactor));
        self.send(RemoteCall::Run(Location::caller(), call))
    }

    /// Runs `f` on the protocol of a connection, as [`Connection::tell`](crate::Connection::tell)
    /// does. `P` is the protocol, or one that it wraps, such as the receiver of a framer's
    /// messages. If the connection is lost first, `f` is dropped.
    ///
    /// ```
    /// # use couplet::{ConnectionId, Protocol, Remote, Transport};
    /// # struct Device { readings: u64 }
    /// # impl Protocol for Device { fn data_received(&mut self, _: &Transport, _: &[u8]) {} }
    /// # fn example(remote: Remote, id: ConnectionId) -> Result<(), couplet::reactor::LoopGone> {
    /// remote.tell(id, |device: &mut Device, transport| {
    ///     transport.write(format!("{} readings\r\n", device.readings));
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`LoopGone`]; `f` is dropped.
    #[track_caller]
    pub fn tell<P: 'static>(
        &self,
        connection: ConnectionId,
        f: impl FnOnce(&mut P, &Transport) + ForThread + 'static,
    ) -> Result<(), LoopGone> {
        self.send(RemoteCall::Tell(Location::caller(), connection, Box::new(TellFn::new(f))))
    }

    /// Closes a connection of any protocol, as [`lose_connection`](Transport::lose_connection) does. No
    /// effect on a connection that is lost already.
    ///
    /// # Errors
    ///
    /// [`LoopGone`].
    #[track_caller]
    pub fn lose_connection(&self, connection: ConnectionId) -> Result<(), LoopGone> {
        let lose = Order(Transport::lose_connection);
        self.send(RemoteCall::Tell(Location::caller(), connection, Box::new(lose)))
    }

    /// Resets a connection of any protocol, as [`abort_connection`](Transport::abort_connection) does. No
    /// effect on a connection that is lost already.
    ///
    /// # Errors
    ///
    /// [`LoopGone`].
    #[track_caller]
    pub fn abort_connection(&self, connection: ConnectionId) -> Result<(), LoopGone> {
        let abort = Order(Transport::abort_connection);
        self.send(RemoteCall::Tell(Location::caller(), connection, Box::new(abort)))
    }

    /// Pauses or resumes reading for the inspector, independently of the program's own pauses.
    #[track_caller]
    pub(crate) fn pause_for_inspector(
        &self,
        connection: ConnectionId,
        on: bool,
    ) -> Result<(), LoopGone> {
        let pause = match on {
            true => Order(|transport| transport.pause_for_inspector(true)),
            false => Order(|transport| transport.pause_for_inspector(false)),
        };
        self.send(RemoteCall::Tell(Location::caller(), connection, Box::new(pause)))
    }

    /// Runs `f` in the loop's thread, and blocks the calling thread until the Deferred returned by
    /// `f` fires. Twisted's `blockingCallFromThread`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> couplet::Result<()> {
    /// couplet::run(|reactor| {
    ///     let remote = reactor.remote();
    ///     std::thread::spawn(move || {
    ///         let slept = remote.block_on_reactor(|reactor| reactor.sleep(Duration::from_millis(1)));
    ///         assert!(slept.is_ok());
    ///         remote.call(|reactor| reactor.stop())
    ///     });
    ///     Ok(())
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The Deferred's failure; [`LoopGone`] if the loop is dropped before it fires, or if `f`
    /// panics; [`WouldWaitForItself`] in the loop's own thread.
    #[track_caller]
    pub fn block_on_reactor<T: ForThread + 'static>(
        &self,
        f: impl FnOnce(&Reactor) -> Deferred<T> + ForThread + 'static,
    ) -> Result<T> {
        let f = Contained::new(f);
        if self.queue.inbox.is_closed() {
            return Err(LoopGone.into());
        }
        if self.queue.is_own_thread() {
            return Err(WouldWaitForItself.into());
        }
        let (answer, answered) = mpsc::channel();
        let on_loop_gone = answer.clone();
        self.call(move |reactor| {
            let deferred = f.take()(reactor);
            // The Deferred may outlive the loop without firing.
            let loop_gone: Box<dyn FnOnce()> = Box::new(move || {
                let _ = on_loop_gone.send(Err(LoopGone.into()));
            });
            let waiting = reactor.records().add_blocked(loop_gone);
            let weak = reactor.downgrade();
            let sending = deferred.add_both(move |result| {
                // Fails only if the waiting thread has died.
                let _ = answer.send(result);
                if let Some(reactor) = weak.upgrade() {
                    reactor.records().remove_blocked(waiting);
                }
                Ok(())
            });
            sending.detach();
        })?;
        answered.recv().unwrap_or_else(|mpsc::RecvError| Err(LoopGone.into()))
    }

    /// Makes the loop act as if it had received this signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), LoopGone> {
        self.send(RemoteCall::Signal(signal))
    }

    fn send(&self, call: RemoteCall) -> Result<(), LoopGone> {
        // A refused call is dropped here, with no lock held.
        if self.queue.inbox.call(call).map_err(|_call| LoopGone)? {
            self.queue.wake_loop();
        }
        Ok(())
    }
}

/// Does this to a connection.
struct Order(fn(&Transport));

impl Tell for Order {
    fn run(self: Box<Self>, _: &mut dyn Protocol, transport: &Transport) {
        (self.0)(transport);
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

impl Reactor {
    /// A handle to this loop for other threads.
    pub fn remote(&self) -> Remote {
        Remote { queue: self.records().queue.clone() }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::thread;

    use super::*;
    use crate::reactor::Loop;

    #[test]
    fn c98_a_blocking_call_leaves_nothing_in_its_loop() {
        let mut l = Loop::new().expect("a poll descriptor");
        let (reactor, remote) = (l.reactor(), l.reactor().remote());
        let waits = thread::spawn(move || {
            for n in 0..100 {
                let outcome = remote.block_on_reactor(move |reactor| match n % 3 {
                    0 => Deferred::succeed(n),
                    1 => Deferred::fail(LoopGone),
                    _ => reactor.sleep(std::time::Duration::ZERO).map(move |()| n),
                });
                assert_eq!(outcome.is_ok(), n % 3 != 1, "{n}");
            }
            remote.call(Reactor::stop).expect("it runs");
        });
        l.run(|_| Ok(())).expect("a stop");
        waits.join().expect("no panic");
        assert_eq!(reactor.records().blocked(), 0);
    }
}
