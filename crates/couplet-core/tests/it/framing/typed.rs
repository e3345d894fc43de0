//! Framed protocols accessed through handles, timers and other threads.

use std::time::Duration;

use couplet::Connection;
use couplet::protocols::{
    IntReceiver, LineProtocol, LineReceiver, LineTransport, StringProtocol, StringTransport,
};
use couplet::testing::hold;

/// Answers with a counter, from a request or a timer.
#[derive(Default)]
struct Later {
    count: u8,
}

impl Later {
    fn line(&mut self, transport: &LineTransport) {
        self.count += 1;
        transport.send_line(self.count.to_string());
    }

    fn string(&mut self, transport: &StringTransport) {
        self.count += 1;
        transport.send_string([self.count]).expect("it fits");
    }
}

impl LineProtocol for Later {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let me: Connection<Self, LineTransport> = transport.connection();
        match line {
            b"tell" => assert!(me.tell(Self::line)),
            b"ask" => me.ask(Self::line).detach(),
            b"raw" => drop(me.tell(|_, transport| transport.set_raw_mode())),
            _ => drop(me.call_later(Duration::from_secs(1), Self::line)),
        }
    }

    fn raw_data_received(&mut self, transport: &LineTransport, data: &[u8]) {
        transport.write(data);
    }
}

impl StringProtocol for Later {
    fn string_received(&mut self, transport: &StringTransport, _: &[u8]) {
        transport.connection().call_later(Duration::from_secs(1), Self::string);
    }
}

#[test]
fn timers_and_requests_of_a_framed_protocol_get_its_own_transport() {
    let mut held = hold(LineReceiver::new(Later::default()));
    held.push(b"tell\r\nask\r\ntimer\r\n");
    assert_eq!(held.wire.take(), b"1\r\n2\r\n");
    held.advance(Duration::from_secs(1));
    assert_eq!(held.wire.take(), b"3\r\n");
    let mut held = hold(IntReceiver::<u8, _>::new(Later::default()));
    held.push(b"\0");
    held.advance(Duration::from_secs(1));
    assert_eq!(held.wire.take(), b"\x01\x01");
}

#[test]
fn the_transport_of_a_tell_switches_its_receivers_mode() {
    let mut held = hold(LineReceiver::new(Later::default()));
    held.push(b"raw\r\n");
    held.push(b"as it is");
    assert_eq!(held.wire.take(), b"as it is");
}

#[test]
fn a_tell_from_another_thread_reaches_the_protocol_inside_a_framer() {
    let mut held = hold(LineReceiver::new(Later::default()));
    let (remote, id) = (held.reactor().remote(), held.connection.id());
    let teller = std::thread::spawn(move || {
        remote.tell(id, |later: &mut Later, transport| {
            transport.write([later.count]);
        })
    });
    teller.join().expect("the thread does not panic").expect("the loop exists");
    held.settle();
    assert_eq!(held.wire.take(), [0]);
}
