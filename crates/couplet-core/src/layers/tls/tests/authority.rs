//! A test authority and its certificates. Signatures by their keys have a fixed length, so that a
//! seed gives one trace.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519,
};

use crate::layers::tls::{Identity, Roots};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// The parameters of an authority's certificate, and its key.
fn authority() -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    // A second authority of the same name would look like the first with a wrong signature.
    let name = format!("authority {:02x?}", &key.public_key_raw()[1..9]);
    params.distinguished_name.push(DnType::CommonName, name);
    (params, key)
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let (params, key) = authority();
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots::from_pem(self.pem.as_bytes()).expect("our own certificate")
    }

    /// Its own certificate, as PEM.
    #[allow(dead_code, reason = "shared by two crates of tests")]
    pub(crate) fn certificate(&self) -> &str {
        &self.pem
    }

    /// An intermediate authority, with a certificate issued by this one.
    #[allow(dead_code, reason = "shared by two crates of tests")]
    pub(crate) fn middle(&self) -> Authority {
        let (params, key) = authority();
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a name and its key, in one PEM text.
    pub(crate) fn pem(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.identity_with(name, |_| {})
    }

    pub(crate) fn identity_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let pem = self.pem(name, change);
        Identity::from_pem(pem.as_bytes(), pem.as_bytes()).expect("our own certificate")
    }
}
