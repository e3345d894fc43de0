//! Bodies of requests and responses.
//!
//! Contract: 174, 174b, 175a, 176b.

use std::any::Any;
use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::iter;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

#[cfg(feature = "decompression")]
use super::client::decoding::{Coding, DecodedBody};
use super::client::pool::Lease;
use super::file_body::FileBody;
use super::handler::BoxError;
use super::http2::{Reason, Receiver};
use super::monitor::Exchange;
use couplet_core::hooks::LoopOwned;
use couplet_core::transport::FilePart;
use couplet_core::{DelayedCall, Failure, Reactor};

/// The body of a request or response, received on demand: unread bytes stay with the peer.
pub struct Body(Kind);

enum Kind {
    Raw(Raw),
    #[cfg(feature = "decompression")]
    Decoded(Box<DecodedBody>),
}

/// A body as the peer sent it, before decoding.
pub(super) struct Raw {
    source: Source,
    /// `None` for an empty body.
    progress: Option<Arc<Progress>>,
    /// Read timeout of a response body. The server's `Monitor` times request bodies.
    read_timeout: Option<LoopOwned<Rc<ReadTimeout>>>,
    /// Connection of a response, until its body is complete.
    lease: Option<LoopOwned<Box<Lease>>>,
}

/// Where a body comes from.
enum Source {
    Empty,
    Hyper(Incoming, Version),
    /// A request of our HTTP/2.
    Http2(Receiver),
}

/// Fails a body whose reader waits too long. Dropping it cancels the timer.
struct ReadTimeout {
    progress: Arc<Progress>,
    limit: Duration,
    /// Number of pieces received when the reader was last seen waiting.
    pieces: Cell<Option<usize>>,
    timer: Cell<Option<DelayedCall>>,
    reactor: Reactor,
}

impl Drop for ReadTimeout {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
    }
}

impl ReadTimeout {
    fn begin(
        reactor: &Reactor,
        limit: Duration,
        progress: Arc<Progress>,
    ) -> LoopOwned<Rc<ReadTimeout>> {
        let (pieces, timer) = (Cell::default(), Cell::default());
        let read_timeout =
            Rc::new(ReadTimeout { progress, limit, pieces, timer, reactor: reactor.clone() });
        read_timeout.schedule_check();
        LoopOwned::new(reactor, read_timeout)
    }

    fn schedule_check(self: &Rc<Self>) {
        self.pieces.set(self.progress.pieces_if_awaited());
        let weak = Rc::downgrade(self);
        let call = self.reactor.call_later(self.limit, move || {
            let Some(this) = weak.upgrade() else { return };
            match this.progress.pieces_if_awaited() {
                Some(pieces) if this.pieces.get() == Some(pieces) => this.progress.time_out(),
                _ => this.schedule_check(),
            }
        });
        self.timer.set(Some(call));
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// No bytes arrived within `body_timeout`, the [server's](super::HttpOptions::body_timeout) or
    /// the [client's](super::ClientOptions::body_timeout).
    #[error("reading the body timed out")]
    TimedOut,
    /// The body exceeds the limit passed to [`Body::bytes`].
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// The compressed body can't be decoded, because it is corrupt or truncated.
    #[error("cannot decode the body as {coding}: {error}")]
    Compressed {
        /// Content coding.
        coding: &'static str,
        /// Error of the decoder.
        error: io::Error,
    },
    /// The decoded body exceeds the client's `ClientOptions::max_decoded`.
    #[error("cannot decode the body: it exceeds {0} bytes when decompressed")]
    Bomb(u64),
    /// The peer ended the body before it was complete: by RST_STREAM with NO_ERROR, by GOAWAY, or
    /// by closing the connection.
    #[error("the body was cut off: its stream ended without END_STREAM")]
    Cut,
    /// Over HTTP/1.1, more bytes arrived with the body than its Content-Length declares. If they
    /// arrive later, the connection is closed and no response fails: RFC 9112, 6.3.
    #[error("more bytes arrived than the body's Content-Length declares")]
    Surplus,
    /// The client reset the stream of the body, or its body is invalid: an error code of RFC 9113, 7.
    #[error("the stream was reset with {}", Reason(*.code))]
    Reset {
        /// The error code.
        code: u32,
    },
    /// The peer aborted the body, or its framing is invalid.
    #[error("{}", format_with_causes(.0))]
    Broken(#[from] hyper::Error),
}

/// Progress of a body, shared with the timer that watches its peer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Number of pieces received.
    pieces: AtomicUsize,
    last: OnceLock<LastPiece>,
    reader: Mutex<BodyReader>,
}

/// A piece that ends a body.
#[derive(Debug)]
enum LastPiece {
    Trailers,
    Error(String),
}

#[derive(Debug, Default)]
enum BodyReader {
    #[default]
    Busy,
    /// The reader waits for more.
    Waiting(Waker),
    /// The reader fails once it has read the bytes that have arrived.
    TimedOut,
    /// The reader has read the whole body.
    Done,
}

impl Progress {
    /// The number of pieces received, if the reader waits for more.
    pub(super) fn pieces_if_awaited(&self) -> Option<usize> {
        let waits = matches!(*self.reader(), BodyReader::Waiting(_));
        waits.then(|| self.pieces.load(Ordering::Acquire))
    }

    fn reader(&self) -> MutexGuard<'_, BodyReader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(*self.reader(), BodyReader::Done)
    }

    /// Whether the body ended without trailers. If the trailers contain an empty line of a bare LF,
    /// hyper skips all bytes up to the next empty line of CRLF.
    pub(super) fn has_plain_end(&self) -> bool {
        self.has_ended() && !matches!(self.last.get(), Some(LastPiece::Trailers))
    }

    /// The error that ended the body.
    pub(super) fn error(&self) -> Option<&String> {
        match self.last.get()? {
            LastPiece::Trailers => None,
            LastPiece::Error(error) => Some(error),
        }
    }

    /// Fails the body after the bytes that have arrived, because its peer took too long.
    pub(super) fn time_out(&self) {
        let mut reader = self.reader();
        if matches!(*reader, BodyReader::Done) {
            return;
        }
        let before = std::mem::replace(&mut *reader, BodyReader::TimedOut);
        drop(reader);
        if let BodyReader::Waiting(waker) = before {
            waker.wake();
        }
    }

    /// Records the arrival of a piece, an error or the end.
    fn record_piece(&self, piece: Option<&Result<Frame<Bytes>, BodyError>>) {
        let mut reader = self.reader();
        let waits = matches!(*reader, BodyReader::Waiting(_));
        let waited = waits.then(|| std::mem::take(&mut *reader));
        drop(reader);
        drop(waited);
        self.pieces.fetch_add(1, Ordering::AcqRel);
        let last = match piece {
            Some(Ok(frame)) if frame.is_trailers() => LastPiece::Trailers,
            Some(Err(error)) => LastPiece::Error(error.to_string()),
            _ => return,
        };
        // Of several errors the first counts.
        let _ = self.last.set(last);
    }

    /// Registers the reader, unless it has timed out.
    fn wait(&self, cx: &Context<'_>) -> Result<(), BodyError> {
        let mut reader = self.reader();
        if matches!(*reader, BodyReader::TimedOut) {
            return Err(BodyError::TimedOut);
        }
        let before = std::mem::replace(&mut *reader, BodyReader::Waiting(cx.waker().clone()));
        drop(reader);
        drop(before);
        Ok(())
    }
}

impl Body {
    /// Wraps the body of a request; returns its progress unless the body is empty.
    pub(super) fn new(incoming: Incoming, version: Version) -> (Body, Option<Arc<Progress>>) {
        Body::from_source(Source::Hyper(incoming, version))
    }

    /// Wraps the body of a request of HTTP/2, `None` if it is empty.
    pub(super) fn from_receiver(receiver: Option<Receiver>) -> (Body, Option<Arc<Progress>>) {
        Body::from_source(receiver.map_or(Source::Empty, Source::Http2))
    }

    fn from_source(source: Source) -> (Body, Option<Arc<Progress>>) {
        let raw = Raw::new(source);
        let progress = raw.progress.clone();
        (Body(Kind::Raw(raw)), progress)
    }

    /// Wraps the body of a response, which holds its connection. Reading fails after waiting one to
    /// two times `limit` for a piece.
    pub(super) fn from_response(
        incoming: Incoming,
        version: Version,
        (reactor, limit): (&Reactor, Duration),
        lease: Option<Lease>,
    ) -> Body {
        let mut raw = Raw::new(Source::Hyper(incoming, version));
        raw.lease = lease.map(|lease| LoopOwned::new(reactor, Box::new(lease)));
        match raw.progress.clone() {
            Some(progress) => raw.read_timeout = Some(ReadTimeout::begin(reactor, limit, progress)),
            None => raw.end(),
        }
        Body(Kind::Raw(raw))
    }

    /// Decodes the body, to at most `limit` bytes.
    #[cfg(feature = "decompression")]
    pub(super) fn decode(self, coding: Coding, limit: u64) -> Body {
        match self.0 {
            Kind::Raw(raw) => Body(Kind::Decoded(Box::new(DecodedBody::new(coding, raw, limit)))),
            Kind::Decoded(_) => self,
        }
    }

    /// Returns the next piece as it arrived, or `None` at the end. Trailers are skipped.
    ///
    /// # Errors
    ///
    /// [`BodyError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            match self.frame().await.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => return Ok(Some(data)),
                Some(Err(_)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Reads the whole body, at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`BodyError`]; [`TooLong`](BodyError::TooLong) as soon as the body is known to exceed the
    /// limit.
    pub async fn bytes(mut self, limit: usize) -> Result<Bytes, BodyError> {
        if self.size_hint().lower() > limit as u64 {
            return Err(BodyError::TooLong(limit));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if piece.len() > limit - whole.len() {
                return Err(BodyError::TooLong(limit));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("size", &self.size_hint()).finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Raw(raw) => Pin::new(raw).poll_frame(cx),
            #[cfg(feature = "decompression")]
            Kind::Decoded(decoded) => decoded.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Raw(raw) => raw.is_end_stream(),
            #[cfg(feature = "decompression")]
            Kind::Decoded(decoded) => decoded.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Raw(raw) => raw.size_hint(),
            #[cfg(feature = "decompression")]
            Kind::Decoded(_) => SizeHint::default(),
        }
    }
}

impl http_body::Body for Raw {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = this.poll_source(cx);
        match (&polled, &this.progress) {
            (Poll::Pending, Some(progress)) => {
                if let Err(error) = progress.wait(cx) {
                    return Poll::Ready(Some(Err(error)));
                }
            }
            (Poll::Ready(piece), Some(progress)) => progress.record_piece(piece.as_ref()),
            (_, None) => {}
        }
        if matches!(polled, Poll::Ready(None)) || this.source.is_end_stream() {
            this.end();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        // A lease that is still held means surplus bytes, which turn the end into an error.
        self.source.is_end_stream() && self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Hyper(incoming, _) => incoming.size_hint(),
            Source::Http2(receiver) => receiver.size_hint(),
        }
    }
}

impl Source {
    fn is_end_stream(&self) -> bool {
        match self {
            Source::Empty => true,
            Source::Hyper(incoming, _) => incoming.is_end_stream(),
            Source::Http2(receiver) => receiver.is_end_stream(),
        }
    }
}

impl Raw {
    fn new(source: Source) -> Raw {
        let progress = (!source.is_end_stream()).then(Arc::<Progress>::default);
        Raw { source, progress, read_timeout: None, lease: None }
    }

    /// hyper silently ends a response's HTTP/2 body if its stream is reset with NO_ERROR, even if it is
    /// incomplete. Only END_STREAM completes a body: RFC 9113, 8.1.
    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (incoming, version) = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Http2(receiver) => return receiver.poll_frame(cx),
            Source::Hyper(incoming, version) => (incoming, *version),
        };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        if !matches!(polled, Poll::Ready(None)) {
            return polled.map_err(BodyError::from);
        }
        if version == Version::HTTP_2 && !incoming.is_end_stream() {
            return Poll::Ready(Some(Err(BodyError::Cut)));
        }
        let lease = self.lease.take_if(|lease| has_surplus(lease));
        Poll::Ready(lease.map(|_| Err(BodyError::Surplus)))
    }

    /// Ends a complete body and frees its connection, unless surplus bytes arrived.
    fn end(&mut self) {
        self.read_timeout = None;
        if let Some(progress) = &self.progress {
            let before = std::mem::replace(&mut *progress.reader(), BodyReader::Done);
            drop(before);
        }
        let lease = self.lease.take_if(|lease| !has_surplus(lease));
        if let Some(lease) = lease.and_then(LoopOwned::into_inner) {
            lease.return_to_pool();
        }
    }
}

fn has_surplus(lease: &LoopOwned<Box<Lease>>) -> bool {
    lease.get().is_some_and(|lease| lease.has_surplus())
}

/// Formats an error with its causes.
fn format_with_causes(error: &hyper::Error) -> String {
    let causes = iter::successors(error.source(), |&error: &&(dyn Error + 'static)| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Longest piece of a body that is held, in bytes; a longer piece is split over several turns.
const MAX_PIECE: usize = 64 * 1024;

/// How the client finds the end of a response body.
#[derive(Clone, Copy)]
pub(super) enum BodyEnd {
    /// By its length: this many bytes are still to come.
    Length(u64),
    /// By its chunks or frames.
    Framing,
    /// By the end of the connection.
    Connection,
}

pin_project_lite::pin_project! {
    /// The body of a response, whose exchange ends when the body and its last piece are dropped.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: Option<B>,
        // Pieces to be sent from files, in place of `body`.
        files: Option<FileBody>,
        // Remainder of a long piece, for later turns.
        rest: Bytes,
        end: BodyEnd,
        exchange: Rc<Exchange>,
    }

    impl<B> PinnedDrop for ResponseBody<B> {
        fn drop(this: Pin<&mut Self>) {
            this.exchange.end_pieces();
        }
    }
}

impl<B: 'static> ResponseBody<B> {
    pub(super) fn new(
        mut body: Option<B>,
        end: BodyEnd,
        exchange: Rc<Exchange>,
    ) -> ResponseBody<B> {
        exchange.set_ready(true);
        let any: &mut dyn Any = &mut body;
        let files = any.downcast_mut::<Option<FileBody>>().and_then(Option::take);
        ResponseBody { body, files, rest: Bytes::new(), end, exchange }
    }
}

/// The contents of a piece.
#[derive(Debug)]
pub(super) enum Content {
    Bytes(Bytes),
    File(FilePart),
}

impl Content {
    pub(super) fn len(&self) -> usize {
        match self {
            Content::Bytes(bytes) => bytes.len(),
            Content::File(part) => part.len(),
        }
    }

    /// Takes at most `count` bytes without a copy.
    fn take(&mut self, count: usize) -> Content {
        let count = count.min(self.len());
        match self {
            Content::Bytes(bytes) => Content::Bytes(bytes.split_to(count)),
            Content::File(part) => Content::File(part.split_to(count)),
        }
    }
}

/// Stands for a part of a file among the bytes that hyper writes: see [`is_file`].
static FILE_MARK: [u8; 16] = *b"a part of a file";

/// Whether bytes that hyper writes stand for the next part of a file, with all its bytes.
pub(super) fn is_file(bytes: &[u8]) -> bool {
    std::ptr::eq(bytes.as_ptr(), FILE_MARK.as_ptr())
}

/// A piece of a response, which is held until the client takes it.
pub(super) struct Piece {
    content: Content,
    length: usize,
    exchange: Rc<Exchange>,
}

impl Piece {
    fn new(content: Content, exchange: &Rc<Exchange>) -> Piece {
        exchange.add_piece(&content);
        Piece { length: content.len(), content, exchange: exchange.clone() }
    }

    /// Takes at most `count` bytes without a copy.
    pub(super) fn take(&mut self, count: usize) -> Content {
        let taken = self.content.take(count);
        self.exchange.note_progress();
        taken
    }

    pub(super) fn is_empty(&self) -> bool {
        self.content.len() == 0
    }

    /// Whether it holds memory; a part of a file does not.
    pub(super) fn holds_memory(&self) -> bool {
        matches!(self.content, Content::Bytes(_))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.exchange.release_piece(self.length, &self.content);
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.content.len()
    }

    fn chunk(&self) -> &[u8] {
        match &self.content {
            Content::Bytes(bytes) => bytes,
            // `Io` writes the whole part in its place, however short the mark is.
            Content::File(part) => &FILE_MARK[..part.len().min(FILE_MARK.len())],
        }
    }

    fn advance(&mut self, count: usize) {
        match &mut self.content {
            Content::Bytes(bytes) => bytes.advance(count),
            Content::File(part) => part.advance(count),
        }
        self.exchange.note_progress();
    }
}

/// Checks a frame, or the end of the body, against the declared length. The sender of the response
/// would pass off a short body as complete and truncate a long one: RFC 9110, 8.6.
fn check_declared_length<E: Into<Failure>>(
    frame: Option<Result<Frame<Content>, E>>,
    end: &mut BodyEnd,
) -> Option<Result<Frame<Content>, BoxError>> {
    let count = match &frame {
        Some(Ok(frame)) => frame.data_ref().map(|data| data.len() as u64),
        Some(Err(_)) => return frame.map(|failed| failed.map_err(boxed)),
        None => None,
    };
    let BodyEnd::Length(missing) = end else {
        return frame.map(|frame| frame.map_err(boxed));
    };
    let left = match count {
        Some(count) => missing.checked_sub(count),
        None => (*missing == 0).then_some(0),
    };
    let Some(left) = left else {
        log_error!(?missing, "a response body does not match its declared length");
        return Some(Err("the body does not match its declared length".into()));
    };
    *missing = left;
    frame.map(|frame| frame.map_err(boxed))
}

fn boxed(error: impl Into<Failure>) -> BoxError {
    error.into().boxed()
}

impl<B: http_body::Body<Data = Bytes, Error: Into<Failure>>> http_body::Body for ResponseBody<B> {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = self.project();
        let body = this.body.as_pin_mut();
        if body.is_none() && this.files.is_none() {
            return Poll::Ready(None);
        }
        ready!(this.exchange.poll_turn(cx));
        let rest = std::mem::take(this.rest);
        let polled = match (body, this.files) {
            _ if !rest.is_empty() => Poll::Ready(Some(Ok(Frame::data(Content::Bytes(rest))))),
            (Some(body), _) => body.poll_frame(cx).map(|frame| {
                let frame = frame.map(|frame| Ok(frame?.map_data(Content::Bytes)));
                check_declared_length::<B::Error>(frame, this.end)
            }),
            (None, files) => {
                let piece = files.as_mut().and_then(FileBody::next_piece);
                let frame = piece.map(|piece| Ok(Frame::data(piece)));
                Poll::Ready(check_declared_length::<BoxError>(frame, this.end))
            }
        };
        this.exchange.set_ready(polled.is_ready());
        if polled.is_ready() {
            this.exchange.end_reservation();
        }
        if matches!(this.end, BodyEnd::Connection) && matches!(polled, Poll::Ready(Some(Err(_)))) {
            this.exchange.abort();
        }
        let polled = polled.map_ok(|frame| {
            frame.map_data(|mut piece| {
                if let Content::Bytes(bytes) = &mut piece {
                    *this.rest = bytes.split_off(bytes.len().min(MAX_PIECE));
                }
                Piece::new(piece, this.exchange)
            })
        });
        this.exchange.end_turn();
        polled
    }

    fn is_end_stream(&self) -> bool {
        let is_whole = self.rest.is_empty() && !matches!(self.end, BodyEnd::Length(1..));
        is_whole
            && self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
            && self.files.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = match (&self.body, &self.files) {
            (Some(body), _) => body.size_hint(),
            (None, Some(files)) => files.size_hint(),
            (None, None) => return SizeHint::with_exact(0),
        };
        match (hint, self.rest.len() as u64) {
            (hint, 0) => hint,
            (hint, rest) => hint
                .exact()
                .map_or_else(SizeHint::default, |left| SizeHint::with_exact(left + rest)),
        }
    }
}
