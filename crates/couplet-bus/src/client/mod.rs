//! The client of a server: keeps a connection to one of the servers, and its output and
//! subscriptions until then. A [`Dialect`] has the words of the protocol.
//!
//! Contract: 204, 206–207, 207b, 209, 230.

mod errors;
mod queue;
mod servers;
mod session;
mod settings;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use couplet_core::defer::Canceller;
use couplet_core::endpoints::TcpClient;
use couplet_core::services::Health;
use couplet_core::{ConnectOptions, DelayedCall, Reactor, Resolver, Transport, hooks};

use errors::ServerErrors;
pub(crate) use queue::{Outgoing, Queue, Sent};
pub(crate) use servers::{Server, Servers};
pub(crate) use session::{Conversation, Heard, SessionError};
pub(crate) use settings::{Settings, setters};

use session::Session;

use crate::bus::Bus;
use crate::core::{Backend, Core};
use crate::error::{NotConfirmed, PublishError};
use crate::event::{Counts, Event};
use crate::log::{Engine, LogLimits};
use crate::message::Message;
use crate::redis::{CommandError, Reply};
use crate::subject::{Pattern, SubjectError};

/// The protocol of a kind of servers, and the subscriptions in its words.
pub(crate) trait Dialect: Sized + 'static {
    /// The name of the servers, for people.
    const NAME: &'static str;
    /// The command that the server answers when it has processed everything before.
    const PING: &'static [u8];
    /// The same for the client's own checks of the server.
    const CHECK: &'static [u8];
    /// Whether the server answers all commands, each in its turn.
    const ANSWERS_ALL: bool;
    type Options;
    type Conversation: Conversation<Self>;
    /// Gets the answer to a command that is no message.
    type Call;

    fn settings(options: &Self::Options) -> &Settings;
    fn conversation(client: &Client<Self>) -> Self::Conversation;
    /// Encodes a message that was checked.
    fn encode(&self, message: &Message) -> Outgoing;
    /// Adds a subscription. Returns the command for an open connection.
    fn subscribe(&mut self, id: u64, pattern: &Pattern) -> Result<Option<Bytes>, SubjectError>;
    /// Removes a subscription. Returns the command for an open connection.
    fn unsubscribe(&mut self, id: u64) -> Option<Bytes>;
    /// Ends all subscriptions but this one, and keeps what their messages on the way need.
    fn end_subscriptions(&mut self, except: Option<u64>) -> Vec<Bytes>;
    /// The commands that restore the subscriptions on a new connection.
    fn subscriptions(&self) -> Vec<Bytes>;
    fn clear(&mut self);
    fn log_engine(
        client: &Client<Self>,
        bus: &Bus,
        name: &str,
        limits: &LogLimits,
    ) -> Rc<dyn Engine>;
    /// The connection was lost before the answer.
    fn fail(call: Self::Call);
    /// Sends a command of Redis.
    fn command(_: &Client<Self>, _command: Bytes, answer: Resolver<Reply>) {
        answer.errback(CommandError::NotRedis);
    }
}

pub(crate) struct Client<D: Dialect> {
    me: Weak<Client<D>>,
    core: Weak<Core>,
    reactor: Reactor,
    pub(crate) options: D::Options,
    state: RefCell<ClientState<D>>,
}

struct ClientState<D: Dialect> {
    link: Link,
    servers: Servers,
    dialect: D,
    queue: Queue<D>,
    /// The server's limit, once it is known.
    max_payload: usize,
    /// Attempts that failed, and connections that were lost early, since the last steady connection.
    failures: u32,
    /// The reason of the last failure or loss.
    why: Option<String>,
    /// When the connection was lost, until there is another one.
    lost_at: Option<Instant>,
    errors: ServerErrors,
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
        since: Instant,
    },
    /// Ends when the server has confirmed the sent messages; further ones wait for the next
    /// connection.
    Leaving {
        transport: Transport,
        since: Instant,
    },
}

impl<D: Dialect> Client<D> {
    pub(crate) fn new(
        core: &Weak<Core>,
        reactor: &Reactor,
        options: D::Options,
        dialect: D,
    ) -> Rc<Client<D>> {
        let settings = D::settings(&options);
        let state = ClientState {
            link: Link::Closed,
            servers: Servers::new(settings.servers.clone(), reactor),
            dialect,
            queue: Queue::default(),
            max_payload: settings.max_payload,
            failures: 0,
            why: None,
            lost_at: None,
            errors: ServerErrors::default(),
        };
        Rc::new_cyclic(|me| Client {
            me: me.clone(),
            core: core.clone(),
            reactor: reactor.clone(),
            options,
            state: RefCell::new(state),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        D::settings(&self.options)
    }

    pub(crate) fn core(&self) -> Option<Rc<Core>> {
        self.core.upgrade()
    }

    pub(crate) fn with_dialect<R>(&self, f: impl FnOnce(&mut D) -> R) -> R {
        f(&mut self.state.borrow_mut().dialect)
    }

    pub(crate) fn with_queue<R>(&self, f: impl FnOnce(&mut Queue<D>) -> R) -> R {
        f(&mut self.state.borrow_mut().queue)
    }

    pub(crate) fn report(&self, event: Event) {
        if let Some(core) = self.core.upgrade() {
            core.report(event);
        }
    }

    /// Begins an attempt.
    fn connect(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let server = self.state.borrow_mut().servers.next();
        let options = ConnectOptions::default().timeout(self.settings().connect_timeout);
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
        let is_first = state.lost_at.is_none();
        state.lost_at.get_or_insert(self.reactor.now());
        drop(state);
        match is_first {
            true => tracing::warn!("the bus is out of reach: {server}: {why}"),
            false => tracing::info!("the bus is still out of reach: {server}: {why}"),
        }
        let next = self.rest();
        self.report(Event::AttemptFailed { server: server.to_string(), why, next });
    }

    /// Waits for the next attempt.
    fn rest(&self) -> Duration {
        let (first, longest) = self.settings().back_off;
        let state = self.state.borrow();
        let rounds = state.failures / u32::try_from(state.servers.len()).unwrap_or(u32::MAX);
        drop(state);
        let delay = first.saturating_mul(2_u32.saturating_pow(rounds.min(31))).min(longest);
        let random = (hooks::random(&self.reactor) >> 32) as f64 / 4_294_967_296.0;
        let delay = delay.mul_f64(0.5 + random / 2.0);
        let me = self.me.clone();
        let next = self.reactor.call_later(delay, move || {
            me.upgrade().iter().for_each(|client| client.connect());
        });
        self.set_link(Link::Resting(next));
        delay
    }

    /// A connection was made, and begins with its login.
    pub(crate) fn connected(&self, transport: &Transport) {
        match self.state.borrow().link {
            Link::Connecting(_) => {}
            _ => return transport.abort_connection(),
        }
        self.set_link(Link::LoggingIn(transport.clone()));
    }

    /// A server names others, and its limit.
    pub(crate) fn learn(&self, others: Vec<Server>, max_payload: usize, from: &Server) {
        let mut state = self.state.borrow_mut();
        state.servers.learn(others, from);
        state.max_payload = self.settings().max_payload.min(max_payload);
    }

    /// The limit of the next server is not known.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(crate) fn forget_limit(&self) {
        self.state.borrow_mut().max_payload = self.settings().max_payload;
    }

    pub(crate) fn has_other_servers(&self) -> bool {
        self.state.borrow().servers.len() > 1
    }

    /// Sends nothing more on this connection but a PING, whose answer confirms everything before.
    /// Returns false if the connection is not in use.
    fn leave(&self, transport: &Transport) -> bool {
        let mut state = self.state.borrow_mut();
        let Link::Open { since, .. } = state.link else { return false };
        state.queue.send_ping(transport, None);
        drop(state);
        self.set_link(Link::Leaving { transport: transport.clone(), since });
        true
    }

    /// Whether the connection is to end and everything that was sent is confirmed.
    fn has_left(&self) -> bool {
        let state = self.state.borrow();
        matches!(state.link, Link::Leaving { .. }) && !state.queue.awaits_ping()
    }

    /// The server accepts us: subscriptions first, then the queued messages.
    pub(crate) fn logged_in(&self, transport: &Transport, server: &Server) {
        let Some(core) = self.core.upgrade() else { return };
        let mut state = self.state.borrow_mut();
        state.why = None;
        let lost_at = state.lost_at.take();
        let queued = state.queue.messages();
        for command in state.dialect.subscriptions() {
            state.queue.send_control(transport, command);
        }
        drop(state);
        let since = self.reactor.now();
        self.set_link(Link::Open { transport: transport.clone(), is_full: false, since });
        core.count(|counts| counts.connects += 1);
        let Counts { unconfirmed, missed, lost, .. } = core.counts();
        match lost_at.map(|lost_at| since.saturating_duration_since(lost_at)) {
            None => tracing::info!(%server, "connected to the bus"),
            Some(after) => tracing::info!(
                %server, ?after, queued, unconfirmed, lost, missed, "connected to the bus again"
            ),
        }
        core.report(Event::Connected { server: server.to_string() });
        self.pump();
    }

    /// Sends queued frames while the transport has room.
    fn pump(&self) {
        let mut state = self.state.borrow_mut();
        let ClientState { link, queue, .. } = &mut *state;
        let Link::Open { transport, is_full, .. } = link else { return };
        if *is_full || queue.pump(transport) {
            return;
        }
        *is_full = true;
        let writable = transport.writable();
        drop(state);
        let me = self.me.clone();
        writable
            .map(move |()| me.upgrade().iter().for_each(|client| client.writable()))
            // The session gets the loss of the connection.
            .add_errback(|_lost| Ok(()))
            .detach();
    }

    fn writable(&self) {
        if let Link::Open { is_full, .. } = &mut self.state.borrow_mut().link {
            *is_full = false;
        }
        self.pump();
    }

    /// Queues commands of subscriptions, which a new connection makes unnecessary.
    fn control(&self, change: impl FnOnce(&mut D) -> Vec<Bytes>) {
        let mut state = self.state.borrow_mut();
        let commands = change(&mut state.dialect);
        if let Link::Open { .. } = state.link {
            commands.into_iter().for_each(|command| state.queue.add_control(command));
        }
        drop(state);
        self.pump();
    }

    /// Queues a command that is no message. Returns the call if there is no connection, or no room.
    pub(crate) fn queue_call(&self, command: Bytes, call: D::Call) -> Result<(), D::Call> {
        let mut state = self.state.borrow_mut();
        let most = self.settings().queue;
        match state.link {
            Link::Open { .. } => state.queue.add_call(command, call, most)?,
            _ => return Err(call),
        }
        drop(state);
        self.pump();
        Ok(())
    }

    pub(crate) fn oversized(&self, pattern: String, size: u64) {
        let Some(core) = self.core.upgrade() else { return };
        core.count(|counts| counts.oversized += 1);
        core.report(Event::Oversized { pattern, size });
    }

    /// The server reported an error. A flood of them is counted, and reported in part.
    pub(crate) fn server_error(&self, text: &str) {
        let Some(core) = self.core.upgrade() else { return };
        core.count(|counts| counts.errors += 1);
        let reported = self.state.borrow_mut().errors.add(text, self.reactor.now());
        if let Some(text) = reported {
            core.report(Event::ServerError { text });
        }
    }

    pub(crate) fn ping(&self) {
        self.state.borrow_mut().queue.add_ping(None);
        self.pump();
    }

    /// A PING was answered.
    pub(crate) fn pong(&self, confirmed: Option<Resolver<()>>) {
        if let (Some(core), Some(confirmed)) = (self.core.upgrade(), confirmed) {
            core.push_flushed(confirmed);
        }
    }

    pub(crate) fn connection_lost(&self, server: &Server, why: String) {
        let mut state = self.state.borrow_mut();
        match state.link {
            Link::Closed | Link::Resting(_) => return,
            Link::Connecting(_) | Link::LoggingIn(_) => {
                drop(state);
                return self.attempt_failed(server, why);
            }
            Link::Open { since, .. } | Link::Leaving { since, .. } => {
                let is_steady = self.reactor.now() - since >= self.settings().steady_after;
                state.failures = if is_steady { 0 } else { state.failures.saturating_add(1) };
            }
        }
        let lost = state.queue.lost();
        state.why = Some(format!("{server}: {why}"));
        state.lost_at = Some(self.reactor.now());
        let queued = state.queue.messages();
        drop(state);
        self.rest();
        let unconfirmed: u64 = lost.iter().map(Sent::messages).sum();
        tracing::warn!(unconfirmed, queued, "the bus is out of reach: {server}: {why}");
        if let Some(core) = self.core.upgrade() {
            core.count(|counts| counts.unconfirmed += unconfirmed);
            core.report(Event::Disconnected { server: server.to_string(), why, unconfirmed });
            core.connection_lost();
        }
        fail::<D>(lost);
    }
}

/// A name that no other client gets.
pub(crate) fn unique(reactor: &Reactor) -> String {
    format!("{:016x}{:016x}", hooks::random(reactor), hooks::random(reactor))
}

/// Fails the flushes and calls that get no answer.
fn fail<D: Dialect>(lost: Vec<Sent<D::Call>>) {
    for sent in lost {
        match sent {
            Sent::Ping(Some(flush)) => flush.errback(NotConfirmed),
            Sent::Call(call) => D::fail(call),
            Sent::Messages(_) | Sent::Request(_) | Sent::Control | Sent::Ping(None) => {}
        }
    }
}

impl<D: Dialect> Backend for Client<D> {
    fn kind(&self) -> &'static str {
        D::NAME
    }

    fn open(&self) {
        self.connect();
    }

    fn unique(&self) -> String {
        unique(&self.reactor)
    }

    fn log_engine(&self, bus: &Bus, name: &str, limits: &LogLimits) -> Rc<dyn Engine> {
        D::log_engine(self, bus, name, limits)
    }

    fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let mut state = self.state.borrow_mut();
        let (size, most) = (message.size(), state.max_payload);
        if size > most {
            return Err(PublishError::TooLarge { size, most });
        }
        let message = state.dialect.encode(message);
        if !state.queue.add_message(message, self.settings().queue) {
            return Err(PublishError::Full);
        }
        drop(state);
        self.pump();
        Ok(())
    }

    fn subscribe(&self, id: u64, pattern: &Pattern) -> Result<(), SubjectError> {
        let command = self.with_dialect(|dialect| dialect.subscribe(id, pattern))?;
        self.control(|_| command.into_iter().collect());
        Ok(())
    }

    fn unsubscribe(&self, id: u64) {
        self.control(|dialect| dialect.unsubscribe(id).into_iter().collect());
    }

    fn end_subscriptions(&self, except: Option<u64>) {
        self.control(|dialect| dialect.end_subscriptions(except));
    }

    fn flush(&self, confirmed: Resolver<()>) {
        self.state.borrow_mut().queue.add_ping(Some(confirmed));
        self.pump();
    }

    fn command(&self, command: Bytes, answer: Resolver<Reply>) {
        D::command(self, command, answer);
    }

    fn close(&self) {
        let mut state = self.state.borrow_mut();
        let link = std::mem::replace(&mut state.link, Link::Closed);
        let queued = state.queue.messages();
        let failed = state.queue.clear();
        state.dialect.clear();
        drop(state);
        if queued > 0 {
            tracing::warn!(queued, "the bus is closed: the queued messages are lost");
            if let Some(core) = self.core.upgrade() {
                core.count(|counts| counts.lost += queued as u64);
            }
        }
        match link {
            Link::Closed => {}
            Link::Resting(next) => drop(next.cancel()),
            Link::Connecting(attempt) => attempt.cancel(),
            Link::LoggingIn(transport) => transport.abort_connection(),
            Link::Open { transport, .. } | Link::Leaving { transport, .. } => {
                transport.lose_connection();
            }
        }
        fail::<D>(failed);
    }

    fn health(&self) -> Health {
        let state = self.state.borrow();
        match (&state.link, &state.why) {
            (Link::Open { .. } | Link::Leaving { .. }, _) => Health::Ready,
            (Link::Closed, _) => Health::Failed("the bus is closed".to_owned()),
            (_, None) => Health::Starting,
            (_, Some(why)) => {
                let (name, queued) = (D::NAME, state.queue.messages());
                Health::Degraded(format!(
                    "not connected to {name} at {why}; {queued} messages are queued"
                ))
            }
        }
    }
}
