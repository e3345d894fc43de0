//! The bodies of requests, and those of answers.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io;
use std::iter;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

#[cfg(feature = "decompression")]
use super::client::decoding::{Coding, Decoded};
use super::watch::Exchange;
use crate::stream::homing::Homing;
use crate::{DelayedCall, Reactor};

/// The body of a request, or of an answer to one, as it arrives: what is not read stays with the peer.
pub struct Body(Kind);

enum Kind {
    Raw(Raw),
    #[cfg(feature = "decompression")]
    Decoded(Box<Decoded>),
}

/// A body as the peer has sent it.
pub(super) struct Raw {
    incoming: Incoming,
    /// `None` where there is nothing to wait for.
    progress: Option<Arc<Progress>>,
    /// Where no connection's watch looks after it.
    patience: Option<Homing<Rc<Patience>>>,
}

/// Looks at a body from time to time, until it is dropped.
struct Patience {
    progress: Arc<Progress>,
    limit: Duration,
    /// The pieces that had come when the service was last seen to wait.
    pieces: Cell<Option<usize>>,
    timer: Cell<Option<DelayedCall>>,
    reactor: Reactor,
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.cancel();
        }
    }
}

impl Patience {
    fn begin(reactor: &Reactor, limit: Duration, progress: Arc<Progress>) -> Homing<Rc<Patience>> {
        let (pieces, timer) = (Cell::default(), Cell::default());
        let patience =
            Rc::new(Patience { progress, limit, pieces, timer, reactor: reactor.clone() });
        patience.look_later();
        Homing::new(reactor, patience)
    }

    fn look_later(self: &Rc<Self>) {
        self.pieces.set(self.progress.awaited());
        let weak = Rc::downgrade(self);
        let call = self.reactor.call_later(self.limit, move || {
            let Some(this) = weak.upgrade() else { return };
            match this.progress.awaited() {
                Some(pieces) if this.pieces.get() == Some(pieces) => this.progress.fail(),
                _ => this.look_later(),
            }
        });
        self.timer.set(Some(call));
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// No more of it came for as long as `body_timeout` says: the server's
    /// [option](super::HttpOptions::body_timeout), or the client's
    /// [one](super::ClientOptions::body_timeout).
    #[error("no more of the body came in time")]
    TimedOut,
    /// It is longer than [`Body::bytes`] was to take.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// It is compressed, and can't be decoded: it is corrupt, or ends too early.
    #[error("the body can't be decoded as {coding}: {error}")]
    Compressed {
        /// Its content coding.
        coding: &'static str,
        /// What is wrong with it.
        error: io::Error,
    },
    /// It is compressed, and decoded longer than the client's `ClientOptions::max_decoded`.
    #[error("the body is compressed, and decoded longer than {0} bytes")]
    Bomb(u64),
    /// The peer broke it off, or its framing is wrong.
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

/// How far a body has come, for whoever watches its client.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The pieces that have come.
    pieces: AtomicUsize,
    /// The service waits for more.
    is_awaited: AtomicBool,
    has_ended: AtomicBool,
    has_trailers: AtomicBool,
    /// Why it could not be read to its end.
    broken: OnceLock<String>,
    is_late: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Progress {
    /// The pieces that have come, if the service waits for more.
    pub(super) fn awaited(&self) -> Option<usize> {
        self.is_awaited.load(Ordering::Acquire).then(|| self.pieces.load(Ordering::Acquire))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Whether it ended without trailers. hyper skips what follows an empty line of a bare LF among
    /// them, up to the next one of CRLF.
    pub(super) fn has_plain_end(&self) -> bool {
        self.has_ended() && !self.has_trailers.load(Ordering::Acquire)
    }

    pub(super) fn broken(&self) -> Option<&String> {
        self.broken.get()
    }

    /// The client took too long.
    pub(super) fn fail(&self) {
        self.is_late.store(true, Ordering::Release);
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        let before = waker.replace(cx.waker().clone());
        drop(waker);
        drop(before);
        self.is_awaited.store(true, Ordering::Release);
    }
}

impl Body {
    /// A body and its progress, unless there is none to make. The limit is how long it may pause while
    /// it is awaited: it fails after once to twice this time.
    pub(super) fn new(
        incoming: Incoming,
        limit: Option<(&Reactor, Duration)>,
    ) -> (Body, Option<Arc<Progress>>) {
        let is_empty = http_body::Body::is_end_stream(&incoming);
        let progress = (!is_empty).then(Arc::<Progress>::default);
        let limited = progress.clone().zip(limit);
        let patience =
            limited.map(|(progress, (reactor, limit))| Patience::begin(reactor, limit, progress));
        let raw = Raw { incoming, progress: progress.clone(), patience };
        (Body(Kind::Raw(raw)), progress)
    }

    /// The same body, decoded to at most `limit` bytes.
    #[cfg(feature = "decompression")]
    pub(super) fn decoded(self, coding: Coding, limit: u64) -> Body {
        match self.0 {
            Kind::Raw(raw) => Body(Kind::Decoded(Box::new(Decoded::new(coding, raw, limit)))),
            Kind::Decoded(_) => self,
        }
    }

    /// The next piece of it, as it came; `None` at its end. Trailers are passed over.
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

    /// All of it, at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`BodyError`]; [`TooLong`](BodyError::TooLong) as soon as that is known.
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
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        let Some(progress) = &this.progress else { return polled.map_err(BodyError::from) };
        match &polled {
            Poll::Pending if progress.is_late.load(Ordering::Acquire) => {
                return Poll::Ready(Some(Err(BodyError::TimedOut)));
            }
            Poll::Pending => progress.wait(cx),
            Poll::Ready(piece) => {
                progress.is_awaited.store(false, Ordering::Release);
                progress.pieces.fetch_add(1, Ordering::AcqRel);
                match piece {
                    Some(Ok(frame)) if frame.is_trailers() => {
                        progress.has_trailers.store(true, Ordering::Release);
                    }
                    Some(Err(error)) => drop(progress.broken.set(described(error))),
                    _ => {}
                }
                if piece.is_none() || http_body::Body::is_end_stream(&this.incoming) {
                    progress.has_ended.store(true, Ordering::Release);
                    this.patience = None;
                }
            }
        }
        polled.map_err(BodyError::from)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.incoming)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.incoming)
    }
}

/// An error with its causes.
fn described(error: &hyper::Error) -> String {
    let causes = iter::successors(error.source(), |&error: &&(dyn Error + 'static)| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pin_project_lite::pin_project! {
    /// The body of an answer. Its exchange ends when it and its last piece are dropped.
    pub(super) struct Outgoing<B> {
        #[pin]
        body: Option<B>,
        exchange: Rc<Exchange>,
    }
}

impl<B> Outgoing<B> {
    pub(super) fn new(body: Option<B>, exchange: Exchange) -> Outgoing<B> {
        exchange.set_ready(true);
        Outgoing { body, exchange: Rc::new(exchange) }
    }
}

/// A piece of an answer, which hyper holds until the client takes it.
pub(super) struct Piece {
    bytes: Bytes,
    exchange: Rc<Exchange>,
}

impl Piece {
    fn new(bytes: Bytes, exchange: &Rc<Exchange>) -> Piece {
        exchange.add_piece();
        Piece { bytes, exchange: exchange.clone() }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.exchange.drop_piece();
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.exchange.moved();
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Outgoing<B> {
    type Data = Piece;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, B::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let polled = body.poll_frame(cx);
        this.exchange.set_ready(polled.is_ready());
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.exchange.lend(data);
        }
        polled.map_ok(|frame| frame.map_data(|bytes| Piece::new(bytes, this.exchange)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
