//! The chat's members, and what is sent to all of them.

use std::collections::BTreeMap;

use couplet::protocols::LineTransport;
use couplet::{ConnectionId, Reason};

use super::text::is_name;

/// The members, by their connections and by their names. Law 9: one entry for each connection.
#[derive(Default)]
pub(super) struct Room {
    members: BTreeMap<ConnectionId, Member>,
    /// In lower case, so that Ada and ada are the same name.
    names: BTreeMap<String, ConnectionId>,
    guests: u64,
}

struct Member {
    name: String,
    transport: LineTransport,
}

/// Why a name is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoName {
    Malformed,
    Taken,
}

impl Room {
    /// Adds a member; returns its name until it chooses one.
    pub(super) fn join(&mut self, transport: &LineTransport) -> String {
        let name = loop {
            self.guests += 1;
            let name = format!("guest-{}", self.guests);
            if !self.names.contains_key(&name) {
                break name;
            }
        };
        self.tell_all(&format!("* {name} has joined\n"), None);
        self.names.insert(name.clone(), transport.id());
        let member = Member { name: name.clone(), transport: transport.clone() };
        self.members.insert(transport.id(), member);
        tracing::info!(peer = %transport.peer(), %name, "joined");
        name
    }

    /// Removes a member, with the reason if its connection is lost. Does nothing if it has left
    /// already.
    pub(super) fn leave(&mut self, who: ConnectionId, reason: Option<&Reason>) {
        let Some(member) = self.members.remove(&who) else { return };
        self.names.remove(&member.name.to_ascii_lowercase());
        let name = member.name;
        let how = match reason {
            Some(Reason::Shutdown) => return,
            Some(Reason::Timeout) => " (it was silent for too long)",
            Some(Reason::Overflow) => " (it read too slowly)",
            Some(reason) if !reason.is_clean() => " (the connection was lost)",
            _ => "",
        };
        tracing::info!(%name, "left{how}");
        self.tell_all(&format!("* {name} has left{how}\n"), None);
    }

    /// Renames a member; returns how many bytes each member was sent. Announces nothing if the
    /// name does not change.
    pub(super) fn rename(&mut self, who: ConnectionId, name: &str) -> Result<usize, NoName> {
        if !is_name(name) {
            return Err(NoName::Malformed);
        }
        let key = name.to_ascii_lowercase();
        if self.names.get(&key).is_some_and(|owner| *owner != who) {
            return Err(NoName::Taken);
        }
        let Some(member) = self.members.get_mut(&who).filter(|member| member.name != name) else {
            return Ok(0);
        };
        let old = std::mem::replace(&mut member.name, name.to_owned());
        self.names.remove(&old.to_ascii_lowercase());
        self.names.insert(key, who);
        Ok(self.tell_all(&format!("* {old} is now {name}\n"), None))
    }

    /// Sends a member's text to all others; returns how many bytes each was sent. The text follows
    /// the name, so nobody can speak for another member, or for us.
    pub(super) fn say(&self, who: ConnectionId, text: &str) -> usize {
        let Some(member) = self.members.get(&who) else { return 0 };
        self.tell_all(&format!("<{}> {text}\n", member.name), Some(who))
    }

    /// Sends a line to all, or to all but one. It is buffered, up to the cap, for members that do
    /// not read.
    fn tell_all(&self, line: &str, but: Option<ConnectionId>) -> usize {
        for (id, member) in &self.members {
            if Some(*id) != but {
                member.transport.write(line);
            }
        }
        line.len()
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn name(&self, who: ConnectionId) -> &str {
        self.members.get(&who).map_or("", |member| &member.name)
    }

    /// The list of names, for this member.
    pub(super) fn who(&self, asks: ConnectionId) -> String {
        let name = |(key, id): (&String, &ConnectionId)| {
            let name = self.members.get(id).map_or(&**key, |member| &*member.name);
            if *id == asks { format!("{name} (you)") } else { name.to_owned() }
        };
        let names: Vec<String> = self.names.iter().map(name).collect();
        format!("{} here: {}", names.len(), names.join(", "))
    }
}
