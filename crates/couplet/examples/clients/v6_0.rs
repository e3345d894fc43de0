//! Part 13, client 6.0: a server does the transformation, so the callback that requests it returns
//! a Deferred, and the chain waits for it. Without an answer the poem stays unchanged.
//!
//! `cargo run --example clients -- v6_0 127.0.0.1:11000 127.0.0.1:10000`: first the transform
//! server (`servers transform`), then the poets.

use std::net::SocketAddr;

use couplet::defer::list;
use couplet::protocols::{NetstringReceiver, StringProtocol, StringTransport};
use couplet::{ConnectionLost, Deferred, Failure, Reactor, Reason, Resolver};

use crate::v4_0::get_poem;

/// Sends the request and waits for one string.
struct TransformProtocol {
    request: String,
    answer: Option<Deferred<String>>,
    resolver: Option<Resolver<String>>,
}

impl StringProtocol for TransformProtocol {
    fn connection_made(&mut self, transport: &StringTransport) {
        if let Err(too_long) = transport.send_string(&self.request) {
            transport.fail(too_long);
        }
    }

    fn string_received(&mut self, transport: &StringTransport, string: &[u8]) {
        if let Some(resolver) = self.resolver.take() {
            resolver.resolve(String::from_utf8(string.to_vec()).map_err(Into::into));
        }
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &StringTransport, reason: &Reason) {
        if let Some(resolver) = self.resolver.take() {
            resolver.errback(ConnectionLost(reason.clone()));
        }
    }
}

/// Sends a request to the transform server: the transformation's name, a dot, the poem.
pub(crate) fn transform(reactor: &Reactor, to: SocketAddr, request: String) -> Deferred<String> {
    let factory = move || {
        let (answer, resolver) = Deferred::new();
        let (answer, resolver) = (Some(answer), Some(resolver));
        NetstringReceiver::new(TransformProtocol { request: request.clone(), answer, resolver })
    };
    reactor
        .connect(format!("tcp:{to}"), factory)
        .then(|connection| connection.ask(|receiver, _| receiver.protocol().answer.take()))
        .then(|answer| answer.unwrap_or_else(|| Deferred::fail(Failure::msg("asked twice"))))
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> couplet::Result<()> {
    let (transformer, poets) = (servers[0], &servers[1..]);
    couplet::run_until(|reactor| {
        list(poets.iter().copied().map(|poet| {
            let kept = reactor.clone();
            get_poem(reactor, poet)
                .then(move |poem| {
                    transform(&kept, transformer, format!("whisper.{poem}")).add_errback(
                        move |failure| {
                            eprintln!("not whispered: {failure}");
                            Ok(poem)
                        },
                    )
                })
                .map(|poem| print!("{poem}"))
                .add_errback(move |failure| {
                    eprintln!("no poem from {poet}: {failure}");
                    Ok(())
                })
        }))
        .map(|_| ())
    })
}
