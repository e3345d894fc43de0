//! One side reads slowly, the other one writes more than the kernel holds: its producer is paused,
//! little is buffered, and every byte arrives.

use std::cell::RefCell;
use std::io::Write;
use std::process::ChildStdin;
use std::rc::Rc;

use couplet::{By, Connection, Producer, ProducerKind, Protocol, Reason, SocketOption, Transport};

use crate::meeting::{End, Intake, in_both_directions, meet, pattern};
use crate::peer::Said;

/// More than two sockets hold between them.
const BULK: usize = 8 * 1024 * 1024;
const PIECE: usize = 64 * 1024;
/// What is read between two pauses.
const STRETCH: usize = 1024 * 1024;
/// What our socket holds, so that the kernel does not take most of it.
const ROOM: usize = 512 * 1024;
/// Above this a transport is full, unless set.
const HIGH_MARK: usize = 64 * 1024;

/// How the writing went.
#[derive(Default)]
struct Poured {
    written: usize,
    most_buffered: usize,
    pauses: usize,
}

/// Writes a piece a round, unless the transport is full or has paused it, and wakes the peer up at its first pause.
struct Pouring {
    poured: Rc<RefCell<Poured>>,
    paused: bool,
    stdin: ChildStdin,
    end: End,
}

impl Pouring {
    fn pour(&mut self, transport: &Transport) {
        let mut poured = self.poured.borrow_mut();
        if self.paused || poured.written == BULK {
            return;
        }
        // A full transport either drains in this turn or pauses us: no resume comes without a pause.
        if !transport.is_full() {
            transport.write(pattern(poured.written, PIECE));
            poured.written += PIECE;
            poured.most_buffered = poured.most_buffered.max(transport.buffered());
        }
        if poured.written == BULK {
            transport.unregister_producer();
            transport.lose_connection();
        } else {
            transport.connection::<Self>().tell(Self::pour);
        }
    }

    fn pause(&mut self, _: &Transport) {
        self.paused = true;
        let mut poured = self.poured.borrow_mut();
        poured.pauses += 1;
        if poured.pauses == 1 {
            self.stdin.write_all(b"go\n").expect("the peer lives");
        }
    }

    fn resume(&mut self, transport: &Transport) {
        self.paused = false;
        self.pour(transport);
    }
}

/// Hands on to the protocol what the transport asks of its producer.
struct Pour(Connection<Pouring>);

impl Producer for Pour {
    fn resume_producing(&mut self) {
        self.0.tell(Pouring::resume);
    }

    fn pause_producing(&mut self) {
        self.0.tell(Pouring::pause);
    }
}

impl Protocol for Pouring {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_socket_option(SocketOption::SendBuffer(ROOM));
        let pour = Pour(transport.connection());
        transport.register_producer(pour, ProducerKind::Push).expect("the first");
        self.pour(transport);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn twisted_reads_slowly_and_our_producer_waits() {
    in_both_directions(|at| {
        let poured = Rc::<RefCell<Poured>>::default();
        let notes = poured.clone();
        let met = meet(at, "read-slowly", |peer, end| {
            let stdin = peer.stdin();
            Pouring { poured: notes, paused: false, stdin, end }
        });
        assert!(matches!(met.reason, Reason::Done(By::Us)), "{at:?} listens: {}", met.reason);
        let said = ["paused", "received 8388608 intact", "lost ConnectionDone"];
        assert_eq!(met.said, said, "{at:?} listens");
        let Poured { written, most_buffered, pauses } = *poured.borrow();
        assert_eq!(written, BULK, "{at:?} listens");
        assert!(pauses > 0, "{at:?} listens");
        let bound = HIGH_MARK + PIECE;
        assert!(most_buffered <= bound, "{at:?} listens: {most_buffered} bytes were buffered");
    });
}

/// What the reading was told.
#[derive(Debug, Default, PartialEq)]
struct Told {
    intake: Intake,
    stretch: usize,
    pauses: usize,
    in_pauses: usize,
}

/// Reads nothing before the peer says that it has to wait, and then in stretches, with pauses
/// between.
struct Slow {
    said: Said,
    told: Rc<RefCell<Told>>,
    paused: bool,
    end: End,
}

impl Slow {
    fn resume(&mut self, transport: &Transport) {
        self.paused = false;
        transport.resume_producing();
    }
}

impl Protocol for Slow {
    fn connection_made(&mut self, transport: &Transport) {
        self.paused = true;
        transport.pause_producing();
        let (said, me) = (self.said.clone(), transport.connection::<Self>());
        let line = transport.reactor().defer_to_thread(move || Ok(said.next()));
        line.map(move |line| {
            assert_eq!(line.as_deref(), Some("stalled"));
            me.tell(Self::resume);
        })
        .detach();
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let mut told = self.told.borrow_mut();
        told.intake.take(data);
        told.stretch += data.len();
        told.in_pauses += usize::from(self.paused);
        if told.stretch >= STRETCH {
            told.stretch = 0;
            told.pauses += 1;
            self.paused = true;
            transport.pause_producing();
            transport.connection::<Self>().tell(Self::resume);
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn we_read_slowly_and_the_producer_of_twisted_waits() {
    in_both_directions(|at| {
        let told = Rc::<RefCell<Told>>::default();
        let notes = told.clone();
        let met = meet(at, "pour", |peer, end| {
            let said = peer.said.clone();
            Slow { said, told: notes, paused: false, end }
        });
        let told = told.borrow();
        assert_eq!(told.intake, Intake { received: BULK, spoilt: false }, "{at:?} listens");
        assert!(told.pauses >= 4, "{at:?} listens: {told:?}");
        assert_eq!(told.in_pauses, 0, "{at:?} listens");
        assert!(matches!(met.reason, Reason::Done(By::Peer)), "{at:?}: {}", met.reason);
        assert_eq!(met.said, ["lost ConnectionDone"], "{at:?} listens");
    });
}
