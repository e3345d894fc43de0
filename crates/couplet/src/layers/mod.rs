//! Layers: what stands between a socket and a protocol. TLS is one, and so are the PROXY protocol, a
//! throttle and a log of the traffic.
//!
//! A [`Layer`] does no I/O and knows no loop. Bytes pass through it in two directions: *up*, from
//! the socket to the protocol, and *down*. [`Layers`] stacks several; level 0 is next to the socket.
//!
//! Twisted's `ProtocolWrapper` and `TLSMemoryBIOProtocol`, without the protocol's methods: a layer
//! has no callbacks, so it cannot be re-entered.

mod log;
mod plain;
mod proxy;
mod stack;
mod throttle;
#[cfg(any(feature = "tls", feature = "ring"))]
pub mod tls;

use std::any::Any;
use std::fmt;
use std::rc::Rc;
use std::time::Instant;

pub use log::{Direction, Lines, LogForm, Pcap, PcapTap, Tap, TrafficLog};
pub use plain::{PassThrough, SingleBytes};
pub use proxy::{ProxyError, ProxyHeader, ProxyReader, ProxyTls, ProxyVersion, ProxyWriter};
pub(crate) use stack::Sink;
pub use stack::{Layers, PlaintextAfterUpgrade};
pub use throttle::{Bandwidth, Throttle};

use crate::address::Address;
use crate::error::Reason;
pub use crate::transport::outbox::Outbox;

/// Bytes below a layer at which it stops producing more: about four TLS records.
///
/// [`Layers`] does not call [`Layer::down`] while so many are still waiting below the layer, and a
/// layer whose output is longer than its input stops when it has produced so many (TLS four times as
/// many, because each send has its price). What it leaves in
/// the outbox above waits there, where marks and caps count it.
pub const ROOM: usize = 64 * 1024;

/// What comes out on the upper side of a layer.
#[derive(Debug)]
pub enum Up<'a> {
    /// Nothing now.
    Nothing,
    /// Bytes of the stream, never empty; lent from the layer or from the bytes it was given.
    Data(&'a [u8]),
    /// As `Data`, from a layer that has nothing more to give of what it was given: it is asked again
    /// only if it left bytes, or for another reason. This spares a layer that only passes bytes on
    /// every second call.
    Last(&'a [u8]),
    /// The layer is open: its handshake is complete, or its header was read, perhaps with something to tell.
    /// Reported once, before the first `Data`, by a layer whose [`is_open`](Layer::is_open) was false
    /// at the beginning.
    Open(Option<Box<Opened>>),
    /// The peer ended the stream above this layer, after all its bytes. Nothing comes after it.
    Closed,
    /// The connection cannot go on. Nothing comes after it.
    Failed(Reason),
}

/// Why a layer cannot start on a live connection.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartLayerError {
    /// The protocol has closed its sending side, so the layer could not send a handshake.
    #[error("cannot start a layer: the sending side of the connection is closed")]
    WriteClosed,
    /// The TLS client cannot be configured.
    #[cfg(any(feature = "tls", feature = "ring"))]
    #[error(transparent)]
    Tls(#[from] tls::TlsConfigError),
}

/// How a connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A port accepted it, or it was adopted.
    Accepted,
    /// We connected.
    Connected,
}

/// What a layer found out about the connection while it opened.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The address of the other end, where it is not the socket's.
    pub peer: Option<Address>,
    /// The address of our end, where it is not the socket's.
    pub host: Option<Address>,
    /// Anything else, by type: a `TlsInfo`, a [`ProxyHeader`]. The protocol finds it with
    /// [`Transport::layer_info`](crate::Transport::layer_info). Law 9: one or two for each layer.
    pub infos: Vec<Rc<dyn Any>>,
}

impl Opened {
    /// Only an info.
    pub fn with_info(info: impl Any) -> Box<Opened> {
        Box::new(Opened { infos: vec![Rc::new(info)], ..Opened::default() })
    }

    /// The info of this type; of several, that of the upper layer.
    pub fn find<T: 'static>(&self) -> Option<Rc<T>> {
        self.infos.iter().rev().find_map(|info| info.clone().downcast().ok())
    }

    /// Adds what a layer found out that opened later.
    fn add(&mut self, later: Opened) {
        self.peer = later.peer.or(self.peer.take());
        self.host = later.host.or(self.host.take());
        self.infos.extend(later.infos);
    }
}

/// Has a connection call its layers again, for a layer that waits for something else than bytes and
/// time, such as a Deferred. Cheap to clone.
///
/// [`Layer::attach`] hands it out; a test that drives [`Layers`] makes its own.
#[derive(Clone)]
pub struct LayerWaker(Rc<dyn Fn()>);

impl LayerWaker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + 'static) -> LayerWaker {
        LayerWaker(Rc::new(wake))
    }

    /// Has `up` and `down` called once more, in this turn or the next. Does nothing when the
    /// connection has ended.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for LayerWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerWaker").finish_non_exhaustive()
    }
}

/// A step between the socket and the protocol, as a state machine without I/O.
///
/// # Who calls what, and when
///
/// A connection drives its layers, one at a time, and never from inside one of their calls:
///
/// - **[`attach`](Self::attach)** once, before the others.
/// - **[`up`](Self::up)** when bytes arrived, after [`ended`](Self::ended) and
///   [`timed_out`](Self::timed_out), when a [`LayerWaker`] was woken, and when a paused receiver goes on. It is repeated until it
///   returns [`Up::Nothing`], also with `below` empty: a layer may have more to give than it was
///   given. A receiver that pauses, closes or upgrades ends the repetition early; the next call then
///   has the bytes that were left, then those that arrived later. While the receiver is paused, an
///   open layer is not called.
/// - **[`down`](Self::down)** when something was written above, when the layer
///   [holds](Self::held) output after any of the other calls, and when there is room again below.
/// - **[`ended`](Self::ended)** once, when the stream below has ended, after `up` has taken every
///   byte of it. The layer then gives what it still has, and [`Up::Closed`] or [`Up::Failed`].
/// - **[`close`](Self::close)** at most once, when everything written above has been taken and
///   nothing is [held](Self::held). No bytes are written above after it; `up` may still be called.
/// - **[`timed_out`](Self::timed_out)** when the time of [`deadline`](Self::deadline) has come.
///   Deadlines are asked for after every other call, so they may move.
///
/// After [`Up::Closed`] or [`Up::Failed`] the layer is not fed any more: what arrives is dropped.
/// `down` is still called after both, for an alert or a last answer.
///
/// # Bytes that are left
///
/// A layer takes an incomplete header or record into a buffer of its own, with a bound. If it leaves
/// bytes in `below` and returns [`Up::Nothing`] it says that it is full: the connection keeps them,
/// at most one chunk, and stops reading until a later `up` (after [`timed_out`](Self::timed_out),
/// say) has taken them.
///
/// # Example
///
/// A layer that inverts the bits of every byte, in both directions:
///
/// ```
/// use std::time::Instant;
///
/// use couplet::layers::{Layer, Outbox, Up};
///
/// #[derive(Default)]
/// struct Invert {
///     inverted: Vec<u8>,
///     ended: bool,
/// }
///
/// impl Layer for Invert {
///     fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
///         self.inverted.clear();
///         self.inverted.extend(std::mem::take(below).iter().map(|byte| !byte));
///         match (&self.inverted[..], self.ended) {
///             ([], false) => Up::Nothing,
///             ([], true) => Up::Closed,
///             (inverted, _) => Up::Data(inverted),
///         }
///     }
///
///     fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
///         while !above.is_empty() {
///             let inverted: Vec<u8> = above.first().iter().map(|byte| !byte).collect();
///             above.advance(inverted.len());
///             below.extend(&inverted);
///         }
///     }
///
///     fn ended(&mut self) {
///         self.ended = true;
///     }
/// }
/// ```
pub trait Layer: Any {
    /// The layer comes under a connection. A layer that will wait for something else than bytes and
    /// time keeps the waker that `waker` makes.
    fn attach(&mut self, waker: &dyn Fn() -> LayerWaker) {
        let _ = waker;
    }

    /// Takes bytes from the front of `below` and returns the next thing that comes out above.
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a>;

    /// Takes bytes from `above`, as many as it wants, and puts what they become into `below`, with
    /// whatever else the layer has to send. Not called while [`ROOM`] bytes wait in `below`.
    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant);

    /// The stream below has ended, and every byte of it was taken.
    fn ended(&mut self);

    /// Appends to `below` what the end of the stream looks like at this layer, if anything.
    fn close(&mut self, below: &mut Outbox) {
        let _ = below;
    }

    /// True once bytes can pass; until then nothing is taken from above.
    fn is_open(&self) -> bool {
        true
    }

    /// Whether every byte passes unchanged, in both directions; `false` unless overridden.
    ///
    /// The simulator compares what the protocols at both ends of a connection wrote and received if
    /// their layers, transparent ones aside, are of the same types.
    fn is_transparent(&self) -> bool {
        false
    }

    /// Whether it may report another address of the peer when it opens; `false` unless overridden.
    fn relays(&self) -> bool {
        false
    }

    /// Bytes on their way down that are in neither outbox. While there are any, `down` has something
    /// to do.
    fn held(&self) -> usize {
        0
    }

    /// When to call [`timed_out`](Self::timed_out): once for each time until the next `up`, which waits
    /// while the receiver is paused.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has come. `up` and `down` are called next.
    fn timed_out(&mut self, now: Instant) {
        let _ = now;
    }
}
