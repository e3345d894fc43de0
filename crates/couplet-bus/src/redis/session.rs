//! One connection to a server: perhaps TLS, HELLO, SELECT and PING; then answers and messages.

use bytes::Bytes;
use couplet_core::{Result, Transport};

use super::envelope::MAX_ENVELOPE;
use super::options::Options;
use super::parser::{Parser, Reply, command};
use super::pubsub::{PubSub, RedisClient, Source};
use crate::client::{Conversation, Heard, Server, SessionError};

/// A reply without a command: the connection is of no use.
#[derive(Debug, thiserror::Error)]
#[error("cannot read from the server: a reply without a command")]
struct Unexpected;

enum Phase {
    /// The login was sent; the number of its answers to come.
    LoggingIn(usize),
    Open,
}

pub(crate) struct RedisConversation {
    parser: Parser,
    phase: Phase,
}

impl RedisConversation {
    pub(super) fn new(max_payload: usize) -> RedisConversation {
        let parser = Parser::new(max_payload.saturating_add(MAX_ENVELOPE));
        RedisConversation { parser, phase: Phase::LoggingIn(0) }
    }

    /// An answer to the login.
    fn log_in(&mut self, left: usize, reply: Reply) -> Result<Heard> {
        match (left, reply) {
            (0, _) | (_, Reply::Push(_)) => Err(Unexpected.into()),
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
                Err(SessionError::Refused(format!("{text}{remedy}")).into())
            }
            (1, _) => {
                self.phase = Phase::Open;
                Ok(Heard::LoggedIn)
            }
            (left, _) => {
                self.phase = Phase::LoggingIn(left - 1);
                Ok(Heard::Other)
            }
        }
    }

    /// Sends the login.
    fn greet(&mut self, client: &RedisClient, transport: &Transport) {
        let commands = login(&client.options);
        self.phase = Phase::LoggingIn(commands.len());
        commands.into_iter().for_each(|command| transport.write_bytes(command));
    }
}

fn handle(client: &RedisClient, reply: Reply) -> Result<Heard> {
    let Reply::Push(push) = reply else {
        let is_ping = client.answered(reply).ok_or(Unexpected)?;
        return Ok(if is_ping { Heard::Pong } else { Heard::Other });
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
            client.subscription_confirmed().ok_or(Unexpected)?;
        }
        _ => {}
    }
    Ok(Heard::Other)
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

impl Conversation<PubSub> for RedisConversation {
    #[cfg_attr(
        not(any(feature = "tls", feature = "ring")),
        expect(unused_variables, reason = "nothing begins TLS")
    )]
    fn begin(
        &mut self,
        client: &RedisClient,
        transport: &Transport,
        server: &Server,
    ) -> Result<()> {
        #[cfg(any(feature = "tls", feature = "ring"))]
        if let Some(tls) = &client.options.tls {
            return Ok(transport.start_tls_client(tls, &server.host)?);
        }
        self.greet(client, transport);
        Ok(())
    }

    fn encrypted(&mut self, client: &RedisClient, transport: &Transport) -> Result<()> {
        self.greet(client, transport);
        Ok(())
    }

    fn receive(
        &mut self,
        client: &RedisClient,
        _: &Transport,
        _: &Server,
        data: &mut &[u8],
    ) -> Result<Option<Heard>> {
        let Some(reply) = self.parser.next(data)? else { return Ok(None) };
        match self.phase {
            Phase::LoggingIn(left) => self.log_in(left, reply),
            Phase::Open => handle(client, reply),
        }
        .map(Some)
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }
}
