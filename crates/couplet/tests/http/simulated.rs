//! An axum application and its clients in the simulator.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use couplet::http::{Client, ClientOptions, Request};
use couplet::sim::Sim;
use couplet::{Reactor, Result};

const CLIENTS: usize = 5;
const REQUESTS: usize = 20;

fn shop() -> Router {
    let sold = Arc::new(AtomicU64::new(0));
    let buy = async |State(sold): State<Arc<AtomicU64>>, Path(what): Path<String>, body: String| {
        format!("{what} number {}, {} bytes", sold.fetch_add(1, Ordering::Relaxed), body.len())
    };
    let count = async |State(sold): State<Arc<AtomicU64>>| sold.load(Ordering::Relaxed).to_string();
    Router::new().route("/buy/{what}", post(buy)).route("/sold", get(count)).with_state(sold)
}

/// Buys, whatever happens; returns how many answers came.
async fn buys(reactor: Reactor) -> Result<usize> {
    let options = ClientOptions::default().timeout(Some(Duration::from_secs(5)));
    let (client, mut answers) = (Client::with_options(&reactor, options), 0);
    for n in 0..REQUESTS {
        reactor.sleep(Duration::from_millis(reactor.random() % 500)).await?;
        let body = vec![b'x'; (reactor.random() % 100_000) as usize];
        let request = Request::post(format!("http://shop:8000/buy/{n}")).body(body)?;
        let answered = async {
            Ok::<_, couplet::Failure>(client.send(request).await?.into_body().bytes(1000).await?)
        };
        answers += usize::from(answered.await.is_ok());
    }
    Ok(answers)
}

/// The trace of a world, and how many requests were answered in it.
fn world(seed: u64, in_a_storm: bool) -> (u64, u64) {
    let mut sim = Sim::new(seed);
    let hosts: Vec<_> = [sim.host("shop", |reactor| {
        let port = reactor.serve_http("tcp:8000", shop())?;
        drop(port);
        Ok(())
    })]
    .into_iter()
    .chain((0..CLIENTS).map(|n| {
        sim.host(&format!("client{n}"), |reactor| {
            let inner = reactor.clone();
            reactor.spawn(async move { buys(inner).await.map(drop) }).detach();
            Ok(())
        })
    }))
    .collect();
    if in_a_storm {
        sim.draw_faults_for(Duration::from_secs(20), &hosts);
    }
    sim.run_for(Duration::from_secs(300)).expect("it holds");
    sim.finish().expect("it ends");
    (sim.hash(), sim.events())
}

#[test]
fn a_seed_gives_one_trace_with_http_in_it() {
    for (seed, in_a_storm) in [(1, false), (2, true), (3, true), (4, true), (5, true)] {
        let first = world(seed, in_a_storm);
        assert!(first.1 > 500, "{} events", first.1);
        assert_eq!(first, world(seed, in_a_storm), "seed {seed}");
    }
    assert_ne!(world(6, false), world(7, false));
}
