//! A NATS server for worlds: the part of its protocol that clients use without JetStream.
//! Source: the client protocol, <https://docs.nats.io/reference/reference-protocols/nats-protocol>.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use couplet::bus::Pattern;
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::transport::Timeout;
use couplet::{Failure, Reactor, Reason, Transport, hooks};

/// A client that sends nothing for this long has vanished.
const SILENCE: Duration = Duration::from_secs(20);
/// Most bytes that wait for a client; a slower one is disconnected.
const WRITE_CAP: usize = 1024 * 1024;
const MAX_PAYLOAD: usize = 1024 * 1024;

/// The clients of a server, by number.
#[derive(Default)]
struct Clients {
    open: RefCell<BTreeMap<u64, Rc<Client>>>,
    last: Cell<u64>,
}

struct Client {
    transport: Transport,
    /// Patterns and groups by the client's numbers.
    subscriptions: RefCell<BTreeMap<String, (Pattern, Option<String>)>>,
    /// Whether it gets its own messages.
    echo: Cell<bool>,
}

/// The head of a message whose payload arrives.
struct Publish {
    subject: String,
    reply: Option<String>,
    header_size: Option<usize>,
    size: usize,
}

/// The connection of a client.
struct Session {
    clients: Rc<Clients>,
    /// The client and its number, once it is connected.
    client: Option<(u64, Rc<Client>)>,
    publish: Option<Publish>,
    payload: Vec<u8>,
}

/// Serves at a port of a host.
pub(super) fn listen(reactor: &Reactor, port: u16) -> couplet::Result<()> {
    let clients = Rc::<Clients>::default();
    let session = move || {
        let clients = clients.clone();
        LineReceiver::new(Session { clients, client: None, publish: None, payload: Vec::new() })
    };
    reactor.listen(format!("tcp:{port}"), session).map(drop)
}

impl Clients {
    /// Sends a message to each subscription that matches, and to one of each group.
    fn route(&self, from: u64, message: &Publish, payload: &[u8], random: u64) {
        let open = self.open.borrow();
        let mut groups: BTreeMap<String, Vec<(&Client, &str)>> = BTreeMap::new();
        let subscriptions: Vec<_> = open
            .iter()
            .filter(|(number, client)| **number != from || client.echo.get())
            .map(|(_, client)| (&**client, client.subscriptions.borrow()))
            .collect();
        for (client, known) in &subscriptions {
            for (id, (pattern, group)) in known.iter() {
                match group {
                    _ if !pattern.matches(&message.subject) => {}
                    None => message.send(&client.transport, id, payload),
                    Some(group) => groups.entry(group.clone()).or_default().push((client, id)),
                }
            }
        }
        for members in groups.into_values() {
            let (client, id) = members[(random % members.len() as u64) as usize];
            message.send(&client.transport, id, payload);
        }
    }
}

impl Publish {
    /// The words after PUB or HPUB.
    fn parse(rest: &str, has_headers: bool) -> Option<Publish> {
        let words: Vec<&str> = rest.split_whitespace().collect();
        let sizes = if has_headers { 2 } else { 1 };
        let (names, numbers) = words.split_at_checked(words.len().checked_sub(sizes)?)?;
        let size = numbers.last()?.parse().ok().filter(|size| *size <= MAX_PAYLOAD)?;
        let header_size = if has_headers { Some(numbers[0].parse().ok()?) } else { None };
        let (subject, reply) = match names {
            [subject] => (*subject, None),
            [subject, reply] => (*subject, Some((*reply).to_owned())),
            _ => return None,
        };
        Some(Publish { subject: subject.to_owned(), reply, header_size, size })
    }

    fn send(&self, to: &Transport, id: &str, payload: &[u8]) {
        let name = if self.header_size.is_some() { "HMSG" } else { "MSG" };
        let mut line = format!("{name} {} {id}", self.subject);
        self.reply.iter().for_each(|reply| line += &format!(" {reply}"));
        self.header_size.iter().for_each(|size| line += &format!(" {size}"));
        line += &format!(" {}\r\n", self.size);
        to.write(line);
        to.write(payload);
    }
}

impl Session {
    fn obey(&mut self, transport: &LineTransport, line: &str) -> Option<()> {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (_, client) = self.client.as_ref()?;
        match name {
            "CONNECT" => client.echo.set(!rest.contains("\"echo\":false")),
            "PING" => transport.write("PONG\r\n"),
            "PONG" => {}
            "SUB" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let (subject, group, id) = match words[..] {
                    [subject, id] => (subject, None, id),
                    [subject, group, id] => (subject, Some(format!("{subject} {group}")), id),
                    _ => return None,
                };
                let subscription = (Pattern::new(subject), group);
                client.subscriptions.borrow_mut().insert(id.to_owned(), subscription);
            }
            "UNSUB" => drop(client.subscriptions.borrow_mut().remove(rest)),
            "PUB" | "HPUB" => {
                self.publish = Some(Publish::parse(rest, name == "HPUB")?);
                transport.set_raw_mode();
            }
            _ => return None,
        }
        Some(())
    }
}

impl LineProtocol for Session {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(SILENCE));
        transport.set_write_cap(Some(WRITE_CAP));
        let number = self.clients.last.get() + 1;
        self.clients.last.set(number);
        let client = Rc::new(Client {
            transport: (**transport).clone(),
            subscriptions: RefCell::default(),
            echo: Cell::new(true),
        });
        self.clients.open.borrow_mut().insert(number, client.clone());
        self.client = Some((number, client));
        transport.send_line(format!("INFO {{\"headers\":true,\"max_payload\":{MAX_PAYLOAD}}}"));
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let line = String::from_utf8_lossy(line).into_owned();
        if self.obey(transport, &line).is_none() {
            transport.fail(Failure::msg(format!("{line:?} is no operation of a client")));
        }
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        let (Some(publish), Some((number, _))) = (&self.publish, &self.client) else { return };
        let missing = publish.size + 2 - self.payload.len();
        let (part, rest) = data.split_at(missing.min(data.len()));
        self.payload.extend_from_slice(part);
        if part.len() == missing {
            let random = hooks::random(transport.reactor());
            self.clients.route(*number, publish, &self.payload, random);
            self.publish = None;
            self.payload.clear();
            transport.set_line_mode(rest);
        }
    }

    fn connection_lost(&mut self, _: &LineTransport, _: &Reason) {
        if let Some((number, _)) = self.client.take() {
            drop(self.clients.open.borrow_mut().remove(&number));
        }
    }
}
