//! Datagrams: each side echoes the other's, and a member of a group receives the group's datagrams.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use couplet::{
    Datagram, DatagramOptions, DatagramProtocol, DatagramTransport, Group, Loop, Reactor,
    SocketOption, UnixAddress,
};

use crate::meeting::pattern;
use crate::needed::Folder;
use crate::peer::{Peer, has_twisted};

const SIZES: [usize; 6] = [0, 1, 512, 8192, 9000, 65_507];
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GROUP: [u8; 4] = [239, 255, 80, 7];
/// Longer than any test takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(100);

/// Sends a datagram of each size, one after the echo of another, and then `end`: to an address, or,
/// on a connected port, without one.
struct Ask {
    to: Option<SocketAddr>,
    left: Vec<Vec<u8>>,
}

impl Ask {
    fn new(to: Option<SocketAddr>) -> Ask {
        let sizes = SIZES.iter().map(|size| pattern(*size, *size));
        Ask { to, left: sizes.chain([b"end".to_vec()]).collect() }
    }

    fn send(&self, transport: &DatagramTransport) {
        let sent = match self.to {
            Some(to) => transport.send_to(&self.left[0], to),
            None => transport.send(&self.left[0]),
        };
        sent.expect("there is room");
    }
}

impl DatagramProtocol for Ask {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        if self.to.is_some_and(|to| to.ip().is_multicast()) {
            transport.set_option(SocketOption::MulticastInterface(Ipv4Addr::LOCALHOST.into()));
        }
        self.send(transport);
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let sent = self.left.remove(0);
        assert!(datagram.data == sent, "{} bytes came back", datagram.data.len());
        match self.left.first() {
            Some(_) => self.send(transport),
            None => transport.reactor().stop(),
        }
    }
}

#[test]
fn twisted_echoes_our_datagrams() {
    if !has_twisted() {
        return;
    }
    for (case, to) in [("datagrams", [127, 0, 0, 1]), ("multicast", GROUP)] {
        let peer = Peer::start(case, "server", "0", None);
        let line = peer.said.next().expect("a line");
        let port = line.strip_prefix("listening ").expect("its port").parse().expect("a number");
        let run = Loop::new().expect("a loop").run(|reactor| {
            reactor.listen_datagrams(LOOPBACK, Ask::new(Some((to, port).into())))?;
            let late = reactor.clone();
            reactor.call_later(LONG, move || late.stop());
            Ok(())
        });
        run.expect("a run");
        assert_eq!(peer.said.rest(), [format!("received {}", SIZES.len())], "{case}");
    }
}

#[test]
fn we_echo_the_datagrams_of_twisted() {
    if !has_twisted() {
        return;
    }
    for (case, ip) in [("datagrams", [127, 0, 0, 1]), ("multicast", [0, 0, 0, 0])] {
        let said = while_we_echo(case, |reactor| {
            let port = reactor.listen_datagrams(SocketAddr::from((ip, 0)), echo)?;
            if case == "multicast" {
                port.join(Group::new(GROUP).interface(Ipv4Addr::LOCALHOST)).detach();
            }
            Ok(port.host().port().expect("a number").to_string())
        });
        assert_eq!(said, [format!("answers {}", SIZES.len() + 1)], "{case}");
    }
}

fn echo(transport: &DatagramTransport, datagram: &Datagram<'_>) {
    transport.answer(datagram, datagram.data).expect("it can be answered");
    if datagram.data == b"end" {
        transport.reactor().stop();
    }
}

/// The output of a Twisted client; one of our ports stops the loop.
fn while_we_echo(
    case: &str,
    listen: impl FnOnce(&Reactor) -> couplet::Result<String>,
) -> Vec<String> {
    let mut peer = None;
    let run = Loop::new().expect("a loop").run(|reactor| {
        let at = listen(reactor)?;
        peer = Some(Peer::start(case, "client", &at, None));
        let late = reactor.clone();
        reactor.call_later(LONG, move || late.stop());
        Ok(())
    });
    run.expect("a run");
    peer.expect("it ran").said.rest()
}

#[test]
fn unix_datagrams_go_to_twisted_and_back() {
    if !has_twisted() {
        return;
    }
    let folder = Folder::new();
    let (theirs, ours) = (folder.path("theirs"), folder.path("ours"));
    let peer = Peer::start("datagrams", "server", &theirs, None);
    assert_eq!(peer.said.next(), Some(format!("listening {theirs}")));
    let run = Loop::new().expect("a loop").run(|reactor| {
        let options = DatagramOptions::default().peer(UnixAddress::from(theirs.as_str()));
        reactor.listen_datagrams((UnixAddress::from(ours.clone()), options), Ask::new(None))?;
        let late = reactor.clone();
        reactor.call_later(LONG, move || late.stop());
        Ok(())
    });
    run.expect("a run");
    assert_eq!(peer.said.rest(), [format!("received {}", SIZES.len())]);
    let said = while_we_echo("datagrams", |reactor| {
        reactor.listen_datagrams(
            (UnixAddress::from(ours.clone()), DatagramOptions::default()),
            echo,
        )?;
        Ok(ours.clone())
    });
    assert_eq!(said, [format!("answers {}", SIZES.len() + 1)]);
}
