//! Layers between a socket and a protocol: TLS, the PROXY protocol, a throttle, a log of the
//! traffic.
//!
//! A [`Layer`] does no I/O and knows no loop. Bytes pass through it in two directions: *up*, from
//! the socket to the protocol, and *down*. [`Layers`] stacks several; level 0 is next to the
//! socket.
//!
//! Like Twisted's `ProtocolWrapper` and `TLSMemoryBIOProtocol`, but without the protocol's methods:
//! a layer has no callbacks, so it cannot be re-entered.

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

pub(crate) use log::segment;
pub use log::{Direction, Lines, LogForm, Pcap, PcapTap, Tap, TrafficLog};
pub use plain::{PassThrough, SingleBytes};
pub use proxy::{ProxyError, ProxyHeader, ProxyReader, ProxyTls, ProxyVersion, ProxyWriter};
pub(crate) use stack::Sink;
pub use stack::{Layers, PlaintextAfterUpgrade};
pub use throttle::{Bandwidth, Throttle};

use crate::address::Address;
use crate::error::Reason;
pub use crate::outbox::{Outbox, Spares};

/// A layer stops producing output when this many bytes are queued below it: about four TLS records.
///
/// [`Layers`] does not call [`Layer::down`] while this many bytes are queued below the layer. A
/// layer whose output is longer than its input stops once it has produced this many (TLS four times
/// as many, because each send has a cost). Leftover bytes stay in the outbox above, where marks and
/// caps count them.
pub const ROOM: usize = 64 * 1024;

/// The output of a layer on its upper side.
#[derive(Debug)]
pub enum Up<'a> {
    /// No output for now.
    Nothing,
    /// Bytes of the stream, never empty; lent from the layer or from its input.
    Data(&'a [u8]),
    /// Like `Data`, but the layer has no further output for this input: it is called again only if
    /// it left bytes, or for another reason. This halves the calls of a layer that only forwards
    /// bytes.
    Last(&'a [u8]),
    /// The layer is open: its handshake is complete or its header was read, perhaps with
    /// information about the connection. Reported once, before the first `Data`, by a layer whose
    /// [`is_open`](Layer::is_open) was false at the beginning.
    Open(Option<Box<Opened>>),
    /// The peer ended the stream above this layer, after all its bytes. This is the last output.
    Closed,
    /// The connection has failed. This is the last output.
    Failed(Reason),
}

/// The reason why a layer cannot start on a live connection.
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

/// The origin of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A port accepted it, or it was adopted.
    Accepted,
    /// We connected.
    Connected,
}

/// Information about the connection that a layer obtained while it opened.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The address of the peer, if it differs from the socket's.
    pub peer: Option<Address>,
    /// Our address, if it differs from the socket's.
    pub host: Option<Address>,
    /// Other information, by type: a `TlsInfo`, a [`ProxyHeader`]. The protocol reads it with
    /// [`Transport::info`](crate::Transport::info).
    pub infos: Vec<Rc<dyn Any>>,
}

impl Opened {
    /// An `Opened` with only this info.
    pub fn with_info(info: impl Any) -> Box<Opened> {
        Opened::with_shared(Rc::new(info))
    }

    fn with_shared(info: Rc<dyn Any>) -> Box<Opened> {
        Box::new(Opened { infos: vec![info], ..Opened::default() })
    }

    /// The info of this type; if several layers have one, the uppermost layer's.
    pub fn find<T: 'static>(&self) -> Option<Rc<T>> {
        self.infos.iter().rev().find_map(|info| info.clone().downcast().ok())
    }

    /// Encodes this as a PROXY header of version 2, empty if no layer added anything. `None` if such a
    /// header can't express everything.
    pub(crate) fn to_proxy_header(&self) -> Option<Vec<u8>> {
        let addresses = (&self.peer, &self.host);
        match &self.infos[..] {
            [] if addresses == (&None, &None) => Some(Vec::new()),
            [info] => {
                let header = info.downcast_ref::<ProxyHeader>()?;
                let tells = addresses == (&header.peer, &header.host);
                header.encode(ProxyVersion::V2).ok().filter(|_| tells)
            }
            _ => None,
        }
    }

    /// Merges in the results of a layer that opened later.
    fn add(&mut self, later: Opened) {
        self.peer = later.peer.or(self.peer.take());
        self.host = later.host.or(self.host.take());
        self.infos.reserve_exact(later.infos.len());
        self.infos.extend(later.infos);
    }
}

/// Makes a connection call its layers again, for a layer that waits for something other than bytes
/// and time, such as a Deferred. Cheap to clone.
///
/// [`Layer::attach`] provides it; a test that drives [`Layers`] makes its own.
#[derive(Clone)]
pub struct LayerWaker(Rc<dyn Fn()>);

impl LayerWaker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + 'static) -> LayerWaker {
        LayerWaker(Rc::new(wake))
    }

    /// Schedules one more call of `up` and `down`, in this turn or the next. Does nothing if the
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
/// # Calls and their order
///
/// A connection drives its layers one at a time, and never from inside one of their calls:
///
/// - **[`attach`](Self::attach)** once, before the others.
/// - **[`up`](Self::up)** when bytes arrived, after [`ended`](Self::ended) and
///   [`timed_out`](Self::timed_out), when a [`LayerWaker`] was woken, and when a paused receiver
///   resumes. The call is repeated until it returns [`Up::Nothing`], even with an empty `below`,
///   because a layer may have more output than input. A receiver that pauses, closes or upgrades
///   ends the repetition early; the next call then gets the leftover bytes, then those that arrived
///   later. While the receiver is paused, an open layer is not called.
/// - **[`down`](Self::down)** when bytes were written above, when the layer [holds](Self::held)
///   output after any of the other calls, and when there is room below again.
/// - **[`ended`](Self::ended)** once, when the stream below has ended and `up` has taken every byte
///   of it. The layer then returns its remaining output, and [`Up::Closed`] or [`Up::Failed`].
/// - **[`close`](Self::close)** at most once, when everything written above has been taken and
///   nothing is [held](Self::held). No bytes are written above after it; `up` may still be called.
/// - **[`timed_out`](Self::timed_out)** when the [`deadline`](Self::deadline) has passed. The
///   deadline is read again after every other call, so it may move.
///
/// After [`Up::Closed`] or [`Up::Failed`] the layer gets no further input: bytes that arrive are
/// dropped. `down` is still called, for an alert or a last answer.
///
/// # Leftover bytes
///
/// A layer copies an incomplete header or record into its own buffer, which must be bounded. If it
/// leaves bytes in `below` and returns [`Up::Nothing`], it is full: the connection keeps the bytes,
/// at most one chunk, and stops reading until a later `up` has taken them (after
/// [`timed_out`](Self::timed_out), for example).
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
    /// Called when the layer is added to a connection. A layer that will wait for something other
    /// than bytes and time calls `waker` and keeps the result.
    fn attach(&mut self, waker: &dyn Fn() -> LayerWaker) {
        let _ = waker;
    }

    /// Takes bytes from the front of `below` and returns the next output above.
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a>;

    /// Takes bytes from `above`, as many as it wants, and appends their encoded form to `below`,
    /// along with any other output of the layer. Not called while [`ROOM`] bytes are queued in
    /// `below`.
    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant);

    /// The stream below has ended, and every byte of it was taken.
    fn ended(&mut self);

    /// Appends this layer's end of the stream, such as a close_notify, to `below`.
    fn close(&mut self, below: &mut Outbox) {
        let _ = below;
    }

    /// Whether bytes can pass; until then nothing is taken from above.
    fn is_open(&self) -> bool {
        true
    }

    /// The name of the layer, for people who read logs and snapshots: `TLS`. The name of its type by
    /// default.
    fn name(&self) -> &'static str {
        std::any::type_name::<Self>()
    }

    /// Whether every byte passes unchanged, in both directions; `false` by default.
    ///
    /// The simulator compares the bytes that the protocols at both ends of a connection write and
    /// receive if their layers, transparent ones aside, are of the same types.
    fn is_transparent(&self) -> bool {
        false
    }

    /// Whether the layer has done its work: it holds nothing, and every later byte would pass
    /// unchanged in both directions; `false` by default.
    ///
    /// Asked when all layers of a new connection have opened. If each of them has done its work, they
    /// are dropped, and the connection continues as one without layers, whose bytes pass at its speed
    /// and which may [move to another process](crate::Reactor::hand_over).
    fn is_finished(&self) -> bool {
        false
    }

    /// Whether the layer may report a different peer address when it opens; `false` by default.
    fn relays(&self) -> bool {
        false
    }

    /// Number of bytes on their way down that are in neither outbox. Unless it is 0, `down` has
    /// work to do.
    fn held(&self) -> usize {
        0
    }

    /// The time at which to call [`timed_out`](Self::timed_out). A deadline that does not change
    /// expires once until the next `up`, which waits while the receiver is paused. The first deadline
    /// of a layer that fails to open also limits the close of its connection.
    fn deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has passed. `up` and `down` are called next.
    fn timed_out(&mut self, now: Instant) {
        let _ = now;
    }
}
