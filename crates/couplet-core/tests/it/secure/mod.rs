//! TLS and layers on connections: both ends over the memory driver, rows 7, 13, 27, 63, 72, 73 and
//! 75 to 85 of the contract.

mod broken;
mod choosing;
mod closing;
mod ends;
mod handshake;
mod options;
mod oversized;
mod passing;
mod paused;
mod refused;
mod starttls;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::endpoints::TcpClient;
use couplet::factory::Layered;
use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions, Tls};
use couplet::layers::{Layer, LayerWaker, Outbox, PassThrough, Up};
use couplet::testing::{Manner, Memory, Network, Wire};
use couplet::{
    Address, ConnectOptions, Connection, Deferred, Loop, LoopOptions, Protocol, ProtocolExtension,
    Reactor, Reason, Transport,
};
use couplet_testkit_loops::authority::Authority;

use crate::suite::kit::LOOPBACK;

pub(crate) const NAME: &str = "couplet.test";

/// One end: records its callbacks, and runs the test's acts in them.
#[derive(Clone, Default)]
pub(crate) struct End(Rc<Seen>);

type Act = Box<dyn Fn(&Transport)>;

#[derive(Default)]
struct Seen {
    log: RefCell<Vec<String>>,
    received: RefCell<Vec<u8>>,
    transport: RefCell<Option<Transport>>,
    reason: RefCell<Option<Reason>>,
    acts: RefCell<Vec<(&'static str, Act)>>,
    /// Keeps the connection open after the peer's end of stream.
    aware: bool,
}

impl End {
    pub(crate) fn aware() -> End {
        End(Rc::new(Seen { aware: true, ..Seen::default() }))
    }

    /// Runs `act` in the callbacks of this name.
    pub(crate) fn on(self, callback: &'static str, act: impl Fn(&Transport) + 'static) -> End {
        self.0.acts.borrow_mut().push((callback, Box::new(act)));
        self
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.0.log.borrow().clone()
    }

    pub(crate) fn received(&self) -> Vec<u8> {
        self.0.received.borrow().clone()
    }

    pub(crate) fn transport(&self) -> Transport {
        self.0.transport.borrow().clone().expect("the connection was made")
    }

    pub(crate) fn is_made(&self) -> bool {
        self.0.transport.borrow().is_some()
    }

    pub(crate) fn reason(&self) -> Reason {
        self.0.reason.borrow().clone().unwrap_or_else(|| panic!("not lost: {:?}", self.log()))
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.0.reason.borrow().is_some()
    }

    fn note(&self, callback: &str, transport: &Transport) {
        self.0.log.borrow_mut().push(callback.to_owned());
        for (name, act) in &*self.0.acts.borrow() {
            if *name == callback {
                act(transport);
            }
        }
    }
}

impl Protocol for End {
    fn connection_made(&mut self, transport: &Transport) {
        *self.0.transport.borrow_mut() = Some(transport.clone());
        self.note("made", transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.received.borrow_mut().extend_from_slice(data);
        self.note("data", transport);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.note("read_closed", transport);
        if !self.0.aware {
            transport.lose_connection();
        }
    }

    fn draining(&mut self, transport: &Transport) {
        self.note("draining", transport);
    }

    fn write_closed(&mut self, transport: &Transport) {
        self.note("write_closed", transport);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let before = self.0.reason.replace(Some(reason.clone()));
        assert!(before.is_none(), "a connection is lost once");
        self.note("lost", transport);
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for End {
    fn handshake_completed(&mut self, transport: &Transport) {
        self.note("secure", transport);
    }
}

/// A loop in memory, with the certificates of a server and its clients.
pub(crate) struct Rig {
    pub(crate) l: Loop,
    pub(crate) reactor: Reactor,
    pub(crate) network: Network,
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
    pub(crate) authority: Authority,
}

impl Rig {
    pub(crate) fn new(manner: Manner) -> Rig {
        let (driver, network) = Memory::new(manner, 5);
        let l = Loop::with_driver(driver, LoopOptions::default());
        let authority = Authority::new();
        let options = ServerTlsOptions::new(authority.identity(NAME));
        let server = ServerTls::new(&options).expect("a configuration that works");
        let client = ClientTls::new(&ClientTlsOptions::default().roots(authority.roots()));
        let client = client.expect("a configuration that works");
        Rig { reactor: l.reactor(), l, network, server, client, authority }
    }

    pub(crate) fn both() -> [Rig; 2] {
        [Manner::Readiness, Manner::Completion].map(Rig::new)
    }

    /// Each of the cases with each of [`both`](Rig::both).
    pub(crate) fn each<T: Clone>(
        cases: impl IntoIterator<Item = T>,
    ) -> impl Iterator<Item = (T, Rig)> {
        cases.into_iter().flat_map(|case| Rig::both().map(|rig| (case.clone(), rig)))
    }

    pub(crate) fn turn(&mut self) {
        for _ in 0..200 {
            self.l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        }
    }

    pub(crate) fn turn_some(&mut self) {
        for _ in 0..5 {
            self.l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.network.advance(by);
        self.turn();
    }

    /// A TLS port whose first connection is `end`.
    pub(crate) fn listen(&self, end: &End) -> Address {
        self.listen_over(end, accepting(&self.server))
    }

    pub(crate) fn listen_over<L: Layer + 'static>(
        &self,
        end: &End,
        layer: impl FnMut(&Reactor, &Address) -> L + 'static,
    ) -> Address {
        let end = end.clone();
        let factory = Layered::new(move || end.clone(), layer);
        self.reactor.listen(LOOPBACK, factory).expect("a free port").host()
    }

    pub(crate) fn connect(&self, to: &Address, end: &End) -> Deferred<Connection<End>> {
        self.connect_with(to, end, &self.client.clone())
    }

    pub(crate) fn connect_with(
        &self,
        to: &Address,
        end: &End,
        tls: &ClientTls,
    ) -> Deferred<Connection<End>> {
        let (end, tls) = (end.clone(), tls.clone());
        let layer = move |reactor: &Reactor, _: &Address| {
            tls.layer(NAME, reactor.now()).expect("a good name")
        };
        let factory = Layered::new(move || end.clone(), layer);
        let to = to.socket_addr().expect("a TCP address");
        let options = ConnectOptions::default();
        self.reactor
            .connect(TcpClient::new(to.ip().to_string(), to.port()).options(options), factory)
    }

    pub(crate) fn listen_in_clear(&self, end: &End) -> Address {
        let end = end.clone();
        self.reactor.listen(LOOPBACK, move || end.clone()).expect("a free port").host()
    }

    /// The peer's end of a new connection to a port.
    pub(crate) fn wire_to(&mut self, port: &Address) -> Wire {
        let wire = self.network.connect(port.clone()).expect("the port listens");
        self.turn();
        wire
    }

    /// The peer's end of a connection of `end` without TLS.
    pub(crate) fn wire(&mut self, end: &End) -> Wire {
        self.wire_to(&self.listen_in_clear(end))
    }

    /// The peer's end of a connection of `end` over this layer.
    pub(crate) fn wire_over<L: Layer + 'static>(
        &mut self,
        end: &End,
        layer: impl FnMut(&Reactor, &Address) -> L + 'static,
    ) -> Wire {
        self.wire_to(&self.listen_over(end, layer))
    }

    /// The peer sends bytes, and the loop gets them. Returns how many of them had room.
    pub(crate) fn push(&mut self, wire: &Wire, bytes: &[u8]) -> usize {
        let pushed = wire.push(bytes);
        self.turn();
        pushed
    }

    pub(crate) fn fin(&mut self, wire: &Wire) {
        wire.fin();
        self.turn();
    }

    pub(crate) fn close(&mut self, wire: &Wire) {
        wire.close();
        self.turn();
    }

    pub(crate) fn reset(&mut self, wire: &Wire) {
        wire.reset();
        self.turn();
    }

    /// The numbers of connections of the first port that never opened, and of open ones.
    pub(crate) fn not_opened_and_open(&mut self) -> (u64, usize) {
        let snapshot = self.l.snapshot();
        (snapshot.ports[0].counters.not_opened, snapshot.connections.len())
    }

    pub(crate) fn starting_server(&self) -> End {
        let tls = self.server.clone();
        End::default().on("made", move |transport| {
            transport.start_tls(&tls).expect("it may still write");
        })
    }

    pub(crate) fn starting_client(&self) -> End {
        let tls = self.client.clone();
        End::default().on("made", move |transport| {
            transport.start_tls((&tls, NAME)).expect("a good name");
        })
    }

    pub(crate) fn join_in_clear(&mut self, server: &End, client: &End) {
        let port = self.listen_in_clear(server).port().expect("a TCP port");
        let end = client.clone();
        self.reactor.connect(("127.0.0.1", port), move || end.clone()).detach();
        self.turn();
    }

    pub(crate) fn joined(&mut self) -> (End, End) {
        let (server, client) = (End::default(), End::default());
        self.join(&server, &client);
        (server, client)
    }

    pub(crate) fn join(&mut self, server: &End, client: &End) {
        let port = self.listen(server);
        self.connect(&port, client).detach();
        self.turn();
        assert!(server.is_made() && client.is_made(), "{:?} {:?}", server.log(), client.log());
    }
}

pub(crate) fn accepting(tls: &ServerTls) -> impl FnMut(&Reactor, &Address) -> Tls + use<> {
    let tls = tls.clone();
    move |reactor, _| tls.layer(reactor.now())
}

type Hook = Box<dyn Fn(&str) -> Option<Reason>>;

/// Passes bytes on, and calls its hook with the name of each call. If the hook returns a reason in
/// `up`, the layer fails with that reason.
pub(crate) struct Hooked {
    hook: Hook,
    inner: PassThrough,
    deadline: Option<Instant>,
}

impl Hooked {
    pub(crate) fn new(hook: impl Fn(&str) -> Option<Reason> + 'static) -> Hooked {
        Hooked { hook: Box::new(hook), inner: PassThrough::default(), deadline: None }
    }

    pub(crate) fn with_deadline(mut self, deadline: Instant) -> Hooked {
        self.deadline = Some(deadline);
        self
    }
}

impl Layer for Hooked {
    fn attach(&mut self, _: &dyn Fn() -> LayerWaker) {
        (self.hook)("attach");
    }

    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        match (self.hook)(if below.is_empty() { "up without bytes" } else { "up" }) {
            Some(reason) => Up::Failed(reason),
            None => self.inner.up(below, now),
        }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        if !above.is_empty() {
            (self.hook)("down");
        }
        self.inner.down(above, below, now);
    }

    fn ended(&mut self) {
        (self.hook)("ended");
        self.inner.ended();
    }

    fn close(&mut self, _: &mut Outbox) {
        (self.hook)("close");
    }

    fn is_open(&self) -> bool {
        (self.hook)("is_open");
        true
    }

    fn held(&self) -> usize {
        (self.hook)("held");
        0
    }

    fn deadline(&self) -> Option<Instant> {
        (self.hook)("deadline");
        self.deadline
    }

    fn timed_out(&mut self, _: Instant) {
        (self.hook)("timed_out");
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            (self.hook)("drop");
        }
    }
}
