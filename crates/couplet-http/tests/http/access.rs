//! Access lines: one for each request, without the secrets of its target.

use std::fs::File;
use std::time::Duration;

use couplet::http::{Body, FileBody, HttpOptions, Request, Response};
use couplet::transport::SharedFile;
use couplet::{Reactor, Result};

use crate::http2;
use crate::kit::{TO, beside, beside_files, get, heard, opened, said};
use crate::logged::access_lines;
use crate::needed::Folder;

/// The access lines of a program with a server, from their method to their bytes.
fn access(program: impl AsyncFnOnce(Reactor) -> Result<()> + 'static) -> Vec<String> {
    access_of(|| beside(HttpOptions::default(), program))
}

fn access_of(run: impl FnOnce()) -> Vec<String> {
    let ((), lines) = access_lines(run);
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

#[test]
fn a_response_whose_client_left_counts_the_bytes_taken() {
    const LENGTH: usize = 5_000_000;
    let folder = Folder::new();
    let path = folder.write("large", vec![b'x'; LENGTH]);
    let file = SharedFile::new(File::open(path).expect("it exists")).expect("it is a file");
    let large = async move |_: Reactor, request: Request<Body>| {
        let mut body = FileBody::default();
        match request.uri().path() {
            "/file" => body.push_file(&file, 0..LENGTH as u64),
            _ => body.push_bytes(vec![b'x'; LENGTH]),
        }
        Ok(Response::new(body))
    };
    for path in ["/file", "/bytes"] {
        for request in [get(path).into_bytes(), [http2::hello(), http2::get(1, path)].concat()] {
            let large = large.clone();
            let lines = access_of(|| {
                beside_files(HttpOptions::default(), large, async move |reactor| {
                    let mut stream = opened(&reactor, request).await?;
                    stream.read_exact(&mut [0; 50_000]).await?;
                    stream.transport().abort_connection();
                    drop(stream);
                    reactor.sleep(Duration::from_secs(5)).await
                });
            });
            let [line] = &lines[..] else { panic!("one line: {lines:?}") };
            let count = line.rsplit_once(" status=200 bytes=").expect(line).1;
            // The heads of the response and of its frames are not counted.
            assert!((49_000..LENGTH / 2).contains(&count.parse().expect("a number")), "{line}");
        }
    }
}

#[test]
fn each_piece_of_each_response_counts_once() {
    let folder = Folder::new();
    let path = folder.write("file", vec![b'x'; 100_000]);
    let file = SharedFile::new(File::open(path).expect("it exists")).expect("it is a file");
    let pieces = async move |_: Reactor, _: Request<Body>| {
        let mut body = FileBody::default();
        body.push_bytes("before");
        body.push_file(&file, 0..100_000);
        body.push_file(&file, 10..20);
        body.push_bytes(vec![b'y'; 200_000]);
        Ok(Response::new(body))
    };
    let room = |stream| http2::update(stream, 1_000_000);
    let streams = [1, 3].map(|id| [http2::get(id, "/"), room(id)].concat()).concat();
    for asked in [get("/").repeat(2).into_bytes(), [http2::hello(), room(0), streams].concat()] {
        let pieces = pieces.clone();
        let lines = access_of(|| {
            beside_files(HttpOptions::default(), pieces, async move |reactor| {
                said(&reactor, asked).await.map(drop)
            });
        });
        assert_eq!(lines, ["GET path=\"/\" status=200 bytes=300016"; 2]);
    }
}

/// Over HTTP/1.1 the count is exactly the sent part of the body.
#[test]
fn a_response_that_is_cut_in_a_later_file_counts_the_bytes_sent() {
    const LENGTH: usize = 5_000_000;
    let folder = Folder::new();
    let path = folder.write("large", vec![b'x'; LENGTH]);
    let file = SharedFile::new(File::open(path).expect("it exists")).expect("it is a file");
    let files = async move |_: Reactor, _: Request<Body>| {
        let mut body = FileBody::default();
        body.push_file(&file, 0..100_000);
        body.push_file(&file, 0..LENGTH as u64);
        Ok(Response::new(body))
    };
    let (tell, told) = std::sync::mpsc::channel();
    let lines = access_of(|| {
        beside_files(HttpOptions::default(), files, async move |reactor| {
            let mut stream = opened(&reactor, get("/")).await?;
            let mut got = vec![0; 200_000];
            stream.read_exact(&mut got).await?;
            let head = got.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
            reactor.sleep(Duration::from_secs(1)).await?;
            let here = stream.host().to_string();
            let connections = reactor.snapshot().await?.connections;
            let server = connections.iter().find(|one| one.peer.to_string() == here);
            let sent = server.expect("it is open").bytes_out;
            tell.send(sent - head as u64)?;
            stream.transport().abort_connection();
            drop(stream);
            reactor.sleep(Duration::from_secs(5)).await
        });
    });
    let sent = told.recv().expect("it is told");
    assert!((150_000..LENGTH as u64).contains(&sent), "{sent}");
    assert_eq!(lines, [format!("GET path=\"/\" status=200 bytes={sent}")]);
}

#[test]
fn the_time_of_each_request_is_its_own() {
    let streams = [(1, "/slow"), (3, "/a"), (5, "/slow")].map(|(id, path)| http2::get(id, path));
    let http2 = [http2::hello(), streams.concat()].concat();
    let http1 = ["/slow", "/a", "/slow"].map(get).concat().into_bytes();
    for asked in [http1, http2] {
        let run = || {
            beside(HttpOptions::default(), async move |reactor| {
                // The connection is older than its requests.
                let mut stream = reactor.connect_stream(TO).await?;
                reactor.sleep(Duration::from_secs(5)).await?;
                stream.write_all(asked).await?;
                heard(&mut stream, &reactor, Duration::from_secs(5)).await.map(drop)
            });
        };
        let ((), lines) = access_lines(run);
        let ended = lines.iter().filter(|line| line.starts_with("message=request ended "));
        let mut times: Vec<(bool, f64)> = ended
            .map(|line| {
                let seconds = line.split_once(" seconds=").expect("a time").1;
                (line.contains("/slow"), seconds.trim().parse().expect("a number"))
            })
            .collect();
        times.sort_by_key(|(is_slow, _)| *is_slow);
        assert_eq!(times, [(false, 0.0), (true, 1.0), (true, 1.0)]);
    }
}
