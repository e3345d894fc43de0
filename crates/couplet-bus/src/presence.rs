//! [`Presence`]: the members of a group, who announce themselves on a bus.
//!
//! Each member has an id and publishes to `<subject>.<id>`: a hello when it joins, a heartbeat in
//! each interval, and a farewell. The first byte of a message is its kind, the rest the member's
//! metadata.
//!
//! Contract: 210.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use couplet_core::services::Health;
use couplet_core::{DelayedCall, hooks};
use couplet_defer::bounded::Bounded;

use crate::bus::{Bus, Subscription};
use crate::core::Item;
use crate::error::PublishError;
use crate::message::Message;
use crate::subject::{Pattern, check_subject};

const HELLO: u8 = b'+';
const ALIVE: u8 = b'=';
const BYE: u8 = b'-';

/// Intervals without a heartbeat after which a peer has left.
const MISSED: u32 = 3;

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Peer {
    /// The member's id, which is not used again.
    pub id: String,
    /// The member's metadata.
    pub meta: Bytes,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PresenceEvent {
    /// A peer has joined.
    Joined(Peer),
    /// A peer has new metadata.
    Changed(Peer),
    /// A peer has left, or sent no heartbeat for three intervals.
    Left(Peer),
    /// A peer is ignored, because there are as many as the [limit](PresenceOptions::peers) allows.
    Ignored(Peer),
}

/// The settings of a [`Presence`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceOptions {
    /// The time between two heartbeats; 5 s by default. All members must use the same.
    pub interval: Duration,
    /// The maximum number of known peers; 65 536 by default.
    pub peers: usize,
}

impl Default for PresenceOptions {
    fn default() -> PresenceOptions {
        PresenceOptions { interval: Duration::from_secs(5), peers: 65_536 }
    }
}

/// A membership, which keeps the bus open and ends when it is dropped.
///
/// Known peers stay while the bus has no connection, because their state is unknown. After the
/// next connection, each has three intervals to show up.
///
/// ```
/// use couplet::bus::{Bus, Memory, PresenceOptions};
///
/// # let mut memory = couplet::testing::MemoryReactor::new();
/// # let reactor = memory.reactor();
/// # let hub = Memory::new();
/// # let other = Bus::memory(&reactor, &hub).presence("nodes", "b:80", PresenceOptions::default())?;
/// let bus = Bus::memory(&reactor, &hub);
/// let nodes = bus.presence("nodes", "a:80", PresenceOptions::default())?;
/// # memory.advance(std::time::Duration::from_secs(1));
/// assert_eq!(nodes.peers()[0].meta, "b:80");
/// # drop(other);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[must_use = "dropping it ends the membership"]
pub struct Presence {
    group: Rc<Group>,
    _subscription: Subscription,
}

struct Group {
    bus: Bus,
    /// Where this member publishes.
    own: String,
    id: String,
    options: PresenceOptions,
    meta: RefCell<Bytes>,
    peers: RefCell<Bounded<BTreeMap<String, Known>>>,
    observer: RefCell<Option<Observer>>,
    /// The next heartbeat.
    next: RefCell<Option<DelayedCall>>,
    /// Whether the bus had no connection at the last heartbeat.
    was_away: Cell<bool>,
}

type Observer = Rc<dyn Fn(&PresenceEvent)>;

struct Known {
    meta: Bytes,
    seen: Instant,
}

impl Bus {
    /// Joins a group of members that know each other, and their metadata.
    ///
    /// # Errors
    ///
    /// If the subject is invalid, the metadata is too large, or the bus is closed.
    pub fn presence(
        &self,
        subject: &str,
        meta: impl Into<Bytes>,
        options: PresenceOptions,
    ) -> Result<Presence, PublishError> {
        check_subject(subject)?;
        let id = self.core.unique();
        let group = Rc::new(Group {
            bus: self.clone(),
            own: format!("{subject}.{id}"),
            id,
            options,
            meta: RefCell::new(meta.into()),
            peers: RefCell::new(Bounded::new(options.peers)),
            observer: RefCell::default(),
            next: RefCell::default(),
            was_away: Cell::new(true),
        });
        let hearing = Rc::downgrade(&group);
        let subscription =
            self.subscribe(Pattern::new(format!("{subject}.*")), move |message| {
                if let Some(group) = hearing.upgrade() {
                    group.hear(&message);
                }
            })?;
        group.say(HELLO)?;
        group.beat_after(options.interval);
        Ok(Presence { group, _subscription: subscription })
    }
}

impl Presence {
    /// This member's id.
    pub fn id(&self) -> &str {
        &self.group.id
    }

    /// The other members, ordered by their ids.
    pub fn peers(&self) -> Vec<Peer> {
        let peers = self.group.peers.borrow();
        peers.iter().map(|(id, known)| peer(id, &known.meta)).collect()
    }

    /// Changes this member's metadata.
    ///
    /// # Errors
    ///
    /// If they are too large, or the bus is closed.
    pub fn set_meta(&self, meta: impl Into<Bytes>) -> Result<(), PublishError> {
        let old = self.group.meta.replace(meta.into());
        self.group.say(ALIVE).inspect_err(|_| {
            // The next heartbeats have the old ones.
            let _refused = self.group.meta.replace(old);
        })
    }

    /// Calls `observer` with the next events; replaces an earlier observer.
    pub fn on_event(&self, observer: impl Fn(&PresenceEvent) + 'static) {
        let _old = self.group.observer.replace(Some(Rc::new(observer)));
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(next) = self.group.next.take() {
            next.cancel();
        }
        if self.group.is_connected() {
            // Otherwise the peers notice after three intervals.
            let _ = self.group.say(BYE);
        }
    }
}

impl Group {
    fn is_connected(&self) -> bool {
        self.bus.health() == Health::Ready
    }

    fn say(&self, kind: u8) -> Result<(), PublishError> {
        let mut payload = vec![kind];
        payload.extend_from_slice(&self.meta.borrow());
        self.bus.publish(self.own.as_str(), payload)
    }

    /// Schedules a heartbeat, unless an earlier one is scheduled.
    fn beat_after(self: &Rc<Self>, delay: Duration) {
        let reactor = self.bus.reactor();
        let due = reactor.now().checked_add(delay);
        let pending = self.next.borrow().as_ref().and_then(DelayedCall::deadline);
        if pending.is_some_and(|pending| due.is_none_or(|due| pending <= due)) {
            return;
        }
        let me = Rc::downgrade(self);
        let next = reactor.call_later(delay, move || {
            me.upgrade().iter().for_each(Group::beat);
        });
        if let Some(earlier) = self.next.replace(Some(next)) {
            earlier.cancel();
        }
    }

    fn beat(self: &Rc<Self>) {
        let now = self.bus.reactor().now();
        let is_away = !self.is_connected();
        let was_away = self.was_away.replace(is_away);
        if !is_away {
            if was_away {
                self.peers.borrow_mut().edit().values_mut().for_each(|known| known.seen = now);
            }
            // A full queue is counted and reported by the bus.
            let _ = self.say(if was_away { HELLO } else { ALIVE });
            self.expire(now);
        }
        self.beat_after(self.options.interval);
    }

    fn expire(&self, now: Instant) {
        let most = self.options.interval.saturating_mul(MISSED);
        let mut gone = Vec::new();
        self.peers.borrow_mut().edit().retain(|id, known| {
            let stays = now.saturating_duration_since(known.seen) < most;
            if !stays {
                gone.push(peer(id, &known.meta));
            }
            stays
        });
        gone.into_iter().for_each(|peer| self.report(PresenceEvent::Left(peer)));
    }

    fn hear(self: &Rc<Self>, message: &Message) {
        let id = message.subject().rsplit('.').next().unwrap_or_default();
        if id == self.id || message.payload().is_empty() {
            return;
        }
        let (kind, meta) = (message.payload()[0], message.payload().slice(1..));
        match kind {
            BYE => {
                let known = self.peers.borrow_mut().edit().remove(id);
                known.into_iter().for_each(|known| {
                    self.report(PresenceEvent::Left(peer(id, &known.meta)));
                });
            }
            HELLO | ALIVE => {
                self.note(id, meta);
                if kind == HELLO {
                    // All members answer, and not at the same moment.
                    let part = hooks::random(self.bus.reactor()) % 256;
                    self.beat_after(self.options.interval.mul_f64(part as f64 / 2560.0));
                }
            }
            _ => {}
        }
    }

    /// A peer sent a heartbeat.
    fn note(&self, id: &str, meta: Bytes) {
        let mut peers = self.peers.borrow_mut();
        let seen = self.bus.reactor().now();
        let is_full = peers.is_full();
        let mut known_peers = peers.edit();
        let event = match known_peers.get_mut(id) {
            Some(known) if known.meta == meta => {
                known.seen = seen;
                return;
            }
            Some(known) => {
                *known = Known { meta: meta.clone(), seen };
                PresenceEvent::Changed(peer(id, &meta))
            }
            None if is_full => PresenceEvent::Ignored(peer(id, &meta)),
            None => {
                known_peers.insert(id.to_owned(), Known { meta: meta.clone(), seen });
                PresenceEvent::Joined(peer(id, &meta))
            }
        };
        drop(known_peers);
        drop(peers);
        self.report(event);
    }

    /// Adds an event to the bus's inbox.
    fn report(&self, event: PresenceEvent) {
        if let Some(observer) = self.observer.borrow().clone() {
            self.bus.core.push(Item::Call(Box::new(move || observer(&event))));
        }
    }
}

fn peer(id: &str, meta: &Bytes) -> Peer {
    Peer { id: id.to_owned(), meta: meta.clone() }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence")
            .field("id", &self.id())
            .field("peers", &self.group.peers.borrow().len())
            .finish_non_exhaustive()
    }
}
