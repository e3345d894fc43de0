//! Part 12: a server that handles requests. A request is a netstring, `NAME.POEM`, and so is the
//! answer. The framer deals with bytes, the protocol with requests, and the service with poems;
//! each could be used without the others.
//!
//! `cargo run --example servers -- transform tcp:11000`

use couplet::protocols::{NetstringReceiver, StringProtocol, StringTransport};

/// Transforms poems.
struct Service;

impl Service {
    fn transform(&self, name: &str, poem: &str) -> Option<String> {
        match name {
            "whisper" => Some(poem.to_lowercase()),
            "backwards" => Some(poem.chars().rev().collect()),
            _ => None,
        }
    }
}

struct TransformProtocol {
    service: Service,
}

impl TransformProtocol {
    /// The answer to a request, if it is valid.
    fn answer(&self, request: &[u8]) -> Option<String> {
        let (name, poem) = std::str::from_utf8(request).ok()?.split_once('.')?;
        self.service.transform(name, poem)
    }
}

impl StringProtocol for TransformProtocol {
    fn string_received(&mut self, transport: &StringTransport, request: &[u8]) {
        match self.answer(request) {
            Some(answer) => {
                if let Err(too_long) = transport.send_string(answer) {
                    transport.fail(too_long);
                }
            }
            None => println!("no such request: {}", String::from_utf8_lossy(request)),
        }
        transport.lose_connection();
    }
}

pub(crate) fn main(endpoint: &str) -> couplet::Result<()> {
    couplet::run(|reactor| {
        let factory = || NetstringReceiver::new(TransformProtocol { service: Service });
        println!("transforming on {}", reactor.listen(endpoint, factory)?.host());
        Ok(())
    })
}
