//! Answers that are compressed: RFC 9110, 8.4. The bytes that a body may be decoded to are limited, and
//! so is what is decoded before other tasks have their turn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_compression::futures::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use async_compression::zstd::DParameter;
use bytes::{Buf, Bytes, BytesMut};
use futures_io::{AsyncBufRead, AsyncRead};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, RANGE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body as _, Frame};

use crate::http::body::{Body, BodyError, Raw};

/// What servers are asked for, the best first; servers choose.
const ACCEPTED: HeaderValue = HeaderValue::from_static("zstd, br, gzip, deflate");

/// The longest piece of a decoded body.
const PIECE: usize = 16 * 1024;

/// The most bytes that are decoded from what has come, before other tasks have their turn.
const AT_ONCE: usize = 256 * 1024;

/// The window of zstd, as a power of two: what RFC 9659 allows.
const WINDOW: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn of(name: &str) -> Option<Coding> {
        let known = [Coding::Gzip, Coding::Deflate, Coding::Brotli, Coding::Zstd];
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        known.into_iter().find(|coding| coding.name().eq_ignore_ascii_case(name))
    }

    fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
            Coding::Brotli => "br",
            Coding::Zstd => "zstd",
        }
    }
}

/// Asks for compressed answers, unless the caller says what to ask for, or wants a part: that would be a
/// part of the compressed bytes.
pub(super) fn ask(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCEPT_ENCODING) && !headers.contains_key(RANGE) {
        headers.insert(ACCEPT_ENCODING, ACCEPTED);
    }
}

/// An answer with its body decoded, where it has one in a coding that is known. An answer to HEAD, and
/// one of 204 or 304, has none, even where HTTP/2 ends its stream later: its head is about another one.
pub(super) fn decoded(method: &Method, answer: Response<Body>, limit: u64) -> Response<Body> {
    let is_whole = !matches!(
        answer.status(),
        StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
    );
    let has_body = *method != Method::HEAD && is_whole && !answer.body().is_end_stream();
    let Some(coding) = coding_of(answer.headers()).filter(|_| has_body) else { return answer };
    let (mut head, body) = answer.into_parts();
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, body.decoded(coding, limit))
}

/// The coding of an answer, if it has one, and only one.
fn coding_of(headers: &HeaderMap) -> Option<Coding> {
    let values = headers.get_all(CONTENT_ENCODING).into_iter().map(|value| value.to_str().ok());
    let values = values.collect::<Option<Vec<_>>>()?;
    let names = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let mut names = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
    let coding = Coding::of(names.next()?)?;
    names.next().is_none().then_some(coding)
}

/// A body that is decoded as it is read.
pub(in crate::http) struct Decoded {
    coding: Coding,
    state: State,
    /// Zeroes, to be decoded into.
    room: BytesMut,
    /// How much more may come.
    left: u64,
    limit: u64,
    /// Bytes decoded since other tasks had their turn.
    at_once: usize,
}

enum State {
    /// Nothing has come.
    Begun(Box<Pieces>),
    Decoding(Box<dyn Decoder>),
    Ended,
}

impl Decoded {
    pub(in crate::http) fn new(coding: Coding, raw: Raw, limit: u64) -> Decoded {
        let pieces = Pieces { raw, piece: Bytes::new(), trailers: None, has_ended: false };
        let (state, room) = (State::Begun(Box::new(pieces)), BytesMut::new());
        Decoded { coding, state, room, left: limit, limit, at_once: 0 }
    }

    pub(in crate::http) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    pub(in crate::http) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.poll_next(cx));
        if !matches!(&frame, Ok(Some(frame)) if frame.is_data()) {
            self.state = State::Ended;
        }
        Poll::Ready(frame.map_err(|error| self.wrong(error)).transpose())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        let decoder = match &mut self.state {
            State::Ended => return Poll::Ready(Ok(None)),
            State::Decoding(decoder) => decoder,
            State::Begun(pieces) => {
                let first = ready!(Pin::new(&mut **pieces).poll_fill_buf(cx))?.first().copied();
                // A body without a byte stands for itself.
                let Some(first) = first else { return Poll::Ready(Ok(pieces.last())) };
                let State::Begun(pieces) = std::mem::replace(&mut self.state, State::Ended) else {
                    return Poll::Ready(Ok(None));
                };
                self.state = State::Decoding(decoder_of(self.coding, first, *pieces));
                return self.poll_next(cx);
            }
        };
        if self.at_once >= AT_ONCE {
            self.at_once = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.room.is_empty() {
            self.room = BytesMut::zeroed(PIECE);
        }
        let polled = Pin::new(&mut **decoder).poll_read(cx, &mut self.room);
        if polled.is_pending() {
            self.at_once = 0;
        }
        let n = match ready!(polled) {
            Ok(n) => n,
            Err(_) if decoder.pieces().has_ended => return Poll::Ready(Err(cut())),
            Err(error) => return Poll::Ready(Err(error)),
        };
        if n == 0 {
            let pieces = decoder.pieces();
            let is_over = ready!(Pin::new(&mut *pieces).poll_fill_buf(cx))?.is_empty();
            return Poll::Ready(if is_over { Ok(pieces.last()) } else { Err(more()) });
        }
        self.at_once += n;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other(BodyError::Bomb(self.limit)))),
        }
        Poll::Ready(Ok(Some(Frame::data(self.room.split_to(n).freeze()))))
    }

    fn wrong(&self, error: io::Error) -> BodyError {
        let coding = self.coding.name();
        error.downcast().unwrap_or_else(|error| BodyError::Compressed { coding, error })
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early")
}

fn more() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "bytes follow its end")
}

/// A decoder of pieces.
trait Decoder: AsyncRead + Send + Sync + Unpin {
    fn pieces(&mut self) -> &mut Pieces;
}

macro_rules! decoders {
    ($($decoder:ident)*) => {$(
        impl Decoder for $decoder<Pieces> {
            fn pieces(&mut self) -> &mut Pieces {
                self.get_mut()
            }
        }
    )*};
}

decoders!(BrotliDecoder DeflateDecoder GzipDecoder ZlibDecoder ZstdDecoder);

/// A decoder of a body with this first byte.
fn decoder_of(coding: Coding, first: u8, pieces: Pieces) -> Box<dyn Decoder> {
    match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(pieces);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        // Of zlib; the next one is for servers that leave zlib's frame out: RFC 9110, 8.4.1.2. In a
        // stream without it, such a byte would be padding that is not zero.
        Coding::Deflate if first & 0xf == 8 => Box::new(ZlibDecoder::new(pieces)),
        Coding::Deflate => Box::new(DeflateDecoder::new(pieces)),
        Coding::Brotli => Box::new(BrotliDecoder::new(pieces)),
        Coding::Zstd => {
            let window = DParameter::window_log_max(WINDOW);
            let mut decoder = ZstdDecoder::with_params(pieces, &[window]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
    }
}

/// A body as bytes to be decoded.
struct Pieces {
    raw: Raw,
    piece: Bytes,
    trailers: Option<HeaderMap>,
    has_ended: bool,
}

impl Pieces {
    /// What follows the bytes.
    fn last(&mut self) -> Option<Frame<Bytes>> {
        self.trailers.take().map(Frame::trailers)
    }
}

impl AsyncBufRead for Pieces {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.piece.is_empty() && !this.has_ended {
            let frame = ready!(Pin::new(&mut this.raw).poll_frame(cx)).transpose();
            match frame.map_err(io::Error::other)?.map(Frame::into_data) {
                Some(Ok(piece)) => this.piece = piece,
                Some(Err(frame)) => this.trailers = frame.into_trailers().ok(),
                None => this.has_ended = true,
            }
        }
        Poll::Ready(Ok(&this.piece))
    }

    fn consume(self: Pin<&mut Self>, n: usize) {
        self.get_mut().piece.advance(n);
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let piece = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&piece[..n]);
        self.consume(n);
        Poll::Ready(Ok(n))
    }
}
