//! Streams over a network: latency, buffers, bandwidth, cutting, partitions and resets.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use couplet::sim::{Cut, Fault, Latency, Link, Sim};
use couplet_testkit_loops::doubles::{on_data, on_made};

use super::kit::{Two, all, ms, pattern, s, served};

#[test]
fn a_constant_latency_never_varies() {
    let mut two = Two::new();
    two.sim.set_link(two.a, two.b, Link::constant(ms(40)));
    let here = two.connect();
    assert_eq!(two.until(|| here.is_open()), ms(80), "a round trip");
    two.pass(ms(39));
    assert!(two.port.accept().is_none(), "the confirmation is still in flight");
    two.pass(ms(1));
    let there = two.port.accept().unwrap();
    for _ in 0..5 {
        here.push(b"!").unwrap();
        assert_eq!(two.until(|| !there.take(1).is_empty()), ms(40));
    }
}

/// Transit times of single bytes at this latency, in microseconds.
fn times(latency: Latency) -> Vec<u128> {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.sim.set_default_link(Link::constant(ms(0)).latency(latency));
    let one = |_| {
        here.push(b"!").unwrap();
        let took = two.until(|| !there.take(1).is_empty());
        // The acknowledgement arrives before the next byte.
        two.pass(s(5));
        took.as_micros()
    };
    (0..200).map(one).collect()
}

#[test]
fn a_uniform_latency_is_between_the_two() {
    let times = times(Latency::Uniform(ms(10), ms(30)));
    assert!(times.iter().all(|time| (10_000..=30_000).contains(time)), "{times:?}");
    let quick = times.iter().filter(|time| **time < 20_000).count();
    assert!((60..140).contains(&quick), "{quick} of 200 are below the middle");
}

#[test]
fn a_long_tailed_latency_is_mostly_short_and_rarely_long() {
    let times = times(Latency::LongTail { usual: ms(10), most: ms(1000) });
    let usual = times.iter().filter(|time| **time <= 10_000).count();
    assert!((60..140).contains(&usual), "{usual} of 200 are within `usual`");
    assert!(times.iter().any(|time| *time > 100_000), "none is slow: {times:?}");
    assert!(times.iter().all(|time| *time <= 1_000_000), "{times:?}");
}

#[test]
fn the_bandwidth_of_a_host_limits_all_its_connections_together() {
    let mut two = Two::new();
    let (first, second) = (two.joined(), two.joined());
    two.sim.set_bandwidth(two.a, Some(100_000));
    assert_eq!(first.0.push(&[1; 50_000]).unwrap(), 50_000);
    assert_eq!(second.0.push(&[2; 50_000]).unwrap(), 50_000);
    let got = RefCell::new(0);
    let took = two.until(|| {
        *got.borrow_mut() += all(&first.1).len() + all(&second.1).len();
        *got.borrow() == 100_000
    });
    assert_eq!(took, s(1) + ms(10));
}

#[test]
fn when_a_throttle_ends_delayed_bytes_leave_immediately() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.fault(s(10), Fault::Throttle(two.a, 1000));
    two.pass(ms(1));
    two.sim.set_default_link(Link::constant(ms(10)).cut(Cut::Most(500)));
    let data = pattern(100_000);
    here.push(&data).unwrap();
    two.pass(s(5));
    let mut got = all(&there);
    assert!((4000..5000).contains(&got.len()), "{}", got.len());
    two.pass(s(5) + ms(10));
    got.extend(all(&there));
    assert_eq!(got, data);
    two.pass(s(1));
    assert_eq!(here.push(&[0; 200_000]).unwrap(), 128 * 1024, "everything is acknowledged");
}

/// When each 500 bytes of 5000 arrive, in ms since they were sent, while these throttles of the
/// sender last from one second to another.
fn arrivals(latency: Duration, throttles: &[(u64, u64, u64)]) -> Vec<u128> {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.sim.set_default_link(Link::constant(latency).cut(Cut::Most(500)));
    let start = two.sim.elapsed();
    for (rate, from, to) in throttles {
        let (from, lasts) = (start + s(*from), s(to - from));
        two.sim.fault(from, lasts, Fault::Throttle(two.a, *rate));
    }
    two.pass(Duration::ZERO);
    here.push(&[1; 5000]).unwrap();
    let arrives = (1..=10).map(|_| {
        two.until(|| there.take(500).len() == 500);
        (two.sim.elapsed() - start - latency).as_millis()
    });
    arrives.collect()
}

#[test]
fn a_throttle_without_effect_on_the_rate_delays_nothing() {
    let rate = |ms: u128| (1..=10).map(|n| n * ms).collect::<Vec<_>>();
    let one = [(1000, 0, 60)];
    assert_eq!(arrivals(ms(10), &one), rate(500));
    // Equal, or faster: they begin and end at the same time, within, and overlapping.
    for other in [1000, 2000] {
        for (from, to) in [(0, 60), (0, 3), (2, 3), (2, 60), (2, 99)] {
            let both = [one[0], (other, from, to)];
            assert_eq!(arrivals(ms(10), &both), rate(500), "{both:?}");
            assert_eq!(arrivals(ms(10), &[both[1], both[0]]), rate(500), "{both:?}");
        }
    }
    // One that follows an equal one.
    for both in [[(1000, 0, 2), (1000, 2, 9)], [(1000, 2, 9), (1000, 0, 2)]] {
        assert_eq!(arrivals(ms(10), &both).last(), Some(&5000), "{both:?}");
    }
}

#[test]
fn packets_that_wait_to_leave_follow_each_change_of_the_rate() {
    // 2000 bytes leave within 2 s, 250 bytes within 1 s, and the rest at full speed.
    let two = [(1000, 0, 3), (250, 2, 3)];
    let expected = [500, 1000, 1500, 2000, 3000, 3000, 3000, 3000, 3000, 3000];
    assert_eq!(arrivals(ms(10), &two), expected);
    assert_eq!(arrivals(ms(10), &[two[1], two[0]]), expected);
    // 250 bytes have left after 1 s, and 250 more after 1.25 s.
    let two = [(250, 0, 1), (1000, 0, 60)];
    let expected: Vec<_> = (0..10).map(|n| 1250 + n * 500).collect();
    assert_eq!(arrivals(ms(10), &two), expected);
}

#[test]
fn the_end_of_a_throttle_does_not_delay_packets_that_have_left() {
    // Three packets have left the host after 1.5 s, and arrive from 5.5 s on.
    assert_eq!(arrivals(s(5), &[(1000, 0, 2)])[..5], [500, 1000, 1500, 2000, 2000]);
}

#[test]
fn a_bandwidth_counts_for_packets_that_wait_to_leave() {
    for (bytes, expected) in [(Some(1000), 10_000), (Some(2000), 6000), (None, 2000)] {
        let mut two = Two::new();
        let (here, there) = two.joined();
        two.sim.set_bandwidth(two.a, Some(1000));
        here.push(&[1; 10_000]).unwrap();
        two.pass(s(2));
        two.sim.set_bandwidth(two.a, bytes);
        let took = s(2) + two.until(|| !all(&there).is_empty());
        assert_eq!(took, ms(expected) + ms(10), "{bytes:?}");
    }
    // The end of all faults is not the end of a bandwidth.
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.sim.set_bandwidth(two.a, Some(1000));
    here.push(&[1; 10_000]).unwrap();
    two.pass(s(9));
    drop((here, there));
    let before = two.sim.elapsed();
    two.sim.finish().unwrap();
    assert_eq!(two.sim.elapsed() - before, s(1) + ms(10));
}

#[test]
fn each_end_of_a_road_has_its_own_throttle() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.sim.set_default_link(Link::constant(ms(10)).cut(Cut::Most(100)));
    two.fault(s(100), Fault::Throttle(two.a, 1000));
    two.fault(s(100), Fault::Throttle(two.b, 100));
    two.pass(ms(1));
    here.push(&[1; 20_000]).unwrap();
    there.push(&[2; 20_000]).unwrap();
    two.pass(s(10) + ms(50));
    assert_eq!((all(&there).len(), all(&here).len()), (10_000, 1000));
}

#[test]
fn the_end_of_a_world_does_not_wait_for_a_throttle() {
    let mut two = Two::new();
    let pairs: Vec<_> = (0..5).map(|_| two.joined()).collect();
    two.fault(s(9999), Fault::Throttle(two.a, 1));
    two.pass(ms(1));
    for (here, there) in pairs {
        here.push(&[1; 10_000]).unwrap();
        here.fin();
        drop((here, there));
    }
    let before = two.sim.elapsed();
    two.sim.finish().unwrap();
    let took = two.sim.elapsed() - before;
    assert!(took < s(1), "{took:?}");
}

#[test]
fn unread_bytes_fill_both_buffers_and_then_the_sender_waits() {
    let mut two = Two::new();
    two.sim.set_buffers(1000, 500);
    let (here, there) = two.joined();
    let data = pattern(5000);
    assert_eq!(here.push(&data).unwrap(), 1000);
    assert_eq!(here.push(&data[1000..]).unwrap(), 0, "nothing is acknowledged yet");
    two.pass(s(1));
    assert_eq!(here.push(&data[1000..]).unwrap(), 500, "the received bytes made room");
    two.pass(s(60));
    assert_eq!(here.push(&data[1500..]).unwrap(), 0);
    assert_eq!(there.take(200), data[..200]);
    two.pass(s(1));
    assert_eq!(here.push(&data[1500..]).unwrap(), 200);
    let mut rest = Vec::new();
    for _ in 0..10 {
        rest.extend(all(&there));
        two.pass(s(1));
    }
    assert_eq!(rest, data[200..1700]);
}

#[test]
fn a_sender_that_waits_for_room_is_as_patient_after_each_loss() {
    let mut two = Two::new();
    two.sim.set_buffers(1000, 500);
    let (here, there) = two.joined();
    let data = pattern(1500);
    assert_eq!(here.push(&data).unwrap(), 1000);
    two.pass(s(1));
    assert_eq!(here.push(&data[1000..]).unwrap(), 500);
    // Each partition is shorter than the quarter of an hour after which the sender gives up;
    // together they are longer.
    for _ in 0..2 {
        two.fault(s(600), Fault::Partition(two.a, two.b));
        two.pass(s(900));
        assert_eq!(here.error(), None);
    }
    let mut got = Vec::new();
    for _ in 0..10 {
        got.extend(all(&there));
        two.pass(s(1));
    }
    assert_eq!(got, data);
}

#[test]
fn a_connection_keeps_the_buffer_sizes_it_was_made_with() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    here.push(&[1; 100_000]).unwrap();
    two.sim.set_buffers(10, 10);
    two.pass(s(1));
    assert_eq!(all(&there).len(), 100_000);
    assert_eq!(here.push(&[1; 1000]).unwrap(), 1000);
    let (here, _there) = two.joined();
    assert_eq!(here.push(&[1; 1000]).unwrap(), 10);
}

#[test]
fn a_slow_reader_slows_its_peer_down() {
    let got: Rc<RefCell<usize>> = Rc::default();
    let reads = got.clone();
    let (mut sim, server, _) = served(move |reactor| {
        let reads = reads.clone();
        let server = move || {
            let reads = reads.clone();
            on_data(move |_, data| *reads.borrow_mut() += data.len())
        };
        reactor.listen("tcp:80", server).map(drop)
    });
    sim.set_buffers(10_000, 10_000);
    sim.fault(sim.elapsed(), s(100), Fault::SlowReader(server, 1000));
    sim.run_for(ms(10)).unwrap();
    let socket = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
    sim.run_for(ms(10)).unwrap();
    let mut sent = 0;
    for second in 1..=60 {
        sent += socket.push(&vec![0; 100_000]).unwrap();
        sim.run_for(s(1)).unwrap();
        let got = *got.borrow();
        assert!((second * 900..=second * 1000 + 1000).contains(&got), "{second} s: {got} bytes");
        assert!(sent <= got + 20_000, "{sent} sent, {got} read");
    }
    sim.run_for(s(41)).unwrap();
    sent += socket.push(&[0; 10_000]).unwrap();
    sim.run_for(s(1)).unwrap();
    assert_eq!(*got.borrow(), sent, "everything, once the fault is over");
}

#[test]
fn of_two_limits_of_a_slow_reader_the_lower_one_counts() {
    // Bytes a second, and seconds.
    let (usual, low) = ((1000, 100), (100, 30));
    for limits in [[usual, low], [low, usual]] {
        let got: Rc<RefCell<usize>> = Rc::default();
        let reads = got.clone();
        let (mut sim, server, _) = served(move |reactor| {
            let reads = reads.clone();
            let server = move || {
                let reads = reads.clone();
                on_data(move |_, data| *reads.borrow_mut() += data.len())
            };
            reactor.listen("tcp:80", server).map(drop)
        });
        for (rate, lasts) in limits {
            sim.fault(sim.elapsed(), s(lasts), Fault::SlowReader(server, rate));
        }
        sim.set_buffers(10_000, 10_000);
        sim.run_for(ms(10)).unwrap();
        let socket = sim.socket(sim.hosts()[1], sim.at(server, 80)).unwrap();
        let mut read_for = |seconds| {
            let before = *got.borrow();
            for _ in 0..seconds {
                socket.push(&[0; 10_000]).ok();
                sim.run_for(s(1)).unwrap();
            }
            *got.borrow() - before
        };
        let (slowly, then) = (read_for(29), read_for(30));
        assert!((2500..=3100).contains(&slowly), "{limits:?}: {slowly}");
        assert!((25_000..=31_000).contains(&then), "{limits:?}: {then}");
    }
}

#[test]
fn a_stream_is_cut_as_the_link_says_and_loses_nothing() {
    for (cut, most) in [(Cut::Most(1), 1), (Cut::Most(100), 100), (Cut::Random(7), 7)] {
        let mut two = Two::new();
        let (here, there) = two.joined();
        let latency = Latency::Uniform(ms(10), ms(20));
        two.sim.set_default_link(Link::constant(ms(0)).cut(cut).latency(latency));
        let data = pattern(1000);
        here.push(&data).unwrap();
        let got = RefCell::new((Vec::new(), 0));
        two.until(|| {
            let piece = there.take(usize::MAX);
            let (got, largest) = &mut *got.borrow_mut();
            *largest = (*largest).max(piece.len());
            got.extend(piece);
            got.len() == data.len()
        });
        let (got, largest) = got.into_inner();
        assert_eq!(got, data);
        assert!(largest <= most, "{cut:?}: {largest}");
    }
}

#[test]
fn bytes_sent_into_a_partition_arrive_when_it_heals() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.fault(s(300), Fault::Partition(two.a, two.b));
    two.pass(s(1));
    here.push(b"to b").unwrap();
    there.push(b"to a").unwrap();
    two.pass(s(298));
    assert!(all(&here).is_empty() && all(&there).is_empty());
    assert!(here.is_open() && here.error().is_none());
    // The backoff has grown to at most two minutes.
    two.pass(s(122));
    assert_eq!((all(&here), all(&there)), (b"to a".to_vec(), b"to b".to_vec()));
    here.push(b" again").unwrap();
    two.pass(ms(10));
    assert_eq!(all(&there), b" again");
}

#[test]
fn an_end_without_an_answer_for_a_quarter_of_an_hour_gives_up() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.fault(s(3600), Fault::Partition(two.a, two.b));
    two.pass(s(1));
    here.push(b"is there anybody?").unwrap();
    let took = two.until(|| here.error().is_some());
    assert_eq!(here.error(), Some(ErrorKind::TimedOut));
    assert!((s(900)..s(950)).contains(&took), "{took:?}");
    assert!(there.is_open() && there.error().is_none(), "a silent end notices nothing");
}

#[test]
fn an_end_whose_bytes_were_acknowledged_is_as_patient_in_the_next_outage() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    // Each outage is shorter than the quarter of an hour after which an end gives up. The second
    // one lasts beyond that time since the first loss.
    for outage in 0..2 {
        two.fault(s(600), Fault::Partition(two.a, two.b));
        two.pass(s(1));
        here.push(b"are you there?").unwrap();
        two.pass(s(899));
        assert_eq!(here.error(), None, "outage {outage}");
        assert_eq!(all(&there), b"are you there?", "outage {outage}");
    }
}

#[test]
fn a_partition_one_way_lets_the_other_through() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.fault(s(60), Fault::OneWay(two.b, two.a));
    two.pass(ms(1));
    here.push(b"to b").unwrap();
    there.push(b"to a").unwrap();
    two.pass(s(50));
    assert_eq!(all(&there), b"to b", "this direction is open");
    assert_eq!(all(&here), b"");
    two.pass(s(60));
    assert_eq!(all(&here), b"to a");
    assert_eq!(all(&there), b"", "retransmitted bytes are not delivered twice");
}

#[test]
fn a_host_that_is_further_away_is_so_in_both_directions() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    two.sim.set_link(two.a, two.b, Link::constant(ms(40)));
    two.fault(s(60), Fault::Delay(two.a, ms(100)));
    two.pass(ms(1));
    here.push(b"to b").unwrap();
    there.push(b"to a").unwrap();
    two.pass(ms(139));
    assert!(all(&here).is_empty() && all(&there).is_empty());
    two.pass(ms(1));
    assert_eq!((all(&here), all(&there)), (b"to a".to_vec(), b"to b".to_vec()));
}

#[test]
fn the_delays_of_overlapping_faults_add_up_and_each_ends_in_its_time() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    let start = two.sim.elapsed();
    for (from, host, by) in [(1, two.a, 100), (2, two.b, 50), (3, two.a, 200)] {
        two.sim.fault(start + s(from), s(3), Fault::Delay(host, ms(by)));
    }
    for (second, expected) in [(0, 10), (1, 110), (2, 160), (3, 360), (4, 260), (5, 210), (6, 10)] {
        two.pass(start + s(second) + ms(100) - two.sim.elapsed());
        here.push(b"!").unwrap();
        let took = two.until(|| !there.take(1).is_empty());
        assert_eq!(took, ms(expected), "after {second} s");
    }
}

#[test]
fn a_window_update_after_a_lost_one_is_as_quick_as_before() {
    let mut two = Two::new();
    two.sim.set_buffers(1000, 500);
    let (here, there) = two.joined();
    here.push(&[1; 1000]).unwrap();
    two.pass(s(1));
    two.fault(s(1), Fault::OneWay(two.b, two.a));
    two.pass(ms(1));
    assert_eq!(all(&there).len(), 500);
    // A probe finds the room.
    two.pass(s(10));
    assert_eq!(here.push(&[2; 1000]).unwrap(), 1000);
    assert_eq!(all(&there), [1; 500]);
    for _ in 0..2 {
        assert_eq!(two.until(|| there.take(500).len() == 500), ms(20), "there and back");
    }
}

#[test]
fn a_fin_is_seen_once_the_bytes_before_it_were_taken() {
    for length in [0, 1, 3] {
        let mut two = Two::new();
        let (here, there) = two.joined();
        here.push(&b"end"[..length]).unwrap();
        here.fin();
        two.pass(ms(9));
        assert!(!there.saw_fin(), "it is in flight");
        two.pass(s(1));
        for left in (1..=length).rev() {
            assert!(!there.saw_fin(), "{left} of {length} bytes are not taken");
            assert_eq!(there.take(1).len(), 1);
        }
        assert!(there.saw_fin() && !here.saw_fin(), "{length} bytes");
        here.reset();
        two.pass(s(1));
        assert!(!there.saw_fin(), "a reset follows it");
    }
}

#[test]
fn a_reset_reaches_both_ends() {
    let mut two = Two::new();
    let (here, there) = two.joined();
    there.push(b"before it").unwrap();
    two.pass(ms(10));
    two.fault(s(0), Fault::Reset(two.b, 1));
    two.pass(ms(1));
    assert_eq!(all(&here), b"before it", "received bytes are not lost");
    assert_eq!(here.error(), Some(ErrorKind::ConnectionReset));
    assert_eq!(there.error(), Some(ErrorKind::ConnectionReset));
    assert_eq!(here.push(b"x").unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_fault_hits_one_connection_in_n() {
    let mut two = Two::new();
    let pairs: Vec<_> = (0..300).map(|_| two.joined()).collect();
    two.fault(s(0), Fault::Reset(two.a, 3));
    two.pass(ms(1));
    let reset = pairs.iter().filter(|(here, _)| here.error().is_some()).count();
    assert!((70..130).contains(&reset), "{reset} of 300");
    for (here, there) in &pairs {
        assert_eq!(here.error(), there.error());
    }
}

#[test]
fn a_program_whose_buffer_is_full_continues_after_a_lost_acknowledgement() {
    let mut sim = Sim::new(1);
    sim.set_default_link(Link::constant(ms(10)));
    sim.set_buffers(1000, 1000);
    let data = pattern(10_000);
    let sent = data.clone();
    let server = sim.host("server", move |reactor| {
        let sent = sent.clone();
        let server = move || {
            let sent = sent.clone();
            on_made(move |transport| transport.write(&sent))
        };
        reactor.listen("tcp:80", server).map(drop)
    });
    let client = sim.bare_host("client");
    sim.run_for(ms(100)).unwrap();
    let socket = sim.socket(client, sim.at(server, 80)).unwrap();
    let got = RefCell::new(Vec::new());
    let take = |until: usize| {
        got.borrow_mut().extend(all(&socket));
        got.borrow().len() >= until
    };
    assert!(sim.run_until(s(1), |_| take(1000)).unwrap());
    // The acknowledgement of these bytes and the window update are in flight.
    sim.fault(sim.elapsed(), s(1), Fault::OneWay(client, server));
    assert!(sim.run_until(s(60), |_| take(data.len())).unwrap(), "{}", got.borrow().len());
    assert!(*got.borrow() == data);
    drop(socket);
    sim.finish().unwrap();
}
