//! Large received chunks that a protocol echoes arrive exactly as written, regardless of any other
//! writes before, after or instead of them.

use std::cell::RefCell;
use std::rc::Rc;

use couplet::{Loop, Protocol, Reason, Transport};

use crate::suite::kit::LOOPBACK;

const TOTAL: usize = 4 * 1024 * 1024;

/// Answers a received piece.
type Answer = fn(&Transport, &[u8], &mut Vec<u8>);

/// Answers, and records the bytes that the peer must receive.
struct Server {
    answer: Answer,
    received: usize,
    written: Rc<RefCell<Vec<u8>>>,
}

impl Protocol for Server {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        (self.answer)(transport, data, &mut self.written.borrow_mut());
        self.received += data.len();
        if self.received == TOTAL {
            transport.lose_connection();
        }
    }
}

fn write(transport: &Transport, data: &[u8], written: &mut Vec<u8>) {
    transport.write(data);
    written.extend_from_slice(data);
}

/// Sends everything; if `patient`, starts reading 20 ms later.
struct Client {
    seen: Rc<RefCell<Vec<u8>>>,
    patient: bool,
    done: Rc<RefCell<Option<Reason>>>,
}

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        let data: Vec<u8> = (0..TOTAL as u32 / 4).flat_map(u32::to_le_bytes).collect();
        transport.write(&data);
        if self.patient {
            transport.pause_producing();
            let later = transport.clone();
            let rest = std::time::Duration::from_millis(20);
            transport.reactor().call_later(rest, move || later.resume_producing());
        }
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.seen.borrow_mut().extend_from_slice(data);
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        *self.done.borrow_mut() = Some(reason.clone());
        transport.reactor().stop();
    }
}

fn assert_seen_as_written(answer: Answer, patient: bool) {
    let mut l = Loop::new().expect("a loop");
    let (written, seen) = (Rc::<RefCell<Vec<u8>>>::default(), Rc::<RefCell<Vec<u8>>>::default());
    let done = Rc::<RefCell<Option<Reason>>>::default();
    let (note, client) = (written.clone(), (seen.clone(), Rc::clone(&done)));
    l.run(|reactor| {
        let server = move || Server { answer, received: 0, written: note.clone() };
        let port = reactor.listen(LOOPBACK, server)?;
        let to = port.host().socket_addr().expect("a TCP port");
        reactor
            .connect(("127.0.0.1", to.port()), move || Client {
                seen: client.0.clone(),
                patient,
                done: client.1.clone(),
            })
            .detach();
        Ok(())
    })
    .expect("a clean run");
    assert!(matches!(&*done.borrow(), Some(Reason::Done(_))), "{:?}", done.borrow());
    assert_eq!(seen.borrow().len(), written.borrow().len());
    assert!(*seen.borrow() == *written.borrow(), "bytes differ or are out of order");
}

const ANSWERS: [(&str, Answer); 8] = [
    ("all of it", |t, data, w| write(t, data, w)),
    ("a part of it", |t, data, w| write(t, &data[data.len() / 3..], w)),
    ("a little before and after it", |t, data, w| {
        write(t, b"<", w);
        write(t, data, w);
        write(t, b">", w);
    }),
    ("a little after it", |t, data, w| {
        write(t, data, w);
        write(t, b">", w);
    }),
    ("it twice", |t, data, w| {
        write(t, data, w);
        write(t, data, w);
    }),
    ("its halves, the second first", |t, data, w| {
        let (first, second) = data.split_at(data.len() / 2);
        write(t, second, w);
        write(t, first, w);
    }),
    ("a copy of it", |t, data, w| {
        let copy = data.to_vec();
        write(t, &copy, w);
    }),
    ("owned bytes, then it", |t, data, w| {
        t.write_bytes(data.to_vec());
        w.extend_from_slice(data);
        write(t, data, w);
    }),
];

#[test]
fn echoed_data_arrives_as_written_also_at_a_reader_that_pauses() {
    for (what, answer) in ANSWERS {
        for patient in [false, true] {
            println!("{what}, patient: {patient}");
            assert_seen_as_written(answer, patient);
        }
    }
}

/// Received data written to another connection is copied, since that connection drains at its own
/// pace.
#[test]
fn a_write_to_another_connection_is_a_copy() {
    struct Crossing {
        other: Rc<RefCell<Vec<Transport>>>,
    }
    impl Protocol for Crossing {
        fn connection_made(&mut self, transport: &Transport) {
            self.other.borrow_mut().push(transport.clone());
        }
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            for other in self.other.borrow().iter().filter(|other| other.id() != transport.id()) {
                other.write(data);
            }
        }
    }
    struct Speaker {
        says: u8,
        heard: Rc<RefCell<[Vec<u8>; 2]>>,
    }
    impl Protocol for Speaker {
        fn connection_made(&mut self, transport: &Transport) {
            let says = vec![self.says; TOTAL];
            let later = transport.clone();
            // Both are connected by then.
            let soon = std::time::Duration::from_millis(30);
            transport.reactor().call_later(soon, move || later.write(&says));
        }
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            let mut heard = self.heard.borrow_mut();
            heard[usize::from(self.says)].extend_from_slice(data);
            if heard.iter().all(|heard| heard.len() == TOTAL) {
                transport.reactor().stop();
            }
        }
    }
    let heard = Rc::<RefCell<[Vec<u8>; 2]>>::default();
    let mut l = Loop::new().expect("a loop");
    l.run(|reactor| {
        let other: Rc<RefCell<Vec<Transport>>> = Rc::default();
        let port = reactor.listen(LOOPBACK, move || Crossing { other: other.clone() })?;
        let to = port.host().socket_addr().expect("a TCP port");
        for says in 0..2 {
            let heard = Rc::clone(&heard);
            reactor
                .connect(("127.0.0.1", to.port()), move || Speaker { says, heard: heard.clone() })
                .detach();
        }
        Ok(())
    })
    .expect("a clean run");
    for (says, heard) in (0..2).zip(heard.take()) {
        assert!(heard.iter().all(|byte| *byte == 1 - says), "not the other speaker's bytes");
    }
}
