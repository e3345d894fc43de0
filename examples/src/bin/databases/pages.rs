//! The pages of the shop, and its orders.

use axum::http::StatusCode;
use couplet::{Failure, Result};
use tokio_postgres::Client;

use super::shop::{Fault, NO_CACHE, NO_DATABASE, NO_RATE, SOLD_OUT, Shop, UNKNOWN, because};

impl Shop {
    pub(crate) async fn price(&self, good: String) -> Result<String, Fault> {
        let database = self.goods.get().await.map_err(because(NO_DATABASE))?;
        let row = database.query_opt("select cents from goods where name = $1", &[&good]).await;
        // Returns the connection to the pool before waiting for other servers.
        drop(database);
        let row = row.map_err(because(NO_DATABASE))?.ok_or(UNKNOWN)?;
        let euros = row.get::<_, i64>("cents") as f64 / 100.0;
        let dollars = euros * self.rate().await?;
        Ok(format!("{good}: {euros:.2} EUR, {dollars:.2} USD\n"))
    }

    /// A euro in dollars, at most a minute old.
    async fn rate(&self) -> Result<f64, Fault> {
        let cached = self.cache.ask(redis::pipe().get("rate")).await;
        if let (Some(rate),) = cached.map_err(because(NO_CACHE))? {
            return Ok(rate);
        }
        let rate = self.fetch_rate().await.map_err(because(NO_RATE))?;
        let kept = self.cache.ask(redis::pipe().set_ex("rate", rate, 60).ignore()).await;
        let () = kept.map_err(because(NO_CACHE))?;
        Ok(rate)
    }

    async fn fetch_rate(&self) -> Result<f64> {
        let answer = self.client.get(&self.rates).await?;
        let status = answer.status();
        if !status.is_success() {
            return Err(Failure::msg(format!("{}: {status}", self.rates)));
        }
        let body = answer.into_body().bytes(1000).await?;
        Ok(std::str::from_utf8(&body)?.trim().parse()?)
    }

    pub(crate) async fn order(&self, good: String) -> Result<(StatusCode, String), Fault> {
        let mut database = self.goods.get().await.map_err(because(NO_DATABASE))?;
        let left = take_one(&mut database, &good).await.map_err(because(NO_DATABASE))?;
        let left = left.ok_or(SOLD_OUT)?;
        Ok((StatusCode::CREATED, format!("{good}: ordered, {left} left\n")))
    }
}

/// Takes one of the good and adds an order, in one transaction. An error, or a client that hangs
/// up, drops the transaction, which rolls it back. `None` if the good is sold out.
async fn take_one(database: &mut Client, good: &str) -> Result<Option<i64>> {
    let transaction = database.transaction().await?;
    let take = "update goods set stock = stock - 1 where name = $1 and stock > 0 returning stock";
    let Some(row) = transaction.query_opt(take, &[&good]).await? else { return Ok(None) };
    transaction.execute("insert into orders (good) values ($1)", &[&good]).await?;
    transaction.commit().await?;
    Ok(Some(row.get("stock")))
}
