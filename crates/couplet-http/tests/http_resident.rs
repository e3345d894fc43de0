//! The memory of idle connections as the system counts it: resident pages of a server with
//! thousands of them, in its own process, after each has done some work.

#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::time::Duration;

use couplet::Loop;
use couplet::http::HttpExt;
use couplet::http::{Body, Request, Response};
use couplet_testkit::PATIENCE;
use couplet_testkit::apart::{Running, raise_descriptor_limit, told};
use couplet_testkit::processes::memory;
use tower::service_fn;

type Client = std::net::TcpStream;
#[cfg(feature = "tls")]
type TlsClient = rustls::StreamOwned<rustls::ClientConnection, Client>;

const CONNECTIONS: usize = 2000;

const TCP: &str = "tcp:0:interface=127.0.0.1";

/// What precedes the endpoint of a server without HTTP.
const PLAIN: &str = "plain ";

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[cfg(feature = "websocket")]
const HELLO: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

async fn answer(request: Request<Body>) -> Result<Response<String>, Infallible> {
    #[cfg(feature = "websocket")]
    let request = {
        use couplet::http::websocket::{WebSocket, WebSocketOptions, upgrade};
        let mut request = request;
        if request.headers().contains_key("upgrade") {
            return Ok(upgrade(&mut request, WebSocketOptions::default(), echo));
        }
        async fn echo(mut socket: WebSocket) -> couplet::Result<()> {
            while let Some(message) = socket.recv().await {
                socket.send(message?).await?;
            }
            Ok(())
        }
        request
    };
    Ok(Response::new(format!("hello, {}", request.uri().path())))
}

#[cfg(feature = "tls")]
struct Echo;

#[cfg(feature = "tls")]
impl couplet::Protocol for Echo {
    fn data_received(&mut self, transport: &couplet::Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Serves HTTP, or the plain protocol if the endpoint follows that word.
fn serve(endpoint: &str) {
    raise_descriptor_limit();
    let ran = couplet::run(|reactor| {
        let host = match endpoint.strip_prefix(PLAIN) {
            #[cfg(feature = "tls")]
            Some(endpoint) => reactor.listen(endpoint, || Echo)?.host(),
            _ => reactor.serve_http(endpoint, service_fn(answer))?.host(),
        };
        let number = host.port().expect("a TCP port");
        println!("serving {number} {}", std::process::id());
        Ok(())
    });
    ran.expect("it serves");
}

/// Resident bytes of a process.
fn resident(process: &str) -> usize {
    usize::try_from(memory(process, "VmRSS")).expect("it fits") * 1024
}

/// Opens `count` connections, and runs `work` on each.
fn connected<C>(port: u16, count: usize, work: &dyn Fn(Client) -> C) -> Vec<C> {
    let connect = |_| work(Client::connect(("127.0.0.1", port)).expect("it listens"));
    (0..count).map(connect).collect()
}

/// Checks that a server on this endpoint keeps at most `most` bytes for a connection that is idle
/// after its work.
///
/// The set of resident pages depends on how fast the connections arrive, so the limits lie above
/// the measured values: 1.9 to 2.9 KiB in HTTP/1.1, 2.5 for a WebSocket, 6.0 to 6.3 over TLS, 5.0 for
/// a plain protocol over TLS, 3.2 in HTTP/2.
fn idle<C>(test: &str, endpoint: &str, most: usize, work: impl Fn(Client) -> C) {
    if let Some(endpoint) = told() {
        return serve(&endpoint);
    }
    raise_descriptor_limit();
    let mut server = Running::start(test, endpoint);
    let told = server.says("serving ");
    let (port, process) = told.split_once(' ').expect("two words");
    let port = port.parse().expect("a port");
    // The first connections let tables grow.
    drop(connected(port, 100, &work));
    let before = resident(process);
    let clients = connected(port, CONNECTIONS, &work);
    let mut waits = Loop::new().expect("a loop");
    let reactor = waits.reactor();
    let begun = reactor.now();
    // Buffers are freed immediately, and the heap is trimmed five seconds later.
    let kept = loop {
        let kept = resident(process).saturating_sub(before) / CONNECTIONS;
        if kept <= most || reactor.now() - begun > PATIENCE {
            break kept;
        }
        waits.run_until(reactor.sleep(Duration::from_millis(200))).expect("the time passes");
    };
    println!("{kept} bytes");
    assert!(kept <= most, "{kept} bytes of a connection stay");
    drop(clients);
}

fn exchange(client: &mut (impl Read + Write), sent: &[u8], ends: &[u8]) {
    client.write_all(sent).expect("it reads");
    let (mut got, mut piece) = (Vec::new(), [0; 1024]);
    while !got.windows(ends.len()).any(|part| part == ends) {
        let n = client.read(&mut piece).expect("it answers");
        assert_ne!(n, 0, "{}", got.escape_ascii());
        got.extend(&piece[..n]);
    }
}

fn gets_twice(mut client: impl Read + Write) -> impl Sized {
    exchange(&mut client, GET, b"hello, /");
    exchange(&mut client, GET, b"hello, /");
    client
}

#[test]
#[ignore = "measures; run it alone"]
fn c175b_an_idle_connection_of_http1_is_small() {
    idle("c175b_an_idle_connection_of_http1_is_small", TCP, 3 * 1024, gets_twice);
}

/// Checks an idle connection of TLS, like [`idle`]. `prefix` precedes the endpoint.
#[cfg(feature = "tls")]
fn idle_tls<C>(test: &str, prefix: &str, most: usize, work: impl Fn(TlsClient) -> C) {
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    let folder = couplet_testkit::needed::Folder::new();
    let file =
        folder.write("server.pem", couplet_testkit::needed::SelfSigned::new("localhost").pem());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&file).expect("a certificate")).expect("a valid one");
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let trusting = Arc::new(trusting);
    let endpoint = format!("{prefix}tls:0:interface=127.0.0.1:cert={file}");
    idle(test, &endpoint, most, |client| {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(trusting.clone(), name).expect("a configuration");
        work(StreamOwned::new(tls, client))
    });
}

#[cfg(feature = "tls")]
#[test]
#[ignore = "measures; run it alone"]
fn c175b_an_idle_connection_over_tls_is_small() {
    idle_tls("c175b_an_idle_connection_over_tls_is_small", "", 8 * 1024, gets_twice);
}

#[cfg(feature = "tls")]
#[test]
#[ignore = "measures; run it alone"]
fn c175b_an_idle_plain_connection_over_tls_is_small() {
    const TEST: &str = "c175b_an_idle_plain_connection_over_tls_is_small";
    idle_tls(TEST, PLAIN, 5 * 1024 + 512, |mut client| {
        exchange(&mut client, b"hello", b"hello");
        exchange(&mut client, b"again", b"again");
        client
    });
}

/// An HTTP/2 GET: RFC 9113, 6.2, with the fields of RFC 7541.
fn get_h2(stream: u8) -> Vec<u8> {
    let fields = b"\x82\x86\x84\x01\x01a";
    [&[0, 0, fields.len() as u8, 1, 5, 0, 0, 0, stream], &fields[..]].concat()
}

#[test]
#[ignore = "measures; run it alone"]
fn c175b_an_idle_connection_of_http2_is_small() {
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle("c175b_an_idle_connection_of_http2_is_small", TCP, 4 * 1024, |mut client| {
        exchange(&mut client, &[HELLO, &get_h2(1)].concat(), b"hello, /");
        exchange(&mut client, &get_h2(3), b"hello, /");
        client
    });
}

#[cfg(feature = "websocket")]
#[test]
#[ignore = "measures; run it alone"]
fn c175b_an_idle_websocket_is_small() {
    idle("c175b_an_idle_websocket_is_small", TCP, 3 * 1024, |mut client| {
        exchange(&mut client, HELLO, b"\r\n\r\n");
        exchange(&mut client, b"\x82\x85\0\0\0\0hello", b"hello");
        client
    });
}
