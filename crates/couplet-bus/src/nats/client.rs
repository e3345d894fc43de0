//! The client: keeps a connection to one of the servers, and its output and subscriptions until
//! then.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use couplet_core::defer::Canceller;
use couplet_core::endpoints::TcpClient;
use couplet_core::services::Health;
use couplet_core::{ConnectOptions, DelayedCall, Reactor, Resolver, Transport};

use super::info::Info;
use super::jetstream::JetStream;
use super::options::Options;
use super::queue::{Queue, sub, unsub};
use super::servers::{Server, Servers};
use super::session::Session;
use crate::bus::Bus;
use crate::core::{Backend, Core, Item};
use crate::error::{NotConfirmed, PublishError};
use crate::event::Event;
use crate::log::{Engine, LogLimits};
use crate::message::Message;
use crate::subject::Pattern;

pub(crate) struct Client {
    me: Weak<Client>,
    core: Weak<Core>,
    reactor: Reactor,
    pub(super) options: Options,
    state: RefCell<State>,
}

struct State {
    link: Link,
    servers: Servers,
    // Bound: one for each `Subscription` that the program holds.
    subscriptions: BTreeMap<u64, Pattern>,
    queue: Queue,
    /// The server's limit, once it is known.
    max_payload: usize,
    /// Attempts that failed since the last login.
    failures: u32,
    /// The reason of the last failure or loss.
    why: Option<String>,
}

enum Link {
    Closed,
    /// Until the next attempt.
    Resting(DelayedCall),
    Connecting(Canceller),
    LoggingIn(Transport),
    Open {
        transport: Transport,
        /// Whether the transport is full, and reports when it has room.
        is_full: bool,
    },
}

impl Client {
    pub(crate) fn new(core: &Weak<Core>, reactor: &Reactor, options: Options) -> Rc<Client> {
        let state = State {
            link: Link::Closed,
            servers: Servers::new(options.servers.clone(), reactor),
            subscriptions: BTreeMap::new(),
            queue: Queue::default(),
            max_payload: options.max_payload,
            failures: 0,
            why: None,
        };
        Rc::new_cyclic(|me| Client {
            me: me.clone(),
            core: core.clone(),
            reactor: reactor.clone(),
            options,
            state: RefCell::new(state),
        })
    }

    fn report(&self, event: Event) {
        if let Some(core) = self.core.upgrade() {
            core.report(event);
        }
    }

    /// Begins an attempt.
    fn connect(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let server = self.state.borrow_mut().servers.next();
        let options = ConnectOptions::default().timeout(self.options.connect_timeout);
        let endpoint = TcpClient::new(server.host.clone(), server.port).options(options);
        let connecting = self.reactor.connect_protocol(endpoint, Session::new(&me, server.clone()));
        let canceller = connecting.canceller();
        self.set_link(Link::Connecting(canceller));
        let failed = self.me.clone();
        connecting
            .map(drop)
            .add_errback(move |failure| {
                if let Some(client) = failed.upgrade() {
                    client.attempt_failed(&server, failure.to_string());
                }
                Ok(())
            })
            .detach();
    }

    /// Sets the state. The old one is dropped while nothing is borrowed.
    fn set_link(&self, link: Link) {
        drop(std::mem::replace(&mut self.state.borrow_mut().link, link));
    }

    fn attempt_failed(&self, server: &Server, why: String) {
        let mut state = self.state.borrow_mut();
        if let Link::Closed = state.link {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        state.why = Some(format!("{server}: {why}"));
        drop(state);
        let next = self.rest();
        self.report(Event::AttemptFailed { server: server.to_string(), why, next });
    }

    /// Waits for the next attempt.
    fn rest(&self) -> Duration {
        let (first, longest) = self.options.back_off;
        let state = self.state.borrow();
        let rounds = state.failures / u32::try_from(state.servers.len()).unwrap_or(u32::MAX);
        drop(state);
        let delay = first.saturating_mul(2_u32.saturating_pow(rounds.min(31))).min(longest);
        let random = (self.reactor.random() >> 32) as f64 / 4_294_967_296.0;
        let delay = delay.mul_f64(0.5 + random / 2.0);
        let me = self.me.clone();
        let next = self.reactor.call_later(delay, move || {
            me.upgrade().iter().for_each(|client| client.connect());
        });
        self.set_link(Link::Resting(next));
        delay
    }

    /// A connection was made, and begins with its login.
    pub(super) fn connected(&self, transport: &Transport) {
        match self.state.borrow().link {
            Link::Connecting(_) => {}
            _ => return transport.abort_connection(),
        }
        self.set_link(Link::LoggingIn(transport.clone()));
    }

    pub(super) fn learn(&self, info: &Info) {
        let mut state = self.state.borrow_mut();
        state.servers.learn(&info.connect_urls);
        if info.max_payload > 0 {
            state.max_payload = self.options.max_payload.min(info.max_payload);
        }
    }

    /// The server accepts us: subscriptions first, then the queued messages.
    pub(super) fn logged_in(&self, transport: &Transport, server: &Server) {
        let Some(core) = self.core.upgrade() else { return };
        let mut state = self.state.borrow_mut();
        (state.failures, state.why) = (0, None);
        for (id, pattern) in &state.subscriptions {
            transport.write(sub(*id, pattern));
        }
        drop(state);
        self.set_link(Link::Open { transport: transport.clone(), is_full: false });
        core.count(|counts| counts.connects += 1);
        core.report(Event::Connected { server: server.to_string() });
        self.pump();
    }

    /// Sends queued frames while the transport has room.
    fn pump(&self) {
        let mut state = self.state.borrow_mut();
        let State { link, queue, .. } = &mut *state;
        let Link::Open { transport, is_full } = link else { return };
        if *is_full || queue.pump(transport) {
            return;
        }
        *is_full = true;
        let drained = transport.drained();
        drop(state);
        let me = self.me.clone();
        drained
            .map(move |()| me.upgrade().iter().for_each(|client| client.drained()))
            // The session gets the loss of the connection.
            .add_errback(|_lost| Ok(()))
            .detach();
    }

    fn drained(&self) {
        if let Link::Open { is_full, .. } = &mut self.state.borrow_mut().link {
            *is_full = false;
        }
        self.pump();
    }

    pub(super) fn message_arrived(&self, id: u64, message: Message) {
        if let Some(core) = self.core.upgrade() {
            core.push(Item::Message { id, message });
        }
    }

    pub(super) fn oversized(&self, id: u64, size: u64) {
        let Some(core) = self.core.upgrade() else { return };
        core.count(|counts| counts.oversized += 1);
        let pattern = core.pattern(id).unwrap_or_default();
        core.report(Event::Oversized { pattern, size });
    }

    pub(super) fn server_error(&self, text: &str) {
        self.report(Event::ServerError { text: text.to_owned() });
    }

    pub(super) fn ping(&self) {
        self.state.borrow_mut().queue.add_ping(None);
        self.pump();
    }

    pub(super) fn pong(&self) {
        let pinged = self.state.borrow_mut().queue.pong();
        let confirmed = pinged.and_then(|pinged| pinged.confirmed);
        if let (Some(core), Some(confirmed)) = (self.core.upgrade(), confirmed) {
            core.push_flushed(confirmed);
        }
    }

    pub(super) fn connection_lost(&self, server: &Server, why: String) {
        let mut state = self.state.borrow_mut();
        match state.link {
            Link::Closed | Link::Resting(_) => return,
            Link::Connecting(_) | Link::LoggingIn(_) => {
                drop(state);
                return self.attempt_failed(server, why);
            }
            Link::Open { .. } => {}
        }
        let (unconfirmed, failed) = state.queue.lost();
        state.why = Some(format!("{server}: {why}"));
        drop(state);
        self.rest();
        if let Some(core) = self.core.upgrade() {
            core.count(|counts| counts.unconfirmed += unconfirmed);
            core.report(Event::Disconnected { server: server.to_string(), why, unconfirmed });
            core.connection_lost();
        }
        fail(failed);
    }
}

fn fail(flushes: Vec<Resolver<()>>) {
    flushes.into_iter().for_each(|flush| flush.errback(NotConfirmed));
}

impl Backend for Client {
    fn open(&self) {
        self.connect();
    }

    fn unique(&self) -> String {
        format!("{:016x}{:016x}", self.reactor.random(), self.reactor.random())
    }

    fn log_engine(&self, bus: &Bus, name: &str, limits: &LogLimits) -> Rc<dyn Engine> {
        Rc::new(JetStream::new(bus, name, limits, self.options.max_payload))
    }

    fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let mut state = self.state.borrow_mut();
        let (size, most) = (message.size(), state.max_payload);
        if size > most {
            return Err(PublishError::TooLarge { size, most });
        }
        if !state.queue.add_message(message, self.options.queue) {
            return Err(PublishError::Full);
        }
        drop(state);
        self.pump();
        Ok(())
    }

    fn subscribe(&self, id: u64, pattern: &Pattern) {
        let mut state = self.state.borrow_mut();
        state.subscriptions.insert(id, pattern.clone());
        if let Link::Open { .. } = state.link {
            state.queue.add_control(sub(id, pattern));
        }
        drop(state);
        self.pump();
    }

    fn unsubscribe(&self, id: u64) {
        let mut state = self.state.borrow_mut();
        let was_known = state.subscriptions.remove(&id).is_some();
        if let (Link::Open { .. }, true) = (&state.link, was_known) {
            state.queue.add_control(unsub(id));
        }
        drop(state);
        self.pump();
    }

    fn flush(&self, confirmed: Resolver<()>) {
        self.state.borrow_mut().queue.add_ping(Some(confirmed));
        self.pump();
    }

    fn close(&self) {
        let mut state = self.state.borrow_mut();
        let link = std::mem::replace(&mut state.link, Link::Closed);
        let failed = state.queue.clear();
        state.subscriptions.clear();
        drop(state);
        match link {
            Link::Closed => {}
            Link::Resting(next) => drop(next.cancel()),
            Link::Connecting(attempt) => attempt.cancel(),
            Link::LoggingIn(transport) => transport.abort_connection(),
            Link::Open { transport, .. } => transport.lose_connection(),
        }
        fail(failed);
    }

    fn health(&self) -> Health {
        let state = self.state.borrow();
        match (&state.link, &state.why) {
            (Link::Open { .. }, _) => Health::Ready,
            (Link::Closed, _) => Health::Failed("the bus is closed".to_owned()),
            (_, None) => Health::Starting,
            (_, Some(why)) => {
                let queued = state.queue.messages();
                Health::Degraded(format!(
                    "not connected to NATS at {why}; {queued} messages are queued"
                ))
            }
        }
    }
}
