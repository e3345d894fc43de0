//! Functions for guests: code that drives a connection or a loop on behalf of another library or
//! language, of an inspector, or of a process that continues a connection. Unstable.

use std::io;
#[cfg(unix)]
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use crate::{HandOver, Reactor, Transport};

pub use crate::reactor::notes::{Note, NoteRow};

/// Adapts the loop to a fork of the process. Call it in both processes right after the fork,
/// with `is_child` true in the child; a callback may call it. Both processes have the
/// connections, and both loops continue.
///
/// Only programs that fork without executing another program need it, such as runtimes of other
/// languages. The loop's threads, for jobs and name lookups, stay in the parent.
///
/// # Errors
///
/// In the child: the system's error, or [`Unsupported`](io::ErrorKind::Unsupported) unless the
/// system is Linux. The child must not run the loop then.
pub fn forked(reactor: &Reactor, is_child: bool) -> io::Result<()> {
    reactor.world().forked(is_child)
}

/// Makes [`Loop::turn_until`](crate::Loop::turn_until) return at the end of this turn, or outside a
/// turn, of the next one, which does not wait. Does not end a run.
pub fn interrupt(reactor: &Reactor) {
    reactor.interrupt();
}

/// Suspends the turn, for callbacks that need the [`Loop`](crate::Loop) itself, for example to turn
/// it: a protocol queues such a call and suspends the turn, and the owner of the loop makes the call.
/// [`Loop::turn`](crate::Loop::turn) returns as soon as the present event is handled. The next call
/// continues the turn: it sends the output of this event's connection, and takes the next event.
///
/// In a turn without further events this does nothing, because the turn is about to return. Outside a
/// turn, the next one does not wait.
pub fn suspend_turn(reactor: &Reactor) {
    reactor.suspend_turn();
}

/// A random number from the loop's world; reproducible in a simulation.
pub fn random(reactor: &Reactor) -> u64 {
    reactor.random()
}

/// The time of day, as the time since 1970. Virtual in a simulation.
pub fn unix_time(reactor: &Reactor) -> Duration {
    reactor.unix_time()
}

/// Adds a line to the [snapshots](Reactor::snapshot) of the loop, such as the number of members of a
/// chat. The line is empty, and not shown, until it is [set](Note::set).
///
/// ```
/// use couplet::hooks;
///
/// # couplet::run_until(|reactor| {
/// let members = hooks::note(reactor);
/// members.set("members     12");
/// # reactor.snapshot().map(move |snapshot| {
/// #     assert_eq!(snapshot.notes, ["members     12"]);
/// #     drop(members);
/// # })
/// # })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub fn note(reactor: &Reactor) -> Note {
    reactor.note()
}

/// Adds rows to the [snapshots](Reactor::snapshot) of the loop, and so to the page of its inspector,
/// until the note is dropped: `rows` is called for each snapshot. Rows of a view that the inspector
/// knows, such as `services`, are added to that view; other names make new views.
///
/// ```
/// use couplet::hooks::{self, NoteRow};
///
/// # couplet::run_until(|reactor| {
/// let rooms = hooks::note_rows(reactor, || {
///     vec![NoteRow::new("rooms", [("room", "lounge".into()), ("members", "12".into())])]
/// });
/// # reactor.snapshot().map(move |snapshot| {
/// #     assert_eq!(snapshot.rows[0].view, "rooms");
/// #     assert_eq!(snapshot.rows[0].fields[1], ("members", "12".to_owned()));
/// #     drop(rooms);
/// # })
/// # })?;
/// # Ok::<(), couplet::Failure>(())
/// ```
pub fn note_rows(reactor: &Reactor, rows: impl Fn() -> Vec<NoteRow> + 'static) -> Note {
    reactor.note_rows(rows)
}

/// Keeps the state with which another process can continue this connection if this one dies: the
/// protocol calls it in [`connection_made`](crate::Protocol::connection_made), and whenever the state
/// changes. The state is that after all bytes that were received; it may contain
/// [unread](HandOver::with_unread) ones. `None`, also from [`HandOver::new`], keeps nothing.
///
/// At the end of each turn in which the state changed or bytes were received or written, the loop's
/// [`Keeper`](crate::reactor::Keeper) gets a record for
/// [`HandedOver::kept`](crate::reactor::HandedOver::kept). If this process dies in the middle of a
/// turn, with unsent output, or [inside a message](set_in_message), the record does not match
/// the socket, and the next process resets the connection. An upgrade ends the keeping: the next
/// protocol calls this again.
///
/// Does nothing in a loop without a keeper, on sockets other than TCP, on a connection that was made
/// by a connect, and after layers were added or a close was requested.
///
/// ```
/// use couplet::{HandOver, Protocol, ProtocolExtension, Transport, hooks};
///
/// struct Counter(u8);
/// impl Protocol for Counter {
///     fn connection_made(&mut self, transport: &Transport) {
///         hooks::keep(transport, self.hand_over());
///     }
///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
///         self.0 += data.len() as u8;
///         hooks::keep(transport, self.hand_over());
///         transport.write(format!("{}\n", self.0));
///     }
///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
///         Some(self)
///     }
/// }
///
/// impl ProtocolExtension for Counter {
///     fn hand_over(&mut self) -> Option<HandOver> {
///         HandOver::new("counter", [self.0])
///     }
/// }
/// ```
pub fn keep(transport: &Transport, state: Option<HandOver>) {
    transport.cell.keep(state);
}

/// Sets whether the protocol has received only a part of a message: the [kept](keep) state then
/// does not describe the connection. Framers call it; so does a protocol that buffers bytes itself
/// and does not keep them with its state. False for a new protocol.
pub fn set_in_message(transport: &Transport, is_inside: bool) {
    transport.cell.set_in_message(is_inside);
}

/// True from [`Transport::start_layer`] until the layer is open. A custom framer that
/// still holds plaintext at that point must fail the connection.
pub fn is_starting_layer(transport: &Transport) -> bool {
    transport.cell.is_starting()
}

/// With `on`, output is accepted after [`lose_connection`](Transport::lose_connection) and
/// [`lose_write_connection`](Transport::lose_write_connection) until our end of stream has been
/// written, as in Twisted: the close takes effect once nothing is unsent and no producer is
/// registered. A protocol that keeps writing keeps its connection open, as long as the peer reads.
/// By default such output is dropped.
///
/// Our end of stream is the FIN; with TLS, the close_notify. Once a close was requested, this has
/// no effect.
pub fn set_write_until_end(transport: &Transport, on: bool) {
    transport.cell.set_write_until_end(on);
}

/// Counts each byte that moves on one of the two connections as progress of the other, for the
/// [half-close timeout](crate::transport::Timeout::HalfClose). For protocols that pass bytes from
/// one to the other, as [`Relay`](crate::protocols::Relay) does. A connection has at most one
/// partner.
pub fn share_progress(transport: &Transport, other: &Transport) {
    transport.cell.set_companion(&other.cell);
    other.cell.set_companion(&transport.cell);
}

/// Returns the number of bytes, written or in the system's send queue, that the peer has not
/// acknowledged, as far as the system reports it: on Linux and macOS.
pub fn unacknowledged(transport: &Transport) -> usize {
    transport.buffered() + transport.cell.unacknowledged().unwrap_or_default()
}

/// The number of bytes dropped because they were written after a close, or because a write failed
/// ([`Transport::write_error`]).
pub fn dropped(transport: &Transport) -> u64 {
    transport.cell.dropped()
}

/// When the connection was made: the time of that turn, as [`Reactor::now`] returns it.
pub fn made_at(transport: &Transport) -> Instant {
    transport.cell.made_at.get()
}

/// The socket's descriptor number, for system queries by number; `None` on drivers without
/// sockets and after the connection is lost. The loop reads, writes and closes the descriptor.
#[cfg(unix)]
pub fn descriptor(transport: &Transport) -> Option<RawFd> {
    transport.cell.descriptor()
}
