//! One connection to a server: perhaps TLS, HELLO, SELECT and PING; then answers and messages.
//!
//! Contract: 213, 216, 216a.

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

/// The server can't write, so another one is the master.
#[derive(Debug, thiserror::Error)]
#[error("the server is not the master any more: {0}")]
struct Demoted(String);

enum RedisPhase {
    /// The login was sent; the number of its answers to come.
    LoggingIn(usize),
    Open,
}

pub(crate) struct RedisConversation {
    parser: Parser,
    phase: RedisPhase,
}

impl RedisConversation {
    pub(super) fn new(max_payload: usize) -> RedisConversation {
        let parser = Parser::new(max_payload.saturating_add(MAX_ENVELOPE));
        RedisConversation { parser, phase: RedisPhase::LoggingIn(0) }
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
            (_, reply) if role(&reply).is_some_and(|role| role != MASTER) => {
                Err(SessionError::Refused("the server is a replica, not the master".to_owned())
                    .into())
            }
            (1, _) => {
                self.phase = RedisPhase::Open;
                Ok(Heard::LoggedIn)
            }
            (left, _) => {
                self.phase = RedisPhase::LoggingIn(left - 1);
                Ok(Heard::Other)
            }
        }
    }

    /// Sends the login.
    fn greet(&mut self, client: &RedisClient, transport: &Transport) {
        let commands = login(&client.options);
        self.phase = RedisPhase::LoggingIn(commands.len());
        commands.into_iter().for_each(|command| transport.write_bytes(command));
    }
}

fn handle(client: &RedisClient, reply: Reply) -> Result<Heard> {
    let Reply::Push(push) = reply else {
        let (role, refusal) = (role(&reply), refusal(&reply));
        let is_ping = client.answered(reply).ok_or(Unexpected)?;
        let demoted = role.filter(|role| is_ping && role != MASTER);
        if let Some(why) = refusal.or(demoted.map(|role| format!("its role is {role}"))) {
            return Err(Demoted(why).into());
        }
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

/// The role of a server that takes writes.
const MASTER: &str = "master";

/// The role in the answer to HELLO.
fn role(reply: &Reply) -> Option<String> {
    let fields = reply.as_list()?;
    let is_hello = fields.first()?.as_bytes()? == "server";
    let mut pairs = fields.chunks_exact(2).filter(|_| is_hello);
    let role = pairs.find(|pair| pair[0].as_bytes().is_some_and(|key| key == "role"))?;
    Some(String::from_utf8_lossy(role[1].as_bytes()?).into_owned())
}

/// The error of a server that is a replica, also inside of a script.
fn refusal(reply: &Reply) -> Option<String> {
    let Reply::Error(text) = reply else { return None };
    let is_refused = |code| text.starts_with(code) || text.contains(&format!(" -{code}"));
    ["READONLY ", "MASTERDOWN "].into_iter().any(is_refused).then(|| text.clone())
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
            return Ok(transport.start_tls((tls, &server.host))?);
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
            RedisPhase::LoggingIn(left) => self.log_in(left, reply),
            RedisPhase::Open => handle(client, reply),
        }
        .map(Some)
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, RedisPhase::Open)
    }
}
