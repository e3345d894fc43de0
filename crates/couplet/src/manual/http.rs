//! # HTTP with axum
//!
//! With the feature `http` a loop serves any [tower](https://docs.rs/tower) service: axum's
//! `Router`, a function, a stack of middleware. hyper parses and frames HTTP/1.1 and HTTP/2.
//! Couplet adds endpoints, TLS, a limit for each wait, draining, and the simulator.
//!
//! ```
//! use axum::{Router, extract::Path, routing::get};
//! use couplet::http::{Client, HttpExt};
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
//! The endpoint selects the rest: `tls:443:cert=…:key=…` for HTTPS with HTTP/2,
//! `unix:/run/app.sock` behind a proxy, and the prefix `haproxy:` to get client addresses from a
//! PROXY header. Without TLS the server speaks HTTP/2 to clients that begin with it (`curl
//! --http2-prior-knowledge`).
//!
//! ## One thread, and `Send`
//!
//! All requests of a loop run on its thread, and only one runs between two `await`s, so your own
//! service may hold an `Rc`. axum requires `Send` handlers, because most servers need them;
//! [`local`](crate::http::local) turns any other handler into a `Send` service that stays on its
//! thread.
//!
//! ```
//! use axum::{Router, routing::any_service};
//! use couplet::http::{HttpExt, Request, local};
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
//! `tokio::spawn`, `tokio::time` and libraries with tokio sockets need a runtime, and so does
//! axum's WebSocket, which spawns its handler. `couplet::http::serve` is the `main` of such a
//! server: it runs a loop inside a current-thread runtime, until a signal. Other programs embed
//! their loop: see [Using tokio libraries](super::beside_tokio). An upgraded connection belongs to
//! the loop's thread; on other threads its methods fail.
//!
//! ## Limits
//!
//! Each wait for a client has a limit. [`HttpOptions`](crate::http::HttpOptions) sets the times:
//!
//! | a client that | gets | limit |
//! | --- | --- | --- |
//! | sends no request | a close | `keep_alive`, 75 s |
//! | sends its head slowly | 408, and a close | `header_timeout`, 30 s |
//! | pauses in a body that the service is reading | a read error in the service | `body_timeout`, 60 s |
//! | reads nothing of its answer | a reset | `write_timeout`, 60 s |
//! | sends too long a head, or too many headers | 431, and a close | `max_head`, 64 KiB; `max_headers`, 100 |
//! | opens too many HTTP/2 streams | further streams refused | `max_streams`, 128 |
//! | does not read | its answers paused | `max_unsent`, 1 MiB; for all clients together `max_unsent_of_all`, 64 MiB |
//!
//! The service limits its own time and the size of request bodies: use
//! `axum::extract::DefaultBodyLimit`, [`Body::bytes`](crate::http::Body::bytes), tower's `Timeout`.
//! If a service panics, the client gets a 500.
//!
//! A connection without a request frees its buffers within 0.1 s. An idle connection costs at most 3
//! KiB in HTTP/1.1, 6 KiB over TLS, and 21 KiB in HTTP/2.
//!
//! ## Stopping
//!
//! [`Reactor::drain`](crate::Reactor::drain), and SIGTERM with
//! [`LoopOptions::drain`](crate::LoopOptions::drain), let requests finish: HTTP/1.1 answers carry
//! `connection: close`, HTTP/2 sends GOAWAY, and a connection without a request closes immediately.
//! An endless answer, such as a stream of events, is closed when the time is up, so clients cannot
//! prolong a drain.
//!
//! ## Clients
//!
//! A [`Client`](crate::http::Client) keeps its connections for later requests, speaks HTTP/2 if
//! ALPN selects it, follows redirects, and supports proxies by CONNECT. With the feature
//! `decompression` it requests compressed answers and decodes them, up to a limit. A client belongs
//! to one loop, and is cheap to clone. The chapter `databases` uses one in a handler.
//!
//! ## In the simulator
//!
//! The same router and its clients run in the [simulator](super::simulator), under any network
//! fault. Time is virtual, including the `date` header, and the same seed gives the same trace.
//! With the feature `sim-tokio` a host can have a runtime (`Sim::host_with_tokio`): then
//! `tokio::spawn`, `tokio::time` and `tokio::sync` work in its handlers, in virtual time. tokio's
//! random choices, such as the order of a `tokio::select!` that isn't `biased`, come from the seed
//! if the program is built with `--cfg tokio_unstable`. The chapter [`storm`](super::storm) finds a
//! bug this way.
//!
//! ## Several processors
//!
//! A loop uses one thread. A [`Cluster`](crate::Cluster) runs a loop in each of several threads,
//! and they share a port without a central accept task: call `reactor.serve_http(port.clone(),
//! router)` in its `setup`, with the `port` that [`Cluster::bind`](crate::Cluster::bind) returned.
//! The router is cloned for each loop, and shares its state as usual. See
//! [`many_cores`](super::many_cores).
