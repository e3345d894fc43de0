//! The built-in kinds of endpoints, in one table for listening and one for connecting. Nothing
//! else names all kinds: the grammar finds these tables through [`Side`].
//!
//! Contract: 145.

use std::sync::{Arc, LazyLock};

use super::grammar::Parts;
use super::kinds::{Kinds, Side};
use super::{ClientEndpoint, EndpointError, ServerEndpoint};
use crate::defer::Result;

impl Side for dyn ServerEndpoint {
    const VERB: &'static str = "listen";
    const CONNECTS: bool = false;

    type Other = dyn ClientEndpoint;

    fn kinds() -> &'static Kinds<dyn ServerEndpoint> {
        static KINDS: LazyLock<Kinds<dyn ServerEndpoint>> = LazyLock::new(|| {
            Kinds::new(&[
                ("tcp", super::tcp::server),
                ("tcp6", super::tcp::server6),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("tls", super::tls::server),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("ssl", super::tls::server),
                ("unix", super::unix::server),
                ("fd", super::inherited::fd),
                ("systemd", super::inherited::systemd),
                ("haproxy", super::proxy::server),
                ("throttle", super::throttle::server),
                ("log", super::log::server),
            ])
        });
        &KINDS
    }

    fn tcp(parts: &mut Parts) -> Result<Arc<Self>, EndpointError> {
        super::tcp::bare_server(parts)
    }
}

impl Side for dyn ClientEndpoint {
    const VERB: &'static str = "connect";
    const CONNECTS: bool = true;

    type Other = dyn ServerEndpoint;

    fn kinds() -> &'static Kinds<dyn ClientEndpoint> {
        static KINDS: LazyLock<Kinds<dyn ClientEndpoint>> = LazyLock::new(|| {
            Kinds::new(&[
                ("tcp", super::tcp::client),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("tls", super::tls::client),
                #[cfg(any(feature = "tls", feature = "ring"))]
                ("ssl", super::tls::client),
                ("unix", super::unix::client),
                #[cfg(unix)]
                ("process", super::process::client),
                #[cfg(unix)]
                ("stdio", super::descriptors::stdio),
                #[cfg(unix)]
                ("fd", super::descriptors::fd),
                #[cfg(unix)]
                ("serial", super::serial::client),
                ("haproxy", super::proxy::client),
                ("throttle", super::throttle::client),
                ("log", super::log::client),
            ])
        });
        &KINDS
    }

    fn tcp(parts: &mut Parts) -> Result<Arc<Self>, EndpointError> {
        super::tcp::bare_client(parts)
    }
}
