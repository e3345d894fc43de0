//! [`IntReceiver`]: strings with a fixed-size length prefix. Twisted's `Int8StringReceiver`,
//! `Int16StringReceiver` and `Int32StringReceiver`.
//!
//! Contract: 168.

use std::any::{Any, TypeId};
use std::fmt;
use std::marker::PhantomData;

use super::error::{FramingError, StringTooLong};
use super::framing::{FrameBuffer, Framer};
use super::string::{Format, StringProtocol, StringTransport, cap_limit, deliver};
use super::{Decoded, STRING_LIMIT};
use crate::{Protocol, ProtocolExtension, Reason, Transport};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u16 {}
    impl Sealed for u32 {}
}

/// A length prefix: `u8`, `u16` or `u32`, in network byte order.
pub trait Prefix: sealed::Sealed + 'static {
    /// Size of the prefix in bytes.
    const SIZE: usize;
    /// The largest length that the prefix can hold.
    const MAX: usize;

    /// Reads the length from the start of `bytes`; `None` if `bytes` is too short.
    #[doc(hidden)]
    fn read(bytes: &[u8]) -> Option<usize>;
}

macro_rules! prefix {
    ($($int:ident),*) => {$(
        impl Prefix for $int {
            const SIZE: usize = size_of::<$int>();
            const MAX: usize = $int::MAX as usize;

            #[inline]
            fn read(bytes: &[u8]) -> Option<usize> {
                bytes.first_chunk().map(|bytes| $int::from_be_bytes(*bytes) as usize)
            }
        }
    )*};
}

prefix!(u8, u16, u32);

/// The length in network byte order; its last bytes are the prefix.
pub(super) fn put_length(length: usize, max: usize) -> Result<[u8; 8], StringTooLong> {
    if length > max {
        return Err(StringTooLong { length, max });
    }
    Ok((length as u64).to_be_bytes())
}

/// Appends `string` to `out`, framed for an [`IntReceiver`].
///
/// # Errors
///
/// If the length of `string` does not fit in the prefix; nothing is appended.
///
/// ```
/// let mut out = Vec::new();
/// couplet::protocols::encode_int::<u16>(b"hello", &mut out).expect("short enough");
/// assert_eq!(out, b"\0\x05hello");
/// ```
pub fn encode_int<N: Prefix>(string: &[u8], out: &mut Vec<u8>) -> Result<(), StringTooLong> {
    let length = put_length(string.len(), N::MAX)?;
    out.extend_from_slice(&length[8 - N::SIZE..]);
    out.extend_from_slice(string);
    Ok(())
}

/// Splits `bytes` into the first string, without its prefix, and the bytes after it; `None` if the
/// string is incomplete.
///
/// # Errors
///
/// If its length exceeds `limit`, as soon as the prefix is complete.
///
/// ```
/// use couplet::protocols::{FramingError, decode_int};
///
/// assert_eq!(decode_int::<u8>(b"\x05hello\x02w", 9), Ok(Some((&b"hello"[..], &b"\x02w"[..]))));
/// assert_eq!(decode_int::<u8>(b"\x02w", 9), Ok(None));
/// assert_eq!(decode_int::<u8>(b"\x0a", 9), Err(FramingError::StringTooLong { limit: 9 }));
/// ```
#[inline]
pub fn decode_int<N: Prefix>(
    bytes: &[u8],
    limit: usize,
) -> Result<Option<Decoded<'_>>, FramingError> {
    let Some(length) = N::read(bytes) else { return Ok(None) };
    if length > cap_limit(limit) {
        return Err(FramingError::StringTooLong { limit });
    }
    Ok(bytes[N::SIZE..].split_at_checked(length))
}

/// Delivers strings prefixed with their length, a `u8`, `u16` or `u32` in network byte order.
///
/// A length over the limit, by default 99 999 bytes ([`with_max_length`](Self::with_max_length)),
/// ends the connection with [`FramingError::StringTooLong`] before any of the string is buffered.
/// See the [module](super) for the behaviour that all framers share.
///
/// ```
/// use couplet::protocols::{IntReceiver, StringProtocol, StringTransport};
/// use couplet::testing::hold;
///
/// struct Shout;
/// impl StringProtocol for Shout {
///     fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
///         transport.send_string(string.to_ascii_uppercase()).expect("as short as it came");
///     }
/// }
///
/// let mut held = hold(IntReceiver::<u16, _>::new(Shout).with_max_length(512));
/// held.push(b"\0\x05hello");
/// assert_eq!(held.wire.take(), b"\0\x05HELLO");
/// ```
pub struct IntReceiver<N, P> {
    protocol: P,
    buffer: FrameBuffer,
    limit: usize,
    prefix: PhantomData<fn() -> N>,
}

impl<N: Prefix, P: StringProtocol> IntReceiver<N, P> {
    /// Wraps `protocol`.
    pub fn new(protocol: P) -> IntReceiver<N, P> {
        IntReceiver {
            protocol,
            buffer: FrameBuffer::default(),
            limit: STRING_LIMIT,
            prefix: PhantomData,
        }
    }

    /// Sets the maximum string length in bytes; the default is 99 999.
    #[must_use]
    pub fn with_max_length(mut self, bytes: usize) -> IntReceiver<N, P> {
        self.limit = cap_limit(bytes);
        self
    }

    /// The wrapped protocol.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }

    fn transport(&self, transport: &Transport) -> StringTransport {
        StringTransport::new(transport, Format::int::<N>())
    }
}

impl<N: Prefix, P: StringProtocol> Framer for IntReceiver<N, P> {
    type Transport = StringTransport;

    #[inline]
    fn step(&mut self, transport: &StringTransport, bytes: &[u8]) -> Option<usize> {
        deliver(&mut self.protocol, transport, bytes, decode_int::<N>(bytes, self.limit))
    }

    #[inline]
    fn limit(&self) -> usize {
        N::SIZE + self.limit
    }

    /// Held bytes never form a complete message, so `held` is shorter than the message.
    fn needs(&self, held: &[u8], _: &[u8]) -> usize {
        (N::SIZE + N::read(held).unwrap_or(0)).saturating_sub(held.len())
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }
}

impl<N: Prefix, P: StringProtocol> Protocol for IntReceiver<N, P> {
    forward_callbacks!();
    frame_callbacks!();
}

impl<N: Prefix, P: StringProtocol> ProtocolExtension for IntReceiver<N, P> {
    forward_extension!();
}

impl<N: Prefix, P: fmt::Debug> fmt::Debug for IntReceiver<N, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntReceiver")
            .field("protocol", &self.protocol)
            .field("prefix", &N::SIZE)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
