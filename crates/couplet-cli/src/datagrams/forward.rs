//! `couplet forward` over UDP: each client gets its own port towards the server, so that answers
//! can be routed back. The port closes after an idle period: UDP has no end of stream to forward.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use couplet::endpoints::UdpClient;
use couplet::{Address, Datagram, DatagramPort, DatagramProtocol, DatagramTransport};

use super::address_of;
use crate::exit::Exit;
use crate::output;
use crate::server::{self, SessionPermit, Threads};

/// Default of `--idle-timeout`.
const IDLE: Duration = Duration::from_secs(60);

/// Datagrams forwarded in all threads.
#[derive(Default)]
struct Totals {
    clients: AtomicU64,
    /// Open sessions.
    open: Arc<AtomicUsize>,
    turned_away: AtomicU64,
    there: AtomicU64,
    back: AtomicU64,
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// The protocol of the port that faces the clients.
struct ClientPort {
    server: SocketAddr,
    idle: Duration,
    /// Most concurrent clients.
    most: usize,
    // Bound: at most `--max-connections`, or as many as there are descriptors.
    sessions: BTreeMap<Address, Session>,
    totals: Arc<Totals>,
}

struct Session {
    port: DatagramPort<ReplyForwarder>,
    /// Time of the last datagram in either direction.
    last_activity: Rc<Cell<Instant>>,
    _place: SessionPermit,
}

/// The protocol of one client's port towards the server.
struct ReplyForwarder {
    clients: DatagramTransport,
    client: Address,
    /// The local address to which the client sends.
    known: Rc<RefCell<Option<IpAddr>>>,
    last_activity: Rc<Cell<Instant>>,
    totals: Arc<Totals>,
}

impl DatagramProtocol for ReplyForwarder {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self.last_activity.set(transport.reactor().now());
        let mut asked = Datagram::new(&[], &self.client);
        asked.to = *self.known.borrow();
        if self.clients.answer(&asked, datagram.data).is_ok() {
            count(&self.totals.back);
        }
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) {
        let server = transport.peer();
        tracing::info!(client = %self.client, ?server, "the server's port is closed");
    }
}

impl ClientPort {
    /// The client's session, created if necessary; `None` if there are too many.
    fn session(&mut self, transport: &DatagramTransport, from: &Datagram<'_>) -> Option<&Session> {
        if !self.sessions.contains_key(&from.from) {
            let Some(place) = SessionPermit::acquire(&self.totals.open, self.most) else {
                count(&self.totals.turned_away);
                return None;
            };
            let last_activity = Rc::new(Cell::new(transport.reactor().now()));
            let answers = ReplyForwarder {
                clients: transport.clone(),
                client: from.from.clone(),
                known: Rc::new(RefCell::new(from.to)),
                last_activity: last_activity.clone(),
                totals: self.totals.clone(),
            };
            let port = match transport.reactor().connect_udp(self.server, answers) {
                Ok(port) => port,
                Err(error) => {
                    tracing::warn!(client = %from.from, %error, "rejected a client");
                    count(&self.totals.turned_away);
                    return None;
                }
            };
            count(&self.totals.clients);
            tracing::info!(client = %from.from, "a new client");
            self.sessions.insert(from.from.clone(), Session { port, last_activity, _place: place });
        }
        self.sessions.get(&from.from)
    }

    /// Closes idle sessions and schedules the next sweep.
    fn sweep(&mut self, transport: &DatagramTransport) {
        let (now, idle) = (transport.reactor().now(), self.idle);
        self.sessions.retain(|client, session| {
            let is_live = now.saturating_duration_since(session.last_activity.get()) < idle;
            if !is_live {
                tracing::info!(%client, "an idle client");
                drop(session.port.stop_listening());
            }
            is_live
        });
        transport.port::<Self>().call_later(idle / 4, Self::sweep);
    }
}

impl DatagramProtocol for ClientPort {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.sweep(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let totals = self.totals.clone();
        let Some(session) = self.session(transport, datagram) else { return };
        session.last_activity.set(transport.reactor().now());
        if session.port.send(datagram.data).is_ok() {
            count(&totals.there);
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let [clients, there, back] = [&self.clients, &self.there, &self.back].map(number);
        write!(f, "{clients} clients, {there} datagrams to the server, {back} back")?;
        match number(&self.turned_away) {
            0 => Ok(()),
            n => write!(f, ", {n} turned away"),
        }
    }
}

pub(crate) fn run(
    (listen, server): (SocketAddr, &UdpClient),
    idle: Option<Duration>,
    most: Option<usize>,
    threads: Threads,
) -> Result<(), Exit> {
    let server = address_of(server)?;
    let most = server::max_sessions(most, 1);
    let totals = Arc::<Totals>::default();
    super::run(&[listen], threads, || ClientPort {
        server,
        idle: idle.unwrap_or(IDLE),
        most,
        sessions: BTreeMap::new(),
        totals: totals.clone(),
    })?;
    output::print_to_stderr(&totals.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet::sim::Sim;

    #[test]
    fn a_client_that_only_listens_is_not_idle() {
        let secs = Duration::from_secs;
        let mut sim = Sim::new(1);
        let (near, far) = (sim.bare_host("client"), sim.bare_host("server"));
        let client = sim.datagrams(near, 5000).expect("a free port");
        let server = sim.datagrams(far, 53).expect("a free port");
        let (to, totals) = (server.address(), Arc::<Totals>::default());
        let counted = totals.clone();
        let between = sim.host("forward", move |reactor| {
            let port = ClientPort {
                server: to,
                idle: secs(60),
                most: 10,
                sessions: BTreeMap::new(),
                totals: counted.clone(),
            };
            reactor.listen_udp(([0, 0, 0, 0], 9000).into(), port)?;
            Ok(())
        });
        sim.run_for(secs(1)).expect("the world holds");
        client.send_to(sim.at(between, 9000), b"tell me").expect("it is open");
        sim.run_for(secs(1)).expect("the world holds");
        let (asked_by, _) = server.take().expect("it was forwarded");
        for n in 0..10 {
            server.send_to(asked_by, b"news").expect("it is open");
            sim.run_for(secs(50)).expect("the world holds");
            assert!(client.take().is_some(), "after {n} answers");
        }
        sim.run_for(secs(100)).expect("the world holds");
        server.send_to(asked_by, b"news").expect("it is open");
        sim.run_for(secs(1)).expect("the world holds");
        assert_eq!(client.take(), None, "the session has ended");
        assert_eq!(totals.open.load(Ordering::Relaxed), 0);
    }
}
