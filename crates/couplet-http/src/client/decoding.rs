//! Decodes compressed responses: RFC 9110, 8.4. The decoded length of a body is limited, and so are
//! the bytes decoded before other tasks get their turn.

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

use crate::body::{Body, BodyError, Raw};

/// Codings to ask for, in order of preference; the server chooses.
const ACCEPTED: HeaderValue = HeaderValue::from_static("zstd, br, gzip, deflate");

/// Maximum length of a decoded piece, in bytes.
const PIECE: usize = 16 * 1024;

/// Maximum number of bytes decoded before other tasks get their turn.
const MAX_PER_TURN: usize = 256 * 1024;

/// Largest zstd window, as a power of two: the limit of RFC 9659.
const MAX_WINDOW_LOG: u32 = 23;

/// The coding of a compressed body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn from_name(name: &str) -> Option<Coding> {
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

/// Asks for compressed responses, unless the caller sets `accept-encoding` or requests a range,
/// which would be a range of the compressed bytes.
pub(super) fn offer_codings(headers: &mut HeaderMap) {
    if !headers.contains_key(ACCEPT_ENCODING) && !headers.contains_key(RANGE) {
        headers.insert(ACCEPT_ENCODING, ACCEPTED);
    }
}

/// Decodes the body of a response with a known coding. Responses to HEAD, and those with 204 or
/// 304, have no body, even if HTTP/2 ends their stream later: their headers describe another
/// response.
pub(super) fn decode(method: &Method, answer: Response<Body>, limit: u64) -> Response<Body> {
    let is_whole = !matches!(
        answer.status(),
        StatusCode::NO_CONTENT | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED
    );
    let has_body = *method != Method::HEAD && is_whole && !answer.body().is_end_stream();
    let Some(coding) = coding_of(answer.headers()).filter(|_| has_body) else { return answer };
    let (mut head, body) = answer.into_parts();
    head.headers.remove(CONTENT_ENCODING);
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, body.decode(coding, limit))
}

/// Returns the coding of a response with exactly one known coding.
fn coding_of(headers: &HeaderMap) -> Option<Coding> {
    let values = headers.get_all(CONTENT_ENCODING).into_iter().map(|value| value.to_str().ok());
    let values = values.collect::<Option<Vec<_>>>()?;
    let names = values.iter().flat_map(|value| value.split(',')).map(str::trim);
    let mut names = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
    let coding = Coding::from_name(names.next()?)?;
    names.next().is_none().then_some(coding)
}

/// A body that is decoded while it is read.
pub(crate) struct DecodedBody {
    coding: Coding,
    state: DecodeStage,
    /// Zeroed buffer to decode into.
    // PIECE bytes, allocated before each read.
    output: BytesMut,
    /// Number of decoded bytes still allowed.
    left: u64,
    limit: u64,
    /// Bytes decoded since other tasks had their turn.
    decoded_in_turn: usize,
}

enum DecodeStage {
    /// No bytes have arrived.
    Unstarted(Box<Pieces>),
    Decoding(Box<dyn Decoder>),
    Ended,
}

impl DecodedBody {
    pub(crate) fn new(coding: Coding, raw: Raw, limit: u64) -> DecodedBody {
        let pieces = Pieces { raw: Some(raw), piece: Bytes::new(), trailers: None };
        let (state, output) = (DecodeStage::Unstarted(Box::new(pieces)), BytesMut::new());
        DecodedBody { coding, state, output, left: limit, limit, decoded_in_turn: 0 }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, DecodeStage::Ended)
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.poll_next(cx));
        if !matches!(&frame, Ok(Some(frame)) if frame.is_data()) {
            self.state = DecodeStage::Ended;
        }
        Poll::Ready(frame.map_err(|error| self.body_error(error)).transpose())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Frame<Bytes>>>> {
        let decoder = match &mut self.state {
            DecodeStage::Ended => return Poll::Ready(Ok(None)),
            DecodeStage::Decoding(decoder) => decoder,
            DecodeStage::Unstarted(pieces) => {
                let first = ready!(Pin::new(&mut **pieces).poll_fill_buf(cx))?.first().copied();
                // An empty body needs no decoding.
                let Some(first) = first else { return Poll::Ready(Ok(pieces.last())) };
                let DecodeStage::Unstarted(pieces) =
                    std::mem::replace(&mut self.state, DecodeStage::Ended)
                else {
                    return Poll::Ready(Ok(None));
                };
                self.state = DecodeStage::Decoding(new_decoder(self.coding, first, *pieces));
                return self.poll_next(cx);
            }
        };
        if self.decoded_in_turn >= MAX_PER_TURN {
            self.decoded_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.output.is_empty() {
            self.output = BytesMut::zeroed(PIECE);
        }
        let polled = Pin::new(&mut **decoder).poll_read(cx, &mut self.output);
        if polled.is_pending() {
            self.decoded_in_turn = 0;
        }
        let n = match ready!(polled) {
            Ok(n) => n,
            Err(_) if decoder.pieces().raw.is_none() => return Poll::Ready(Err(truncated())),
            Err(error) => return Poll::Ready(Err(error)),
        };
        if n == 0 {
            let pieces = decoder.pieces();
            let is_over = ready!(Pin::new(&mut *pieces).poll_fill_buf(cx))?.is_empty();
            return Poll::Ready(if is_over { Ok(pieces.last()) } else { Err(trailing_bytes()) });
        }
        self.decoded_in_turn += n;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Err(io::Error::other(BodyError::Bomb(self.limit)))),
        }
        Poll::Ready(Ok(Some(Frame::data(self.output.split_to(n).freeze()))))
    }

    fn body_error(&self, error: io::Error) -> BodyError {
        let coding = self.coding.name();
        error.downcast().unwrap_or_else(|error| BodyError::Compressed { coding, error })
    }
}

fn truncated() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the compressed data is truncated")
}

fn trailing_bytes() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "bytes follow the end of the compressed data")
}

/// A decoder that reads `Pieces`.
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

/// Creates a decoder for a body that begins with `first`.
fn new_decoder(coding: Coding, first: u8, pieces: Pieces) -> Box<dyn Decoder> {
    match coding {
        Coding::Gzip => {
            let mut decoder = GzipDecoder::new(pieces);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
        // `deflate` means zlib; some servers omit its header: RFC 9110, 8.4.1.2. In a raw deflate
        // stream, such a first byte would mean padding that is not zero.
        Coding::Deflate if first & 0xf == 8 => Box::new(ZlibDecoder::new(pieces)),
        Coding::Deflate => Box::new(DeflateDecoder::new(pieces)),
        Coding::Brotli => Box::new(BrotliDecoder::new(pieces)),
        Coding::Zstd => {
            let window = DParameter::window_log_max(MAX_WINDOW_LOG);
            let mut decoder = ZstdDecoder::with_params(pieces, &[window]);
            decoder.multiple_members(true);
            Box::new(decoder)
        }
    }
}

/// The compressed bytes of a body.
struct Pieces {
    /// `None` once the body has ended.
    raw: Option<Raw>,
    piece: Bytes,
    trailers: Option<HeaderMap>,
}

impl Pieces {
    /// Returns the trailers, which follow the bytes.
    fn last(&mut self) -> Option<Frame<Bytes>> {
        self.trailers.take().map(Frame::trailers)
    }
}

impl AsyncBufRead for Pieces {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.piece.is_empty()
            && let Some(raw) = &mut this.raw
        {
            let frame = ready!(Pin::new(raw).poll_frame(cx)).transpose();
            match frame.map_err(io::Error::other)?.map(Frame::into_data) {
                Some(Ok(piece)) => this.piece = piece,
                Some(Err(frame)) => this.trailers = frame.into_trailers().ok(),
                None => this.raw = None,
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
