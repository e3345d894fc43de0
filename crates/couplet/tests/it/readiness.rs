//! What edges tell together: the driver over `mio` hears of several things at once and forgets none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::{Loop, Protocol, Transport};

use crate::suite::far::{FarPort, Ground};

#[derive(Clone, Default)]
struct Got {
    bytes: Rc<RefCell<Vec<u8>>>,
    ended: Rc<Cell<bool>>,
}

impl Protocol for Got {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.bytes.borrow_mut().extend_from_slice(data);
    }

    fn read_closed(&mut self, transport: &Transport) {
        self.ended.set(true);
        transport.lose_connection();
    }
}

#[test]
fn bytes_and_an_end_that_come_with_the_connect_are_both_told() {
    let far = FarPort::new(&Ground::Sockets);
    let mut l = Loop::new().expect("a loop");
    let got = Got::default();
    let protocol = got.clone();
    l.reactor().connect_tcp("127.0.0.1", far.address().port(), move || protocol.clone());
    l.turn(Some(Duration::ZERO)).expect("the connect begins");
    // All of it is there before the loop looks again: one edge tells of connect, bytes and end.
    let far = std::iter::repeat_with(|| far.accept()).take(1000).flatten().next().expect("it came");
    far.send(b"a poem");
    far.fin();
    for _ in 0..10 {
        l.turn(Some(Duration::from_millis(20))).expect("a turn");
    }
    assert_eq!(*got.bytes.borrow(), b"a poem");
    assert!(got.ended.get(), "the end is told too");
}
