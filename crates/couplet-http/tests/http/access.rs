//! Access lines: one for each request, without the secrets of its target.

use std::time::Duration;

use couplet::http::HttpOptions;
use couplet::{Reactor, Result};

use crate::http2;
use crate::kit::{beside, get, opened, said};
use crate::logged::access_lines;

/// The access lines of a program beside a server, from their method to their bytes.
fn access(program: impl AsyncFnOnce(Reactor) -> Result<()> + 'static) -> Vec<String> {
    let ((), lines) = access_lines(|| beside(HttpOptions::default(), program));
    let ended = lines.iter().filter_map(|line| {
        let line = line.strip_prefix("message=request ended ")?;
        assert!(line.contains("connection=") && line.contains("peer=tcp:127."), "{line}");
        Some(line.split_once("method=")?.1.split_once(" seconds=")?.0.to_owned())
    });
    ended.collect()
}

#[test]
fn each_request_of_a_connection_has_a_line() {
    let lines = access(async |reactor| {
        let both = get("/a?token=secret") + &get("/panic");
        said(&reactor, both).await?;
        Ok(())
    });
    let wanted = ["GET path=\"/a\" status=200 bytes=7", "GET path=\"/panic\" status=500 bytes=0"];
    assert_eq!(lines, wanted);
}

#[test]
fn each_stream_of_http_2_has_a_line() {
    let lines = access(async |reactor| {
        let asked = [http2::hello(), http2::get(1, "/b?c"), http2::get(3, "/d")].concat();
        said(&reactor, asked).await?;
        Ok(())
    });
    let wanted = ["GET path=\"/b\" status=200 bytes=7", "GET path=\"/d\" status=200 bytes=7"];
    assert_eq!(lines, wanted);
}

#[test]
fn a_refused_request_has_a_line_and_a_broken_one_has_none() {
    let lines = access(async |reactor| {
        said(&reactor, "GET /a HTTP/1.1\r\n\r\n").await?;
        said(&reactor, "GET\r\n\r\n").await?;
        Ok(())
    });
    assert_eq!(lines, ["GET path=\"/a\" status=400 bytes=0"]);
}

#[test]
fn a_request_whose_client_left_before_the_answer_has_no_status() {
    let lines = access(async |reactor| {
        let client = opened(&reactor, get("/slow")).await?;
        reactor.sleep(Duration::from_millis(1)).await?;
        client.transport().abort_connection();
        drop(client);
        reactor.sleep(Duration::from_secs(5)).await?;
        Ok(())
    });
    assert_eq!(lines, ["GET path=\"/slow\" bytes=0"]);
}
