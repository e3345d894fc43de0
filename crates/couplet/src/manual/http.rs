//! # HTTP with axum
//!
//! With the feature `http` a loop serves any service of [tower](https://docs.rs/tower): axum's `Router`,
//! a function, a stack of middleware. hyper parses and frames HTTP/1.1 and HTTP/2. What is Couplet's is
//! around it: endpoints, TLS, the limit of each wait, the drain, and the simulator.
//!
//! ```
//! use axum::{Router, extract::Path, routing::get};
//! use couplet::http::Client;
//!
//! let answer = couplet::run_until(|reactor| {
//!     let router = Router::new().route(
//!         "/hello/{name}",
//!         get(async |Path(name): Path<String>| format!("hello, {name}")),
//!     );
//!     let port = reactor.serve_http("tcp:0:interface=127.0.0.1", router);
//!     let client = Client::new(reactor);
//!     reactor.spawn(async move {
//!         let address = port?.host().socket_addr().expect("a TCP port");
//!         let answer = client.get(format!("http://{address}/hello/Ada")).await?;
//!         Ok(answer.into_body().bytes(1000).await?)
//!     })
//! })?;
//! assert_eq!(answer, "hello, Ada");
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! The endpoint says the rest: `tls:443:cert=…:key=…` for HTTPS with HTTP/2,
//! `unix:/run/app.sock` behind a proxy, `haproxy:` before any of them for the addresses of its clients.
//! Without TLS, HTTP/2 is spoken to clients that begin with it (`curl --http2-prior-knowledge`).
//!
//! ## One thread, and `Send`
//!
//! All requests of a loop run in its thread, one at a time between two `await`s. A service of your own
//! may hold an `Rc`. axum asks its handlers to be `Send`, because most servers need that; where one is
//! not, [`local`](crate::http::local) makes it fit: a service that is `Send` and stays at home.
//!
//! ```
//! use axum::{Router, routing::any_service};
//! use couplet::http::{Request, local};
//! use std::{cell::Cell, rc::Rc};
//!
//! couplet::run(|reactor| {
//!     let visits = Rc::new(Cell::new(0));
//!     let inner = reactor.clone();
//!     let count = local(reactor, async move |_: Request<axum::body::Body>| {
//!         inner.sleep(std::time::Duration::from_millis(1)).await.ok(); // a Deferred, in a handler
//!         visits.set(visits.get() + 1);
//!         format!("visit {}", visits.get())
//!     });
//!     let router = Router::new().route("/", any_service(count));
//!     reactor.serve_http("tcp:0:interface=127.0.0.1", router)?;
//! #   reactor.stop();
//!     Ok(())
//! })?;
//! # Ok::<(), couplet::Failure>(())
//! ```
//!
//! ## Services that need tokio
//!
//! `tokio::spawn`, `tokio::time` and libraries over tokio's sockets need a runtime, as does axum's
//! WebSocket, which spawns its handler. `couplet::http::serve` is the `main` of such a server: it runs
//! a loop inside a current-thread runtime, until a signal. Other programs embed their loop: see
//! [Using tokio libraries](super::beside_tokio). What an upgrade gives belongs to the loop's
//! thread; in another one its methods fail.
//!
//! ## Limits
//!
//! Each wait for a client ends. [`HttpOptions`](crate::http::HttpOptions) has the times:
//!
//! | a client that | gets | after |
//! | --- | --- | --- |
//! | sends no request | a close | `keep_alive`, 75 s |
//! | sends its head slowly | 408, and a close | `header_timeout`, 30 s |
//! | stops in the middle of a body that is awaited | an error where the body is read | `body_timeout`, 60 s |
//! | takes nothing of its answer | a reset | `write_timeout`, 60 s |
//! | sends a head that is too long, or has too many headers | 431, and a close | `max_head`, 64 KiB; `max_headers`, 100 |
//! | opens more streams of HTTP/2 | a refusal of the stream | `max_streams`, 200 |
//! | does not read | no more of its answers | `max_unsent`, 1 MiB; of all clients `max_unsent_of_all`, 64 MiB |
//!
//! How long a service may take, and how much of a body it takes, is its own matter:
//! `axum::extract::DefaultBodyLimit`, [`Body::bytes`](crate::http::Body::bytes), tower's `Timeout`. A
//! panic of a service is answered with 500.
//!
//! A connection without a request gives its buffers back after 5 s, and costs less than 2 KiB.
//!
//! ## Stopping
//!
//! [`Reactor::drain`](crate::Reactor::drain), and SIGTERM with
//! [`LoopOptions::drain`](crate::LoopOptions::drain), let requests finish: HTTP/1.1 says
//! `connection: close`, HTTP/2 sends GOAWAY, a connection without a request closes at once. An answer
//! without an end, such as a stream of events, is closed when the time is over. So the drain ends when it
//! is said to, whatever clients do.
//!
//! ## Asking
//!
//! A [`Client`](crate::http::Client) keeps its connections for the next request, speaks HTTP/2 where
//! ALPN chooses it, follows redirections, and goes through a proxy by CONNECT. With the feature
//! `decompression` it asks for compressed answers and decodes them, within a bound. It is for one loop, and
//! cheap to clone. The chapter `databases` has it behind a handler.
//!
//! ## In the simulator
//!
//! The same router runs in [`sim`](super::simulator), with its clients, in any weather: time is virtual,
//! the `date` header too, and a seed gives the same trace. With the feature `sim-tokio` a host can bring
//! a runtime (`Sim::host_with_tokio`): then `tokio::spawn`, `tokio::time` and `tokio::sync` work in its
//! handlers, on virtual time. What tokio decides by chance, as the order in a `tokio::select!` that is not
//! `biased`, comes from the seed where the program is built with `--cfg tokio_unstable`. The chapter
//! [`storm`](super::storm) finds a bug by it.
//!
//! ## All processors
//!
//! A loop has one thread. A [`Cluster`](crate::Cluster) has several, which share a port, and no task accepts
//! for all of them: `reactor.serve_http(port.clone(), router)` in its `setup`, where `port` is what
//! [`Cluster::bind`](crate::Cluster::bind) gave. The router is cloned for each loop, and shares its state as
//! it would anywhere; [`many_cores`](super::many_cores) has such loops.
