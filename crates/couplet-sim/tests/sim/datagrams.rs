//! Datagrams: lost, duplicated, late or truncated by the network, and only when configured.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Datagrams, Fault, Host, Latency, Link, Notes, Sim};
use couplet::{Datagram, DatagramEndpoint, DatagramProtocol, DatagramTransport};

use super::kit::{ms, s};

struct Pair {
    sim: Sim,
    a: Host,
    b: Host,
    from: Datagrams,
    to: Datagrams,
}

fn pair(link: Link) -> Pair {
    let mut sim = Sim::new(3);
    let (a, b) = (sim.bare_host("a"), sim.bare_host("b"));
    sim.set_default_link(link);
    let (from, to) = (sim.datagrams(a, 0).unwrap(), sim.datagrams(b, 53).unwrap());
    Pair { sim, a, b, from, to }
}

const CALM: Link = Link::constant(Duration::from_millis(10));

impl Pair {
    /// Sends datagrams 0 to `n`, one per millisecond. Returns the numbers of those that arrive, in
    /// order of arrival; all must be whole.
    fn send(&mut self, n: u16) -> Vec<u16> {
        let mut got = Vec::new();
        for number in 0..n {
            self.from.send_to(self.to.address(), &number.to_be_bytes().repeat(50)).unwrap();
            self.sim.run_for(ms(1)).unwrap();
            got.extend(self.taken());
        }
        self.sim.run_for(s(10)).unwrap();
        got.extend(self.taken());
        got
    }

    fn taken(&self) -> Vec<u16> {
        let taken = std::iter::from_fn(|| self.to.take());
        taken
            .map(|(from, bytes)| {
                assert_eq!(from, self.from.address());
                let number = [bytes[0], bytes[1]];
                assert_eq!(bytes, number.repeat(50));
                u16::from_be_bytes(number)
            })
            .collect()
    }
}

#[test]
fn by_default_each_datagram_arrives_once_whole_and_in_order() {
    for latency in [CALM.latency, Latency::Uniform(ms(1), ms(100))] {
        let mut pair = pair(CALM.latency(latency));
        assert_eq!(pair.send(200), (0..200).collect::<Vec<_>>());
    }
}

#[test]
fn a_link_loses_datagrams_at_its_rate() {
    let mut pair = pair(CALM.loss(250));
    let got = pair.send(1000);
    assert!((700..800).contains(&got.len()), "{} of 1000", got.len());
    assert!(got.is_sorted_by(|a, b| a < b), "none is late or duplicated");
}

#[test]
fn a_link_duplicates_datagrams_at_its_rate() {
    let mut pair = pair(CALM.duplicates(250));
    let mut got = pair.send(1000);
    assert!((1200..1300).contains(&got.len()), "{}", got.len());
    got.sort_unstable();
    got.dedup();
    assert_eq!(got, (0..1000).collect::<Vec<_>>(), "each arrived");
}

#[test]
fn a_link_reorders_some_datagrams() {
    let mut pair = pair(CALM.reordered(250));
    let got = pair.send(1000);
    let overtaken = (1..got.len()).filter(|n| got[n - 1] > got[*n]).count();
    assert!((150..300).contains(&overtaken), "{overtaken}");
    let mut sorted = got;
    sorted.sort_unstable();
    assert_eq!(sorted, (0..1000).collect::<Vec<_>>(), "each arrived once");
}

#[test]
fn a_link_truncates_some() {
    let mut pair = pair(CALM.truncated(500));
    let whole: Vec<u8> = (0..100).collect();
    let mut cut = 0;
    for _ in 0..200 {
        pair.from.send_to(pair.to.address(), &whole).unwrap();
        pair.sim.run_for(ms(20)).unwrap();
        let (_, bytes) = pair.to.take().expect("it arrives");
        assert!(whole.starts_with(&bytes));
        cut += u32::from(bytes.len() < whole.len());
    }
    assert!((70..130).contains(&cut), "{cut} of 200");
}

#[test]
fn a_host_may_lose_datagrams_for_a_while() {
    let mut pair = pair(CALM);
    pair.sim.fault(ms(500), ms(500), Fault::Loss(pair.b, 1000));
    let got = pair.send(1500);
    let expected: Vec<u16> = (0..500).chain(1000..1500).collect();
    // The time of sending decides; datagrams at the edges may go either way.
    let differing = expected.iter().filter(|n| !got.contains(n)).count();
    assert!(differing <= 1 && got.len() <= expected.len() + 1, "{got:?}");
}

#[test]
fn a_loss_fault_spares_other_hosts_and_loopback() {
    let mut pair = pair(CALM);
    let third = pair.sim.bare_host("c");
    pair.sim.fault(ms(0), s(3600), Fault::Loss(third, 1000));
    assert_eq!(pair.send(10).len(), 10, "it is neither sender nor receiver");
    pair.sim.fault(pair.sim.elapsed(), s(3600), Fault::Loss(pair.b, 1000));
    pair.from = pair.sim.datagrams(pair.b, 0).unwrap();
    assert_eq!(pair.send(10).len(), 10, "loopback is reliable");
}

#[test]
fn a_partition_loses_all_datagrams() {
    let mut pair = pair(CALM);
    pair.sim.fault(ms(0), s(3600), Fault::OneWay(pair.b, pair.a));
    assert_eq!(pair.send(10).len(), 10, "this direction is open");
    pair.sim.fault(pair.sim.elapsed(), s(3600), Fault::OneWay(pair.a, pair.b));
    assert_eq!(pair.send(10), [0; 0]);
}

#[test]
fn a_socket_queues_a_bounded_number_and_drops_the_rest() {
    let pair = &mut pair(CALM);
    for number in 0..1000_u16 {
        pair.from.send_to(pair.to.address(), &number.to_be_bytes()).unwrap();
    }
    pair.sim.run_for(s(1)).unwrap();
    let held = std::iter::from_fn(|| pair.to.take()).count();
    assert_eq!(held, 256);
}

#[test]
fn datagrams_to_a_far_host_do_not_hold_up_those_to_a_near_one() {
    let mut pair = pair(CALM);
    let far = pair.sim.bare_host("far");
    pair.sim.set_link(pair.a, far, Link::constant(s(5)));
    let there = pair.sim.datagrams(far, 53).unwrap();
    pair.from.send_to(there.address(), b"far").unwrap();
    pair.from.send_to(pair.to.address(), b"near").unwrap();
    pair.sim.run_for(ms(10)).unwrap();
    assert_eq!(pair.to.take().map(|(_, bytes)| bytes), Some(b"near".to_vec()));
    assert!(there.take().is_none());
}

#[test]
fn datagrams_within_a_host_are_never_lost() {
    let mut pair = pair(CALM.loss(1000));
    let here = pair.sim.datagrams(pair.a, 53).unwrap();
    pair.from.send_to(here.address(), b"myself").unwrap();
    pair.sim.run_for(ms(1)).unwrap();
    assert_eq!(here.take(), Some((pair.from.address(), b"myself".to_vec())));
    // Over loopback too, in both directions.
    pair.from.send_to(([127, 0, 0, 1], 53).into(), b"myself").unwrap();
    pair.sim.run_for(ms(1)).unwrap();
    let (from, bytes) = here.take().expect("it arrived");
    assert!(from.ip().is_loopback() && bytes == b"myself");
    here.send_to(from, b"and back").unwrap();
    pair.sim.run_for(ms(1)).unwrap();
    assert_eq!(pair.from.take().map(|(_, bytes)| bytes), Some(b"and back".to_vec()));
}

#[test]
fn a_crash_closes_the_sockets_of_a_host() {
    let mut pair = pair(CALM);
    pair.sim.fault(ms(0), s(1), Fault::Crash(pair.a));
    pair.sim.run_for(s(2)).unwrap();
    let error = pair.from.send_to(pair.to.address(), b"x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    assert!(pair.sim.datagrams(pair.a, pair.from.address().port()).is_ok(), "its port is free");
}

#[test]
fn a_socket_from_before_a_crash_has_no_part_in_the_next_one_with_its_address() {
    let mut pair = pair(CALM);
    for crash in 0..2 {
        pair.sim.fault(pair.sim.elapsed(), s(1), Fault::Crash(pair.b));
        pair.sim.run_for(s(2)).unwrap();
        let next = pair.sim.datagrams(pair.b, 53).unwrap();
        let old = std::mem::replace(&mut pair.to, next);
        pair.from.send_to(pair.to.address(), b"x").unwrap();
        pair.sim.run_for(s(1)).unwrap();
        let refused = old.send_to(pair.from.address(), b"x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::NotConnected, "{crash}");
        assert!(old.take().is_none() && pair.to.take().is_some(), "{crash}");
        drop(old);
        assert_eq!(pair.send(10).len(), 10, "{crash}");
    }
}

#[test]
fn the_losses_of_overlapping_faults_add_up_and_each_ends_in_its_time() {
    for (first, last) in [(20, 30), (30, 20)] {
        let mut pair = pair(CALM);
        pair.sim.fault(s(0), s(first), Fault::Loss(pair.a, 500));
        pair.sim.fault(s(0), s(last), Fault::Loss(pair.b, 500));
        pair.sim.run_for(ms(1)).unwrap();
        assert_eq!(pair.send(100), [0; 0]);
        pair.sim.run_for(s(11)).unwrap();
        let got = pair.send(200).len();
        assert!((60..140).contains(&got), "{got} of 200");
        assert_eq!(pair.send(10).len(), 10);
    }
}

#[test]
fn the_bandwidth_of_a_host_limits_its_streams_and_its_datagrams_to_others_together() {
    let Pair { mut sim, a, b, from, to } = pair(CALM);
    let near = sim.datagrams(a, 53).unwrap();
    let port = sim.listen(b, sim.at(b, 80), 5).unwrap();
    let socket = sim.socket(a, port.address()).unwrap();
    sim.run_for(ms(100)).unwrap();
    sim.set_bandwidth(a, Some(1000));
    for round in 0..2 {
        socket.push(&[1; 500]).unwrap();
        from.send_to(to.address(), &[2; 500]).unwrap();
        from.send_to(near.address(), &[3; 500]).unwrap();
        from.send_to(to.address(), &[4; 500]).unwrap();
        sim.run_for(ms(1)).unwrap();
        assert!(near.take().is_some(), "{round}: loopback has no limit");
        sim.run_for(ms(1008)).unwrap();
        assert!(to.take().is_none(), "{round}: the bytes before it leave for a second");
        for expected in [[2; 500], [4; 500]] {
            sim.run_for(ms(1)).unwrap();
            assert_eq!(to.take().map(|(_, bytes)| bytes), Some(expected.to_vec()), "{round}");
            sim.run_for(ms(499)).unwrap();
        }
    }
}

/// Keeps the first byte of each datagram.
struct Keeps(Rc<RefCell<Vec<u8>>>);

impl DatagramProtocol for Keeps {
    fn datagram_received(&mut self, _: &DatagramTransport, datagram: &Datagram<'_>) {
        self.0.borrow_mut().push(datagram.data[0]);
    }
}

#[test]
fn each_port_of_a_program_gets_a_burst_in_order_and_the_next_one_too() {
    let (mut sim, got) = (Sim::new(3), [(); 2].map(|()| Rc::<RefCell<Vec<u8>>>::default()));
    let (a, its) = (sim.bare_host("a"), got.clone());
    let b = sim.host("b", move |reactor| {
        for (port, got) in (53..).zip(&its) {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            reactor.listen_datagrams(address, Keeps(got.clone()))?;
        }
        Ok(())
    });
    let from = sim.datagrams(a, 0).unwrap();
    sim.run_for(ms(100)).unwrap();
    for _ in 0..3 {
        for (port, number) in (0..200).flat_map(|number| [(53, number), (54, number)]) {
            from.send_to(sim.at(b, port), &[number]).unwrap();
        }
        sim.run_for(s(1)).unwrap();
        for got in &got {
            assert_eq!(got.take(), (0..200).collect::<Vec<_>>());
        }
    }
    sim.finish().unwrap();
}

#[test]
fn a_datagram_longer_than_the_mtu_is_lost_with_any_of_its_fragments() {
    let arrived = |mtu: usize, length: usize| {
        let pair = pair(CALM.loss(200).mtu(mtu));
        let mut sim = pair.sim;
        let sent = vec![7; length];
        for _ in 0..200 {
            pair.from.send_to(pair.to.address(), &sent).unwrap();
            sim.run_for(ms(1)).unwrap();
        }
        sim.run_for(s(1)).unwrap();
        std::iter::from_fn(|| pair.to.take()).inspect(|(_, got)| assert!(*got == sent)).count()
    };
    // With 28 bytes of headers.
    let (whole, in_two, in_ten) = (arrived(1500, 1472), arrived(1500, 1473), arrived(1500, 14_000));
    assert!((140..180).contains(&whole), "8 of 10: {whole}");
    assert!((110..150).contains(&in_two), "64 of 100: {in_two}");
    assert!((8..40).contains(&in_ten), "11 of 100: {in_ten}");
    assert_eq!(arrived(usize::MAX, 14_000), whole);
}

/// Sends once, and notes that it was refused.
struct Asks {
    notes: Notes,
    /// Sends when it has started, and pauses for a second.
    pauses: bool,
}

impl DatagramProtocol for Asks {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        let port = transport.port::<Self>();
        let ask = |_: &mut Asks, transport: &DatagramTransport| {
            transport.send("anybody?").expect("there is room");
        };
        if self.pauses {
            ask(self, transport);
            transport.pause_producing();
            port.call_later(s(1), |_, transport| transport.resume_producing());
        } else {
            port.call_later(ms(10), ask);
        }
    }

    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}

    fn connection_refused(&mut self, _: &DatagramTransport) {
        self.notes.note("refused");
    }
}

#[test]
fn a_live_host_refuses_datagrams_to_a_paused_sender_and_a_crashed_host_does_not() {
    for (gone, pauses) in [(false, false), (false, true), (true, false)] {
        let mut sim = Sim::new(3);
        let (there, notes) = (sim.bare_host("there"), sim.notes());
        if gone {
            sim.fault(Duration::ZERO, s(1000), Fault::Crash(there));
        }
        let to = sim.at(there, 53);
        sim.host("here", move |reactor| {
            reactor.listen_datagrams(
                DatagramEndpoint::to(to),
                Asks { notes: notes.clone(), pauses },
            )?;
            Ok(())
        });
        sim.keep_trace();
        sim.run_for(s(2)).unwrap();
        let trace = sim.trace();
        assert_eq!(trace.contains("note: refused"), !gone, "{trace}");
        assert_eq!(trace.contains(" here~1 refused: no socket receives it"), !gone, "{trace}");
    }
}

/// Sends each second, and notes each refusal.
struct AsksAgain(Notes);

impl AsksAgain {
    fn ask(&mut self, transport: &DatagramTransport) {
        transport.send("anybody?").expect("there is room");
        transport.port::<Self>().call_later(s(1), Self::ask);
    }
}

impl DatagramProtocol for AsksAgain {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.ask(transport);
    }

    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}

    fn connection_refused(&mut self, _: &DatagramTransport) {
        self.0.note("refused");
    }
}

#[test]
fn each_refusal_that_finds_its_way_back_is_reported() {
    let mut sim = Sim::new(3);
    let (there, notes) = (sim.bare_host("there"), sim.notes());
    let to = sim.at(there, 53);
    let here = sim.host("here", move |reactor| {
        reactor.listen_datagrams(DatagramEndpoint::to(to), AsksAgain(notes.clone()))?;
        Ok(())
    });
    // The third of five.
    sim.fault(ms(1500), s(1), Fault::OneWay(there, here));
    sim.keep_trace();
    sim.run_for(ms(4500)).unwrap();
    let trace = sim.trace();
    assert_eq!(trace.matches("note: refused").count(), 4, "{trace}");
}

/// A member of a group.
struct Hears;

impl DatagramProtocol for Hears {
    fn datagram_received(&mut self, _: &DatagramTransport, _: &Datagram<'_>) {}
}

/// The lines of the trace about datagrams, without their times.
fn steps(sim: &Sim) -> Vec<String> {
    let trace = sim.trace();
    let lines = trace.lines().filter(|line| line.contains('~'));
    lines.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")).collect()
}

/// Sends one datagram over this link, lets it arrive, and takes it. Returns its steps.
fn steps_over(link: Link) -> Vec<String> {
    let mut pair = pair(link);
    pair.sim.keep_trace();
    pair.from.send_to(pair.to.address(), b"poem").unwrap();
    pair.sim.run_for(s(1)).unwrap();
    while pair.to.take().is_some() {}
    steps(&pair.sim)
}

#[test]
fn the_trace_has_each_step_of_a_datagram_that_the_network_carries() {
    let sent = steps_over(CALM);
    let [sends, received] = &sent[..] else { panic!("{sent:?}") };
    let hash = sends.strip_prefix("a a~1 sends 4 bytes ").and_then(|rest| rest.split(' ').next());
    let hash = hash.unwrap_or_else(|| panic!("{sends}"));
    assert_eq!(*sends, format!("a a~1 sends 4 bytes {hash} to udp:10.0.0.2:53"));
    assert_eq!(*received, format!("b a~1 datagram_received 4 bytes {hash}"));
    let lost = steps_over(CALM.loss(1000));
    assert_eq!(lost[1..], ["a a~1 dropped: lost on the way to b"]);
    let twice = steps_over(CALM.duplicates(1000));
    assert_eq!(twice[1], "a a~1 duplicated on the way to b");
    assert_eq!(twice[2..], [received.clone(), received.clone()]);
    let late = steps_over(CALM.reordered(1000));
    assert_eq!(late[1..], ["a a~1 reordered on the way to b", received]);
    let cut = steps_over(CALM.truncated(1000));
    let [_, truncated, received] = &cut[..] else { panic!("{cut:?}") };
    let kept = truncated.strip_prefix("a a~1 truncated to ").expect("so it begins");
    let kept = kept.strip_suffix(" bytes on the way to b").expect("so it ends");
    assert!(received.starts_with(&format!("b a~1 datagram_received {kept} bytes ")), "{cut:?}");
}

#[test]
fn the_trace_says_why_a_datagram_is_dropped() {
    let mut pair = pair(CALM);
    pair.sim.keep_trace();
    let nobody = [10, 9, 9, 9];
    pair.from.send_to((nobody, 53).into(), b"x").unwrap();
    pair.from.send_to((pair.to.address().ip(), 54).into(), b"x").unwrap();
    pair.sim.run_for(s(1)).unwrap();
    pair.sim.fault(pair.sim.elapsed(), s(1), Fault::OneWay(pair.a, pair.b));
    pair.sim.run_for(ms(1)).unwrap();
    pair.from.send_to(pair.to.address(), b"x").unwrap();
    pair.sim.run_for(s(2)).unwrap();
    for _ in 0..257 {
        pair.from.send_to(pair.to.address(), b"x").unwrap();
    }
    pair.sim.run_for(s(1)).unwrap();
    drop(pair.to);
    let lines = steps(&pair.sim);
    let ends = |what: &str| lines.iter().filter(|line| line.ends_with(what)).count();
    assert_eq!(ends("a a~1 dropped: no host has this address"), 1);
    assert_eq!(ends("b a~2 dropped: no socket receives it"), 1);
    assert_eq!(ends("b a~3 dropped: the hosts are separated, or one is down"), 1);
    assert_eq!(ends("b a~260 dropped: the queue of its receiver is full"), 1);
    assert_eq!(ends("dropped: its receiver closed before reading it"), 256);
    assert_eq!(ends("dropped: the queue of its receiver is full"), 1);
}

#[test]
fn the_trace_names_the_members_of_a_group_that_a_datagram_does_not_reach() {
    let mut sim = Sim::new(3);
    let a = sim.bare_host("a");
    let group = Ipv4Addr::new(239, 1, 2, 3);
    for name in ["near", "far"] {
        sim.host(name, move |reactor| {
            let port =
                reactor.listen_datagrams(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53)), Hears)?;
            port.join(group).detach();
            Ok(())
        });
    }
    sim.bare_host("stranger");
    sim.keep_trace();
    sim.run_for(ms(100)).unwrap();
    let [_, far, _] = sim.hosts()[1..] else { panic!("four hosts") };
    sim.fault(sim.elapsed(), s(5), Fault::OneWay(a, far));
    sim.run_for(ms(1)).unwrap();
    let from = sim.datagrams(a, 0).unwrap();
    from.send_to((group, 53).into(), b"poem").unwrap();
    sim.run_for(s(1)).unwrap();
    let lines = steps(&sim);
    let [_, far, near] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!(far, "far a~1 dropped: the hosts are separated, or one is down");
    assert!(near.starts_with("near a~1 datagram_received 4 bytes "), "{lines:?}");
}

#[test]
fn a_multicast_reaches_each_member_on_a_host_whose_queue_is_not_full() {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    // The first or the second of the sockets takes nothing, or both take all.
    for paused in [Some(0), Some(1), None] {
        let mut sim = Sim::new(3);
        let a = sim.bare_host("a");
        sim.host("b", move |reactor| {
            let addresses = [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 0, 0, 2)];
            for (n, address) in addresses.into_iter().enumerate() {
                let port = reactor.listen_datagrams(SocketAddr::from((address, 53)), Hears)?;
                port.join(group).detach();
                if Some(n) == paused {
                    port.pause_producing();
                }
            }
            Ok(())
        });
        sim.keep_trace();
        sim.run_for(ms(100)).unwrap();
        let from = sim.datagrams(a, 0).unwrap();
        for _ in 0..300 {
            from.send_to((group, 53).into(), b"line").unwrap();
            sim.run_for(ms(1)).unwrap();
        }
        from.send_to((group, 53).into(), b"poem").unwrap();
        sim.run_for(s(1)).unwrap();
        let mut lines = steps(&sim);
        lines.retain(|line| line.starts_with("b a~301 "));
        let count = |end: &str| lines.iter().filter(|line| line.contains(end)).count();
        let full = usize::from(paused.is_some());
        assert_eq!(count(" datagram_received 4 bytes "), 2 - full, "{lines:?}");
        assert_eq!(count(" dropped: the queue of its receiver is full"), full, "{lines:?}");
    }
}
