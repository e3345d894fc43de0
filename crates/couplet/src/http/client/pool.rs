//! The connections of a client, by the servers that they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::HttpError;
use crate::DelayedCall;
use crate::http::body::Progress;

/// Who answers: a scheme, a host and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) is_https: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn of(uri: &Uri) -> Result<Origin, HttpError> {
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(HttpError::Url(uri.to_string())),
        };
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err(HttpError::Url(uri.to_string()));
        };
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
        Ok(Origin { is_https, host, port })
    }

    /// Host and port, without a port that goes without saying.
    pub(super) fn authority(&self) -> String {
        let usual = if self.is_https { 443 } else { 80 };
        let whole = self.host_and_port();
        match whole.strip_suffix(&format!(":{usual}")) {
            Some(host) => host.to_owned(),
            None => whole,
        }
    }

    pub(super) fn host_and_port(&self) -> String {
        let Origin { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// What sends requests over a connection.
pub(super) enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// Whether it takes a request; it knows soon after the last answer was read.
    pub(super) async fn is_ready(&mut self) -> bool {
        match self {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        match self {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// A connection of HTTP/1.1 that has been used.
pub(super) struct Kept {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    /// The body of its last answer, if that has one: it is free once that was read.
    pub(super) answer: Option<Arc<Progress>>,
    pub(super) until: Instant,
}

impl Kept {
    fn is_free(&self) -> bool {
        self.answer.as_ref().is_none_or(|answer| answer.has_ended())
    }
}

#[derive(Default)]
pub(super) struct Pool {
    /// Law 9: at most `max_idle` for each server that answered within the last `keep_alive`.
    kept: BTreeMap<Origin, Vec<Kept>>,
    /// One connection of HTTP/2 for each server.
    shared: BTreeMap<Origin, http2::SendRequest<Full<Bytes>>>,
    sweeper: Option<DelayedCall>,
}

impl Pool {
    /// A connection that is still open: one that is shared, or the free one that was used last.
    pub(super) fn take(&mut self, origin: &Origin, now: Instant) -> Option<Sender> {
        if let Some(sender) = self.shared.get(origin) {
            if !sender.is_closed() {
                return Some(Sender::Http2(sender.clone()));
            }
            self.shared.remove(origin);
        }
        let kept = self.kept.get_mut(origin)?;
        kept.retain(|one| one.until > now && !one.sender.is_closed());
        let at = kept.iter().rposition(Kept::is_free)?;
        Some(Sender::Http1(kept.remove(at).sender))
    }

    /// Keeps a connection, unless there are enough.
    pub(super) fn keep(&mut self, origin: Origin, connection: Kept, most: usize) {
        let kept = self.kept.entry(origin).or_default();
        if kept.len() < most {
            kept.push(connection);
        }
    }

    pub(super) fn share(&mut self, origin: Origin, sender: http2::SendRequest<Full<Bytes>>) {
        self.shared.insert(origin, sender);
    }

    pub(super) fn len(&self) -> usize {
        self.kept.values().map(Vec::len).sum::<usize>() + self.shared.len()
    }

    /// When to sweep, if there is something and nobody is about to.
    pub(super) fn to_sweep(&self) -> Option<Instant> {
        if self.sweeper.is_some() {
            return None;
        }
        self.kept.values().flatten().map(|one| one.until).min()
    }

    pub(super) fn set_sweeper(&mut self, call: DelayedCall) {
        self.sweeper = Some(call);
    }

    /// Takes out what is too old or closed.
    pub(super) fn sweep(&mut self, now: Instant) -> Vec<Kept> {
        self.sweeper = None;
        let mut gone = Vec::new();
        for kept in self.kept.values_mut() {
            gone.extend(kept.extract_if(.., |one| one.until <= now || one.sender.is_closed()));
        }
        self.kept.retain(|_, kept| !kept.is_empty());
        self.shared.retain(|_, sender| !sender.is_closed());
        gone
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            sweeper.cancel();
        }
    }
}
