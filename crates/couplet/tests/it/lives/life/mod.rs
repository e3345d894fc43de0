//! One life of a connection: what is known of it, what must hold in it, and how it is lived.

mod dice;
mod near;
mod stage;
mod wishes;

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::LazyLock;
use std::time::Instant;

use couplet::testing::Manner;
use couplet::{DelayedCall, Reason, Transport};

pub(crate) use dice::Dice;
use stage::Stage;

/// Steps of a life from a seed; one from bytes has as many as its bytes reach for.
const STEPS: usize = 24;
const MOST_STEPS: usize = 400;

/// What either stream carries from a place on: so a lost, doubled or moved byte shows.
fn bytes_at(place: usize, len: usize) -> &'static [u8] {
    const ROUND: usize = 251;
    static ROUNDS: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..ROUND as u8).cycle().take(1024 * ROUND).collect());
    &ROUNDS[place % ROUND..][..len]
}

/// What is known of one life, and what went wrong in it.
#[derive(Default)]
struct Story {
    lines: String,
    wrong: Vec<String>,
    transport: Option<Transport>,
    made: u32,
    lost: Option<Reason>,
    read_closed: bool,
    write_closed: bool,
    // What the near end asked for.
    paused: bool,
    finishing: bool,
    closing: bool,
    aborted: bool,
    failed: bool,
    panicked: bool,
    timeouts: bool,
    capped: Option<usize>,
    /// The producer that is registered, if one is.
    producer: Option<usize>,
    producer_paused: bool,
    /// For each that was taken, whether it was told to stop, or unregistered.
    producers: Vec<bool>,
    // What the peer did.
    broken: bool,
    fin: bool,
    stopped: bool,
    by_the_clock: bool,
    // Bytes.
    taken: usize,
    received: usize,
    pushed: usize,
    delivered: usize,
    // Questions and answers.
    asked: u32,
    answered: u32,
    /// Bytes at or below which `drained` fires; `None` where it was never set.
    low_mark: Option<usize>,
    /// Calls of `drained` that have not fired.
    undrained: u32,
    // Time.
    now: Option<Instant>,
    timers: Vec<Timer>,
}

/// A timed call.
struct Timer {
    call: DelayedCall,
    due: Instant,
    /// It is still to come, unless the connection is lost before.
    to_come: bool,
}

/// One life: its dice, its story, and how deep the calls into it are.
pub(crate) struct Life {
    dice: Dice,
    depth: Cell<u32>,
    story: RefCell<Story>,
}

impl Life {
    pub(crate) fn new(dice: Dice) -> Rc<Life> {
        Rc::new(Life { dice, depth: Cell::new(0), story: RefCell::default() })
    }

    /// From the beginning to the end; its story.
    ///
    /// # Panics
    ///
    /// With its story, when something in it went wrong.
    pub(crate) fn live(self: &Rc<Life>, manner: Manner) -> String {
        let mut stage = Stage::new(self, manner);
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

    /// A length: mostly small, now and then more than the way holds.
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

    /// Notes that something does not hold. A callback can't assert: its panic would be contained.
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

    /// A call of the loop into this connection: none lies inside another, none follows the loss.
    fn called(self: &Rc<Life>, what: &str, f: impl FnOnce()) {
        self.line(what);
        self.check(self.depth.get() == 0, "a callback inside another");
        self.check(self.know(|story| story.lost.is_none()), "a callback after the loss");
        self.check(self.know(|story| story.made == 1), "connection_made comes first, and once");
        self.check_the_time();
        // It goes down again when the callback panics.
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

    /// A callback that a close or a pause forbids.
    fn reading_called(self: &Rc<Life>, what: &str, f: impl FnOnce()) {
        self.check(!self.know(|story| story.closing), "a reading callback after the close");
        self.called(what, f);
    }

    /// A few random wishes, from inside a callback.
    fn wish_some(self: &Rc<Life>, transport: &Transport) {
        while self.roll(3) == 0 {
            self.wish(transport);
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
        std::panic::resume_unwind(Box::new("a random life".to_owned()))
    }
}

/// The low mark of a transport that was given none.
const LOW_MARK: usize = 16 * 1024;

impl Story {
    /// The connection is as its near end left it: nobody broke it, and nobody has closed it.
    fn is_undisturbed(&self) -> bool {
        self.lost.is_none() && !(self.closing || self.panicked || self.broken || self.timeouts)
    }

    /// Nothing but what the near end asked for can have ended it.
    fn sure(&self) -> bool {
        let asked = self.closing || self.finishing || self.lost.is_some();
        let outside = self.broken || self.timeouts || self.stopped;
        // With the peer's half closed, closing the near one ends it as well.
        !(asked || outside || self.read_closed)
    }
}
