//! The built-in kinds of endpoints, a file each, in one table for listening and one for connecting.
//! Only this file names all kinds: the grammar finds the tables through [`Side`].
//!
//! Contract: 145.

#[cfg(unix)]
mod descriptors;
pub(super) mod inherited;
mod log;
#[cfg(unix)]
mod process;
mod proxy;
mod record_file;
#[cfg(unix)]
mod serial;
mod tcp;
mod throttle;
#[cfg(any(feature = "tls", feature = "ring"))]
mod tls;
pub(super) mod udp;
mod unix;

use std::sync::{Arc, LazyLock};

use crate::defer::Result;
use crate::endpoints::grammar::Parts;
use crate::endpoints::kinds::{Kinds, Side};
use crate::endpoints::{ClientEndpoint, EndpointError, ServerEndpoint};

#[cfg(unix)]
pub use descriptors::{FdClient, StdioClient};
#[cfg(unix)]
pub use inherited::take_passed;
pub use inherited::{FdServer, SystemdServer};
pub use log::Logged;
#[cfg(unix)]
pub use process::ProcessClient;
pub use proxy::{ProxyClient, ProxyServer};
#[cfg(unix)]
pub use serial::SerialClient;
pub use tcp::{TcpClient, TcpServer};
pub use throttle::Throttled;
#[cfg(any(feature = "tls", feature = "ring"))]
pub use tls::{TlsClient, TlsServer};
pub use udp::{UdpClient, UdpServer};
pub use unix::{UnixClient, UnixServer};

impl Side for dyn ServerEndpoint {
    const VERB: &'static str = "listen";
    const CONNECTS: bool = false;

    type Other = dyn ClientEndpoint;

    fn kinds() -> &'static Kinds<dyn ServerEndpoint> {
        static KINDS: LazyLock<Kinds<dyn ServerEndpoint>> = LazyLock::new(|| {
            Kinds::new(&[
                ("tcp", tcp::server),
                ("tcp6", tcp::server6),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("tls", tls::server),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("ssl", tls::server),
                ("unix", unix::server),
                ("fd", inherited::fd),
                ("systemd", inherited::systemd),
                ("haproxy", proxy::server),
                ("throttle", throttle::server),
                ("log", log::server),
            ])
        });
        &KINDS
    }

    fn tcp(parts: &mut Parts) -> Result<Arc<Self>, EndpointError> {
        tcp::bare_server(parts)
    }
}

impl Side for dyn ClientEndpoint {
    const VERB: &'static str = "connect";
    const CONNECTS: bool = true;

    type Other = dyn ServerEndpoint;

    fn kinds() -> &'static Kinds<dyn ClientEndpoint> {
        static KINDS: LazyLock<Kinds<dyn ClientEndpoint>> = LazyLock::new(|| {
            Kinds::new(&[
                ("tcp", tcp::client),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("tls", tls::client),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("ssl", tls::client),
                ("unix", unix::client),
                #[cfg(unix)]
                ("process", process::client),
                #[cfg(unix)]
                ("stdio", descriptors::stdio),
                #[cfg(unix)]
                ("fd", descriptors::fd),
                #[cfg(unix)]
                ("serial", serial::client),
                ("haproxy", proxy::client),
                ("throttle", throttle::client),
                ("log", log::client),
            ])
        });
        &KINDS
    }

    fn tcp(parts: &mut Parts) -> Result<Arc<Self>, EndpointError> {
        tcp::bare_client(parts)
    }
}
