//! Datagrams: each side echoes those of the other, and a member of a group gets what is sent there.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use couplet::{Datagram, DatagramProtocol, DatagramTransport, Loop};

use crate::meeting::pattern;
use crate::peer::{Peer, has_twisted};

const SIZES: [usize; 6] = [0, 1, 512, 8192, 9000, 65_507];
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const GROUP: [u8; 4] = [239, 255, 80, 7];
/// Longer than any test takes: whatever reaches it hangs.
const LONG: Duration = Duration::from_secs(100);

/// Sends a datagram of each size once the last one came back, and then `end`.
struct Ask {
    to: SocketAddr,
    left: Vec<Vec<u8>>,
}

impl Ask {
    fn new(to: SocketAddr) -> Ask {
        let sizes = SIZES.iter().map(|size| pattern(*size, *size));
        Ask { to, left: sizes.chain([b"end".to_vec()]).collect() }
    }
}

impl DatagramProtocol for Ask {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        if self.to.ip().is_multicast() {
            transport.set_outgoing_interface(Ipv4Addr::LOCALHOST).detach();
        }
        transport.send_to(&self.left[0], self.to).expect("there is room");
    }

    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        let sent = self.left.remove(0);
        assert!(datagram.data == sent, "{} bytes came back", datagram.data.len());
        match self.left.first() {
            Some(next) => transport.send_to(next, self.to).expect("there is room"),
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
            reactor.listen_udp(LOOPBACK, Ask::new((to, port).into()))?;
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
    let mut peer = None;
    let run = Loop::new().expect("a loop").run(|reactor| {
        let echo = |transport: &DatagramTransport, datagram: &Datagram<'_>| {
            transport.answer(datagram, datagram.data).expect("it can be answered");
            if datagram.data == b"end" {
                transport.reactor().stop();
            }
        };
        let port = reactor.listen_udp(LOOPBACK, echo)?;
        let number = port.host().port().expect("a number").to_string();
        peer = Some(Peer::start("datagrams", "client", &number, None));
        let late = reactor.clone();
        reactor.call_later(LONG, move || late.stop());
        Ok(())
    });
    run.expect("a run");
    let said = peer.expect("it ran").said.rest();
    assert_eq!(said, [format!("answers {}", SIZES.len() + 1)]);
}
