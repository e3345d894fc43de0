//! Folders for the files of tests and benches, and certificates for them.

#[path = "folders.rs"]
mod folders;

use rcgen::{CertifiedKey, generate_simple_self_signed};

#[allow(unused_imports, reason = "each test uses a part")]
pub(crate) use folders::{Folder, inheritable};

/// A self-signed certificate and its key, as PEM.
pub(crate) struct SelfSigned {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl SelfSigned {
    pub(crate) fn new(name: &str) -> SelfSigned {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        SelfSigned { certificate: cert.pem(), key: signing_key.serialize_pem() }
    }

    /// Both in one text.
    pub(crate) fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}
