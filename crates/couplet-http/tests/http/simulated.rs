//! An axum application and its clients in the simulator.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::kit::any;
use axum::Router;
use axum::routing::get;
use couplet::http::HttpExt;
use couplet::http::{Client, ClientOptions, HttpOptions};
use couplet::sim::{Fault, Sim};

#[path = "../../../../examples/src/bin/axum_in_a_storm/main.rs"]
#[allow(dead_code, reason = "its main tries more seeds")]
mod storm;

/// Handlers that spawn, sleep, lock and wait, as they would under tokio.
fn busy() -> Router {
    let locked = Arc::new(tokio::sync::Mutex::new(0));
    let slow = async move || {
        let begun = tokio::time::Instant::now();
        let mut served = locked.lock().await;
        *served += 1;
        let (tell, told) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let never = std::future::pending::<()>();
            let late = tokio::time::timeout(Duration::from_millis(250), never).await;
            let _ = tell.send(if late.is_err() { "spawned" } else { "too early" });
        });
        let mut every = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..3 {
            every.tick().await;
        }
        let late = tokio::time::timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
        let said = told.await.unwrap_or("dropped");
        let took = begun.elapsed().as_millis();
        format!("{said}, number {served}, {}, {took} ms", late.is_err())
    };
    Router::new().route("/", get(slow))
}

/// The answers to the clients of a busy server, and the hash of the world's trace.
fn busy_world(seed: u64, crashes: bool) -> (Vec<String>, u64) {
    let mut sim = Sim::new(seed);
    let server = sim.host_with_tokio("busy", |reactor| {
        reactor.serve_http("tcp:8000", any(busy()))?;
        Ok(())
    });
    let heard = Rc::<RefCell<Vec<String>>>::default();
    for n in 0..3 {
        let heard = heard.clone();
        sim.host(&format!("client{n}"), move |reactor| {
            let (client, heard) = (Client::new(reactor), heard.clone());
            let inner = reactor.clone();
            let asking = async move {
                loop {
                    let answer = async {
                        let body = client.get("http://busy:8000/").await?.into_body();
                        Ok::<_, couplet::Failure>(body.bytes(1000).await?)
                    };
                    if let Ok(answer) = answer.await {
                        heard.borrow_mut().push(String::from_utf8_lossy(&answer).into_owned());
                        return Ok(());
                    }
                    inner.sleep(Duration::from_millis(500)).await?;
                }
            };
            reactor.spawn(asking).detach();
            Ok(())
        });
    }
    if crashes {
        sim.fault(Duration::from_millis(700), Duration::from_secs(1), Fault::Crash(server));
    }
    // A client waits a minute for an answer lost in a crash.
    sim.run_for(Duration::from_secs(200)).expect("it holds");
    sim.finish().expect("it ends");
    (heard.take(), sim.hash())
}

#[test]
fn tasks_and_timers_of_tokio_have_virtual_time() {
    let (heard, hash) = busy_world(1, false);
    let took = |n: usize| heard[n].rsplit(", ").next().unwrap_or_default().to_owned();
    assert_eq!(heard.len(), 3);
    assert_eq!(heard[0], format!("spawned, number 1, true, {}", took(0)));
    // One after the other, for 1.2 s each.
    for (n, range) in [(0, 1190..1210), (1, 2380..2420), (2, 3570..3630)] {
        let ms: u64 = took(n).trim_end_matches(" ms").parse().expect("a number");
        assert!(range.contains(&ms), "{heard:?}");
    }
    assert_eq!(busy_world(1, false), (heard, hash));
    // A crash drops the program's tasks and its lock.
    let (heard, hash) = busy_world(2, true);
    assert_eq!(heard.len(), 3);
    assert!(heard[0].starts_with("spawned, number 1"), "{heard:?}");
    assert_eq!(busy_world(2, true), (heard, hash));
}

#[test]
fn the_bug_of_the_example_is_found_and_its_mending_holds() {
    let (_, report) = storm::failure(0..100, false).expect("a seed that fails");
    assert!(report.contains("bookings of 10 orders"), "{report}");
    assert!(report.contains("faults of the weather"), "{report}");
    assert_eq!(storm::failure(0..300, true), None);
}

#[test]
fn a_client_behind_a_slow_link_is_not_given_up() {
    const LENGTH: usize = 300_000;
    let mut sim = Sim::new(1);
    let server = sim.host("server", |reactor| {
        let file = Router::new().route("/", get(async || vec![b'x'; LENGTH]));
        // A tenth of the time for which the server's output waits for the client.
        let options = HttpOptions::default().write_timeout(Duration::from_secs(20));
        drop(reactor.serve_http_with("tcp:8000", any(file), options)?);
        Ok(())
    });
    sim.set_bandwidth(server, Some(1000));
    // A full buffer arrives, and is acknowledged, after four seconds.
    sim.set_buffers(4000, 4000);
    let received = Rc::new(Cell::new(0));
    let length = received.clone();
    sim.host("client", move |reactor| {
        let client = Client::with_options(reactor, ClientOptions::default().timeout(None));
        let length = length.clone();
        let fetching = async move {
            let body = client.get("http://server:8000/").await?.into_body();
            length.set(body.bytes(LENGTH).await?.len());
            Ok(())
        };
        reactor.spawn(fetching).detach();
        Ok(())
    });
    sim.run_for(Duration::from_secs(400)).expect("it holds");
    assert_eq!(received.get(), LENGTH);
}
