//! One side shuts down its write side; everything the other sends afterwards arrives.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::{By, Protocol, Reason, Transport};

use crate::meeting::{End, Intake, in_both_directions, meet, pattern};

/// Bytes of a request and of a response: more than one read, less than the kernel buffers.
const MUCH: usize = 1_000_000;

#[derive(Debug, Default, PartialEq)]
struct Seen {
    intake: Intake,
    read_closed: usize,
    write_closed: usize,
}

impl Seen {
    /// Every byte intact, then exactly one EOF.
    fn everything(write_closed: usize) -> Seen {
        let intake = Intake { received: MUCH, spoilt: false };
        Seen { intake, read_closed: 1, write_closed }
    }
}

/// Sends first and then shuts down its write side, or answers when the peer has shut down its own.
struct Half {
    asks: bool,
    seen: Rc<RefCell<Seen>>,
    end: End,
}

impl Protocol for Half {
    fn connection_made(&mut self, transport: &Transport) {
        if self.asks {
            transport.write(pattern(0, MUCH));
            transport.lose_write_connection();
        }
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.seen.borrow_mut().intake.take(data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.seen.borrow_mut().read_closed += 1;
        if !self.asks {
            transport.write(pattern(0, MUCH));
        }
        transport.lose_connection();
    }

    fn write_closed(&mut self, _: &Transport) {
        self.seen.borrow_mut().write_closed += 1;
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn twisted_half_closes_and_reads_everything_we_send_afterwards() {
    in_both_directions(|at| {
        let seen = Rc::<RefCell<Seen>>::default();
        let notes = seen.clone();
        let met = meet(at, "shut-first", |_, end| Half { asks: false, seen: notes, end });
        assert_eq!(*seen.borrow(), Seen::everything(0), "{at:?} listens");
        assert!(matches!(met.reason, Reason::Done(By::Peer)), "{at:?}: {}", met.reason);
        let said = ["write closed", "received 1000000 intact", "lost ConnectionDone"];
        assert_eq!(met.said, said, "{at:?} listens");
    });
}

#[test]
fn we_half_close_and_read_everything_twisted_sends_afterwards() {
    in_both_directions(|at| {
        let seen = Rc::<RefCell<Seen>>::default();
        let notes = seen.clone();
        let met = meet(at, "answer-after-shut", |_, end| Half { asks: true, seen: notes, end });
        assert_eq!(*seen.borrow(), Seen::everything(1), "{at:?} listens");
        assert!(met.reason.is_clean(), "{at:?} listens: {}", met.reason);
        assert_eq!(met.said, ["received 1000000 intact", "lost ConnectionDone"], "{at:?} listens");
    });
}
