//! The lines of a chat with a history, in the loop of the link: said lines go to a log, and those of
//! the log, which has one order for all servers, to the room.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use couplet::bus::{Bus, Entry, Following, Limit, Log, LogLimits, Start};
use couplet::rooms::Rooms;
use couplet::{Bytes, Failure};

use super::bus::LONGEST;
use super::room::{Channel, Names};
use super::text::clean;

/// The name of the log.
const LOG: &str = "couplet.chat.log";
/// Time for which a line is sent to a log that does not answer.
const PATIENCE: Duration = Duration::from_secs(600);
/// Most bytes of lines that wait for the log; further ones are lost.
const QUEUE: usize = 1024 * 1024;
/// Age at which a line is removed.
pub(super) const AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The lines of the chat, as its link writes and reads them.
pub(super) struct KeptLines {
    log: Log,
    shared: Rc<Shared>,
    _following: Following,
}

struct Shared {
    rooms: Rooms<Channel, String>,
    names: Arc<Names>,
    last: Cell<u64>,
    /// The lines that are not confirmed.
    // Bound: the log's queue.
    waiting: RefCell<BTreeMap<u64, Bytes>>,
}

impl KeptLines {
    pub(super) fn new(
        bus: &Bus,
        rooms: &Rooms<Channel, String>,
        names: &Arc<Names>,
        most: usize,
    ) -> couplet::Result<KeptLines> {
        let limits = LogLimits {
            messages: most as u64,
            bytes: (most * LONGEST * 2) as u64,
            age: AGE,
            patience: PATIENCE,
            queue: Limit { messages: 65_536, bytes: QUEUE },
        };
        let log = bus.log(LOG, limits)?;
        let shared = Rc::new(Shared {
            rooms: rooms.clone(),
            names: names.clone(),
            last: Cell::new(0),
            waiting: RefCell::default(),
        });
        let weak = Rc::downgrade(&shared);
        let following = log.follow(Start::Oldest, move |entry| {
            weak.upgrade().iter().for_each(|shared| shared.read(&entry));
        });
        Ok(KeptLines { log, shared, _following: following })
    }

    /// A member of this server has said a line. Its people see it with its number, or immediately if
    /// the log can't be reached.
    pub(super) fn say(&self, line: &Bytes) {
        let shared = &self.shared;
        if shared.names.others(|others| others.is_cut_off) {
            shared.show(line);
        }
        let number = shared.last.get() + 1;
        shared.last.set(number);
        shared.waiting.borrow_mut().insert(number, line.clone());
        let weak = Rc::downgrade(shared);
        let appended = self.log.append(line.clone());
        appended
            .add_both(move |result| {
                confirmed(&weak, number, result.err());
                Ok(())
            })
            .detach();
    }

    /// The log can't be reached: the people of this server see the lines that wait for it.
    pub(super) fn cut_off(&self) {
        for line in self.shared.waiting.borrow().values() {
            self.shared.show(line);
        }
    }
}

fn confirmed(shared: &Weak<Shared>, number: u64, failure: Option<Failure>) {
    let Some(shared) = shared.upgrade() else { return };
    shared.waiting.borrow_mut().remove(&number);
    if let Some(failure) = failure {
        tracing::warn!(%failure, "a line was not kept");
        shared.notice("A line was not kept: the other servers miss it.");
    }
}

impl Shared {
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

    fn read(&self, entry: &Entry) {
        match entry {
            Entry::Message { position, payload, .. } => {
                let line = payload.strip_suffix(b"\n").filter(|line| line.len() <= LONGEST);
                // A bus may have other users, so it is checked.
                let Some(line) = line else {
                    tracing::debug!(bytes = payload.len(), "the log has a message that is no line");
                    return self.names.history(|history| history.reach(*position));
                };
                let line = format!("[{}] {}\n", position.number(), clean(line));
                if let Some(place) = self.publish(Channel::Lines, line) {
                    self.names.history(|history| history.add(*position, place));
                }
            }
            Entry::Gap { from, to } => {
                self.notice(&format!("Lines {} to {} are lost.", from.number(), to.number()));
                self.names.history(|history| history.reach(*to));
            }
            Entry::Reset { next } => {
                self.names.history(|history| history.begin_anew(*next));
                self.notice(&format!("The lines begin anew, with {next}."));
            }
            entry => tracing::warn!("the log: {entry:?}"),
        }
    }
}
