//! [`Event`]: the client's actions.

use bytes::Bytes;

use crate::{Code, Fields, Head};

/// An action of the client, in the order of its frames.
///
/// A stream begins with [`Request`](Event::Request). Unless that one `ends`, pieces of the body and
/// perhaps trailers follow, then [`End`](Event::End). [`Reset`](Event::Reset) may come at any time,
/// and is the last event of its stream. After an [`Error`](crate::Error) no stream gets any further
/// event.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A valid request.
    Request {
        /// Number of the stream: odd, and higher than all before.
        stream: u32,
        /// Method, target and fields.
        head: Head,
        /// Whether the request is complete, without a body.
        ends: bool,
    },
    /// Bytes of a body; several frames in one receive are joined. They count against
    /// [`Options::connection_window`](crate::Options::connection_window) until
    /// [`Connection::release`](crate::Connection::release).
    Data {
        /// Number of the stream.
        stream: u32,
        /// The bytes, without padding; never empty.
        bytes: Bytes,
    },
    /// Trailers; [`End`](Event::End) follows.
    Trailers {
        /// Number of the stream.
        stream: u32,
        /// Valid fields, without pseudo-headers.
        fields: Fields,
    },
    /// The end of a body. If the request has a Content-Length, the body has this length.
    End {
        /// Number of the stream.
        stream: u32,
    },
    /// The stream is closed, and its answer can't be sent: the client reset it, or sent a fault,
    /// for which the engine reset it.
    Reset {
        /// Number of the stream.
        stream: u32,
        /// The code of the RST_STREAM.
        code: Code,
    },
    /// At most half of [`Options::max_unsent`](crate::Options::max_unsent) bytes of the stream are
    /// left after a [`send`](crate::Connection::send) that reached that limit: producers continue.
    Writable {
        /// Number of the stream.
        stream: u32,
    },
    /// The client sent GOAWAY: it sends no new requests. Open streams continue.
    GoneAway {
        /// [`Code::NO_ERROR`] if it leaves without a fault.
        code: Code,
    },
    /// The answer to [`Connection::ping`](crate::Connection::ping).
    Pong {
        /// The bytes of the ping.
        payload: [u8; 8],
    },
}
