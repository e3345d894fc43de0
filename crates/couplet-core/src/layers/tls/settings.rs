//! TLS settings: certificates, trust, versions and names. A configuration is built once, reports
//! mistakes as errors, and serves any number of connections in any thread.
//!
//! Contract: 75, 83, 85.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::CertificateDirectory;
use super::engine::certificates::{self, CertificateAndKey, Store};
use super::engine::config::{ClientConfig, ServerConfig, ServerName};
use super::{Tls, TlsVersion};
use crate::error::Plain;
use crate::switches::{Switch, Switches};

/// Maximum length of a file with certificates, keys or an OCSP response.
const LONGEST_FILE: u64 = 16 * 1024 * 1024;
/// Default time limit for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// An invalid TLS configuration.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file or folder cannot be read.
    #[error("cannot read {path}: {}", Plain(source), path = path.display())]
    File {
        /// The path of the file or folder.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// A certificate, a key or a bundle is not valid.
    #[error("cannot use {place}: {what}")]
    Invalid {
        /// The file, or a description of the source.
        place: String,
        /// The problem.
        what: String,
    },
    /// The name is neither a DNS name nor an IP address.
    #[error("{0:?} is neither a host name nor an IP address, so no certificate can be for it")]
    BadName(String),
    /// Any other error.
    #[error("unusable TLS configuration: {0}")]
    Unusable(String),
}

impl TlsConfigError {
    pub(super) fn file(path: &Path, error: io::Error) -> TlsConfigError {
        TlsConfigError::File { path: path.to_owned(), source: Arc::new(error) }
    }
}

/// Reads a file of at most 16 MiB.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    let mut bytes = Vec::new();
    let failed = |error| TlsConfigError::file(path, error);
    let file = fs::File::open(path).map_err(failed)?;
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return Err(failed(io::Error::other("the file is longer than 16 MiB")));
    }
    Ok(bytes)
}

/// Our certificate: a chain and its private key.
#[derive(Clone, Debug)]
pub struct Identity(pub(super) CertificateAndKey);

impl Identity {
    /// Parses PEM texts. The chain begins with the certificate itself; both may be the same text.
    ///
    /// # Errors
    ///
    /// If one is missing, or the key does not match the certificate.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Identity, TlsConfigError> {
        CertificateAndKey::from_pem(chain, key, "the given PEM").map(Identity)
    }

    /// Reads PEM files, which may be the same file.
    ///
    /// # Errors
    ///
    /// As for [`from_pem`](Self::from_pem), or if a file cannot be read.
    pub fn from_pem_files(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Identity, TlsConfigError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let place = match chain == key {
            true => chain.display().to_string(),
            false => format!("{} with {}", chain.display(), key.display()),
        };
        CertificateAndKey::from_pem(&read(chain)?, &read(key)?, &place).map(Identity)
    }

    /// Appends issuers' certificates, from a PEM file, to the chain.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or contains no certificate.
    pub fn with_chain_file(self, path: impl AsRef<Path>) -> Result<Identity, TlsConfigError> {
        let path = path.as_ref();
        self.0.with_chain(&read(path)?, &path.display().to_string()).map(Identity)
    }

    /// Staples an OCSP response, in DER, to the certificate.
    #[must_use]
    pub fn with_ocsp(self, response: Vec<u8>) -> Identity {
        Identity(self.0.with_ocsp(response))
    }

    /// Staples an OCSP response from a file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn with_ocsp_file(self, path: impl AsRef<Path>) -> Result<Identity, TlsConfigError> {
        Ok(self.with_ocsp(read(path.as_ref())?))
    }

    /// The certificates in DER, ours first.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chain()
    }
}

/// Trusted issuers of certificates: a CA bundle.
#[derive(Clone, Debug)]
pub struct Roots(pub(super) Store);

impl Roots {
    /// Parses a PEM text.
    ///
    /// # Errors
    ///
    /// If the text contains an invalid certificate, or no certificate.
    pub fn from_pem(pem: &[u8]) -> Result<Roots, TlsConfigError> {
        certificates::roots(pem, "the given PEM").map(Roots)
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    ///
    /// As for [`from_pem`](Self::from_pem), or if the file cannot be read.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Roots, TlsConfigError> {
        let path = path.as_ref();
        certificates::roots(&read(path)?, &path.display().to_string()).map(Roots)
    }

    /// Reads the files of a folder whose names end with `.pem`. Invalid files are logged and left
    /// out.
    ///
    /// # Errors
    ///
    /// If the folder cannot be read, or has no valid certificate.
    pub fn from_pem_directory(path: impl AsRef<Path>) -> Result<Roots, TlsConfigError> {
        let path = path.as_ref();
        let failed = |error| TlsConfigError::file(path, error);
        let mut all = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let is_pem = file.extension().is_some_and(|end| end.eq_ignore_ascii_case("pem"));
            if !is_pem {
                continue;
            }
            let pem = read(&file);
            let valid = pem.and_then(|pem| Roots::from_pem(&pem).map(|_| pem));
            match valid {
                Ok(pem) => {
                    all.extend(pem);
                    all.push(b'\n');
                }
                Err(error) => {
                    log_warn!(file = %file.display(), %error, "cannot trust a certificate file")
                }
            }
        }
        certificates::roots(&all, &path.display().to_string()).map(Roots)
    }
}

/// Whether a server requests client certificates.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum ClientAuth {
    /// Requests none.
    #[default]
    None,
    /// Optional, from these issuers; a certificate from any other issuer is refused.
    Ask(Roots),
    /// Required, from these issuers.
    Require(Roots),
}

/// The issuers that a client trusts.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    Platform,
    Roots(Roots),
    Anyone,
}

/// Settings common to servers and clients.
#[derive(Clone, Debug)]
pub(super) struct CommonOptions {
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) oldest: TlsVersion,
    pub(super) newest: TlsVersion,
    pub(super) handshake_timeout: Duration,
    pub(super) switches: Switches,
}

impl Default for CommonOptions {
    fn default() -> CommonOptions {
        CommonOptions {
            alpn: Vec::new(),
            oldest: TlsVersion::Tls12,
            newest: TlsVersion::Tls13,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            switches: Switches::on(&[Switch::Resumption]),
        }
    }
}

/// The setters for common options.
macro_rules! common_options {
    () => {
        /// Sets the application protocols (ALPN), in order of preference; none by default.
        #[must_use]
        pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
            self.common.alpn = protocols.into_iter().map(|one| one.as_ref().to_vec()).collect();
            self
        }

        /// Sets the oldest and the newest accepted version; 1.2 and 1.3 by default.
        #[must_use]
        pub fn versions(mut self, oldest: TlsVersion, newest: TlsVersion) -> Self {
            (self.common.oldest, self.common.newest) = (oldest, newest);
            self
        }

        /// Sets the time limit for the handshake, and for the peer to close after a failed one; 10 s
        /// by default.
        #[must_use]
        pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
            self.common.handshake_timeout = timeout;
            self
        }

        /// Sets whether sessions may be resumed; they may by default.
        #[must_use]
        pub fn resumption(mut self, on: bool) -> Self {
            self.common.switches.set(Switch::Resumption, on);
            self
        }

        /// Allows connection secrets to be written to the file named in the environment variable
        /// `SSLKEYLOGFILE`, for Wireshark. Anyone with this file can decrypt the connections.
        #[must_use]
        pub fn allow_key_log(mut self) -> Self {
            self.common.switches.set(Switch::KeyLog, true);
            self
        }
    };
}

/// The settings of a TLS server, for [`ServerTls::new`].
#[derive(Clone, Debug)]
pub struct ServerTlsOptions {
    pub(super) identity: Option<Identity>,
    pub(super) directory: Option<CertificateDirectory>,
    pub(super) client_auth: ClientAuth,
    pub(super) common: CommonOptions,
}

impl ServerTlsOptions {
    /// The settings of a server with this certificate.
    pub fn new(identity: Identity) -> ServerTlsOptions {
        ServerTlsOptions::chosen_later().identity(identity)
    }

    /// The settings of a server that chooses its certificate by the requested name (SNI).
    pub fn from_directory(directory: CertificateDirectory) -> ServerTlsOptions {
        ServerTlsOptions::chosen_later().directory(directory)
    }

    /// The settings of a server without a fixed certificate: [`Tls::choosing`] provides one
    /// for each connection.
    pub fn chosen_later() -> ServerTlsOptions {
        ServerTlsOptions {
            identity: None,
            directory: None,
            client_auth: ClientAuth::None,
            common: CommonOptions::default(),
        }
    }

    /// Sets the certificate for clients whose requested name is not in the directory.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Chooses the certificate by the requested name (SNI).
    #[must_use]
    pub fn directory(mut self, directory: CertificateDirectory) -> Self {
        self.directory = Some(directory);
        self
    }

    /// Sets whether client certificates are requested; they are not by default.
    #[must_use]
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    common_options!();
}

/// The settings of a TLS client, for [`ClientTls::new`].
#[derive(Clone, Debug)]
pub struct ClientTlsOptions {
    pub(super) trust: Trust,
    pub(super) identity: Option<Identity>,
    pub(super) server_name: Option<String>,
    pub(super) common: CommonOptions,
}

impl Default for ClientTlsOptions {
    fn default() -> ClientTlsOptions {
        ClientTlsOptions {
            trust: Trust::Platform,
            identity: None,
            server_name: None,
            common: CommonOptions::default(),
        }
    }
}

impl ClientTlsOptions {
    /// Trusts these issuers instead of the system's.
    #[must_use]
    pub fn roots(mut self, roots: Roots) -> Self {
        self.trust = Trust::Roots(roots);
        self
    }

    /// Sets the certificate for servers that request one.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Sets the name that the server's certificate must match, instead of the host connected to.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Accepts every certificate, for any name, from any issuer, expired or not. Anyone on the
    /// network path can read and change everything that is sent.
    #[must_use]
    pub fn dangerously_accept_any_server_certificate(mut self) -> Self {
        self.trust = Trust::Anyone;
        self
    }

    common_options!();
}

/// A TLS server's configuration. Cheap to clone; sessions can be resumed across all its clones.
///
/// ```no_run
/// use couplet::layers::tls::{Identity, ServerTls, ServerTlsOptions};
///
/// # fn main() -> couplet::Result<()> {
/// let identity = Identity::from_pem_files("server.pem", "server.key")?;
/// let tls = ServerTls::new(&ServerTlsOptions::new(identity).alpn(["h2"]))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServerTls {
    config: ServerConfig,
    directory: Option<CertificateDirectory>,
    handshake_timeout: Duration,
}

impl ServerTls {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// If they cannot work, for example if the oldest version is newer than the newest.
    pub fn new(options: &ServerTlsOptions) -> Result<ServerTls, TlsConfigError> {
        Ok(ServerTls {
            config: ServerConfig::new(options)?,
            directory: options.directory.clone(),
            handshake_timeout: options.common.handshake_timeout,
        })
    }

    /// A copy with these application protocols, unless some are set.
    pub(crate) fn offering(&self, protocols: &[&str]) -> ServerTls {
        ServerTls { config: self.config.offering(protocols), ..self.clone() }
    }

    /// The layer for one connection, whose handshake begins at `now`.
    pub fn layer(&self, now: Instant) -> Tls {
        if let Some(directory) = &self.directory {
            directory.check(now);
        }
        Tls::server(self.config.clone(), now.checked_add(self.handshake_timeout))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A TLS client's configuration. Cheap to clone; sessions can be resumed across all its clones.
///
/// ```no_run
/// use couplet::layers::tls::{ClientTls, ClientTlsOptions, Roots};
///
/// # fn main() -> couplet::Result<()> {
/// let roots = Roots::from_pem_file("authority.pem")?;
/// let tls = ClientTls::new(&ClientTlsOptions::default().roots(roots))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientTls {
    config: ClientConfig,
    server_name: Option<String>,
    handshake_timeout: Duration,
}

impl ClientTls {
    /// Checks the settings, and loads the system's trusted certificates unless others are set.
    ///
    /// # Errors
    ///
    /// If they cannot work, for example if the system has no certificates.
    pub fn new(options: &ClientTlsOptions) -> Result<ClientTls, TlsConfigError> {
        if let Some(name) = &options.server_name {
            ServerName::new(name)?;
        }
        Ok(ClientTls {
            config: ClientConfig::new(options)?,
            server_name: options.server_name.clone(),
            handshake_timeout: options.common.handshake_timeout,
        })
    }

    /// The layer for one connection to a host, by name or address; its handshake begins at `now`.
    ///
    /// # Errors
    ///
    /// If the host is neither a name nor an address.
    pub fn layer(&self, host: &str, now: Instant) -> Result<Tls, TlsConfigError> {
        let name = ServerName::new(self.server_name.as_deref().unwrap_or(host))?;
        Ok(Tls::client(&self.config, &name, now.checked_add(self.handshake_timeout)))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// The side that a connection takes in a TLS handshake, for
/// [`Transport::start_tls`](crate::Transport::start_tls).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum TlsSide<'a> {
    /// Waits for a ClientHello.
    Server(&'a ServerTls),
    /// Verifies that the peer is this host, a name or an address.
    Client(&'a ClientTls, &'a str),
}

impl<'a> From<&'a ServerTls> for TlsSide<'a> {
    fn from(tls: &'a ServerTls) -> TlsSide<'a> {
        TlsSide::Server(tls)
    }
}

impl<'a, H: AsRef<str> + ?Sized> From<(&'a ClientTls, &'a H)> for TlsSide<'a> {
    fn from((tls, host): (&'a ClientTls, &'a H)) -> TlsSide<'a> {
        TlsSide::Client(tls, host.as_ref())
    }
}

impl TlsSide<'_> {
    /// The layer for one connection, whose handshake begins at `now`.
    pub(crate) fn layer(self, now: Instant) -> Result<Tls, TlsConfigError> {
        match self {
            TlsSide::Server(tls) => Ok(tls.layer(now)),
            TlsSide::Client(tls, host) => tls.layer(host, now),
        }
    }
}
