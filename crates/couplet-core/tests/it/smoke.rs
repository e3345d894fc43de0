//! Smoke tests: bytes are echoed on each driver.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use couplet::testing::{Cut, Manner, hold, pair_on};
use couplet::{Protocol, Reason, Transport};

struct Echo;
impl Protocol for Echo {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

#[derive(Default)]
struct Collect(Vec<u8>, Option<String>);
impl Protocol for Collect {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(vec![7u8; 300_000]);
    }
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.0.extend_from_slice(data);
        if self.0.len() == 300_000 {
            transport.lose_connection();
        }
    }
    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.1 = Some(format!("{reason:?}"));
    }
}

#[test]
fn echo_in_memory() {
    for manner in [Manner::Readiness, Manner::Completion] {
        for cut in [Cut::Whole, Cut::Most(1000), Cut::Random(5000)] {
            let pair = pair_on(manner, cut, 3, Collect::default(), Echo);
            assert!(pair.a.is_lost(), "{manner:?} {cut:?}");
            assert!(pair.b.is_lost());
        }
    }
}

#[test]
fn echo_on_mio() {
    let mut l = couplet::Loop::new().unwrap();
    let reactor = l.reactor();
    let port = reactor.listen_tcp("127.0.0.1:0".parse().unwrap(), || Echo).unwrap();
    let to = port.host().port().unwrap();
    let stop = reactor.clone();
    let came = Rc::new(Cell::new(0));
    let seen = came.clone();
    struct Stops(Collect, couplet::Reactor, Rc<Cell<usize>>);
    impl Protocol for Stops {
        fn connection_made(&mut self, t: &Transport) {
            self.0.connection_made(t);
        }
        fn data_received(&mut self, t: &Transport, data: &[u8]) {
            self.0.data_received(t, data);
        }
        fn connection_lost(&mut self, t: &Transport, reason: &Reason) {
            self.2.set(self.0.0.len());
            self.0.connection_lost(t, reason);
            self.1.stop();
        }
    }
    l.run(|reactor| {
        let stops = move || Stops(Collect::default(), stop.clone(), seen.clone());
        reactor.connect_tcp("localhost", to, stops);
        Ok(())
    })
    .unwrap();
    assert_eq!(came.get(), 300_000);
}

#[test]
fn held() {
    let mut held = hold(Echo);
    held.push(b"abc");
    assert_eq!(held.wire.take(), b"abc");
    held.advance(Duration::from_secs(100));
    held.wire.fin();
    held.settle();
    assert!(held.wire.saw_fin());
}
