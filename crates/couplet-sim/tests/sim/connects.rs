//! Connects (refused, unanswered, queued) and closes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;

use couplet::sim::{Fault, Sim};

use super::kit::{Two, all, ms, s};

#[test]
fn a_connect_where_nothing_listens_is_refused_after_a_round_trip() {
    let mut two = Two::new();
    let socket = two.sim.socket(two.a, two.sim.at(two.b, 81)).unwrap();
    assert_eq!(two.until(|| socket.error().is_some()), ms(20));
    assert_eq!(socket.error(), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn a_host_refuses_connects_for_a_while_and_keeps_its_connections() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.fault(s(1), Fault::Refuse(two.b));
    two.pass(ms(1));
    let refused = two.connect();
    two.pass(ms(20));
    assert_eq!(refused.error(), Some(ErrorKind::ConnectionRefused));
    here.push(b"hello").unwrap();
    two.pass(s(1));
    assert_eq!(all(&there), b"hello");
    two.joined();
}

#[test]
fn a_connect_into_silence_gives_up_after_two_minutes() {
    let mut two = Two::new();
    two.sim.fault(s(0), s(3600), Fault::BlackHole(two.b));
    two.pass(ms(1));
    let silent = two.connect();
    let nobody = two.sim.socket(two.a, SocketAddr::from(([10, 9, 9, 9], 80))).unwrap();
    let took = two.until(|| silent.error().is_some() && nobody.error().is_some());
    assert!((s(127)..s(128)).contains(&took), "{took:?}");
    assert_eq!(silent.error(), Some(ErrorKind::TimedOut));
    assert_eq!(nobody.error(), Some(ErrorKind::TimedOut));
}

#[test]
fn a_connect_whose_answer_is_lost_gives_up_as_well() {
    let mut two = Two::new();
    two.sim.fault(s(0), s(3600), Fault::OneWay(two.b, two.a));
    two.pass(ms(1));
    let here = two.connect();
    let took = two.until(|| here.error().is_some());
    assert!(took < s(129), "{took:?}");
    assert_eq!(here.error(), Some(ErrorKind::TimedOut));
    assert!(two.port.accept().is_none(), "it was never confirmed");
}

#[test]
fn a_lost_confirmation_is_retransmitted_before_the_bytes_behind_it() {
    let mut two = Two::new();
    two.sim.fault(ms(15), s(1), Fault::OneWay(two.a, two.b));
    let here = two.connect();
    assert_eq!(two.until(|| here.is_open()), ms(20));
    here.push(b"hello").unwrap();
    two.pass(ms(900));
    assert!(two.port.accept().is_none());
    two.pass(s(2));
    assert_eq!(all(&two.port.accept().unwrap()), b"hello");
}

#[test]
fn a_connect_abandoned_before_its_answer_never_reaches_a_port() {
    let mut two = Two::new();
    let here = two.connect();
    two.pass(ms(15));
    here.close();
    two.pass(s(1));
    assert!(two.port.accept().is_none());
    // A connect abandoned later does, as a broken connection.
    let here = two.connect();
    two.pass(ms(20));
    here.reset();
    two.pass(s(1));
    assert_eq!(two.port.accept().unwrap().error(), Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_connect_that_is_lost_at_first_succeeds_on_a_retry() {
    let mut two = Two::new();
    two.sim.fault(s(0), ms(2500), Fault::Partition(two.a, two.b));
    two.pass(ms(1));
    let here = two.connect();
    let took = two.until(|| here.is_open());
    // Tried immediately, after 1 s, and after 2 s more.
    assert!((s(3)..s(3) + ms(100)).contains(&took), "{took:?}");
}

#[test]
fn addresses_outside_the_world_are_unreachable() {
    let two = Two::new();
    let outside = SocketAddr::from(([192, 0, 2, 1], 80));
    let error = two.sim.socket(two.a, outside).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NetworkUnreachable);
}

#[test]
fn a_full_queue_lets_a_connect_wait_until_there_is_room() {
    let mut sim = Sim::new(1);
    let (a, b) = (sim.bare_host("a"), sim.bare_host("b"));
    let port = sim.listen(b, sim.at(b, 80), 1).unwrap();
    let one = |_| {
        let socket = sim.socket(a, port.address()).unwrap();
        sim.run_for(ms(100)).unwrap();
        socket
    };
    let sockets: Vec<_> = (0..3).map(one).collect();
    let open = || sockets.iter().filter(|socket| socket.is_open()).count();
    sim.run_for(s(10)).unwrap();
    assert_eq!(open(), 2, "one more than the backlog, as on Linux");
    assert!(sockets.iter().all(|socket| socket.error().is_none()));
    assert!(port.accept().is_some());
    assert!(sim.run_until(s(60), |_| open() == 3).unwrap(), "there is room now");
    sim.run_for(ms(10)).unwrap();
    assert!(port.accept().is_some() && port.accept().is_some() && port.accept().is_none());
}

#[test]
fn a_connection_answered_before_the_queue_was_full_is_open_and_waits_for_accept() {
    let mut sim = Sim::new(1);
    let (a, b) = (sim.bare_host("a"), sim.bare_host("b"));
    let port = sim.listen(b, sim.at(b, 80), 1).unwrap();
    // All three get their answer while the queue is empty.
    let sockets: Vec<_> = (0..3).map(|_| sim.socket(a, port.address()).unwrap()).collect();
    sim.run_for(s(10)).unwrap();
    let mut numbered = (1..).zip(&sockets);
    assert!(numbered.all(|(number, it)| it.is_open() && it.push(&[number]).is_ok()));
    let taken: Vec<_> = std::iter::from_fn(|| port.accept()).collect();
    assert_eq!(taken.len(), 2, "one more than the backlog, as on Linux");
    sim.run_for(s(60)).unwrap();
    let last = port.accept().expect("there is room now");
    let heard: Vec<_> = taken.iter().chain([&last]).map(all).collect();
    assert_eq!(heard, [[1], [2], [3]], "in the order of their connects");
}

#[test]
fn a_connect_to_full_queues_succeeds_when_they_are_free_again() {
    let mut two = Two::new();
    two.sim.fault(s(0), s(20), Fault::FullQueue(two.b));
    two.pass(ms(1));
    let here = two.connect();
    two.pass(s(19));
    assert!(!here.is_open() && here.error().is_none());
    two.until(|| here.is_open());
}

#[test]
fn a_connection_waiting_at_a_port_that_closes_is_reset() {
    // First one in the accept queue, then one whose confirmation is in flight.
    for waited in [ms(30), ms(20)] {
        let mut two = Two::new();
        let heres = [two.connect(), two.connect(), two.connect()];
        two.pass(waited);
        let Two { mut sim, port, .. } = two;
        assert!(heres.iter().all(couplet::sim::Socket::is_open));
        drop(port);
        sim.run_for(ms(20)).unwrap();
        let errors = heres.each_ref().map(couplet::sim::Socket::error);
        assert_eq!(errors, [Some(ErrorKind::ConnectionReset); 3]);
    }
}

#[test]
fn a_half_close_leaves_the_other_direction_open() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    here.push(b"question").unwrap();
    here.fin();
    assert_eq!(here.push(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
    two.pass(ms(10));
    assert_eq!(all(&there), b"question");
    assert!(there.saw_fin());
    there.push(b"answer").unwrap();
    there.close();
    two.pass(ms(10));
    assert_eq!(all(&here), b"answer");
    assert!(here.saw_fin() && here.error().is_none());
}

#[test]
fn a_port_has_an_address_of_its_host_and_is_in_the_way_of_no_other_number() {
    let mut sim = Sim::new(1);
    let a = sim.bare_host("a");
    let address = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    let _port = sim.listen(a, address("0.0.0.0", 80), 5).unwrap();
    assert!(sim.listen(a, address("127.0.0.1", 81), 5).is_ok());
    let error = sim.listen(a, address("10.3.2.1", 82), 5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn the_free_ports_of_a_host_are_given_out_again_but_none_in_use() {
    let mut sim = Sim::new(1);
    let a = sim.bare_host("a");
    let _port = sim.listen(a, sim.at(a, 40_000), 5).unwrap();
    let _datagrams = sim.datagrams(a, 40_001).unwrap();
    let mut given = BTreeSet::new();
    for _ in 0..70_000 {
        given.insert(sim.datagrams(a, 0).expect("there are free ports").address().port());
    }
    let free: BTreeSet<u16> =
        (32_768..=u16::MAX).filter(|port| ![40_000, 40_001].contains(port)).collect();
    assert!(given == free, "{} ports", given.len());
}
