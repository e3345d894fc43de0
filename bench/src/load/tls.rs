//! The load for an echo over TLS: messages of 64 bytes, compared byte by byte. The run's authority
//! is the only one that is trusted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use couplet_os::read_buffer::ReadBuffer;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::bytes::MESSAGE;
use super::{Clients, Waiting, connect, cut, receive_some, send_all, wrong};

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    session: ClientConnection,
    /// The message in flight, another one each time.
    message: [u8; MESSAGE],
    received: usize,
}

/// Clients of an echo.
#[derive(Debug)]
pub(crate) struct Tls {
    waiting: Waiting,
    connections: Vec<Connection>,
    buffer: ReadBuffer,
}

impl Tls {
    /// Opens the connections; the first message of each makes its handshake. The authority of
    /// the server's certificate is in `folder`.
    pub(crate) fn connect(
        server: SocketAddr,
        spin: bool,
        connections: usize,
        folder: &Path,
    ) -> io::Result<Tls> {
        let config = Arc::new(client(folder)?);
        let waiting = Waiting::new(spin)?;
        let open = |slot| {
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
            let stream = connect(server)?;
            waiting.add(&stream, slot)?;
            let message = [slot as u8; MESSAGE];
            Ok(Connection { stream, session, message, received: 0 })
        };
        let connections = (0..connections).map(open).collect::<io::Result<_>>()?;
        Ok(Tls { waiting, connections, buffer: ReadBuffer::new(64 << 10) })
    }
}

impl Clients for Tls {
    fn count(&self) -> usize {
        self.connections.len()
    }

    /// One request at a time.
    fn send(&mut self, slot: usize, _: usize) -> io::Result<()> {
        let connection = &mut self.connections[slot];
        for (at, byte) in connection.message.iter_mut().enumerate() {
            *byte = byte.wrapping_mul(5).wrapping_add(at as u8 | 1);
        }
        connection.received = 0;
        connection.session.writer().write_all(&connection.message)?;
        connection.flush()
    }

    fn receive(&mut self, slot: usize) -> io::Result<usize> {
        let connection = &mut self.connections[slot];
        let mut data = receive_some(&connection.stream, &mut self.buffer)?.ok_or_else(cut)?;
        let mut answers = 0;
        while !data.is_empty() {
            connection.session.read_tls(&mut data)?;
            connection.session.process_new_packets().map_err(io::Error::other)?;
            answers += connection.check()?;
        }
        connection.flush()?;
        Ok(answers)
    }

    fn waiting(&self) -> &Waiting {
        &self.waiting
    }
}

impl Connection {
    fn flush(&mut self) -> io::Result<()> {
        let mut output = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut output)?;
        }
        send_all(&self.stream, &output)
    }

    /// Compares decrypted bytes; returns 1 if they complete the message.
    fn check(&mut self) -> io::Result<usize> {
        let mut plain = [0; MESSAGE + 1];
        let length = match self.session.reader().read(&mut plain) {
            Ok(0) => return Err(cut()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => return Err(error),
        };
        let expected = self.message.get(self.received..self.received + length);
        if expected != Some(&plain[..length]) {
            return Err(wrong("other bytes came back than were sent"));
        }
        self.received += length;
        Ok(usize::from(self.received == MESSAGE))
    }
}

fn client(folder: &Path) -> io::Result<ClientConfig> {
    let authority = CertificateDer::from_pem_file(folder.join("ca.pem"));
    let mut roots = RootCertStore::empty();
    roots.add(authority.map_err(io::Error::other)?).map_err(io::Error::other)?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}
