//! Reads the ClientHello ahead of the session that will answer it.

use rustls::server::Acceptor;

use crate::layers::tls::choosing::ClientHello;

/// Reads a ClientHello from records.
// rustls rejects handshake messages beyond 64 KiB.
#[derive(Default)]
pub(in super::super) struct HelloReader(Box<Acceptor>);

/// The result of a [`HelloReader`].
pub(in super::super) enum HelloResult {
    Incomplete,
    Hello(ClientHello),
    /// Not a ClientHello, or an invalid one. The session reports the error.
    Invalid,
}

impl HelloReader {
    /// Reads the records that arrived since the last call.
    pub(in super::super) fn read(&mut self, mut records: &[u8]) -> HelloResult {
        while !records.is_empty() {
            match self.0.read_tls(&mut records) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return HelloResult::Invalid,
            }
            match self.0.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    return HelloResult::Hello(ClientHello {
                        server_name: hello.server_name().map(str::to_ascii_lowercase),
                        alpn: hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
                        cipher_suites: hello.cipher_suites().iter().map(|&s| s.into()).collect(),
                    });
                }
                Err(_) => return HelloResult::Invalid,
            }
        }
        HelloResult::Incomplete
    }
}
