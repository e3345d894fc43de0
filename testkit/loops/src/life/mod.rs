//! One life of a connection: its recorded state, the checks on it, and how it runs.

mod actions;
mod dice;
mod near;
mod peer;
mod stage;
mod under;

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Instant;

use couplet::layers::tls::in_world;
use couplet::testing::Manner;
use couplet::{DelayedCall, Reason, Transport};

pub use dice::Dice;
use stage::LifeStage;
use under::World;

/// Maximum steps of a life from a seed.
const STEPS: usize = 24;
/// Maximum steps of a life from bytes, which also ends when its bytes are used up.
const MOST_STEPS: usize = 400;

/// The bytes of both streams at this offset, so that a lost, duplicated or reordered byte shows.
fn bytes_at(offset: usize, len: usize) -> &'static [u8] {
    const ROUND: usize = 251;
    static ROUNDS: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..ROUND as u8).cycle().take(1024 * ROUND).collect());
    &ROUNDS[offset % ROUND..][..len]
}

/// The recorded state of one life, and its failed checks.
#[derive(Default)]
struct Story {
    lines: String,
    wrong: Vec<String>,
    transport: Option<Transport>,
    made: u32,
    lost: Option<Reason>,
    read_closed: bool,
    write_closed: bool,
    draining: bool,
    // Requests of the near end.
    paused: bool,
    finishing: bool,
    closing: bool,
    aborted: bool,
    failed: bool,
    panicked: bool,
    timeouts: bool,
    capped: Option<usize>,
    /// The registered producer, if any.
    producer: Option<usize>,
    producer_paused: bool,
    /// For each accepted producer, whether it was stopped or unregistered.
    producers: Vec<bool>,
    // Actions of the peer.
    broken: bool,
    fin: bool,
    stopped: bool,
    by_the_clock: bool,
    // Bytes.
    taken: usize,
    received: usize,
    pushed: usize,
    delivered: usize,
    /// Bytes seen between two layers, if the stack has a tap.
    tapped_in: usize,
    tapped_out: usize,
    // Questions and answers.
    asked: u32,
    answered: u32,
    /// The low mark in bytes; `None` if it was never set.
    low_mark: Option<usize>,
    /// Calls of `writable` that have not fired.
    undrained: u32,
    // Time.
    now: Option<Instant>,
    timers: Vec<Timer>,
}

/// A timed call.
struct Timer {
    call: DelayedCall,
    due: Instant,
    /// Still to run, unless the connection is lost first.
    pending: bool,
}

/// One life: its dice, its story, and the depth of calls into it.
pub struct Life {
    dice: Dice,
    depth: Cell<u32>,
    story: RefCell<Story>,
}

impl Life {
    pub fn new(dice: Dice) -> Rc<Life> {
        Rc::new(Life { dice, depth: Cell::new(0), story: RefCell::default() })
    }

    /// Runs the life to its end and returns its story.
    ///
    /// # Panics
    ///
    /// When a check fails, with the story.
    pub fn live(self: &Rc<Life>, manner: Manner) -> String {
        in_world(Rc::new(World::new()), || self.live_in_its_world(manner))
    }

    fn live_in_its_world(self: &Rc<Life>, manner: Manner) -> String {
        let mut stage = LifeStage::new(self, manner);
        for _ in 0..self.steps() {
            if self.dice.are_spent() {
                break;
            }
            stage.step();
        }
        stage.end();
        stage.after_the_end();
        self.know(|story| std::mem::take(&mut story.lines))
    }

    fn steps(&self) -> usize {
        match self.dice {
            Dice::Seeded(_) => 1 + self.roll(STEPS),
            Dice::Bytes { .. } => MOST_STEPS,
        }
    }

    /// A number below `n`.
    fn roll(&self, n: usize) -> usize {
        self.dice.roll(n)
    }

    /// A length: mostly small, occasionally more than the network holds in flight.
    fn length(&self) -> usize {
        match self.roll(16) {
            0 | 1 => 0,
            2..=9 => 1 + self.roll(20),
            10..=14 => self.roll(3000),
            _ => self.roll(90_000),
        }
    }

    fn know<R>(&self, f: impl FnOnce(&mut Story) -> R) -> R {
        f(&mut self.story.borrow_mut())
    }

    fn line(&self, line: &str) {
        self.know(|story| {
            let _ = writeln!(story.lines, "{}{line}", "  ".repeat(self.depth.get() as usize));
        });
    }

    /// Records a failed check. A callback can't assert: its panic would be contained.
    fn wrong(&self, what: impl Into<String>) {
        let what = what.into();
        self.line(&format!("WRONG: {what}"));
        self.know(|story| story.wrong.push(what));
    }

    fn check(&self, holds: bool, what: &str) {
        if !holds {
            self.wrong(what);
        }
    }

    /// A call of the loop into this connection: never nested, never after `connection_lost`.
    fn called(self: &Rc<Life>, what: &str, f: impl FnOnce()) {
        self.line(what);
        self.check(self.depth.get() == 0, "a callback inside another");
        self.check(self.know(|story| story.lost.is_none()), "a callback after the loss");
        self.check(self.know(|story| story.made == 1), "connection_made comes first, and once");
        self.check_the_time();
        // The depth is restored even if the callback panics.
        struct Out<'a>(&'a Cell<u32>);
        impl Drop for Out<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.depth.set(self.depth.get() + 1);
        let _out = Out(&self.depth);
        f();
    }

    fn check_the_time(&self) {
        let back = self.know(|story| {
            let now = story.transport.as_ref().map(|transport| transport.reactor().now());
            std::mem::replace(&mut story.now, now) > now
        });
        self.check(!back, "time never goes back");
    }

    /// A callback that must not come after a close.
    fn reading_called(self: &Rc<Life>, what: &str, f: impl FnOnce()) {
        self.check(!self.know(|story| story.closing), "a reading callback after the close");
        self.called(what, f);
    }

    /// A few random actions, from inside a callback.
    fn act_some(self: &Rc<Life>, transport: &Transport) {
        while self.roll(3) == 0 {
            self.act(transport);
        }
        if self.depth.get() > 0 && self.roll(60) == 0 {
            self.panic();
        }
    }

    /// A panic that the panic hook does not print.
    fn panic(&self) -> ! {
        self.line("panic");
        self.know(|story| {
            story.panicked = true;
            story.closing = true;
        });
        std::panic::resume_unwind(Box::new(PANIC.to_owned()))
    }

    /// A panic in a layer, which ends the connection in the same way.
    fn layer_panics(&self) -> ! {
        self.line("in a layer:");
        self.panic()
    }
}

/// The reason of a panic in these lives.
const PANIC: &str = "a random life";

/// The default low mark of a transport, in bytes.
const LOW_MARK: usize = 16 * 1024;

impl Story {
    /// The connection is open and intact, with no idle timeout set.
    fn is_undisturbed(&self) -> bool {
        self.lost.is_none() && !(self.closing || self.panicked || self.broken || self.timeouts)
    }

    /// The connection must still be open: neither end nor a timeout can have ended it.
    fn must_be_open(&self) -> bool {
        let requested = self.closing || self.finishing || self.lost.is_some();
        let outside = self.broken || self.timeouts || self.stopped;
        // After the peer's FIN, the end of our half ends the connection.
        !(requested || outside || self.read_closed)
    }
}
