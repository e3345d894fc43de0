//! The guide. Its examples are compiled and run with the tests.
//!
//! | chapter | about |
//! | --- | --- |
//! | [`first_steps`] | a server, its client, and the life of a protocol |
//! | [`shared_state`] | state shared between connections, without a lock |
//! | [`back_pressure`] | not writing more than the peer reads |
//! | [`endpoints`] | strings for where to listen and connect, and kinds of your own |
//! | `tls` | secure connections, and STARTTLS |
//! | `websocket` | messages for browsers and from servers |
//! | [`layers`] | a step of your own between socket and protocol |
//! | [`framing`] | finding the messages in a stream, with a grammar of your own |
//! | [`datagrams`] | UDP, multicast, UNIX datagrams: what arrives, and what may be lost |
//! | [`callbacks_to_async`] | one client, seven times: callbacks, Deferreds, `async`, streams |
//! | [`deferreds`] | callbacks, Deferreds and `async`: three ways to wait for a result |
//! | [`cancellation`] | what a cancel reaches, and what it leaves |
//! | [`time`] | timed calls, timeouts, and repeated work |
//! | [`stopping`] | the order of a shutdown, signals, draining, exit codes |
//! | [`threads`] | blocking work, calls from other threads |
//! | [`many_cores`] | a loop for each core, one program |
//! | `processes` | children, their pipes and terminals; pipes and files of your own; on Unix |
//! | [`beside_tokio`] | libraries that need tokio: a loop inside tokio, or tokio around a loop |
//! | `http` | an axum application on a loop, its limits, its end, its clients, and its tests |
//! | `databases` | PostgreSQL, Redis and HTTPS behind a program, over its own sockets; `sqlx` |
//! | [`embedding`] | a loop inside any other loop |
//! | [`testing`] | testing your protocol, without sockets and without waiting |
//! | [`simulator`] | assertions that hold in any weather |
//! | `storm` | your service in a storm: from `cargo new` to a found bug in ten minutes |
//! | [`half_close`] | the trap of a peer that has stopped sending but still reads |
//! | [`coming_from_twisted`] | a table of names, what changed and why |
//! | [`coming_from_tokio`] | the same, and when tokio is the better choice |

pub mod back_pressure;
pub mod beside_tokio;
pub mod callbacks_to_async;
pub mod cancellation;
pub mod coming_from_tokio;
pub mod coming_from_twisted;
#[cfg(all(feature = "http", feature = "tokio-io"))]
pub mod databases;
pub mod datagrams;
pub mod deferreds;
pub mod embedding;
pub mod endpoints;
pub mod first_steps;
pub mod framing;
pub mod half_close;
#[cfg(feature = "http")]
pub mod http;
pub mod layers;
pub mod many_cores;
#[cfg(unix)]
pub mod processes;
pub mod shared_state;
pub mod simulator;
pub mod stopping;
#[cfg(all(feature = "http", feature = "sim"))]
pub mod storm;
pub mod testing;
pub mod threads;
pub mod time;
#[cfg(any(feature = "tls", feature = "ring"))]
pub mod tls;
#[cfg(all(feature = "testing", feature = "websocket"))]
pub mod websocket;
