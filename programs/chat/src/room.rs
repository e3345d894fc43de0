//! The chat's room: its members in all loops, and their names, which are unique across all servers
//! of a bus.
//!
//! Contract: 228.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use couplet::protocols::LineTransport;
use couplet::rooms::{JoinError, Member, RoomOptions, Rooms, SharedRooms, Start};
use couplet::{Reactor, Reason};

use crate::history::{AGE, Begin, History, KEPT_BYTES};
use crate::others::Others;
use crate::text::is_name;

/// Time after which no server lists a name that it has lost: longer than a server may be out of
/// reach.
const SETTLED: Duration = Duration::from_secs(8);
/// Most names in an answer to /who: a page takes lines of 64 KiB.
const MOST_LISTED: usize = 2000;

thread_local! {
    /// The rooms of this thread's chats.
    static ROOMS: RefCell<Vec<Weak<Room>>> = const { RefCell::new(Vec::new()) };
}

/// A part of the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Channel {
    /// Notices about members, and all lines that are not kept.
    People,
    /// The lines of a chat with a history, with their numbers.
    Lines,
    /// Lines on their way to the link, which is the only one to keep them.
    Said,
}

/// The room of all loops, whose members have their names as metadata.
#[derive(Clone)]
pub(crate) struct SharedRoom {
    pub(crate) rooms: SharedRooms<Channel, String>,
    pub(crate) names: Arc<Names>,
}

/// The room as one loop sees it.
pub(crate) struct Room {
    rooms: Rooms<Channel, String>,
    names: Arc<Names>,
}

/// A member of the room.
pub(crate) struct Guest {
    room: Rc<Room>,
    member: Member<Channel, String>,
    /// The membership that gets the lines of a chat with a history.
    lines: Option<Member<Channel, String>>,
    name: Name,
}

/// A name that no other member has, until it is dropped.
struct Name {
    text: String,
    since: Instant,
    names: Arc<Names>,
}

/// The names of all members, and of the people on the other servers.
#[derive(Default)]
pub(crate) struct Names(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    /// By the name in lower case: Ada and ada are the same name.
    names: BTreeMap<String, String>,
    /// Members so far, for default names.
    count: u64,
    others: Others,
    history: History,
}

impl Taken {
    /// Takes a name, unless a member or a person on another server has it.
    fn take(&mut self, text: &str) -> bool {
        let key = text.to_ascii_lowercase();
        let is_free = !self.names.contains_key(&key) && !self.others.contains(&key);
        if is_free {
            self.names.insert(key, text.to_owned());
        }
        is_free
    }
}

/// Why a name is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NameError {
    Malformed,
    Taken,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the other servers, or changes them.
    pub(crate) fn others<R>(&self, f: impl FnOnce(&mut Others) -> R) -> R {
        f(&mut self.lock().others)
    }

    /// Looks at the kept lines, or changes them.
    pub(crate) fn history<R>(&self, f: impl FnOnce(&mut History) -> R) -> R {
        f(&mut self.lock().history)
    }

    /// The announcement of this server's people.
    #[cfg(any(feature = "bus", test))]
    pub(crate) fn announcement(&self) -> String {
        let taken = self.lock();
        taken.others.announce(taken.names.values().map(String::as_str))
    }
}

impl Name {
    /// A default name.
    fn new(names: &Arc<Names>, since: Instant) -> Name {
        let mut taken = names.lock();
        loop {
            taken.count += 1;
            let text = format!("guest-{}", taken.count);
            if taken.take(&text) {
                return Name { text, since, names: names.clone() };
            }
        }
    }

    /// The name of a member of another process, which may have announced the name to other servers;
    /// a default name if a member of this process has it.
    fn moved(names: &Arc<Names>, since: Instant, text: String) -> Name {
        let mut taken = names.lock();
        let key = text.to_ascii_lowercase();
        if !is_name(&text) || taken.names.contains_key(&key) {
            drop(taken);
            return Name::new(names, since);
        }
        taken.names.insert(key, text.clone());
        Name { text, since, names: names.clone() }
    }

    /// Takes another name, and frees this one.
    fn change(&mut self, text: &str, now: Instant) -> Result<(), NameError> {
        if !is_name(text) {
            return Err(NameError::Malformed);
        }
        let mut taken = self.names.lock();
        // The new name may differ only in case.
        let own = taken.names.remove_entry(&self.text.to_ascii_lowercase());
        if !taken.take(text) {
            taken.names.extend(own);
            return Err(NameError::Taken);
        }
        drop(taken);
        text.clone_into(&mut self.text);
        self.since = now;
        Ok(())
    }

    /// Whether a person on another server keeps the name. A server that a member has left, for
    /// example for a new process, may list it a little longer.
    fn is_lost(&self, now: Instant) -> bool {
        let is_settled = now.saturating_duration_since(self.since) >= SETTLED;
        is_settled && self.names.others(|others| others.claims(&self.text.to_ascii_lowercase()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.names.lock().names.remove(&self.text.to_ascii_lowercase());
    }
}

impl SharedRoom {
    /// A room that keeps `history` lines; 0 keeps none.
    pub(crate) fn new(history: usize) -> SharedRoom {
        let rooms = SharedRooms::new(move |channel: &Channel| match channel {
            Channel::Lines => RoomOptions::default().history(history, KEPT_BYTES, AGE),
            Channel::People | Channel::Said => RoomOptions::default(),
        });
        let names = Arc::<Names>::default();
        names.history(|kept| *kept = History::new(history));
        SharedRoom { rooms, names }
    }

    /// The room of a loop, which is the same for all its ports.
    pub(crate) fn attach(&self, reactor: &Reactor) -> Rc<Room> {
        let attached = ROOMS.with_borrow(|rooms| {
            let mut rooms = rooms.iter().filter_map(Weak::upgrade);
            rooms.find(|room| Arc::ptr_eq(&room.names, &self.names))
        });
        attached.unwrap_or_else(|| self.attach_first(reactor))
    }

    fn attach_first(&self, reactor: &Reactor) -> Rc<Room> {
        let room = Room { rooms: self.rooms.attach(reactor), names: self.names.clone() };
        let room = Rc::new(room);
        ROOMS.with_borrow_mut(|rooms| {
            rooms.retain(|room| room.strong_count() > 0);
            rooms.push(Rc::downgrade(&room));
        });
        room
    }
}

impl Room {
    /// The room of this thread, if there is only one: another process can't distinguish the members
    /// of several rooms.
    pub(crate) fn only() -> Option<Rc<Room>> {
        ROOMS.with_borrow(|rooms| {
            let mut rooms = rooms.iter().filter_map(Weak::upgrade);
            rooms.next().filter(|_| rooms.next().is_none())
        })
    }

    /// Adds a member with a default name.
    pub(crate) fn join(self: &Rc<Self>, transport: &LineTransport) -> Result<Guest, JoinError> {
        let name = Name::new(&self.names, transport.reactor().now());
        let guest = self.add(transport, name)?;
        let name = guest.name();
        tracing::info!(peer = %transport.peer(), %name, "joined");
        guest.publish(format!("* {name} has joined\n"));
        Ok(guest)
    }

    /// Adds a member of this name from the room of another process, without a notice. If the name
    /// is taken, the member gets a default one.
    pub(crate) fn move_in(
        self: &Rc<Self>,
        transport: &LineTransport,
        name: &str,
    ) -> Result<Guest, JoinError> {
        let name = Name::moved(&self.names, transport.reactor().now(), name.to_owned());
        let mut guest = self.add(transport, name)?;
        guest.read_lines(Start::Now)?;
        Ok(guest)
    }

    fn add(self: &Rc<Self>, transport: &LineTransport, name: Name) -> Result<Guest, JoinError> {
        let member = self.rooms.join(&Channel::People, transport, name.text.clone())?;
        Ok(Guest { room: self.clone(), member, lines: None, name })
    }

    /// The number of people on all servers.
    pub(crate) fn len(&self) -> usize {
        let taken = self.names.lock();
        taken.names.len() + taken.others.count()
    }

    /// The position of the last line that is kept, as text.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.names.history(|history| history.last()).map(|last| last.to_string())
    }

    /// Whether the other servers can't be reached.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.names.others(|others| others.is_cut_off)
    }
}

impl Guest {
    pub(crate) fn name(&self) -> &str {
        &self.name.text
    }

    fn now(&self) -> Instant {
        self.member.transport().reactor().now()
    }

    /// Renames the member; returns the line that the others get, unless the name is the same.
    pub(crate) fn rename(&mut self, name: &str) -> Result<Option<String>, NameError> {
        if name == self.name() {
            return Ok(None);
        }
        let old = self.name().to_owned();
        self.name.change(name, self.now())?;
        Ok(Some(self.announce_change(&old)))
    }

    /// Takes a default name if another server gave this one away before both knew; returns
    /// the line that the others get.
    pub(crate) fn yield_name(&mut self) -> Option<String> {
        let now = self.now();
        if !self.name.is_lost(now) {
            return None;
        }
        let default = Name::new(&self.room.names, now);
        let old = std::mem::replace(&mut self.name, default);
        Some(self.announce_change(&old.text))
    }

    fn announce_change(&self, old: &str) -> String {
        self.member.set_meta(self.name().to_owned());
        let line = format!("{old} is now {}", self.name());
        self.publish(format!("* {line}\n"));
        line
    }

    /// Sends the member's text to all others; returns how many bytes each was sent. The text follows
    /// the name, so no member can impersonate another member or the server.
    pub(crate) fn say(&self, text: &str) -> usize {
        let line = format!("<{}> {text}\n", self.name());
        let length = line.len();
        match self.lines {
            Some(_) => {
                let said = self.room.rooms.publish(&Channel::Said, line);
                said.map(drop).unwrap_or_else(|error| tracing::error!(%error, "a line was lost"));
            }
            None => self.publish(line),
        }
        length
    }

    /// Sends the member the kept lines from `start` on, and then the next ones.
    pub(crate) fn read_lines(&mut self, start: Start) -> Result<(), JoinError> {
        if !self.room.names.history(|history| history.is_kept()) {
            return Ok(());
        }
        self.leave_lines();
        let (rooms, transport) = (&self.room.rooms, self.member.transport());
        let (name, join) =
            (String::new(), |start, name| rooms.join_from(&Channel::Lines, transport, name, start));
        let (mut lines, replay) = join(start, name)?;
        if !replay.is_complete {
            // The room has removed a line in the meantime.
            lines.leave();
            lines = join(Start::Oldest, String::new())?.0;
        }
        self.lines = Some(lines);
        Ok(())
    }

    fn leave_lines(&mut self) {
        if let Some(lines) = self.lines.take() {
            lines.leave();
        }
    }

    /// [`read_lines`](Self::read_lines) with the last few.
    pub(crate) fn read_last_lines(&mut self) -> Result<(), JoinError> {
        let start = self.room.names.history(|history| history.first_start(self.now()));
        self.read_lines(start)
    }

    /// The start of a member who has the lines up to `after`; see [`History::start_after`].
    pub(crate) fn begin_after(&self, after: &str) -> Option<Begin> {
        self.room.names.history(|history| history.start_after(after, self.now()))
    }

    /// Whether the chat has a history.
    pub(crate) fn has_history(&self) -> bool {
        self.lines.is_some()
    }

    /// Sends a line to the others.
    fn publish(&self, line: String) {
        if let Err(error) = self.member.publish_to_others(line) {
            tracing::error!(%error, "a line was lost");
        }
    }

    /// The list of names, on all servers that can be reached.
    pub(crate) fn who(&self) -> String {
        let taken = self.room.names.lock();
        let others = Some(&taken.others).filter(|others| !others.is_cut_off);
        let elsewhere = others.into_iter().flat_map(Others::names);
        let here = taken.names.values().map(|name| (name.as_str(), *name == self.name()));
        let mut names: Vec<(&str, bool)> =
            here.chain(elsewhere.map(|name| (name, false))).collect();
        names.sort_by_cached_key(|(name, _)| name.to_ascii_lowercase());
        names.truncate(MOST_LISTED);
        let count = taken.names.len() + others.map_or(0, Others::count);
        let shown = names.iter().map(|(name, is_you)| match is_you {
            true => format!("{name} (you)"),
            false => (*name).to_owned(),
        });
        let mut list = format!("{count} here: {}", shown.collect::<Vec<_>>().join(", "));
        if count > names.len() {
            list.push_str(&format!(", and {} more", count - names.len()));
        }
        if others.is_none() {
            list.push_str("; the other servers are out of reach");
        }
        list
    }

    /// Leaves the room; the others get the reason if the connection is lost.
    pub(crate) fn leave(mut self, reason: Option<&Reason>) {
        let how = match reason {
            Some(Reason::Shutdown) => "",
            Some(Reason::Timeout) => " (it was silent for too long)",
            Some(Reason::Overflow) => " (it read too slowly)",
            Some(reason) if !reason.is_clean() => " (the connection was lost)",
            _ => "",
        };
        if matches!(reason, Some(Reason::Shutdown)) {
            self.room.names.others(|others| others.leave(self.name()));
        } else {
            tracing::info!(name = %self.name(), "left{how}");
            self.publish(format!("* {} has left{how}\n", self.name()));
        }
        self.leave_lines();
        self.member.leave();
    }

    /// Leaves for the room of another process, without a notice, after the lines that were said
    /// before. Returns the name.
    pub(crate) fn move_out(mut self) -> String {
        self.room.rooms.flush();
        self.leave_lines();
        self.member.leave();
        self.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use couplet::testing::hold;

    use super::*;
    use crate::held::Nobody;
    use crate::others::People;

    #[test]
    fn a_name_that_another_server_lists_is_kept_until_its_list_must_be_right() {
        let (names, since) = (Arc::<Names>::default(), hold(Nobody).reactor().now());
        let others = |others: &mut Others| {
            others.begin("b");
            others.update("a".to_owned(), People::parse(b"1 Ada"));
        };
        names.others(others);
        let mut name = Name::moved(&names, since, "ada".to_owned());
        assert!(!name.is_lost(since + SETTLED - Duration::from_millis(1)));
        assert!(name.is_lost(since + SETTLED));
        assert_eq!(name.change("ADA", since), Err(NameError::Taken));
        assert_eq!(name.change("bob", since), Ok(()));
        assert!(!name.is_lost(since + SETTLED));
        assert_eq!(names.announcement(), "1 bob");
    }
}
