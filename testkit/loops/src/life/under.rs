//! The layers between the connection and the socket, which change no byte of the stream. Four of
//! the stacks consist of layers that programs use; in three others a layer holds bytes back or
//! panics. A tap checks the bytes in the middle or at the top of these stacks.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use couplet::layers::tls::{
    ClientTls, ClientTlsOptions, Identity, Roots, ServerTls, ServerTlsOptions, Tls, TlsWorld,
};
use couplet::layers::{
    Bandwidth, Direction, Layer, Outbox, PassThrough, ProxyReader, Side, SingleBytes, Tap,
    Throttle, TrafficLog, Up,
};
use couplet::testing::Wire;

use super::peer::Peer;
use super::{Dice, Life, bytes_at};
use crate::sealed::Sealed;

/// Bytes per second of a throttled life: at most 10 000 pass before its clock has to advance.
const RATE: u64 = 100_000;

/// The layers of a life, from the socket to the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Under {
    Nothing,
    Pass,
    Single,
    /// A throttle under a log.
    Throttle,
    /// A reader of a PROXY header under a log.
    Proxy,
    /// A throttle under TLS under a log.
    TlsOnThrottle,
    /// A reader of a PROXY header under TLS under a log.
    TlsOnProxy,
    /// A layer that panics, or one that holds bytes back, or both.
    Breaking,
    Holding,
    BreakingOnHolding,
}

impl Under {
    /// TLS is rare, because a handshake takes longer than ten lives without one.
    pub(super) fn roll(life: &Life) -> Under {
        let all = [Under::Nothing, Under::Pass, Under::Single, Under::Throttle, Under::Proxy];
        match life.roll(256) {
            0 | 1 => Under::TlsOnThrottle,
            2 | 3 => Under::TlsOnProxy,
            4..=11 => Under::Breaking,
            12..=19 => Under::Holding,
            20..=27 => Under::BreakingOnHolding,
            n => all[n % all.len()],
        }
    }

    pub(super) fn make(self, life: &Rc<Life>, side: Side, now: Instant) -> Vec<Box<dyn Layer>> {
        let pass = || Box::new(PassThrough::default());
        let log = || Box::new(TrafficLog::new(Count(life.clone())));
        let limit = || Some(Bandwidth::new(RATE));
        let throttle = || Box::new(Throttle::new(limit(), limit()));
        let proxy = || Box::new(ProxyReader::new(now));
        let tls = || Box::new(tls(side, now));
        let breaking = || Box::new(Breaking::new(life));
        let holding = || Box::new(Holding::default());
        match self {
            Under::Nothing => Vec::new(),
            Under::Pass => vec![pass(), pass()],
            Under::Single => vec![Box::new(SingleBytes::default()), pass()],
            Under::Throttle => vec![throttle(), log()],
            Under::Proxy => vec![proxy(), log()],
            Under::TlsOnThrottle => vec![throttle(), tls(), log()],
            Under::TlsOnProxy => vec![proxy(), tls(), log()],
            Under::Breaking => vec![breaking(), pass()],
            Under::Holding => vec![holding(), log()],
            Under::BreakingOnHolding => vec![holding(), breaking(), log()],
        }
    }

    fn has_tls(self) -> bool {
        matches!(self, Under::TlsOnThrottle | Under::TlsOnProxy)
    }

    pub(super) fn is_throttled(self) -> bool {
        matches!(self, Under::Throttle | Under::TlsOnThrottle)
    }

    pub(super) fn is_tapped(self) -> bool {
        !matches!(self, Under::Nothing | Under::Pass | Under::Single | Under::Breaking)
    }

    /// The peer's header, which precedes its stream.
    fn header(self) -> &'static [u8] {
        match self {
            Under::Proxy | Under::TlsOnProxy => b"PROXY UNKNOWN\r\n",
            _ => b"",
        }
    }

    /// Returns the peer at the other end of `wire`, for a connection on this side, once the peer's
    /// header and its part of the handshake have made the connection.
    pub(super) fn open(
        self,
        life: &Life,
        wire: Wire,
        side: Side,
        now: Instant,
        mut turn: impl FnMut(),
    ) -> Peer {
        let other = if side == Side::Accepted { Side::Connected } else { Side::Accepted };
        let sealed = self.has_tls().then(|| Sealed::new(tls(other, now), now));
        let (mut peer, mut header) = (Peer::new(wire, sealed), self.header());
        while life.know(|story| story.made == 0) {
            header = &header[peer.push_below(header)..];
            if header.is_empty() {
                peer.pump();
            }
            turn();
        }
        peer
    }
}

/// Panics in one of its calls after the connection was made, or in its drop.
struct Breaking {
    life: Rc<Life>,
    call: &'static str,
    /// Calls left before the panic.
    before: Cell<usize>,
    passes: PassThrough,
}

impl Breaking {
    fn new(life: &Rc<Life>) -> Breaking {
        let calls = ["up", "down", "ended", "close", "held", "deadline", "drop", "drop"];
        let (call, before) = (calls[life.roll(calls.len())], Cell::new(life.roll(6)));
        life.line(&format!("a layer that panics in {call}"));
        Breaking { life: life.clone(), call, before, passes: PassThrough::default() }
    }

    fn called(&self, call: &str) {
        let made = self.life.know(|story| story.made > 0);
        if call != self.call || !made {
            return;
        }
        match self.before.get() {
            0 => {
                self.before.set(usize::MAX);
                self.life.layer_panics();
            }
            usize::MAX => self.life.wrong("a layer is called after its panic"),
            n => self.before.set(n - 1),
        }
    }
}

impl Layer for Breaking {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], now: Instant) -> Up<'a> {
        self.called("up");
        self.passes.up(below, now)
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, now: Instant) {
        self.called("down");
        self.passes.down(above, below, now);
    }

    fn ended(&mut self) {
        self.called("ended");
        self.passes.ended();
    }

    fn close(&mut self, _: &mut Outbox) {
        self.called("close");
    }

    fn held(&self) -> usize {
        self.called("held");
        0
    }

    fn deadline(&self) -> Option<Instant> {
        self.called("deadline");
        None
    }
}

impl Drop for Breaking {
    fn drop(&mut self) {
        if self.call == "drop" {
            self.life.line("the drop of a layer panics");
            std::panic::resume_unwind(Box::new("a random drop".to_owned()));
        }
    }
}

/// Holds bytes back until it has more than 1000, or the stream below ends.
#[derive(Default)]
struct Holding {
    held: Vec<u8>,
    given: Vec<u8>,
    ended: bool,
}

impl Layer for Holding {
    fn up<'a>(&'a mut self, below: &mut &'a [u8], _: Instant) -> Up<'a> {
        self.held.extend_from_slice(std::mem::take(below));
        if self.held.len() > 1000 || self.ended && !self.held.is_empty() {
            self.given = std::mem::take(&mut self.held);
            return Up::Data(&self.given);
        }
        if self.ended { Up::Closed } else { Up::Nothing }
    }

    fn down(&mut self, above: &mut Outbox, below: &mut Outbox, _: Instant) {
        below.append(above);
    }

    fn ended(&mut self) {
        self.ended = true;
    }
}

const NAME: &str = "couplet.test";

/// A server and a client. Sessions are not resumed, so that no life depends on earlier ones.
static ENDS: LazyLock<(ServerTls, ClientTls)> = LazyLock::new(|| {
    // All signatures with this key have the same length.
    let pem = include_bytes!("couplet.test.pem");
    let identity = Identity::from_pem(pem, pem).expect("a certificate and its key");
    let roots = Roots::from_pem(pem).expect("a certificate");
    let server = ServerTls::new(&ServerTlsOptions::new(identity));
    let client = ClientTls::new(&ClientTlsOptions::default().roots(roots).resumption(false));
    (server.expect("it works"), client.expect("it works"))
});

/// TLS for an end on this side.
fn tls(side: Side, now: Instant) -> Tls {
    match side {
        Side::Accepted => ENDS.0.layer(now),
        Side::Connected => ENDS.1.layer(NAME, now).expect("a good name"),
    }
}

/// A world in the year 2030, with random numbers that are the same for each life.
pub(super) struct World(Dice);

impl World {
    pub(super) fn new() -> World {
        World(Dice::seeded(0))
    }
}

impl TlsWorld for World {
    fn random(&self) -> u64 {
        self.0.roll(usize::MAX) as u64
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_900_000_000)
    }
}

/// Checks the bytes between two layers, or between the top layer and the protocol.
struct Count(Rc<Life>);

impl Tap for Count {
    fn passed(&mut self, direction: Direction, bytes: &[u8], _: Instant) {
        let offset = self.0.know(|story| {
            let tapped = match direction {
                Direction::In => &mut story.tapped_in,
                Direction::Out => &mut story.tapped_out,
            };
            *tapped += bytes.len();
            *tapped - bytes.len()
        });
        self.0
            .check(bytes == bytes_at(offset, bytes.len()), "bytes between two layers are in order");
    }
}
