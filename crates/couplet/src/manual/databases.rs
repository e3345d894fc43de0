//! # Databases and other clients
//!
//! A library that speaks a protocol over any `AsyncRead + AsyncWrite` runs over a
//! [`Stream`](crate::Stream): the socket, its endpoint and its end are the loop's, and no runtime is
//! there. The feature `tokio-io` gives streams the traits of tokio, which most such libraries ask for.
//! A library that opens sockets itself needs tokio: see [below](#sqlx-and-others-that-need-tokio).
//!
//! | for | take | its sockets are |
//! | --- | --- | --- |
//! | PostgreSQL | `tokio-postgres` without its default features, `Config::connect_raw` | the loop's |
//! | Redis | `redis`, `MultiplexedConnection::new_with_config` | the loop's |
//! | HTTP and HTTPS | [`http::Client`](crate::http::Client) | the loop's |
//! | databases by `sqlx`, HTTP by `reqwest` | the feature `tokio` | tokio's |
//!
//! The example [`databases`](https://github.com/couplet-rs/couplet/tree/main/crates/couplet/examples/databases)
//! is a shop with all of the first three behind an axum router, made to be copied from. Its tests stop and
//! kill the servers behind it.
//!
//! ## PostgreSQL
//!
//! `connect_raw` makes a client and a connection. The connection is a future that moves the bytes; it
//! runs as a task. The endpoint may be a UNIX socket, such as `unix:/run/postgresql/.s.PGSQL.5432`.
//!
//! ```
//! use couplet::{Reactor, Result};
//! use tokio_postgres::{Client, Config, NoTls};
//!
//! async fn database(reactor: &Reactor) -> Result<Client> {
//!     let stream = reactor.connect_stream("tcp:localhost:5432").await?;
//!     let mut config = Config::new();
//!     config.user("couplet").dbname("poems");
//!     let (client, connection) = config.connect_raw(stream, NoTls).await?;
//!     // Ends when the client is dropped, or the server is gone.
//!     reactor.spawn(async { Ok(connection.await?) }).detach();
//!     Ok(client)
//! }
//!
//! async fn rename(client: &mut Client, from: &str, to: &str) -> Result<()> {
//!     let transaction = client.transaction().await?;
//!     transaction.execute("delete from poems where title = $1", &[&to]).await?;
//!     let rename = "update poems set title = $2 where title = $1";
//!     transaction.execute(rename, &[&from, &to]).await?;
//!     Ok(transaction.commit().await?)
//! }
//! ```
//!
//! A server elsewhere wants TLS. PostgreSQL is asked for it in clear, as libpq does, and the stream is
//! encrypted before the library gets it.
//!
//! ```
//! # #[cfg(any(feature = "tls", feature = "ring"))] mod tls {
//! use couplet::layers::tls::ClientTls;
//! use couplet::{Failure, Reactor, Result, Stream};
//!
//! async fn encrypted(reactor: &Reactor, tls: &ClientTls) -> Result<Stream> {
//!     let mut stream = reactor.connect_stream("tcp:db.test:5432").await?;
//!     stream.write_all([0, 0, 0, 8, 4, 210, 22, 47]).await?; // SSLRequest
//!     let mut answer = [0];
//!     stream.read_exact(&mut answer).await?;
//!     if &answer != b"S" {
//!         return Err(Failure::msg("the database has no TLS"));
//!     }
//!     stream.start_tls_client(tls, "db.test").await?;
//!     Ok(stream) // for connect_raw, with NoTls
//! }
//! # }
//! ```
//!
//! A task that is cancelled drops its transaction, and the server rolls it back: the library queues a
//! ROLLBACK behind whatever the connection is busy with. A statement that was sent goes on at the server
//! until it is done or `statement_timeout` is over; or, where `client_connection_check_interval` is set,
//! until the server sees that the connection is closed.
//!
//! A connection serves one transaction at a time, so a server wants a few of them. The pools for
//! tokio (`deadpool`, `bb8`) have their time limits from a runtime and want futures that are `Send`; over
//! a loop a pool is a [`DeferredSemaphore`](crate::defer::DeferredSemaphore), whose waiters are served in
//! the order they came, a list of idle clients, and [`Reactor::timeout`](crate::Reactor::timeout). The
//! example has one in 120 lines: it checks connections, replaces broken ones, and limits each wait.
//!
//! ## Redis
//!
//! One connection serves all tasks: commands that wait at the same time go out together, and answers come
//! in order. The crate asks for a stream that is `Send`; [`Stream::into_send`](crate::Stream::into_send)
//! makes one, which stays in the loop's thread. Its time limit would need tokio's timers, so it is turned
//! off, and the loop's is used.
//!
//! ```
//! use couplet::{Reactor, Result};
//! use redis::aio::MultiplexedConnection;
//! use redis::{AsyncConnectionConfig, RedisConnectionInfo};
//! use std::time::Duration;
//!
//! async fn cache(reactor: &Reactor) -> Result<MultiplexedConnection> {
//!     let stream = reactor.connect_stream("tcp:localhost:6379").await?.into_send();
//!     let config = AsyncConnectionConfig::new().set_response_timeout(None);
//!     let info = RedisConnectionInfo::default();
//!     let (connection, life) =
//!         MultiplexedConnection::new_with_config(&info, stream, config).await?;
//!     reactor.spawn(async { life.await; Ok(()) }).detach();
//!     Ok(connection)
//! }
//!
//! async fn visits(reactor: &Reactor, cache: &MultiplexedConnection, page: &str) -> Result<u64> {
//!     let mut cache = cache.clone();
//!     let asking = async {
//!         let mut commands = redis::pipe();
//!         commands.incr(page, 1).expire(page, 3600).ignore();
//!         let (visits,) = commands.query_async(&mut cache).await?;
//!         Ok(visits)
//!     };
//!     reactor.timeout(Duration::from_secs(3), asking).await
//! }
//! ```
//!
//! The cargo feature that the crate wants for this is `tokio-comp`; nothing of it that needs a runtime is
//! called. What the crate does with a runtime, it does not do here: it does not connect again
//! (`ConnectionManager`). The example drops a connection when its `life` ends, and the next caller opens
//! a new one.
//!
//! ## HTTPS
//!
//! A [`Client`](crate::http::Client) is cheap to clone, keeps its connections, and verifies servers by the
//! certificates that the system trusts; [`ClientOptions`](crate::http::ClientOptions) has its limits.
//!
//! ```
//! use couplet::http::{Client, Request};
//! use couplet::{Failure, Result};
//!
//! async fn publish(client: &Client, poem: &str) -> Result<String> {
//!     let request = Request::post("https://poems.test/poems").body(poem.to_owned())?;
//!     let answer = client.send(request).await?;
//!     if !answer.status().is_success() {
//!         return Err(Failure::msg(format!("the publisher says {}", answer.status())));
//!     }
//!     let body = answer.into_body().bytes(100_000).await?; // at most so much
//!     Ok(String::from_utf8(body.to_vec())?)
//! }
//! ```
//!
//! With the feature `decompression` it asks for compressed answers and decodes them. Whatever a server
//! sends, a body is decoded to at most `max_decoded` bytes, 256 MiB unless set, and while it is decoded
//! other tasks have their turn. `ClientOptions::decompress(false)` gives the bytes as they come. That it is
//! on where it is built in is what `reqwest` does; curl decodes with `--compressed` alone, and so does
//! `couplet get`.
//!
//! ## In handlers of HTTP
//!
//! Clients, pools and streams are not `Send`, and axum asks for handlers that are:
//! [`http::local`](crate::http::local) makes one of a function that holds what it likes. A customer who
//! hangs up drops the handler's future, and with it the transaction. Answer with 502 or 503 when a server
//! behind yours is gone, and open connections when they are needed: then the program starts before its
//! database does, and goes on when that is back.
//!
//! ## sqlx, and others that need tokio
//!
//! `sqlx` opens its own sockets, on tokio. With the feature `tokio` a runtime goes around the loop, and
//! its pools work in tasks of the loop:
//!
//! ```
//! # #[cfg(feature = "tokio")]
//! # fn main() -> couplet::Result<()> {
//! use couplet::{Loop, LoopOptions};
//! use sqlx::sqlite::SqlitePoolOptions;
//!
//! let mut l = Loop::with_options(LoopOptions::default().tokio())?;
//! let task = l.reactor().spawn(async {
//!     let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
//!     let sum: i64 = sqlx::query_scalar("select 20 + $1").bind(22).fetch_one(&pool).await?;
//!     pool.close().await;
//!     Ok(sum)
//! });
//! assert_eq!(l.run_until(task)?, 42);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "tokio"))] fn main() {}
//! ```
//!
//! Each answer then passes from tokio's thread to the loop's; [Using tokio libraries](super::beside_tokio)
//! has the figures, and the other way round, a loop inside tokio.
