//! TLS for simulated networks.

use std::sync::OnceLock;

use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};
use couplet_testkit_loops::authority::Authority;

pub(crate) const NAME: &str = "couplet.test";

/// Made once: all signatures with a key of this kind have the same length.
pub(crate) fn both() -> &'static (ServerTls, ClientTls) {
    static BOTH: OnceLock<(ServerTls, ClientTls)> = OnceLock::new();
    BOTH.get_or_init(|| {
        let authority = Authority::new();
        let server = ServerTlsOptions::new(authority.identity(NAME));
        let client = ClientTlsOptions::default().roots(authority.roots());
        let server = ServerTls::new(&server.resumption(false)).expect("it works");
        (server, ClientTls::new(&client.resumption(false)).expect("it works"))
    })
}
