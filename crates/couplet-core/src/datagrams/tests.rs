//! The memory that a datagram port retains.

use super::*;
use crate::reactor::Loop;
use crate::testing::{Manner, Memory};

#[test]
fn c160b_timed_calls_that_were_made_or_cancelled_leave_nothing_at_their_port() {
    let (driver, network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(driver, crate::LoopOptions::default());
    let ignores = |_: &DatagramTransport, _: &Datagram<'_>| {};
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = l.reactor().listen_udp(any, ignores).expect("a free port");
    let second = Duration::from_secs(1);
    for n in 0..1000 {
        let call = port.call_later(second, |_, _| {});
        if n % 2 == 0 {
            call.cancel();
        }
        network.advance(second);
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
    }
    assert_eq!(l.snapshot().pending_calls, 0);
    assert!(port.cell.timers.borrow().capacity() <= 8);
}
