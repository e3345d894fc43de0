//! The programs of the chapter about callbacks, Deferreds and `async` that its later steps use.

use std::mem;
use std::time::Duration;

use couplet::{ConnectionLost, Deferred, Protocol, Reactor, Reason, Resolver, Transport};

/// Thinks for a while, recites a poem, and closes.
#[derive(Debug)]
pub struct Poet {
    /// The time until it begins.
    pub thinks: Duration,
    /// The poem.
    pub poem: &'static str,
}

impl Protocol for Poet {
    fn connection_made(&mut self, transport: &Transport) {
        let poem = self.poem;
        let poet = transport.connection::<Poet>();
        poet.call_later(self.thinks, move |_, transport| {
            transport.write(poem);
            transport.lose_connection();
        });
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[derive(Default)]
struct PoemReader {
    poem: Vec<u8>,
    done: Option<Resolver<Vec<u8>>>,
}

impl PoemReader {
    fn whole(&mut self) -> Deferred<Vec<u8>> {
        let (poem, done) = Deferred::new();
        self.done = Some(done);
        poem
    }
}

impl Protocol for PoemReader {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.poem.extend_from_slice(data);
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let Some(done) = self.done.take() else { return };
        match reason.is_clean() {
            true => done.callback(mem::take(&mut self.poem)),
            false => done.errback(ConnectionLost(reason.clone())),
        }
    }
}

/// The poem of a server.
pub fn get_poem(reactor: &Reactor, server: &str) -> Deferred<Vec<u8>> {
    reactor
        .connect(server, PoemReader::default)
        .then(|connection| connection.ask(|reader, _| reader.whole()))
        .then(|poem| poem)
}

/// The poem in capitals, from another server.
pub fn upper(reactor: &Reactor, poem: String) -> Deferred<String> {
    reactor.sleep(Duration::from_millis(1)).add_callback(move |()| Ok(poem.to_uppercase()))
}
