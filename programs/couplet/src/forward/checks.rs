//! `--check`: each loop connects to each server from time to time, and closes the connection.
//!
//! The checks belong to a port: they begin when it opens and end when it closes.
//!
//! Contract: 145e.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::Canceller;
use couplet::factory::ErasedFactory;
use couplet::transport::Timeout;
use couplet::{Address, Deferred, LoopingCall, Protocol, Reactor, Reason, Resolver, Transport};

use super::{FIN_TIMEOUT, Forwarder};

/// Endpoints without a server that could be checked.
const UNCHECKED: [&str; 4] = ["process", "stdio", "fd", "serial"];
/// Endpoints that are placed before others.
const WRAPPERS: [&str; 4] = ["haproxy", "log", "throttle", "tls"];

/// False if a connect to the endpoint with this name says nothing about a server.
pub(super) fn can_check(name: &str) -> bool {
    let kind = name.split(':').find(|part| !WRAPPERS.contains(part));
    kind.is_none_or(|kind| !UNCHECKED.contains(&kind))
}

/// Cancels the checks of a port.
#[derive(Default)]
pub(super) struct Checks {
    running: Vec<Canceller>,
}

impl Checks {
    /// Checks each server now and at this interval, independently of the others.
    pub(super) fn start(forward: &Rc<Forwarder>, reactor: &Reactor, interval: Duration) -> Checks {
        let servers = 0..forward.servers.len();
        Checks { running: servers.map(|n| repeat(forward, reactor, n, interval)).collect() }
    }

    /// Stops the timers, and closes the connections of checks in progress.
    pub(super) fn stop(&mut self) {
        for check in self.running.drain(..) {
            check.cancel();
        }
    }
}

fn repeat(
    forward: &Rc<Forwarder>,
    reactor: &Reactor,
    server: usize,
    interval: Duration,
) -> Canceller {
    let (forward, checking) = (forward.clone(), reactor.clone());
    let checks = LoopingCall::new(reactor, move || check(&forward, &checking, server));
    let ended = checks.start(interval);
    let canceller = ended.canceller();
    ended.add_both(|_| Ok(())).detach();
    canceller
}

/// Connects to a server, and notes whether it can be reached. Fires once the connection is closed.
fn check(forward: &Rc<Forwarder>, reactor: &Reactor, server: usize) -> Deferred<()> {
    let closed = Closed::default();
    let mut probe = Some(Probe { closed: closed.clone(), closing: None });
    let endpoint = forward.servers[server].endpoint.clone();
    let mut connecting =
        reactor.connect(endpoint, ErasedFactory::new(move |_: &Address| probe.take()).for_check());
    if let Some(timeout) = forward.connect_timeout {
        connecting = connecting.add_timeout(reactor, timeout);
    }
    let (forward, reactor) = (forward.clone(), reactor.clone());
    let noted = connecting.add_both(move |connected| {
        match connected {
            Ok(_) => forward.mark_up(server),
            Err(failure) if failure.is_cancelled() || reactor.is_stopping() => {}
            Err(failure) => forward.mark_down(server, &failure, reactor.now()),
        }
        Ok(())
    });
    noted.then(move |()| closed.take().unwrap_or_else(|| Deferred::succeed(())))
}

/// Fires at the end of a probe's connection; empty before the connection is made.
type Closed = Rc<RefCell<Option<Deferred<()>>>>;

/// The protocol of a check: closes its connection immediately.
struct Probe {
    closed: Closed,
    closing: Option<Resolver<()>>,
}

impl Protocol for Probe {
    fn connection_made(&mut self, transport: &Transport) {
        let aborting = transport.clone();
        let (closed, closing) = Deferred::with_canceller(move |_| aborting.abort_connection());
        self.closed.replace(Some(closed));
        self.closing = Some(closing);
        transport.set_timeout(Timeout::Fin, Some(FIN_TIMEOUT));
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, _: &Reason) {
        if let Some(closing) = self.closing.take() {
            closing.callback(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_and_devices_cannot_be_checked() {
        for (name, meant) in [
            ("tcp:process:80", true),
            ("unix:/run/app.sock", true),
            ("haproxy:tls:tcp:localhost:80", true),
            ("process:/bin/cat", false),
            ("haproxy:throttle:process:/bin/cat:read=1", false),
            ("stdio:", false),
            ("log:serial:/dev/ttyS0", false),
            ("fd:3", false),
        ] {
            assert_eq!(can_check(name), meant, "{name}");
        }
    }
}
