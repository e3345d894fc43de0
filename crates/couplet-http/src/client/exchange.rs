//! Sends one request over one connection, and decides whether a failed one may be repeated: RFC
//! 9110, 9.2.2, and RFC 9113, 8.7.
//!
//! Contract: 129b, 176, 176c.

use std::error::Error;
use std::io;

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;

use super::pool::{Lease, LeasedConnection};
use super::{Client, HttpError, PendingRequest};
use crate::Body;
use crate::refusal::is_plain_or_chunked;
use couplet_core::Transport;

/// A request that failed without a response.
pub(super) enum FailedExchange {
    /// Repeating the request is safe.
    Repeatable(HttpError),
    Final(HttpError),
}

impl FailedExchange {
    pub(super) fn into_error(self) -> HttpError {
        match self {
            FailedExchange::Repeatable(error) | FailedExchange::Final(error) => error,
        }
    }
}

/// How far a request without a response got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestFate {
    /// The server did not process it: no part was sent, or the server refused it.
    Unprocessed,
    /// The connection broke before the first byte of a response: the server may have processed it.
    Lost,
    /// The server answered, with a reset or with bytes that are not HTTP.
    Answered,
}

impl Client {
    /// Sends a request. The body of its response holds the lease.
    pub(super) async fn exchange(
        &self,
        pending: &PendingRequest,
        mut lease: Lease,
    ) -> Result<Response<Body>, FailedExchange> {
        let request = pending.request(&lease, self.inner.options.proxy.is_some());
        let answer = send(&mut lease, request).await;
        let answer =
            answer.map_err(|(error, fate)| self.failed_exchange(pending, &lease, error, fate))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(FailedExchange::Final(HttpError::Switched));
        }
        let has_body = pending.method != Method::HEAD
            && !matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // hyper looks only for `chunked` as the last coding.
        if has_body && !is_plain_or_chunked(answer.headers()) {
            return Err(FailedExchange::Final(HttpError::TransferCoding));
        }
        let lease = if has_body {
            Some(lease)
        } else {
            lease.return_to_pool();
            None
        };
        let limit = (&self.inner.reactor, self.inner.options.body_timeout);
        let version = answer.version();
        Ok(answer.map(|incoming| Body::from_response(incoming, version, limit, lease)))
    }

    fn failed_exchange(
        &self,
        pending: &PendingRequest,
        lease: &Lease,
        error: hyper::Error,
        fate: RequestFate,
    ) -> FailedExchange {
        let may_repeat = match fate {
            RequestFate::Unprocessed => true,
            RequestFate::Lost => lease.is_reused && pending.method.is_idempotent(),
            RequestFate::Answered => false,
        };
        let swept = (!is_reset(&error)).then(|| self.inner.pool.borrow_mut().forget(lease));
        drop(swept);
        let error = HttpError::Broken(error);
        if may_repeat { FailedExchange::Repeatable(error) } else { FailedExchange::Final(error) }
    }
}

/// Sends a request; on failure, returns how far it got.
async fn send(
    lease: &mut Lease,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, (hyper::Error, RequestFate)> {
    let before = lease.received();
    let sent = match &mut lease.connection {
        LeasedConnection::Http1(http1) => {
            let waiting = ResetOnDrop(Some(http1.transport.clone()));
            let sent = http1.sender.try_send_request(request).await;
            waiting.disarm();
            sent
        }
        // Sending needs `&mut`, so each request clones the sender.
        LeasedConnection::Http2(share) => {
            share.http2.sender.clone().try_send_request(request).await
        }
    };
    sent.map_err(|refused| {
        let is_unsent = refused.message().is_some();
        let error = refused.into_error();
        let fate = match &lease.connection {
            _ if is_unsent => RequestFate::Unprocessed,
            LeasedConnection::Http1(_) if lease.received() == before && !error.is_user() => {
                RequestFate::Lost
            }
            LeasedConnection::Http1(_) => RequestFate::Answered,
            LeasedConnection::Http2(_) => classify_error(&error),
        };
        (error, fate)
    })
}

/// Resets the connection of a request that is dropped before its response: a server would take a
/// FIN for a client that still waits.
struct ResetOnDrop(Option<Transport>);

impl ResetOnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if let Some(transport) = &self.0 {
            transport.abort_connection();
        }
    }
}

/// The error of an HTTP/2 stream.
fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

fn is_reset(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(h2::Error::is_reset)
}

/// RFC 9113, 8.7: a stream that was refused, or is above the last one of a GOAWAY, was not
/// processed. h2 reports GOAWAY only to those streams; the others get an I/O error when the
/// connection ends.
fn classify_error(error: &hyper::Error) -> RequestFate {
    match h2_error(error) {
        Some(error) if error.is_remote() && error.is_go_away() => RequestFate::Unprocessed,
        Some(error) if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) => {
            RequestFate::Unprocessed
        }
        None if error.source().is_some_and(|source| source.is::<io::Error>()) => RequestFate::Lost,
        _ => RequestFate::Answered,
    }
}
