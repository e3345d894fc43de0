//! # Databases and other clients
//!
//! A library that speaks a protocol over any `AsyncRead + AsyncWrite` runs over a
//! [`Stream`](crate::Stream): the loop opens and closes the socket, and no runtime is needed. The
//! feature `tokio-io` implements tokio's traits for streams, which most such libraries require. A
//! library that opens sockets itself needs tokio: see [below](#sqlx-and-others-that-need-tokio).
//!
//! | to reach | use | its sockets are |
//! | --- | --- | --- |
//! | PostgreSQL | `tokio-postgres` without default features, `Config::connect_raw` | the loop's |
//! | Redis | `redis`, `MultiplexedConnection::new_with_config` | the loop's |
//! | HTTP and HTTPS | [`http::Client`](crate::http::Client) | the loop's |
//! | databases with `sqlx`, HTTP with `reqwest` | the feature `tokio` | tokio's |
//!
//! The example
//! [`databases`](https://github.com/couplet-rs/couplet/tree/main/crates/couplet/examples/databases)
//! is a shop that uses the first three behind an axum router, meant as a template. Its tests stop
//! and kill the servers behind it.
//!
//! ## PostgreSQL
//!
//! `connect_raw` returns a client and a connection. The connection is a future that moves the
//! bytes; it runs as a task. The endpoint may be a UNIX socket, such as
//! `unix:/run/postgresql/.s.PGSQL.5432`.
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
//! A remote server should use TLS. As in libpq, the client requests it in cleartext, and the stream
//! is encrypted before the library gets it:
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
//! A cancelled task drops its transaction, and the server rolls it back: the library queues a
//! ROLLBACK behind the current statement. A statement that was sent continues on the server until
//! it completes or `statement_timeout` expires; or, if `client_connection_check_interval` is set,
//! until the server notices that the connection is closed.
//!
//! A connection serves one transaction at a time, so a program needs a pool of them. The pools for
//! tokio (`deadpool`, `bb8`) take their timers from a runtime and require `Send` futures. On a
//! loop, a pool consists of a [`DeferredSemaphore`](crate::defer::DeferredSemaphore), which serves
//! its waiters in order, a list of idle clients, and [`Reactor::timeout`](crate::Reactor::timeout).
//! The example has such a pool in 120 lines: it checks connections, replaces broken ones, and
//! limits each wait.
//!
//! ## Redis
//!
//! One connection serves all tasks: commands that are pending at the same time are sent together,
//! and replies arrive in order. The crate requires a `Send` stream;
//! [`Stream::into_send`](crate::Stream::into_send) makes one, which stays on the loop's thread. The
//! crate's own time limit needs tokio's timers, so this program disables it and uses the loop's:
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
//! This requires the crate's feature `tokio-comp`, but calls none of the code that needs a runtime.
//! The crate can reconnect (`ConnectionManager`) only with a runtime. The example drops a
//! connection when its `life` ends, and the next caller opens a new one.
//!
//! ## HTTPS
//!
//! A [`Client`](crate::http::Client) is cheap to clone, keeps its connections alive, and verifies
//! servers against the system's trusted certificates; [`ClientOptions`](crate::http::ClientOptions)
//! has its limits.
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
//! With the feature `decompression` the client requests compressed answers and decodes them. No
//! body is decoded to more than `max_decoded` bytes, 256 MiB unless set, and other tasks run while
//! it is decoded. `ClientOptions::decompress(false)` leaves bodies as they arrive. Like `reqwest`,
//! the client decodes by default if the feature is built in; curl and `couplet get` decode only
//! with `--compressed`.
//!
//! ## In HTTP handlers
//!
//! Clients, pools and streams are not `Send`, but axum requires `Send` handlers:
//! [`http::local`](crate::http::local) makes one from a function that may own any of them. When a
//! customer hangs up, the handler's future is dropped, and with it the transaction. Answer with 502
//! or 503 when a server behind yours is down, and open connections on demand: then the program can
//! start before its database, and recovers when the database does.
//!
//! ## sqlx, and others that need tokio
//!
//! `sqlx` opens its own sockets, on tokio. With the feature `tokio` the loop runs inside the
//! context of a runtime, and `sqlx` pools work in the loop's tasks:
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
//! Each answer then passes from tokio's thread to the loop's. [Using tokio
//! libraries](super::beside_tokio) has the figures, and shows the alternative, a loop inside tokio.
