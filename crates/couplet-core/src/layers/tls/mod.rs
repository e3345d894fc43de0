//! TLS 1.2 and 1.3 as a [`Layer`] (RFC 8446, RFC 5246). Twisted's `twisted.protocols.tls` and
//! `twisted.internet.ssl`.
//!
//! A [`ServerTls`] or [`ClientTls`] is configured once and makes a [`Tls`] layer for each
//! connection. The layer buffers one incomplete record, and nothing while a connection is idle.
//! 0-RTT data is never accepted, and renegotiation is not supported.
//!
//! Received bytes are copied once, because they are decrypted in place; the library copies the
//! plaintext once more. Many small writes share records.
//!
//! Contract: 63, 76–79, 82, 175b.

mod choosing;
mod directory;
mod engine;
mod guess;
mod settings;

use std::fmt;
use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

pub use choosing::ClientHello;
pub use directory::CertificateDirectory;
pub use engine::world::{TlsWorld, in_world};
pub use settings::{
    ClientAuth, ClientTls, ClientTlsOptions, Identity, Roots, ServerTls, ServerTlsOptions,
    TlsConfigError, TlsSide,
};

use super::{Layer, LayerWaker, Opened, Outbox, ROOM, Up};
use crate::bounded::{AtMost, Bounded};
use crate::defer::Deferred;
use crate::error::{Fault, Reason, TlsError, TlsProblem};
use crate::outbox::Spares;
use choosing::{Choosing, PendingCertificate};
use engine::config::{ClientConfig, ServerConfig, ServerName};
use engine::hello::HelloResult;
use engine::{Session, Step};

/// Length of a record header.
const HEADER: usize = 5;
/// Maximum length of a record without its header (RFC 5246, 6.2.3).
const LONGEST_RECORD: usize = 16_384 + 2048;
/// Maximum bytes of records without a whole message: the longest message that rustls accepts, and a
/// record.
const LONGEST_INPUT: usize = 0xffff + 2 * LONGEST_RECORD;
/// Maximum plaintext per record.
const RECORD: usize = 16_384;
/// Maximum bytes encrypted before a send, because each send has a cost.
const BATCH: usize = 4 * ROOM;
/// The record type of handshake messages (RFC 8446, 5.1).
const HANDSHAKE: u8 = 22;
/// Codes of fatal alerts (RFC 8446, 6).
const INTERNAL_ERROR: u8 = 80;
const RECORD_OVERFLOW: u8 = 22;
const DECODE_ERROR: u8 = 50;
/// Maximum bytes of records holding an unfinished message of an unauthenticated client, such as its
/// ClientHello. A browser's takes 2 KiB.
const LONGEST_HELLO: usize = HEADER + RECORD;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsVersion::Tls12 => "TLSv1.2",
            TlsVersion::Tls13 => "TLSv1.3",
        })
    }
}

/// The parameters negotiated in a handshake. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The version.
    pub version: TlsVersion,
    /// The cipher suite, by its IANA name.
    pub cipher: &'static str,
    /// The application protocol (ALPN), if one was negotiated.
    pub alpn: Option<Arc<[u8]>>,
    /// The host name that the client requested (SNI).
    pub server_name: Option<Arc<str>>,
    /// The peer's certificates in DER, its own first.
    pub peer_certificates: Arc<[Arc<[u8]>]>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// One TLS connection. Made by [`ServerTls::layer`] and [`ClientTls::layer`].
pub struct Tls {
    /// A server's session starts with the first record, or once its certificate is chosen.
    session: Option<Session>,
    state: TlsState,
    /// The configuration of a server.
    server: Option<ServerConfig>,
    /// A certificate to be chosen, before the session exists.
    choosing: Option<Box<Choosing>>,
    waker: Option<LayerWaker>,
    /// The loop's drained buffers, known after the first `down`.
    spares: Option<Rc<Spares>>,
    /// Received records not yet consumed: an incomplete handshake message, then an incomplete
    /// record.
    // At most LONGEST_HELLO of a client without a certificate.
    received: Bounded<Vec<u8>, AtMost<{ LONGEST_INPUT + HEADER }>>,
    /// `received` was allocated for part of a record, and is too small for other uses.
    is_part: bool,
    /// Number of bytes of `received` that the session has seen.
    seen: usize,
    /// The session may have more to do without new bytes.
    more: bool,
    /// Decrypted data.
    plain: Bounded<Vec<u8>, AtMost<LONGEST_RECORD>>,
    /// `plain` was lent by the previous call.
    lent: bool,
    /// Records to be sent.
    pending: Vec<u8>,
    /// The first bytes of the stream, for a guess if it is not TLS.
    first: Bounded<Vec<u8>, AtMost<{ guess::LENGTH }>>,
    /// The stream below has ended.
    ended: bool,
    /// Deadline of the handshake, or for reporting a failure.
    deadline: Option<Instant>,
    info: Option<Rc<TlsInfo>>,
}

#[derive(Debug)]
enum TlsState {
    /// The session has sent nothing: a server waits for the ClientHello.
    Beginning,
    Handshaking,
    /// The handshake is complete, but not yet reported.
    Opening,
    Open,
    /// The peer sent close_notify; we may still send.
    PeerClosed,
    /// The failure is not yet reported.
    Failing(Reason),
    Failed,
}

impl Tls {
    fn server(config: ServerConfig, deadline: Option<Instant>) -> Tls {
        Tls::new(Some(config), deadline)
    }

    fn client(config: &ClientConfig, name: &ServerName, deadline: Option<Instant>) -> Tls {
        let mut tls = Tls::new(None, deadline);
        tls.begin(Session::client(config, name));
        // The client sends first.
        while tls.more {
            tls.advance();
        }
        tls
    }

    fn new(server: Option<ServerConfig>, deadline: Option<Instant>) -> Tls {
        Tls {
            session: None,
            state: TlsState::Beginning,
            server,
            choosing: None,
            waker: None,
            spares: None,
            received: Bounded::default(),
            is_part: false,
            seen: 0,
            more: false,
            plain: Bounded::default(),
            lent: false,
            pending: Vec::new(),
            first: Bounded::default(),
            ended: false,
            deadline,
            info: None,
        }
    }

    /// The negotiated parameters, once the layer is open.
    pub fn info(&self) -> Option<&TlsInfo> {
        self.info.as_deref()
    }

    /// Chooses a server's certificate once the ClientHello has arrived. The handshake waits for the
    /// Deferred within its deadline, fails if the Deferred fails, and cancels it if the connection
    /// ends first. Does nothing on a client.
    ///
    /// ```
    /// use std::rc::Rc;
    ///
    /// use couplet::factory::Layered;
    /// use couplet::layers::tls::{ClientHello, Identity, ServerTls, ServerTlsOptions};
    /// use couplet::{Deferred, Failure, Protocol, Reactor, Transport};
    ///
    /// # struct Echo;
    /// # impl Protocol for Echo {
    /// #     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    /// #         transport.write(data);
    /// #     }
    /// # }
    /// /// Certificates are in a vault, where to look takes time.
    /// fn ask_vault(reactor: &Reactor, hello: &ClientHello) -> Deferred<Identity> {
    ///     let Some(name) = hello.server_name.clone() else {
    ///         return Deferred::fail(Failure::msg("the client asks for no name"));
    ///     };
    ///     reactor.defer_to_thread(move || {
    ///         let folder = std::path::Path::new("vault").join(name);
    ///         Ok(Identity::from_pem_files(folder.join("chain.pem"), folder.join("key.pem"))?)
    ///     })
    /// }
    ///
    /// # fn main() -> couplet::Result<()> {
    /// # let reactor_loop = couplet::Loop::new()?;
    /// # let reactor = reactor_loop.reactor();
    /// let tls = ServerTls::new(&ServerTlsOptions::chosen_later())?;
    /// let layer = move |reactor: &Reactor, _: &_| {
    ///     let asking = reactor.clone();
    ///     tls.layer(reactor.now()).choosing(move |hello| ask_vault(&asking, hello))
    /// };
    /// reactor.listen("tcp:0:interface=127.0.0.1", Layered::new(|| Echo, layer))?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn choosing(
        mut self,
        choose: impl FnOnce(&ClientHello) -> Deferred<Identity> + 'static,
    ) -> Tls {
        if self.server.is_some() {
            self.choosing = Some(Box::new(Choosing::new(Box::new(choose))));
        }
        self
    }

    /// Clears the data lent by the previous call.
    #[inline]
    fn clear_lent(&mut self) {
        if mem::take(&mut self.lent) {
            self.plain.edit().clear();
        }
    }

    fn is_handshaking(&self) -> bool {
        matches!(self.state, TlsState::Beginning | TlsState::Handshaking)
    }

    /// An empty buffer.
    #[inline]
    fn spare(&self) -> Vec<u8> {
        self.spares.as_ref().map_or_else(Vec::new, |spares| spares.take())
    }

    #[inline]
    fn release_received(&mut self) {
        let buffer = self.received.take();
        if let Some(spares) = &self.spares
            && buffer.capacity() > 0
            && !mem::take(&mut self.is_part)
        {
            spares.give(buffer);
        }
    }

    /// Frees the buffers of an idle connection; a partial record keeps only as much as it needs.
    #[inline]
    fn release_buffers(&mut self) {
        if self.received.is_empty() {
            self.release_received();
        }
        let Some(spares) = &self.spares else { return };
        if self.plain.capacity() > 0 {
            spares.give(self.plain.take());
        }
        if self.received.capacity() > 2 * LONGEST_RECORD {
            let part = self.received.to_vec();
            spares.give(mem::replace(&mut self.received.edit(), part));
            self.is_part = true;
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.state, TlsState::Failing(_) | TlsState::Failed)
    }

    /// Takes bytes up to the end of the next record. Returns true if the session has input to
    /// process.
    fn take_record(&mut self, below: &mut &[u8]) -> bool {
        if below.is_empty() {
            return false;
        }
        if self.is_handshaking() && !self.first.is_full() {
            let n = below.len().min(guess::LENGTH - self.first.len());
            self.first.edit().extend_from_slice(&below[..n]);
        }
        if self.received.is_empty()
            && let Some(header) = below.first_chunk::<HEADER>()
            && let Some(length) = record_length(*header)
            && !self.is_too_long(*header, length)
            && let Some((record, rest)) = below.split_at_checked(HEADER + length)
        {
            let mut received = self.spare();
            received.extend_from_slice(record);
            *self.received.edit() = received;
            *below = rest;
            return true;
        }
        for _ in 0..2 {
            let record = &self.received[self.seen..];
            let whole = match record.split_first_chunk::<HEADER>() {
                None => HEADER,
                Some((header, _)) => match record_length(*header) {
                    Some(length) if self.is_too_long(*header, length) => {
                        let (text, alert) = match length {
                            _ if self.is_beyond_any_message(length) => {
                                ("records of more than 64 KiB without a message", None)
                            }
                            length if length > RECORD => {
                                ("a record of more than 16 KiB", Some(RECORD_OVERFLOW))
                            }
                            _ => ("a message of more than 16 KiB", Some(DECODE_ERROR)),
                        };
                        let text = format!("the peer violated the TLS protocol: {text}");
                        let error = TlsError::new(TlsProblem::Misbehaved, Fault::Peer, text);
                        self.end_handshake(error, alert);
                        return true;
                    }
                    Some(length) => HEADER + length,
                    // rustls reports the error.
                    None => return true,
                },
            };
            let missing = whole - record.len();
            if missing == 0 {
                return true;
            }
            let n = missing.min(below.len());
            let (taken, rest) = below.split_at(n);
            self.is_part |= self.received.capacity() == 0;
            let mut received = self.received.edit();
            received.reserve_exact(missing);
            received.extend_from_slice(taken);
            drop(received);
            *below = rest;
            if n < missing {
                return false;
            }
        }
        true
    }

    /// Reads the ClientHello from the received bytes, requests a certificate, and creates the
    /// session when the certificate is available.
    #[cold]
    fn choose(&mut self) {
        self.more = false;
        let unseen = mem::replace(&mut self.seen, self.received.len());
        match self.choosing.take().map(|choosing| *choosing) {
            None => {}
            Some(Choosing::Reading(mut reader, choose)) => {
                self.more = true;
                self.choosing = match reader.read(&self.received[unseen..]) {
                    HelloResult::Incomplete => {
                        self.more = false;
                        Some(Choosing::Reading(reader, choose))
                    }
                    HelloResult::Hello(hello) => Some(Choosing::Waiting(
                        PendingCertificate::request(choose, hello, self.waker.clone()),
                    )),
                    // rustls reports the error.
                    HelloResult::Invalid => None,
                }
                .map(Box::new);
            }
            Some(Choosing::Waiting(waiting)) => match waiting.take() {
                None => self.choosing = Some(Box::new(Choosing::Waiting(waiting))),
                Some(Err(failure)) => {
                    let text = format!("cannot choose a certificate: {failure}");
                    let error = TlsError::new(TlsProblem::Internal, Fault::Ours, text);
                    self.end_handshake(error, Some(INTERNAL_ERROR));
                }
                Some(Ok(identity)) => {
                    if let Some(config) = &self.server {
                        let name = waiting.server_name.as_deref();
                        self.begin(Session::server_with(config, &identity.0, name));
                    }
                }
            },
        }
    }

    /// Whether a requested certificate is pending.
    fn is_waiting(&self) -> bool {
        matches!(self.choosing.as_deref(), Some(Choosing::Waiting(_)))
    }

    fn begin(&mut self, session: Result<Session, engine::Error>) {
        match session {
            Ok(session) => {
                self.session = Some(session);
                self.more = true;
            }
            Err(error) => self.fail(error),
        }
    }

    /// Lets the session process the received bytes.
    fn advance(&mut self) {
        if self.choosing.is_some() {
            return self.choose();
        }
        if self.plain.capacity() == 0 {
            *self.plain.edit() = self.spare();
        }
        if self.session.is_none()
            && self.is_handshaking()
            && let Some(config) = &self.server
        {
            self.begin(Session::server(config));
        }
        let is_handshaking = self.is_handshaking();
        let Some(session) = &mut self.session else { return self.more = false };
        let (done, step) =
            session.process(&mut self.received.edit(), &mut self.plain.edit(), &mut self.pending);
        if matches!(self.state, TlsState::Beginning) && !self.pending.is_empty() {
            self.state = TlsState::Handshaking;
        }
        let complete = is_handshaking && !session.is_handshaking();
        let info = complete.then(|| session.info());
        if done < self.received.len() {
            self.received.edit().drain(..done);
        } else {
            self.received.edit().clear();
            self.release_received();
        }
        self.seen = self.received.len();
        self.more = match step {
            Step::Again => true,
            // `received` holds one record at a time: continue only if bytes are left.
            Step::Data => self.seen > 0,
            Step::Blocked | Step::Ready => false,
            Step::PeerClosed => {
                self.state = TlsState::PeerClosed;
                false
            }
            Step::Failed(error) => return self.fail(error),
        };
        if complete {
            self.info = info.map(Rc::new);
            self.first.take();
            self.deadline = None;
            self.state = TlsState::Opening;
        }
    }

    /// Handles a failure of the session: queues its alert, and the reason to report.
    #[cold]
    fn fail(&mut self, error: engine::Error) {
        let in_handshake = self.is_handshaking();
        if let Some(mut session) = self.session.take() {
            session.drain_output(&mut self.pending);
        }
        let mut error = engine::failed(error, in_handshake, &self.pending);
        if in_handshake
            && let Some(guess) = guess::guess_protocol(&self.first, self.server.is_some())
        {
            error = error.not_tls(guess);
        }
        self.fail_with(Reason::Tls(Arc::new(error)));
    }

    fn fail_with(&mut self, reason: Reason) {
        self.state = TlsState::Failing(reason);
        self.deadline = None;
        self.more = false;
        self.session = None;
        self.choosing = None;
        self.received.take();
        self.seen = 0;
    }

    /// Whether a record is too long. Plaintext records are limited to 16 KiB (RFC 8446, 5.1), which
    /// rustls does not check. Handshake messages of clients fit into one record, except for
    /// certificates.
    #[inline]
    fn is_too_long(&self, [kind, ..]: [u8; HEADER], length: usize) -> bool {
        let is_long = length > RECORD || self.seen + HEADER + length > LONGEST_HELLO;
        let is_handshake = || kind == HANDSHAKE && self.is_handshaking();
        is_long
            && (self.is_beyond_any_message(length)
                || is_handshake() && (length > RECORD || self.expects_no_certificate()))
    }

    /// Whether the records of a message, with the next one, are longer than any message and one
    /// record. The records of a message that is cut into single bytes are many times as long.
    fn is_beyond_any_message(&self, length: usize) -> bool {
        self.seen + HEADER + length > LONGEST_INPUT
    }

    /// Whether the peer is a client that is not expected to send certificates.
    fn expects_no_certificate(&self) -> bool {
        let is_beginning = matches!(self.state, TlsState::Beginning);
        self.server.as_ref().is_some_and(|config| is_beginning || !config.requests_certificates())
    }

    /// Fails for a reason outside the session. The fatal `alert` of a handshake, if any, is sent in
    /// the clear.
    #[cold]
    fn end_handshake(&mut self, mut error: TlsError, alert: Option<u8>) {
        if let Some(alert) = alert {
            self.pending.extend([21, 3, 3, 0, 2, 2, alert]);
        }
        error.alert_sent = alert;
        error.in_handshake = self.is_handshaking();
        self.fail_with(Reason::Tls(Arc::new(error)));
    }

    /// Handles a stream that ended without close_notify.
    #[cold]
    fn fail_truncated(&mut self) {
        let in_handshake = self.is_handshaking();
        let text = match in_handshake {
            true => "the stream ended during the handshake",
            false => "the stream ended without close_notify: it may have been cut",
        };
        let mut error = TlsError::new(TlsProblem::Truncated, Fault::Network, text);
        error.in_handshake = in_handshake;
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, error);
        self.fail_with(Reason::Lost(Arc::new(error)));
    }

    /// Encrypts bytes from the front of `above`, in records as large as they fill. Returns the
    /// count; 0 if the session cannot send.
    fn encrypt_some(&mut self, above: &Outbox, below: &mut Outbox) -> usize {
        let mut gathered = Vec::new();
        let mut data = above.first();
        if data.len() < RECORD && data.len() < above.len() {
            for slice in above.slices() {
                let n = slice.len().min(RECORD - gathered.len());
                gathered.extend_from_slice(&slice[..n]);
                if gathered.len() == RECORD {
                    break;
                }
            }
            data = &gathered;
        }
        let data = &data[..data.len().min(BATCH)];
        let Some(session) = &mut self.session else { return 0 };
        let (mut received, mut plain) = (self.received.edit(), self.plain.edit());
        let encrypted = session.encrypt(data, &mut received[..self.seen], &mut plain, below);
        drop((received, plain));
        match encrypted {
            Ok((done, sent)) => {
                self.received.edit().drain(..done);
                self.seen -= done;
                if sent { data.len() } else { 0 }
            }
            Err(error) => {
                self.fail(error);
                0
            }
        }
    }
}

/// The length of a record, if its header is plausible.
fn record_length([kind, major, _, high, low]: [u8; HEADER]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([high, low]));
    ((20..=24).contains(&kind) && major == 3 && length <= LONGEST_RECORD).then_some(length)
}

impl Layer for Tls {
    fn attach(&mut self, waker: &dyn Fn() -> LayerWaker) {
        if self.choosing.is_some() {
            self.waker = Some(waker());
        }
    }

    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        self.clear_lent();
        if below.is_empty() && !self.more && !self.ended && matches!(self.state, TlsState::Open) {
            self.release_buffers();
            return Up::Nothing;
        }
        // The pending certificate may have arrived.
        self.more |= self.is_waiting();
        loop {
            if !self.plain.is_empty() {
                self.lent = true;
                return Up::Data(&self.plain);
            }
            if self.more {
                self.advance();
                continue;
            }
            match &mut self.state {
                TlsState::Beginning | TlsState::Handshaking | TlsState::Open => {}
                TlsState::Opening => {
                    self.state = TlsState::Open;
                    return Up::Open(self.info.clone().map(|info| Opened::with_shared(info)));
                }
                TlsState::PeerClosed => return Up::Closed,
                TlsState::Failing(_) => {
                    if let TlsState::Failing(reason) =
                        mem::replace(&mut self.state, TlsState::Failed)
                    {
                        return Up::Failed(reason);
                    }
                }
                TlsState::Failed => {
                    *below = &[];
                    return Up::Nothing;
                }
            }
            // While its certificate is being chosen, the server stops reading records.
            if !self.is_waiting() && self.take_record(below) {
                self.more = true;
            } else if self.ended {
                self.fail_truncated();
            } else {
                self.release_buffers();
                return Up::Nothing;
            }
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        if self.spares.is_none() {
            self.spares = Some(below.spares().clone());
        }
        if !self.pending.is_empty() {
            below.extend(&mem::take(&mut self.pending));
        }
        if !self.is_open() {
            return;
        }
        self.clear_lent();
        while !above.is_empty() && below.len() < BATCH {
            match self.encrypt_some(above, below) {
                0 => break,
                n => above.advance(n),
            }
        }
        if matches!(self.state, TlsState::Failing(_)) {
            // Reported by the next `up`.
            self.deadline = Some(now);
        }
    }

    fn ended(&mut self) {
        self.ended = true;
    }

    fn close(&mut self, below: &mut Outbox) {
        if !self.is_open() {
            return;
        }
        self.clear_lent();
        let Some(session) = &mut self.session else { return };
        session.close_notify(
            &mut self.received.edit()[..self.seen],
            &mut self.plain.edit(),
            &mut self.pending,
        );
        below.extend(&mem::take(&mut self.pending));
    }

    fn is_open(&self) -> bool {
        matches!(self.state, TlsState::Opening | TlsState::Open | TlsState::PeerClosed)
    }

    fn held(&self) -> usize {
        self.pending.len()
    }

    fn name(&self) -> &'static str {
        "TLS"
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn timed_out(&mut self, now: Instant) {
        if self.deadline.take_if(|deadline| *deadline <= now).is_none() || self.has_failed() {
            return;
        }
        let text = "the handshake did not complete within its deadline";
        let error = TlsError::new(TlsProblem::HandshakeTimedOut, Fault::Peer, text);
        self.end_handshake(error, None);
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("state", &self.state).field("info", &self.info).finish()
    }
}

#[cfg(test)]
mod tests;
