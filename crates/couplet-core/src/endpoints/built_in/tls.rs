//! The TLS part of the grammar: `tls:` before another endpoint, or before the rest of a `tcp:`
//! endpoint.
//!
//! Parsing reads no files; listening and connecting do, and their errors point at the part of the
//! string concerned. Twisted's `ssl:` and `tls:` and their keywords are accepted.
//!
//! Contract: 85, 103g, 144, 145g, 178a.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use crate::defer::{Deferred, Failure, Result};
use crate::endpoints::grammar::{Part, Parts, needs_tcp, print_over, print_part};
use crate::endpoints::{
    ClientEndpoint, EndpointError, Reload, ServerEndpoint, SharedPort, Sharing,
};
use crate::factory::ErasedFactory;
use crate::layers::tls::{
    CertificateDirectory, ClientAuth, ClientTls, ClientTlsOptions, Identity, Roots, ServerTls,
    ServerTlsOptions, Tls, TlsConfigError,
};
use crate::panics::lock;
use crate::reactor::{Port, Reactor};
use crate::transport::Transport;

/// `tls:`, for listening: `tls:ENDPOINT:cert=FILE:key=FILE[:chain=FILE][:sni=DIR][:client-ca=FILE]
/// [:alpn=NAME,NAME]`, where `tcp:` may be omitted from ENDPOINT. The files are read by `listen`.
///
/// Also Twisted's `tls:DIR:PORT`, which is `sni=DIR`, and `ssl:` with `certKey=`, `privateKey=` and
/// `extraCertChain=`; `dhParameters=` is ignored. Twisted's `wrapServerTLS`.
#[derive(Clone, Debug)]
pub struct TlsServer {
    over: Arc<dyn ServerEndpoint>,
    files: TlsFiles,
    sni: Option<Part>,
    client_ca: Option<Part>,
    ports: OpenPorts,
}

/// The settings of the ports that an endpoint and its clones have opened.
#[derive(Clone, Default)]
struct OpenPorts(Arc<Mutex<Vec<Weak<PortTls>>>>);

/// The TLS of a port, which a reload replaces.
struct PortTls {
    protocols: &'static [&'static str],
    current: Mutex<ServerTls>,
}

impl OpenPorts {
    fn add(&self, tls: &ServerTls, protocols: &'static [&'static str]) -> Arc<PortTls> {
        let current = Mutex::new(tls.offering(protocols));
        let port = Arc::new(PortTls { protocols, current });
        let mut ports = lock(&self.0);
        ports.retain(|port| port.strong_count() > 0);
        ports.push(Arc::downgrade(&port));
        port
    }

    /// Has all ports use this for new connections.
    fn replace(&self, tls: &ServerTls) {
        for port in lock(&self.0).iter().filter_map(Weak::upgrade) {
            *lock(&port.current) = tls.offering(port.protocols);
        }
    }

    /// Puts the TLS under a port's connections.
    fn add_layer(&self, tls: &ServerTls, mut factory: ErasedFactory) -> ErasedFactory {
        let port = self.add(tls, factory.take_protocols());
        factory.layered("tls", move |new| {
            Some(Box::new(lock(&port.current).layer(new.reactor().now())))
        })
    }
}

impl fmt::Debug for OpenPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenPorts").field(&lock(&self.0).len()).finish()
    }
}

/// `tls:`, for connecting: `tls:ENDPOINT[:ca=PATH][:servername=NAME][:cert=FILE:key=FILE]
/// [:alpn=NAME,NAME]`, where `tcp:` may be omitted from ENDPOINT. The files are read by `connect`.
/// Without `ca=`, the system's issuers are trusted; without `servername=`, the certificate must
/// match the host.
///
/// Also Twisted's names: `ssl:`, `trustRoots=`, `caCertsDir=`, `hostname=`, `certificate=`,
/// `certKey=`, `privateKey=`, and `endpoint=` after the host and the port. Twisted's
/// `wrapClientTLS`.
#[derive(Clone, Debug)]
pub struct TlsClient {
    over: Arc<dyn ClientEndpoint>,
    files: TlsFiles,
    ca: Option<Part>,
    server_name: Option<Part>,
}

/// Settings of both sides.
#[derive(Clone, Debug)]
struct TlsFiles {
    /// The certificate and its key, perhaps in one file.
    identity: Option<(Part, Part)>,
    /// The issuers' certificates, if they are in another file.
    chain: Option<Part>,
    alpn: Option<Part>,
    /// The position for errors that concern no single part.
    whole: Part,
}

macro_rules! common_setters {
    () => {
        /// Sets the certificate with its chain, and its key: two PEM files, which may be the same.
        #[must_use]
        pub fn identity(mut self, cert: impl Into<String>, key: impl Into<String>) -> Self {
            self.files.identity =
                Some((Part::standalone(cert.into()), Part::standalone(key.into())));
            self
        }

        /// Sets another PEM file, with the issuers' certificates for the [`identity`](Self::identity). No
        /// effect without an identity.
        #[must_use]
        pub fn chain(mut self, file: impl Into<String>) -> Self {
            self.files.chain = Some(Part::standalone(file.into()));
            self
        }

        /// Sets the application protocols, in order of preference, separated by commas:
        /// `h2,http/1.1`.
        #[must_use]
        pub fn alpn(mut self, names: impl Into<String>) -> Self {
            self.files.alpn = Some(Part::standalone(names.into()));
            self
        }
    };
}

impl TlsServer {
    /// Wraps this endpoint. Also needs an [`identity`](Self::identity) or [`sni`](Self::sni): without
    /// either it can't listen, and its printed form is no valid endpoint string.
    #[must_use]
    pub fn new(over: impl ServerEndpoint) -> TlsServer {
        TlsServer {
            over: Arc::new(over),
            files: TlsFiles::none(),
            sni: None,
            client_ca: None,
            ports: OpenPorts::default(),
        }
    }

    common_setters!();

    /// Sets a folder of certificates, from which each client gets the one for its requested name.
    #[must_use]
    pub fn sni(mut self, folder: impl Into<String>) -> TlsServer {
        self.sni = Some(Part::standalone(folder.into()));
        self
    }

    /// Requires a certificate of each client, from an issuer in this PEM file or folder.
    #[must_use]
    pub fn client_ca(mut self, path: impl Into<String>) -> TlsServer {
        self.client_ca = Some(Part::standalone(path.into()));
        self
    }

    fn load(&self) -> Result<ServerTls, EndpointError> {
        let identity = self.files.load()?;
        let open = |sni: &Part| {
            CertificateDirectory::open(&sni.text).map_err(|error| sni.config_error(&error))
        };
        let mut options = match (self.sni.as_ref().map(open).transpose()?, identity) {
            (Some(directory), None) => ServerTlsOptions::from_directory(directory),
            (Some(directory), Some(identity)) => {
                ServerTlsOptions::new(identity).directory(directory)
            }
            (None, Some(identity)) => ServerTlsOptions::new(identity),
            (None, None) => {
                return Err(self.files.whole.error("a server needs a certificate: add cert=FILE"));
            }
        }
        .alpn(self.files.alpn()?);
        if let Some(ca) = &self.client_ca {
            options = options.client_auth(ClientAuth::Require(ca.roots()?));
        }
        ServerTls::new(&options).map_err(|error| self.files.whole.config_error(&error))
    }
}

impl ServerEndpoint for TlsServer {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        self.over.listen(reactor, self.ports.add_layer(&self.load()?, factory))
    }

    /// Reads the files once, so that each loop can resume the sessions of the others.
    fn share(&self, sharing: &Sharing) -> Result<SharedPort> {
        let (tls, text, ports) = (self.load()?, self.to_string(), self.ports.clone());
        // In the list itself, so that a reload reaches the loops that listen later.
        let tls = ports.add(&tls, &[]);
        Ok(self.over.share(sharing)?.wrapped(|over| Loaded { over, tls, text, ports }))
    }

    fn reload(&self) -> Result<Reload> {
        let (tls, ports, over) = (self.load()?, self.ports.clone(), self.over.reload()?);
        Ok(Reload::new(move || {
            ports.replace(&tls);
            over.apply();
        }))
    }
}

/// A [`TlsServer`] whose files have been read.
struct Loaded {
    over: Arc<dyn ServerEndpoint>,
    tls: Arc<PortTls>,
    text: String,
    ports: OpenPorts,
}

impl ServerEndpoint for Loaded {
    fn listen(&self, reactor: &Reactor, factory: ErasedFactory) -> Result<Port> {
        let tls = lock(&self.tls.current).clone();
        self.over.listen(reactor, self.ports.add_layer(&tls, factory))
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Loaded").field(&self.text).finish()
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TlsClient {
    /// Wraps this endpoint. If it has no host, also needs a [`server_name`](Self::server_name): without
    /// one it can't connect, and its printed form is no valid endpoint string.
    #[must_use]
    pub fn new(over: impl ClientEndpoint) -> TlsClient {
        TlsClient { over: Arc::new(over), files: TlsFiles::none(), ca: None, server_name: None }
    }

    common_setters!();

    /// Sets the trusted issuers: a PEM file, or a folder of PEM files.
    #[must_use]
    pub fn ca(mut self, path: impl Into<String>) -> TlsClient {
        self.ca = Some(Part::standalone(path.into()));
        self
    }

    /// Sets the name or IP address that the server's certificate must match, instead of the host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> TlsClient {
        self.server_name = Some(Part::standalone(name.into()));
        self
    }

    /// Reads the files, and checks that the host is a valid name for a certificate.
    fn load(&self, now: Instant) -> Result<impl FnMut(Instant) -> Tls + 'static, EndpointError> {
        let mut options = ClientTlsOptions::default().alpn(self.files.alpn()?);
        if let Some(identity) = self.files.load()? {
            options = options.identity(identity);
        }
        if let Some(ca) = &self.ca {
            options = options.roots(ca.roots()?);
        }
        let whole = &self.files.whole;
        let tls = ClientTls::new(&options).map_err(|error| whole.config_error(&error))?;
        let host = self.host().unwrap_or_default().to_owned();
        let place = self.server_name.as_ref().unwrap_or(whole);
        tls.layer(&host, now).map_err(|error| place.config_error(&error))?;
        Ok(move |now| tls.layer(&host, now).expect("this name was valid"))
    }
}

impl ClientEndpoint for TlsClient {
    fn connect(&self, reactor: &Reactor, factory: ErasedFactory) -> Deferred<Transport> {
        match self.load(reactor.now()) {
            Ok(mut layer) => {
                let factory =
                    factory.layered("tls", move |new| Some(Box::new(layer(new.reactor().now()))));
                self.over.connect(reactor, factory)
            }
            Err(error) => Deferred::fail(Failure::from(error)),
        }
    }

    fn host(&self) -> Option<&str> {
        self.server_name.as_ref().map(Part::text).or_else(|| self.over.host())
    }
}

pub(super) fn server(parts: &mut Parts) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
    let files = TlsFiles::from_parts(parts)?;
    parts.ignore_openssl_keywords()?;
    let mut sni = parts.keyword("sni");
    let client_ca = parts.keyword("client-ca");
    if files.identity.is_none() && sni.is_none() && !parts.has_kind::<dyn ServerEndpoint>() {
        // Twisted's `tls:DIR:PORT`, with a default port of 443.
        sni = parts.unlisted("path").or_else(|| parts.positional_if(|text| text.contains('/')));
        if sni.is_some() && !parts.has_positional() && !parts.has("port") {
            parts.add("443");
        }
    }
    let over = parts.server()?;
    if files.identity.is_none() && sni.is_none() {
        // A misspelt keyword is the likelier mistake.
        parts.finish()?;
        return Err(parts.missing("certificate", "cert=FILE:key=FILE, or sni=DIR"));
    }
    Ok(Arc::new(TlsServer { over, files, sni, client_ca, ports: OpenPorts::default() }))
}

pub(super) fn client(parts: &mut Parts) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
    let files = TlsFiles::from_parts(parts)?;
    parts.ignore_openssl_keywords()?;
    let ca = parts.one_of(&["ca", "trustRoots", "caCertsDir"]);
    let mut server_name = parts.one_of(&["servername", "hostname"]);
    let is_beside = parts.has("endpoint");
    let over = parts.client()?;
    if is_beside {
        // Twisted's form: the host is only the name to verify, and the port is not used.
        let host = parts.unlisted("host").or_else(|| parts.positional());
        let port = parts.unlisted("port").or_else(|| parts.positional());
        port.map(|port| port.number("a port number", 1, 65_535)).transpose()?;
        server_name = server_name.or(host);
    }
    if server_name.is_none() && over.host().is_none() {
        parts.finish()?;
        return Err(parts.missing("servername", "servername=NAME, of the server's certificate"));
    }
    Ok(Arc::new(TlsClient { over, files, ca, server_name }))
}

impl Parts {
    /// Takes and ignores Twisted's OpenSSL settings, which have no effect here.
    fn ignore_openssl_keywords(&mut self) -> Result<(), EndpointError> {
        drop(self.unlisted("dhParameters"));
        match self.unlisted("sslmethod") {
            Some(method) if !["SSLv23_METHOD", "TLS_METHOD"].contains(&method.text()) => {
                Err(method.error("only TLS 1.2 and 1.3 are offered"))
            }
            _ => Ok(()),
        }
    }
}

impl TlsFiles {
    fn none() -> TlsFiles {
        TlsFiles {
            identity: None,
            chain: None,
            alpn: None,
            whole: Part::standalone("tls:".to_owned()),
        }
    }

    fn from_parts(parts: &mut Parts) -> Result<TlsFiles, EndpointError> {
        let cert = parts.one_of(&["cert", "certKey", "certificate"]);
        let key = parts.one_of(&["key", "privateKey"]);
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            // One file may hold both.
            (Some(both), None) | (None, Some(both)) => Some((both.clone(), both)),
            (None, None) => None,
        };
        let chain = parts.one_of(&["chain", "extraCertChain"]);
        if let (None, Some(chain)) = (&identity, &chain) {
            return Err(chain.error("a chain belongs to a certificate: expected cert=FILE too"));
        }
        let files = TlsFiles { identity, chain, alpn: parts.keyword("alpn"), whole: parts.whole() };
        files.alpn()?;
        Ok(files)
    }

    fn load(&self) -> Result<Option<Identity>, EndpointError> {
        let Some((cert, key)) = &self.identity else { return Ok(None) };
        let identity = Identity::from_pem_files(&cert.text, &key.text).map_err(|error| {
            let is_cert = match &error {
                TlsConfigError::File { path, .. } => path.as_os_str() == cert.text.as_str(),
                TlsConfigError::Invalid { place, .. } => *place == cert.text,
                _ => false,
            };
            if is_cert { cert.config_error(&error) } else { key.config_error(&error) }
        })?;
        let Some(chain) = &self.chain else { return Ok(Some(identity)) };
        identity.with_chain_file(&chain.text).map(Some).map_err(|error| chain.config_error(&error))
    }

    fn alpn(&self) -> Result<Vec<String>, EndpointError> {
        let Some(alpn) = &self.alpn else { return Ok(Vec::new()) };
        match alpn.text.split(',').any(|name| name.is_empty() || name.len() > 255) {
            true => Err(alpn.error("expected protocols such as h2,http/1.1")),
            false => Ok(alpn.text.split(',').map(str::to_owned).collect()),
        }
    }

    fn print(&self, f: &mut fmt::Formatter<'_>, over: &str) -> fmt::Result {
        match over.strip_prefix("tcp:").filter(|rest| !needs_tcp(rest)) {
            Some(short) => write!(f, "tls:{short}")?,
            None => print_over(f, "tls", over)?,
        }
        let (cert, key) = self.identity.as_ref().map(|(cert, key)| (cert, key)).unzip();
        print_part(f, "cert", cert)?;
        print_part(f, "key", key)?;
        print_part(f, "chain", self.chain.as_ref().filter(|_| self.identity.is_some()))?;
        print_part(f, "alpn", self.alpn.as_ref())
    }
}

impl fmt::Display for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.print(f, &self.over.to_string())?;
        print_part(f, "sni", self.sni.as_ref())?;
        print_part(f, "client-ca", self.client_ca.as_ref())
    }
}

impl fmt::Display for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.print(f, &self.over.to_string())?;
        print_part(f, "ca", self.ca.as_ref())?;
        print_part(f, "servername", self.server_name.as_ref())
    }
}

impl Part {
    fn config_error(&self, error: &TlsConfigError) -> EndpointError {
        self.error(error.to_string())
    }

    /// The certificates in a file, or in the files of a folder.
    fn roots(&self) -> Result<Roots, EndpointError> {
        let roots = match Path::new(&self.text).is_dir() {
            true => Roots::from_pem_directory(&self.text),
            false => Roots::from_pem_file(&self.text),
        };
        roots.map_err(|error| self.config_error(&error))
    }
}
