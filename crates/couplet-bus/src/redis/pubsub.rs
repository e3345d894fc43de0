//! The client in the words of Redis: subscriptions to channels and globs, and calls.
//!
//! INVARIANT: each subscription belongs to one channel or one glob, and the server sends a message
//! once for each of these that matches. So a message reaches each subscription once.
//!
//! Contract: 201, 203, 204, 214–216a.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use couplet_core::{Reactor, Resolver};

use super::commands::CommandError;
use super::envelope;
use super::options::Options;
use super::parser::{Reply, command};
use super::session::RedisConversation;
use super::stream::StreamEngine;
use crate::bus::Bus;
use crate::client::{Client, Dialect, Outgoing, Sent, Settings, unique};
use crate::core::Item;
use crate::error::NotConfirmed;
use crate::log::{Engine, LogLimits};
use crate::message::Message;
use crate::requests::NO_RESPONDERS;
use crate::subject::{Pattern, SubjectError, check_subject};

pub(crate) type RedisClient = Client<PubSub>;

/// A subscription of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Channel(String),
    Glob(String),
}

impl Source {
    fn new(pattern: &Pattern) -> Source {
        let subject = pattern.subject();
        if !subject.split('.').any(|token| matches!(token, "*" | ">")) {
            return Source::Channel(subject.to_owned());
        }
        let tokens = subject.split('.').map(|token| match token {
            // The star of a glob matches dots too: the pattern decides again.
            "*" | ">" => "*".to_owned(),
            token => escape(token),
        });
        Source::Glob(tokens.collect::<Vec<_>>().join("."))
    }

    fn begin(&self) -> Bytes {
        match self {
            Source::Channel(channel) => command(&["SUBSCRIBE", channel]),
            Source::Glob(glob) => command(&["PSUBSCRIBE", glob]),
        }
    }

    fn end(&self) -> Bytes {
        match self {
            Source::Channel(channel) => command(&["UNSUBSCRIBE", channel]),
            Source::Glob(glob) => command(&["PUNSUBSCRIBE", glob]),
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Source::Channel(name) | Source::Glob(name) => name,
        }
    }
}

/// Escapes the special characters of a glob.
fn escape(token: &str) -> String {
    let mut escaped = String::with_capacity(token.len());
    for c in token.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[derive(Default)]
struct Route {
    ids: BTreeSet<u64>,
    /// Whether it was ended at the server, with messages perhaps on their way.
    is_ended: bool,
}

pub(crate) struct PubSub {
    /// The name of this bus in envelopes, if it wants no echo.
    sender: Option<String>,
    patterns: BTreeMap<u64, Pattern>,
    routes: BTreeMap<Source, Route>,
}

impl PubSub {
    pub(crate) fn new(reactor: &Reactor, options: &Options) -> PubSub {
        let sender = (!options.echo).then(|| unique(reactor));
        PubSub { sender, patterns: BTreeMap::new(), routes: BTreeMap::new() }
    }

    /// The subscriptions that get a message to this subject from this source.
    fn recipients(&self, source: &Source, subject: &str) -> Vec<u64> {
        let Some(route) = self.routes.get(source) else { return Vec::new() };
        let matches = |id: &u64| self.patterns.get(id).is_some_and(|known| known.matches(subject));
        route.ids.iter().copied().filter(matches).collect()
    }
}

impl Dialect for PubSub {
    const NAME: &'static str = "Redis";
    const PING: &'static [u8] = b"*1\r\n$4\r\nPING\r\n";
    /// The answer has the server's role.
    const CHECK: &'static [u8] = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
    const ANSWERS_ALL: bool = true;
    type Options = Options;
    type Conversation = RedisConversation;
    type Call = Resolver<Reply>;

    fn settings(options: &Options) -> &Settings {
        &options.settings
    }

    fn conversation(client: &RedisClient) -> RedisConversation {
        RedisConversation::new(client.settings().max_payload)
    }

    fn encode(&self, message: &Message) -> Outgoing {
        let payload = envelope::wrap(message, self.sender.as_deref());
        let frame = command(&[b"PUBLISH", message.subject().as_bytes(), &payload]);
        Outgoing { frame, reply: message.reply().map(str::to_owned) }
    }

    fn subscribe(&mut self, id: u64, pattern: &Pattern) -> Result<Option<Bytes>, SubjectError> {
        if let Some(group) = pattern.group_name() {
            return Err(SubjectError::NoGroups(group.to_owned()));
        }
        let source = Source::new(pattern);
        self.patterns.insert(id, pattern.clone());
        let begin = source.begin();
        let route = self.routes.entry(source).or_default();
        let is_new = route.ids.is_empty() || std::mem::take(&mut route.is_ended);
        route.ids.insert(id);
        Ok(is_new.then_some(begin))
    }

    fn unsubscribe(&mut self, id: u64) -> Option<Bytes> {
        let source = Source::new(&self.patterns.remove(&id)?);
        let route = self.routes.get_mut(&source)?;
        route.ids.remove(&id);
        if !route.ids.is_empty() {
            return None;
        }
        let was_ended = route.is_ended;
        self.routes.remove(&source);
        (!was_ended).then(|| source.end())
    }

    fn end_subscriptions(&mut self, except: Option<u64>) -> Vec<Bytes> {
        let is_kept = |route: &Route| except.is_some_and(|id| route.ids.contains(&id));
        let begun = self.routes.iter_mut().filter(|(_, it)| !it.is_ended && !is_kept(it));
        begun
            .map(|(source, route)| {
                route.is_ended = true;
                source.end()
            })
            .collect()
    }

    fn subscriptions(&self) -> Vec<Bytes> {
        let begun = self.routes.iter().filter(|(_, route)| !route.is_ended);
        begun.map(|(source, _)| source.begin()).collect()
    }

    fn clear(&mut self) {
        self.patterns.clear();
        self.routes.clear();
    }

    fn log_engine(
        client: &RedisClient,
        bus: &Bus,
        name: &str,
        limits: &LogLimits,
    ) -> Rc<dyn Engine> {
        Rc::new(StreamEngine::new(bus, name, limits, client.settings().max_payload))
    }

    fn fail(call: Resolver<Reply>) {
        call.errback(CommandError::Lost);
    }

    fn command(client: &RedisClient, command: Bytes, answer: Resolver<Reply>) {
        if let Err(answer) = client.queue_call(command, answer) {
            answer.errback(CommandError::NotSent);
        }
    }
}

impl RedisClient {
    /// A message has arrived from a source. Subjects that no bus could publish to are ignored.
    pub(super) fn message_arrived(&self, source: &Source, channel: &Bytes, payload: &Reply) {
        let Ok(subject) = std::str::from_utf8(channel) else { return };
        let Some(core) = self.core() else { return };
        let recipients = self.with_dialect(|dialect| dialect.recipients(source, subject));
        if recipients.is_empty() || check_subject(subject).is_err() {
            return;
        }
        let payload = match payload {
            Reply::Bytes(payload) => payload.clone(),
            Reply::Error(error) => {
                // The parser has skipped it.
                let size = error.strip_prefix("TOOLARGE ").and_then(|size| size.parse().ok());
                return self.oversized(source.name().to_owned(), size.unwrap_or(0));
            }
            _ => return,
        };
        let (message, sender) = envelope::unwrap(subject, payload);
        if message.size() > self.settings().max_payload {
            return self.oversized(source.name().to_owned(), message.size() as u64);
        }
        if sender.is_some() && self.with_dialect(|dialect| dialect.sender == sender) {
            return;
        }
        for id in recipients {
            core.push_message(id, message.clone());
        }
    }

    /// The answer to the oldest command. Returns whether it was a PING; `None` if no command was
    /// sent, or the answer is not for it.
    pub(super) fn answered(&self, reply: Reply) -> Option<bool> {
        let core = self.core()?;
        let sent = self.with_queue(|queue| queue.answer_next())?;
        let is_ping = matches!(sent, Sent::Ping(_));
        match (sent, reply) {
            (Sent::Call(answer), reply) => {
                core.push(Item::Call(Box::new(move || match reply {
                    Reply::Error(text) => answer.errback(CommandError::Server(text)),
                    reply => answer.callback(reply),
                })));
            }
            (Sent::Ping(confirmed), Reply::Error(text)) => {
                self.server_error(&text);
                if let Some(confirmed) = confirmed {
                    core.push(Item::Call(Box::new(move || confirmed.errback(NotConfirmed))));
                }
            }
            (_, Reply::Error(text)) => self.server_error(&text),
            (Sent::Ping(confirmed), _) => self.pong(confirmed),
            (Sent::Request(reply), Reply::Number(0)) => self.no_responders(&reply),
            (Sent::Messages(_) | Sent::Request(_), Reply::Number(_)) => {}
            _ => return None,
        }
        Some(is_ping)
    }

    /// A subscription began or ended. `None` if that was not the oldest command.
    pub(super) fn subscription_confirmed(&self) -> Option<()> {
        match self.with_queue(|queue| queue.answer_next())? {
            Sent::Control => Some(()),
            _ => None,
        }
    }

    /// Nothing got a request: its bus gets this reply.
    fn no_responders(&self, to: &str) {
        let Some(core) = self.core() else { return };
        let matching = self.with_dialect(|dialect| {
            let known = dialect.patterns.iter().filter(|(_, pattern)| pattern.matches(to));
            known.map(|(id, _)| *id).collect::<Vec<_>>()
        });
        for id in matching {
            let message = Message::new(to, "").with_status(NO_RESPONDERS);
            core.push_message(id, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c214_patterns_become_channels_and_globs() {
        for (pattern, source) in [
            ("a.b", Source::Channel("a.b".to_owned())),
            ("a*.b>", Source::Channel("a*.b>".to_owned())),
            ("a.*.b", Source::Glob("a.*.b".to_owned())),
            ("a.>", Source::Glob("a.*".to_owned())),
            (">", Source::Glob("*".to_owned())),
            ("a?[x]\\.*.y*", Source::Glob("a\\?\\[x\\]\\\\.*.y\\*".to_owned())),
        ] {
            assert_eq!(Source::new(&Pattern::new(pattern)), source, "{pattern}");
        }
    }
}
