//! [`Event`]: the peer's actions.

use bytes::Bytes;

use crate::{Code, Fields, Head};

/// An action of the peer, in the order of its frames.
///
/// A server's stream begins with [`Request`](Event::Request). On a client's, the answer begins with
/// [`Response`](Event::Response), perhaps behind [`Informational`](Event::Informational). Unless
/// the head `ends`, pieces of the body and perhaps trailers follow, then [`End`](Event::End).
/// [`Reset`](Event::Reset) may come at any time, and is the last event of its stream. After an
/// [`Error`](crate::Error) no stream gets any further event.
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
    /// An informational head, such as 103; others may follow, and the final one. RFC 9110, 15.2.
    Informational {
        /// Number of the stream.
        stream: u32,
        /// From 100 to 199, but 101.
        status: u16,
        /// Valid fields, without pseudo-headers.
        fields: Fields,
    },
    /// The final head of a valid response.
    Response {
        /// Number of the stream.
        stream: u32,
        /// From 200 to 999.
        status: u16,
        /// Valid fields, without pseudo-headers.
        fields: Fields,
        /// The length of the body, if it is known: by Content-Length, or because there is no body.
        length: Option<u64>,
        /// Whether the response is complete, without a body.
        ends: bool,
    },
    /// Bytes of a body; several frames in one receive are joined. Until
    /// [`Connection::release`](crate::Connection::release), the bytes count against
    /// [`Options::connection_window`](crate::Options::connection_window).
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
    /// The end of a body. If its head has a Content-Length, the body has this length. A response to
    /// HEAD, or with the status 204 or 304, has an empty one.
    End {
        /// Number of the stream.
        stream: u32,
    },
    /// The stream is closed, and nothing can be sent: the peer reset it, or sent a fault, for which
    /// the engine reset it. A server that has answered completely may reset a stream with
    /// [`Code::NO_ERROR`], because it needs no more of the request.
    ///
    /// With [`Code::REFUSED_STREAM`], the server did not process the request, which may be sent
    /// again on another connection: it reset the stream, or its GOAWAY excludes it. RFC 9113, 8.7.
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
    /// The peer sent GOAWAY: there are no new requests. Open streams continue.
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
