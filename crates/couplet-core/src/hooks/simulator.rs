//! Hooks for the simulator, `couplet-sim`: its loops under observation, and the parts that its
//! driver shares with ours. Unstable.

use std::io;
use std::sync::Arc;
use std::time::Instant;

pub use crate::driver::contents::Contents;
pub use crate::driver::file_locks::FileLocks;
#[cfg(unix)]
use crate::driver::process::{ChildProcess, WorldProcess};
use crate::driver::recorded::RingWriter;
use crate::driver::ring::Ring;
#[cfg(unix)]
use crate::driver::{Adopted, ChildInput, Command, Spawned};
use crate::driver::{Driver, Group, Key, Membership};
use crate::layers::{Direction, PcapTap};
pub use crate::reactor::frames::{Frames, TableLimits};
pub use crate::reactor::inspect::Observing;
use crate::reactor::numbered;
pub use crate::transport::report::LayerReport;
use crate::{Address, ConnectError, Loop, LoopOptions, Protocol, Reactor, Transport};

/// Creates a loop over a driver that writes its events into a ring, with these contents and frames.
/// `sizes` are the bytes of the ring and the number of connections whose addresses it keeps. `clock`
/// gives the nanoseconds since the world began.
pub fn recorded_loop(
    driver: impl Driver + 'static,
    options: &LoopOptions,
    sizes: (usize, usize),
    contents: Option<Contents>,
    frames: TableLimits,
    clock: impl Fn() -> u64 + 'static,
) -> (Loop, Arc<Ring>, Arc<Frames>) {
    let ring = RingWriter::with_clock(sizes, contents, clock);
    let kept = ring.ring().clone();
    let (l, frames) = Loop::recorded(driver, options, ring, frames);
    (l, kept, frames)
}

/// The number of the loop in this process, with which the IDs of its connections begin.
pub fn serial(l: &Loop) -> u32 {
    l.reactor().serial()
}

/// Observes a loop, before its run: `wrap` replaces the protocol of each connection, `layers` gets
/// the bytes between layers and protocols, and the source locations of requests are kept for
/// [`cut_off`].
pub fn observe(
    l: &mut Loop,
    wrap: impl Fn(Key, Box<dyn Protocol>) -> Box<dyn Protocol> + 'static,
    layers: impl Fn(Key, LayerReport<'_>) + 'static,
) {
    l.record_places();
    l.wrap_protocols(wrap);
    l.reactor().set_layer_observer(layers);
}

/// Observes the Deferreds and locks of a loop, each with at most `most` callbacks, until the result is
/// dropped: while the loop has the thread.
pub fn observe_deferreds(l: &Loop, most: usize) -> Observing {
    Observing::of_host(&l.reactor(), most)
}

/// Describes a queue of the loop that exceeds its bound, if any.
pub fn exceeded_bound(l: &Loop) -> Option<String> {
    l.exceeded_bound()
}

/// Takes the numbered list of everything that the last shutdown of an [observed](observe) loop cut
/// off, unless a signal caused it. `None` if the program left nothing.
pub fn cut_off(l: &Loop) -> Option<String> {
    let left = l.take_cut_off();
    (!left.is_empty()).then(|| numbered(&left))
}

/// Whether the loop has unfinished tasks.
pub fn has_tasks(l: &Loop) -> bool {
    l.has_tasks()
}

/// The error of a connect whose local address can't be bound.
pub fn local_bind_error(address: Address, error: io::Error) -> io::Error {
    ConnectError::local_bind(address, error)
}

/// The number of bytes that the connection has given to its driver.
pub fn bytes_sent(transport: &Transport) -> u64 {
    let [_, sent] = transport.cell.wire_bytes();
    sent
}

/// Runs `f` with TLS's randomness and time from this reactor's world, if TLS is built in. `log_key`
/// gets each secret of a handshake with its label and the client random, like the fields of a
/// `SSLKEYLOGFILE` line.
pub fn in_tls_world<T>(
    reactor: &Reactor,
    log_key: impl Fn(&str, &[u8], &[u8]) + 'static,
    f: impl FnOnce() -> T,
) -> T {
    #[cfg(any(feature = "tls", feature = "ring"))]
    return tls::in_world_of(reactor, log_key, f);
    #[cfg(not(any(feature = "tls", feature = "ring")))]
    {
        let _ = (reactor, log_key);
        f()
    }
}

#[cfg(any(feature = "tls", feature = "ring"))]
mod tls {
    use std::rc::Rc;
    use std::time::Duration;

    use crate::Reactor;
    use crate::layers::tls::{TlsWorld, in_world};

    struct World<F>(Reactor, F);

    impl<F: Fn(&str, &[u8], &[u8])> TlsWorld for World<F> {
        fn random(&self) -> u64 {
            self.0.random()
        }

        fn unix_time(&self) -> Duration {
            self.0.world().unix_time()
        }

        fn key(&self, label: &str, client_random: &[u8], secret: &[u8]) {
            (self.1)(label, client_random, secret);
        }
    }

    pub(super) fn in_world_of<T>(
        reactor: &Reactor,
        log_key: impl Fn(&str, &[u8], &[u8]) + 'static,
        f: impl FnOnce() -> T,
    ) -> T {
        in_world(Rc::new(World(reactor.clone(), log_key)), f)
    }
}

/// A packet without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// Opens a connection.
    Syn,
    /// The answer to a SYN.
    SynAck,
    /// Completes the handshake.
    Ack,
    /// Resets the connection.
    Reset,
}

/// Writes a packet to the capture. After a SYN the caller also writes the other packets of the
/// handshake: none are made up.
pub fn write_packet(tap: &mut PcapTap, kind: PacketKind, direction: Direction, now: Instant) {
    match kind {
        PacketKind::Syn => tap.write_syn(direction, now),
        PacketKind::SynAck => tap.write_syn_ack(direction, now),
        PacketKind::Ack => tap.write_ack(direction, now),
        PacketKind::Reset => tap.write_reset(direction, now),
    }
}

/// Joins or leaves a group with a datagram socket of these groups, on a network without interfaces.
///
/// # Errors
///
/// If the group is no multicast address, or the socket is already, or not yet, a member.
pub fn set_membership(
    group: &Group,
    change: Membership,
    groups: &mut Vec<Group>,
) -> io::Result<()> {
    group.set_in_memory(change, groups)
}

/// The arguments of a command, as text, and whether its standard error is a pipe.
///
/// # Errors
///
/// If the command needs more than a simulation has: pipes for input, output and errors.
#[cfg(unix)]
pub fn arguments_and_pipes(command: &Command) -> io::Result<(Vec<String>, bool)> {
    let has_stderr = command.has_simulated_pipes()?;
    Ok((command.arguments(), has_stderr))
}

/// A process of a world that has its own programs, with our ends of its pipes. The pipe at 1 is its
/// standard input too.
#[cfg(unix)]
pub fn spawned(pipes: Vec<(i32, Adopted)>, process: impl WorldProcess + 'static) -> Spawned {
    let child = ChildProcess::from_world(process);
    Spawned { pipes, input: ChildInput::Joined, child }
}
