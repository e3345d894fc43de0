//! The shop: its routes, and its answers when a server behind it is down.

use std::rc::Rc;

use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::routing::{get_service, post_service};
use axum::{RequestExt, Router};
use couplet::http::{Client, local};
use couplet::{Failure, Reactor};

use super::cache::Cache;
use super::pool::Pool;

pub(crate) struct Shop {
    pub(crate) goods: Rc<Pool>,
    pub(crate) cache: Cache,
    pub(crate) client: Client,
    /// The page with a euro's value in dollars.
    pub(crate) rates: String,
}

/// The status and text for the client; the reason is logged.
pub(crate) type Fault = (StatusCode, &'static str);

pub(crate) const NO_DATABASE: Fault =
    (StatusCode::SERVICE_UNAVAILABLE, "the database is not available\n");
pub(crate) const NO_CACHE: Fault =
    (StatusCode::SERVICE_UNAVAILABLE, "the cache is not available\n");
pub(crate) const NO_RATE: Fault = (StatusCode::BAD_GATEWAY, "there is no exchange rate\n");
pub(crate) const UNKNOWN: Fault = (StatusCode::NOT_FOUND, "there is no such good\n");
pub(crate) const SOLD_OUT: Fault = (StatusCode::CONFLICT, "it is sold out\n");

/// For `map_err`: logs the error and returns the fault for the client.
pub(crate) fn because<E: Into<Failure>>(fault: Fault) -> impl FnOnce(E) -> Fault {
    move |error| {
        tracing::error!(failure = %error.into(), "{}", fault.1.trim_end());
        fault
    }
}

/// The handlers are `local`: their captured values are not `Send`, and stay in the loop's thread.
pub(crate) fn router(reactor: &Reactor, shop: Shop) -> Router {
    let shows = Rc::new(shop);
    let sells = shows.clone();
    let price = local(reactor, async move |asked| shows.price(name_in(asked).await?).await);
    let order = local(reactor, async move |asked| sells.order(name_in(asked).await?).await);
    Router::new()
        .route("/goods/{name}", get_service(price))
        .route("/goods/{name}/orders", post_service(order))
}

async fn name_in(mut request: Request) -> Result<String, Fault> {
    let path = request.extract_parts::<Path<String>>().await;
    path.map(|Path(name)| name).map_err(|_| UNKNOWN)
}
