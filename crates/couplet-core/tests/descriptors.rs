//! Row 162: no descriptor leaks, by count. A separate process, because other tests open descriptors
//! too.

#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use couplet::{Loop, Protocol, ProtocolExtension, Reactor, Transport};
use couplet_testkit::apart::descriptors;
use couplet_testkit_loops::doubles::on_data;

/// Sends some descriptors, with bytes and without, and closes in one of several ways.
struct Sends(u32);

impl Protocol for Sends {
    fn connection_made(&mut self, transport: &Transport) {
        for number in 0..5 {
            let (_, writer) = std::io::pipe().expect("a pipe");
            transport.send_descriptor(writer.into()).expect("a UNIX socket");
            if number % 2 == self.0 % 2 {
                transport.write("bytes");
            }
        }
        match self.0 % 3 {
            0 => transport.lose_connection(),
            1 => transport.fail(std::io::Error::other("on purpose")),
            _ => {}
        }
    }

    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        transport.abort_connection();
    }
}

/// Takes some descriptors, leaves others, and closes in one of several ways.
struct Takes(u32, Vec<OwnedFd>);

impl Protocol for Takes {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        self.1.clear();
        transport.write("enough");
    }

    fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
        Some(self)
    }
}

impl ProtocolExtension for Takes {
    fn descriptor_received(&mut self, transport: &Transport, descriptor: OwnedFd) {
        self.1.push(descriptor);
        match self.0 % 5 {
            0 => transport.abort_connection(),
            1 => transport.pause_producing(),
            _ => {}
        }
    }
}

fn adopt<P: Protocol>(
    reactor: &Reactor,
    socket: UnixStream,
    protocol: impl FnMut() -> P + 'static,
) {
    let made = reactor.adopt(socket, protocol).expect("a UNIX socket");
    // Fails if the protocol fails.
    made.add_both(|_| Ok(())).detach();
}

#[test]
fn c162_no_descriptor_leaks() {
    let mut l = Loop::new().expect("a loop");
    let before = descriptors();
    for round in 0..60 {
        let reactor = l.reactor();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        adopt(&reactor, ours, move || Sends(round));
        if round % 4 == 0 {
            // Ignores descriptors.
            let ignores = || on_data(|transport, _| transport.lose_connection());
            adopt(&reactor, theirs, ignores);
        } else {
            adopt(&reactor, theirs, move || Takes(round, Vec::new()));
        }
        for _ in 0..20 {
            l.turn(Some(std::time::Duration::ZERO)).expect("it turns");
        }
        let connections = l.snapshot().connections;
        // Connections that still wait for an end, such as paused ones, end with the run.
        if !connections.is_empty() {
            l.run(|reactor| {
                reactor.stop();
                Ok(())
            })
            .expect("it ends");
        }
        assert_eq!(descriptors(), before, "round {round}");
    }
}
