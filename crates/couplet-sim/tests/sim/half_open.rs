//! Half-open connections: how and when an end notices the death of the other host.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Cut, Fault, Host, Link, Sim, Socket};
use couplet::{Protocol, Reason, SocketOption, Transport};

use super::kit::{Two, all, ms, s, served};

#[test]
fn after_a_crash_the_peer_stays_open_until_it_sends_and_is_reset() {
    let mut two = Two::new();
    let (here, _there) = two.joined();
    two.fault(s(60), Fault::Crash(two.b));
    two.pass(s(3600));
    assert!(here.is_open() && here.error().is_none(), "it has not been notified");
    here.push(b"are you there?").unwrap();
    assert_eq!(two.until(|| here.error().is_some()), ms(20));
    assert_eq!(here.error(), Some(ErrorKind::ConnectionReset));
}

#[test]
fn an_end_that_sends_to_a_crashed_host_is_reset_once_it_is_back() {
    let mut two = Two::new();
    let (here, _there) = two.joined();
    two.fault(s(60), Fault::Crash(two.b));
    two.pass(s(1));
    here.push(b"are you there?").unwrap();
    two.pass(s(58));
    assert!(here.error().is_none(), "silence");
    let took = two.until(|| here.error().is_some());
    assert_eq!(here.error(), Some(ErrorKind::ConnectionReset));
    assert!(took < s(60), "the next retransmission was at most a minute away: {took:?}");
}

#[test]
fn a_reset_lost_in_an_old_world_is_repeated_once_the_way_is_open() {
    let mut two = Two::new();
    let (here, _there) = two.joined();
    two.pass(s(1000));
    two.fault(ms(1), Fault::Crash(two.b));
    two.pass(s(1));
    two.fault(s(5), Fault::OneWay(two.b, two.a));
    here.push(b"are you there?").unwrap();
    let took = two.until(|| here.error().is_some());
    assert_eq!(here.error(), Some(ErrorKind::ConnectionReset));
    assert!((s(5)..s(10)).contains(&took), "{took:?}");
}

/// A connection that has filled both buffers, with 1000 bytes of 1 and of 2.
fn full(two: &mut Two) -> (Socket, Socket) {
    two.sim.set_buffers(1000, 1000);
    let (here, there) = two.joined();
    for byte in [1, 2] {
        here.push(&[byte; 1000]).unwrap();
        two.pass(s(1));
    }
    assert_eq!(here.push(b"x").unwrap(), 0, "both buffers are full");
    (here, there)
}

#[test]
fn a_sender_waiting_for_room_notices_that_the_other_end_has_crashed() {
    // Before the first probe of the window, or after several.
    for waited in [0, 30] {
        let mut two = Two::new();
        let (here, _there) = full(&mut two);
        two.pass(s(waited));
        two.fault(s(1), Fault::Crash(two.b));
        let took = two.until(|| here.error().is_some());
        assert_eq!(here.error(), Some(ErrorKind::ConnectionReset), "{waited}");
        assert!(took < s(10), "{waited}: {took:?}");
    }
}

#[test]
fn a_sender_waiting_for_room_across_a_partition_eventually_gives_up() {
    let mut two = Two::new();
    let (here, there) = full(&mut two);
    two.fault(s(3600), Fault::Partition(two.a, two.b));
    two.pass(ms(1));
    all(&there);
    let took = two.until(|| here.error().is_some());
    assert_eq!(here.error(), Some(ErrorKind::TimedOut));
    assert!((s(900)..s(960)).contains(&took), "{took:?}");
}

#[test]
fn a_window_that_opens_during_a_partition_is_noticed_when_it_heals() {
    let mut two = Two::new();
    let (_here, there) = full(&mut two);
    two.fault(s(30), Fault::Partition(two.a, two.b));
    two.pass(ms(1));
    assert_eq!(all(&there), [1; 1000]);
    two.pass(s(29));
    assert!(all(&there).is_empty());
    two.until(|| there.take(1) == [2]);
    assert_eq!(all(&there), [2; 999]);
}

#[test]
fn a_crash_loses_the_unsent_bytes_of_closed_connections() {
    let mut two = Two::new();
    two.sim.set_bandwidth(two.b, Some(1000));
    two.sim.set_buffers(4000, 1000);
    let (here, there) = two.joined();
    there.push(&[0; 4000]).unwrap();
    there.close();
    two.pass(s(2));
    two.fault(ms(1), Fault::Crash(two.b));
    let mut got = 0;
    for _ in 0..100 {
        two.pass(s(1));
        got += all(&here).len();
    }
    assert!((1000..4000).contains(&got), "{got}: the bytes in flight");
    assert!(!here.saw_fin(), "a FIN would mean that this was everything");
    assert!(here.is_open() && here.error().is_none());
}

#[test]
fn a_crash_loses_the_packets_that_wait_to_leave_its_host() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.sim.set_default_link(Link::constant(ms(10)).cut(Cut::Most(500)));
    two.sim.set_bandwidth(two.b, Some(1000));
    there.push(&[1; 10_000]).unwrap();
    two.pass(ms(2250));
    two.fault(ms(1), Fault::Crash(two.b));
    two.pass(s(20));
    assert_eq!(all(&here), [1; 2000], "the others had not left");
    let next = two.sim.listen(two.b, two.sim.at(two.b, 80), 50).unwrap();
    let old = std::mem::replace(&mut two.port, next);
    let again = two.connect();
    assert_eq!(two.until(|| again.is_open()), ms(20), "nothing is ahead of the answer");
    two.pass(ms(10));
    assert!(old.accept().is_none() && two.port.accept().is_some(), "the old port is closed");
    drop(old);
    let again = two.connect();
    assert_eq!(two.until(|| again.is_open()), ms(20));
}

#[test]
fn a_crash_right_after_a_fin_does_not_make_a_partial_stream_look_complete() {
    let mut two = Two::new();
    two.sim.set_buffers(100_000, 1000);
    let (here, there) = two.joined();
    there.push(&[0; 50_000]).unwrap();
    // Still open: only its write side is shut down.
    there.fin();
    let now = two.sim.elapsed();
    // Back up before the acknowledgement arrives.
    two.sim.fault(now + ms(1), ms(5), Fault::Crash(two.b));
    two.pass(ms(100));
    assert!(!all(&here).is_empty());
    two.pass(s(100));
    all(&here);
    assert!(!here.saw_fin());
}

/// The reason for the loss of a connection.
type Lost = Rc<RefCell<Option<Reason>>>;

/// Records the reason for its loss.
struct Server<F> {
    lost: Lost,
    /// Called in `connection_made`.
    made: F,
    /// Answers with 500 bytes, and 18 ms later with a FIN.
    leaves: bool,
}

impl<F: Fn(&Transport) + 'static> Protocol for Server<F> {
    fn connection_made(&mut self, transport: &Transport) {
        (self.made)(transport);
    }

    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        if self.leaves {
            transport.write([0; 500]);
            let leaving = transport.clone();
            transport.reactor().call_later(ms(18), move || leaving.lose_write_connection());
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        *self.lost.borrow_mut() = Some(reason.clone());
    }
}

/// Sends keep-alive probes after a minute of silence.
fn keep_alive(transport: &Transport) {
    transport.set_option(SocketOption::KeepAlive(Some(s(60))));
}

/// A server, a peer without a program that has connected to it, and the reason why the server loses
/// the connection.
struct Served {
    sim: Sim,
    server: Host,
    client: Host,
    socket: Socket,
    lost: Lost,
}

impl Served {
    /// A server that calls `made` in each `connection_made`.
    fn new(link: Link, made: impl Fn(&Transport) + Copy + 'static, leaves: bool) -> Served {
        let lost = Lost::default();
        let log = lost.clone();
        let (mut sim, server, socket) = served(move |reactor| {
            let log = log.clone();
            let build = move || Server { lost: log.clone(), made, leaves };
            reactor.listen("tcp:80", build).map(drop)
        });
        sim.set_default_link(link);
        Served { client: sim.hosts()[1], sim, server, socket, lost }
    }

    fn run_until_lost(&mut self) {
        let lost = &self.lost;
        assert!(self.sim.run_until(s(4000), |_| lost.borrow().is_some()).unwrap());
    }
}

/// Runs a server with keep-alive and lets this fault hit its peer. Returns the reason for the loss,
/// and the seconds until then.
fn with_keep_alive(fault: impl Fn(&mut Sim, Host, &Socket)) -> (ErrorKind, u64) {
    with_keep_alive_after(s(610), fault)
}

/// [`with_keep_alive`] on a connection of this age.
fn with_keep_alive_after(
    age: Duration,
    fault: impl Fn(&mut Sim, Host, &Socket),
) -> (ErrorKind, u64) {
    let mut served = Served::new(Link::constant(ms(1)), keep_alive, false);
    served.sim.run_for(age).unwrap();
    assert!(served.lost.borrow().is_none(), "a live peer answers the probes");
    let before = served.sim.elapsed();
    fault(&mut served.sim, served.client, &served.socket);
    served.run_until_lost();
    let took = (served.sim.elapsed() - before).as_secs();
    match served.lost.take() {
        Some(Reason::Lost(error)) => (error.kind(), took),
        other => panic!("{other:?}"),
    }
}

#[test]
fn keep_alive_probes_after_a_whole_idle_time_of_silence() {
    for (age, heard) in [(610, 1), (610, 20), (610, 59), (1, 20), (1, 40)] {
        let (kind, took) = with_keep_alive_after(s(age), |sim, client, socket| {
            sim.run_for(s(heard)).unwrap();
            socket.push(b"!").unwrap();
            sim.run_for(ms(500)).unwrap();
            sim.fault(sim.elapsed(), s(9999), Fault::Crash(client));
        });
        assert_eq!(
            (kind, took),
            (ErrorKind::TimedOut, heard + 60 + 9 * 75),
            "{heard} s at {age} s"
        );
    }
}

#[test]
fn an_acknowledgement_in_flight_at_the_end_of_a_throttle_arrives() {
    let mut served = Served::new(Link::constant(ms(10)), keep_alive, true);
    let Served { sim, server, client, socket, .. } = &mut served;
    sim.run_for(s(1)).unwrap();
    // The bytes leave within 10 ms, arrive after 20, and are acknowledged after 120: the throttle
    // ends between, while the FIN is in flight as well.
    let written = sim.elapsed() + ms(10);
    sim.fault(sim.elapsed(), ms(60), Fault::Throttle(*server, 50_000));
    socket.push(b"?").unwrap();
    sim.run_for(ms(25)).unwrap();
    sim.set_default_link(Link::constant(ms(100)));
    sim.run_for(s(1)).unwrap();
    assert!(all(socket).len() == 500 && socket.saw_fin());
    // With unacknowledged bytes, the server would retransmit them and send no probes.
    sim.fault(sim.elapsed(), s(9999), Fault::Crash(*client));
    served.run_until_lost();
    assert!(served.sim.elapsed() - written < s(61 + 9 * 75 + 2));
}

#[test]
fn keep_alive_notices_a_peer_that_crashed_for_good() {
    let (kind, took) = with_keep_alive(|sim, client, _| {
        sim.fault(sim.elapsed(), s(9999), Fault::Crash(client));
    });
    assert_eq!(kind, ErrorKind::TimedOut);
    // Up to a minute of silence, then nine probes, 75 s apart.
    assert!((9 * 75..=60 + 9 * 75 + 1).contains(&took), "{took} s");
}

#[test]
fn keep_alive_counts_the_probes_of_each_silence_anew() {
    let (kind, took) = with_keep_alive(|sim, client, _| {
        sim.fault(sim.elapsed(), s(60 + 5 * 75), Fault::BlackHole(client));
        sim.run_for(s(1000)).unwrap();
        sim.fault(sim.elapsed(), s(9999), Fault::BlackHole(client));
    });
    assert_eq!(kind, ErrorKind::TimedOut);
    let last = took - 1000;
    assert!((9 * 75..=60 + 9 * 75 + 1).contains(&last), "{last} s");
}

#[test]
fn keep_alive_gets_a_reset_from_a_peer_that_has_crashed_and_is_back() {
    let (kind, took) = with_keep_alive(|sim, client, _| {
        sim.fault(sim.elapsed(), s(1), Fault::Crash(client));
    });
    assert_eq!(kind, ErrorKind::ConnectionReset);
    assert!(took <= 61, "{took} s");
}

#[test]
fn keep_alive_recovers_a_lost_reset() {
    let (kind, took) = with_keep_alive(|sim, client, socket| {
        sim.fault(sim.elapsed(), s(1), Fault::BlackHole(client));
        sim.run_for(ms(1)).unwrap();
        socket.reset();
    });
    assert_eq!(kind, ErrorKind::ConnectionReset);
    assert!((1..=61).contains(&took), "{took} s");
}

#[test]
fn keep_alive_probes_no_more_often_when_switched_off_and_on() {
    fn switches(transport: &Transport) {
        transport.set_option(SocketOption::KeepAlive(None));
        keep_alive(transport);
        transport.connection::<Server<fn(&Transport)>>().call_later(s(7), |_, it| switches(it));
    }
    let Served { mut sim, lost, socket: _socket, .. } =
        Served::new(Link::constant(ms(1)), switches as fn(&Transport), false);
    sim.run_for(s(300)).unwrap();
    let events = sim.events();
    sim.run_for(s(610)).unwrap();
    let happened = sim.events() - events;
    // A timed call each 7 s, and a probe each minute.
    assert!(happened < 120, "{happened}");
    assert!(lost.borrow().is_none(), "{lost:?}");
}

#[test]
fn a_keep_alive_that_is_set_again_probes_after_the_new_time() {
    for again in [None, Some(s(60))] {
        let corrects = move |transport: &Transport| {
            transport.set_option(SocketOption::KeepAlive(Some(s(7200))));
            let corrected = transport.clone();
            transport.reactor().call_later(s(1), move || {
                if again.is_none() {
                    corrected.set_option(SocketOption::KeepAlive(None));
                }
                keep_alive(&corrected);
            });
        };
        let mut served = Served::new(Link::constant(ms(1)), corrects, false);
        served.sim.run_for(s(5)).unwrap();
        served.sim.fault(served.sim.elapsed(), s(9999), Fault::Crash(served.client));
        let before = served.sim.elapsed();
        served.run_until_lost();
        let took = (served.sim.elapsed() - before).as_secs();
        assert!((55..=60 + 9 * 75).contains(&took), "{again:?}: {took} s");
    }
}
