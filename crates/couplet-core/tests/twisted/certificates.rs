//! Certificates for both sides, in a folder that the peer reads.

use couplet::layers::tls::{ClientTls, ClientTlsOptions, Identity, ServerTls, ServerTlsOptions};

use crate::needed::Folder;
use couplet_testkit_loops::authority::Authority;

/// The name in the certificates, also in `peer.py`.
pub(crate) const NAME: &str = "couplet.test";

pub(crate) struct Certificates {
    folder: Folder,
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let folder = Folder::new();
        let authority = Authority::readable("the authority");
        let pem = authority.pem(NAME, |_| {});
        folder.write("ca.pem", authority.own_pem());
        folder.write("server.pem", &pem);
        let identity = Identity::from_pem(pem.as_bytes(), pem.as_bytes()).expect("a certificate");
        let server = ServerTls::new(&ServerTlsOptions::new(identity));
        let client = ClientTls::new(&ClientTlsOptions::default().roots(authority.roots()));
        Certificates {
            folder,
            server: server.expect("a configuration that works"),
            client: client.expect("a configuration that works"),
        }
    }

    pub(crate) fn folder(&self) -> &str {
        self.folder.to_str().expect("a plain name")
    }
}
