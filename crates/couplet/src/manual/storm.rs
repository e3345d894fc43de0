//! # Your service in a storm
//!
//! From `cargo new` to a bug found, in ten minutes: an axum service, a customer that retries, and a
//! network with resets, partitions and crashes. The test opens no socket and never sleeps.
//!
//! ## A service
//!
//! ```toml
//! [dependencies]
//! axum = { version = "0.8", default-features = false }
//! couplet = { version = "0.1", features = ["http"] }
//! ```
//!
//! The service is a till, in `src/lib.rs`. It doesn't depend on Couplet:
//!
//! ```
//! use std::sync::{Arc, Mutex};
//!
//! use axum::Router;
//! use axum::extract::{Path, State};
//! use axum::routing::{get, post};
//!
//! pub type Till = Arc<Mutex<u64>>;
//!
//! pub fn router(till: Till) -> Router {
//!     let pay = async |State(till): State<Till>, Path(amount): Path<u64>| {
//!         *till.lock().unwrap() += amount;
//!         "paid"
//!     };
//!     let sum = async |State(till): State<Till>| till.lock().unwrap().to_string();
//!     Router::new().route("/pay/{amount}", post(pay)).route("/sum", get(sum)).with_state(till)
//! }
//! ```
//!
//! `src/main.rs` serves it; `curl -X POST localhost:8000/pay/3` pays:
//!
//! ```no_run
//! # mod till { pub fn router(_: ()) -> axum::Router { axum::Router::new() } }
//! use couplet::http::HttpExt;
//!
//! fn main() -> couplet::Result<()> {
//!     couplet::run(|reactor| {
//!         reactor.serve_http("tcp:8000", till::router(Default::default())).map(drop)
//!     })
//! }
//! ```
//!
//! ## A customer
//!
//! The test needs a customer that behaves like a real one: it has a timeout, and retries if there
//! was no answer. In `tests/storm.rs`:
//!
//! ```
//! use std::time::Duration;
//!
//! use couplet::http::{Client, ClientOptions, Request};
//! use couplet::{Failure, Reactor, Result};
//!
//! const PAYMENTS: u64 = 10;
//!
//! /// Pays one at a time, and tries again until each is answered.
//! async fn pays(reactor: Reactor) -> Result<()> {
//!     let wait = Duration::from_secs(5);
//!     let options = ClientOptions::default().timeout(Some(wait)).body_timeout(wait);
//!     let client = Client::with_options(&reactor, options);
//!     for _ in 0..PAYMENTS {
//!         loop {
//!             let request = Request::post("http://till:8000/pay/1").body("")?;
//!             let answer = async {
//!                 Ok::<_, Failure>(client.send(request).await?.into_body().bytes(100).await?)
//!             };
//!             if answer.await.is_ok_and(|said| said == "paid") {
//!                 break;
//!             }
//!             reactor.sleep(Duration::from_secs(1)).await?;
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! ## A world
//!
//! The world has two hosts, ten seconds of faults for the till's host, and an assertion at the end.
//! The till is created outside the server's program, so it survives a crash, as a database would:
//!
//! ```
//! # use std::{cell::Cell, rc::Rc, time::Duration};
//! use couplet::http::HttpExt;
//! # use couplet::{Reactor, Result, sim::{self, Sim, Weather}};
//! # mod till {
//! #     pub type Till = std::sync::Arc<std::sync::Mutex<u64>>;
//! #     pub fn router(_: Till) -> axum::Router { axum::Router::new() }
//! # }
//! # use till::Till;
//! # const PAYMENTS: u64 = 10;
//! # async fn pays(_: Reactor) -> Result<()> { Ok(()) }
//! fn world(sim: &mut Sim) -> Result<()> {
//!     let (till, is_done) = (Till::default(), Rc::new(Cell::new(false)));
//!     let (kept, done) = (till.clone(), is_done.clone());
//!     let server = sim.host("till", move |reactor| {
//!         reactor.serve_http("tcp:8000", till::router(kept.clone())).map(drop)
//!     });
//!     sim.host("customer", move |reactor| {
//!         let done = done.clone();
//!         reactor.spawn(pays(reactor.clone())).map(move |()| done.set(true)).detach();
//!         Ok(())
//!     });
//!     sim.draw_faults_for(Duration::from_secs(10), &[server]);
//!     if !sim.run_until(Duration::from_secs(300), |_| is_done.get())? {
//!         return sim.fail("a payment is not answered in five minutes");
//!     }
//!     match *till.lock().unwrap() {
//!         PAYMENTS => Ok(()),
//!         sum => sim.fail(format!("{PAYMENTS} payments, and {sum} in the till")),
//!     }
//! }
//!
//! #[test]
//! fn each_payment_counts_once_whatever_the_network_does() {
//!     sim::check(0..100, Weather::Storm, world);
//! }
//! ```
//!
//! For handlers that use `tokio::spawn`, `tokio::time` or `tokio::sync`, create the host with
//! `Sim::host_with_tokio` (feature `sim-tokio`). [`sim`](crate::sim#what-a-program-must-not-do)
//! lists the operations that simulated programs must avoid.
//!
//! ## The bug
//!
//! `cargo test` fails within a second:
//!
//! ```text
//! seed 2, weather storm: 10 payments, and 11 in the till (at 11.944891506s)
//! 2 of the 2 faults of the weather are enough
//!   at 765.926484ms till is killed, for 262.202128ms
//!   at 5.906233733s till and customer are cut off from each other, for 1.799369694s
//! the trace before it:
//!      5.528025684 till       customer#4 data_received 40 bytes 591f54d3
//!      5.528025684 till       customer#4 sends 120 bytes
//!      5.906233733            fault 1 begins: till and customer are cut off from each other
//!      7.705603427            fault 1 ends: till and customer are cut off from each other
//!      9.055538154 customer   customer#4 data_received 82 bytes ac356d0b
//!     10.213804019 customer   customer#4 write_closed
//!     11.213804019 customer   looks up till
//!     11.217484215 customer   customer#5 tries [fd00::1]:8000
//!     11.321122080 customer   customer#5 sends 41 bytes
//!     ...
//! replay it with COUPLET_SEED=2
//! ```
//!
//! The last fault explains the failure. The till received the request at 5.5 s and answered it. The
//! end of the answer was lost in the partition, so the customer gave up at 10.2 s and paid again,
//! on a new connection. The server executed the payment twice.
//!
//! `COUPLET_SEED=2 cargo test` gives the same trace, to the byte, on any machine. To see the
//! packets, [capture them for Wireshark](crate::manual::simulator#captures-for-wireshark).
//!
//! ## The fix
//!
//! A payment needs an id, so that the server recognizes a repeated one:
//!
//! ```
//! # use std::sync::{Arc, Mutex};
//! # use axum::{Router, extract::{Path, State}, routing::post};
//! use std::collections::BTreeSet;
//!
//! #[derive(Default)]
//! pub struct Books {
//!     pub sum: u64,
//!     known: BTreeSet<String>,
//! }
//!
//! pub type Till = Arc<Mutex<Books>>;
//!
//! pub fn router(till: Till) -> Router {
//!     let pay = async |State(till): State<Till>, Path((amount, id)): Path<(u64, String)>| {
//!         let mut books = till.lock().unwrap();
//!         if books.known.insert(id) {
//!             books.sum += amount;
//!         }
//!         "paid"
//!     };
//!     Router::new().route("/pay/{amount}/{id}", post(pay)).with_state(till)
//! }
//! ```
//!
//! The customer posts to `/pay/1/{n}`, and `world` checks `books.sum`. Now try more seeds: with
//! `0..10_000`, `cargo test --release` takes two seconds.
//!
//! ## Next steps
//!
//! - [`check_determined`](crate::sim::check_determined) runs each seed twice, and again in another
//!   process, to detect order or time that doesn't come from the seed. The feature `trap` makes
//!   libraries take both from the seed.
//! - [`Fault`](crate::sim::Fault) has faults to schedule by hand, such as a clock jump or a lack of
//!   descriptors; [`Link`](crate::sim::Link) sets loss and latency.
//! - The example `axum_in_a_storm` is a similar service, with two clients and its own report.
//! - [`manual::simulator`](crate::manual::simulator) has more assertions worth making.

#![expect(clippy::test_attr_in_doctest, reason = "it is the file of a test")]
