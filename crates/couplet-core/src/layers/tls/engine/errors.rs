//! Converts rustls errors to ours: the problem, the party at fault, and a readable message.
//!
//! Contract: 75, 76.

use std::fmt::Write;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::error::{CertificateProblem, Fault, TlsError, TlsProblem, alert_name};

/// Converts an error of rustls.
pub(in super::super) fn explain(error: Error, in_handshake: bool) -> TlsError {
    let mut explained = match &error {
        Error::InvalidCertificate(wrong) => {
            let (problem, text) = explain_certificate(wrong);
            let mut explained = TlsError::new(
                TlsProblem::Certificate(problem),
                Fault::Peer,
                format!("the peer's certificate was rejected: {text}"),
            );
            explained.alert_sent = Some(AlertDescription::from(wrong.clone()).into());
            explained
        }
        Error::NoCertificatesPresented => TlsError::new(
            TlsProblem::Certificate(CertificateProblem::Missing),
            Fault::Peer,
            "the peer sent no certificate",
        ),
        Error::AlertReceived(alert) => explain_alert(u8::from(*alert), in_handshake),
        Error::PeerIncompatible(why) => {
            let text =
                format!("no common parameters with the peer: {}", explain_incompatibility(why));
            TlsError::new(TlsProblem::NothingInCommon, Fault::Peer, text)
        }
        Error::NoApplicationProtocol => TlsError::new(
            TlsProblem::NoApplicationProtocol,
            Fault::Peer,
            "the peer accepts none of our application protocols (ALPN)",
        ),
        Error::DecryptError => TlsError::new(
            TlsProblem::BadRecord,
            Fault::Network,
            "cannot decrypt a record: it was altered in transit",
        ),
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(_)
        | Error::PeerSentOversizedRecord => {
            let text = format!("the peer violated the TLS protocol: {error}");
            TlsError::new(TlsProblem::Misbehaved, Fault::Peer, text)
        }
        _ => TlsError::new(TlsProblem::Internal, Fault::Ours, error.to_string()),
    };
    explained.in_handshake = in_handshake;
    explained.caused_by(error)
}

fn explain_incompatibility(why: &PeerIncompatible) -> String {
    use PeerIncompatible::*;
    match why {
        // TLS 1.2 introduced this extension (RFC 5246, 7.4.1.4.1), so older clients fail here
        // first.
        SignatureAlgorithmsExtensionRequired
        | ServerDoesNotSupportTls12Or13
        | ServerTlsVersionIsDisabledByOurConfig
        | SupportedVersionsExtensionRequired
        | Tls12NotOffered
        | Tls12NotOfferedOrEnabled => "it has no version of TLS that we accept".to_owned(),
        NoCipherSuitesInCommon => "it has no cipher suite that we accept".to_owned(),
        NoKxGroupsInCommon | NamedGroupsExtensionRequired => {
            "it has no key exchange that we accept".to_owned()
        }
        NoSignatureSchemesInCommon => {
            "it accepts no signature that our certificate's key can make".to_owned()
        }
        other => format!("{other:?}"),
    }
}

/// Explains an alert from the peer. Alerts about our certificate or our offer are our fault.
fn explain_alert(alert: u8, in_handshake: bool) -> TlsError {
    let (fault, remedy) = match alert {
        42..=46 | 48 | 49 => (Fault::Ours, " (it rejects our certificate)"),
        116 => (Fault::Ours, " (it requires a certificate from us)"),
        40 | 70 | 71 if in_handshake => {
            (Fault::Ours, " (it accepts none of our versions or ciphers)")
        }
        112 => (Fault::Ours, " (it does not know the requested name)"),
        120 => (Fault::Ours, " (it knows none of our application protocols)"),
        20 => (Fault::Network, " (a record was altered in transit)"),
        _ => (Fault::Peer, ""),
    };
    let mut text = String::new();
    let _ = write!(text, "the peer sent the alert {}{remedy}", alert_name(alert));
    TlsError::new(TlsProblem::AlertReceived(alert), fault, text)
}

/// webpki's error for a CA certificate that is presented as a server's own.
const CA_USED: &str = "CaUsedAsEndEntity";

#[expect(deprecated, reason = "verifiers may still use the old variants")]
fn explain_certificate(wrong: &CertificateError) -> (CertificateProblem, String) {
    let problem = match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            CertificateProblem::Expired
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            CertificateProblem::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            CertificateProblem::WrongName
        }
        CertificateError::UnknownIssuer => CertificateProblem::UnknownIssuer,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            CertificateProblem::WrongUsage
        }
        CertificateError::Revoked
        | CertificateError::UnknownRevocationStatus
        | CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => CertificateProblem::Revoked,
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithm
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            CertificateProblem::BadSignature
        }
        // The platform's verifier has a separate error for a wrong usage.
        CertificateError::Other(other) if other.to_string().contains("usage") => {
            CertificateProblem::WrongUsage
        }
        CertificateError::Other(other) if other.to_string() == CA_USED => {
            CertificateProblem::WrongUsage
        }
        _ => CertificateProblem::Other,
    };
    let text = match problem {
        CertificateProblem::WrongUsage if wrong.to_string().contains(CA_USED) => {
            "it is a CA certificate (CA:TRUE), which may only sign others".to_owned()
        }
        CertificateProblem::Expired => "it has expired".to_owned(),
        CertificateProblem::NotYetValid => "it is not valid yet".to_owned(),
        CertificateProblem::UnknownIssuer => {
            "its issuer is not trusted, or a certificate between them is missing".to_owned()
        }
        CertificateProblem::WrongUsage => "it is for another purpose".to_owned(),
        _ => wrong.to_string(),
    };
    (problem, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_says_who_is_at_fault_and_why() {
        use Fault::{Network, Ours, Peer};
        let certificate = "it rejects our certificate";
        let nothing_common = "it accepts none of our versions or ciphers";
        for (alerts, in_handshake, fault, why) in [
            (&[42, 43, 44, 45, 46, 48, 49][..], true, Ours, certificate),
            (&[42, 48], false, Ours, certificate),
            (&[116], true, Ours, "it requires a certificate from us"),
            (&[40, 70, 71], true, Ours, nothing_common),
            (&[40, 70, 71, 80], false, Peer, ""),
            (&[10, 41, 47, 50, 51, 80], true, Peer, ""),
            (&[112], true, Ours, "it does not know the requested name"),
            (&[120], true, Ours, "it knows none of our application protocols"),
            (&[20], false, Network, "a record was altered in transit"),
        ] {
            for &alert in alerts {
                let error = explain(Error::AlertReceived(alert.into()), in_handshake);
                assert_eq!(error.problem, TlsProblem::AlertReceived(alert));
                assert_eq!((error.fault, error.in_handshake), (fault, in_handshake), "{error}");
                let text = error.to_string();
                assert!(text.contains(why) && (text.contains(" (it ") || !why.starts_with("it ")));
                assert_eq!(error.alert_sent, None, "{error}");
            }
        }
    }

    #[test]
    fn an_incompatible_peer_is_reported_with_the_part_that_it_lacks() {
        use PeerIncompatible::*;
        let version = "it has no version of TLS that we accept";
        let key_exchange = "it has no key exchange that we accept";
        for (why, text) in [
            (SignatureAlgorithmsExtensionRequired, version),
            (ServerDoesNotSupportTls12Or13, version),
            (ServerTlsVersionIsDisabledByOurConfig, version),
            (SupportedVersionsExtensionRequired, version),
            (Tls12NotOffered, version),
            (Tls12NotOfferedOrEnabled, version),
            (NoCipherSuitesInCommon, "it has no cipher suite that we accept"),
            (NoKxGroupsInCommon, key_exchange),
            (NamedGroupsExtensionRequired, key_exchange),
            (
                NoSignatureSchemesInCommon,
                "it accepts no signature that our certificate's key can make",
            ),
            (KeyShareExtensionRequired, "KeyShareExtensionRequired"),
        ] {
            let error = explain(Error::PeerIncompatible(why), true);
            assert_eq!((error.problem, error.fault), (TlsProblem::NothingInCommon, Fault::Peer));
            let expected = format!("no common parameters with the peer: {text}");
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}
