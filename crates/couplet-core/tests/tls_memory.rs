//! The memory of TLS connections: an idle one costs little, and ten thousand leak nothing, neither
//! memory, ours or the cryptographic library's, nor descriptors. A separate binary, because it
//! installs a counting allocator.

#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use couplet::factory::Layered;
use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions, TlsInfo};
use couplet::{Loop, Protocol, Reason, Transport};
use couplet_testkit::apart::{descriptors, one_at_a_time, raise_descriptor_limit};
use couplet_testkit::counting;
use couplet_testkit::processes::memory;
use couplet_testkit_loops::turn_while;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use couplet_testkit_loops::authority::Authority;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const NAME: &str = "couplet.test";
const CONNECTIONS: usize = 10_000;
/// Concurrent connections: no more than a port queues.
const BATCH: usize = 40;
/// After this number of connections, all caches are allocated.
const WARM: usize = 2000;

/// Number of connections that have ended, on each side.
#[derive(Clone, Default)]
struct Ended(Rc<RefCell<[usize; 2]>>);

struct Echo(Ended);

impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason}");
        self.0.0.borrow_mut()[0] += 1;
    }
}

struct Ask(Ended);

impl Protocol for Ask {
    fn connection_made(&mut self, transport: &Transport) {
        assert!(!transport.info::<TlsInfo>().expect("it is secure").resumed);
        transport.write("to and fro");
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        assert_eq!(data, b"to and fro");
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        assert!(reason.is_clean(), "{reason}");
        self.0.0.borrow_mut()[1] += 1;
    }
}

#[test]
#[ignore = "measures; run it alone"]
fn ten_thousand_connections_leave_no_memory_and_no_descriptor() {
    let _alone = one_at_a_time();
    let authority = Authority::new();
    let server = ServerTlsOptions::new(authority.identity(NAME));
    let server = ServerTls::new(&server).expect("a configuration that works");
    let client = ClientTlsOptions::default().roots(authority.roots()).resumption(false);
    let client = ClientTls::new(&client).expect("a configuration that works");

    let mut l = Loop::new().expect("a loop");
    let (reactor, ended) = (l.reactor(), Ended::default());
    let end = ended.clone();
    let factory = Layered::new(move || Echo(end.clone()), move |at, _| server.layer(at.now()));
    let port = reactor.listen(SocketAddr::from(([127, 0, 0, 1], 0)), factory).expect("a free port");
    let port = port.host().port().expect("a TCP port");
    let mut batch = |done: usize| {
        for _ in 0..BATCH {
            let (end, tls) = (ended.clone(), client.clone());
            let factory = Layered::new(
                move || Ask(end.clone()),
                move |at, _| tls.layer(NAME, at.now()).expect("a good name"),
            );
            reactor.connect(("127.0.0.1", port), factory).detach();
        }
        let late = reactor.now() + Duration::from_secs(60);
        while *ended.0.borrow() != [done + BATCH; 2] || !l.snapshot().connections.is_empty() {
            assert!(reactor.now() < late, "{}", l.snapshot());
            l.turn(Some(Duration::from_millis(10))).expect("the driver waits");
        }
    };
    (0..WARM).step_by(BATCH).for_each(&mut batch);
    let (live, before, open) = (counting::live(), memory("self", "VmRSS"), descriptors());
    (WARM..CONNECTIONS).step_by(BATCH).for_each(&mut batch);
    assert_eq!(descriptors(), open);
    let (grown, more) = (counting::live() - live, memory("self", "VmRSS").saturating_sub(before));
    let each = CONNECTIONS - WARM;
    println!("{grown} bytes and {more} KiB more after {each} connections");
    // Per connection, less than a byte of ours, and a fraction of the library's smallest object.
    assert!(grown < each as isize, "{grown} bytes");
    assert!(more < 512, "{more} KiB");
}

/// The number of connections; both ends are in this process.
const IDLE: usize = 1000;

#[test]
#[ignore = "measures; run it alone"]
fn an_idle_connection_costs_at_most_12_kib() {
    let _alone = one_at_a_time();
    raise_descriptor_limit();
    let authority = Authority::new();
    let server = ServerTlsOptions::new(authority.identity(NAME));
    let server = ServerTls::new(&server).expect("a configuration that works");
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate().as_bytes());
    roots.add(root.expect("a certificate")).expect("a valid one");
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let trusting = Arc::new(trusting);

    let mut l = Loop::new().expect("a loop");
    let ended = Ended::default();
    let factory = Layered::new(move || Echo(ended.clone()), move |at, _| server.layer(at.now()));
    let port =
        l.reactor().listen(SocketAddr::from(([127, 0, 0, 1], 0)), factory).expect("a free port");
    let at = port.host().socket_addr().expect("a TCP port");
    let echoed = || {
        let name = ServerName::try_from(NAME).expect("a name");
        let tls = ClientConnection::new(trusting.clone(), name).expect("a configuration");
        let mut client = StreamOwned::new(tls, TcpStream::connect(at).expect("it listens"));
        let mut echo = [0; 5];
        client.write_all(b"hello").expect("it reads");
        client.read_exact(&mut echo).expect("it answers");
        assert_eq!(&echo, b"hello");
        client
    };
    let connected = |count: usize| (0..count).map(|_| echoed()).collect::<Vec<_>>();
    // The first connections let tables grow.
    turn_while(&mut l, || {
        for mut client in connected(100) {
            client.conn.send_close_notify();
            client.flush().expect("it reads");
        }
    });
    let (live, before) = (counting::live(), memory("self", "VmRSS"));
    let clients = turn_while(&mut l, || connected(IDLE));
    let ours = usize::try_from(counting::live() - live).unwrap_or(0) / IDLE;
    // The clients' memory too.
    let both = 1024 * memory("self", "VmRSS").saturating_sub(before) / IDLE as u64;
    println!("{ours} bytes for each of {IDLE} idle connections, {both} resident on both sides");
    assert!(ours <= 12 * 1024, "{ours} bytes for each of {IDLE} idle connections");
    drop(l);
    drop(clients);
}
