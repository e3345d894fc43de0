//! Connects: refused, unanswered, waiting in a queue, and what closes how.

use std::io::ErrorKind;
use std::net::SocketAddr;

use couplet::sim::{Fault, Sim};

use super::kit::{Two, all, ms, s};

#[test]
fn a_connect_where_nobody_listens_is_refused_after_a_way_and_back() {
    let mut two = Two::new();
    let socket = two.sim.socket(two.a, two.sim.at(two.b, 81)).unwrap();
    assert_eq!(two.until(|| socket.error().is_some()), ms(20));
    assert_eq!(socket.error(), Some(ErrorKind::ConnectionRefused));
}

#[test]
fn a_host_refuses_connects_for_a_while_and_keeps_its_connections() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    let now = two.sim.elapsed();
    two.sim.fault(now, s(1), Fault::Refuse(two.b));
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
    two.pass(ms(10));
    let there = two.port.accept().expect("it was asked for");
    let took = two.until(|| here.error().is_some());
    assert!(took < s(129), "{took:?}");
    assert_eq!(here.error(), Some(ErrorKind::TimedOut));
    assert_eq!(there.error(), Some(ErrorKind::TimedOut));
}

#[test]
fn a_connect_that_is_lost_at_first_comes_through_at_the_next_try() {
    let mut two = Two::new();
    two.sim.fault(s(0), ms(2500), Fault::Partition(two.a, two.b));
    two.pass(ms(1));
    let here = two.connect();
    let took = two.until(|| here.is_open());
    // Tried at once, after one second, and after two more.
    assert!((s(3)..s(3) + ms(100)).contains(&took), "{took:?}");
}

#[test]
fn there_is_no_way_out_of_the_world() {
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
    let sockets: Vec<_> = (0..3).map(|_| sim.socket(a, port.address()).unwrap()).collect();
    let open = || sockets.iter().filter(|socket| socket.is_open()).count();
    sim.run_for(s(10)).unwrap();
    assert_eq!(open(), 2, "one more than the backlog, as on Linux");
    assert!(sockets.iter().all(|socket| socket.error().is_none()));
    assert!(port.accept().is_some());
    assert!(sim.run_until(s(60), |_| open() == 3).unwrap(), "there is room now");
    assert!(port.accept().is_some() && port.accept().is_some() && port.accept().is_none());
}

#[test]
fn while_queues_are_full_nobody_comes_through_and_afterwards_everybody() {
    let mut two = Two::new();
    two.sim.fault(s(0), s(20), Fault::FullQueue(two.b));
    two.pass(ms(1));
    let here = two.connect();
    two.pass(s(19));
    assert!(!here.is_open() && here.error().is_none());
    two.until(|| here.is_open());
}

#[test]
fn who_waits_at_a_port_that_closes_is_reset() {
    let mut two = Two::new();
    let here = two.connect();
    two.pass(ms(20));
    let Two { mut sim, port, .. } = two;
    assert!(here.is_open());
    drop(port);
    sim.run_for(ms(10)).unwrap();
    assert_eq!(here.error(), Some(ErrorKind::ConnectionReset));
}

#[test]
fn closing_tells_the_end_of_the_stream_and_closing_with_unread_input_resets() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    here.push(b"read").unwrap();
    two.pass(ms(10));
    assert_eq!(all(&there), b"read");
    there.push(b"bye").unwrap();
    there.close();
    two.pass(ms(10));
    assert_eq!(all(&here), b"bye");
    assert!(here.saw_fin() && here.error().is_none());

    let (here, there) = two.joined();
    here.push(b"not read").unwrap();
    two.pass(ms(10));
    there.push(b"bye").unwrap();
    there.close();
    two.pass(ms(10));
    assert_eq!(here.error(), Some(ErrorKind::ConnectionReset));
    assert!(!here.saw_fin());
}

#[test]
fn what_comes_for_a_closed_socket_is_answered_by_a_reset() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    there.close();
    two.pass(ms(10));
    assert!(here.saw_fin() && here.error().is_none());
    assert_eq!(here.push(b"too late").unwrap(), 8, "nobody knows it yet");
    two.pass(ms(20));
    assert_eq!(here.error(), Some(ErrorKind::BrokenPipe), "as Linux calls it behind a FIN");
}

#[test]
fn half_a_close_leaves_the_other_half() {
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
fn a_port_that_another_one_covers_is_in_use() {
    let mut sim = Sim::new(1);
    let a = sim.bare_host("a");
    let address = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    let _port = sim.listen(a, address("0.0.0.0", 80), 5).unwrap();
    for taken in ["0.0.0.0", "127.0.0.1", "::"] {
        let error = sim.listen(a, address(taken, 80), 5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse, "{taken}");
    }
    assert!(sim.listen(a, address("127.0.0.1", 81), 5).is_ok());
    assert!(sim.listen(a, address("::1", 80), 5).is_ok());
    let error = sim.listen(a, address("10.3.2.1", 82), 5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
}
