//! Streams over real sockets: TCP, UNIX sockets and TLS on the system's driver. The peers are raw
//! sockets that block in their own threads.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use couplet::defer::list;
use couplet::{Address, Loop, Result, Stream};
use couplet_testkit_loops::{PATIENCE, until};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::needed::{Folder, SelfSigned};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tcp,
    Unix,
    Tls,
}

const KINDS: [Kind; 3] = [Kind::Tcp, Kind::Unix, Kind::Tls];

/// A loop with real sockets, and a folder with a certificate for localhost.
struct Ground {
    l: Loop,
    kind: Kind,
    folder: Folder,
}

impl Ground {
    fn new(kind: Kind) -> Ground {
        let folder = Folder::new();
        let pair = SelfSigned::new("localhost");
        folder.write("cert.pem", pair.certificate);
        folder.write("key.pem", pair.key);
        Ground { l: Loop::new().expect("a loop"), kind, folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path(name)
    }

    /// Serves with this handler. A failure of the handler ends its connection.
    fn serve(&self, handle: impl AsyncFn(Stream) -> Result<()> + 'static) -> Target {
        let endpoint = match self.kind {
            Kind::Tcp => "tcp:0:interface=127.0.0.1:backlog=300".to_owned(),
            Kind::Unix => format!("unix:{}:backlog=300", self.path("socket")),
            Kind::Tls => format!(
                "tls:0:interface=127.0.0.1:backlog=300:cert={}:key={}",
                self.path("cert.pem"),
                self.path("key.pem")
            ),
        };
        let port = self.l.reactor().serve(endpoint, handle).expect("a free port");
        let certificate = (self.kind == Kind::Tls).then(|| self.folder.join("cert.pem"));
        Target { address: port.host(), certificate }
    }

    /// The endpoint of the client's side.
    fn client(&self, target: &Target) -> String {
        match self.kind {
            Kind::Tcp | Kind::Unix => target.address.to_string(),
            Kind::Tls => format!(
                "tls:127.0.0.1:{}:ca={}:servername=localhost",
                target.address.port().expect("a TCP port"),
                self.path("cert.pem")
            ),
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&mut Loop) -> bool) {
        until(&mut self.l, &format!("{what}: {:?}", self.kind), done);
    }

    /// Turns until the peer's thread has ended.
    #[track_caller]
    fn join<T>(&mut self, peer: JoinHandle<T>) -> T {
        self.until("the peer", |_| peer.is_finished());
        peer.join().expect("the peer does not panic")
    }

    #[track_caller]
    fn until_no_connection_is_left(&mut self) {
        let has_none =
            |l: &mut Loop| l.snapshot().connections.is_empty() && l.snapshot().tasks == 0;
        self.until("the end of all connections", has_none);
    }
}

/// The server that peers connect to.
#[derive(Clone)]
struct Target {
    address: Address,
    certificate: Option<PathBuf>,
}

/// A raw end of a connection: a blocking socket, and TLS over it.
struct Peer {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl Peer {
    /// Connects, with a receive buffer of this many bytes if given.
    fn connect(target: &Target, buffer: Option<usize>) -> Peer {
        let address = match target.address.socket_addr() {
            Some(address) => SockAddr::from(address),
            None => {
                let path = target.address.unix().and_then(couplet::UnixAddress::path);
                SockAddr::unix(path.expect("a path")).expect("a short path")
            }
        };
        let socket = Socket::new(address.domain(), Type::STREAM, None).expect("a socket");
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).expect("an option");
        }
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        socket.set_write_timeout(Some(PATIENCE)).expect("an option");
        socket.connect(&address).expect("the port listens");
        if address.domain() != Domain::UNIX {
            socket.set_tcp_nodelay(true).expect("an option");
        }
        let tls = target.certificate.as_deref().map(|path| Box::new(client(path)));
        Peer { socket, tls }
    }

    /// Completes the handshake, if there is one: the server waits ten seconds for it.
    fn shake_hands(&mut self) -> io::Result<()> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.is_handshaking()) {
            tls.complete_io(&mut &self.socket)?;
        }
        Ok(())
    }

    /// Writes as much as fits.
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.shake_hands()?;
        let Some(tls) = &mut self.tls else { return (&self.socket).write(data) };
        while tls.wants_write() {
            tls.write_tls(&mut &self.socket)?;
        }
        let n = tls.writer().write(data)?;
        match tls.write_tls(&mut &self.socket) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(n),
        }
    }

    /// Writes all of `data`, and the records that TLS still holds.
    fn write_all(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            data = &data[self.write(data).expect("the server takes it")..];
        }
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            tls.write_tls(&mut &self.socket).expect("the server takes it");
        }
    }

    /// All bytes up to a clean end.
    fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        self.read_to_end(&mut all).expect("a clean end");
        all
    }

    fn next(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.read_exact(&mut bytes).expect("the server answers");
        bytes
    }

    /// Ends this side's stream.
    fn fin(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.write_all(&[]);
        self.socket.shutdown(Shutdown::Write).expect("it is connected");
    }

    /// Resets the connection. A UNIX socket does so because it is closed with unread input.
    fn reset(mut self) {
        self.next(1);
        if !self.socket.local_addr().expect("an address").is_unix() {
            self.socket.set_linger(Some(Duration::ZERO)).expect("an option");
        }
    }

    /// Waits until the socket is ready for `flags`. Unless they include `IN`, a readable `other`
    /// ends the wait too.
    fn poll(&self, flags: PollFlags, other: &UnixStream) {
        let mut fds = [PollFd::new(&self.socket, flags), PollFd::new(other, PollFlags::IN)];
        let fds = if flags.contains(PollFlags::IN) { &mut fds[..1] } else { &mut fds[..] };
        let late = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
        assert!(poll(fds, Some(&late)).expect("it polls") > 0, "the server stands still");
    }
}

impl Read for Peer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return (&self.socket).read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                done => return done,
            }
            tls.read_tls(&mut &self.socket)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
}

fn client(certificate: &Path) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    roots.add(certificate).expect("a root");
    let config =
        ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
    let config = config.with_safe_default_protocol_versions().expect("versions");
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("it works")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(u32::to_le_bytes).take(len).collect()
}

/// More than the buffers of both systems hold.
const BIG: usize = 5_000_000;

/// Sends all of `data` to an echo and reads it back: nothing before `full` is readable, then 1000
/// bytes at a time, and only while writing is impossible.
fn slow_peer(target: &Target, data: &[u8], full: &UnixStream) -> Vec<u8> {
    let mut peer = Peer::connect(target, Some(4096));
    let (mut sent, mut back, mut reads) =
        (peer.write(&data[..1]).expect("room"), Vec::new(), false);
    peer.socket.set_nonblocking(true).expect("an option");
    full.set_nonblocking(true).expect("an option");
    while back.len() < data.len() {
        let write = if sent < data.len() { peer.write(&data[sent..]) } else { peer.write(&[]) };
        match write {
            Ok(n) if n > 0 => {
                sent += n;
                continue;
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => {}
        }
        let unsent = sent < data.len() || peer.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let mut flags = if unsent { PollFlags::OUT } else { PollFlags::empty() };
        reads |= (&*full).read(&mut [0]).is_ok();
        if reads {
            flags |= PollFlags::IN;
            let mut piece = [0; 1000];
            match peer.read(&mut piece) {
                Ok(0) => panic!("the stream ended after {} bytes", back.len()),
                Ok(n) => {
                    back.extend_from_slice(&piece[..n]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
        }
        peer.poll(flags, full);
    }
    peer.socket.set_nonblocking(false).expect("an option");
    peer.fin();
    back.extend(peer.rest());
    back
}

#[test]
fn an_echo_returns_five_megabytes_to_a_slow_reader() {
    for kind in KINDS {
        let mut ground = Ground::new(kind);
        let (full, signal) = UnixStream::pair().expect("a pair");
        let most = Rc::new(Cell::new(0));
        let seen = most.clone();
        let signal = RefCell::new(Some(signal));
        let target = ground.serve(async move |mut stream| {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(stream.close().await?);
                }
                stream.write_all(&buffer[..n]).await?;
                seen.set(stream.transport().buffered().max(seen.get()));
                if stream.transport().is_full() {
                    signal.take();
                }
            }
        });
        let data = pattern(BIG);
        let peer = std::thread::spawn(move || slow_peer(&target, &data, &full));
        assert!(ground.join(peer) == pattern(BIG), "{kind:?}: what came back is what was sent");
        // The high mark, and one more piece.
        assert!(most.get() < 200 * 1024, "{kind:?}: {} bytes in the buffer", most.get());
        ground.until_no_connection_is_left();
    }
}

#[test]
fn a_half_closed_peer_gets_the_whole_answer() {
    for kind in KINDS {
        let mut ground = Ground::new(kind);
        let target = ground.serve(async |mut stream| {
            let mut question = Vec::new();
            stream.read_to_end(&mut question, BIG).await?;
            assert_eq!(stream.read(&mut [0]).await?, 0, "it stays the end");
            question.reverse();
            stream.write_all(&question).await?;
            Ok(stream.close().await?)
        });
        let peer = std::thread::spawn(move || {
            let mut peer = Peer::connect(&target, None);
            peer.write_all(&pattern(1_000_000));
            peer.fin();
            peer.rest()
        });
        let mut expected = pattern(1_000_000);
        expected.reverse();
        assert!(ground.join(peer) == expected, "{kind:?}");
        ground.until_no_connection_is_left();
    }
}

#[test]
fn a_reset_by_the_peer_fails_reads_and_writes() {
    for kind in KINDS {
        let mut ground = Ground::new(kind);
        let seen: Rc<RefCell<Vec<ErrorKind>>> = Rc::default();
        let errors = seen.clone();
        let target = ground.serve(async move |mut stream| {
            assert_eq!(stream.read_line().await?.as_deref(), Some(&b"hello"[..]));
            stream.write_all("something unread").await?;
            let read = stream.read_line().await.expect_err("it is lost");
            let write = stream.write_all("more").await.expect_err("it is lost");
            let close = stream.close().await.expect_err("that was no clean end");
            errors.borrow_mut().extend([read.kind(), write.kind(), close.kind()]);
            Ok(())
        });
        let peer = std::thread::spawn(move || {
            let mut peer = Peer::connect(&target, None);
            peer.write_all(b"hello\n");
            peer.reset();
        });
        ground.join(peer);
        ground.until_no_connection_is_left();
        assert_eq!(*seen.borrow(), [ErrorKind::ConnectionReset; 3], "{kind:?}");
    }
}

const MANY: usize = 200;

/// Confirms each line.
async fn confirm(mut stream: Stream) -> Result<()> {
    while let Some(line) = stream.read_line().await? {
        stream.write_all([&line[..], b" it is\n"].concat()).await?;
    }
    Ok(stream.close().await?)
}

#[test]
fn two_hundred_connections_are_served_at_once() {
    if !crate::apart::allow_descriptors(1024) {
        return;
    }
    for kind in KINDS {
        let mut ground = Ground::new(kind);
        let (open, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (opened, at_once) = (open.clone(), most.clone());
        let target = ground.serve(async move |stream| {
            opened.set(opened.get() + 1);
            at_once.set(opened.get().max(at_once.get()));
            let confirmed = confirm(stream).await;
            opened.set(opened.get() - 1);
            confirmed
        });
        let peer = std::thread::spawn(move || {
            let connect = |_| {
                let mut peer = Peer::connect(&target, None);
                peer.shake_hands().expect("a handshake");
                peer
            };
            let mut peers: Vec<Peer> = (0..MANY).map(connect).collect();
            for turn in 0..3 {
                for (n, peer) in peers.iter_mut().enumerate() {
                    peer.write_all(format!("{n:03} {turn}\n").as_bytes());
                }
                for (n, peer) in peers.iter_mut().enumerate() {
                    let expected = format!("{n:03} {turn} it is\n");
                    assert_eq!(peer.next(expected.len()), expected.as_bytes());
                }
            }
            for peer in &mut peers {
                peer.fin();
                assert_eq!(peer.rest(), b"");
            }
        });
        ground.join(peer);
        ground.until_no_connection_is_left();
        assert_eq!((most.get(), open.get()), (MANY, 0), "{kind:?}");
    }
}

#[test]
fn two_hundred_streams_connect_at_once() {
    if !crate::apart::allow_descriptors(1024) {
        return;
    }
    for kind in KINDS {
        let mut ground = Ground::new(kind);
        let target = ground.serve(confirm);
        let (reactor, server) = (ground.l.reactor(), ground.client(&target));
        // On a busy machine, more handshakes at once would exceed their time.
        let many = if kind == Kind::Tls { MANY / 5 } else { MANY };
        let asked = (0..many).map(|n| {
            let connecting = reactor.connect_stream(&server);
            reactor.spawn(async move {
                let mut stream = connecting.await?;
                stream.write_all(format!("{n}\n")).await?;
                let line = stream.read_line().await?;
                assert_eq!(line, Some(format!("{n} it is").into_bytes()));
                stream.shutdown().await?;
                assert_eq!(stream.read_line().await?, None);
                Ok(stream.close().await?)
            })
        });
        for asked in
            ground.l.run_until(list(asked).add_timeout(&reactor, PATIENCE)).expect("in time")
        {
            asked.expect("an answer");
        }
        ground.until_no_connection_is_left();
    }
}
