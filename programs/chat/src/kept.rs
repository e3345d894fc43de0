//! The lines of a chat with a history, in the loop of the link: members' lines go to a log, which
//! has one order for all servers, and the log's lines go to the room.
//!
//! Contract: 228–228b.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use couplet::bus::{Bus, Entry, Following, Limit, Log, LogError, LogLimits, Page, Position, Start};
use couplet::rooms::Rooms;
use couplet::services::Health;
use couplet::{Bytes, Failure, Reactor};

use crate::bus::LONGEST;
use crate::history::{AGE, Line};
use crate::room::{Channel, Names};
use crate::serve::MOST_KEPT;
use crate::text::clean;

/// The name of the log.
const LOG: &str = "couplet.chat.log";
/// How long a line is sent to a log that does not answer.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time between two looks at the log's health.
const CHECK: Duration = Duration::from_secs(1);
/// Most bytes of lines that wait for the log; further ones are lost.
const QUEUE: usize = 1024 * 1024;

/// The lines of the chat, as its link writes and reads them.
pub(crate) struct KeptLines(Rc<SharedLines>);

struct SharedLines {
    reactor: Reactor,
    log: Log,
    rooms: Rooms<Channel, String>,
    names: Arc<Names>,
    /// The most lines that are kept for returning members.
    most: usize,
    last: Cell<u64>,
    /// The lines that are not confirmed.
    waiting: RefCell<BTreeMap<u64, Unconfirmed>>,
    /// Whether the log has reported why it keeps no lines.
    is_reported: Cell<bool>,
    following: RefCell<Option<Following>>,
}

/// A line that the log has not confirmed.
enum Unconfirmed {
    /// Not shown yet: the people of this server will see the line with its number.
    Hidden(Bytes),
    /// Shown to the people of this server already, without a number.
    Shown,
}

impl KeptLines {
    pub(crate) fn new(
        bus: &Bus,
        rooms: &Rooms<Channel, String>,
        names: &Arc<Names>,
        most: usize,
    ) -> couplet::Result<KeptLines> {
        let limits = LogLimits {
            messages: MOST_KEPT.into(),
            bytes: u64::from(MOST_KEPT) * LONGEST as u64 * 2,
            age: AGE,
            patience: PATIENCE,
            queue: Limit { messages: 65_536, bytes: QUEUE },
        };
        let shared = Rc::new(SharedLines {
            reactor: bus.reactor().clone(),
            log: bus.log(LOG, limits)?,
            rooms: rooms.clone(),
            names: names.clone(),
            most,
            last: Cell::new(0),
            waiting: RefCell::default(),
            is_reported: Cell::new(false),
            following: RefCell::default(),
        });
        shared.begin();
        shared.check_later();
        Ok(KeptLines(shared))
    }

    /// A member has said a line. The people of this server see the line with its number, or
    /// immediately if the log can't be reached.
    pub(crate) fn say(&self, line: &Bytes) {
        let shared = &self.0;
        let unconfirmed = match shared.log.health() {
            Health::Ready => Unconfirmed::Hidden(line.clone()),
            _ => {
                shared.show(line);
                Unconfirmed::Shown
            }
        };
        let number = shared.last.get() + 1;
        shared.last.set(number);
        shared.waiting.borrow_mut().insert(number, unconfirmed);
        let weak = Rc::downgrade(shared);
        let appended = shared.log.append(line.clone());
        appended
            .add_both(move |result| {
                confirmed(&weak, number, result.err());
                Ok(())
            })
            .detach();
    }

    pub(crate) fn health(&self) -> Health {
        self.0.log.health()
    }

    /// The log can't be reached: shows the unconfirmed lines to the people of this server, each
    /// line only once even if this happens again.
    pub(crate) fn cut_off(&self) {
        let mut waiting = self.0.waiting.borrow_mut();
        let lines = waiting.values_mut().map(|line| std::mem::replace(line, Unconfirmed::Shown));
        let lines: Vec<Unconfirmed> = lines.collect();
        drop(waiting);
        for line in lines {
            if let Unconfirmed::Hidden(line) = line {
                self.0.show(&line);
            }
        }
    }
}

fn confirmed(shared: &Weak<SharedLines>, number: u64, failure: Option<Failure>) {
    let Some(shared) = shared.upgrade() else { return };
    let waited = shared.waiting.borrow_mut().remove(&number);
    if let Some(failure) = failure {
        tracing::warn!(%failure, "a line was not kept");
        if let Some(Unconfirmed::Hidden(line)) = waited {
            shared.show(&line);
        }
        shared.notice("A line was not kept: the other servers miss it.");
    }
}

impl SharedLines {
    /// Reports that the log keeps no lines, or keeps them again, unless the bus reports that: the
    /// log has no event for it.
    fn check_later(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        self.reactor.call_later(CHECK, move || {
            let Some(shared) = weak.upgrade() else { return };
            let is_cut_off = shared.names.others(|others| others.is_cut_off);
            match shared.log.health() {
                Health::Degraded(why) if !is_cut_off && !shared.is_reported.replace(true) => {
                    tracing::warn!("no lines are kept: {why}");
                }
                Health::Ready if shared.is_reported.take() => {
                    tracing::info!("lines are kept again");
                }
                _ => {}
            }
            shared.check_later();
        });
    }

    /// Reads the log from the lines that are kept here, and then the next ones.
    fn begin(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        let begun = self.log.last(1).add_both(move |page| {
            let Some(shared) = weak.upgrade() else { return Ok(()) };
            match page {
                Ok(page) => shared.follow(&page),
                Err(failure) => match failure.downcast_ref() {
                    Some(LogError::Closed) => {}
                    _ => shared.begin(),
                },
            }
            Ok(())
        });
        begun.detach();
    }

    fn follow(self: &Rc<Self>, page: &Page) {
        let newest = page.last.number().saturating_sub(self.most as u64);
        let before = page.last.with_number(newest.max(page.first.number() - 1));
        self.names.history(|history| history.begin_anew(before.with_number(before.number() + 1)));
        let weak = Rc::downgrade(self);
        let following = self.log.follow(Start::After(before), move |entry| {
            weak.upgrade().iter().for_each(|shared| shared.read(&entry));
        });
        *self.following.borrow_mut() = Some(following);
    }

    fn publish(
        &self,
        channel: Channel,
        line: impl Into<Bytes>,
    ) -> Option<couplet::rooms::Position> {
        let published = self.rooms.publish(&channel, line);
        published.inspect_err(|error| tracing::error!(%error, "a line was lost")).ok()
    }

    /// Shows a line without a number.
    fn show(&self, line: &Bytes) {
        self.publish(Channel::People, line.clone());
    }

    fn notice(&self, text: &str) {
        self.publish(Channel::People, format!("* {text}\n"));
    }

    /// Shows a line with its number; each number of the log has one, or is in a gap.
    fn keep(&self, position: Position, line: &str) {
        let line = format!("[{}] {line}\n", position.number());
        let (bytes, now) = (line.len(), self.reactor.now());
        // Under one lock: a member who joins after another has seen the line finds it in the history.
        self.names.history(|history| {
            if let Some(place) = self.publish(Channel::Lines, line) {
                history.add(position, Line { place, bytes, at: now });
            }
        });
    }

    fn read(&self, entry: &Entry) {
        match entry {
            Entry::Message { position, payload, .. } => {
                // A bus may have other users, so it is checked.
                let line = payload.strip_suffix(b"\n").filter(|line| line.len() <= LONGEST);
                self.keep(*position, &clean(line.unwrap_or(b"* (this is no line)")));
            }
            Entry::Gap { from, to } => {
                self.keep(*to, &format!("* Lines {} to {} are lost.", from.number(), to.number()));
            }
            Entry::Reset { next } => {
                self.names.history(|history| history.begin_anew(*next));
                self.notice(&format!("The lines begin anew, with {next}."));
            }
            entry => tracing::warn!("the log: {entry:?}"),
        }
    }
}
