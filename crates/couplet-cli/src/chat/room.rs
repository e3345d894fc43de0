//! The chat's members, and the lines sent to all of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use couplet::protocols::LineTransport;
use couplet::reactor::Members;
use couplet::{ConnectionId, Reason};

use super::text::is_name;

thread_local! {
    /// The room of this thread's loop, if it is one of several.
    static ROOM: RefCell<Option<Rc<RefCell<Room>>>> = const { RefCell::new(None) };
    /// The rooms of this thread that are alone in the process.
    // Bound: one for each chat of a configuration, old ones included until the next.
    static ROOMS: RefCell<Vec<Weak<RefCell<Room>>>> = const { RefCell::new(Vec::new()) };
}

/// One loop's view of the room. Law 9: one entry for each connection.
#[derive(Default)]
pub(super) struct Room {
    guests: Arc<Guests>,
    /// Members connected to this loop.
    // Bound: one for each connection.
    members: BTreeMap<ConnectionId, LineTransport>,
    /// The cluster's loops, if there are several.
    loops: Option<Members>,
}

/// The members' names in all loops.
#[derive(Default)]
pub(super) struct Guests(Mutex<Names>);

/// Names by connection. Law 9: one entry for each connection.
#[derive(Default)]
struct Names {
    // Bound: one for each connection.
    by_id: BTreeMap<ConnectionId, String>,
    /// Connections by name in lower case, so that Ada and ada are the same name.
    // Bound: one for each connection.
    by_name: BTreeMap<String, ConnectionId>,
    /// Members so far, for default names.
    count: u64,
}

/// Why a name is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameError {
    Malformed,
    Taken,
}

impl Guests {
    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    /// Gives a new member a default name.
    fn join(&mut self, who: ConnectionId) -> String {
        let name = loop {
            self.count += 1;
            let name = format!("guest-{}", self.count);
            if !self.by_name.contains_key(&name) {
                break name;
            }
        };
        self.by_name.insert(name.clone(), who);
        self.by_id.insert(who, name.clone());
        name
    }

    /// Removes a member and returns its name.
    fn leave(&mut self, who: ConnectionId) -> Option<String> {
        let name = self.by_id.remove(&who)?;
        self.by_name.remove(&name.to_ascii_lowercase());
        Some(name)
    }

    /// Renames a member; returns the old name unless it is the same.
    fn rename(&mut self, who: ConnectionId, name: &str) -> Result<Option<String>, NameError> {
        if !is_name(name) {
            return Err(NameError::Malformed);
        }
        let key = name.to_ascii_lowercase();
        if self.by_name.get(&key).is_some_and(|owner| *owner != who) {
            return Err(NameError::Taken);
        }
        let Some(known) = self.by_id.get_mut(&who).filter(|known| *known != name) else {
            return Ok(None);
        };
        let old = std::mem::replace(known, name.to_owned());
        self.by_name.remove(&old.to_ascii_lowercase());
        self.by_name.insert(key, who);
        Ok(Some(old))
    }
}

impl Room {
    /// The room of this thread's loop; lines pass between it and the rooms of the other loops.
    pub(super) fn of_loop(guests: Arc<Guests>, loops: Option<Members>) -> Rc<RefCell<Room>> {
        let is_one_of_many = loops.is_some();
        let room = Rc::new(RefCell::new(Room { guests, members: BTreeMap::new(), loops }));
        if is_one_of_many {
            ROOM.set(Some(room.clone()));
        } else {
            ROOMS.with_borrow_mut(|rooms| {
                rooms.retain(|room| room.strong_count() > 0);
                rooms.push(Rc::downgrade(&room));
            });
        }
        room
    }

    /// The room of this thread, if there is only one: members of several can't be told apart in
    /// another process.
    pub(super) fn only() -> Option<Rc<RefCell<Room>>> {
        ROOMS.with_borrow(|rooms| {
            let mut rooms = rooms.iter().filter_map(Weak::upgrade);
            rooms.next().filter(|_| rooms.next().is_none())
        })
    }

    /// Adds a member of this name from the room of another process, without a word. If the name is
    /// taken, the member gets a default one.
    pub(super) fn move_in(&mut self, transport: &LineTransport, name: &str) {
        let who = transport.id();
        let mut names = self.guests.names();
        names.join(who);
        let _ = names.rename(who, name);
        drop(names);
        self.members.insert(who, transport.clone());
    }

    /// Removes a member that moves to the room of another process, without a word. Returns its name.
    pub(super) fn move_out(&mut self, who: ConnectionId) -> Option<String> {
        self.members.remove(&who);
        self.guests.names().leave(who)
    }

    /// Adds a member; returns its default name.
    pub(super) fn join(&mut self, transport: &LineTransport) -> String {
        let name = self.guests.names().join(transport.id());
        self.send_to_all(format!("* {name} has joined\n"), None);
        self.members.insert(transport.id(), transport.clone());
        tracing::info!(peer = %transport.peer(), %name, "joined");
        name
    }

    /// Removes a member, with the reason if its connection is lost. Does nothing if it has left
    /// already.
    pub(super) fn leave(&mut self, who: ConnectionId, reason: Option<&Reason>) {
        self.members.remove(&who);
        let left = self.guests.names().leave(who);
        let Some(name) = left else { return };
        let how = match reason {
            Some(Reason::Shutdown) => return,
            Some(Reason::Timeout) => " (it was silent for too long)",
            Some(Reason::Overflow) => " (it read too slowly)",
            Some(reason) if !reason.is_clean() => " (the connection was lost)",
            _ => "",
        };
        tracing::info!(%name, "left{how}");
        self.send_to_all(format!("* {name} has left{how}\n"), None);
    }

    /// Renames a member; returns how many bytes each member was sent. Announces nothing if the
    /// name does not change.
    pub(super) fn rename(&mut self, who: ConnectionId, name: &str) -> Result<usize, NameError> {
        let renamed = self.guests.names().rename(who, name)?;
        Ok(renamed.map_or(0, |old| self.send_to_all(format!("* {old} is now {name}\n"), None)))
    }

    /// Sends a member's text to all others; returns how many bytes each was sent. The text follows
    /// the name, so no member can impersonate another member or the server.
    pub(super) fn say(&self, who: ConnectionId, text: &str) -> usize {
        let name = self.guests.names().by_id.get(&who).cloned();
        name.map_or(0, |name| self.send_to_all(format!("<{name}> {text}\n"), Some(who)))
    }

    /// Sends a line to every member, or to all but one.
    fn send_to_all(&self, line: String, but: Option<ConnectionId>) -> usize {
        let length = line.len();
        self.send_to_local(&line, but);
        if let Some(loops) = &self.loops {
            let from = thread::current().id();
            loops.broadcast(move |_| Room::receive_line(from, &line));
        }
        length
    }

    /// Delivers a line of another loop's member.
    fn receive_line(from: ThreadId, line: &str) {
        if from != thread::current().id() {
            let room = ROOM.with_borrow(Clone::clone);
            room.iter().for_each(|room| room.borrow().send_to_local(line, None));
        }
    }

    /// Sends a line to this loop's members; it is buffered, up to the cap, for those that do not
    /// read.
    fn send_to_local(&self, line: &str, but: Option<ConnectionId>) {
        for (id, member) in &self.members {
            if Some(*id) != but {
                member.write(line);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.guests.names().by_id.len()
    }

    pub(super) fn name(&self, who: ConnectionId) -> String {
        self.guests.names().by_id.get(&who).cloned().unwrap_or_default()
    }

    /// The list of names, for this member.
    pub(super) fn who(&self, asker: ConnectionId) -> String {
        let names = self.guests.names();
        let name = |(key, id): (&String, &ConnectionId)| {
            let name = names.by_id.get(id).unwrap_or(key);
            if *id == asker { format!("{name} (you)") } else { name.clone() }
        };
        let shown: Vec<String> = names.by_name.iter().map(name).collect();
        format!("{} here: {}", shown.len(), shown.join(", "))
    }
}
