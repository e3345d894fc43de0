//! One side closes its writing; what the other one sends after that all arrives.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::{By, Protocol, Reason, Transport};

use crate::meeting::{End, Intake, in_both_directions, meet, pattern};

/// Bytes of a question and of an answer: more than one read, less than the kernel holds.
const MUCH: usize = 1_000_000;

#[derive(Debug, Default, PartialEq)]
struct Told {
    intake: Intake,
    read_closed: usize,
    write_closed: usize,
}

impl Told {
    /// All of it, intact, and then the end of the stream, once.
    fn everything(write_closed: usize) -> Told {
        let intake = Intake { received: MUCH, spoilt: false };
        Told { intake, read_closed: 1, write_closed }
    }
}

/// Asks first and closes its writing, or answers when the peer has closed its own.
struct Half {
    asks: bool,
    told: Rc<RefCell<Told>>,
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
        self.told.borrow_mut().intake.take(data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.told.borrow_mut().read_closed += 1;
        if !self.asks {
            transport.write(pattern(0, MUCH));
        }
        transport.lose_connection();
    }

    fn write_closed(&mut self, _: &Transport) {
        self.told.borrow_mut().write_closed += 1;
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn twisted_closes_its_writing_and_reads_all_that_we_send_after_that() {
    in_both_directions(|at| {
        let told = Rc::<RefCell<Told>>::default();
        let notes = told.clone();
        let met = meet(at, "shut-first", |_, end| Half { asks: false, told: notes, end });
        assert_eq!(*told.borrow(), Told::everything(0), "{at:?} listens");
        assert!(matches!(met.reason, Reason::Done(By::Peer)), "{at:?}: {}", met.reason);
        let said = ["write closed", "received 1000000 intact", "lost ConnectionDone"];
        assert_eq!(met.said, said, "{at:?} listens");
    });
}

#[test]
fn we_close_our_writing_and_read_all_that_twisted_sends_after_that() {
    in_both_directions(|at| {
        let told = Rc::<RefCell<Told>>::default();
        let notes = told.clone();
        let met = meet(at, "answer-after-shut", |_, end| Half { asks: true, told: notes, end });
        assert_eq!(*told.borrow(), Told::everything(1), "{at:?} listens");
        assert!(met.reason.is_clean(), "{at:?} listens: {}", met.reason);
        assert_eq!(met.said, ["received 1000000 intact", "lost ConnectionDone"], "{at:?} listens");
    });
}
