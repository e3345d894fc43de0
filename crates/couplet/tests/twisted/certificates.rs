//! Certificates for both sides, in a folder that the peer reads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use couplet::layers::tls::{ClientTls, ClientTlsOptions, Identity, ServerTls, ServerTlsOptions};

use crate::authority::Authority;

/// The name in the certificates; `peer.py` has it too.
pub(crate) const NAME: &str = "couplet.test";

pub(crate) struct Certificates {
    folder: PathBuf,
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twisted-{}-{number}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let authority = Authority::new("the authority");
        let pem = authority.pem(NAME, |_| {});
        for (file, text) in [("ca.pem", &authority.pem), ("server.pem", &pem)] {
            std::fs::write(folder.join(file), text).expect("a folder of ours");
        }
        let identity = Identity::from_pem(pem.as_bytes(), pem.as_bytes()).expect("a certificate");
        let server = ServerTls::new(&ServerTlsOptions::default().identity(identity));
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

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
