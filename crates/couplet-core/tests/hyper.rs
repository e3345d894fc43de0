//! Streams used by hyper: its server and its client over HTTP/1.1.

#[macro_use]
extern crate couplet_testkit;

use std::convert::Infallible;

use couplet::testing::{Manner, Memory};
use couplet::{Bytes, Loop, LoopOptions, Stream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};

/// Answers with the path, then the request's body.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    Ok(Response::new(Full::from([path.as_bytes(), &body].concat())))
}

#[test]
fn hyper_serves_and_asks_over_streams() {
    for (manner, capacity) in [(Manner::Readiness, 1000), (Manner::Completion, 100_000)] {
        let (driver, network) = Memory::new(manner, 1);
        network.set_capacity(capacity);
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let reactor = l.reactor();
        let serve = async |stream: Stream| {
            let http = hyper::server::conn::http1::Builder::new();
            Ok(http.serve_connection(stream, service_fn(echo)).await?)
        };
        let port = reactor.serve("tcp:0:interface=127.0.0.1", serve).expect("a free port");
        let to = port.host().to_string();
        let asking = reactor.clone().spawn(async move {
            let stream = reactor.connect_stream(to).await?;
            let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await?;
            let connection = reactor.spawn(async move { Ok(connection.await?) });
            for length in [0, 10, 300_000] {
                let body: Bytes = (0..length).map(|at: u32| (at % 251) as u8).collect();
                let request = Request::post("/echo").header("host", "localhost");
                let request = request.body(Full::new(body.clone()))?;
                let answer = client.send_request(request).await?.into_body().collect().await?;
                assert!(answer.to_bytes() == [b"/echo", &body[..]].concat(), "{length}");
            }
            drop(client);
            connection.await
        });
        l.run_until(asking).expect("the connection ends cleanly");
    }
}
