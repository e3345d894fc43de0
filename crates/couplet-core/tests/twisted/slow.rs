//! Backpressure: one side reads slowly while the other writes more than the kernel buffers. The
//! writer's producer is paused, little is buffered, and every byte arrives.

use std::cell::RefCell;
use std::io::Write;
use std::process::ChildStdin;
use std::rc::Rc;

use couplet::{By, Connection, Producer, ProducerKind, Protocol, Reason, SocketOption, Transport};

use crate::meeting::{End, Intake, in_both_directions_and_over_tls, meet_over, pattern};
use crate::peer::Said;

/// More than two socket buffers hold.
const BULK: usize = 8 * 1024 * 1024;
const PIECE: usize = 64 * 1024;
/// Bytes read between two pauses.
const STRETCH: usize = 1024 * 1024;
/// Our socket's send buffer, small enough that the kernel does not absorb most of `BULK`.
const ROOM: usize = 512 * 1024;
/// The transport's default high watermark.
const HIGH_MARK: usize = 64 * 1024;

/// Statistics of the writing side.
#[derive(Default)]
struct Poured {
    written: usize,
    most_buffered: usize,
    pauses: usize,
}

/// Writes a piece per round unless the transport is full or has paused it. The first pause wakes up
/// the peer.
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
        // A full transport either drains in this turn or pauses us; without a pause there is no
        // resume.
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
            self.stdin.write_all(b"go\n").expect("the peer is running");
        }
    }

    fn resume(&mut self, transport: &Transport) {
        self.paused = false;
        self.pour(transport);
    }
}

/// Forwards the transport's producer calls to the protocol.
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
        transport.set_option(SocketOption::SendBuffer(ROOM));
        let pour = Pour(transport.connection());
        transport.register_producer(pour, ProducerKind::Push).expect("the only producer");
        self.pour(transport);
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        self.end.lost(transport, reason);
    }
}

#[test]
fn our_producer_pauses_while_twisted_reads_slowly() {
    in_both_directions_and_over_tls(|at, over| {
        let poured = Rc::<RefCell<Poured>>::default();
        let notes = poured.clone();
        let met = meet_over(at, over, "read-slowly", |peer, end| {
            let stdin = peer.stdin();
            Pouring { poured: notes, paused: false, stdin, end }
        });
        assert!(matches!(met.reason, Reason::Done(By::Us)), "{at:?} listens: {}", met.reason);
        let said = ["paused", "received 8388608 intact", "lost ConnectionDone"];
        assert_eq!(met.said, said, "{at:?} listens");
        let Poured { written, most_buffered, pauses } = *poured.borrow();
        assert_eq!(written, BULK, "{at:?} listens");
        assert!(pauses > 0, "{at:?} listens");
        // TLS records are longer than their contents.
        let bound = (HIGH_MARK + PIECE) * 1001 / 1000;
        assert!(most_buffered <= bound, "{at:?} listens: {most_buffered} bytes were buffered");
    });
}

/// State of the reading side.
#[derive(Debug, Default, PartialEq)]
struct Reading {
    intake: Intake,
    stretch: usize,
    pauses: usize,
    in_pauses: usize,
}

/// Reads nothing until the peer reports that it is stalled, then reads in stretches with pauses in
/// between.
struct Slow {
    said: Said,
    reading: Rc<RefCell<Reading>>,
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
        let mut reading = self.reading.borrow_mut();
        reading.intake.take(data);
        reading.stretch += data.len();
        reading.in_pauses += usize::from(self.paused);
        if reading.stretch >= STRETCH {
            reading.stretch = 0;
            reading.pauses += 1;
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
fn twisteds_producer_pauses_while_we_read_slowly() {
    in_both_directions_and_over_tls(|at, over| {
        let reading = Rc::<RefCell<Reading>>::default();
        let notes = reading.clone();
        let met = meet_over(at, over, "pour", |peer, end| {
            let said = peer.said.clone();
            Slow { said, reading: notes, paused: false, end }
        });
        let reading = reading.borrow();
        assert_eq!(reading.intake, Intake { received: BULK, spoilt: false }, "{at:?} listens");
        assert!(reading.pauses >= 4, "{at:?} listens: {reading:?}");
        assert_eq!(reading.in_pauses, 0, "{at:?} listens");
        assert!(matches!(met.reason, Reason::Done(By::Peer)), "{at:?}: {}", met.reason);
        assert_eq!(met.said, ["lost ConnectionDone"], "{at:?} listens");
    });
}
