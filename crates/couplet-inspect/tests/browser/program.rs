//! A program to inspect: an echo server, whose loop runs in a separate thread.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use couplet::inspect::Inspector;
use couplet::{LoopOptions, Protocol, Reactor, Transport};

use crate::kit;

/// More than the buffers of a loopback connection hold.
const FLOOD: usize = 32 << 20;

/// Echoes. The byte `!` asks for [`FLOOD`] bytes.
struct Echo;

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        match data {
            b"!" => transport.write(vec![0; FLOOD]),
            _ => transport.write(data),
        }
    }
}

pub(crate) struct Program {
    /// Of the page, with its token.
    pub(crate) url: String,
    server: SocketAddr,
    inspected: kit::Program,
}

impl Program {
    /// Starts a program whose inspector is at this endpoint, with this token.
    pub(crate) fn start(endpoint: &str, token: &str) -> Program {
        let inspector = Inspector::at(endpoint).token(token).program("storm", "7.8").actions(true);
        let (inspected, server) =
            kit::Program::start_with(inspector, LoopOptions::default(), |reactor| {
                let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo);
                port.expect("a free port").host().socket_addr().expect("it is TCP")
            });
        Program { url: inspected.url(), server, inspected }
    }

    /// The endpoint of the inspector, for a successor of this program.
    pub(crate) fn endpoint(&self) -> String {
        let port = self.url.split([':', '/']).find_map(|part| part.parse::<u16>().ok());
        port.expect("a URL with a port").to_string()
    }

    /// Opens a connection; the server has accepted it and echoed this text when this returns.
    pub(crate) fn connect(&self, text: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(self.server).expect("the program listens");
        client.write_all(text).expect("the program reads");
        client.read_exact(&mut vec![0; text.len()]).expect("it echoes");
        client
    }

    /// Runs `f` in the loop's thread.
    pub(crate) fn call(&self, f: impl FnOnce(&Reactor) + Send + 'static) {
        self.inspected.call(f);
    }

    /// Ends the program, and waits until its ports are closed.
    pub(crate) fn end(self) {
        drop(self.inspected);
    }
}

/// The port of a client, which the page shows as its peer.
pub(crate) fn port_of(client: &TcpStream) -> u16 {
    client.local_addr().expect("it is connected").port()
}
