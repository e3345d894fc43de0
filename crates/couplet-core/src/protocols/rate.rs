//! [`LimitMessages`]: limits the message rate of one connection. A peer that sends more is slowed
//! down by TCP flow control, and nothing is dropped. Twisted's `ThrottlingProtocol` counts bytes.
//!
//! Contract: 50a, 169b.

use std::any::{Any, TypeId};
use std::fmt;
use std::time::{Duration, Instant};

use super::line::{LineProtocol, LineTransport};
use super::string::{StringProtocol, StringTransport};
use crate::{HandOver, Protocol, ProtocolExtension, Reason, Transport};

/// The default message rate: `MOST` per `PER`.
const MOST: u32 = 1000;
const PER: Duration = Duration::from_secs(1);

/// A token bucket, initially full, that refills evenly. The units are chosen so that a token
/// costs `per` in nanoseconds and `most` units are added per nanosecond, which makes all arithmetic
/// exact.
pub(super) struct Bucket {
    most: u32,
    per: Duration,
    missing: u128,
    at: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(most: u32, per: Duration) -> Bucket {
        Bucket { most, per, missing: 0, at: None }
    }

    pub(super) fn most(&self) -> u32 {
        self.most
    }

    pub(super) fn per(&self) -> Duration {
        self.per
    }

    /// Takes a token, if one is available.
    pub(super) fn take(&mut self, now: Option<Instant>) -> bool {
        self.fill(now);
        let fits = self.shortfall() == 0 && self.most > 0;
        if fits {
            self.missing += self.per.as_nanos();
        }
        fits
    }

    /// Takes a token, going into debt if the bucket is empty. Returns the time until the next token
    /// is available.
    fn spend(&mut self, now: Instant) -> Duration {
        self.fill(Some(now));
        self.missing = self.missing.saturating_add(self.per.as_nanos());
        let wait = self.shortfall().div_ceil(u128::from(self.most.max(1)));
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn fill(&mut self, now: Option<Instant>) {
        if let (Some(now), Some(at)) = (now, self.at) {
            // Less than 2^94 nanoseconds times 2^32 fits.
            let gained = now.saturating_duration_since(at).as_nanos() * u128::from(self.most);
            self.missing = self.missing.saturating_sub(gained);
        }
        self.at = now;
    }

    /// The units missing before a token is available.
    fn shortfall(&self) -> u128 {
        let cost = self.per.as_nanos();
        let room = cost * u128::from(self.most);
        self.missing.saturating_add(cost).saturating_sub(room)
    }
}

/// Counts the messages of one connection and [pauses](Transport::pause_for) its reading while
/// they exceed the rate: a token bucket, initially full, that refills evenly. A burst of `most`
/// messages passes immediately, then one per `per / most`.
///
/// [`LimitMessages`] uses it for this library's protocols; your own [`Framer`](super::Framer) calls
/// [`count`](Self::count) directly.
///
/// ```
/// use couplet::Transport;
/// use couplet::protocols::{FrameBuffer, Framer, MessageRate};
/// use std::time::Duration;
///
/// struct Bytes {
///     rate: MessageRate, // MessageRate::new(50, Duration::from_secs(1))
///     buffer: FrameBuffer,
/// }
///
/// impl Framer for Bytes {
///     type Transport = Transport;
///
///     fn step(&mut self, transport: &Transport, bytes: &[u8]) -> Option<usize> {
///         self.rate.count(transport);
///         transport.write(&bytes[..1]);
///         Some(1)
///     }
///     fn buffer(&mut self) -> &mut FrameBuffer {
///         &mut self.buffer
///     }
/// }
/// ```
pub struct MessageRate {
    bucket: Bucket,
}

impl MessageRate {
    /// Allows at most `most` messages per `per`, and at least one. If `per` is zero, the rate is
    /// unlimited.
    pub fn new(most: u32, per: Duration) -> MessageRate {
        MessageRate { bucket: Bucket::new(most.max(1), per) }
    }

    /// Counts a message. If it uses the last token, delivery stops until the next token, even in
    /// the middle of a received chunk.
    pub fn count(&mut self, transport: &Transport) {
        let wait = self.bucket.spend(transport.reactor().now());
        transport.pause_for(wait);
    }
}

impl Default for MessageRate {
    /// 1000 per second.
    fn default() -> MessageRate {
        MessageRate::new(MOST, PER)
    }
}

impl fmt::Debug for MessageRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageRate")
            .field("most", &self.bucket.most)
            .field("per", &self.bucket.per)
            .finish_non_exhaustive()
    }
}

/// Limits the rate of messages from a protocol's peer, by default to 1000 per second
/// ([`with_rate`](Self::with_rate)). Excess messages wait in the network, which slows the peer
/// down; nothing is dropped.
///
/// Place it inside the framer, around a [`LineProtocol`] or a [`StringProtocol`], where a message
/// is a line or a string. A line protocol's raw bytes are not counted. Around a plain [`Protocol`],
/// each read counts as one message, of at most 256 KiB unless the loop's options set another size.
///
/// The pause for this limit is independent of others ([`Transport::pause_for`]): the protocol and
/// producers may pause and resume as usual.
///
/// ```
/// use couplet::protocols::{LimitMessages, LineProtocol, LineReceiver, LineTransport};
/// use couplet::testing::hold;
/// use std::time::Duration;
///
/// struct Echo;
/// impl LineProtocol for Echo {
///     fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
///         transport.send_line(line);
///     }
/// }
///
/// let second = Duration::from_secs(1);
/// let mut held = hold(LineReceiver::new(LimitMessages::new(Echo).with_rate(2, second)));
/// held.push(b"a\r\nb\r\nc\r\nd\r\n");
/// assert_eq!(held.wire.take(), b"a\r\nb\r\n");
/// held.advance(second / 2);
/// assert_eq!(held.wire.take(), b"c\r\n");
/// held.advance(second / 2);
/// assert_eq!(held.wire.take(), b"d\r\n");
/// ```
#[derive(Debug)]
pub struct LimitMessages<P> {
    protocol: P,
    rate: MessageRate,
}

impl<P> LimitMessages<P> {
    /// Wraps `protocol`.
    pub fn new(protocol: P) -> LimitMessages<P> {
        LimitMessages { protocol, rate: MessageRate::default() }
    }

    /// Sets the rate to at most `most` messages per `per`, as in [`MessageRate::new`].
    #[must_use]
    pub fn with_rate(mut self, most: u32, per: Duration) -> LimitMessages<P> {
        self.rate = MessageRate::new(most, per);
        self
    }

    /// The wrapped protocol.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }
}

/// Forwards the callbacks that all kinds of protocol share.
macro_rules! forward {
    ($kind:ident, $transport:ty) => {
        fn connection_made(&mut self, transport: &$transport) {
            $kind::connection_made(&mut self.protocol, transport);
        }

        fn connection_lost(&mut self, transport: &$transport, reason: &Reason) {
            $kind::connection_lost(&mut self.protocol, transport, reason);
        }

        fn read_closed(&mut self, transport: &$transport) {
            $kind::read_closed(&mut self.protocol, transport);
        }

        fn write_closed(&mut self, transport: &$transport) {
            $kind::write_closed(&mut self.protocol, transport);
        }

        fn draining(&mut self, transport: &$transport) {
            $kind::draining(&mut self.protocol, transport);
        }

        fn reading_resumed(&mut self, transport: &$transport) {
            $kind::reading_resumed(&mut self.protocol, transport);
        }
    };
}

/// Forwards the callbacks of special connections, which a [`Protocol`] has in its extension.
macro_rules! forward_special {
    ($kind:ident, $transport:ty) => {
        #[cfg(unix)]
        fn descriptor_received(
            &mut self,
            transport: &$transport,
            descriptor: std::os::fd::OwnedFd,
        ) {
            $kind::descriptor_received(&mut self.protocol, transport, descriptor);
        }

        fn handshake_completed(&mut self, transport: &$transport) {
            $kind::handshake_completed(&mut self.protocol, transport);
        }

        fn find(&mut self, wanted: TypeId) -> Option<&mut dyn Any> {
            if wanted == TypeId::of::<P>() {
                return Some(&mut self.protocol);
            }
            $kind::find(&mut self.protocol, wanted)
        }

        fn hand_over(&mut self) -> Option<HandOver> {
            $kind::hand_over(&mut self.protocol)
        }
    };
}

impl<P: Protocol> Protocol for LimitMessages<P> {
    forward!(Protocol, Transport);

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.rate.count(transport);
        self.protocol.data_received(transport, data);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl<P: Protocol> ProtocolExtension for LimitMessages<P> {
    fn inner(&mut self) -> Option<&mut dyn Protocol> {
        Some(&mut self.protocol)
    }

    /// The connection keeps its limit.
    fn upgraded(&mut self, next: Box<dyn Protocol>, unread: &mut Vec<u8>) -> Box<dyn Protocol> {
        let inner: &mut dyn Protocol = &mut self.protocol;
        let protocol = inner.upgraded(next, unread);
        Box::new(LimitMessages { protocol, rate: std::mem::take(&mut self.rate) })
    }
}

impl<P: LineProtocol> LineProtocol for LimitMessages<P> {
    forward!(LineProtocol, LineTransport);
    forward_special!(LineProtocol, LineTransport);

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        self.rate.count(transport);
        self.protocol.line_received(transport, line);
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        self.protocol.raw_data_received(transport, data);
    }

    fn line_length_exceeded(&mut self, transport: &LineTransport, beginning: &[u8]) {
        self.rate.count(transport);
        self.protocol.line_length_exceeded(transport, beginning);
    }
}

impl<P: StringProtocol> StringProtocol for LimitMessages<P> {
    forward!(StringProtocol, StringTransport);
    forward_special!(StringProtocol, StringTransport);

    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        self.rate.count(transport);
        self.protocol.string_received(transport, string);
    }
}
