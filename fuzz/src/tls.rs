//! TLS: a server and a client between which somebody sits.
//!
//! The first byte of the input chooses. 0: the rest is what the server receives; 1: what the client
//! receives. Otherwise a client and a server talk, and the rest is what happens to their bytes: three
//! bytes each, the place in what the client sends (two bytes), and what is done to the byte there.
//! Whatever happens, neither end panics, and no byte comes out that the other end did not put in.

use std::cell::Cell;
use std::ops::ControlFlow::Continue;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Duration;

use couplet::driver::{Outbox, Spares};
use couplet::layers::tls::{
    ClientTls, ClientTlsOptions, Identity, Roots, ServerTls, ServerTlsOptions, Tls, TlsWorld,
    in_world,
};
use couplet::layers::{Layers, Up};

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

/// The authority is gone; these are for this target only.
const AUTHORITY: &[u8] = include_bytes!("tls/authority.pem");
const SERVER: &[u8] = include_bytes!("tls/server.pem");

/// What the client sends, in two writes.
const SECRETS: [&[u8]; 2] = [b"the first secret", b"the second"];

static ENDS: LazyLock<(ServerTls, ClientTls)> = LazyLock::new(|| {
    let identity = Identity::from_pem(SERVER, SERVER).expect("a certificate");
    let server = ServerTlsOptions::default().identity(identity).resumption(false);
    let roots = Roots::from_pem(AUTHORITY).expect("a certificate");
    let client = ClientTlsOptions::default().roots(roots).resumption(false);
    (ServerTls::new(&server).expect("it works"), ClientTls::new(&client).expect("it works"))
});

/// A world in the year 2030, with random numbers that are the same each time.
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
/// If one of the promises above is broken.
pub fn tls(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let (server, client) = &*ENDS;
    let client = || client.layer("server.test", now()).expect("a name");
    in_world(Rc::new(World::default()), || match kind {
        0 => receive(|| server.layer(now()), rest),
        1 => receive(client, rest),
        _ => between(client(), server.layer(now()), rest),
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

/// An end that receives these bytes, whole and in pieces.
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

/// A client and a server, between which the client's bytes are changed.
fn between(client: Tls, server: Tls, changes: &[u8]) {
    let (mut client, mut server) = (End::new(client), End::new(server));
    let mut at = 0;
    for secret in SECRETS {
        client.above.extend(secret);
        loop {
            let (mut up, down) = (client.sent(), server.sent());
            if up.is_empty() && down.is_empty() {
                break;
            }
            let length = up.len();
            change(&mut up, at, changes);
            at += length;
            server.feed(&up);
            client.feed(&down);
        }
    }
    let sent = SECRETS.concat();
    assert!(sent.starts_with(&server.received), "altered data came out");
    let whole = server.received.len() == sent.len();
    assert!(!changes.is_empty() || whole, "{:?} {:?}", client.failed, server.failed);
}

/// Applies the changes that lie in these bytes, which begin at `from` in the stream.
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
