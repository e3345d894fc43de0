//! [`Inbox`]: the body of a request, from the connection to its reader on any thread.
//!
//! Contract: 174a, 176b.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http_body::{Frame, SizeHint};

use super::bell::Bell;
use super::frame::Reason;
use super::streams::Key;
use crate::body::BodyError;

pub(super) struct Inbox {
    state: Mutex<InboxState>,
    bell: Arc<Bell>,
    key: Key,
}

struct InboxState {
    data: BytesMut,
    end: End,
    /// The declared bytes that were not read.
    missing: Option<u64>,
    reader: Option<Waker>,
    report: Report,
}

/// The wait for a 100 (Continue).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expectation {
    #[default]
    None,
    /// The client waits for it.
    Client,
    /// The client waits for it, and the reader waits for the client.
    Both,
}

impl Expectation {
    pub(super) fn of_headers(headers: &HeaderMap) -> Expectation {
        match headers.get(header::EXPECT) {
            Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                Expectation::Client
            }
            _ => Expectation::None,
        }
    }
}

enum End {
    Open,
    /// END_STREAM has arrived, perhaps with trailers.
    Ended(Option<HeaderMap>),
    Reset(Reason),
    /// The connection has ended.
    Cut,
}

/// Actions of the reader since the last report.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    /// Number of bytes read.
    pub(super) consumed: usize,
    pub(super) expectation: Expectation,
    pub(super) is_abandoned: bool,
}

impl Inbox {
    pub(super) fn new(
        bell: &Arc<Bell>,
        key: Key,
        missing: Option<u64>,
        expectation: Expectation,
    ) -> Arc<Inbox> {
        let state = InboxState {
            data: BytesMut::new(),
            end: End::Open,
            missing,
            reader: None,
            report: Report { expectation, ..Report::default() },
        };
        Arc::new(Inbox { state: Mutex::new(state), bell: bell.clone(), key })
    }

    fn state(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the reader.
    fn change(&self, change: impl FnOnce(&mut InboxState)) {
        let mut state = self.state();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(super) fn push(&self, data: &[u8]) {
        let mut dropped = 0;
        self.change(|state| {
            if state.report.expectation == Expectation::Client {
                state.report.expectation = Expectation::None;
            }
            if state.report.is_abandoned {
                dropped = data.len();
            } else {
                state.data.extend_from_slice(data);
            }
        });
        if dropped > 0 {
            self.report(dropped);
        }
    }

    /// Records END_STREAM.
    pub(super) fn end(&self, trailers: Option<HeaderMap>) {
        self.change(|state| state.end = End::Ended(trailers));
    }

    /// Fails an incomplete body, because its stream was reset.
    pub(super) fn reset(&self, reason: Reason) {
        self.fail(End::Reset(reason));
    }

    /// Fails an incomplete body, because its connection has ended.
    pub(super) fn cut(&self) {
        self.fail(End::Cut);
    }

    fn fail(&self, end: End) {
        self.change(|state| {
            if matches!(state.end, End::Open) {
                state.end = end;
            }
        });
    }

    pub(super) fn take_report(&self) -> Report {
        let mut state = self.state();
        let report = state.report;
        state.report.consumed = 0;
        if report.expectation == Expectation::Both {
            state.report.expectation = Expectation::None;
        }
        report
    }

    fn report(&self, consumed: usize) {
        self.bell.report(self.key, consumed);
    }
}

/// The reader's side.
pub(crate) struct Receiver(Arc<Inbox>);

impl Receiver {
    pub(super) fn new(inbox: &Arc<Inbox>) -> Receiver {
        Receiver(inbox.clone())
    }

    pub(crate) fn poll_frame(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.0.state();
        if !state.data.is_empty() {
            let data = state.data.split().freeze();
            state.report.consumed += data.len();
            state.missing = state.missing.map(|missing| missing.saturating_sub(data.len() as u64));
            drop(state);
            self.0.report(data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match &mut state.end {
            End::Open => {}
            End::Ended(trailers) => {
                return Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            // RFC 9113, 8.1: only END_STREAM completes a body.
            End::Reset(Reason::NO_ERROR) | End::Cut => {
                return Poll::Ready(Some(Err(BodyError::Cut)));
            }
            End::Reset(reason) => {
                let error = BodyError::Reset { code: reason.0 };
                return Poll::Ready(Some(Err(error)));
            }
        }
        let before = state.reader.replace(cx.waker().clone());
        let asks = state.report.expectation == Expectation::Client;
        if asks {
            state.report.expectation = Expectation::Both;
        }
        drop(state);
        drop(before);
        if asks {
            self.0.report(0);
        }
        Poll::Pending
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let state = self.0.state();
        state.data.is_empty() && matches!(state.end, End::Ended(None))
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let state = self.0.state();
        match (&state.end, state.missing) {
            (End::Ended(_), _) => SizeHint::with_exact(state.data.len() as u64),
            (_, Some(missing)) => SizeHint::with_exact(missing),
            (_, None) => SizeHint::default(),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let reader = state.reader.take();
        state.report.is_abandoned = true;
        let unread = std::mem::take(&mut state.data).len();
        drop(state);
        drop(reader);
        self.0.report(unread);
    }
}

impl Receiver {
    /// Reads into `buffer`; ready with the number of bytes, 0 at the end.
    pub(super) fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &Context<'_>,
        unread: &mut Bytes,
        room: usize,
    ) -> Poll<std::io::Result<Bytes>> {
        while unread.is_empty() {
            match std::task::ready!(self.poll_frame(cx)) {
                None => return Poll::Ready(Ok(Bytes::new())),
                Some(Ok(frame)) => *unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(std::io::Error::other(error))),
            }
        }
        let n = unread.len().min(room);
        Poll::Ready(Ok(unread.split_to(n)))
    }
}
