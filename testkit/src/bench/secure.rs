//! Certificates for benchmarks of TLS, clients that trust them, and the configuration of tokio's
//! servers.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::served::Result;
use crate::needed::{Folder, SelfSigned};

pub type Client = StreamOwned<ClientConnection, TcpStream>;

const NAME: &str = "couplet.test";

/// A folder with a certificate and its key.
pub fn certified() -> Folder {
    let (folder, made) = (Folder::new(), SelfSigned::new(NAME));
    folder.write("server.pem", made.certificate);
    folder.write("server.key", made.key);
    folder
}

pub fn client(folder: &Path, resumption: rustls::client::Resumption) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("server.pem"))?)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.resumption = resumption;
    Ok(Arc::new(config))
}

pub fn connect(to: SocketAddr, config: &Arc<ClientConfig>) -> Result<Client> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let tls = ClientConnection::new(config.clone(), ServerName::try_from(NAME)?)?;
    Ok(StreamOwned::new(tls, stream))
}

/// Resumes sessions and issues tickets, like our servers.
pub fn server(folder: &Path) -> Result<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(folder.join("server.pem"))?];
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key"))?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(1024);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(config)
}
