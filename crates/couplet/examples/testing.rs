//! Part 15 of the tutorial: testing a poetry server and its client. No socket is opened and no time
//! passes: the same protocols run in memory, and the test controls the network.
//!
//! `cargo run --example testing`

use std::io::ErrorKind;
use std::mem::take;

use couplet::testing::{Cut, Manner, MemoryReactor, failure_of, pair_on, success_of};
use couplet::{ConnectError, ConnectionLost, Deferred, Protocol, Reason, Resolver, Transport};

const POEM: &str = "a door in the hill,\nand nobody knocks\n";

struct Poet {
    /// Stops in mid-poem.
    hasty: bool,
}

impl Protocol for Poet {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(POEM);
        if self.hasty {
            transport.abort_connection();
        }
        transport.lose_connection();
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[derive(Default)]
struct Client {
    poem: Vec<u8>,
    resolver: Option<Resolver<Vec<u8>>>,
}

impl Protocol for Client {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(resolver) = self.resolver.take() else { return };
        match reason.is_clean() {
            true => resolver.callback(take(&mut self.poem)),
            false => resolver.errback(ConnectionLost(reason.clone())),
        }
    }
}

/// The client's result, with the stream split into single bytes.
fn result(poet: Poet) -> Deferred<Vec<u8>> {
    let (poem, resolver) = Deferred::new();
    let client = Client { poem: Vec::new(), resolver: Some(resolver) };
    pair_on(Manner::Readiness, Cut::Most(1), 1, client, poet).settle();
    poem
}

fn main() {
    assert_eq!(success_of(result(Poet { hasty: false })), POEM.as_bytes());
    println!("the poem comes whole, whatever the network does to it");

    let failure = failure_of(result(Poet { hasty: true }));
    assert!(failure.is::<ConnectionLost>(), "{failure}");
    println!("a poem that breaks off is a failure: {failure}");

    let mut memory = MemoryReactor::new();
    let connected = memory.reactor().connect("tcp:poetry.example:10000", Client::default);
    let attempt = memory.connecting().remove(0);
    assert_eq!((attempt.remote_host(), attempt.remote_port()), ("poetry.example", 10000));
    attempt.fail(ErrorKind::ConnectionRefused.into());
    memory.settle();
    let failure = failure_of(connected);
    assert!(matches!(failure.downcast_ref(), Some(ConnectError::Refused(_))), "{failure}");
    println!("a refused connection is a failure too: {failure}");
}
