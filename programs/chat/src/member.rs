//! A member: the connection of a line client, or of a page.
//!
//! Each line is sent to all other members, after the sender's name. A slow reader does not delay
//! the others: its lines are buffered up to a cap, then it is disconnected.
//!
//! Contract: 71, 228.

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::Duration;

use couplet::protocols::{LineOnlyReceiver, LineProtocol, LineTransport};
use couplet::rooms::JoinError;
use couplet::transport::Timeout;
use couplet::{Failure, HandOver, Protocol, Reason, SocketOption, hooks};

use crate::history::Begin;
use crate::rate_limit::{RateLimit, share};
use crate::room::{Guest, NameError, Room};
use crate::text::{NAME_LENGTH, clean};

/// Longest line, in bytes.
pub(crate) const LINE_LENGTH: usize = 512;
/// Law 9: the most bytes buffered for a member that does not read; above it the member is
/// disconnected.
pub(crate) const WRITE_CAP: usize = 1024 * 1024;
/// Size of the kernel's send buffer, below its default: a slow reader fills it on top of the cap.
const SEND_BUFFER: usize = 128 * 1024;
/// Fixed cost of a line, in bytes.
const LINE_COST: usize = 16;
/// Cost of kept lines that are sent again, in bytes.
const REPLAY_COST: usize = 16 * 1024;

/// One member's connection.
pub(crate) struct ChatServer {
    room: Rc<Room>,
    rate_limit: RateLimit,
    /// Bytes sent to each recipient because of the current line.
    said: usize,
    /// Bytes sent only to this member because of the current line.
    answered: usize,
    member: Member,
    /// Whether it may continue in another process. A page connects again.
    may_move: bool,
}

/// How a connection belongs to the room.
enum Member {
    /// Joins when the connection is made.
    New {
        idle_timeout: Option<Duration>,
    },
    /// A member of this name in the room of another process, which has made the settings.
    Moved(String),
    Here(Guest),
    Gone,
}

/// The kind of a connection that moves to another process; the state is the member's name.
pub const MOVES_AS: &str = "couplet.chat";

impl ChatServer {
    pub(crate) fn new(
        room: &Rc<Room>,
        idle_timeout: Option<Duration>,
    ) -> LineOnlyReceiver<ChatServer> {
        ChatServer::of(room, Member::New { idle_timeout })
    }

    fn of(room: &Rc<Room>, member: Member) -> LineOnlyReceiver<ChatServer> {
        let (room, rate_limit) = (room.clone(), RateLimit::default());
        let (said, answered, may_move) = (0, 0, true);
        ChatServer::receiver(ChatServer { room, rate_limit, said, answered, member, may_move })
    }

    /// The member behind a page; pings show that the page is still connected.
    #[cfg(feature = "web")]
    pub(crate) fn of_page(room: &Rc<Room>) -> LineOnlyReceiver<ChatServer> {
        let (room, rate_limit) = (room.clone(), RateLimit::default());
        let member = Member::New { idle_timeout: None };
        let (said, answered, may_move) = (0, 0, false);
        ChatServer::receiver(ChatServer { room, rate_limit, said, answered, member, may_move })
    }

    fn receiver(server: ChatServer) -> LineOnlyReceiver<ChatServer> {
        let receiver = LineOnlyReceiver::new(server).with_delimiter(&b"\n"[..]);
        // Allows for the CR of a telnet client.
        receiver.with_max_length(LINE_LENGTH + 1)
    }

    fn join(&mut self, transport: &LineTransport) -> Result<(), JoinError> {
        let guest = match std::mem::replace(&mut self.member, Member::Gone) {
            Member::Moved(name) => {
                // The rate limit may have paused the connection in the other process.
                transport.resume_producing();
                self.room.move_in(transport, &name)?
            }
            Member::New { idle_timeout } => {
                // The transport holds the lines of a slow reader, which move with it to another
                // process: the room's queue stays empty.
                transport.set_write_cap(Some(WRITE_CAP));
                transport.set_write_marks(WRITE_CAP, WRITE_CAP);
                transport.set_option(SocketOption::SendBuffer(SEND_BUFFER));
                transport.set_timeout(Timeout::Idle, idle_timeout);
                let others = self.room.len();
                let guest = self.room.join(transport)?;
                self.greet(transport, guest.name(), others);
                let mut guest = guest;
                guest.read_last_lines()?;
                guest
            }
            Member::Here(_) | Member::Gone => return Ok(()),
        };
        self.member = Member::Here(guest);
        self.keep(transport);
        Ok(())
    }

    fn guest(&mut self) -> Option<&mut Guest> {
        if let Member::Here(guest) = &mut self.member { Some(guest) } else { None }
    }

    fn take_guest(&mut self) -> Option<Guest> {
        match std::mem::replace(&mut self.member, Member::Gone) {
            Member::Here(guest) => Some(guest),
            _ => None,
        }
    }

    fn leave(&mut self, reason: Option<&Reason>) {
        if let Some(guest) = self.take_guest() {
            guest.leave(reason);
        }
    }

    /// Keeps the member's name for another process.
    fn keep(&mut self, transport: &LineTransport) {
        let name = self.guest().map(|guest| guest.name().to_owned());
        let name = name.filter(|_| self.may_move && Room::only().is_some());
        hooks::keep(transport, name.and_then(|name| HandOver::new(MOVES_AS, name)));
    }

    /// Sends a line to this member only.
    fn reply(&mut self, transport: &LineTransport, line: &str) {
        self.answered += line.len();
        transport.send_line(format!("* {line}"));
    }

    fn greet(&mut self, transport: &LineTransport, name: &str, others: usize) {
        let others = match others {
            0 => "Nobody else is here yet.".to_owned(),
            1 => "One other is here.".to_owned(),
            others => format!("{others} others are here."),
        };
        self.reply(transport, &format!("Welcome! You are {name}. {others}"));
        if self.room.is_cut_off() {
            self.reply(transport, "The other servers are out of reach.");
        }
        if let Some(last) = self.room.last_line() {
            let line = format!("Lines have numbers, and are kept: /from {last} sends later ones.");
            self.reply(transport, &line);
        }
        self.reply(transport, "Everybody sees what you type. /nick NAME changes your name,");
        self.reply(transport, "/who lists who is here, /quit leaves, /help explains more.");
    }

    fn help(&mut self, transport: &LineTransport) {
        let name = format!("/nick NAME  be called NAME: 1 to {NAME_LENGTH} of a-z A-Z 0-9 - _");
        self.reply(transport, &name);
        self.reply(transport, "/who        lists who is here");
        if self.guest().is_some_and(|guest| guest.has_history()) {
            self.reply(transport, "/from LINE  sends the kept lines after that one");
        }
        self.reply(transport, "/quit       leaves");
        self.reply(transport, "//TEXT      says /TEXT");
        let line = format!("Anything else is sent to all others, {LINE_LENGTH} bytes per line.");
        self.reply(transport, &line);
    }

    fn nick(&mut self, transport: &LineTransport, name: &str) {
        let Some(guest) = self.guest() else { return };
        match guest.rename(name) {
            Ok(None) => self.reply(transport, &format!("You are {name}.")),
            Ok(Some(renamed)) => {
                self.reply(transport, &renamed);
                self.keep(transport);
            }
            Err(NameError::Taken) => {
                self.reply(transport, &format!("{name} is taken; choose another name."));
            }
            Err(NameError::Malformed) => {
                let rule = format!(
                    "You are {}. A name is 1 to {NAME_LENGTH} of a-z A-Z 0-9 - _, \
                     as in: /nick ada-2",
                    guest.name()
                );
                self.reply(transport, &rule);
            }
        }
    }

    /// Renames the member before its line if a person on another server has its name.
    fn check_name(&mut self, transport: &LineTransport) {
        if let Some(renamed) = self.guest().and_then(Guest::yield_name) {
            self.reply(transport, &format!("A member of another server has your name: {renamed}"));
            self.keep(transport);
        }
    }

    /// Sends the kept lines after a position.
    fn from(&mut self, transport: &LineTransport, after: &str) -> Result<(), JoinError> {
        let Some(guest) = self.guest() else { return Ok(()) };
        if !guest.has_history() {
            self.reply(transport, "No lines are kept here.");
            return Ok(());
        }
        let Some(Begin { start, notice }) = guest.begin_after(after) else {
            self.reply(transport, "Give the number of the last line that you have: /from 41");
            return Ok(());
        };
        if let Some(notice) = notice {
            self.reply(transport, &notice);
        }
        if let (Some(start), Some(guest)) = (start, self.guest()) {
            guest.read_lines(start)?;
            self.answered += REPLAY_COST;
        }
        Ok(())
    }

    fn command(&mut self, transport: &LineTransport, line: &str) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "nick" => self.nick(transport, rest.trim()),
            "who" => {
                let who = self.guest().map(|guest| guest.who()).unwrap_or_default();
                self.reply(transport, &who);
            }
            "from" => {
                if let Err(error) = self.from(transport, rest.trim()) {
                    transport.fail(error);
                }
            }
            "quit" => {
                self.reply(transport, "Goodbye.");
                self.leave(None);
                transport.lose_connection();
            }
            "help" => self.help(transport),
            _ => {
                let answer = format!("There is no /{command}; /help lists the commands.");
                self.reply(transport, &answer);
            }
        }
    }

    fn say(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.said += self.guest().map_or(0, |guest| guest.say(text));
        }
    }

    /// Charges for a line. Reading from a member that exceeds its rate pauses for a while: the
    /// network holds its lines, and the other members notice nothing.
    fn pause_for_breath(&mut self, transport: &LineTransport) {
        let members = self.room.len();
        let answered = std::mem::take(&mut self.answered);
        let bytes = std::mem::take(&mut self.said) + LINE_COST + share(answered, members);
        if let Some(wait) = self.rate_limit.spend(transport.reactor().now(), bytes, members) {
            transport.pause_producing();
            let me = transport.connection::<Self>();
            me.call_later(wait, |_, transport| transport.resume_producing());
        }
    }
}

impl LineProtocol for ChatServer {
    fn connection_made(&mut self, transport: &LineTransport) {
        if let Err(error) = self.join(transport) {
            transport.fail(error);
        }
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        if line.strip_suffix(b"\r").unwrap_or(line).len() > LINE_LENGTH {
            return self.line_length_exceeded(transport, line);
        }
        self.check_name(transport);
        let text = clean(line);
        match text.strip_prefix('/') {
            Some(slash) if slash.starts_with('/') => self.say(slash),
            Some(command) => self.command(transport, command),
            None => self.say(&text),
        }
        self.pause_for_breath(transport);
    }

    /// Drops the line up to its end; the member stays connected.
    fn line_length_exceeded(&mut self, transport: &LineTransport, _beginning: &[u8]) {
        let answer = format!("That line has more than {LINE_LENGTH} bytes and was not sent.");
        self.reply(transport, &answer);
        self.pause_for_breath(transport);
    }

    fn draining(&mut self, transport: &LineTransport) {
        self.reply(transport, "The server is stopping. Goodbye.");
        // Leaves are not announced during a shutdown.
        self.leave(Some(&Reason::Shutdown));
        transport.lose_connection();
    }

    fn read_closed(&mut self, transport: &LineTransport) {
        self.leave(None);
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &LineTransport, reason: &Reason) {
        self.leave(Some(reason));
    }

    fn hand_over(&mut self) -> Option<HandOver> {
        Room::only().filter(|_| self.may_move)?;
        // One that has said goodbye is closing.
        HandOver::new(MOVES_AS, self.take_guest()?.move_out())
    }
}

/// Continues a member's connection from another process.
///
/// # Errors
///
/// If this thread has no chat, or several.
pub fn continued(state: &[u8]) -> couplet::Result<impl Protocol + use<>> {
    let room = Room::only().ok_or_else(|| Failure::msg("there is not one chat"))?;
    let member = Member::Moved(String::from_utf8_lossy(state).into_owned());
    Ok(ChatServer::of(&room, member))
}
