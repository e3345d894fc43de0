//! The chat's room: its members in all loops, and their names.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use couplet::protocols::LineTransport;
use couplet::rooms::{JoinError, Member, RoomOptions, Rooms, SharedRooms};
use couplet::{Reactor, Reason};

use super::text::is_name;

thread_local! {
    /// The rooms of this thread's chats.
    // Bound: one for each chat of a configuration, old ones included until the next.
    static ROOMS: RefCell<Vec<Weak<Room>>> = const { RefCell::new(Vec::new()) };
}

/// The room of all loops, whose members have their names as metadata.
#[derive(Clone)]
pub(super) struct SharedRoom {
    rooms: SharedRooms<(), String>,
    names: Arc<Names>,
}

/// The room as one loop sees it.
pub(super) struct Room {
    rooms: Rooms<(), String>,
    names: Arc<Names>,
}

/// A member of the room.
pub(super) struct Guest {
    room: Rc<Room>,
    member: Member<(), String>,
    name: Name,
}

/// A name that no other member has, until it is dropped.
struct Name {
    // Bound: NAME_LENGTH (20 bytes).
    text: String,
    names: Arc<Names>,
}

/// The names of all members.
#[derive(Default)]
struct Names(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    /// In lower case, so that Ada and ada are the same name.
    // Bound: one for each connection.
    names: BTreeSet<String>,
    /// Members so far, for default names.
    count: u64,
}

/// Why a name is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NameError {
    Malformed,
    Taken,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    /// A default name.
    fn new(names: &Arc<Names>) -> Name {
        let mut taken = names.lock();
        loop {
            taken.count += 1;
            let text = format!("guest-{}", taken.count);
            if taken.names.insert(text.clone()) {
                return Name { text, names: names.clone() };
            }
        }
    }

    /// Takes another name, and frees this one.
    fn change(&mut self, text: &str) -> Result<(), NameError> {
        if !is_name(text) {
            return Err(NameError::Malformed);
        }
        let (old, new) = (self.text.to_ascii_lowercase(), text.to_ascii_lowercase());
        if old != new {
            let mut taken = self.names.lock();
            if !taken.names.insert(new) {
                return Err(NameError::Taken);
            }
            taken.names.remove(&old);
        }
        text.clone_into(&mut self.text);
        Ok(())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.names.lock().names.remove(&self.text.to_ascii_lowercase());
    }
}

impl SharedRoom {
    pub(super) fn new() -> SharedRoom {
        let rooms = SharedRooms::new(|(): &()| RoomOptions::default());
        SharedRoom { rooms, names: Arc::default() }
    }

    /// The room of a loop.
    pub(super) fn attach(&self, reactor: &Reactor) -> Rc<Room> {
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
    /// The room of this thread, if there is only one: members of several can't be told apart in
    /// another process.
    pub(super) fn only() -> Option<Rc<Room>> {
        ROOMS.with_borrow(|rooms| {
            let mut rooms = rooms.iter().filter_map(Weak::upgrade);
            rooms.next().filter(|_| rooms.next().is_none())
        })
    }

    /// Adds a member with a default name.
    pub(super) fn join(self: &Rc<Self>, transport: &LineTransport) -> Result<Guest, JoinError> {
        let guest = self.add(transport, Name::new(&self.names))?;
        let name = guest.name();
        tracing::info!(peer = %transport.peer(), %name, "joined");
        guest.publish(format!("* {name} has joined\n"));
        Ok(guest)
    }

    /// Adds a member of this name from the room of another process, without a word. If the name is
    /// taken, the member gets a default one.
    pub(super) fn move_in(
        self: &Rc<Self>,
        transport: &LineTransport,
        name: &str,
    ) -> Result<Guest, JoinError> {
        let mut default = Name::new(&self.names);
        let _ = default.change(name);
        self.add(transport, default)
    }

    fn add(self: &Rc<Self>, transport: &LineTransport, name: Name) -> Result<Guest, JoinError> {
        let member = self.rooms.join(&(), transport, name.text.clone())?;
        Ok(Guest { room: self.clone(), member, name })
    }

    pub(super) fn len(&self) -> usize {
        self.names.lock().names.len()
    }
}

impl Guest {
    pub(super) fn name(&self) -> &str {
        &self.name.text
    }

    /// Renames the member; returns the line that the others get, unless the name is the same.
    pub(super) fn rename(&mut self, name: &str) -> Result<Option<String>, NameError> {
        if name == self.name() {
            return Ok(None);
        }
        let old = self.name().to_owned();
        self.name.change(name)?;
        self.member.set_meta(name.to_owned());
        let line = format!("{old} is now {name}");
        self.publish(format!("* {line}\n"));
        Ok(Some(line))
    }

    /// Sends the member's text to all others; returns how many bytes each was sent. The text follows
    /// the name, so no member can impersonate another member or the server.
    pub(super) fn say(&self, text: &str) -> usize {
        let line = format!("<{}> {text}\n", self.name());
        let length = line.len();
        self.publish(line);
        length
    }

    /// Sends a line to the others.
    fn publish(&self, line: String) {
        if let Err(error) = self.member.publish_to_others(line) {
            tracing::error!(%error, "a line was lost");
        }
    }

    /// The list of names.
    pub(super) fn who(&self) -> String {
        let mut present = self.room.rooms.present(&());
        present.sort_by_cached_key(|member| member.meta.to_ascii_lowercase());
        let shown = present.iter().map(|member| match member.id == self.member.id() {
            true => format!("{} (you)", member.meta),
            false => member.meta.to_string(),
        });
        format!("{} here: {}", present.len(), shown.collect::<Vec<_>>().join(", "))
    }

    /// Leaves the room; the others get the reason if the connection is lost.
    pub(super) fn leave(self, reason: Option<&Reason>) {
        let how = match reason {
            Some(Reason::Shutdown) => "",
            Some(Reason::Timeout) => " (it was silent for too long)",
            Some(Reason::Overflow) => " (it read too slowly)",
            Some(reason) if !reason.is_clean() => " (the connection was lost)",
            _ => "",
        };
        if !matches!(reason, Some(Reason::Shutdown)) {
            tracing::info!(name = %self.name(), "left{how}");
            self.publish(format!("* {} has left{how}\n", self.name()));
        }
        self.member.leave();
    }

    /// Leaves for the room of another process, without a word, after the lines that were said
    /// before. Returns the name.
    pub(super) fn move_out(self) -> String {
        self.room.rooms.flush();
        self.member.leave();
        self.name().to_owned()
    }
}
