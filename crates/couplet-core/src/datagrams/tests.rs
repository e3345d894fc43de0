//! The memory that a datagram port retains, and the number of datagrams that it queues.

use super::*;
use crate::reactor::Loop;
use crate::testing::{Manner, Memory, failure_of, success_of};

#[test]
fn c160b_timed_calls_that_were_made_or_cancelled_leave_nothing_at_their_port() {
    let (driver, network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(driver, crate::LoopOptions::default());
    let ignores = |_: &DatagramTransport, _: &Datagram<'_>| {};
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let port = l.reactor().listen_datagrams(any, ignores).expect("a free port");
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

/// The limit on datagrams counts where that on bytes is far away. Twice, as for the other limit:
/// `suite::c157_a_datagram_fits_up_to_the_last_byte_of_the_queue`.
#[test]
fn c157_a_queue_has_a_limit_of_datagrams_too() {
    for manner in [Manner::Readiness, Manner::Completion] {
        let (driver, _network) = Memory::new(manner, 1);
        let mut l = Loop::with_driver(driver, crate::LoopOptions::default());
        let ignores = |_: &DatagramTransport, _: &Datagram<'_>| {};
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let [port, peer] =
            [(); 2].map(|()| l.reactor().listen_datagrams(any, ignores).expect("a free port"));
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        for round in 1..=2 {
            for number in 1..=MOST_QUEUED {
                // The last one fills the queue, although it is empty.
                let data = vec![0; number % 2];
                assert_eq!(port.send_to(data, peer.host()), Ok(()), "{round}, {number}");
            }
            let refused = Err(SendError::Full { queued: MOST_QUEUED / 2 });
            assert_eq!(port.send_to("", peer.host()), refused, "{round}");
            assert_eq!(port.send_to("x", peer.host()), refused, "{round}");
            while port.buffered() > 0 {
                l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
            }
            assert_eq!(port.dropped(), 2 * round, "{manner:?}");
        }
    }
}

/// A port that stops before it was served: each of its requests has an answer, and each datagram
/// of its queue is counted.
#[test]
fn c158_a_port_that_stops_answers_each_of_its_requests() {
    let (driver, network) = Memory::new(Manner::Readiness, 1);
    let mut l = Loop::with_driver(driver, crate::LoopOptions::default());
    let ignores = |_: &DatagramTransport, _: &Datagram<'_>| {};
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let second = Duration::from_secs(1);
    for count in 1..=3 {
        let port = l.reactor().listen_datagrams(any, ignores).expect("a free port");
        let joins: Vec<_> = (0..count).map(|n| port.join([239, 1, 1, n])).collect();
        let duplicates: Vec<_> = (0..count).map(|_| port.duplicate()).collect();
        let held = Rc::new(());
        let calls: Vec<_> = (0..count)
            .map(|_| {
                let held = held.clone();
                port.call_later(second, move |_, _| drop(held))
            })
            .collect();
        for _ in 0..count {
            port.send_to("x", port.host()).expect("there is room");
        }
        let stopped = port.stop_listening().expect("it is open");
        l.turn(Some(Duration::ZERO)).expect("the memory driver does not fail");
        for join in joins {
            assert!(failure_of(join).is::<PortStopped>(), "{count}");
        }
        for duplicate in duplicates {
            assert!(failure_of(duplicate).is::<PortStopped>(), "{count}");
        }
        success_of(stopped);
        assert!(calls.iter().all(|call| !call.active()), "{count}");
        assert_eq!(Rc::strong_count(&held), 1, "{count}");
        assert_eq!((port.dropped(), port.buffered()), (u64::from(count), 0));
        network.advance(second);
    }
    assert_eq!(l.snapshot().pending_calls, 0);
}

#[test]
fn of_several_requests_in_a_turn_the_last_one_counts() {
    use Receiving::{On, Paused, Pausing, Resuming};
    for before in [On, Pausing, Paused, Resuming] {
        for bits in 0..8_u8 {
            let requests = [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0];
            let mut state = before;
            for paused in requests {
                state = state.requested(paused);
                assert_eq!(state.is_paused(), paused, "{before:?} {requests:?}");
                assert_eq!(state.applied().is_paused(), paused, "{before:?} {requests:?}");
            }
        }
    }
}
