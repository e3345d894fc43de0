//! Two TLS layers back to back in memory, without a socket.

mod bad;
mod good;
mod stacked;

use std::ops::ControlFlow::{self, Break, Continue};
use std::rc::Rc;

use super::*;
use crate::driver::Spares;
use crate::layers::Layers;
use crate::testing::every_split;
use couplet_testkit_loops::authority::{Authority, FromFile};

impl FromFile for Roots {
    fn from_file(pem: &[u8]) -> Roots {
        Roots::from_pem(pem).expect("our own certificate")
    }
}

impl FromFile for Identity {
    fn from_file(pem: &[u8]) -> Identity {
        Identity::from_pem(pem, pem).expect("our own certificate")
    }
}

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn start() -> Instant {
    Instant::now()
}

/// One end: a stack with a TLS layer, and its output.
struct End {
    layers: Layers,
    above: Outbox,
    received: Vec<u8>,
    open: bool,
    closed: bool,
    failed: Option<Reason>,
    info: Option<TlsInfo>,
}

/// A TLS layer that a test can inspect while it is in a stack.
struct SharedTls(Rc<std::cell::RefCell<Tls>>, Vec<u8>);

impl Layer for SharedTls {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        let mut tls = self.0.borrow_mut();
        let mut rest = *below;
        let up = match tls.up(&mut rest, now) {
            Up::Data(data) => {
                self.1 = data.to_vec();
                Up::Data(&self.1)
            }
            Up::Nothing | Up::Last(_) => Up::Nothing,
            Up::Open(addresses) => Up::Open(addresses),
            Up::Closed => Up::Closed,
            Up::Failed(reason) => Up::Failed(reason),
        };
        *below = &below[below.len() - rest.len()..];
        up
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        self.0.borrow_mut().down(above, below, now);
    }

    fn ended(&mut self) {
        self.0.borrow_mut().ended();
    }

    fn close(&mut self, below: &mut Outbox) {
        self.0.borrow_mut().close(below);
    }

    fn is_open(&self) -> bool {
        self.0.borrow().is_open()
    }

    fn held(&self) -> usize {
        self.0.borrow().held()
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.borrow().deadline()
    }

    fn timed_out(&mut self, now: Instant) {
        self.0.borrow_mut().timed_out(now);
    }
}

impl End {
    fn new(tls: Tls) -> (End, Rc<std::cell::RefCell<Tls>>) {
        let spares = Rc::new(Spares::default());
        let tls = Rc::new(std::cell::RefCell::new(tls));
        let layers = Layers::new(SharedTls(tls.clone(), Vec::new()), &spares);
        let end = End {
            layers,
            above: Outbox::new(spares),
            received: Vec::new(),
            open: false,
            closed: false,
            failed: None,
            info: None,
        };
        (end, tls)
    }

    fn feed(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        self.feed_until(bytes, |_| Continue(()))
    }

    /// Feeds bytes until `stop`, which gets the number of received bytes, breaks.
    fn feed_until(
        &mut self,
        bytes: &[u8],
        stop: impl Fn(usize) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let End { layers, received, open, closed, failed, .. } = self;
        layers.feed(bytes, start(), |up| {
            match up {
                Up::Nothing | Up::Last(_) => panic!("nothing came up"),
                Up::Data(data) => {
                    assert!(*open && !*closed, "data out of turn");
                    received.extend_from_slice(data);
                }
                Up::Open(_) => assert!(!mem::replace(open, true), "opened twice"),
                Up::Closed => assert!(!mem::replace(closed, true), "closed twice"),
                Up::Failed(reason) => assert!(failed.replace(reason).is_none(), "failed twice"),
            }
            stop(received.len())
        })
    }

    /// All pending output for the socket.
    fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        loop {
            self.layers.down(&mut self.above, start());
            let bottom = self.layers.bottom();
            if bottom.is_empty() {
                return sent;
            }
            while !bottom.is_empty() {
                let n = bottom.first().len();
                sent.extend_from_slice(bottom.first());
                bottom.advance(n);
            }
        }
    }

    /// The TLS error of the failed stack.
    fn error(&self) -> &TlsError {
        let failed = self.failed.as_ref().expect("it failed");
        failed.downcast_ref().unwrap_or_else(|| panic!("not a TLS error: {failed:?}"))
    }
}

/// A client and a server, connected directly.
struct Two {
    client: End,
    server: End,
    tls: [Rc<std::cell::RefCell<Tls>>; 2],
}

impl Two {
    fn new(client: Tls, server: Tls) -> Two {
        let ((client, one), (server, two)) = (End::new(client), End::new(server));
        Two { client, server, tls: [one, two] }
    }

    /// Moves bytes in both directions, in pieces, until both ends are idle.
    fn run(&mut self, piece: usize) {
        loop {
            let (up, down) = (self.client.sent(), self.server.sent());
            if up.is_empty() && down.is_empty() {
                break;
            }
            for bytes in up.chunks(piece) {
                assert!(self.server.feed(bytes).is_continue());
            }
            for bytes in down.chunks(piece) {
                assert!(self.client.feed(bytes).is_continue());
            }
        }
        for (end, tls) in [&mut self.client, &mut self.server].into_iter().zip(&self.tls) {
            end.info = tls.borrow().info().cloned();
        }
    }
}

const NAME: &str = "server.test";

fn server(options: ServerTlsOptions) -> ServerTls {
    ServerTls::new(&options).expect("a configuration that works")
}

fn client(options: ClientTlsOptions) -> ClientTls {
    ClientTls::new(&options).expect("a configuration that works")
}

fn two(client: &ClientTls, server: &ServerTls) -> Two {
    Two::new(client.layer(NAME, start()).expect("a name"), server.layer(start()))
}

/// [`two`], after an exchange of all their bytes.
fn met(client: &ClientTls, server: &ServerTls) -> Two {
    let mut two = two(client, server);
    two.run(usize::MAX);
    two
}

/// The options of a client that trusts this authority.
fn trusting(authority: &Authority) -> ClientTlsOptions {
    ClientTlsOptions::default().roots(authority.roots())
}

/// The options of a server with a certificate of this authority.
fn certified(authority: &Authority) -> ServerTlsOptions {
    ServerTlsOptions::new(authority.identity(NAME))
}

/// A client and a server with compatible settings.
fn good() -> (ClientTls, ServerTls) {
    let authority = Authority::new();
    (client(trusting(&authority)), server(certified(&authority)))
}

/// A client and a server that have completed their handshake.
fn open() -> Two {
    let (client, server) = good();
    met(&client, &server)
}

/// Like [`good`], restricted to one version.
fn good_of(version: TlsVersion) -> (ClientTls, ServerTls) {
    let authority = Authority::new();
    (client(trusting(&authority).versions(version, version)), server(certified(&authority)))
}
