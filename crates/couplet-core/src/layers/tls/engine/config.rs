//! Builds rustls configurations from our settings.
//!
//! Contract: 75, 144a, 178a.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{self, CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};

use super::certificates::{CertificateAndKey, CertificateResolver};
use super::cryptography::Ticketer;
use super::usages::WithUsages;
use super::world::{key_log, provider, time_provider};
use crate::address::ascii_host;
use crate::layers::tls::TlsVersion;
use crate::layers::tls::settings::{
    ClientAuth, ClientTlsOptions, ServerTlsOptions, TlsConfigError, Trust,
};
use crate::switches::Switch;

/// Maximum number of sessions cached by a server or a client.
const SESSIONS: usize = 1024;

#[derive(Clone)]
pub(in super::super) struct ServerConfig {
    pub(super) rustls: Arc<rustls::ServerConfig>,
    requests_certificates: bool,
}

#[derive(Clone)]
pub(in super::super) struct ClientConfig(pub(super) Arc<rustls::ClientConfig>);

/// The name that a server's certificate must match.
pub(in super::super) struct ServerName(pub(super) pki_types::ServerName<'static>);

impl ServerName {
    /// Parses a DNS name, which may be beyond ASCII, or an IP address, optionally in brackets or with a scope.
    pub(in super::super) fn new(host: &str) -> Result<ServerName, TlsConfigError> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let bare = bare.split('%').next().unwrap_or(bare);
        let name = bare.strip_suffix('.').unwrap_or(bare);
        let name = ascii_host(name).and_then(|name| name.into_owned().try_into().ok());
        let name = name.ok_or_else(|| TlsConfigError::BadName(host.to_owned()))?;
        Ok(ServerName(name))
    }

    pub(super) fn dns_name(&self) -> Option<&str> {
        match &self.0 {
            pki_types::ServerName::DnsName(name) => Some(name.as_ref()),
            _ => None,
        }
    }
}

fn unusable(error: impl std::fmt::Display) -> TlsConfigError {
    TlsConfigError::Unusable(error.to_string())
}

fn versions(oldest: TlsVersion, newest: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (TlsVersion::Tls12, &rustls::version::TLS12),
        (TlsVersion::Tls13, &rustls::version::TLS13),
    ];
    let chosen = all.into_iter().filter(|(version, _)| (oldest..=newest).contains(version));
    chosen.map(|(_, version)| version).collect()
}

impl ServerConfig {
    pub(in super::super) fn new(
        options: &ServerTlsOptions,
    ) -> Result<ServerConfig, TlsConfigError> {
        let provider = provider();
        let verifier = match &options.client_auth {
            ClientAuth::None => WebPkiClientVerifier::no_client_auth(),
            ClientAuth::Ask(roots) | ClientAuth::Require(roots) => {
                let builder =
                    WebPkiClientVerifier::builder_with_provider(roots.0.clone(), provider.clone());
                match &options.client_auth {
                    ClientAuth::Ask(_) => builder.allow_unauthenticated(),
                    _ => builder,
                }
                .build()
                .map(|verifier| Arc::new(WithUsages(verifier)) as Arc<dyn ClientCertVerifier>)
                .map_err(unusable)?
            }
        };
        let choice = CertificateResolver {
            directory: options.directory.clone(),
            default: options.identity.as_ref().map(|identity| identity.0.clone()),
        };
        let mut config = rustls::ServerConfig::builder_with_details(provider, time_provider())
            .with_protocol_versions(&versions(options.common.oldest, options.common.newest))
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(choice));
        config.alpn_protocols.clone_from(&options.common.alpn);
        // 0-RTT data can be replayed.
        config.max_early_data_size = 0;
        if options.common.switches.has(Switch::Resumption) {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
            config.ticketer = Ticketer::new().map_err(unusable)?;
        } else {
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        config.key_log = key_log(options.common.switches.has(Switch::KeyLog));
        let requests_certificates = !matches!(options.client_auth, ClientAuth::None);
        Ok(ServerConfig { rustls: Arc::new(config), requests_certificates })
    }

    /// Whether the server requests client certificates.
    pub(in super::super) fn requests_certificates(&self) -> bool {
        self.requests_certificates
    }

    /// A copy with these application protocols, unless some are set. Shares sessions and tickets.
    pub(in super::super) fn offering(&self, protocols: &[&str]) -> ServerConfig {
        if protocols.is_empty() || !self.rustls.alpn_protocols.is_empty() {
            return self.clone();
        }
        let mut config = rustls::ServerConfig::clone(&self.rustls);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        ServerConfig { rustls: Arc::new(config), ..self.clone() }
    }

    /// A copy with this certificate. Shares sessions and tickets.
    pub(super) fn with(&self, identity: &CertificateAndKey) -> Arc<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::clone(&self.rustls);
        config.cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&identity.0)));
        Arc::new(config)
    }
}

impl ClientConfig {
    pub(in super::super) fn new(
        options: &ClientTlsOptions,
    ) -> Result<ClientConfig, TlsConfigError> {
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = match &options.trust {
            Trust::Platform => Arc::new(WithUsages(Arc::new(
                rustls_platform_verifier::Verifier::new(provider.clone()).map_err(unusable)?,
            ))),
            Trust::Roots(roots) => Arc::new(WithUsages(
                WebPkiServerVerifier::builder_with_provider(roots.0.clone(), provider.clone())
                    .build()
                    .map_err(unusable)?,
            )),
            Trust::Anyone => Arc::new(Anyone),
        };
        let builder = rustls::ClientConfig::builder_with_details(provider, time_provider())
            .with_protocol_versions(&versions(options.common.oldest, options.common.newest))
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &options.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                (*identity.0.0).clone(),
            ))),
        };
        config.alpn_protocols.clone_from(&options.common.alpn);
        config.enable_early_data = false;
        config.resumption = match options.common.switches.has(Switch::Resumption) {
            true => Resumption::in_memory_sessions(SESSIONS),
            false => Resumption::disabled(),
        };
        config.key_log = key_log(options.common.switches.has(Switch::KeyLog));
        Ok(ClientConfig(Arc::new(config)))
    }
}

/// Accepts every certificate. Handshake signatures are still verified, so the peer holds the key of
/// its certificate.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &pki_types::ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
