//! A shop by axum: its goods are in PostgreSQL, exchange rates come from an HTTPS server, and Redis
//! caches them for a minute. All sockets are the loop's, and no tokio runtime is running.
//!
//!      cargo run -p couplet-examples --bin databases -- tcp:8000 \
//!          'host=/run/postgresql user=me dbname=shop' redis://localhost https://rates.test/usd
//!      curl http://localhost:8000/goods/lamp
//!      curl -X POST http://localhost:8000/goods/lamp/orders

pub(crate) mod cache;
pub(crate) mod lease;
pub(crate) mod pages;
pub(crate) mod pool;
pub(crate) mod shop;

use cache::Cache;
use couplet::http::HttpExt;
use couplet::http::{Client, ClientOptions};
use couplet::{Failure, Reactor, Result};
use pool::Pool;
use redis::IntoConnectionInfo;
use shop::{Shop, router};

/// Most connections to PostgreSQL.
const CONNECTIONS: usize = 4;

/// Addresses of the servers behind the shop.
pub(crate) struct Places<'a> {
    pub(crate) postgres: &'a str,
    pub(crate) redis: &'a str,
    pub(crate) rates: &'a str,
}

/// Opens the shop, which connects when a request needs a server: it starts without the servers and
/// recovers with them.
pub(crate) fn open(reactor: &Reactor, to: &Places<'_>, client: ClientOptions) -> Result<Shop> {
    let mut database: tokio_postgres::Config = to.postgres.parse()?;
    // PostgreSQL 14 or later ends the query of a cancelled request once its connection is dropped.
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
