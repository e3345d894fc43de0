//! Test authorities and their certificates.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SignatureAlgorithm,
};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    keys: &'static SignatureAlgorithm,
    /// The authority's certificate, as PEM.
    certificate: String,
}

/// TLS types that an authority makes. The core's unit tests are another build of the library, so
/// their types differ from those that other binaries use.
pub trait FromFile {
    /// Reads certificates, or a chain and its key, in PEM.
    fn from_file(pem: &[u8]) -> Self;
}

#[cfg(feature = "tls")]
impl FromFile for couplet::layers::tls::Roots {
    fn from_file(pem: &[u8]) -> Self {
        Self::from_pem(pem).expect("our own certificate")
    }
}

#[cfg(feature = "tls")]
impl FromFile for couplet::layers::tls::Identity {
    fn from_file(pem: &[u8]) -> Self {
        Self::from_pem(pem, pem).expect("our own certificate")
    }
}

impl Authority {
    /// The signatures have a fixed length, so that a seed gives one trace.
    pub fn new() -> Authority {
        Authority::made("authority", &PKCS_ED25519, None)
    }

    /// With keys that other programs can read: of P-256, in the older form of PKCS #8.
    pub fn readable(name: &str) -> Authority {
        Authority::made(name, &PKCS_ECDSA_P256_SHA256, None)
    }

    /// An intermediate authority, with a certificate issued by this one.
    pub fn middle(&self) -> Authority {
        Authority::made("authority", self.keys, Some(self))
    }

    fn made(name: &str, keys: &'static SignatureAlgorithm, by: Option<&Authority>) -> Authority {
        let key = KeyPair::generate_for(keys).expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        // A second authority of the same name would look like the first with a wrong signature.
        let number = match keys == &PKCS_ED25519 {
            true => format!(" {:02x?}", &key.public_key_raw()[1..9]),
            false => String::new(),
        };
        params.distinguished_name.push(DnType::CommonName, format!("{name}{number}"));
        let certificate = match by {
            Some(issuer) => params.signed_by(&key, &issuer.issuer),
            None => params.self_signed(&key),
        };
        let certificate = certificate.expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), keys, certificate }
    }

    /// The authority's certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The authority's certificate and key.
    pub fn own_pem(&self) -> String {
        format!("{}{}", self.certificate, self.issuer.key().serialize_pem())
    }

    pub fn roots<R: FromFile>(&self) -> R {
        R::from_file(self.certificate.as_bytes())
    }

    /// A certificate for a name, and its key.
    pub fn signed(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate_for(self.keys).expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate"), key)
    }

    /// The certificate and its key in one text.
    pub fn pem(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let (certificate, key) = self.signed(name, change);
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    pub fn identity<I: FromFile>(&self, name: &str) -> I {
        self.identity_with(name, |_| {})
    }

    pub fn identity_with<I: FromFile>(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> I {
        I::from_file(self.pem(name, change).as_bytes())
    }
}
