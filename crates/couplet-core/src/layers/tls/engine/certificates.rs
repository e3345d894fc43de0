//! Certificates and keys from PEM, and the choice of one for a client.

use std::cell::RefCell;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::world::provider;
use crate::layers::tls::directory::CertificateDirectory;
use crate::layers::tls::settings::TlsConfigError;

/// A certificate chain with its key.
#[derive(Clone)]
pub(in super::super) struct CertificateAndKey(pub(super) Arc<CertifiedKey>);

impl CertificateAndKey {
    /// Parses PEM: the chain, with the server's own certificate first, and the key, which may be in
    /// the same text. `place` names them in errors.
    pub(in super::super) fn from_pem(
        chain: &[u8],
        key: &[u8],
        place: &str,
    ) -> Result<CertificateAndKey, TlsConfigError> {
        let invalid =
            |what: &str| TlsConfigError::Invalid { place: place.to_owned(), what: what.to_owned() };
        let chain = certificates(chain, place)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls::pki_types::pem::Error::NoItemsFound => invalid("there is no private key"),
            error => invalid(&error.to_string()),
        })?;
        // Also checks that the key matches the certificate.
        match CertifiedKey::from_der(chain, key, &provider()) {
            Ok(pair) => Ok(CertificateAndKey(Arc::new(pair))),
            Err(rustls::Error::InconsistentKeys(_)) => {
                Err(invalid("the private key does not match the certificate"))
            }
            Err(error) => Err(invalid(&error.to_string())),
        }
    }

    /// Appends certificates, from PEM, to the chain.
    pub(in super::super) fn with_chain(
        &self,
        more: &[u8],
        place: &str,
    ) -> Result<CertificateAndKey, TlsConfigError> {
        let mut pair = CertifiedKey::clone(&self.0);
        pair.cert.extend(certificates(more, place)?);
        Ok(CertificateAndKey(Arc::new(pair)))
    }

    /// Adds an OCSP response, in DER, for stapling.
    pub(in super::super) fn with_ocsp(self, response: Vec<u8>) -> CertificateAndKey {
        let mut pair = CertifiedKey::clone(&self.0);
        pair.ocsp = Some(response);
        CertificateAndKey(Arc::new(pair))
    }

    /// The stapled OCSP response.
    #[cfg(test)]
    pub(in super::super) fn ocsp(&self) -> Option<&[u8]> {
        self.0.ocsp.as_deref()
    }

    /// The certificates in DER, the server's own first.
    pub(in super::super) fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.0.cert.iter().map(|certificate| certificate.as_ref())
    }
}

/// The certificates in a PEM text; an error if it contains none.
fn certificates(pem: &[u8], place: &str) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let invalid = |what: String| TlsConfigError::Invalid { place: place.to_owned(), what };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(invalid("there is no certificate".to_owned())),
        Ok(found) => Ok(found),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// The certificates in a PEM text, as trusted issuers.
pub(in super::super) fn roots(
    pem: &[u8],
    place: &str,
) -> Result<Arc<RootCertStore>, TlsConfigError> {
    let invalid = |what: String| TlsConfigError::Invalid { place: place.to_owned(), what };
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem, place)? {
        store.add(certificate).map_err(|error| invalid(error.to_string()))?;
    }
    Ok(Arc::new(store))
}

pub(in super::super) type Store = Arc<RootCertStore>;

thread_local! {
    /// The name in the last ClientHello processed on this thread. rustls passes it to the resolver,
    /// which all connections share, but not to the connection.
    static REQUESTED_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Takes the name requested by the last ClientHello.
pub(super) fn requested_name() -> Option<Box<str>> {
    REQUESTED_NAME.with(|name| name.borrow_mut().take())
}

#[derive(Debug)]
pub(super) struct CertificateResolver {
    pub(super) directory: Option<CertificateDirectory>,
    pub(super) default: Option<CertificateAndKey>,
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name();
        REQUESTED_NAME.with(|asked| *asked.borrow_mut() = name.map(Into::into));
        let found = self.directory.as_ref().and_then(|directory| directory.find(name));
        found.or_else(|| self.default.clone()).map(|pair| pair.0)
    }
}

impl std::fmt::Debug for CertificateAndKey {
    /// Omits the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateAndKey")
            .field("certificates", &self.0.cert.len())
            .finish_non_exhaustive()
    }
}
