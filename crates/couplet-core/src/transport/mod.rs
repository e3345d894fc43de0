//! The [`Transport`], the handle that a protocol writes to, and the state of the connection behind
//! it.
//!
//! Twisted's `ITransport`, `IConsumer` and the `IHalfCloseableProtocol` side of `tcp.Connection`.
//!
//! Contract: 2, 6, 8, 9, 16, 55a, 55b, 64b, 67, 68, 71, 84, 105e, 125b, 169b.

pub(crate) mod cell;
pub(crate) mod connection;
mod handle;
#[cfg(feature = "testing")]
pub(crate) mod report;
mod settings;

use std::any::{Any, type_name_of_val};
use std::fmt;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::address::Address;
use crate::defer::{Deferred, Failure};
#[cfg(unix)]
pub use crate::driver::Pipe;
pub use crate::driver::{ConnectedSocket, FileChanged, FilePart, SharedFile, SockRef, WeakFile};
use crate::driver::{Key, SocketOption, SocketOptionKind};
use crate::error::{ConnectionLost, Reason};
use crate::internals::new_quiet;
use crate::layers::{Layer, StartLayerError};
use crate::panics::Contained;
use crate::protocol::Protocol;
use crate::recorder::Reactor;
use cell::{
    ConnectionCell, ConnectionPhase, Level, RegisteredProducer, Watermarks, mode, paused, request,
};
pub use handle::Connection;
pub use handle::WrongProtocol;
pub(crate) use handle::{Tell, TellFn};
pub(crate) use settings::TransportSettings;

/// Identifies a connection, from any thread. Never reused while its loop is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    /// The number of the connection's loop in this process.
    pub(crate) reactor: u32,
    pub(crate) key: Key,
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.reactor, self.key.slot, self.key.generation)
    }
}

/// A limit on how long a connection waits, for [`Transport::set_timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Timeout {
    /// How long an open connection may receive nothing; then it ends with [`Reason::Timeout`].
    /// Sending does not count, nor does time while reading is paused. No limit by default.
    ///
    /// Costs a timestamp per message and one timer per connection. Twisted's `TimeoutMixin`.
    Idle,

    /// How long the remaining output of a close may make no progress, after
    /// [`lose_connection`](Transport::lose_connection) or
    /// [`lose_write_connection`](Transport::lose_write_connection): 30 s by default. Then the
    /// connection is reset, with [`Reason::CloseTimedOut`]. Counted in whole milliseconds.
    ///
    /// The wait for the peer's FIN afterwards has [its own limit](Self::Fin).
    Close,

    /// How long a closed connection waits for the peer's FIN after its own: 30 s by default.
    /// Input that arrives before is read and discarded, however much it is: a close with unread input
    /// would be a reset, which destroys output that the peer has not read yet. Then the socket is
    /// closed, and the reason of the close stays. Counted in whole milliseconds.
    ///
    /// ```
    /// use std::time::Duration;
    /// use couplet::{Protocol, Transport, testing::hold, transport::Timeout};
    ///
    /// struct Refuses;
    /// impl Protocol for Refuses {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.set_timeout(Timeout::Fin, Some(Duration::from_secs(5)));
    ///         transport.write("not today");
    ///         transport.lose_connection();
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    /// }
    ///
    /// let mut held = hold(Refuses);
    /// held.push(b"a long upload");
    /// assert_eq!(held.wire.take(), b"not today");
    /// held.advance(Duration::from_secs(5));
    /// assert!(held.wire.is_closed());
    /// ```
    Fin,

    /// How long a connection may move no byte once its peer has ended its stream, while our side
    /// is open: 60 s by default. Then it is reset, with [`Reason::Timeout`]. Most clients leave by
    /// closing their socket, which looks like the end of one direction until something is sent to
    /// them.
    ///
    /// Progress is a byte that is received, sent, or acknowledged by the peer (TCP) or read by it
    /// (UNIX sockets). Time counts in quarters of this one, from the arrival of the peer's end, even
    /// behind unread bytes, or from the last check that found progress.
    ///
    /// ```
    /// use std::time::Duration;
    /// use couplet::{Protocol, Transport, testing::hold, transport::Timeout};
    ///
    /// struct Patient;
    /// impl Protocol for Patient {
    ///     fn connection_made(&mut self, transport: &Transport) {
    ///         transport.set_timeout(Timeout::HalfClose, Some(Duration::from_secs(8)));
    ///     }
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    ///     fn read_closed(&mut self, _: &Transport) {} // an answer may follow
    /// }
    ///
    /// let mut held = hold(Patient);
    /// held.wire.fin();
    /// held.advance(Duration::from_secs(7));
    /// assert!(!held.wire.saw_reset());
    /// held.advance(Duration::from_secs(1));
    /// assert!(held.wire.saw_reset());
    /// ```
    HalfClose,

    /// How long the output of an open connection may wait for a peer that takes none of it: two
    /// hours by default. Then the connection is reset, with [`Reason::Timeout`]. Time counts in
    /// quarters of this one, as for [`HalfClose`](Self::HalfClose). Once the connection closes,
    /// [`Close`](Self::Close) takes the place of this limit.
    Write,
}

/// The next protocol of a connection, for [`Transport::upgrade`]: any protocol is one.
pub struct Upgrade {
    next: Contained<Box<dyn Protocol>>,
    /// The bytes that it gets before any new one.
    unread: Vec<u8>,
}

impl<P: Protocol> From<P> for Upgrade {
    fn from(protocol: P) -> Upgrade {
        Upgrade::with_unread(protocol, [])
    }
}

impl Upgrade {
    /// A protocol that first gets bytes which the old one received but did not consume.
    ///
    /// ```
    /// use couplet::{Protocol, Transport, testing::hold, transport::Upgrade};
    ///
    /// /// Reads one byte, which tells the protocol.
    /// struct Choose;
    /// impl Protocol for Choose {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         match data[0] {
    ///             b'e' => transport.upgrade(Upgrade::with_unread(Echo, &data[1..])),
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
    pub fn with_unread(protocol: impl Protocol, unread: impl AsRef<[u8]>) -> Upgrade {
        Upgrade { next: Contained::new(Box::new(protocol)), unread: unread.as_ref().to_vec() }
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgrade").field("unread", &self.unread.len()).finish_non_exhaustive()
    }
}

/// Whether a producer writes on its own or on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerKind {
    /// Writes on its own: paused above the high mark, resumed at or below the low mark. Twisted's
    /// streaming producer.
    Push,
    /// Writes on request: once after it is registered, and each time the buffer is empty.
    Pull,
}

/// A source of data larger than the buffer, subject to backpressure.
///
/// The loop's turn calls its methods, never from inside one of your calls. A producer keeps a clone
/// of the [`Transport`] that it writes to.
///
/// A producer that cannot continue calls [`fail`](Transport::fail) on that transport. In
/// `resume_producing` or `pause_producing` this ends its work: it is unregistered and stopped, and
/// the connection ends with [`Reason::Failed`] once everything written is sent. At any other time
/// it must also unregister.
///
/// A [`Transport`] is a producer too: pausing it pauses its reading. So a relay takes one line on
/// each side: `other.register_producer(transport.clone(), ProducerKind::Push)`.
pub trait Producer {
    /// Write again (push), or write the next piece now (pull).
    fn resume_producing(&mut self);
    /// Stop writing until `resume_producing`. Never called for a pull producer.
    fn pause_producing(&mut self) {}
    /// The consumer is closed; further writes are dropped.
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

/// Our end of a connection; cheap to clone and to keep.
///
/// A transport only records your requests; the loop's turn carries them out, in order. A request
/// takes effect for the protocol immediately: after [`pause_producing`](Self::pause_producing) or
/// [`lose_connection`](Self::lose_connection) it receives no further data.
///
/// After the connection is lost, requests are silently ignored; [`peer`](Self::peer) and
/// [`host`](Self::host) still return the addresses.
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
    /// Copies `data` and sends it after everything written before. Never blocks, and accepts any
    /// amount up to the hard cap; check [`is_full`](Self::is_full) when writing in a loop.
    ///
    /// Bytes written after [`lose_connection`](Self::lose_connection) or
    /// [`lose_write_connection`](Self::lose_write_connection) are dropped, unless a producer is
    /// registered: then they are accepted until it unregisters. With
    /// [`set_write_until_end`](crate::hooks::set_write_until_end) they are sent.
    #[inline]
    pub fn write(&self, data: impl AsRef<[u8]>) {
        self.cell.write(data.as_ref());
    }

    /// Sends `bytes` without copying them, unless they are at most 512: to queue such a piece takes
    /// more time, and much more memory, than a copy.
    pub fn write_bytes(&self, bytes: impl Into<Bytes>) {
        self.cell.write_bytes(bytes.into());
    }

    /// Sends a range of a file after everything written before: read in pieces of 64 KiB as the
    /// peer takes them, or, from an [immutable](SharedFile::immutable) file on Linux, without a copy
    /// (`sendfile`), unless there are layers such as TLS.
    ///
    /// The bytes count as buffered, also towards the hard cap, but are not in memory. All of them come
    /// from one version of the file: if it is overwritten or shrinks before the last byte of the range
    /// has left, or has no such range, the connection is reset with the reason
    /// [`Lost`](crate::Reason::Lost) and a [`FileChanged`]. The peer then
    /// lacks the end of the range. A file that only grows, as a log, or was removed or replaced, is
    /// sent to the end of the range.
    ///
    /// The loop waits for a disk if the bytes are not in memory; open the file, and read ahead, with
    /// [`defer_to_thread`](crate::Reactor::defer_to_thread).
    ///
    /// ```no_run
    /// # fn send(transport: &couplet::Transport) -> std::io::Result<()> {
    /// let file = couplet::transport::SharedFile::new(std::fs::File::open("page.html")?)?;
    /// transport.send_file_range(&file, 0..file.metadata().len());
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_file_range(&self, file: &SharedFile, range: Range<u64>) {
        self.cell.send_file_part(FilePart::new(file, range));
    }

    /// Passes a descriptor to the process at the other end of a UNIX socket, with the next byte
    /// written: the peer gets it before that byte. Several may go with one byte. Our copy is closed
    /// once it is sent; a descriptor that no byte follows is closed with the connection. Twisted's
    /// `sendFileDescriptor`.
    ///
    /// Drivers without sockets close the descriptor without passing it.
    ///
    /// # Errors
    ///
    /// Returns the descriptor if it cannot be passed: the connection is not a UNIX socket or is
    /// closing, or 64 descriptors already wait to be sent.
    ///
    /// ```
    /// use std::os::fd::OwnedFd;
    ///
    /// use couplet::{Protocol, ProtocolExtension, Transport};
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
    ///     fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    ///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
    ///         Some(self)
    ///     }
    /// }
    ///
    /// impl ProtocolExtension for Takes {
    ///     fn descriptor_received(&mut self, _: &Transport, descriptor: OwnedFd) {
    ///         let file = std::fs::File::from(descriptor);
    ///         println!("{:?}", file.metadata());
    ///     }
    /// }
    /// ```
    #[cfg(unix)]
    pub fn send_descriptor(
        &self,
        descriptor: std::os::fd::OwnedFd,
    ) -> Result<(), std::os::fd::OwnedFd> {
        self.cell.attach(descriptor)
    }

    /// Closes the connection once everything written is sent: sends a FIN, reads and discards
    /// remaining input until the peer's FIN, then calls
    /// [`connection_lost`](Protocol::connection_lost) with [`Reason::Done`]. A TLS peer's
    /// close_notify counts as its FIN.
    ///
    /// Reading stops immediately. A registered producer delays the close until it unregisters.
    /// [`Timeout::Close`] limits how long the output may make no progress, [`Timeout::Fin`] the
    /// wait for the peer's FIN.
    pub fn lose_connection(&self) {
        if self.cell.phase() < ConnectionPhase::Closing {
            self.cell.advance_phase(ConnectionPhase::Closing);
            self.cell.record(request::LOSE);
        }
    }

    /// With `on`, [`lose_connection`](Self::lose_connection) does not wait for the peer: the socket
    /// is closed once everything written is passed to the system, as in Twisted. A peer that is
    /// still sending then gets a reset, which may discard data that it has not read yet; the
    /// default loses nothing.
    pub fn set_close_at_once(&self, on: bool) {
        self.cell.set_mode(mode::CLOSES_AT_ONCE, on);
    }

    /// [`lose_connection`](Self::lose_connection) with `error` as the reason
    /// ([`Reason::Failed`]): how a callback reports an error.
    #[track_caller]
    pub fn fail(&self, error: impl Into<Failure>) {
        self.cell.fail(error.into());
        if self.cell.phase() < ConnectionPhase::Ended {
            self.cell.advance_phase(ConnectionPhase::Closing);
            self.cell.record(request::LOSE);
        }
    }

    /// Sends a FIN once everything written is sent, then calls
    /// [`write_closed`](Protocol::write_closed); reading continues (half-close).
    pub fn lose_write_connection(&self) {
        if self.cell.phase() < ConnectionPhase::Finishing {
            self.cell.advance_phase(ConnectionPhase::Finishing);
            self.cell.record(request::LOSE_WRITE);
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

    /// Pauses or resumes reading for the inspector, independently of all other pauses.
    pub(crate) fn pause_for_inspector(&self, on: bool) {
        self.cell.set_paused(paused::BY_INSPECTOR, on);
    }

    /// Pauses reading for `time`, independently of [`pause_producing`](Self::pause_producing) and
    /// [`resume_producing`](Self::resume_producing): data is delivered when neither pause holds. Of
    /// several timed pauses the one that ends last counts.
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
    ///         transport.pause_for(Duration::from_secs(1));
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
    pub fn pause_for(&self, time: Duration) {
        if !time.is_zero() {
            self.read_again_after(time);
        }
    }

    /// Reads nothing for this time, and until the next turn.
    pub(crate) fn read_again_after(&self, time: Duration) {
        let reactor = self.reactor();
        if self.is_closing() {
            return;
        }
        // Past the end of the clock: no pause.
        if let Some(until) = reactor.now().checked_add(time) {
            self.cell.pause_until(until);
            reactor.tell_later(&self.cell, time, Box::new(EndTimedPause));
        }
    }

    /// False once reading is paused, or the connection is closing, failed or lost. A framer checks
    /// this before it delivers each message.
    #[inline]
    pub fn wants_data(&self) -> bool {
        self.cell.wants_data()
    }

    /// Whether bytes of the peer have arrived. A connection without any is new: its first request may
    /// be on its way, so a protocol whose peer speaks first keeps it in [a
    /// drain](Protocol::draining).
    pub fn has_received(&self) -> bool {
        self.cell.bytes_in.get() > 0
    }

    /// True once the connection was asked to finish: see [`Protocol::draining`].
    #[inline]
    pub fn is_draining(&self) -> bool {
        self.cell.is_draining()
    }

    /// True once the connection is being closed: by `lose_connection`, `fail`, `abort_connection`,
    /// a panic, or the peer. No more data is delivered. Twisted's `disconnecting`.
    #[inline]
    pub fn is_closing(&self) -> bool {
        self.cell.phase() >= ConnectionPhase::Closing
    }

    /// Registers a producer that writes to this transport, and pauses it while the buffer is full.
    /// The turn makes the first `resume_producing` call of a pull producer.
    ///
    /// On a transport that accepts no output, because it is closing or lost, the turn stops the producer.
    ///
    /// # Errors
    ///
    /// [`ProducerRegistered`] if the transport already has a producer; that one stays.
    pub fn register_producer(
        &self,
        producer: impl Producer + 'static,
        kind: ProducerKind,
    ) -> Result<(), ProducerRegistered> {
        let type_name = type_name_of_val(&producer);
        let mut object = self.reactor().monitor_producer(producer);
        if self.cell.has_producer() {
            return Err(ProducerRegistered);
        }
        if self.cell.is_open_to_output() {
            self.cell.register(RegisteredProducer::new(kind, object));
        } else {
            self.reactor().queue_call("stop_producing", type_name, move || object.stop_producing());
        }
        Ok(())
    }

    /// Unregisters the producer, which has written everything; a close that waited for it proceeds.
    pub fn unregister_producer(&self) {
        self.cell.unregister();
    }

    /// True when more than the high mark is buffered. When writing in a loop, stop here and wait
    /// for [`writable`](Self::writable), which fires soon if everything can be sent immediately. (A
    /// producer that stops here on its own may never be paused, because the turn first sends all
    /// it can; and a producer that was not paused is not resumed.)
    pub fn is_full(&self) -> bool {
        self.cell.buffered() > self.cell.watermarks().high()
    }

    /// The number of bytes written but not yet sent.
    pub fn buffered(&self) -> usize {
        self.cell.buffered()
    }

    /// Fires when at most the low mark is buffered; fails with [`ConnectionLost`] if the
    /// connection is lost first. That failure may be dropped: `connection_lost` reports the loss.
    pub fn writable(&self) -> Deferred<()> {
        self.wait_for_level(Level::LowMark)
    }

    /// Fires when everything written has been passed to the system; fails with [`ConnectionLost`]
    /// if the connection is lost first. That failure may be dropped: `connection_lost` reports the
    /// loss. Useful to continue a dialogue or to report a file as sent; for writing in a loop,
    /// [`writable`](Self::writable) is enough.
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
        self.wait_for_level(Level::Nothing)
    }

    fn wait_for_level(&self, level: Level) -> Deferred<()> {
        let reason = self.cell.reason();
        if reason.is_none()
            && self.cell.phase() < ConnectionPhase::Ended
            && self.cell.is_drained_to(level)
        {
            return Deferred::succeed(());
        }
        let (deferred, resolver) = new_quiet();
        match reason {
            Some(reason) => resolver.errback(ConnectionLost(reason)),
            None => self.cell.add_waiting(level, resolver),
        }
        deferred
    }

    /// Fires when the peer's end of stream has arrived (over TLS, its close_notify or its FIN), even
    /// while reading is paused or bytes before it are unread, so a protocol that pauses while it
    /// works can notice that its client has left. Fails with [`ConnectionLost`] if the connection is lost first, for example by a
    /// reset. That failure may be dropped.
    ///
    /// Nothing else changes: the bytes and then [`read_closed`](Protocol::read_closed) are
    /// delivered when reading resumes.
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
        if self.cell.reason().is_none() && self.cell.has_mode(mode::PEER_ENDED) {
            return Deferred::succeed(());
        }
        let (deferred, resolver) = new_quiet();
        match self.cell.reason() {
            Some(reason) => resolver.errback(ConnectionLost(reason)),
            None => self.cell.add_waiting_for_peer(resolver),
        }
        deferred
    }

    /// Fires with the reason when the connection is lost, right after
    /// [`connection_lost`](Protocol::connection_lost); with
    /// [`HandedOver`](crate::Reason::HandedOver) if another process continues it. For objects that
    /// keep a connection without being its protocol.
    ///
    /// ```
    /// use std::{cell::RefCell, rc::Rc};
    /// use couplet::{Protocol, Transport, testing::hold};
    ///
    /// struct Echo;
    /// impl Protocol for Echo {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         transport.write(data);
    ///     }
    /// }
    ///
    /// let mut held = hold(Echo);
    /// let clients = Rc::new(RefCell::new(vec![held.connection.transport()]));
    /// let (kept, id) = (clients.clone(), held.connection.id());
    /// let lost = held.connection.transport().lost();
    /// lost.map(move |_reason| kept.borrow_mut().retain(|client| client.id() != id)).detach();
    /// held.wire.reset();
    /// held.settle();
    /// assert!(clients.borrow().is_empty());
    /// ```
    pub fn lost(&self) -> Deferred<Reason> {
        let (deferred, resolver) = new_quiet();
        match self.cell.reason() {
            Some(reason) => resolver.callback(reason),
            None => self.cell.add_waiting_for_loss(resolver),
        }
        deferred
    }

    /// Sets one of the [limits](Timeout) on waiting. `None` waits forever, and so does a time above 49
    /// days.
    pub fn set_timeout(&self, which: Timeout, time: Option<Duration>) {
        match which {
            Timeout::Idle => self.cell.set_idle_timeout(time),
            Timeout::Close => self.cell.set_close_deadline(time),
            Timeout::Fin => self.cell.set_fin_timeout(time),
            Timeout::HalfClose => self.cell.set_half_close_timeout(time),
            Timeout::Write => self.cell.set_write_timeout(time),
        }
        self.cell.record(request::DEADLINES);
    }

    /// Sets the marks in bytes: the buffer is full above `high` (default 64 KiB) and drained at or
    /// below `low` (default 16 KiB). Marks above 4 GiB count as 4 GiB.
    pub fn set_write_marks(&self, low: usize, high: usize) {
        self.cell.set_watermarks(Watermarks::new(low, high));
    }

    /// Sets the hard cap in bytes: a write past it ends the connection with [`Reason::Overflow`].
    /// `None`, the default, means no cap.
    pub fn set_write_cap(&self, cap: Option<usize>) {
        self.cell.cap.set(cap.unwrap_or(usize::MAX));
    }

    /// Sets a socket option. An error is logged. `TCP_NODELAY` is on by default, and a connection begins
    /// with the probes of its [listen](crate::ListenOptions::keep_alive) or
    /// [connect](crate::ConnectOptions::keep_alive) options.
    pub fn set_option(&self, option: SocketOption) {
        self.cell.add_option(option);
    }

    /// A socket option: the value set last, otherwise the system's, also for an
    /// [adopted](Reactor::adopt) socket. `None` on drivers without sockets, for an option that the
    /// socket does not have, and after the connection is lost. [`with_socket`](Self::with_socket)
    /// reads any other option.
    /// Twisted's `getTcpNoDelay` and `getTcpKeepAlive`.
    pub fn option(&self, kind: SocketOptionKind) -> Option<SocketOption> {
        self.cell.option(kind)
    }

    /// Runs `f` on the socket in the turn, before more bytes are delivered, to set any option that
    /// [`socket2`](crate::driver::SockRef) supports. An error is logged. A driver without sockets
    /// logs that and drops `f`.
    ///
    /// Do not change settings that the loop relies on: the blocking mode, the linger time, the ends
    /// of the streams. To set options before a port is bound or an attempt begins, use
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

    /// The address of the other end, also available after the connection is lost.
    pub fn peer(&self) -> &Address {
        &self.cell.peer
    }

    /// The address of our end, also available after the connection is lost.
    pub fn host(&self) -> &Address {
        self.cell.host()
    }

    /// The error that ended our direction before the connection, if any: reading continues to the end
    /// of the peer's stream. A program that has closed its input is such a peer; a TCP connection
    /// loses both directions together.
    ///
    /// [`Protocol::write_closed`] reports it, and once the peer's stream has ended too,
    /// [`connection_lost`](Protocol::connection_lost) has it as its reason.
    pub fn write_error(&self) -> Option<Arc<io::Error>> {
        self.cell.write_error()
    }

    /// Identifies this connection; `Copy` and `Send`.
    pub fn id(&self) -> ConnectionId {
        self.cell.id()
    }

    /// The reactor that runs this connection.
    pub fn reactor(&self) -> &Reactor {
        &self.cell.reactor
    }

    /// Replaces the protocol of this connection with the next one, as STARTTLS, the `Upgrade` of HTTP
    /// and CONNECT do.
    ///
    /// Takes effect when the callback in which you call it returns, otherwise in the turn, and
    /// always before more bytes are delivered: until then reading is paused. The old protocol is
    /// dropped without a further call, not even [`connection_lost`](Protocol::connection_lost). The
    /// next one gets [`connection_made`](Protocol::connection_made), then the unread bytes, then
    /// new ones. An end of stream already reported, the peer's or ours, is reported to the next
    /// protocol too.
    ///
    /// Unread bytes are those that a framer holds: in a `line_received`, the bytes after that line.
    /// A protocol that consumes raw bytes passes the remainder to
    /// [`Upgrade::with_unread`].
    ///
    /// Settings of the transport stay: a pause, a producer, timeouts, options; so does an outside
    /// wrapper of the protocol, such as a [`Policy`](crate::protocols::Policy). Pending calls to
    /// the old protocol by [`Connection::tell`] or [`Connection::call_later`] are dropped, and an
    /// [`ask`](Connection::ask) fails with [`WrongProtocol`], unless the next one has its type.
    ///
    /// A close takes precedence: on a connection that is closing, or that closes before the upgrade
    /// takes effect, the next protocol is dropped unused, and the old one gets `connection_lost`.
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
    pub fn upgrade(&self, next: impl Into<Upgrade>) {
        self.cell.upgrade(next.into());
    }

    /// Puts a layer under the protocol of this live connection, as STARTTLS does.
    ///
    /// Bytes written before this call pass below the layer, bytes written afterwards through it,
    /// even within one callback. The protocol receives no data until the layer is open:
    /// [`wants_data`](Self::wants_data) is false until right before
    /// [`handshake_completed`](crate::ProtocolExtension::handshake_completed), which precedes the
    /// first bytes from the layer.
    ///
    /// Plaintext that arrived before the layer, and that no protocol has consumed, is never passed
    /// off as bytes of the layer: the connection is cut with
    /// [`PlaintextAfterUpgrade`](crate::layers::PlaintextAfterUpgrade). Our framers check this for
    /// the bytes that they hold.
    ///
    /// On a connection that is closing the layer is dropped. If the peer has already ended its
    /// stream, the layer gets that end first, and TLS fails.
    ///
    /// # Errors
    ///
    /// [`StartLayerError`] after [`lose_write_connection`](Self::lose_write_connection).
    pub fn start_layer(&self, layer: impl Layer + 'static) -> Result<(), StartLayerError> {
        self.cell.start_layer(Box::new(layer))
    }

    /// [`start_layer`](Self::start_layer) with TLS: as the side that waits for a ClientHello, with a
    /// [`ServerTls`](crate::layers::tls::ServerTls), or as the client, with a
    /// [`ClientTls`](crate::layers::tls::ClientTls) and the host that its peer has to be:
    /// `start_tls((&tls, "example.com"))`. In STARTTLS, the sides are server and client. Twisted's
    /// `startTLS`.
    ///
    /// # Errors
    ///
    /// When the host is neither a DNS name nor an IP address; see also
    /// [`start_layer`](Self::start_layer).
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub fn start_tls<'a>(
        &self,
        side: impl Into<crate::layers::tls::TlsSide<'a>>,
    ) -> Result<(), StartLayerError> {
        self.start_layer(side.into().layer(self.reactor().now())?)
    }

    /// The info of type `T` about this connection: a `TlsInfo`, with the parameters of the handshake
    /// and the peer's certificates, a [`ProxyHeader`](crate::layers::ProxyHeader), another layer's
    /// [infos](crate::layers::Opened::infos), or on a UNIX socket the peer's
    /// [`PeerCredentials`](crate::PeerCredentials). `None` if nothing reported one yet; also
    /// available after the connection is lost.
    pub fn info<T: 'static>(&self) -> Option<Rc<T>> {
        self.cell.layer_info().or_else(|| {
            let credentials: Rc<dyn Any> = Rc::new(self.cell.credentials()?);
            credentials.downcast().ok()
        })
    }

    /// The program at the other end, as a `T`.
    #[cfg(unix)]
    pub(crate) fn program<T: 'static>(&self) -> Option<Rc<T>> {
        self.cell.program()
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

/// The call that ends a [`Transport::pause_for`].
struct EndTimedPause;

impl Tell for EndTimedPause {
    fn run(self: Box<Self>, _: &mut dyn Protocol, transport: &Transport) {
        transport.cell.end_timed_pause();
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
