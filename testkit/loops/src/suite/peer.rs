//! [`B`], the raw peer of a connection, controlled by the test: a non-blocking std socket on real
//! sockets, the other end of the wire on the memory driver, a socket of the same host in the
//! simulator.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::Address;
use couplet::sim::{Host, Listening, Sim, Socket};
use couplet::testing::{Network, Wire};

use super::sealed::{Seal, Seals};
use crate::sealed::Raw;
pub use crate::sealed::Saw;
use sockets::{Listener, Stream};
#[cfg(unix)]
use sockets::{Pipes, Terminal};

/// The peer of a connection, which never acts without the test, not even to read.
pub struct B {
    end: Rc<RefCell<Option<Far>>>,
    seal: Option<Rc<Seal>>,
    got: RefCell<Vec<u8>>,
    saw: Cell<Saw>,
}

pub enum Far {
    Socket(Stream),
    Memory(Wire),
    Sim(World, Socket),
    #[cfg(unix)]
    Pipes(Pipes),
    #[cfg(unix)]
    Terminal(Terminal),
}

/// The network of the peers.
#[derive(Clone)]
pub enum Ground {
    Sockets,
    Memory(Network),
    Sim(World),
}

/// A simulated world with one host, where both ends live.
#[derive(Clone)]
pub struct World {
    sim: Rc<RefCell<Sim>>,
    host: Host,
}

impl World {
    pub fn new(read_buffer: usize) -> (World, Box<dyn couplet_core::driver::Driver>) {
        let mut sim = Sim::new(1);
        let host = sim.bare_host("here");
        let driver = sim.driver(host, read_buffer);
        (World { sim: Rc::new(RefCell::new(sim)), host }, driver)
    }

    /// Lets time pass; even zero delivers everything in flight within the host.
    pub fn pass(&self, time: Duration) {
        self.sim.borrow_mut().run_for(time).expect("the simulation does not fail");
    }
}

/// A port of the test.
pub enum PeerPort {
    Socket(Listener),
    Memory(Network, Address),
    Sim(World, Address, RefCell<Option<Listening>>),
}

impl PeerPort {
    /// Listens at an unused address.
    pub fn new(ground: &Ground, any: &Address) -> PeerPort {
        match ground {
            Ground::Sockets => PeerPort::Socket(Listener::new(any)),
            Ground::Memory(network) => {
                let address = network.listen(any, 50);
                PeerPort::Memory(network.clone(), address.expect("a free port can be opened"))
            }
            Ground::Sim(world) => {
                let port = world.sim.borrow().listen(world.host, any, 50);
                let port = port.expect("a free port can be opened");
                PeerPort::Sim(world.clone(), port.address(), RefCell::new(Some(port)))
            }
        }
    }

    /// A port that refuses connections until it [`listens`](Self::listen).
    pub fn refusing(ground: &Ground, any: &Address) -> PeerPort {
        let address = match any.ip() {
            // Neither the network nor the simulator assigns this number.
            Some(ip) => Address::from(SocketAddr::new(ip, 9)),
            None => any.clone(),
        };
        match ground {
            Ground::Sockets => PeerPort::Socket(Listener::bound(any)),
            Ground::Memory(network) => PeerPort::Memory(network.clone(), address),
            Ground::Sim(world) => PeerPort::Sim(world.clone(), address, RefCell::default()),
        }
    }

    /// Starts to listen.
    pub fn listen(&self) {
        match self {
            PeerPort::Socket(listener) => listener.listen(50),
            PeerPort::Memory(network, address) => {
                network.listen(address, 50).expect("it did not listen");
            }
            PeerPort::Sim(world, address, port) => {
                let opened = world.sim.borrow().listen(world.host, address, 50);
                port.replace(Some(opened.expect("it did not listen")));
            }
        }
    }

    /// A port that neither accepts nor refuses.
    pub fn silent(ground: &Ground, any: &Address) -> PeerPort {
        let port = PeerPort::refusing(ground, any);
        match &port {
            PeerPort::Socket(listener) => listener.fill(),
            PeerPort::Memory(network, address) => network.set_silent(address),
            PeerPort::Sim(world, ..) => {
                // No host has this address.
                let unassigned = SocketAddr::from(([10, 255, 255, 254], 9)).into();
                return PeerPort::Sim(world.clone(), unassigned, RefCell::default());
            }
        }
        port
    }

    pub fn address(&self) -> Address {
        match self {
            PeerPort::Socket(listener) => listener.address(),
            PeerPort::Memory(_, address) | PeerPort::Sim(_, address, _) => address.clone(),
        }
    }

    pub fn accept(&self) -> Option<B> {
        let end = match self {
            PeerPort::Socket(listener) => Far::Socket(listener.accept()?),
            PeerPort::Memory(network, address) => Far::Memory(network.accept(address)?),
            PeerPort::Sim(world, _, port) => {
                world.pass(Duration::ZERO);
                Far::Sim(world.clone(), port.borrow().as_ref()?.accept()?)
            }
        };
        Some(B::new(end))
    }
}

impl B {
    /// Connects over this network.
    pub fn connect(to: Address, ground: &Ground) -> std::io::Result<B> {
        Ok(B::new(match ground {
            Ground::Sockets => Far::Socket(Stream::connect(&to)?),
            Ground::Memory(network) => Far::Memory(network.connect(to)?),
            Ground::Sim(world) => {
                let socket = world.sim.borrow().socket(world.host, to)?;
                world.pass(Duration::ZERO);
                match socket.error() {
                    Some(error) => return Err(error.into()),
                    None => Far::Sim(world.clone(), socket),
                }
            }
        }))
    }

    /// The other ends of two pipes.
    #[cfg(unix)]
    pub fn piped() -> (B, couplet::transport::Pipe) {
        let (pipes, pipe) = Pipes::new();
        (B::new(Far::Pipes(pipes)), pipe)
    }

    /// The controlling side of a terminal.
    #[cfg(unix)]
    pub fn at_terminal() -> (B, couplet::transport::Pipe) {
        let (terminal, pipe) = Terminal::new();
        (B::new(Far::Terminal(terminal)), pipe)
    }

    fn new(end: Far) -> B {
        let end = Rc::new(RefCell::new(Some(end)));
        B { end, seal: None, got: RefCell::default(), saw: Cell::new(Saw::Open) }
    }

    /// Speaks TLS from now on.
    pub fn sealed(mut self, seals: &Seals, is_server: bool, now: Instant) -> B {
        self.seal = Some(seals.add(self.end.clone(), is_server, now));
        self
    }

    fn with<R>(&self, f: impl FnOnce(&Far) -> R) -> R {
        f(self.end.borrow().as_ref().expect("B has not closed"))
    }

    /// Sends all of `data`, which must fit in the buffers.
    pub fn send(&self, data: &[u8]) {
        assert_eq!(self.try_send(data), data.len(), "all of it fits in the buffers");
    }

    /// Sends as much as fits in the buffers; returns 0 when nothing fits or the connection is
    /// broken.
    pub fn try_send(&self, data: &[u8]) -> usize {
        match (&*self.end.borrow(), &self.seal) {
            (Some(end), Some(seal)) => seal.send(end, data),
            (Some(end), None) => end.send(data).unwrap_or(0),
            (None, _) => 0,
        }
    }

    /// Shuts down B's write side.
    pub fn fin(&self) {
        match (&*self.end.borrow(), &self.seal) {
            (Some(end), Some(seal)) => seal.fin(end),
            (Some(end), None) => end.fin(),
            (None, _) => {}
        }
    }

    /// Closes with a reset.
    pub fn reset(&self) {
        match self.end.take() {
            Some(Far::Socket(stream)) => stream.reset(),
            Some(Far::Memory(wire)) => wire.reset(),
            Some(Far::Sim(_, socket)) => socket.reset(),
            #[cfg(unix)]
            Some(Far::Pipes(_) | Far::Terminal(_)) => panic!("a pipe knows no reset"),
            None => {}
        }
    }

    /// Closes as `close(2)` does.
    pub fn close(&self) {
        match &self.seal {
            Some(seal) => seal.close(),
            None => Far::close(self.end.take()),
        }
    }

    /// Reads at most `n` bytes, once; returns the number of bytes read.
    pub fn take(&self, n: usize) -> usize {
        let (bytes, saw) = self.with(|end| match &self.seal {
            Some(seal) => seal.take(end, n),
            None => end.take(n),
        });
        if self.saw.get() == Saw::Open {
            self.saw.set(saw);
        }
        self.got.borrow_mut().extend_from_slice(&bytes);
        bytes.len()
    }

    /// Reads until nothing is left; returns the number of bytes read.
    pub fn take_all(&self) -> usize {
        let mut sum = 0;
        while self.end.borrow().is_some() {
            match self.take(256 * 1024) {
                0 => break,
                n => sum += n,
            }
        }
        sum
    }

    /// All bytes read so far.
    pub fn got(&self) -> Vec<u8> {
        self.got.borrow().clone()
    }

    pub fn got_len(&self) -> usize {
        self.got.borrow().len()
    }

    /// `Open`, or the first end that a read met.
    pub fn saw(&self) -> Saw {
        self.saw.get()
    }

    /// Whether the socket itself reports a reset, regardless of the ends that B saw before.
    pub fn is_broken(&self) -> bool {
        self.with(|end| match end {
            Far::Socket(stream) => stream.has_error(),
            Far::Memory(wire) => wire.saw_reset(),
            Far::Sim(world, socket) => {
                world.pass(Duration::ZERO);
                socket.error().is_some()
            }
            #[cfg(unix)]
            Far::Pipes(_) | Far::Terminal(_) => false,
        })
    }

    /// B's own address.
    pub fn address(&self) -> Address {
        self.with(|end| match end {
            Far::Socket(stream) => stream.address(),
            Far::Memory(wire) => wire.address(),
            Far::Sim(_, socket) => socket.address().expect("a connected socket"),
            #[cfg(unix)]
            Far::Pipes(_) | Far::Terminal(_) => panic!("a pipe has no address"),
        })
    }
}

impl Drop for B {
    fn drop(&mut self) {
        if let Some(seal) = &self.seal {
            seal.drop_end();
        }
    }
}

impl Far {
    /// Closes as `close(2)` does.
    pub fn close(end: Option<Far>) {
        match end {
            Some(Far::Memory(wire)) => wire.close(),
            Some(Far::Sim(_, socket)) => socket.close(),
            #[cfg(unix)]
            Some(Far::Pipes(_) | Far::Terminal(_)) => {}
            Some(Far::Socket(_)) | None => {}
        }
    }
}

impl Raw for Far {
    fn send(&self, data: &[u8]) -> Option<usize> {
        match self {
            Far::Socket(stream) => stream.send(data),
            Far::Memory(wire) => wire.send(data),
            Far::Sim(_, socket) => socket.push(data).ok(),
            #[cfg(unix)]
            Far::Pipes(pipes) => pipes.send(data),
            #[cfg(unix)]
            Far::Terminal(terminal) => terminal.send(data),
        }
    }

    fn fin(&self) {
        match self {
            Far::Socket(stream) => stream.fin(),
            Far::Memory(wire) => wire.fin(),
            Far::Sim(_, socket) => socket.fin(),
            #[cfg(unix)]
            Far::Pipes(pipes) => pipes.fin(),
            #[cfg(unix)]
            Far::Terminal(terminal) => terminal.fin(),
        }
    }

    fn take(&self, n: usize) -> (Vec<u8>, Saw) {
        match self {
            Far::Socket(stream) => stream.take(n),
            Far::Memory(wire) => Raw::take(wire, n),
            #[cfg(unix)]
            Far::Pipes(pipes) => pipes.take(n),
            #[cfg(unix)]
            Far::Terminal(terminal) => terminal.take(n),
            Far::Sim(world, socket) => {
                world.pass(Duration::ZERO);
                let bytes = socket.take(n);
                let saw = match (bytes.is_empty(), socket.error().is_some(), socket.saw_fin()) {
                    (true, true, _) => Saw::Reset,
                    (true, false, true) => Saw::Fin,
                    _ => Saw::Open,
                };
                (bytes, saw)
            }
        }
    }
}

/// The peers on real sockets: the only module of the suite that names socket types.
mod sockets {
    use std::cell::RefCell;
    use std::io::{ErrorKind, Read, Write};
    use std::net::Shutdown;
    use std::time::Duration;

    use couplet::{Address, UnixAddress};
    use socket2::{Domain, SockAddr, Socket, Type};

    use super::Saw;

    /// Small, so that a B that does not read fills up soon.
    const RECEIVE_BUFFER: usize = 64 * 1024;
    const SEND_BUFFER: usize = 1024 * 1024;

    pub struct Stream(Socket);
    /// A socket, and the connections that fill its queue.
    pub struct Listener(Socket, RefCell<Vec<Socket>>);

    fn socket(address: &SockAddr) -> Socket {
        let socket = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(RECEIVE_BUFFER).expect("an option");
        socket.set_send_buffer_size(SEND_BUFFER).expect("an option");
        socket
    }

    fn to_system(address: &Address) -> SockAddr {
        match (address.socket_addr(), address.path()) {
            (Some(address), _) => address.into(),
            (None, Some(path)) => SockAddr::unix(path).expect("a short path"),
            (None, None) => panic!("{address} is neither TCP nor a path"),
        }
    }

    fn from_system(address: &SockAddr) -> Address {
        match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => address.into(),
            (None, Some(path)) => UnixAddress::from(path).into(),
            (None, None) => UnixAddress::Unnamed.into(),
        }
    }

    /// Writes once: `Some(0)` if the buffers are full, `None` on an error.
    fn send(mut to: impl Write, data: &[u8]) -> Option<usize> {
        match to.write(data) {
            Ok(n) => Some(n),
            Err(error) => (error.kind() == ErrorKind::WouldBlock).then_some(0),
        }
    }

    /// Reads once, at most `n` bytes; `broken` translates an error.
    fn take(
        mut from: impl Read,
        n: usize,
        broken: impl FnOnce(std::io::Error) -> Saw,
    ) -> (Vec<u8>, Saw) {
        let mut bytes = vec![0; n];
        let (n, saw) = match from.read(&mut bytes) {
            Ok(0) => (0, Saw::Fin),
            Ok(n) => (n, Saw::Open),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (0, Saw::Open),
            Err(error) => (0, broken(error)),
        };
        bytes.truncate(n);
        (bytes, saw)
    }

    /// Two pipes: B reads from the first, and writes to the second until it ends its stream.
    #[cfg(unix)]
    pub struct Pipes(std::io::PipeReader, RefCell<Option<std::io::PipeWriter>>);

    #[cfg(unix)]
    impl Pipes {
        pub fn new() -> (Pipes, couplet::transport::Pipe) {
            let (reader, theirs) = std::io::pipe().expect("a pipe");
            let (ours, writer) = std::io::pipe().expect("a pipe");
            #[cfg(target_os = "linux")]
            rustix::pipe::fcntl_setpipe_size(&writer, SEND_BUFFER).expect("an option");
            rustix::io::ioctl_fionbio(&reader, true).expect("an option");
            rustix::io::ioctl_fionbio(&writer, true).expect("an option");
            let pipe = couplet::transport::Pipe::both(ours, theirs);
            (Pipes(reader, RefCell::new(Some(writer))), pipe)
        }

        pub fn send(&self, data: &[u8]) -> Option<usize> {
            send(self.1.borrow_mut().as_mut()?, data)
        }

        pub fn fin(&self) {
            self.1.take();
        }

        pub fn take(&self, n: usize) -> (Vec<u8>, Saw) {
            take(&self.0, n, |error| panic!("a pipe: {error}"))
        }
    }

    /// The controlling side of a terminal, until B has closed it (it has no halves), and the
    /// terminal's path.
    #[cfg(unix)]
    pub struct Terminal(RefCell<Option<std::fs::File>>, String);

    #[cfg(unix)]
    impl Terminal {
        pub fn new() -> (Terminal, couplet::transport::Pipe) {
            let (far, near) = couplet_testkit::terminal::raw();
            rustix::io::ioctl_fionbio(&far, true).expect("an option");
            let path = rustix::termios::ttyname(&near, Vec::new()).expect("a terminal");
            let path = path.into_string().expect("ASCII");
            let pipe = couplet::transport::Pipe::duplex(near).expect("a duplicate");
            (Terminal(RefCell::new(Some(far.into())), path), pipe)
        }

        /// Waits until sent bytes have arrived; a kernel thread delivers them.
        fn settle(&self) {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let near = couplet_testkit::terminal::other_side(&self.1);
            let a_second = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(&near, PollFlags::IN)], Some(&a_second));
        }

        pub fn send(&self, data: &[u8]) -> Option<usize> {
            let sent = send(self.0.borrow_mut().as_mut()?, data);
            if sent > Some(0) {
                self.settle();
            }
            sent
        }

        pub fn fin(&self) {
            self.0.take();
        }

        pub fn take(&self, n: usize) -> (Vec<u8>, Saw) {
            match self.0.borrow_mut().as_mut() {
                // A read fails once the other side is closed.
                Some(end) => take(end, n, |_| Saw::Fin),
                None => (Vec::new(), Saw::Open),
            }
        }
    }

    impl Listener {
        pub fn new(address: &Address) -> Listener {
            let listener = Listener::bound(address);
            listener.listen(50);
            listener
        }

        /// Bound but not listening, so it refuses connections.
        pub fn bound(address: &Address) -> Listener {
            let address = to_system(address);
            let socket = socket(&address);
            socket.bind(&address).expect("a free port");
            socket.set_nonblocking(true).expect("an option");
            Listener(socket, RefCell::default())
        }

        pub fn listen(&self, backlog: i32) {
            self.0.listen(backlog).expect("a free port");
        }

        /// Listens with a queue of one and fills it: the system takes no further connects.
        pub fn fill(&self) {
            self.listen(0);
            let address = to_system(&self.address());
            let one = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
            one.connect(&address).expect("the queue holds one");
            self.1.borrow_mut().push(one);
        }

        pub fn address(&self) -> Address {
            from_system(&self.0.local_addr().expect("a bound socket"))
        }

        pub fn accept(&self) -> Option<Stream> {
            let (stream, _) = self.0.accept().ok()?;
            stream.set_nonblocking(true).expect("an option");
            Some(Stream(stream))
        }
    }

    impl Stream {
        pub fn connect(to: &Address) -> std::io::Result<Stream> {
            let address = to_system(to);
            let socket = socket(&address);
            socket.connect(&address)?;
            socket.set_nonblocking(true)?;
            if address.domain() != Domain::UNIX {
                socket.set_tcp_nodelay(true)?;
            }
            Ok(Stream(socket))
        }

        pub fn send(&self, data: &[u8]) -> Option<usize> {
            send(&self.0, data)
        }

        pub fn fin(&self) {
            // Fails if A has closed.
            let _ = self.0.shutdown(Shutdown::Write);
        }

        pub fn reset(self) {
            self.0.set_linger(Some(Duration::ZERO)).expect("an option");
        }

        pub fn take(&self, n: usize) -> (Vec<u8>, Saw) {
            take(&self.0, n, |_| Saw::Reset)
        }

        pub fn has_error(&self) -> bool {
            !matches!(self.0.take_error(), Ok(None))
        }

        pub fn address(&self) -> Address {
            from_system(&self.0.local_addr().expect("a bound socket"))
        }
    }
}
