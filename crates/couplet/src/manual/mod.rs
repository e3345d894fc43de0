//! The guide. Its examples are compiled and run with the tests.
//!
//! | chapter | about |
//! | --- | --- |
//! | [`first_steps`] | a server, its client, and the life of a protocol |
//! | [`shared_state`] | state shared between connections, without a lock |
//! | [`back_pressure`] | keeping a slow peer from filling your memory |
//! | [`endpoints`] | strings that say where to listen and connect, and your own endpoint kinds |
//! | `tls` | secure connections, and STARTTLS |
//! | `websocket` | messages for browsers and from servers |
//! | [`layers`] | your own transformation between socket and protocol |
//! | [`framing`] | splitting a stream into messages, with your own grammar |
//! | [`datagrams`] | UDP, multicast and UNIX datagrams; delivery and loss |
//! | [`callbacks_to_async`] | one client, written seven times: callbacks, Deferreds, `async`, streams |
//! | [`deferreds`] | callbacks, Deferreds and `async`: three ways to wait for a result |
//! | [`cancellation`] | the effects of a cancel, and its limits |
//! | [`time`] | timed calls, timeouts, and repeated work |
//! | [`stopping`] | the order of a shutdown, signals, draining, exit codes |
//! | [`threads`] | blocking work, and calls from other threads |
//! | [`many_cores`] | one program with a loop for each core |
//! | `processes` | child processes, their pipes and terminals; your own pipes and files; on Unix |
//! | [`beside_tokio`] | libraries that need tokio: a loop inside tokio, or tokio around a loop |
//! | `http` | an axum application on a loop: limits, shutdown, clients and tests |
//! | `databases` | clients of PostgreSQL, Redis and HTTPS over the loop's sockets; `sqlx` |
//! | [`embedding`] | a loop inside any other loop |
//! | [`testing`] | testing your protocol, without sockets and without waiting |
//! | [`simulator`] | assertions that hold under any network fault |
//! | `storm` | your service in a simulated storm: from `cargo new` to a bug found, in ten minutes |
//! | [`half_close`] | the trap of a peer that stops sending but still reads |
//! | [`coming_from_twisted`] | a table of names, the differences and their reasons |
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
