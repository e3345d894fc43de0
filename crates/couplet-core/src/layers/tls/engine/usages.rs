//! Key usages of peers' certificates (RFC 5280, 4.2.1.3), which webpki does not check: an authority
//! whose key may not sign certificates, and a key that may not sign a handshake. As in OpenSSL,
//! which also accepts a server's key for encipherment only.
//!
//! Contract: 75a.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// The first byte of a key usage.
const DIGITAL_SIGNATURE: u8 = 0x80;
const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_AGREEMENT: u8 = 0x08;
const KEY_CERT_SIGN: u8 = 0x04;

/// A server's key must have one of these usages.
const SERVER: u8 = DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | KEY_AGREEMENT;
/// A client's key must have one of these usages.
const CLIENT: u8 = DIGITAL_SIGNATURE | KEY_AGREEMENT;

/// The identifier of the extension: 2.5.29.15.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];

// Tags of DER.
const BOOLEAN: u8 = 0x01;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// A verifier that also checks key usages.
#[derive(Debug)]
pub(super) struct WithUsages<V: ?Sized>(pub(super) Arc<V>);

/// Checks a chain that was verified otherwise. A certificate without the extension may be used for
/// everything.
fn check(own: &CertificateDer<'_>, others: &[CertificateDer<'_>], one_of: u8) -> Result<(), Error> {
    let parse = |der| Parsed::new(der).ok_or(CertificateError::BadEncoding);
    let own = parse(own)?;
    let others = others.iter().map(|der| parse(der)).collect::<Result<Vec<_>, _>>()?;
    // Certificates that issued none of the chain have no effect.
    let issues = |one: &&Parsed<'_>| {
        let issued = |other: &Parsed<'_>| other.issuer == one.subject;
        issued(&own) || others.iter().any(issued)
    };
    let authorities_sign = others.iter().filter(issues).all(|one| one.may(KEY_CERT_SIGN));
    if own.may(one_of) && authorities_sign {
        Ok(())
    } else {
        Err(CertificateError::InvalidPurpose.into())
    }
}

/// The parts of a certificate that the check needs.
struct Parsed<'d> {
    issuer: &'d [u8],
    subject: &'d [u8],
    usages: Option<u8>,
}

impl<'d> Parsed<'d> {
    fn new(der: &'d [u8]) -> Option<Parsed<'d>> {
        let (_, certificate, _) = split(der)?;
        let (_, mut rest, _) = split(certificate)?;
        if rest.first() == Some(&VERSION) {
            rest = split(rest)?.2;
        }
        let mut next = || {
            let (_, content, after) = split(rest)?;
            rest = after;
            Some(content)
        };
        let [_serial, _algorithm, issuer] = [next()?, next()?, next()?];
        let [_validity, subject, _key] = [next()?, next()?, next()?];
        let mut usages = None;
        while !rest.is_empty() {
            let (tag, content, after) = split(rest)?;
            rest = after;
            if tag == EXTENSIONS {
                usages = key_usage(split(content)?.1)?;
            }
        }
        Some(Parsed { issuer, subject, usages })
    }

    /// Whether the key may be used for one of these.
    fn may(&self, one_of: u8) -> bool {
        self.usages.is_none_or(|usages| usages & one_of != 0)
    }
}

/// The key usage among extensions, if it is there. The outer `None` means that they are malformed.
fn key_usage(mut extensions: &[u8]) -> Option<Option<u8>> {
    while !extensions.is_empty() {
        let (_, extension, after) = split(extensions)?;
        extensions = after;
        let (_, identifier, parts) = split(extension)?;
        if identifier == KEY_USAGE {
            let (tag, content, after) = split(parts)?;
            let octets = if tag == BOOLEAN { split(after)?.1 } else { content };
            // The number of unused bits, then the bits.
            let (_, bits, _) = split(octets)?;
            return Some(Some(bits.get(1).copied().unwrap_or(0)));
        }
    }
    Some(None)
}

/// The tag and the content of the first value, and the bytes behind it.
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.is_empty() || bytes.len() > 4 {
            return None;
        }
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

impl<V: ServerCertVerifier + ?Sized> ServerCertVerifier for WithUsages<V> {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.0.verify_server_cert(own, others, name, ocsp, now)?;
        check(own, others, SERVER)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.0.root_hint_subjects()
    }
}

impl<V: ClientCertVerifier + ?Sized> ClientCertVerifier for WithUsages<V> {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(own, others, now)?;
        check(own, others, CLIENT)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519,
    };

    use super::*;

    fn params(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a host name");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.key_usages = usages.to_vec();
        params
    }

    /// A leaf with these usages, and its issuer.
    fn chain(leaf: &[KeyUsagePurpose], issuer: &[KeyUsagePurpose]) -> [CertificateDer<'static>; 2] {
        let mut authority = params("issuer", issuer);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let signing = key();
        let above = authority.self_signed(&signing).expect("a certificate");
        let issuer = Issuer::new(authority, signing);
        let leaf = params("leaf", leaf).signed_by(&key(), &issuer).expect("a certificate");
        [leaf.der().clone(), above.der().clone()]
    }

    #[test]
    fn c75a_keys_are_used_as_their_certificates_allow() {
        use KeyUsagePurpose::{
            ContentCommitment, CrlSign, DataEncipherment, DigitalSignature, KeyAgreement,
            KeyCertSign, KeyEncipherment,
        };
        let all: [(&[KeyUsagePurpose], bool, bool, bool); 9] = [
            // Usages; whether a server, a client and an authority may have them.
            (&[], true, true, true),
            (&[DigitalSignature], true, true, false),
            (&[KeyEncipherment], true, false, false),
            (&[KeyAgreement], true, true, false),
            (&[KeyCertSign], false, false, true),
            (&[CrlSign], false, false, false),
            (&[ContentCommitment, DataEncipherment], false, false, false),
            (&[KeyCertSign, CrlSign], false, false, true),
            (&[DigitalSignature, KeyCertSign], true, true, true),
        ];
        for (usages, server, client, authority) in all {
            let [leaf, issuer] = chain(usages, &[]);
            let issuer = [issuer];
            assert_eq!(check(&leaf, &issuer, SERVER).is_ok(), server, "{usages:?}");
            assert_eq!(check(&leaf, &issuer, CLIENT).is_ok(), client, "{usages:?}");
            let [leaf, issuer] = chain(&[], usages);
            let issuer = [issuer];
            assert_eq!(check(&leaf, &issuer, SERVER).is_ok(), authority, "{usages:?}");
            // A certificate that issued none of the chain has no effect.
            let [other, _] = chain(&[], &[]);
            let [mut unused, _] = chain(usages, &[]);
            assert!(check(&other, std::slice::from_ref(&unused), SERVER).is_ok());
            // Any part of a certificate is an error, and no panic.
            for length in 0..leaf.len() {
                unused = CertificateDer::from(leaf[..length].to_vec());
                assert!(check(&unused, &[], SERVER).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn c75a_each_authority_of_a_chain_has_to_be_one_that_signs() {
        use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign};
        let key = || KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let authority = |name: &str, usage: KeyUsagePurpose| {
            let mut params = params(name, &[usage]);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        for (upper, lower, signs) in [
            (KeyCertSign, KeyCertSign, true),
            (KeyCertSign, CrlSign, false),
            (CrlSign, KeyCertSign, false),
        ] {
            let case = format!("{upper:?}, {lower:?}");
            let (top, signing) = (authority("upper", upper), key());
            let above = top.self_signed(&signing).expect("a certificate");
            let top = Issuer::new(top, signing);
            let (middle, signing) = (authority("lower", lower), key());
            let below = middle.signed_by(&signing, &top).expect("a certificate");
            let middle = Issuer::new(middle, signing);
            let leaf = params("leaf", &[DigitalSignature]).signed_by(&key(), &middle);
            let leaf = leaf.expect("a certificate");
            let [above, below] = [above.der().clone(), below.der().clone()];
            for others in [[below.clone(), above.clone()], [above, below]] {
                for one_of in [SERVER, CLIENT] {
                    assert_eq!(check(leaf.der(), &others, one_of).is_ok(), signs, "{case}");
                }
            }
        }
    }
}
