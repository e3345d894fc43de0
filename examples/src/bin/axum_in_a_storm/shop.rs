//! The shop and its clients; the code runs in a simulation and on real sockets alike.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::post;
use couplet::http::{Client, ClientOptions, Request};
use couplet::{Failure, Reactor, Result};

const PATIENCE: Duration = Duration::from_secs(10);

/// The shop's database: it outlives a crash of the shop.
#[derive(Default)]
pub(crate) struct Books {
    pub(crate) booked: usize,
    known: BTreeSet<String>,
}

pub(crate) fn shop(books: Arc<Mutex<Books>>, is_mended: bool) -> Router {
    let book = async move |State(books): State<Arc<Mutex<Books>>>, Path(order): Path<String>| {
        let mut books = books.lock().unwrap_or_else(PoisonError::into_inner);
        // The bug: without this check, a repeated order is booked again.
        if books.known.insert(order) || !is_mended {
            books.booked += 1;
        }
        "booked"
    };
    Router::new().route("/book/{order}", post(book)).with_state(books)
}

/// Orders `number` things, and repeats each order until it is answered.
pub(crate) async fn orders(reactor: Reactor, name: String, number: usize) -> Result<()> {
    let options = ClientOptions::default().timeout(Some(PATIENCE)).body_timeout(PATIENCE);
    let client = Client::with_options(&reactor, options);
    for n in 0..number {
        loop {
            let order = Request::post(format!("http://shop/book/{name}-{n}")).body("")?;
            let answer =
                async { Ok::<_, Failure>(client.send(order).await?.into_body().bytes(100).await?) };
            if answer.await.is_ok_and(|said| said == "booked") {
                break;
            }
            reactor.sleep(Duration::from_secs(1)).await?;
        }
    }
    Ok(())
}
