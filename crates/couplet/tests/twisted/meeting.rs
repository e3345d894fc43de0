//! Runs one connection between our protocol and a Twisted peer, on its own loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::{Loop, Protocol, Reactor, Reason, Result, Transport};

use crate::peer::{Peer, has_twisted};

/// Longer than any test takes: whatever reaches it hangs.
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
    /// What the peer printed.
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

/// Runs the protocol that `build` makes against a peer playing `case`, until both have ended.
pub(crate) fn meet<P: Protocol>(
    listener: Listener,
    case: &str,
    build: impl FnOnce(&mut Peer, End) -> P,
) -> Met {
    meet_at(listener, case, None, build)
}

/// [`meet`], over a UNIX socket if there is a path.
pub(crate) fn meet_at<P: Protocol>(
    listener: Listener,
    case: &str,
    path: Option<&str>,
    build: impl FnOnce(&mut Peer, End) -> P,
) -> Met {
    let end = End::default();
    let mut started = None;
    let run = Loop::new().expect("a loop").run(|reactor| {
        started = Some(introduce(reactor, listener, case, path, |peer| build(peer, end.clone()))?);
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
    path: Option<&str>,
    build: impl FnOnce(&mut Peer) -> P,
) -> Result<Peer> {
    let slot: Rc<RefCell<Option<P>>> = Rc::default();
    let taken = slot.clone();
    let factory = move || taken.take().expect("one connection");
    let mut peer = match listener {
        Listener::Couplet => {
            let any =
                path.map_or("tcp:0:interface=127.0.0.1".to_owned(), |path| format!("unix:{path}"));
            let port = reactor.listen(any, factory)?;
            let number = port.host().port().map(|port| port.to_string());
            Peer::start(case, "client", &number.or(path.map(str::to_owned)).expect("one of them"))
        }
        Listener::Twisted => {
            let peer = Peer::start(case, "server", path.unwrap_or("0"));
            let line = peer.said.next().expect("a line");
            let port = line.strip_prefix("listening ").expect("its port");
            match path {
                Some(path) => drop(reactor.connect_unix(path, factory)),
                None => drop(reactor.connect_tcp("127.0.0.1", port.parse()?, factory)),
            }
            peer
        }
    };
    slot.replace(Some(build(&mut peer)));
    Ok(peer)
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
