//! Runs one connection between our protocol and a Twisted peer, on a new loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::factory::Layered;
use couplet::{
    ConnectOptions, Loop, Protocol, Reactor, Reason, Result, Transport, UnixAddress, hooks,
};

use crate::certificates::{Certificates, NAME};
use crate::peer::{Peer, has_twisted};

/// Longer than any test takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(100);

/// The side that listens; the other one connects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Listener {
    Couplet,
    Twisted,
}

/// The outcome once both sides have ended.
pub(crate) struct Met {
    /// Why our connection ended.
    pub(crate) reason: Reason,
    /// The peer's output.
    pub(crate) said: Vec<String>,
}

/// Our protocol reports its lost connection here, which stops the loop.
#[derive(Clone, Default)]
pub(crate) struct End(Rc<RefCell<Vec<Reason>>>);

impl End {
    pub(crate) fn lost(&self, transport: &Transport, reason: &Reason) {
        self.0.borrow_mut().push(reason.clone());
        transport.reactor().stop();
    }
}

/// Tests a fact in both directions, if Twisted is available.
pub(crate) fn in_both_directions(fact: impl Fn(Listener)) {
    if has_twisted() {
        fact(Listener::Couplet);
        fact(Listener::Twisted);
    }
}

/// Tests a fact in both directions, over TCP and over TLS, if Twisted is available.
pub(crate) fn in_both_directions_and_over_tls(fact: impl Fn(Listener, &Over<'_>)) {
    let certificates = Certificates::new();
    in_both_directions(|listener| {
        fact(listener, &Over::Tcp);
        fact(listener, &Over::Tls(&certificates));
    });
}

/// The transport of a connection.
pub(crate) enum Over<'o> {
    Tcp,
    /// A UNIX socket at this path.
    Unix(&'o str),
    Tls(&'o Certificates),
    /// TCP, until the protocols start TLS.
    StartTls(&'o Certificates),
}

/// Runs the protocol that `build` returns against a peer playing `case`, until both have ended.
pub(crate) fn meet<P: Protocol>(
    listener: Listener,
    case: &str,
    build: impl FnOnce(&mut Peer, End) -> P,
) -> Met {
    meet_over(listener, &Over::Tcp, case, build)
}

/// Like [`meet`], over another transport than TCP.
pub(crate) fn meet_over<P: Protocol>(
    listener: Listener,
    over: &Over<'_>,
    case: &str,
    build: impl FnOnce(&mut Peer, End) -> P,
) -> Met {
    let end = End::default();
    let mut started = None;
    let run = Loop::new().expect("a loop").run(|reactor| {
        started = Some(introduce(reactor, listener, case, over, |peer| build(peer, end.clone()))?);
        let late = reactor.clone();
        reactor.call_later(LONG, move || late.stop());
        Ok(())
    });
    run.expect("a run");
    let peer = started.expect("it ran");
    let mut reasons = end.0.take();
    assert!(reasons.len() < 2, "lost twice: {reasons:?}");
    let reason = reasons.pop().expect("an end in time");
    Met { reason, said: peer.said.rest() }
}

/// Starts the peer; one side listens and the other connects.
fn introduce<P: Protocol>(
    reactor: &Reactor,
    listener: Listener,
    case: &str,
    over: &Over<'_>,
    build: impl FnOnce(&mut Peer) -> P,
) -> Result<Peer> {
    let slot: Rc<RefCell<Option<P>>> = Rc::default();
    let taken = slot.clone();
    let factory = move || taken.take().expect("one connection");
    let folder = match over {
        Over::Tcp | Over::Unix(_) => None,
        Over::Tls(certificates) | Over::StartTls(certificates) => Some(certificates.folder()),
    };
    let mut peer = match listener {
        Listener::Couplet => {
            let place = listen(reactor, over, factory)?;
            Peer::start(case, "client", &place, folder)
        }
        Listener::Twisted => {
            let place = if let Over::Unix(path) = over { path } else { "0" };
            let peer = Peer::start(case, "server", place, folder);
            let line = peer.said.next().expect("a line");
            let place = line.strip_prefix("listening ").expect("its place");
            connect(reactor, over, place, factory)?;
            peer
        }
    };
    slot.replace(Some(build(&mut peer)));
    Ok(peer)
}

/// Listens; returns the port's number, or the path.
fn listen<P: Protocol>(
    reactor: &Reactor,
    over: &Over<'_>,
    factory: impl FnMut() -> P + 'static,
) -> Result<String> {
    let any = "tcp:0:interface=127.0.0.1";
    let port = match over {
        Over::Tcp | Over::StartTls(_) => reactor.listen(any, factory)?,
        Over::Unix(path) => {
            reactor.listen(format!("unix:{path}"), factory)?;
            return Ok((*path).to_owned());
        }
        Over::Tls(certificates) => {
            let tls = certificates.server.clone();
            reactor.listen(any, Layered::new(factory, move |at, _| tls.layer(at.now())))?
        }
    };
    Ok(port.host().port().expect("a TCP port").to_string())
}

fn connect<P: Protocol>(
    reactor: &Reactor,
    over: &Over<'_>,
    place: &str,
    factory: impl FnMut() -> P + 'static,
) -> Result<()> {
    let host = "127.0.0.1";
    match over {
        Over::Tcp | Over::StartTls(_) => {
            hooks::connector(reactor, (host, place.parse()?), ConnectOptions::default(), factory)
        }
        Over::Unix(path) => {
            hooks::connector(reactor, UnixAddress::from(*path), ConnectOptions::default(), factory)
        }
        Over::Tls(certificates) => {
            let tls = certificates.client.clone();
            let layer = move |at: &Reactor, _: &_| tls.layer(NAME, at.now()).expect("a good name");
            hooks::connector(
                reactor,
                (host, place.parse()?),
                ConnectOptions::default(),
                Layered::new(factory, layer),
            )
        }
    };
    Ok(())
}

/// `count` bytes from offset `start` of a pattern that exposes lost or reordered bytes. `peer.py`
/// generates the same one.
pub(crate) fn pattern(start: usize, count: usize) -> Vec<u8> {
    (start..start + count).map(|at| (at % 251) as u8).collect()
}

/// Checks received bytes against the pattern.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Intake {
    pub(crate) received: usize,
    pub(crate) spoilt: bool,
}

impl Intake {
    pub(crate) fn take(&mut self, data: &[u8]) {
        self.spoilt |= data != pattern(self.received, data.len());
        self.received += data.len();
    }
}
