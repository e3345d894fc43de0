//! TLS above another layer, cut everywhere: the handshake and the data are the same however the
//! stream is cut.

use super::*;
use crate::address::Address;
use crate::layers::{Bandwidth, ProxyHeader, ProxyReader, ProxyVersion, ProxyWriter, Throttle};

const LINE: &[u8] = b"the same bytes, however they are cut";

/// A server's stack and its output.
struct Server {
    layers: Layers,
    above: Outbox,
    now: Instant,
    received: Vec<u8>,
    opened: Vec<Option<Address>>,
}

impl Server {
    fn new(under: Box<dyn Layer>, tls: &ServerTls, now: Instant) -> Server {
        let layers = Layers::stack(vec![under, Box::new(tls.layer(now))], &Rc::default());
        let above = Outbox::new(Rc::default());
        Server { layers, above, now, received: Vec::new(), opened: Vec::new() }
    }

    /// Feeds all bytes, and advances the time as needed.
    fn feed(&mut self, mut bytes: &[u8]) {
        let Server { layers, now, received, opened, .. } = self;
        loop {
            let flow = layers.feed(mem::take(&mut bytes), *now, |up| {
                match up {
                    Up::Data(data) => received.extend_from_slice(data),
                    Up::Open(told) => opened.push(told.and_then(|told| told.peer)),
                    up => panic!("{up:?}"),
                }
                Continue(())
            });
            if flow.is_continue() {
                return;
            }
            *now = layers.deadline().expect("it waits for the time").max(*now);
            layers.timed_out(*now);
        }
    }

    fn sent(&mut self) -> Vec<u8> {
        self.layers.down(&mut self.above, self.now);
        let mut sent = Vec::new();
        while !self.layers.bottom().is_empty() {
            sent.extend_from_slice(self.layers.bottom().first());
            let n = self.layers.bottom().first().len();
            self.layers.bottom().advance(n);
        }
        sent
    }
}

/// A client performs a handshake and sends the line. The client's bytes after `prefix` arrive in pieces
/// of these lengths; the rest arrives whole. Returns the total number of bytes.
fn talk(client: &ClientTls, server: &mut Server, prefix: &[u8], lengths: &[usize]) -> usize {
    let (mut client, _) = End::new(client.layer(NAME, start()).expect("a name"));
    client.above.extend(LINE);
    let (mut wire, mut fed) = ([prefix, &client.sent()].concat(), 0);
    let mut lengths = lengths.iter();
    let mut piece = 0;
    loop {
        if piece == 0 {
            piece = lengths.next().copied().unwrap_or(usize::MAX);
        }
        if fed == wire.len() {
            // Nothing more is sent without an answer.
            assert!(client.feed(&server.sent()).is_continue());
            wire.extend(client.sent());
            if fed == wire.len() {
                return fed;
            }
        }
        let n = piece.min(wire.len() - fed);
        server.feed(&wire[fed..fed + n]);
        (fed, piece) = (fed + n, piece - n);
    }
}

fn every_cut(prefix: &[u8], peer: Option<&Address>, under: impl Fn(Instant) -> Box<dyn Layer>) {
    let authority = Authority::new();
    // A resumed handshake has a different length.
    let client = client(trusting(&authority).resumption(false));
    let server = server(certified(&authority));
    let now = start();
    let whole = talk(&client, &mut Server::new(under(now), &server, now), prefix, &[]);
    every_split(&vec![0; whole], |pieces| {
        let lengths: Vec<usize> = pieces.iter().map(|piece| piece.len()).collect();
        let mut end = Server::new(under(now), &server, now);
        assert_eq!(talk(&client, &mut end, prefix, &lengths), whole, "{lengths:?}");
        assert_eq!(end.received, LINE, "{lengths:?}");
        assert_eq!(end.opened, [peer.cloned()], "{lengths:?}");
    });
}

#[test]
fn a_handshake_behind_a_proxy_header_is_the_same_however_both_are_cut() {
    let at = |port| Address::from(std::net::SocketAddr::from(([192, 0, 2, 1], port)));
    let header = ProxyHeader::new(at(56_324), at(443));
    for version in [ProxyVersion::V1, ProxyVersion::V2] {
        let writer = ProxyWriter::new(&header, version).expect("addresses of one family");
        let mut writer = Layers::new(writer, &Rc::default());
        writer.down(&mut Outbox::new(Rc::default()), start());
        let prefix = writer.bottom().first().to_vec();
        assert!(!prefix.is_empty());
        every_cut(&prefix, Some(&at(56_324)), |now| Box::new(ProxyReader::new(now)));
    }
}

#[test]
fn a_handshake_through_a_throttle_is_the_same_however_it_is_cut() {
    every_cut(b"", None, |_| Box::new(Throttle::new(Some(Bandwidth::new(4000)), None)));
}
