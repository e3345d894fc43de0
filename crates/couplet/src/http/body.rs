//! The bodies of requests, and those of answers.

use std::error::Error;
use std::iter;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::watch::Exchange;

/// The body of a request, as it arrives: what is not read stays with the client.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    /// `None` where there is nothing to wait for.
    progress: Option<Arc<Progress>>,
}

/// Why the body of a request could not be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// No more of it came for as long as [`body_timeout`](super::HttpOptions::body_timeout) says.
    #[error("no more of the body came in time")]
    TimedOut,
    /// The client broke it off, or its framing is wrong.
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
    /// A body and its progress, unless there is none to make.
    pub(super) fn new(incoming: Incoming) -> (Body, Option<Arc<Progress>>) {
        let is_empty = http_body::Body::is_end_stream(&incoming);
        let progress = (!is_empty).then(Arc::<Progress>::default);
        (Body { incoming, progress: progress.clone() }, progress)
    }
}

impl http_body::Body for Body {
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
    /// The body of an answer, which ends its exchange when it is dropped.
    pub(super) struct Outgoing<B> {
        #[pin]
        body: Option<B>,
        exchange: Exchange,
    }
}

impl<B> Outgoing<B> {
    pub(super) fn new(body: Option<B>, exchange: Exchange) -> Outgoing<B> {
        Outgoing { body, exchange }
    }
}

impl<B: http_body::Body<Data = Bytes>> http_body::Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
        let polled = body.poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.exchange.lend(data);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}
