//! The TLS part of the grammar: `tls:` before another endpoint, or before the rest of a `tcp:`
//! endpoint.
//!
//! Parsing reads no file. Listening and connecting do, and an error shows the part of the string
//! that it is about. Twisted's `ssl:` and its keywords are understood.

use std::fmt;
use std::time::Instant;

use super::grammar::{Kind, Part, Parts};
use super::unix::escaped;
use super::{ClientEndpoint, EndpointError, ServerEndpoint};
use crate::defer::Result;
use crate::layers::tls::{
    CertificateDirectory, ClientAuth, ClientTls, ClientTlsOptions, Identity, Roots, ServerTls,
    ServerTlsOptions, Tls, TlsConfigError,
};

/// The settings of [`ServerEndpoint::Tls`].
#[derive(Clone, Debug)]
pub struct TlsListen {
    files: Files,
    sni: Option<Part>,
    client_ca: Option<Part>,
}

/// The settings of [`ClientEndpoint::Tls`].
#[derive(Clone, Debug)]
pub struct TlsConnect {
    files: Files,
    ca: Option<Part>,
    server_name: Option<Part>,
}

/// What both sides have.
#[derive(Clone, Debug)]
struct Files {
    /// The certificate and its key, perhaps in one file.
    identity: Option<(Part, Part)>,
    alpn: Option<Part>,
    /// Where errors without a part point.
    whole: Part,
}

impl ServerEndpoint {
    pub(super) fn read_tls(mut parts: Parts) -> Result<Self, EndpointError> {
        let files = Files::take(&mut parts)?;
        let sni = parts.keyword("sni");
        if files.identity.is_none() && sni.is_none() {
            return Err(parts.missing("certificate", "cert=FILE:key=FILE, or sni=DIR"));
        }
        let tls = TlsListen { files, sni, client_ca: parts.keyword("client-ca") };
        let over = match parts.carrier("listen")? {
            Kind::Unix => ServerEndpoint::read_unix(parts)?,
            Kind::Tls => return Err(tls.nested()),
            kind => ServerEndpoint::read_tcp(kind, parts)?,
        };
        Ok(ServerEndpoint::Tls { over: Box::new(over), tls: Box::new(tls) })
    }
}

impl ClientEndpoint {
    pub(super) fn read_tls(mut parts: Parts) -> Result<Self, EndpointError> {
        let files = Files::take(&mut parts)?;
        let (ca, server_name) = (parts.keyword("ca"), parts.keyword("servername"));
        let tls = TlsConnect { files, ca, server_name };
        let over = match parts.carrier("connect")? {
            Kind::Unix if tls.server_name.is_none() => {
                return Err(parts.missing("servername", "tls:unix:PATH:servername=NAME"));
            }
            Kind::Unix => ClientEndpoint::read_unix(parts)?,
            Kind::Tls => return Err(tls.nested()),
            kind => ClientEndpoint::read_tcp(kind, parts)?,
        };
        Ok(ClientEndpoint::Tls { over: Box::new(over), tls: Box::new(tls) })
    }
}

impl Parts {
    /// The kind of what carries TLS: TCP unless given, in which case `tls:` reads as `tcp:`.
    fn carrier(&mut self, to: &str) -> Result<Kind, EndpointError> {
        match self.has_kind() {
            true => self.take_kind(to),
            false => Ok(Kind::Tcp),
        }
    }

    /// The value of the first of several names for a keyword.
    fn one_of(&mut self, keys: &[&str]) -> Option<Part> {
        keys.iter().find_map(|key| self.keyword(key))
    }
}

impl TlsListen {
    /// Reads the files.
    pub(super) fn load(&self) -> Result<ServerTls, EndpointError> {
        let mut options = ServerTlsOptions::default().alpn(self.files.alpn());
        if let Some(identity) = self.files.load()? {
            options = options.identity(identity);
        }
        if let Some(sni) = &self.sni {
            let directory = CertificateDirectory::open(&sni.text).map_err(|e| sni.because(&e))?;
            options = options.directory(directory);
        }
        if let Some(ca) = &self.client_ca {
            options = options.client_auth(ClientAuth::Require(ca.roots()?));
        }
        ServerTls::new(&options).map_err(|error| self.files.whole.because(&error))
    }

    pub(super) fn nested(&self) -> EndpointError {
        self.files.nested()
    }

    pub(super) fn print(&self, f: &mut fmt::Formatter<'_>, over: &str) -> fmt::Result {
        self.files.print(f, over)?;
        print(f, "sni", self.sni.as_ref())?;
        print(f, "client-ca", self.client_ca.as_ref())
    }
}

impl TlsConnect {
    /// Reads the files, and checks that a certificate can be for this host.
    pub(super) fn load(
        &self,
        over: &ClientEndpoint,
        now: Instant,
    ) -> Result<impl FnMut(Instant) -> Tls + 'static, EndpointError> {
        let mut options = ClientTlsOptions::default().alpn(self.files.alpn());
        if let Some(identity) = self.files.load()? {
            options = options.identity(identity);
        }
        if let Some(ca) = &self.ca {
            options = options.roots(ca.roots()?);
        }
        let whole = &self.files.whole;
        let tls = ClientTls::new(&options).map_err(|error| whole.because(&error))?;
        let host = match (&self.server_name, over) {
            (Some(name), _) => name.text.clone(),
            // The scope of an IPv6 address is not part of a certificate.
            (None, ClientEndpoint::Tcp { host, .. }) => {
                host.split('%').next().unwrap_or_default().to_owned()
            }
            (None, _) => String::new(),
        };
        let place = self.server_name.as_ref().unwrap_or(whole);
        tls.layer(&host, now).map_err(|error| place.because(&error))?;
        Ok(move |now| tls.layer(&host, now).expect("this name was valid"))
    }

    pub(super) fn nested(&self) -> EndpointError {
        self.files.nested()
    }

    pub(super) fn print(&self, f: &mut fmt::Formatter<'_>, over: &str) -> fmt::Result {
        self.files.print(f, over)?;
        print(f, "ca", self.ca.as_ref())?;
        print(f, "servername", self.server_name.as_ref())
    }
}

impl Files {
    fn take(parts: &mut Parts) -> Result<Files, EndpointError> {
        let cert = parts.one_of(&["cert", "certKey", "certificate"]);
        let key = parts.one_of(&["key", "privateKey"]);
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            // One file may have both.
            (Some(both), None) | (None, Some(both)) => Some((both.clone(), both)),
            (None, None) => None,
        };
        let alpn = parts.keyword("alpn");
        if let Some(alpn) = &alpn
            && alpn.text.split(',').any(|name| name.is_empty() || name.len() > 255)
        {
            return Err(alpn.error("expected protocols such as h2,http/1.1"));
        }
        Ok(Files { identity, alpn, whole: parts.whole() })
    }

    fn load(&self) -> Result<Option<Identity>, EndpointError> {
        let Some((cert, key)) = &self.identity else { return Ok(None) };
        Identity::from_pem_files(&cert.text, &key.text).map(Some).map_err(|error| {
            let is_cert = match &error {
                TlsConfigError::File { path, .. } => path.as_os_str() == cert.text.as_str(),
                TlsConfigError::Invalid { place, .. } => *place == cert.text,
                _ => false,
            };
            if is_cert { cert.because(&error) } else { key.because(&error) }
        })
    }

    fn alpn(&self) -> Vec<String> {
        let names = self.alpn.iter().flat_map(|part| part.text.split(','));
        names.map(str::to_owned).collect()
    }

    fn nested(&self) -> EndpointError {
        self.whole.error("tls: cannot carry another tls:")
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, over: &str) -> fmt::Result {
        // `tls:unix:80` would be a socket, not a host of that name.
        let short = over
            .strip_prefix("tcp:")
            .filter(|rest| !Parts::new(rest).is_ok_and(|parts| parts.has_kind()));
        write!(f, "tls:{}", short.unwrap_or(over))?;
        let (cert, key) = self.identity.as_ref().map(|(cert, key)| (cert, key)).unzip();
        print(f, "cert", cert)?;
        print(f, "key", key)?;
        print(f, "alpn", self.alpn.as_ref())
    }
}

impl Part {
    fn because(&self, error: &TlsConfigError) -> EndpointError {
        self.error(error.to_string())
    }

    fn roots(&self) -> Result<Roots, EndpointError> {
        Roots::from_pem_file(&self.text).map_err(|error| self.because(&error))
    }
}

fn print(f: &mut fmt::Formatter<'_>, key: &str, part: Option<&Part>) -> fmt::Result {
    part.iter().try_for_each(|part| write!(f, ":{key}={}", escaped(&part.text)))
}
