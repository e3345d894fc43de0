//! One connection to a server: the time for its login, its PINGs, and its end. A [`Conversation`] has
//! the words.
//!
//! Contract: 206, 207b–209, 213.

use std::rc::{Rc, Weak};

use std::net::IpAddr;

use couplet_core::{Protocol, ProtocolExtension, Reason, Result, Transport};

use super::{Client, Dialect, Server};

/// PINGs without an answer after which a connection is dropped.
const MAX_UNANSWERED: u32 = 2;
/// Lookups in a row without the connection's address after which the name has moved.
const MOVED: u32 = 2;

/// A connection is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("cannot log in: the server did not answer in time")]
    LoginTimeout,
    #[error("cannot log in: {0}")]
    Refused(String),
    #[error("the server does not answer PING")]
    Silent,
}

/// One connection in the words of a protocol. An error ends it.
pub(crate) trait Conversation<D: Dialect>: 'static {
    /// The connection was made.
    fn begin(&mut self, client: &Client<D>, transport: &Transport, server: &Server) -> Result<()>;

    /// TLS is established.
    fn encrypted(&mut self, client: &Client<D>, transport: &Transport) -> Result<()>;

    /// Takes the next unit of the protocol from `data`, and handles it; `None` if there is no whole
    /// one.
    fn receive(
        &mut self,
        client: &Client<D>,
        transport: &Transport,
        server: &Server,
        data: &mut &[u8],
    ) -> Result<Option<Heard>>;

    /// Whether the server has accepted the login.
    fn is_open(&self) -> bool;

    /// The server's error, if it was the last that arrived: it may precede the end of the connection.
    fn last_error(&self) -> Option<String> {
        None
    }
}

/// A unit of a protocol, as far as all protocols have it.
pub(crate) enum Heard {
    LoggedIn,
    /// The answer to a PING.
    Pong,
    /// The server is about to stop, for this reason.
    Leaving(&'static str),
    Other,
}

pub(crate) struct Session<D: Dialect> {
    client: Weak<Client<D>>,
    server: Server,
    conversation: D::Conversation,
    unanswered: u32,
    /// The last lookups, in a row, without the address of the connection.
    absent: u32,
    /// Our reason for the end of the connection.
    why: Option<String>,
}

impl<D: Dialect> Session<D> {
    pub(super) fn new(client: &Rc<Client<D>>, server: Server) -> Session<D> {
        Session {
            client: Rc::downgrade(client),
            server,
            conversation: D::conversation(client),
            unanswered: 0,
            absent: 0,
            why: None,
        }
    }

    fn receive(&mut self, transport: &Transport, mut data: &[u8]) -> Result<()> {
        // The last handle of the bus was dropped: the client closes this connection.
        let Some(client) = self.client.upgrade() else { return Ok(()) };
        while transport.wants_data() {
            let heard = self.conversation.receive(&client, transport, &self.server, &mut data)?;
            match heard {
                None => break,
                Some(Heard::LoggedIn) => {
                    client.logged_in(transport, &self.server);
                    ping_later(&client, transport);
                    self.check_name_later(&client, transport);
                }
                Some(Heard::Pong) => {
                    self.unanswered = 0;
                    if client.has_left() {
                        transport.lose_connection();
                    }
                }
                Some(Heard::Leaving(why)) if client.has_other_servers() => {
                    self.leave(&client, transport, why.to_owned());
                }
                // Without another server, this one is used until it stops.
                Some(Heard::Leaving(_)) => {}
                Some(Heard::Other) => {}
            }
        }
        Ok(())
    }

    fn ping(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else { return };
        if self.unanswered >= MAX_UNANSWERED {
            return self.fail(transport, SessionError::Silent.to_string());
        }
        self.unanswered += 1;
        client.ping();
        ping_later(&client, transport);
    }

    /// Ends the connection once the server has confirmed the sent messages.
    fn leave(&mut self, client: &Client<D>, transport: &Transport, why: String) {
        if !client.leave(transport) {
            return;
        }
        self.why.get_or_insert(why);
        let timeout = client.settings().connect_timeout;
        transport
            .connection::<Session<D>>()
            .call_later(timeout, |_, transport| transport.abort_connection());
    }

    /// Schedules a lookup of the server's name, unless it is an address.
    fn check_name_later(&self, client: &Client<D>, transport: &Transport) {
        let Some(interval) = client.settings().name_check else { return };
        let is_name = self.server.host.parse::<IpAddr>().is_err();
        if is_name && transport.peer().socket_addr().is_some() {
            transport.connection::<Session<D>>().call_later(interval, Session::check_name);
        }
    }

    fn check_name(&mut self, transport: &Transport) {
        let me = transport.connection::<Session<D>>();
        let found = transport.reactor().resolve(self.server.host.clone());
        let checked = found.add_both(move |found| {
            me.tell(move |session, transport| {
                session.name_found(transport, &found.unwrap_or_default());
            });
            Ok(())
        });
        checked.detach();
    }

    /// The name has these addresses; none if the lookup has failed.
    fn name_found(&mut self, transport: &Transport, addresses: &[IpAddr]) {
        let Some(client) = self.client.upgrade() else { return };
        let peer = transport.peer().socket_addr().map(|peer| peer.ip().to_canonical());
        let is_there = addresses.iter().any(|address| Some(address.to_canonical()) == peer);
        self.absent = match (addresses, is_there) {
            ([], _) => self.absent,
            (_, true) => 0,
            (_, false) => self.absent + 1,
        };
        if self.absent >= MOVED {
            let why = format!("the name {} has moved to other addresses", self.server.host);
            return self.leave(&client, transport, why);
        }
        self.check_name_later(&client, transport);
    }

    /// Ends the connection if `result` is an error.
    fn check(&mut self, transport: &Transport, result: Result<()>) {
        if let Err(failure) = result {
            self.fail(transport, failure.to_string());
        }
    }

    /// Ends the connection. Queued bytes would be of no use.
    fn fail(&mut self, transport: &Transport, why: String) {
        self.why.get_or_insert(why);
        transport.abort_connection();
    }
}

fn ping_later<D: Dialect>(client: &Client<D>, transport: &Transport) {
    let interval = client.settings().ping_interval;
    transport.connection::<Session<D>>().call_later(interval, Session::ping);
}

impl<D: Dialect> Protocol for Session<D> {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else {
            return transport.abort_connection();
        };
        client.connected(transport);
        let timeout = client.settings().connect_timeout;
        transport.connection::<Session<D>>().call_later(timeout, |session, transport| {
            if !session.conversation.is_open() {
                session.fail(transport, SessionError::LoginTimeout.to_string());
            }
        });
        let begun = self.conversation.begin(&client, transport, &self.server);
        self.check(transport, begun);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let received = self.receive(transport, data);
        self.check(transport, received);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(client) = self.client.upgrade() else { return };
        let why = self.why.take().or_else(|| self.conversation.last_error());
        client.connection_lost(&self.server, why.unwrap_or_else(|| reason.to_string()));
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl<D: Dialect> ProtocolExtension for Session<D> {
    fn handshake_completed(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else { return };
        let continued = self.conversation.encrypted(&client, transport);
        self.check(transport, continued);
    }
}
