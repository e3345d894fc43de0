//! The client in the words of NATS.
//!
//! Contract: 202.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::{BufMut, Bytes, BytesMut};

use super::info::Info;
use super::jetstream::JetStream;
use super::options::Options;
use super::servers::parse;
use super::session::NatsConversation;
use crate::bus::Bus;
use crate::client::{Client, Dialect, Outgoing, Server, Settings};
use crate::log::{Engine, LogLimits};
use crate::message::Message;
use crate::subject::{Pattern, SubjectError};

pub(crate) type NatsClient = Client<Nats>;

#[derive(Default)]
pub(crate) struct Nats {
    subscriptions: BTreeMap<u64, Pattern>,
}

impl Dialect for Nats {
    const NAME: &'static str = "NATS";
    const PING: &'static [u8] = b"PING\r\n";
    const CHECK: &'static [u8] = Self::PING;
    const ANSWERS_ALL: bool = false;
    type Options = Options;
    type Conversation = NatsConversation;
    type Call = Infallible;

    fn settings(options: &Options) -> &Settings {
        &options.settings
    }

    fn conversation(client: &NatsClient) -> NatsConversation {
        NatsConversation::new(client.settings().max_payload)
    }

    /// PUB, or HPUB with headers.
    fn encode(&self, message: &Message) -> Outgoing {
        let mut frame = BytesMut::with_capacity(message.size() + message.subject().len() + 64);
        let has_headers = message.has_headers();
        frame.put_slice(if has_headers { b"HPUB " } else { b"PUB " });
        for subject in [Some(message.subject()), message.reply()].into_iter().flatten() {
            frame.put_slice(subject.as_bytes());
            frame.put_u8(b' ');
        }
        if has_headers {
            frame.put_slice(format!("{} ", message.header_size()).as_bytes());
        }
        frame.put_slice(format!("{}\r\n", message.size()).as_bytes());
        if has_headers {
            message.put_headers(&mut frame);
        }
        frame.put_slice(message.payload());
        frame.put_slice(b"\r\n");
        // The server itself replies if nothing is subscribed.
        Outgoing { frame: frame.freeze(), reply: None }
    }

    fn subscribe(&mut self, id: u64, pattern: &Pattern) -> Result<Option<Bytes>, SubjectError> {
        self.subscriptions.insert(id, pattern.clone());
        Ok(Some(sub(id, pattern)))
    }

    fn unsubscribe(&mut self, id: u64) -> Option<Bytes> {
        self.subscriptions.remove(&id).map(|_| unsub(id))
    }

    fn end_subscriptions(&mut self, except: Option<u64>) -> Vec<Bytes> {
        let ended = self.subscriptions.extract_if(.., |id, _| Some(*id) != except);
        ended.map(|(id, _)| unsub(id)).collect()
    }

    fn subscriptions(&self) -> Vec<Bytes> {
        self.subscriptions.iter().map(|(id, pattern)| sub(*id, pattern)).collect()
    }

    fn clear(&mut self) {
        self.subscriptions.clear();
    }

    fn log_engine(
        client: &NatsClient,
        bus: &Bus,
        name: &str,
        limits: &LogLimits,
    ) -> Rc<dyn Engine> {
        Rc::new(JetStream::new(bus, name, limits, client.settings().max_payload))
    }

    fn fail(call: Infallible) {
        match call {}
    }
}

fn sub(id: u64, pattern: &Pattern) -> Bytes {
    let line = match pattern.group_name() {
        Some(group) => format!("SUB {} {group} {id}\r\n", pattern.subject()),
        None => format!("SUB {} {id}\r\n", pattern.subject()),
    };
    line.into()
}

fn unsub(id: u64) -> Bytes {
    format!("UNSUB {id}\r\n").into()
}

impl NatsClient {
    /// Learns the other servers and the limit from an INFO that can be trusted.
    pub(super) fn learn_info(&self, info: &Info, from: &Server) {
        // Malformed addresses are ignored.
        let others = info.connect_urls.iter().filter_map(|address| parse(address).ok()).collect();
        let limit = if info.max_payload > 0 { info.max_payload } else { usize::MAX };
        self.learn(others, limit, from);
    }

    pub(super) fn message_arrived(&self, id: u64, message: Message) {
        if let Some(core) = self.core() {
            core.push_message(id, message);
        }
    }

    pub(super) fn oversized_arrived(&self, id: u64, size: u64) {
        let pattern = self.core().and_then(|core| core.pattern(id));
        self.oversized(pattern.unwrap_or_default(), size);
    }

    pub(super) fn ping_answered(&self) {
        if let Some(confirmed) = self.with_queue(|queue| queue.answer_ping()) {
            self.pong(confirmed);
        }
    }
}
