//! One connection to a server: perhaps TLS, HELLO, SELECT and PING; then answers and messages.

use std::rc::{Rc, Weak};

use bytes::Bytes;
use couplet_core::{Protocol, Reason, Result, Transport};

use super::envelope::MAX_ENVELOPE;
use super::options::Options;
use super::parser::{Parser, Reply, command};
use super::pubsub::{RedisClient, Source};
use crate::client::Server;

/// PINGs without an answer after which a connection is dropped.
const MAX_UNANSWERED: u32 = 2;

/// A connection is of no use.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("cannot log in: the server did not answer in time")]
    LoginTimeout,
    #[error("cannot log in: {0}")]
    Refused(String),
    #[error("cannot read from the server: a reply without a command")]
    Unexpected,
    #[error("the server does not answer PING")]
    Silent,
}

pub(super) enum Phase {
    /// The login was sent; the number of its answers to come.
    LoggingIn(usize),
    Open,
}

pub(crate) struct Session {
    client: Weak<RedisClient>,
    server: Server,
    parser: Parser,
    phase: Phase,
    unanswered: u32,
    /// Our reason for the end of the connection.
    why: Option<String>,
}

impl Session {
    pub(super) fn new(client: &Rc<RedisClient>, server: Server) -> Session {
        Session {
            client: Rc::downgrade(client),
            server,
            parser: Parser::new(client.settings().max_payload.saturating_add(MAX_ENVELOPE)),
            phase: Phase::LoggingIn(0),
            unanswered: 0,
            why: None,
        }
    }

    fn receive(&mut self, transport: &Transport, mut data: &[u8]) -> Result<()> {
        // The last handle of the bus was dropped: the client closes this connection.
        let Some(client) = self.client.upgrade() else { return Ok(()) };
        while transport.wants_data() {
            let Some(reply) = self.parser.next(&mut data)? else { break };
            match self.phase {
                Phase::LoggingIn(left) => self.log_in(&client, transport, left, reply)?,
                Phase::Open => self.handle(&client, reply)?,
            }
        }
        Ok(())
    }

    /// An answer to the login.
    fn log_in(
        &mut self,
        client: &Rc<RedisClient>,
        transport: &Transport,
        left: usize,
        reply: Reply,
    ) -> Result<()> {
        match (left, reply) {
            (0, _) | (_, Reply::Push(_)) => return Err(SessionError::Unexpected.into()),
            (_, Reply::Error(text)) => {
                // Old servers repeat the command, which has the password.
                let text = text.split(", with args").next().unwrap_or_default();
                let remedy = match text {
                    _ if text.starts_with("NOAUTH") => ": the server requires a password",
                    _ if text.starts_with("ERR unknown command") => {
                        ": Redis 6 or later is required"
                    }
                    _ => "",
                };
                return Err(SessionError::Refused(format!("{text}{remedy}")).into());
            }
            (1, _) => {
                self.phase = Phase::Open;
                client.logged_in(transport, &self.server);
                self.ping_later(client, transport);
            }
            (left, _) => self.phase = Phase::LoggingIn(left - 1),
        }
        Ok(())
    }

    fn handle(&mut self, client: &RedisClient, reply: Reply) -> Result<()> {
        let Reply::Push(push) = reply else {
            let is_ping = client.answered(reply).ok_or(SessionError::Unexpected)?;
            if is_ping {
                self.unanswered = 0;
            }
            return Ok(());
        };
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let kind = push.first().and_then(Reply::as_bytes).map_or(&[][..], |kind| kind);
        match (kind, &push[..]) {
            (b"message", [_, Reply::Bytes(channel), payload]) => {
                client.message_arrived(&Source::Channel(text(channel)), channel, payload);
            }
            (b"pmessage", [_, Reply::Bytes(glob), Reply::Bytes(channel), payload]) => {
                client.message_arrived(&Source::Glob(text(glob)), channel, payload);
            }
            (b"subscribe" | b"psubscribe" | b"unsubscribe" | b"punsubscribe", _) => {
                let confirmed = client.subscription_confirmed();
                return confirmed.ok_or_else(|| SessionError::Unexpected.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends the login.
    fn greet(&mut self, client: &RedisClient, transport: &Transport) {
        let commands = login(&client.options);
        self.phase = Phase::LoggingIn(commands.len());
        commands.into_iter().for_each(|command| transport.write_bytes(command));
    }

    fn ping_later(&mut self, client: &RedisClient, transport: &Transport) {
        let interval = client.settings().ping_interval;
        transport.connection::<Session>().call_later(interval, Session::ping);
    }

    fn ping(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else { return };
        if self.unanswered >= MAX_UNANSWERED {
            return self.fail(transport, SessionError::Silent.to_string());
        }
        self.unanswered += 1;
        client.ping();
        self.ping_later(&client, transport);
    }

    /// Ends the connection. Queued bytes would be of no use.
    fn fail(&mut self, transport: &Transport, why: String) {
        self.why.get_or_insert(why);
        transport.abort_connection();
    }
}

fn login(options: &Options) -> Vec<Bytes> {
    let mut hello = vec!["HELLO", "3"];
    if let Some(login) = &options.login {
        hello.extend(["AUTH", &login.user, &login.password]);
    }
    if let Some(name) = &options.name {
        hello.extend(["SETNAME", name]);
    }
    let mut commands = vec![command(&hello)];
    if options.database != 0 {
        commands.push(command(&["SELECT", &options.database.to_string()]));
    }
    // Fails while the server loads its data, which HELLO does not.
    commands.push(command(&["PING"]));
    commands
}

impl Protocol for Session {
    fn connection_made(&mut self, transport: &Transport) {
        let Some(client) = self.client.upgrade() else {
            return transport.abort_connection();
        };
        client.connected(transport);
        let timeout = client.settings().connect_timeout;
        transport.connection::<Session>().call_later(timeout, |session, transport| {
            if !matches!(session.phase, Phase::Open) {
                session.fail(transport, SessionError::LoginTimeout.to_string());
            }
        });
        #[cfg(any(feature = "tls", feature = "ring"))]
        if let Some(tls) = &client.options.tls {
            if let Err(error) = transport.start_tls_client(tls, &self.server.host) {
                self.fail(transport, error.to_string());
            }
            return;
        }
        self.greet(&client, transport);
    }

    fn handshake_completed(&mut self, transport: &Transport) {
        if let Some(client) = self.client.upgrade() {
            self.greet(&client, transport);
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        if let Err(failure) = self.receive(transport, data) {
            self.fail(transport, failure.to_string());
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(client) = self.client.upgrade() else { return };
        client.connection_lost(&self.server, self.why.take().unwrap_or_else(|| reason.to_string()));
    }
}
