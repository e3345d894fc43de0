//! Self-signed certificates.

use rcgen::{CertifiedKey, generate_simple_self_signed};

/// A self-signed certificate and its key, as PEM.
pub struct SelfSigned {
    pub certificate: String,
    pub key: String,
}

impl SelfSigned {
    pub fn new(name: &str) -> SelfSigned {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        SelfSigned { certificate: cert.pem(), key: signing_key.serialize_pem() }
    }

    /// Both in one text.
    pub fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}
