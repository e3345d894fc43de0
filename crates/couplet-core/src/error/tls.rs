//! [`TlsError`]: the cause of a TLS failure, and the side at fault. The type names no TLS library, and
//! exists without the feature `tls` too.

use std::error::Error;
use std::fmt;

/// The side at fault for a [`TlsError`], where the remedy has to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Our side: the configuration, our certificate, or the library.
    Ours,
    /// The peer: its messages or its certificate.
    Peer,
    /// The network, or an attacker on the path: bytes were cut off or changed.
    Network,
}

/// The reason why a certificate was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// No certificate was presented.
    Missing,
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate was issued for other names.
    WrongName,
    /// The issuer is not trusted, or a certificate between the two is missing.
    UnknownIssuer,
    /// The certificate was issued for another purpose, such as for clients only.
    WrongUsage,
    /// The issuer has revoked the certificate, or cannot be asked.
    Revoked,
    /// A signature is wrong, or its algorithm is not accepted.
    BadSignature,
    /// Anything else, such as a broken encoding.
    Other,
}

/// The kind of a TLS failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The peer's certificate was rejected.
    Certificate(CertificateProblem),
    /// The peer sent a fatal alert with this number (RFC 8446, 6.2), such as 48, unknown_ca.
    AlertReceived(u8),
    /// The two sides share no TLS version, cipher suite, or key exchange.
    NothingInCommon,
    /// The two sides share no application protocol (ALPN).
    NoApplicationProtocol,
    /// The peer does not speak TLS, or the first bytes were altered.
    NotTls,
    /// The peer violated the TLS protocol.
    Misbehaved,
    /// A record could not be decrypted: it was altered.
    BadRecord,
    /// The handshake was not complete within its deadline.
    HandshakeTimedOut,
    /// The stream ended during the handshake, or without close_notify: it may have been truncated.
    Truncated,
    /// An error on our side, such as exhausted keys.
    Internal,
}

/// The error of a TLS connection that failed.
///
/// The cause in [`Reason::Tls`](crate::Reason::Tls) or, for a truncated stream, in the
/// `io::Error` of [`Reason::Lost`](crate::Reason::Lost).
#[derive(Debug)]
#[non_exhaustive]
pub struct TlsError {
    /// The kind of failure.
    pub problem: TlsProblem,
    /// The side at fault.
    pub fault: Fault,
    /// The fatal alert that we sent, if its number is known.
    pub alert_sent: Option<u8>,
    /// Whether the handshake was incomplete.
    pub in_handshake: bool,
    detail: Box<str>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TlsError {
    /// An error with a human-readable text, such as `the certificate has expired`.
    pub fn new(problem: TlsProblem, fault: Fault, detail: impl Into<Box<str>>) -> TlsError {
        TlsError {
            problem,
            fault,
            alert_sent: None,
            in_handshake: false,
            detail: detail.into(),
            source: None,
        }
    }

    /// Adds the library's error as the source.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(crate) fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> TlsError {
        self.source = Some(Box::new(source));
        self
    }

    /// Marks the peer's bytes as not TLS, with a guess at the protocol that it speaks.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(crate) fn not_tls(mut self, guess: &str) -> TlsError {
        self.problem = TlsProblem::NotTls;
        self.detail = guess.into();
        self
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = if self.in_handshake { "TLS handshake failed" } else { "TLS failed" };
        write!(f, "{step}: {}", self.detail)?;
        if let Some(alert) = self.alert_sent {
            write!(f, " (sent the alert {})", alert_name(alert))?;
        }
        Ok(())
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

/// The name of an alert, as spelled in RFC 8446 (6, B.2).
pub(crate) fn alert_name(number: u8) -> AlertName {
    AlertName(number)
}

pub(crate) struct AlertName(u8);

impl fmt::Display for AlertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            other => return write!(f, "{other}"),
        })
    }
}
