//! Datagrams and ports in memory, where they differ from a real system's or need many of its hosts.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::testing::Manner;
use couplet::{
    Address, Datagram, DatagramPort, DatagramProtocol, DatagramTransport, Group, Loop, LoopOptions,
};
use couplet_core::driver::memory::Memory;

use couplet_testkit_loops::doubles::Quiet;

/// The sender and the bytes of a datagram.
type Got = (Address, Vec<u8>);

/// Records received datagrams.
#[derive(Clone, Default)]
struct Seen(Rc<RefCell<Vec<Got>>>);

impl DatagramProtocol for Seen {
    fn datagram_received(&mut self, _: &DatagramTransport, datagram: &Datagram<'_>) {
        self.0.borrow_mut().push((datagram.from.clone(), datagram.data.to_vec()));
    }
}

/// A loop in memory of each manner.
fn loops() -> [Loop; 2] {
    [Manner::Readiness, Manner::Completion]
        .map(|manner| Loop::with_driver(Memory::new(manner, 1).0, LoopOptions::default()))
}

fn at(l: &Loop, host: [u8; 4], seen: &Seen) -> DatagramPort<Seen> {
    l.reactor().listen_datagrams(SocketAddr::from((host, 0)), seen.clone()).expect("a free port")
}

fn turns(l: &mut Loop) {
    for _ in 0..1000 {
        l.turn(Some(Duration::ZERO)).expect("a turn");
    }
}

#[test]
fn a_member_for_one_source_gets_no_other_datagrams_until_it_leaves() {
    for mut l in loops() {
        let (one, all) = (Seen::default(), Seen::default());
        let group = Group::new([232, 1, 1, 1]);
        let members = [at(&l, [0; 4], &one), at(&l, [0; 4], &all)];
        members[0].join(group.source([10, 0, 0, 1])).detach();
        members[1].join(group).detach();
        let senders = [1, 2].map(|last| at(&l, [10, 0, 0, last], &Seen::default()));
        turns(&mut l);
        let send = |l: &mut Loop| {
            for (sender, member) in senders.iter().flat_map(|a| members.iter().map(move |b| (a, b)))
            {
                let to = SocketAddr::new(group.address, member.host().port().expect("a number"));
                sender.send_to("x", to).expect("there is room");
            }
            turns(l);
            [&one, &all].map(|seen| {
                let mut senders: Vec<_> = seen.0.take().into_iter().map(|(from, _)| from).collect();
                senders.sort();
                senders
            })
        };
        let [first, second] = [&senders[0], &senders[1]].map(|sender| sender.host());
        assert_eq!(send(&mut l), [vec![first.clone()], vec![first.clone(), second.clone()]]);
        members[0].leave(group.source([10, 0, 0, 1])).detach();
        turns(&mut l);
        assert_eq!(send(&mut l), [vec![], vec![first, second]]);
    }
}

#[test]
fn a_port_that_does_not_read_loses_datagrams_beyond_its_sockets_buffer() {
    for mut l in loops() {
        let seen = Seen::default();
        let (a, b) = (at(&l, [127, 0, 0, 1], &Seen::default()), at(&l, [127, 0, 0, 1], &seen));
        turns(&mut l);
        b.pause_producing();
        for n in 0..300u32 {
            a.send_to(n.to_be_bytes(), b.host()).expect("there is room");
        }
        turns(&mut l);
        b.resume_producing();
        turns(&mut l);
        let arrived = seen.0.take().into_iter().map(|(_, data)| data).collect::<Vec<_>>();
        assert_eq!(arrived, (0..256u32).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
    }
}

#[test]
fn the_network_chooses_a_port_that_no_other_kind_or_host_uses() {
    let [l, _] = loops();
    let tcp = |port| l.reactor().listen(SocketAddr::from(([127, 0, 0, 1], port)), || Quiet);
    let first = tcp(0).expect("a free port").host().port().expect("a number");
    let taken = SocketAddr::from(([127, 0, 0, 9], first + 1));
    let other = l.reactor().listen(taken, || Quiet).expect("a free port");
    let datagrams = SocketAddr::from(([127, 0, 0, 1], first + 2));
    l.reactor().listen_datagrams(datagrams, Seen::default()).expect("a free port");
    let next = tcp(0).expect("a free port").host().port();
    assert_eq!((other.host().port(), next), (Some(first + 1), Some(first + 3)));
    let last = at(&l, [127, 0, 0, 1], &Seen::default()).host().port();
    assert_eq!(last, Some(first + 4));
}
