//! [`NetstringReceiver`]: strings between a decimal length and a comma, as specified by
//! D. J. Bernstein. Twisted's `NetstringReceiver`.
//!
//! Contract: 167.

use std::any::{Any, TypeId};

use super::error::FramingError;
use super::framing::{FrameBuffer, Framer};
use super::string::{Format, StringProtocol, StringTransport, cap_limit, deliver};
use super::{Decoded, STRING_LIMIT};
use crate::{Protocol, ProtocolExtension, Reason, Transport};

/// Appends `string` to `out`, framed as a netstring.
///
/// ```
/// let mut out = Vec::new();
/// couplet::protocols::encode_netstring(b"hello", &mut out);
/// assert_eq!(out, b"5:hello,");
/// ```
pub fn encode_netstring(string: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(Header::new(string.len()).as_ref());
    out.extend_from_slice(string);
    out.push(b',');
}

/// Splits `bytes` into the first netstring's contents and the bytes after it; `None` if it is
/// incomplete.
///
/// # Errors
///
/// If the netstring is malformed or its string exceeds `limit`, as soon as the bytes show it.
///
/// ```
/// use couplet::protocols::{FramingError, decode_netstring};
///
/// assert_eq!(decode_netstring(b"5:hello,2:w", 9), Ok(Some((&b"hello"[..], &b"2:w"[..]))));
/// assert_eq!(decode_netstring(b"2:w", 9), Ok(None));
/// assert_eq!(decode_netstring(b"10", 9), Err(FramingError::StringTooLong { limit: 9 }));
/// ```
#[inline]
pub fn decode_netstring(bytes: &[u8], limit: usize) -> Result<Option<Decoded<'_>>, FramingError> {
    let Some((start, end)) = string_range(bytes, cap_limit(limit))? else { return Ok(None) };
    match bytes.get(end) {
        Some(b',') => Ok(Some((&bytes[start..end], &bytes[end + 1..]))),
        Some(&other) => Err(FramingError::NoComma(other)),
        None => Ok(None),
    }
}

/// A decimal length and its colon.
pub(super) struct Header {
    text: [u8; Header::MAX],
    start: usize,
}

impl Header {
    /// Length of the longest header in bytes.
    const MAX: usize = 21;

    pub(super) fn new(mut length: usize) -> Header {
        let mut header = Header { text: [b':'; Header::MAX], start: Header::MAX - 1 };
        loop {
            header.start -= 1;
            header.text[header.start] = b'0' + (length % 10) as u8;
            length /= 10;
            if length == 0 {
                return header;
            }
        }
    }
}

impl AsRef<[u8]> for Header {
    fn as_ref(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// The start and end of the string in a netstring; `None` until its colon has arrived.
#[inline]
fn string_range(bytes: &[u8], limit: usize) -> Result<Option<(usize, usize)>, FramingError> {
    let mut length = 0_usize;
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' if at > 0 && length == 0 => return Err(FramingError::LeadingZero),
            b'0'..=b'9' => {
                length = length.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
                if length > limit {
                    return Err(FramingError::StringTooLong { limit });
                }
            }
            b':' if at > 0 => return Ok(Some((at + 1, at + 1 + length))),
            _ => return Err(FramingError::NoDigit(byte)),
        }
    }
    Ok(None)
}

/// Delivers netstrings: `5:hello,`.
///
/// A malformed netstring ends the connection with a [`FramingError`], after the strings before it
/// have been delivered: a length over the limit (by default 99 999 bytes,
/// [`with_max_length`](Self::with_max_length)), a length that is not a number or has a leading
/// zero, a missing comma. See the [module](super) for the behaviour that all framers share.
///
/// ```
/// use couplet::protocols::{FramingError, NetstringReceiver, StringProtocol, StringTransport};
/// use couplet::testing::hold;
/// use couplet::Reason;
///
/// #[derive(Default)]
/// struct Collect(Vec<String>);
/// impl StringProtocol for Collect {
///     fn string_received(&mut self, _: &StringTransport, string: &[u8]) {
///         self.0.push(String::from_utf8_lossy(string).into());
///     }
///     fn connection_lost(&mut self, _: &StringTransport, reason: &Reason) {
///         assert_eq!(self.0, ["hello", "world"]);
///         assert_eq!(reason.downcast_ref(), Some(&FramingError::NoDigit(b'x')));
///     }
/// }
///
/// let mut held = hold(NetstringReceiver::new(Collect::default()));
/// held.push(b"5:hello,5:wor");
/// held.push(b"ld,xyz");
/// assert!(held.wire.saw_fin());
/// held.wire.fin();
/// held.settle();
/// assert!(held.connection.is_lost());
/// ```
#[derive(Debug)]
pub struct NetstringReceiver<P> {
    protocol: P,
    buffer: FrameBuffer,
    limit: usize,
}

impl<P: StringProtocol> NetstringReceiver<P> {
    /// Wraps `protocol`.
    pub fn new(protocol: P) -> NetstringReceiver<P> {
        NetstringReceiver { protocol, buffer: FrameBuffer::default(), limit: STRING_LIMIT }
    }

    /// Sets the maximum string length in bytes; the default is 99 999.
    #[must_use]
    pub fn with_max_length(mut self, bytes: usize) -> NetstringReceiver<P> {
        self.limit = cap_limit(bytes);
        self
    }

    /// The wrapped protocol.
    pub fn protocol(&mut self) -> &mut P {
        &mut self.protocol
    }

    fn transport(&self, transport: &Transport) -> StringTransport {
        StringTransport::new(transport, Format::Netstring)
    }
}

impl<P: StringProtocol> Framer for NetstringReceiver<P> {
    type Transport = StringTransport;

    #[inline]
    fn step(&mut self, transport: &StringTransport, bytes: &[u8]) -> Option<usize> {
        deliver(&mut self.protocol, transport, bytes, decode_netstring(bytes, self.limit))
    }

    #[inline]
    fn limit(&self) -> usize {
        Header::MAX + self.limit + 1
    }

    fn needs(&self, held: &[u8], _: &[u8]) -> usize {
        match string_range(held, self.limit) {
            Ok(Some((_, end))) => (end + 1).saturating_sub(held.len()),
            Ok(None) | Err(_) => 1,
        }
    }

    fn buffer(&mut self) -> &mut FrameBuffer {
        &mut self.buffer
    }
}

impl<P: StringProtocol> Protocol for NetstringReceiver<P> {
    forward_callbacks!();
    frame_callbacks!();
}

impl<P: StringProtocol> ProtocolExtension for NetstringReceiver<P> {
    forward_extension!();
}
