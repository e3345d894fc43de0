//! What is fuzzed. Each target is a function of bytes that panics where something is wrong; its
//! input is good for both ways to fuzz: `cargo run` here, on any compiler, and `cargo fuzz`.
//!
//! A panic counts also where the loop contains it, as it does in callbacks.
#![forbid(unsafe_code)]

mod answers;
#[path = "../../crates/couplet-cli/src/endpoint.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod endpoint;
mod endpoints;
mod framers;
mod lives;
#[allow(dead_code, reason = "the program uses the rest")]
mod poetry;
mod servers;
mod streams;

pub use answers::answers;
pub use endpoints::endpoints;
pub use framers::framers;
pub use lives::lives;
pub use servers::servers;

/// What can be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name: that of its function, its libFuzzer binary and its folder in `corpus/`.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
    /// What is likely to mean something in an input.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target { name: "framers", run: framers, words: framers::WORDS },
    Target { name: "servers", run: servers, words: servers::WORDS },
    Target { name: "answers", run: answers, words: answers::WORDS },
    Target { name: "endpoints", run: endpoints, words: endpoints::WORDS },
    Target { name: "lives", run: lives, words: &[] },
];

/// The poems of the program, as far as its protocols name them.
mod poems {
    /// A poem and its title.
    #[derive(Clone, Debug)]
    pub(crate) struct Poem {
        pub(crate) name: String,
        pub(crate) text: bytes::Bytes,
    }
}

/// The progress bars of the program, as far as its protocols name them.
mod progress {
    /// One that nobody sees.
    pub(crate) struct Bar;

    impl Bar {
        pub(crate) fn connected(&self) {}
        pub(crate) fn add(&self, _bytes: usize, _now: std::time::Instant) {}
    }
}
