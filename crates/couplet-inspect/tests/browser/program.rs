//! A program to inspect: an echo server, whose loop runs in a thread of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use couplet::inspect::{Inspect, Inspector};
use couplet::{Loop, LoopOptions, Protocol, Reactor, Remote, Transport};

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
    remote: Remote,
    thread: JoinHandle<()>,
}

impl Program {
    /// Starts a program whose inspector is at this endpoint, with this token.
    pub(crate) fn start(endpoint: &str, token: &str) -> Program {
        let inspector = Inspector::at(endpoint).token(token).program("storm", "7.8");
        let (tell, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let options = LoopOptions::default().inspect(&inspector);
            let mut l = Loop::with_options(options).expect("the inspector's endpoint is free");
            l.run(|reactor| {
                let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo)?;
                let server = port.host().socket_addr().expect("it is TCP");
                let url = inspector.url().expect("a loop is inspected");
                tell.send((url, server, reactor.remote())).expect("the test waits");
                Ok(())
            })
            .expect("it runs");
        });
        let (url, server, remote) = started.recv().expect("the program starts");
        Program { url, server, remote, thread }
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
        self.remote.call(f).expect("the loop runs");
    }

    /// Ends the program, and waits until its ports are closed.
    pub(crate) fn end(self) {
        self.call(Reactor::stop);
        self.thread.join().expect("the program does not panic");
    }
}

/// The port of a client, which the page shows as its peer.
pub(crate) fn port_of(client: &TcpStream) -> u16 {
    client.local_addr().expect("it is connected").port()
}
