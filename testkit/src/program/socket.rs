//! A raw peer, and servers made of raw peers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::PATIENCE;

/// One end of a connection. Every call blocks, with a timeout.
#[derive(Debug)]
pub struct Client(TcpStream);

impl Client {
    pub fn connect(to: SocketAddr) -> Client {
        Client::over(TcpStream::connect(to).unwrap())
    }

    /// Connects from this IP address.
    pub fn connect_from(ip: [u8; 4], to: SocketAddr) -> Client {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from((ip, 0))).unwrap();
        connect(&socket, &to).unwrap();
        Client::over(TcpStream::from(socket))
    }

    /// Connects with small buffers in the system.
    pub fn connect_narrowly(to: SocketAddr) -> Client {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 64 * 1024).unwrap();
        sockopt::set_socket_send_buffer_size(&socket, 128 * 1024).unwrap();
        connect(&socket, &to).unwrap();
        Client::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client(stream)
    }

    /// The client's own address, as the server sees it.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends as much as the peer takes; returns the number of bytes taken.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.0.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut taken = 0;
        while taken < bytes.len()
            && let Ok(n) = self.0.write(&bytes[taken..])
        {
            taken += n;
        }
        self.0.set_write_timeout(Some(PATIENCE)).unwrap();
        taken
    }

    /// The result of one read, up to 64 KiB; empty at EOF.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 64 * 1024];
        let n = self.0.read(&mut bytes)?;
        bytes.truncate(n);
        Ok(bytes)
    }

    pub fn read_exact(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends these bytes and the end of the stream, and returns everything up to EOF.
    #[track_caller]
    pub fn answered(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.finish();
        self.read_to_end().unwrap()
    }

    /// Sends these bytes to a server that sends them back.
    #[track_caller]
    pub fn echoes(&mut self, bytes: &[u8]) {
        self.send(bytes);
        assert!(self.read_exact(bytes.len()) == bytes, "other bytes come back");
    }

    /// Reads a line, and no byte after it.
    pub fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        let mut seen = [0; 4096];
        while line.pop_if(|byte| *byte == b'\n').is_none() {
            let n = self.0.peek(&mut seen).unwrap();
            let end = seen[..n].iter().position(|byte| *byte == b'\n').map_or(n, |at| at + 1);
            assert!(end > 0, "the stream ended within a line");
            line.extend(self.read_exact(end));
        }
        String::from_utf8(line).unwrap()
    }

    /// Reads up to EOF; fails after a reset.
    pub fn read_to_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Shuts down the sending side.
    pub fn finish(&mut self) {
        self.0.shutdown(Shutdown::Write).unwrap();
    }

    /// Resets the connection.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO)).unwrap();
    }

    /// Sends these bytes in another thread, and then no more.
    pub fn sending(&self, bytes: Vec<u8>) -> JoinHandle<()> {
        let mut sender = self.another();
        std::thread::spawn(move || {
            sender.send(&bytes);
            sender.finish();
        })
    }

    /// A second handle, for sending and receiving concurrently.
    pub fn another(&self) -> Client {
        Client(self.0.try_clone().unwrap())
    }
}

/// A server on a free port that runs `serve` for each connection in a new thread.
pub fn serve_raw(serve: impl Fn(Client) + Clone + Send + 'static) -> SocketAddr {
    serve_on(TcpListener::bind("127.0.0.1:0").unwrap(), serve)
}

/// Like [`serve_raw`], on this listener.
pub fn serve_on(
    listener: TcpListener,
    serve: impl Fn(Client) + Clone + Send + 'static,
) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(Client::over(stream)));
        }
    });
    address
}

/// A server whose connections the test handles.
pub struct Upstream {
    pub address: String,
    accepted: Receiver<Client>,
}

impl Upstream {
    pub fn start() -> Upstream {
        let (sender, accepted) = channel();
        let sender = Arc::new(Mutex::new(sender));
        let address = serve_raw(move |client| {
            let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            // Fails if the test has ended.
            let _ = sender.send(client);
        });
        Upstream { address: address.to_string(), accepted }
    }

    /// The next connection.
    pub fn accept(&self) -> Client {
        self.accepted.recv_timeout(PATIENCE).expect("the program connects")
    }

    /// True if no further connection has arrived.
    pub fn is_unasked(&self) -> bool {
        self.accepted.try_recv().is_err()
    }
}

/// A port without a listener, reserved while the guard lives: bound, but not listening.
pub fn unused_port() -> (SocketAddr, OwnedFd) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = SocketAddr::try_from(getsockname(&socket).unwrap()).unwrap();
    (address, socket)
}
