//! TLS: a server and a client with an attacker between them.
//!
//! The first byte of the input chooses the case. 0: the remaining bytes are the server's input; 1
//! and 6: the input of a client of 1.3 or 1.2. The corpus has handshakes recorded from OpenSSL,
//! which fail where fresh keys enter. So in the other cases a client and a server talk, and the
//! remaining bytes are changes to their stream, three bytes each: the position (two bytes) and the
//! operation on the byte there. 2 and 3 are TLS 1.3, 4 and 5 are 1.2; the changes apply to the
//! client's bytes, or, if the first byte is odd, to the server's. In every case neither end panics,
//! and no end delivers a byte that the other did not send.

use std::cell::Cell;
use std::ops::ControlFlow::Continue;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use couplet::layers::tls::{
    ClientTls, ClientTlsOptions, Identity, Roots, ServerTls, ServerTlsOptions, Tls, TlsVersion,
    TlsWorld, in_world,
};
use couplet::layers::{Layers, Up};
use couplet_core::driver::{Outbox, Spares};

use crate::now;

pub(crate) const WORDS: &[&str] = &[
    "\x16\x03\x01",
    "\x17\x03\x03",
    "\x14\x03\x03\0\x01\x01",
    "\x15\x03\x03\0\x02\x01\0",
    "\x15\x03\x03\0\x02\x02\x28",
    "GET / HTTP/1.1\r\n\r\n",
    "\0\0",
    "\x02",
];

/// The authority's key was deleted; the certificates are for this target only.
const AUTHORITY: &[u8] = include_bytes!("tls/authority.pem");
const SERVER: &[u8] = include_bytes!("tls/server.pem");

/// Data of the client and of the server, in two writes each.
const SECRETS: [[&[u8]; 2]; 2] =
    [[b"the first secret", b"the second"], [b"the first answer", b"the second one"]];

/// A server, and clients of both versions.
static ENDS: LazyLock<(ServerTls, [ClientTls; 2])> = LazyLock::new(|| {
    let identity = Identity::from_pem(SERVER, SERVER).expect("a certificate");
    let server = ServerTlsOptions::new(identity).resumption(false);
    let client = |version| {
        let roots = Roots::from_pem(AUTHORITY).expect("a certificate");
        let options = ClientTlsOptions::default().roots(roots).resumption(false);
        ClientTls::new(&options.versions(version, version)).expect("it works")
    };
    let clients = [TlsVersion::Tls13, TlsVersion::Tls12].map(client);
    (ServerTls::new(&server).expect("it works"), clients)
});

/// A world in the year 2030, with deterministic random numbers.
#[derive(Default)]
struct World(Cell<u64>);

impl TlsWorld for World {
    fn random(&self) -> u64 {
        self.0.set(self.0.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        self.0.get()
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_900_000_000)
    }
}

/// Tries one input.
///
/// # Panics
///
/// If one of these properties is violated.
pub fn tls(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let (server, clients) = &*ENDS;
    let client = |old: bool| clients[usize::from(old)].layer("server.test", now()).expect("a name");
    in_world(Rc::new(World::default()), || match kind {
        0 => receive(|| server.layer(now()), rest),
        1 => receive(|| client(false), rest),
        6 => receive(|| client(true), rest),
        kind => {
            let (old, by_server) = (kind & 4 != 0, kind & 1 != 0);
            between([client(old), server.layer(now())], by_server, rest);
        }
    });
}

/// One end of a connection.
struct End {
    layers: Layers,
    above: Outbox,
    received: Vec<u8>,
    failed: Option<String>,
}

impl End {
    fn new(tls: Tls) -> End {
        let spares = Rc::new(Spares::default());
        let layers = Layers::new(tls, &spares);
        End { layers, above: Outbox::new(spares), received: Vec::new(), failed: None }
    }

    fn feed(&mut self, bytes: &[u8]) {
        let End { layers, received, failed, .. } = self;
        let flow = layers.feed(bytes, now(), |up| {
            match up {
                Up::Data(data) => received.extend_from_slice(data),
                Up::Failed(reason) => assert!(failed.replace(reason.to_string()).is_none()),
                Up::Open(_) | Up::Closed => {}
                Up::Nothing | Up::Last(_) => panic!("nothing came up"),
            }
            Continue(())
        });
        assert!(flow.is_continue());
    }

    fn sent(&mut self) -> Vec<u8> {
        self.layers.down(&mut self.above, now());
        let sent = self.layers.bottom().slices().flatten().copied().collect();
        self.layers.bottom().clear();
        sent
    }
}

/// Feeds these bytes to an end, whole and in pieces.
fn receive(tls: impl Fn() -> Tls, bytes: &[u8]) {
    let outcome = |piece: usize| {
        let mut end = End::new(tls());
        for piece in bytes.chunks(piece) {
            end.feed(piece);
            end.sent();
        }
        end.layers.ended();
        end.feed(b"");
        assert!(end.received.is_empty(), "data without a peer");
        end.failed.expect("a stream without a handshake fails")
    };
    let whole = outcome(usize::MAX);
    for piece in [1, 100] {
        assert_eq!(outcome(piece), whole, "in pieces of {piece}");
    }
}

/// Connects a client and a server, and changes the bytes of one of them in transit.
fn between(ends: [Tls; 2], by_server: bool, changes: &[u8]) {
    let [mut client, mut server] = ends.map(End::new);
    let mut at = 0;
    for (secret, answer) in SECRETS[0].iter().zip(SECRETS[1]) {
        client.above.extend(secret);
        server.above.extend(answer);
        loop {
            let (mut up, mut down) = (client.sent(), server.sent());
            if up.is_empty() && down.is_empty() {
                break;
            }
            let changed = if by_server { &mut down } else { &mut up };
            let length = changed.len();
            change(changed, at, changes);
            at += length;
            server.feed(&up);
            client.feed(&down);
        }
    }
    for (end, sent) in [(&mut server, SECRETS[0]), (&mut client, SECRETS[1])] {
        // A truncated stream is detected.
        end.layers.ended();
        end.feed(b"");
        let (sent, failed) =
            (sent.concat(), end.failed.as_ref().expect("no close_notify was sent"));
        assert!(sent.starts_with(&end.received), "altered data came out");
        let whole = end.received.len() == sent.len();
        assert!(!changes.is_empty() || whole, "{failed}");
    }
}

/// Applies the changes whose positions are in these bytes, which begin at `from` in the stream.
fn change(bytes: &mut Vec<u8>, from: usize, changes: &[u8]) {
    for change in changes.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        let Some(at) = place.checked_sub(from).filter(|at| *at < bytes.len()) else { continue };
        match change[2] {
            0 => drop(bytes.remove(at)),
            1 => bytes.insert(at, 0),
            2 => bytes.truncate(at),
            3 => bytes.extend_from_within(at..),
            other => bytes[at] ^= other,
        }
    }
}
