//! One chat on several servers, which a bus joins.
//!
//! One loop of each server has the link, which forwards the lines of the server's members to the
//! bus and publishes lines of other servers in the room, in the order of each speaker. Each server
//! announces the names of its people, and repeats the announcement as its heartbeat.
//!
//! Contract: 228a.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use couplet::bus::{
    self, Bus, Memory, Message, Presence, PresenceEvent, PresenceOptions, Subscription,
};
use couplet::rooms::{self, Rooms};
use couplet::services::{Child, Health, Service};
use couplet::{Deferred, Reactor};

use crate::address::BusOptions;
use crate::exit::Exit;
use crate::kept::KeptLines;
use crate::member::LINE_LENGTH;
use crate::others::{People, SERVERS};
use crate::room::{Channel, Names, SharedRoom};
use crate::text::{NAME_LENGTH, clean};
use crate::values::Secret;

/// The name of a client, for the monitoring of its server; Redis allows no spaces.
const CLIENT: &str = "couplet-chat";
/// The subject of the lines.
const LINES: &str = "couplet.chat.lines";
/// The subject of the announcements.
const PEOPLE: &str = "couplet.chat.people";
/// Time between two heartbeats. The people of a server leave after three missing ones.
const INTERVAL: Duration = Duration::from_secs(2);
/// Delay of an announcement: people who come and go together are announced together.
const ANNOUNCE_AFTER: Duration = Duration::from_millis(100);
/// Most bytes of lines that wait for a bus that can't be reached; further ones are lost.
const QUEUE: usize = 1024 * 1024;
/// Longest message of another server: an announcement.
const MESSAGE: usize = 64 * 1024;
/// Longest line of another server, in bytes: a name and a text, or a notice about names.
pub(crate) const LONGEST: usize = LINE_LENGTH + 3 * NAME_LENGTH + 64;
/// First and longest delay before an attempt to reconnect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Time for the last lines to reach the bus.
const FAREWELL: Duration = Duration::from_secs(1);

/// The settings of a server's link.
#[derive(Clone)]
pub(crate) struct Settings {
    /// The bus; without options, it is in the memory of this server.
    options: Option<BusOptions>,
    /// The most lines that are kept; 0 keeps none.
    history: usize,
}

impl Settings {
    /// The settings for the servers of this address and `history` kept lines; `None` without both.
    pub(crate) fn new(bus: Option<&Secret>, history: usize) -> Result<Option<Settings>, Exit> {
        let options = bus.map(BusOptions::new).transpose()?;
        let is_needed = options.is_some() || history > 0;
        Ok(is_needed.then_some(Settings { options, history }))
    }

    /// The link of a room, as a service.
    pub(crate) fn service(&self, room: &SharedRoom) -> Child {
        let (settings, room) = (self.clone(), room.clone());
        Child::new(BusService { settings, room, memory: Memory::new().echo(false), link: None })
    }
}

/// A server's link to the bus, as a service.
struct BusService {
    room: SharedRoom,
    settings: Settings,
    memory: Memory,
    link: Option<Link>,
}

impl BusService {
    fn connect(&self, reactor: &Reactor) -> Bus {
        let (first, longest) = BACK_OFF;
        match self.settings.options.clone() {
            None => Bus::memory(reactor, &self.memory),
            Some(BusOptions::Nats(options)) => {
                let options = options.name(CLIENT).echo(false).queue(QUEUE);
                Bus::nats(reactor, options.max_payload(MESSAGE).back_off(first, longest))
            }
            Some(BusOptions::Redis(options)) => {
                let options = options.name(CLIENT).echo(false).queue(QUEUE);
                Bus::redis(reactor, options.max_payload(MESSAGE).back_off(first, longest))
            }
        }
    }
}

impl Service for BusService {
    fn name(&self) -> &str {
        "bus"
    }

    /// Does not wait for the bus: the server's own people don't need it.
    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let link = Link::new(self.connect(reactor), &self.room, self.settings.history);
        Deferred::from_result(link.map(|link| self.link = Some(link)))
    }

    fn stop(&mut self) -> Deferred<()> {
        self.link.take().map_or_else(|| Deferred::succeed(()), Link::close)
    }

    fn health(&self) -> Health {
        let Some(link) = &self.link else { return Health::Stopping };
        let kept = link.server.kept.as_ref();
        kept.map_or_else(|| link.bus.health(), KeptLines::health)
    }
}

struct Link {
    bus: Bus,
    server: Rc<Server>,
    _lines: Subscription,
}

/// The server in the loop of its link.
struct Server {
    reactor: Reactor,
    rooms: Rooms<Channel, String>,
    names: Arc<Names>,
    presence: Presence,
    /// The lines of a chat with a history.
    kept: Option<KeptLines>,
    /// Whether an announcement is scheduled.
    is_due: Cell<bool>,
}

impl Link {
    fn new(bus: Bus, room: &SharedRoom, history: usize) -> couplet::Result<Link> {
        let reactor = bus.reactor().clone();
        let rooms = room.rooms.attach(&reactor);
        let names = room.names.clone();
        let settings = PresenceOptions { interval: INTERVAL, peers: SERVERS };
        let presence = bus.presence(PEOPLE, names.announcement(), settings)?;
        names.others(|others| others.begin(presence.id()));
        let kept = match history {
            0 => None,
            most => Some(KeptLines::new(&bus, &rooms, &names, most)?),
        };
        let is_due = Cell::new(false);
        let server = Rc::new(Server { reactor, rooms, names, presence, kept, is_due });
        server.watch(&bus);
        let weak = Rc::downgrade(&server);
        let lines = bus.subscribe(LINES, move |message| {
            weak.upgrade().iter().for_each(|server| server.publish(message.payload()));
        })?;
        Ok(Link { bus, server, _lines: lines })
    }

    /// Says goodbye, and sends the last lines.
    fn close(self) -> Deferred<()> {
        let Link { bus, server, _lines } = self;
        // Members who have moved to another process do not leave with this one.
        server.announce();
        server.names.others(|others| others.end());
        drop((server, _lines));
        if bus.health() != Health::Ready {
            bus.close();
            return Deferred::succeed(());
        }
        let closing = bus.clone();
        bus.drain().add_timeout(bus.reactor(), FAREWELL).add_both(move |_unconfirmed| {
            closing.close();
            Ok(())
        })
    }
}

impl Server {
    /// Observes the bus, the other servers and the room, which may all outlive the link.
    fn watch(self: &Rc<Self>, bus: &Bus) {
        let weak = Rc::downgrade(self);
        bus.on_event(move |event| {
            weak.upgrade().iter().for_each(|server| server.bus_changed(event));
        });
        let weak = Rc::downgrade(self);
        self.presence.on_event(move |event| {
            weak.upgrade().iter().for_each(|server| server.others_changed(event));
        });
        let (weak, bus) = (Rc::downgrade(self), bus.clone());
        self.rooms.on_event(move |event| {
            weak.upgrade().iter().for_each(|server| server.room_changed(&bus, event));
        });
    }

    fn room_changed(self: &Rc<Self>, bus: &Bus, event: &rooms::Event<Channel, String>) {
        match event {
            rooms::Event::Published { room, bytes, .. } if **room == Channel::Said => {
                self.kept.iter().for_each(|kept| kept.say(bytes));
            }
            // Lines of other servers have no `by`.
            rooms::Event::Published { bytes, by: Some(_), .. } => {
                // The bus reports a line that it refuses.
                let _ = bus.publish_message(&Message::new(LINES, bytes.clone()).numbered());
            }
            rooms::Event::Published { .. } => {}
            rooms::Event::Missed { messages, .. } => {
                tracing::warn!(messages, "the other servers miss lines: this loop is too busy");
                self.people_changed();
            }
            rooms::Event::Joined { room, .. } | rooms::Event::Left { room, .. }
                if **room == Channel::Lines => {}
            _ => self.people_changed(),
        }
    }

    /// Publishes a line of another server. A bus may have other users, so it is checked.
    fn publish(&self, line: &[u8]) {
        match line.strip_suffix(b"\n") {
            Some(line) if line.len() <= LONGEST => self.say(&clean(line)),
            _ => tracing::debug!(bytes = line.len(), "the bus carries a message that is no line"),
        }
    }

    fn say(&self, line: &str) {
        if let Err(error) = self.rooms.publish(&Channel::People, format!("{line}\n")) {
            tracing::error!(%error, "a line was lost");
        }
    }

    /// Announces this server's people, a little later.
    fn people_changed(self: &Rc<Self>) {
        if self.is_due.replace(true) {
            return;
        }
        let weak = Rc::downgrade(self);
        self.reactor.call_later(ANNOUNCE_AFTER, move || {
            weak.upgrade().iter().for_each(|server| server.announce());
        });
    }

    fn announce(&self) {
        self.is_due.set(false);
        if let Err(error) = self.presence.set_meta(self.names.announcement()) {
            tracing::warn!(%error, "the other servers miss who is here");
        }
    }

    fn others_changed(&self, event: &PresenceEvent) {
        match event {
            PresenceEvent::Joined(peer) | PresenceEvent::Changed(peer) => {
                let people = People::parse(&peer.meta);
                if let PresenceEvent::Joined(_) = event {
                    // The new peer's people joined before this server knew the peer.
                    self.report(people.sentence(["is", "are"], "here on another server"));
                }
                self.names.others(|others| others.update(peer.id.clone(), people));
            }
            PresenceEvent::Left(peer) => {
                self.names.others(|others| others.remove(&peer.id));
                let people = People::parse(&peer.meta);
                self.report(people.sentence(["has", "have"], "left (their server has stopped)"));
            }
            _ => tracing::warn!(most = SERVERS, "too many servers are on the bus"),
        }
    }

    fn report(&self, notice: Option<String>) {
        notice.iter().for_each(|notice| self.say(&format!("* {notice}")));
    }

    fn bus_changed(&self, event: &bus::Event) {
        match event {
            // The bus logs its loss and its return.
            bus::Event::Connected { .. } => {
                if self.names.others(|others| std::mem::take(&mut others.is_cut_off)) {
                    self.say("* The other servers are back.");
                }
            }
            bus::Event::Disconnected { .. } | bus::Event::AttemptFailed { .. } => self.cut_off(),
            bus::Event::Missed { subject, messages } if subject == LINES => {
                let lines = if *messages == 1 { "line" } else { "lines" };
                self.say(&format!("* {messages} {lines} of another server did not arrive."));
            }
            bus::Event::Lost { messages } => {
                tracing::warn!(
                    messages,
                    "the other servers miss lines: the queue to the bus is full"
                );
            }
            event => tracing::warn!("the bus: {event:?}"),
        }
    }

    /// The bus can't be reached; reported once.
    fn cut_off(&self) {
        if self.names.others(|others| std::mem::replace(&mut others.is_cut_off, true)) {
            return;
        }
        self.say("* The other servers are out of reach.");
        self.kept.iter().for_each(KeptLines::cut_off);
    }
}
