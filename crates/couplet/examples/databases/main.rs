//! A shop by axum: its goods are in PostgreSQL, exchange rates come from an HTTPS server, and Redis keeps
//! them for a minute. All sockets are the loop's, and no runtime of tokio is there.
//!
//!     cargo run --features decompression,tokio-io --example databases -- tcp:8000 \
//!         'host=/run/postgresql user=me dbname=shop' redis://localhost https://rates.test/usd
//!     curl http://localhost:8000/goods/lamp
//!     curl -X POST http://localhost:8000/goods/lamp/orders

pub(crate) mod cache;
pub(crate) mod lease;
pub(crate) mod pages;
pub(crate) mod pool;
pub(crate) mod shop;

use cache::Cache;
use couplet::http::{Client, ClientOptions};
use couplet::{Failure, Reactor, Result};
use pool::Pool;
use redis::IntoConnectionInfo;
use shop::{Shop, router};

/// The most connections to PostgreSQL.
const CONNECTIONS: usize = 4;

/// Where the servers behind the shop are.
pub(crate) struct Places<'a> {
    pub(crate) postgres: &'a str,
    pub(crate) redis: &'a str,
    pub(crate) rates: &'a str,
}

/// Connects when a request needs a server, so the shop starts without them, and recovers with them.
pub(crate) fn open(reactor: &Reactor, to: &Places<'_>, client: ClientOptions) -> Result<Shop> {
    let mut database: tokio_postgres::Config = to.postgres.parse()?;
    // What a cancelled request has asked for ends once its connection is dropped; since PostgreSQL 14.
    database.options("-c client_connection_check_interval=1s");
    Ok(Shop {
        goods: Pool::new(reactor, database, CONNECTIONS),
        cache: Cache::new(reactor, to.redis.into_connection_info()?),
        client: Client::with_options(reactor, client),
        rates: to.rates.to_owned(),
    })
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [at, postgres, redis, rates] = &arguments[..] else {
        return Err(Failure::msg("usage: databases ENDPOINT POSTGRES REDIS URL"));
    };
    couplet::run(|reactor| {
        let shop = open(reactor, &Places { postgres, redis, rates }, ClientOptions::default())?;
        reactor.serve_http(&**at, router(reactor, shop))?;
        Ok(())
    })
}
