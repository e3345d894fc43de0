//! The tutorial's servers and proxies.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::path::PathBuf;

use super::{
    POEM, Running, accept, connect, example, listener, nobody, poet, read_all, recite, run, stderr,
};

const ANY: &str = "tcp:0:interface=127.0.0.1";

/// A file holding the poem.
fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Renamed into place, since concurrent test runs may be reading it.
    let fresh = path.with_extension(std::process::id().to_string());
    std::fs::write(&fresh, POEM).expect("the tests' folder is writable");
    std::fs::rename(&fresh, &path).expect("the same folder");
    path.to_string_lossy().into_owned()
}

#[test]
fn the_slow_server_sends_the_whole_poem() {
    let mut server = Running::start("servers", &["slow", ANY, &file("slow.txt"), "1", "0"]);
    let address = server.address();
    for _ in 0..2 {
        assert_eq!(read_all(&mut connect(&address)), POEM);
    }
}

#[test]
fn the_slow_server_serves_all_clients_concurrently() {
    // One piece per hour: unless clients are served concurrently, the second gets nothing now.
    let mut server = Running::start("servers", &["slow", ANY, &file("hour.txt"), "4", "3600000"]);
    let address = server.address();
    let mut clients = [connect(&address), connect(&address)];
    for client in &mut clients {
        let mut piece = [0; 4];
        client.read_exact(&mut piece).expect("the first piece");
        assert_eq!(piece, POEM.as_bytes()[..4]);
        client.set_nonblocking(true).expect("an option");
        let more = client.read(&mut piece).map_err(|error| error.kind());
        assert_eq!(more, Err(ErrorKind::WouldBlock));
    }
}

#[test]
fn the_fast_server_sends_the_poem_to_each_client() {
    let mut server = Running::start("servers", &["fast", ANY, &file("fast.txt")]);
    let address = server.address();
    for _ in 0..2 {
        assert_eq!(read_all(&mut connect(&address)), POEM);
    }
}

#[test]
fn the_transform_server_answers_a_request_that_arrives_byte_by_byte() {
    let mut server = Running::start("servers", &["transform", ANY]);
    let address = server.address();
    for (request, answer) in [
        ("18:whisper.Soft. Soft,", "10:soft. soft,"),
        ("13:backwards.abc,", "3:cba,"),
        ("10:shout.soft,", ""),
        ("7:whisper,", ""),
    ] {
        let mut stream = connect(&address);
        recite(&mut stream, request);
        assert_eq!(read_all(&mut stream), answer, "{request}");
    }
    assert_eq!(server.line(), "no such request: shout.soft");
    assert_eq!(server.line(), "no such request: whisper");
}

#[test]
fn each_proxy_fetches_the_poem_once_and_caches_it() {
    for proxy in ["proxy_1", "proxy_2", "proxy_3"] {
        let mut server = Running::start("servers", &[proxy, ANY, &poet(1).to_string()]);
        let address = server.address();
        assert_eq!(read_all(&mut connect(&address)), POEM);
        assert_eq!(server.line(), "fetching the poem");
        assert_eq!(read_all(&mut connect(&address)), POEM);
        assert_eq!(server.line(), "the poem is cached");
    }
}

#[test]
fn a_proxy_whose_server_is_down_closes_and_retries_for_the_next_client() {
    for proxy in ["proxy_1", "proxy_2", "proxy_3"] {
        let mut server = Running::start("servers", &[proxy, ANY, &nobody().to_string()]);
        let address = server.address();
        for _ in 0..2 {
            assert_eq!(read_all(&mut connect(&address)), "");
            assert_eq!(server.line(), "fetching the poem");
            assert_eq!(server.line(), "no poem: connection refused");
        }
    }
}

#[test]
fn proxy_3_cancels_the_download_when_its_client_hangs_up() {
    let (listener, poet) = listener();
    let mut server = Running::start("servers", &["proxy_3", ANY, &poet.to_string()]);
    let address = server.address();
    let client = connect(&address);
    assert_eq!(server.line(), "fetching the poem");
    let mut upstream = accept(&listener);
    recite(&mut upstream, "Hop");
    client.shutdown(Shutdown::Write).expect("an open stream");
    assert_eq!(server.line(), "the download is cancelled");
    assert_eq!(server.line(), "no poem: cancelled");
    let end = upstream.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)), "{end:?}");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let poem = file("wrong.txt");
    for (words, expected) in [
        (&["slow"][..], "Error: which one? `slow ENDPOINT FILE "),
        (&["slow", ANY, &poem, "0", "1"], "Error: with 0 bytes at a time the poem never ends"),
        (&["slow", ANY, &poem, "few", "1"], "Error: \"few\" is not a number of bytes"),
        (&["fast", ANY, "/nowhere/poem.txt"], "Error: cannot read /nowhere/poem.txt: "),
        (&["fast", "nonsense", &poem], "Error: expected a port or HOST:PORT"),
        (&["proxy_1", ANY, "10000"], "Error: \"10000\" is not a server address"),
    ] {
        let output = run(example("servers").args(words));
        assert!(!output.status.success());
        assert!(stderr(&output).starts_with(expected), "{}", stderr(&output));
    }
}
