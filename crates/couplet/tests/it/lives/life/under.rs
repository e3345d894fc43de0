//! What lies between the connection and the socket: layers that change no byte of the stream. Two of the
//! stacks are of layers that programs use; a tap in them checks the bytes in the middle of the stack.

use std::rc::Rc;
use std::time::Instant;

use couplet::layers::{
    Bandwidth, Direction, Layer, PassThrough, ProxyReader, SingleBytes, Tap, Throttle, TrafficLog,
};
use couplet::testing::Wire;

use super::{Life, bytes_at};

/// Bytes per second of a throttled life: at most 10 000 pass before its clock has to advance.
const RATE: u64 = 100_000;

/// The layers of a life, from the socket to the protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Under {
    Nothing,
    Pass,
    Single,
    /// A throttle under a log.
    Throttle,
    /// A reader of a PROXY header under a log.
    Proxy,
}

impl Under {
    pub(super) fn roll(life: &Life) -> Under {
        let all = [Under::Nothing, Under::Pass, Under::Single, Under::Throttle, Under::Proxy];
        all[life.roll(all.len())]
    }

    pub(super) fn make(self, life: &Rc<Life>, now: Instant) -> Vec<Box<dyn Layer>> {
        let pass = || Box::new(PassThrough::default());
        let log = || Box::new(TrafficLog::new(Count(life.clone())));
        let limit = || Some(Bandwidth::new(RATE));
        match self {
            Under::Nothing => Vec::new(),
            Under::Pass => vec![pass(), pass()],
            Under::Single => vec![Box::new(SingleBytes::default()), pass()],
            Under::Throttle => vec![Box::new(Throttle::new(limit(), limit())), log()],
            Under::Proxy => vec![Box::new(ProxyReader::new(now)), log()],
        }
    }

    /// What the peer sends before its stream.
    pub(super) fn header(self) -> &'static [u8] {
        if self == Under::Proxy { b"PROXY UNKNOWN\r\n" } else { b"" }
    }

    pub(super) fn is_tapped(self) -> bool {
        matches!(self, Under::Throttle | Under::Proxy)
    }

    /// Has the peer send its header, and turns until the connection is made.
    pub(super) fn open(self, life: &Life, wire: &Wire, mut turn: impl FnMut()) {
        let mut header = self.header();
        while life.know(|story| story.made == 0) {
            header = &header[wire.try_push(header).expect("it is open")..];
            turn();
        }
    }
}

/// Checks the bytes between two layers.
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
