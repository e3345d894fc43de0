//! [`Tls`]: a configuration of rustls, made from a program's options.

use std::time::{Duration, Instant};

use couplet::layers::tls::{
    self as engine, ClientAuth, ClientTls, ClientTlsOptions, Identity, Roots, ServerTls,
    ServerTlsOptions, TlsConfigError, TlsInfo, TlsVersion,
};
use couplet::{Reason, TlsProblem, Transport};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// As in Twisted, a handshake has no deadline.
const HANDSHAKE: Duration = Duration::MAX;

enum Side {
    Server(ServerTls),
    Client(ClientTls),
}

/// A configuration of TLS, for any number of connections.
#[pyclass(frozen, module = "couplet_twisted._couplet")]
pub(crate) struct Tls(Side);

/// PEM texts: a chain of certificates, and its key.
type Pair = (Vec<u8>, Vec<u8>);

fn invalid(error: TlsConfigError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn identity((chain, key): &Pair) -> PyResult<Identity> {
    Identity::from_pem(chain, key).map_err(invalid)
}

fn version(minor: u8) -> PyResult<TlsVersion> {
    match minor {
        2 => Ok(TlsVersion::Tls12),
        3 => Ok(TlsVersion::Tls13),
        _ => Err(PyValueError::new_err(format!("there is no TLS 1.{minor} here"))),
    }
}

#[pymethods]
impl Tls {
    /// A server's configuration. Clients are asked for a certificate if `roots` is given, a PEM
    /// text with the issuers that are trusted, and refused without one if `requires`. `versions`
    /// are the oldest and the newest minor version of TLS 1.
    ///
    /// Raises `ValueError` with the reason if rustls can't use it.
    #[staticmethod]
    fn server(
        pair: Pair,
        roots: Option<Vec<u8>>,
        requires: bool,
        alpn: Vec<Vec<u8>>,
        versions: (u8, u8),
        resumption: bool,
    ) -> PyResult<Tls> {
        let roots = roots.map(|pem| Roots::from_pem(&pem).map_err(invalid)).transpose()?;
        let options = ServerTlsOptions::new(identity(&pair)?)
            .client_auth(match roots {
                None => ClientAuth::None,
                Some(roots) if requires => ClientAuth::Require(roots),
                Some(roots) => ClientAuth::Ask(roots),
            })
            .alpn(alpn)
            .versions(version(versions.0)?, version(versions.1)?)
            .resumption(resumption)
            .handshake_timeout(HANDSHAKE);
        Ok(Tls(Side::Server(ServerTls::new(&options).map_err(invalid)?)))
    }

    /// A client's configuration. `roots` are the trusted issuers, a PEM text; `None`: the system's.
    ///
    /// Raises `ValueError` with the reason if rustls can't use it.
    #[staticmethod]
    fn client(
        pair: Option<Pair>,
        roots: Option<Vec<u8>>,
        alpn: Vec<Vec<u8>>,
        versions: (u8, u8),
    ) -> PyResult<Tls> {
        let mut options = ClientTlsOptions::default()
            .alpn(alpn)
            .versions(version(versions.0)?, version(versions.1)?)
            .resumption(false)
            .handshake_timeout(HANDSHAKE);
        if let Some(pair) = pair {
            options = options.identity(identity(&pair)?);
        }
        if let Some(pem) = roots {
            options = options.roots(Roots::from_pem(&pem).map_err(invalid)?);
        }
        Ok(Tls(Side::Client(ClientTls::new(&options).map_err(invalid)?)))
    }
}

impl Tls {
    /// The layer of one connection. A client's peer must be `host`.
    #[expect(clippy::disallowed_methods, reason = "any time will do: there is no deadline")]
    pub(crate) fn layer(&self, host: &str) -> PyResult<engine::Tls> {
        let now = Instant::now();
        match &self.0 {
            Side::Server(tls) => Ok(tls.layer(now)),
            Side::Client(tls) => tls.layer(host, now).map_err(invalid),
        }
    }
}

/// The parameters that a handshake negotiated.
#[pyclass(frozen, get_all, module = "couplet_twisted._couplet")]
pub(crate) struct Negotiated {
    /// Such as `TLSv1.3`.
    version: String,
    /// The IANA name of the cipher suite, as rustls writes it.
    cipher: &'static str,
    alpn: Option<Py<PyBytes>>,
    /// The name that the client requested.
    server_name: Option<String>,
    /// The peer's certificates in DER, its own first.
    certificates: Vec<Py<PyBytes>>,
}

impl Negotiated {
    /// `None` before the handshake is complete.
    pub(crate) fn of(py: Python<'_>, transport: &Transport) -> Option<Negotiated> {
        let info = transport.info::<TlsInfo>()?;
        let bytes = |some: &[u8]| PyBytes::new(py, some).unbind();
        Some(Negotiated {
            version: info.version.to_string(),
            cipher: info.cipher,
            alpn: info.alpn.as_deref().map(bytes),
            server_name: info.server_name.as_deref().map(str::to_owned),
            certificates: info.peer_certificates.iter().map(|one| bytes(one)).collect(),
        })
    }
}

/// Why TLS failed: the kind of failure, the alert that the peer sent, and a text. `None` for an end
/// of the connection itself, such as one without close_notify.
pub(crate) fn failure(reason: &Reason) -> Option<(String, Option<u8>, String)> {
    let Reason::Tls(error) = reason else { return None };
    let kind = match &error.problem {
        TlsProblem::Certificate(problem) => format!("{problem:?}"),
        problem => format!("{problem:?}"),
    };
    let alert = match error.problem {
        TlsProblem::AlertReceived(alert) => Some(alert),
        _ => None,
    };
    Some((kind, alert, error.to_string()))
}
