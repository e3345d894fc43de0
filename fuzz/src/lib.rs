//! The fuzz targets. Each is a function of bytes that panics if a check fails. Both `cargo run`
//! here, with any compiler, and `cargo fuzz` run them on the same inputs.
//!
//! A panic that the loop contains, as in callbacks, counts too.
#![forbid(unsafe_code)]

mod answers;
mod crowds;
mod endpoints;
mod framers;
mod frames;
mod http2;
mod lives;
mod nats;
mod proxy;
mod recordings;
mod redis;
mod servers;
mod streams;
mod tls;
mod websocket;

pub use answers::answers;
pub use crowds::crowds;
pub use endpoints::endpoints;
pub use framers::framers;
pub use frames::{frames, responses};
pub use http2::http2;
pub use lives::lives;
pub use nats::nats;
pub use proxy::proxy;
pub use recordings::recordings;
pub use redis::redis;
pub use servers::servers;
pub use tls::tls;
pub use websocket::websocket;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name of its function, its libFuzzer binary and its folder in `corpus/`.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
    /// Words that are likely to have an effect in an input.
    pub words: &'static [&'static str],
}

/// All targets.
pub const TARGETS: [Target; 15] = [
    Target { name: "framers", run: framers, words: framers::WORDS },
    Target { name: "servers", run: servers, words: servers::WORDS },
    Target { name: "answers", run: answers, words: answers::WORDS },
    Target { name: "endpoints", run: endpoints, words: endpoints::WORDS },
    Target { name: "crowds", run: crowds, words: &[] },
    Target { name: "lives", run: lives, words: &[] },
    Target { name: "nats", run: nats, words: nats::WORDS },
    Target { name: "proxy", run: proxy, words: proxy::WORDS },
    Target { name: "recordings", run: recordings, words: recordings::WORDS },
    Target { name: "redis", run: redis, words: redis::WORDS },
    Target { name: "tls", run: tls, words: tls::WORDS },
    Target { name: "http2", run: http2, words: http2::WORDS },
    Target { name: "frames", run: frames, words: frames::WORDS },
    Target { name: "responses", run: responses, words: frames::WORDS },
    Target { name: "websocket", run: websocket, words: websocket::WORDS },
];

#[expect(clippy::disallowed_methods, reason = "any instant will do")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
