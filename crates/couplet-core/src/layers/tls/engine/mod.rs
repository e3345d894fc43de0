//! The only module that depends on rustls. [`Session`] is one TLS connection as a state machine
//! over bytes in memory; [`config`] converts our settings to rustls's.
//!
//! The unbuffered API of rustls 0.23 returns states that borrow the connection. [`Session`] converts
//! them to a [`Step`] immediately, so that nothing above depends on their form.

pub(super) mod certificates;
pub(super) mod config;
mod errors;
pub(super) mod hello;
mod usages;
pub(super) mod world;

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{HandshakeKind, ProtocolVersion};

use super::{TlsInfo, TlsVersion};
use crate::error::TlsError;
use crate::outbox::Outbox;
use certificates::CertificateAndKey;
use config::{ClientConfig, ServerConfig, ServerName};
use errors::explain;
pub(super) use rustls::Error;

#[cfg(not(feature = "ring"))]
use rustls::crypto::aws_lc_rs as cryptography;
#[cfg(feature = "ring")]
use rustls::crypto::ring as cryptography;

/// The result of one step of a session.
#[derive(Debug)]
pub(super) enum Step {
    /// Progress; the same bytes may allow more steps.
    Again,
    /// Plaintext was appended.
    Data,
    /// The session needs more bytes, and cannot send data yet.
    Blocked,
    /// The session can send data.
    Ready,
    /// The peer's close_notify arrived, after all data.
    PeerClosed,
    Failed(Error),
}

/// The action to take when the session can send data.
enum WriteAction<'w> {
    Nothing,
    Encrypt(&'w [u8], &'w mut Outbox),
    CloseNotify,
}

enum Connection {
    // Holds a handshake message of at most 64 KiB; data stays in our buffers.
    Server(UnbufferedServerConnection),
    // Holds a handshake message of at most 64 KiB; data stays in our buffers.
    Client(UnbufferedClientConnection),
}

/// One TLS connection.
pub(super) struct Session {
    connection: Connection,
    /// The host name that the client requested.
    requested_name: Option<Box<str>>,
    /// A `PeerClosed` that occurred during a write, to be reported.
    peer_closed: bool,
}

impl Session {
    pub(super) fn server(config: &ServerConfig) -> Result<Session, Error> {
        let connection = UnbufferedServerConnection::new(config.rustls.clone())?;
        Ok(Session::new(Connection::Server(connection), None))
    }

    /// A server's session with the certificate chosen for the requested name.
    pub(super) fn server_with(
        config: &ServerConfig,
        identity: &CertificateAndKey,
        requested_name: Option<&str>,
    ) -> Result<Session, Error> {
        let connection = UnbufferedServerConnection::new(config.with(identity))?;
        Ok(Session::new(Connection::Server(connection), requested_name.map(Into::into)))
    }

    pub(super) fn client(config: &ClientConfig, name: &ServerName) -> Result<Session, Error> {
        let connection = UnbufferedClientConnection::new(config.0.clone(), name.0.clone())?;
        let requested_name = name.dns_name().map(Into::into);
        Ok(Session::new(Connection::Client(connection), requested_name))
    }

    fn new(connection: Connection, requested_name: Option<Box<str>>) -> Session {
        Session { connection, requested_name, peer_closed: false }
    }

    /// Processes received bytes, in place. Appends decrypted data to `plain`, and records for the
    /// peer to `out`. Returns the number of bytes of `received` that were consumed.
    pub(super) fn process(
        &mut self,
        received: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        if std::mem::take(&mut self.peer_closed) {
            return (0, Step::PeerClosed);
        }
        let opening = self.is_handshaking();
        let (discard, step) = self.step(received, plain, out, WriteAction::Nothing);
        // Always taken, so that no other connection finds it.
        if opening
            && matches!(self.connection, Connection::Server(_))
            && self.requested_name.is_none()
        {
            self.requested_name = certificates::requested_name();
        }
        (discard, step)
    }

    /// Encrypts `data` to `below`, after records that must be sent first. Returns false if the
    /// session cannot send data. `partial` is the incomplete message last seen by
    /// [`process`](Self::process); also returns the number of its bytes that were consumed.
    pub(super) fn encrypt(
        &mut self,
        data: &[u8],
        partial: &mut [u8],
        plain: &mut Vec<u8>,
        below: &mut Outbox,
    ) -> Result<(usize, bool), Error> {
        let (mut first, mut done) = (Vec::new(), 0);
        loop {
            let action = WriteAction::Encrypt(data, below);
            let (discard, step) = self.step(&mut partial[done..], plain, &mut first, action);
            done += discard;
            if !first.is_empty() {
                below.extend(&first);
                first.clear();
            }
            match step {
                Step::Again | Step::Data => {}
                Step::PeerClosed => self.peer_closed = true,
                Step::Ready => return Ok((done, true)),
                Step::Blocked => return Ok((done, false)),
                Step::Failed(error) => return Err(error),
            }
        }
    }

    /// Appends a close_notify to `out`, unless the handshake is incomplete.
    pub(super) fn close_notify(
        &mut self,
        partial: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) {
        loop {
            let (_, step) = self.step(partial, plain, out, WriteAction::CloseNotify);
            match step {
                Step::Again | Step::Data => {}
                Step::PeerClosed => self.peer_closed = true,
                Step::Ready | Step::Blocked | Step::Failed(_) => return,
            }
        }
    }

    /// Appends the queued output of a failed session: its alert.
    pub(super) fn drain_output(&mut self, out: &mut Vec<u8>) {
        // A step with an empty queue would read bytes that no longer exist.
        while self.common().wants_write() {
            self.step(&mut [], &mut Vec::new(), out, WriteAction::Nothing);
        }
    }

    fn step(
        &mut self,
        received: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
        action: WriteAction<'_>,
    ) -> (usize, Step) {
        match &mut self.connection {
            Connection::Server(it) => {
                process_state(it.process_tls_records(received), plain, out, action)
            }
            Connection::Client(it) => {
                process_state(it.process_tls_records(received), plain, out, action)
            }
        }
    }

    fn common(&self) -> &rustls::CommonState {
        match &self.connection {
            Connection::Server(it) => it,
            Connection::Client(it) => it,
        }
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// The negotiated parameters, once the handshake is complete.
    pub(super) fn info(&self) -> TlsInfo {
        let common = self.common();
        let version = match common.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        let certificates = common.peer_certificates().unwrap_or_default();
        TlsInfo {
            version,
            cipher: common
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
            alpn: common.alpn_protocol().map(Arc::from),
            server_name: self.requested_name.as_deref().map(Arc::from),
            peer_certificates: match certificates {
                [] => Arc::default(),
                some => some.iter().map(|one| Arc::from(one.as_ref())).collect(),
            },
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }
}

/// Performs the action that a rustls state requires.
fn process_state<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
    action: WriteAction<'_>,
) -> (usize, Step) {
    let mut discard = status.discard;
    let step = match status.state {
        Err(error) => Step::Failed(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                    Err(error) => return (discard, Step::Failed(error)),
                }
            }
            Step::Data
        }
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut encode = |room: &mut [u8]| match data.encode(room) {
                Ok(n) => Ok(n),
                Err(EncodeError::InsufficientSize(more)) => Err(Some(more)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            };
            append(out, 0, &mut encode);
            Step::Again
        }
        Ok(ConnectionState::TransmitTlsData(transmit)) => {
            transmit.done();
            Step::Again
        }
        Ok(ConnectionState::PeerClosed) => Step::PeerClosed,
        Ok(ConnectionState::WriteTraffic(traffic)) => write(traffic, out, action),
        // Early data is never accepted, and once both ends have closed nothing is needed.
        Ok(_) => Step::Blocked,
    };
    (discard, step)
}

fn write<D>(mut traffic: WriteTraffic<'_, D>, out: &mut Vec<u8>, action: WriteAction<'_>) -> Step {
    match action {
        WriteAction::Nothing => {}
        WriteAction::CloseNotify => {
            let mut close =
                |room: &mut [u8]| traffic.queue_close_notify(room).map_err(insufficient_size);
            append(out, 0, &mut close);
        }
        WriteAction::Encrypt(data, below) => {
            let mut size = encrypted_size(data.len());
            loop {
                let mut outcome = Ok(0);
                below.fill(size, |room| {
                    outcome = traffic.encrypt(data, room).map_err(insufficient_size);
                    *outcome.as_ref().unwrap_or(&0)
                });
                match outcome {
                    Ok(_) => break,
                    Err(Some(InsufficientSizeError { required_size })) => size = required_size,
                    Err(None) => return Step::Failed(Error::EncryptError),
                }
            }
        }
    }
    Step::Ready
}

/// Maximum size of the records for this much data, in TLS 1.2 and 1.3.
fn encrypted_size(len: usize) -> usize {
    len + (len / 16_384 + 1) * 32
}

fn insufficient_size(error: EncryptError) -> Option<InsufficientSizeError> {
    match error {
        EncryptError::InsufficientSize(more) => Some(more),
        EncryptError::EncryptExhausted => None,
    }
}

/// The number of bytes written, or the size required.
type Written = Result<usize, Option<InsufficientSizeError>>;

/// Appends the output of `encode`, which reports the size it needs.
fn append(out: &mut Vec<u8>, size: usize, encode: &mut dyn FnMut(&mut [u8]) -> Written) {
    let at = out.len();
    out.resize(at + size, 0);
    match encode(&mut out[at..]) {
        Ok(n) => out.truncate(at + n),
        Err(Some(InsufficientSizeError { required_size })) if required_size > size => {
            out.truncate(at);
            append(out, required_size, encode);
        }
        Err(_) => out.truncate(at),
    }
}

/// Converts a session's error, and finds the alert that was sent in the clear.
pub(super) fn failed(error: Error, in_handshake: bool, out: &[u8]) -> TlsError {
    let mut explained = explain(error, in_handshake);
    // An alert in the clear: a record of type 21 with two bytes.
    if let [.., 21, 3, _, 0, 2, 2, alert] = out {
        explained.alert_sent = Some(*alert);
    }
    explained
}
