//! A certificate authority whose files other programs can read: keys of P-256, in the older form of
//! PKCS #8.

use couplet::layers::tls::Roots;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

/// An issuer of certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate and key.
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = key();
        let pem = params.self_signed(&key).expect("a certificate").pem() + &key.serialize_pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes()).expect("our own certificate")
    }

    /// A certificate for a name, and its key.
    pub(crate) fn signed(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = key();
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    /// The certificate and its key in one PEM text.
    pub(crate) fn pem(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let (certificate, key) = self.signed(name, change);
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }
}
