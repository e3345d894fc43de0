//! The [`Transport`], the handle that a protocol writes to, and the life of one connection behind
//! it.
//!
//! Twisted's `ITransport`, `IConsumer` and the `IHalfCloseableProtocol` side of `tcp.Connection`.

pub(crate) mod cell;
pub(crate) mod connection;
mod handle;
pub(crate) mod outbox;

use std::any::type_name_of_val;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::address::Address;
use crate::defer::{Deferred, Failure};
use crate::driver::{Key, PeerCredentials, SockRef, SocketOption};
use crate::error::ConnectionLost;
#[cfg(doc)]
use crate::error::Reason;
use crate::layers::{Layer, StartLayerError};
use crate::panics::Contained;
use crate::protocol::Protocol;
use crate::reactor::Reactor;
use cell::{ConnectionCell, Level, Phase, Registered, Watermarks, asked, paused};
pub use handle::Connection;
pub use handle::WrongProtocol;
pub(crate) use handle::{Tell, TellFn};

/// Identifies a connection, from any thread. Never reused while its loop lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The number of its loop in this process.
    pub(crate) reactor: u32,
    pub(crate) key: Key,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.reactor, self.key.slot, self.key.generation)
    }
}

/// Whether a producer is paused and resumed, or asked for each piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerKind {
    /// It writes on its own: paused above the high mark, resumed at or below the low mark.
    /// Twisted's streaming producer.
    Push,
    /// It writes on request: once after it is registered, and each time the buffer is empty.
    Pull,
}

/// A source of data larger than the buffer, subject to backpressure.
///
/// Its methods are called by the loop's turn, never from inside a call that you made. A producer
/// keeps a clone of the [`Transport`] that it writes to.
///
/// One that can't go on calls [`fail`](Transport::fail) on that transport. In `resume_producing` or
/// `pause_producing` this ends its work: it is unregistered and stopped, and the connection ends with
/// [`Reason::Failed`] once everything written is sent. At another time it unregisters as well.
///
/// A [`Transport`] is a producer too: pausing it pauses its reading. So a relay is one line on
/// each side: `other.register_producer(transport.clone(), ProducerKind::Push)`.
pub trait Producer {
    /// Write again (push), or write the next piece now (pull).
    fn resume_producing(&mut self);
    /// Stop writing until `resume_producing`. Never called for a pull producer.
    fn pause_producing(&mut self) {}
    /// The consumer is closed; nothing that you write will be sent.
    fn stop_producing(&mut self) {}
}

impl<P: Producer> Producer for Contained<P> {
    fn resume_producing(&mut self) {
        (**self).resume_producing();
    }

    fn pause_producing(&mut self) {
        (**self).pause_producing();
    }

    fn stop_producing(&mut self) {
        (**self).stop_producing();
    }
}

/// A second producer was registered; the first one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a producer is registered already")]
pub struct ProducerRegistered;

/// Our end of a connection: cheap to clone and to keep.
///
/// A transport only records your requests; the loop's turn carries them out, in order. A request
/// takes effect for the protocol immediately: after [`pause_producing`](Self::pause_producing) or
/// [`lose_connection`](Self::lose_connection) it receives no more data.
///
/// Once the connection is lost everything here is a silent no-op, except that
/// [`peer`](Self::peer) and [`host`](Self::host) still answer.
///
/// ```
/// use couplet::{Protocol, Reason, Transport};
///
/// struct Greeter;
/// impl Protocol for Greeter {
///     fn connection_made(&mut self, transport: &Transport) {
///         transport.write("what is your name?\r\n");
///     }
///     fn data_received(&mut self, transport: &Transport, name: &[u8]) {
///         transport.write("hello ");
///         transport.write(name);
///         transport.lose_connection(); // once all of it is sent
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Transport {
    pub(crate) cell: Rc<ConnectionCell>,
}

impl Transport {
    /// Copies `data` and sends it after everything written before. Never blocks, and accepts
    /// everything up to the hard cap; check [`is_full`](Self::is_full) when writing in a loop.
    ///
    /// Bytes written after [`lose_connection`](Self::lose_connection) or
    /// [`lose_write_connection`](Self::lose_write_connection) are dropped, unless a producer is
    /// registered: then they are accepted until it unregisters.
    #[inline]
    pub fn write(&self, data: impl AsRef<[u8]>) {
        self.cell.write(data.as_ref());
    }

    /// Sends `bytes` without copying them.
    pub fn write_bytes(&self, bytes: impl Into<Bytes>) {
        self.cell.write_bytes(bytes.into());
    }

    /// Passes a descriptor to the process at the other end of a UNIX socket, with the next byte
    /// written: the peer gets it before that byte. Several may go with one byte. Ours is closed once
    /// it is sent; one that no byte follows is closed with the connection. Twisted's
    /// `sendFileDescriptor`.
    ///
    /// Drivers without sockets pass none, and close it.
    ///
    /// # Errors
    ///
    /// Gives the descriptor back where it can't be passed: on any other connection than a UNIX
    /// socket, on one that is closing, and while 64 of them wait to be sent.
    ///
    /// ```
    /// use std::os::fd::OwnedFd;
    ///
    /// use couplet::{Protocol, Transport};
    ///
    /// /// Gives an open file to whoever connects.
    /// struct Gives(Option<std::fs::File>);
    /// impl Protocol for Gives {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         if let Some(file) = self.0.take() {
    ///             match transport.send_descriptor(file.into()) {
    ///                 Ok(()) => transport.write("here it is"),
    ///                 Err(_) => transport.write("not over this connection"),
    ///             }
    ///         }
    ///         transport.lose_connection();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// struct Takes;
    /// impl Protocol for Takes {
    ///     fn descriptor_received(&mut self, _: &Transport, descriptor: OwnedFd) {
    ///         let file = std::fs::File::from(descriptor);
    ///         println!("{:?}", file.metadata());
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    /// ```
    #[cfg(unix)]
    pub fn send_descriptor(
        &self,
        descriptor: std::os::fd::OwnedFd,
    ) -> Result<(), std::os::fd::OwnedFd> {
        self.cell.attach(descriptor)
    }

    /// Sends several pieces in order.
    pub fn write_sequence<B: AsRef<[u8]>>(&self, pieces: impl IntoIterator<Item = B>) {
        for piece in pieces {
            self.write(piece);
        }
    }

    /// Closes the connection once everything written is sent: sends a FIN, reads and discards
    /// whatever the peer still sends until its FIN, then calls
    /// [`connection_lost`](Protocol::connection_lost) with [`Reason::Done`].
    ///
    /// Reading stops immediately. A registered producer delays the close until it unregisters. The
    /// close deadline ([`set_close_deadline`](Self::set_close_deadline)) bounds the wait.
    pub fn lose_connection(&self) {
        if self.cell.phase() < Phase::Closing {
            self.cell.advance_phase(Phase::Closing);
            self.cell.ask(asked::LOSE);
        }
    }

    /// With `on`, [`lose_connection`](Self::lose_connection) does not wait for the peer: the socket is
    /// closed once everything written is passed to the system, as Twisted does. A peer that still sends
    /// then gets a reset, which may take what it has not read yet from it: by default nothing is lost.
    pub fn set_close_at_once(&self, on: bool) {
        self.cell.closes_at_once.set(on);
    }

    /// [`lose_connection`](Self::lose_connection) with `error` as the reason
    /// ([`Reason::Failed`]): how a callback reports an error.
    #[track_caller]
    pub fn fail(&self, error: impl Into<Failure>) {
        self.cell.fail(error.into());
        if self.cell.phase() < Phase::Ended {
            self.cell.advance_phase(Phase::Closing);
            self.cell.ask(asked::LOSE);
        }
    }

    /// Sends a FIN once everything written is sent, then calls
    /// [`write_closed`](Protocol::write_closed); reading continues (half-close).
    pub fn lose_write_connection(&self) {
        if self.cell.phase() < Phase::Finishing {
            self.cell.advance_phase(Phase::Finishing);
            self.cell.ask(asked::LOSE_WRITE);
        }
    }

    /// Aborts the connection: unsent bytes are dropped, and the peer gets a reset. The reason is
    /// [`Reason::Aborted`]. Over a UNIX socket, which has no reset, the peer sees an end of stream.
    pub fn abort_connection(&self) {
        self.cell.abort();
    }

    /// Pauses reading: no data is delivered until [`resume_producing`](Self::resume_producing), not
    /// even from a chunk that a framer is working on. The network's flow control slows the peer
    /// down.
    pub fn pause_producing(&self) {
        self.cell.set_paused(paused::BY_USER, true);
    }

    /// Resumes reading, in the turn: first [`reading_resumed`](Protocol::reading_resumed) is
    /// called, then data is delivered again.
    pub fn resume_producing(&self) {
        self.cell.set_paused(paused::BY_USER, false);
    }

    /// Pauses reading for `time`, independently of [`pause_producing`](Self::pause_producing) and
    /// [`resume_producing`](Self::resume_producing): data is delivered when neither pause holds. Of
    /// several throttles the one that ends last counts.
    ///
    /// [`MessageRate`](crate::protocols::MessageRate) is built on this. Twisted's `throttleReads`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use couplet::{Protocol, Transport, testing::hold};
    ///
    /// struct Unhurried;
    /// impl Protocol for Unhurried {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data);
    ///         transport.throttle(Duration::from_secs(1));
    ///     }
    /// }
    ///
    /// let mut held = hold(Unhurried);
    /// held.push(b"one ");
    /// held.wire.push(b"two ");
    /// held.advance(Duration::from_millis(999));
    /// assert_eq!(held.wire.take(), b"one ");
    /// held.advance(Duration::from_millis(1));
    /// assert_eq!(held.wire.take(), b"two ");
    /// ```
    #[track_caller]
    pub fn throttle(&self, time: Duration) {
        let reactor = self.reactor();
        if time.is_zero() || self.is_closing() {
            return;
        }
        // Past the end of the clock: no throttle.
        if let Some(until) = reactor.now().checked_add(time) {
            self.cell.throttle(until);
            reactor.tell_later(&self.cell, time, Box::new(EndThrottle));
        }
    }

    /// False once reading is paused, or the connection is closing, failed or lost. A framer checks
    /// this before it delivers each message.
    #[inline]
    pub fn wants_data(&self) -> bool {
        self.cell.wants_data()
    }

    /// True once the connection was asked to finish: see
    /// [`Protocol::draining`].
    pub fn is_draining(&self) -> bool {
        self.cell.is_draining()
    }

    /// True once the connection is being closed: by `lose_connection`, `fail`, `abort_connection`,
    /// a panic, or the peer. No more data is delivered. Twisted's `disconnecting`.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.cell.phase() >= Phase::Closing
    }

    /// Registers a producer that writes to this transport, so that it is paused while the buffer is
    /// full. The turn makes the first `resume_producing` call of a pull producer.
    ///
    /// On a transport that is closing or lost, the turn stops the producer.
    ///
    /// # Errors
    ///
    /// When a producer is registered already; it stays.
    pub fn register_producer(
        &self,
        producer: impl Producer + 'static,
        kind: ProducerKind,
    ) -> Result<(), ProducerRegistered> {
        let of = type_name_of_val(&producer);
        let mut object = self.reactor().noted_producer(producer);
        if self.cell.has_producer() {
            return Err(ProducerRegistered);
        }
        if self.cell.phase() == Phase::Open {
            self.cell.register(Registered {
                kind,
                paused: false,
                to_finish: false,
                asked_at: None,
                object: Some(object),
            });
        } else {
            self.reactor().line_up("stop_producing", of, move || object.stop_producing());
        }
        Ok(())
    }

    /// Unregisters the producer, which has written everything; a close that waited for it proceeds.
    pub fn unregister_producer(&self) {
        self.cell.unregister();
    }

    /// True when more than the high mark is buffered. When writing in a loop, stop here and wait
    /// for [`drained`](Self::drained), which fires soon where everything can be sent immediately.
    /// (A producer that stops here on its own may never be paused, because the turn first sends
    /// what it can; and a producer that was not paused is not resumed.)
    pub fn is_full(&self) -> bool {
        self.cell.buffered() > self.cell.watermarks().high
    }

    /// The number of bytes written and not yet sent.
    pub fn buffered(&self) -> usize {
        self.cell.buffered()
    }

    /// Fires when no more than the low mark is buffered; fails with [`ConnectionLost`] if the
    /// connection is lost first. That failure may be dropped: the protocol hears of the loss.
    pub fn drained(&self) -> Deferred<()> {
        self.when_down_to(Level::LowMark)
    }

    /// Fires when everything written was handed to the system; fails with [`ConnectionLost`] if the
    /// connection is lost first. That failure may be dropped: the protocol hears of the loss.
    /// Useful to continue a dialogue or to report a file as sent; for writing in a loop,
    /// [`drained`](Self::drained) is enough.
    ///
    /// ```
    /// use couplet::{Protocol, Transport, testing::hold};
    ///
    /// struct Reports;
    /// impl Protocol for Reports {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data);
    ///         let reporting = transport.clone();
    ///         transport.flushed().map(move |()| reporting.write(" has left")).detach();
    ///     }
    /// }
    ///
    /// let mut held = hold(Reports);
    /// held.push(b"all of it");
    /// assert_eq!(held.wire.take(), b"all of it has left");
    /// ```
    pub fn flushed(&self) -> Deferred<()> {
        self.when_down_to(Level::Nothing)
    }

    fn when_down_to(&self, level: Level) -> Deferred<()> {
        let reason = self.cell.reason();
        if reason.is_none() && self.cell.phase() < Phase::Ended && self.cell.is_down_to(level) {
            return Deferred::succeed(());
        }
        let (deferred, resolver) = Deferred::new_quiet();
        match reason {
            Some(reason) => resolver.errback(ConnectionLost(reason)),
            None => self.cell.add_waiting(level, resolver),
        }
        deferred
    }

    /// Fires when the peer's end of stream has arrived, even while reading is paused and where bytes
    /// before it are unread: so a protocol that pauses until its work is done hears of a client that
    /// leaves meanwhile. Fails with [`ConnectionLost`] if the connection is lost first, as it is by a
    /// reset, of which it hears in any case. That failure may be dropped.
    ///
    /// Nothing else changes: the bytes, and then [`read_closed`](Protocol::read_closed), come when
    /// reading is resumed.
    ///
    /// ```
    /// use couplet::{Protocol, Transport, testing::hold};
    ///
    /// struct Works;
    /// impl Protocol for Works {
    ///     fn data_received(&mut self, transport: &Transport, _: &[u8]) {
    ///         transport.pause_producing(); // one question at a time
    ///         let leaving = transport.clone();
    ///         transport.peer_ended().map(move |()| leaving.abort_connection()).detach();
    ///     }
    /// }
    ///
    /// let mut held = hold(Works);
    /// held.push(b"what is the meaning of life?");
    /// held.wire.fin();
    /// held.settle();
    /// assert!(held.wire.is_closed());
    /// ```
    pub fn peer_ended(&self) -> Deferred<()> {
        let (deferred, resolver) = Deferred::new_quiet();
        match self.cell.reason() {
            Some(reason) => resolver.errback(ConnectionLost(reason)),
            None => self.cell.add_waiting_for_peer(resolver),
        }
        deferred
    }

    /// Sets the marks in bytes: full above `high` (64 KiB unless set), drained at or below `low`
    /// (16 KiB unless set).
    pub fn set_write_marks(&self, low: usize, high: usize) {
        self.cell.set_watermarks(Watermarks { low: low.min(high), high });
    }

    /// Sets the hard cap in bytes: a write past it ends the connection with
    /// [`Reason::Overflow`]. `None`, the default, is no cap.
    pub fn set_write_cap(&self, cap: Option<usize>) {
        self.cell.cap.set(cap.unwrap_or(usize::MAX));
    }

    /// Ends the connection with [`Reason::Timeout`] when nothing was received for `timeout` while
    /// it is open. Sending does not count, nor does time in which reading is paused. `None`, the
    /// default, waits forever.
    ///
    /// Costs a timestamp per message and one timer per connection. Twisted's `TimeoutMixin`.
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.cell.idle_timeout.set(timeout);
        self.cell.ask(asked::DEADLINES);
    }

    /// Sets how long a close waits without progress: 30 s unless set; `None` waits forever.
    pub fn set_close_deadline(&self, deadline: Option<Duration>) {
        self.cell.close_deadline.set(deadline);
        self.cell.ask(asked::DEADLINES);
    }

    /// `TCP_NODELAY`: on unless set. An error is logged.
    pub fn set_tcp_no_delay(&self, on: bool) {
        self.cell.add_option(SocketOption::NoDelay(on));
    }

    /// Whether `TCP_NODELAY` is on: as set last, else as the system has it, also for a socket that was
    /// [adopted](Reactor::adopt). `None` on drivers without sockets, on a UNIX socket, and once the
    /// connection is lost.
    ///
    /// Twisted's `getTcpNoDelay`. Any other option is read in [`with_socket`](Self::with_socket).
    pub fn tcp_no_delay(&self) -> Option<bool> {
        let asked = |option: &SocketOption| match option {
            SocketOption::NoDelay(on) => Some(*on),
            _ => None,
        };
        self.cell.option(asked, |socket| socket.tcp_nodelay())
    }

    /// `SO_KEEPALIVE`, with the idle time after which the system probes; off unless set. An error
    /// is logged.
    pub fn set_tcp_keep_alive(&self, idle: Option<Duration>) {
        self.cell.add_option(SocketOption::KeepAlive(idle));
    }

    /// Whether `SO_KEEPALIVE` is on, as [`tcp_no_delay`](Self::tcp_no_delay) tells of that option.
    /// Twisted's `getTcpKeepAlive`.
    pub fn tcp_keep_alive(&self) -> Option<bool> {
        let asked = |option: &SocketOption| match option {
            SocketOption::KeepAlive(idle) => Some(idle.is_some()),
            _ => None,
        };
        self.cell.option(asked, |socket| socket.keepalive())
    }

    /// With true, this connection ends with a reset rather than a FIN wherever the protocol did not
    /// ask for the end: when the process dies, even by SIGKILL, when the loop is dropped, when a
    /// callback panics, when the reactor stops. Off unless set.
    ///
    /// For protocols in which the end of the stream ends a message, as in HTTP/1.0: the system
    /// sends a FIN when it closes the sockets of a killed process, so a truncated message would
    /// look complete. Set it in [`connection_made`](Protocol::connection_made).
    /// [`lose_connection`](Self::lose_connection),
    /// [`lose_write_connection`](Self::lose_write_connection) and [`fail`](Self::fail) flush and
    /// send a FIN as usual; once one of them was called this has no effect.
    ///
    /// ```
    /// use couplet::{Protocol, Transport};
    /// use std::time::Duration;
    ///
    /// struct Poet;
    /// impl Protocol for Poet {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.set_reset_unless_closed(true);
    ///         transport.write("Shall I compare thee");
    ///         transport.connection::<Poet>().call_later(Duration::from_secs(1), |_, transport| {
    ///             transport.write(" to a summer's day?");
    ///             transport.lose_connection(); // only now does the stream end
    ///         });
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    /// ```
    ///
    /// Sets `SO_LINGER` with a timeout of 0, and clears it before the FIN. Does nothing on a UNIX
    /// socket.
    pub fn set_reset_unless_closed(&self, on: bool) {
        self.cell.add_option(SocketOption::ResetUnlessClosed(on));
    }

    /// Sets an option of the socket; an error is logged.
    pub fn set_socket_option(&self, option: SocketOption) {
        self.cell.add_option(option);
    }

    /// Runs `f` on the socket, in the turn, before more bytes are delivered: for any option that
    /// [`socket2`](crate::driver::SockRef) knows. An error is logged. A driver without sockets drops `f` and logs that.
    ///
    /// What the loop relies on is not to be changed: blocking, the linger time, the end of a stream.
    /// Before a port is bound or an attempt begins there are
    /// [`ListenOptions::prepare`](crate::ListenOptions::prepare) and
    /// [`ConnectOptions::prepare`](crate::ConnectOptions::prepare).
    ///
    /// ```
    /// use couplet::{Protocol, Transport};
    /// use std::time::Duration;
    ///
    /// struct Patient;
    /// impl Protocol for Patient {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.with_socket(|socket| socket.set_tcp_keepalive(
    ///             &socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)),
    ///         ));
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    /// ```
    pub fn with_socket(&self, f: impl FnOnce(SockRef<'_>) -> io::Result<()> + 'static) {
        self.cell.add_socket_call(Box::new(f));
    }

    /// The number of the socket's descriptor, for what asks the system about it by number; `None` on drivers
    /// without sockets, and once the connection is lost. The loop reads, writes and closes it.
    #[cfg(unix)]
    pub fn descriptor(&self) -> Option<std::os::fd::RawFd> {
        self.cell.descriptor()
    }

    /// When the connection was made: the time of that turn, as [`Reactor::now`] gives it.
    pub fn made_at(&self) -> Instant {
        self.cell.made_at
    }

    /// The address of the other end, also available after the connection is lost.
    pub fn peer(&self) -> &Address {
        &self.cell.peer
    }

    /// The address of our end, also available after the connection is lost.
    pub fn host(&self) -> &Address {
        self.cell.host()
    }

    /// The process at the other end of a UNIX socket: who connected to our port, or whose port we
    /// connected to. `None` on other connections, and where the system does not tell; also available
    /// after the connection is lost.
    ///
    /// The process may have passed its end on, or ended; what it may do is told by the mode and the
    /// owner of the socket's path.
    pub fn peer_credentials(&self) -> Option<PeerCredentials> {
        self.cell.credentials()
    }

    /// Identifies this connection; `Copy` and `Send`.
    pub fn id(&self) -> ConnectionId {
        self.cell.id
    }

    /// The reactor that runs this connection.
    pub fn reactor(&self) -> &Reactor {
        &self.cell.reactor
    }

    /// The number of bytes dropped because they were written after a close.
    pub fn dropped(&self) -> u64 {
        self.cell.dropped()
    }

    /// Puts `protocol` in the place of the one that speaks on this connection: as STARTTLS, the
    /// `Upgrade` of HTTP and CONNECT do.
    ///
    /// It takes effect when the callback in which you call it has returned, else in the turn; in any
    /// case before more bytes are delivered, for until then reading is paused. The old protocol
    /// gets no further call, and no [`connection_lost`](Protocol::connection_lost): it is dropped.
    /// The next one gets [`connection_made`](Protocol::connection_made), then what is unread, then
    /// what comes. An end of stream that was reported already, the peer's or ours, is reported to the
    /// next one too.
    ///
    /// Unread is what a framer holds: in a `line_received` the bytes behind that line. A protocol
    /// that takes bytes as they come gives the rest to [`upgrade_with`](Self::upgrade_with).
    ///
    /// What was set on the transport stays: a pause, a producer, timeouts, options; so does a wrapper
    /// from outside of the protocol, such as a [`Policy`](crate::protocols::Policy). Whatever was
    /// asked of the old protocol by [`Connection::tell`] or [`Connection::call_later`] and has not
    /// run by then is dropped, and an [`ask`](Connection::ask) fails with [`WrongProtocol`], unless the next
    /// one has its type.
    ///
    /// A close comes first: on a connection that is closing, or that is closed before the upgrade
    /// takes effect, `protocol` is dropped unused, and the old one gets `connection_lost`.
    ///
    /// ```
    /// use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Greeter;
    /// impl LineProtocol for Greeter {
    ///     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
    ///         if line == b"UPGRADE echo" {
    ///             transport.send_line("OK");
    ///             transport.upgrade(Echo);
    ///         }
    ///     }
    /// }
    ///
    /// struct Echo;
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data);
    ///     }
    /// }
    ///
    /// let mut held = couplet::testing::hold(LineReceiver::new(Greeter));
    /// held.push(b"UPGRADE echo\r\nno line any ");
    /// held.push(b"more");
    /// assert_eq!(held.wire.take(), b"OK\r\nno line any more");
    /// ```
    ///
    /// Twisted: `transport.protocol = new; new.makeConnection(transport)`.
    pub fn upgrade(&self, protocol: impl Protocol) {
        self.upgrade_with(protocol, []);
    }

    /// [`upgrade`](Self::upgrade) with bytes that the old protocol received but did not consume: they
    /// are delivered to the next one first.
    ///
    /// ```
    /// use couplet::{Protocol, Transport, testing::hold};
    ///
    /// /// Reads one byte, which tells the protocol.
    /// struct Choose;
    /// impl Protocol for Choose {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         match data[0] {
    ///             b'e' => transport.upgrade_with(Echo, &data[1..]),
    ///             _ => transport.lose_connection(),
    ///         }
    ///     }
    /// }
    ///
    /// struct Echo;
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data);
    ///     }
    /// }
    ///
    /// let mut held = hold(Choose);
    /// held.push(b"ehello");
    /// assert_eq!(held.wire.take(), b"hello");
    /// ```
    pub fn upgrade_with(&self, protocol: impl Protocol, unread: impl AsRef<[u8]>) {
        self.cell.upgrade(Box::new(protocol), unread.as_ref());
    }

    /// Puts a layer under the protocol of this live connection, as STARTTLS does.
    ///
    /// What was written before this call passes below the layer, what is written afterwards through
    /// it, also within one callback. The protocol receives no more data until the layer is open:
    /// [`wants_data`](Self::wants_data) is false until right before
    /// [`handshake_completed`](Protocol::handshake_completed), which comes before the first bytes
    /// that came through the layer.
    ///
    /// Bytes that arrived before the layer, and that no protocol has taken, never count as bytes of
    /// the layer: such a peer is cut with [`PlaintextAfterUpgrade`](crate::layers::PlaintextAfterUpgrade).
    /// Our framers see to that for what they hold.
    ///
    /// On a connection that is closing the layer is dropped. If the peer has ended its stream, the
    /// layer learns that first: TLS fails.
    ///
    /// # Errors
    ///
    /// After [`lose_write_connection`](Self::lose_write_connection).
    pub fn start_layer(&self, layer: impl Layer + 'static) -> Result<(), StartLayerError> {
        self.cell.start_layer(Box::new(layer))
    }

    /// [`start_layer`](Self::start_layer) with TLS, as the side that waits for a ClientHello: of
    /// STARTTLS, the server. Twisted's `startTLS`.
    ///
    /// # Errors
    ///
    /// As for [`start_layer`](Self::start_layer).
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub fn start_tls(&self, tls: &crate::layers::tls::ServerTls) -> Result<(), StartLayerError> {
        self.start_layer(tls.layer(self.reactor().now()))
    }

    /// [`start_tls`](Self::start_tls) as the TLS client, which verifies that its peer is `host`.
    ///
    /// # Errors
    ///
    /// When `host` is neither a DNS name nor an IP address, and as for
    /// [`start_layer`](Self::start_layer).
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub fn start_tls_client(
        &self,
        tls: &crate::layers::tls::ClientTls,
        host: &str,
    ) -> Result<(), StartLayerError> {
        self.start_layer(tls.layer(host, self.reactor().now())?)
    }

    /// What the TLS handshake has negotiated, with the peer's certificates; `None` without TLS, and
    /// before the handshake is complete.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub fn tls(&self) -> Option<Rc<crate::layers::tls::TlsInfo>> {
        self.layer_info()
    }

    /// What a layer found out while it opened, by its type: a `TlsInfo`, a
    /// [`ProxyHeader`](crate::layers::ProxyHeader), or what a layer of yours
    /// [tells](crate::layers::Opened::infos).
    pub fn layer_info<T: 'static>(&self) -> Option<Rc<T>> {
        self.cell.layer_info()
    }

    /// The program at the other end, by the type that its room has for it.
    #[cfg(unix)]
    pub(crate) fn program<T: 'static>(&self) -> Option<Rc<T>> {
        self.cell.program()
    }

    /// True from [`start_layer`](Self::start_layer) until the layer is open. A framer of your own that
    /// holds bytes in clear by then must fail the connection.
    pub fn is_starting_layer(&self) -> bool {
        self.cell.is_starting()
    }

    /// A handle for calling back into the protocol's `&mut self` later: from a timer, an answer,
    /// another connection. `P` is the protocol of this transport, or one that it wraps, such as the
    /// receiver of a framer's messages.
    ///
    /// ```
    /// use std::time::Duration;
    /// use couplet::{Protocol, Transport};
    ///
    /// struct Ticker(u32);
    /// impl Ticker {
    ///     fn tick(&mut self, transport: &Transport) {
    ///         self.0 += 1;
    ///         transport.write(format!("{}\n", self.0));
    ///         transport.connection::<Self>().call_later(Duration::from_secs(1), Self::tick);
    ///     }
    /// }
    /// impl Protocol for Ticker {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         self.tick(transport);
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    /// ```
    pub fn connection<P: 'static>(&self) -> Connection<P> {
        Connection::new(self.clone())
    }
}

/// The call that ends a [`Transport::throttle`].
struct EndThrottle;

impl Tell for EndThrottle {
    fn run(self: Box<Self>, _: &mut dyn Protocol, transport: &Transport) {
        transport.cell.end_throttle();
    }
}

/// Functions that accept a framer's transport accept a plain one too.
impl AsRef<Transport> for Transport {
    fn as_ref(&self) -> &Transport {
        self
    }
}

impl Producer for Transport {
    fn resume_producing(&mut self) {
        Transport::resume_producing(self);
    }

    fn pause_producing(&mut self) {
        Transport::pause_producing(self);
    }

    fn stop_producing(&mut self) {
        self.lose_connection();
    }
}

impl PartialEq for Transport {
    fn eq(&self, other: &Transport) -> bool {
        Rc::ptr_eq(&self.cell, &other.cell)
    }
}

impl Eq for Transport {}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("id", &self.id())
            .field("peer", self.peer())
            .field("phase", &self.cell.phase())
            .field("buffered", &self.buffered())
            .finish_non_exhaustive()
    }
}
