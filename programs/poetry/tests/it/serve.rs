//! `poetry serve`.

use std::time::Duration;

use rustix::process::Signal;

use crate::kit::{Client, Running, Server, TempFile, noise, now, program, run, wait_until};

/// A server of this poem, with its file.
pub(crate) fn poet(poem: &[u8], more: &[&str]) -> (TempFile, Server) {
    poet_named("poem.txt", poem, more)
}

pub(crate) fn poet_named(name: &str, poem: &[u8], more: &[&str]) -> (TempFile, Server) {
    let file = TempFile::named(name, poem);
    let server = Server::start(&[&["serve", file.path()], more].concat());
    (file, server)
}

#[test]
fn a_poem_comes_in_parts_with_the_delay_between_them_and_then_the_end() {
    let (_poem, server) = poet(b"abcdefgh", &["--num-bytes", "3", "--delay", "0.4"]);
    let mut client = server.connect();
    let mut parts = Vec::new();
    let mut times = Vec::new();
    loop {
        let part = client.read().unwrap();
        times.push(now());
        if part.is_empty() {
            break;
        }
        parts.push(String::from_utf8(part).unwrap());
    }
    assert_eq!(parts, ["abc", "def", "gh"]);
    for pair in times[..3].windows(2) {
        // Measures arrivals, whose intervals may be slightly shorter than those between the sends.
        assert!(pair[1] - pair[0] > Duration::from_millis(250), "{:?}", pair[1] - pair[0]);
    }
    assert!(times[3] - times[2] < Duration::from_millis(250), "the end comes with the last part");
}

#[test]
fn by_default_ten_bytes_arrive_every_0_7_seconds() {
    let server = Server::start(&["serve"]);
    let mut client = server.connect();
    assert_eq!(client.read().unwrap().len(), 10);
    let first = now();
    assert_eq!(client.read().unwrap().len(), 10);
    let between = first.elapsed().as_secs_f64();
    assert!((0.6..2.0).contains(&between), "{between}");
}

#[test]
fn each_client_gets_the_next_poem_on_any_port() {
    let poems = [&b"one"[..], b"two", b"three"].map(TempFile::new);
    let files = poems.each_ref().map(TempFile::path);
    let args = [&["serve", "--delay", "0", "-l", "0", "-l", "0"], &files[..]].concat();
    let server = Server::start_command(program(&args), 2);
    let got: Vec<_> =
        (0..7).map(|n| Client::connect(server.ports[n % 2]).read_to_end().unwrap()).collect();
    let expected = ["one", "two", "three", "one", "two", "three", "one"];
    assert_eq!(got, expected.map(|poem| poem.as_bytes().to_vec()));
}

#[test]
fn without_a_file_there_are_built_in_poems() {
    let server = Server::start(&["serve", "--delay", "0"]);
    let poems: Vec<String> = (0..5)
        .map(|_| String::from_utf8(server.connect().read_to_end().unwrap()).unwrap())
        .collect();
    let mut different = poems.clone();
    different.sort();
    different.dedup();
    assert!(different.len() >= 3);
    assert!(poems.iter().any(|poem| !poem.is_ascii()));
    assert!(poems.iter().all(|poem| poem.lines().count() > 8 && poem.ends_with('\n')));
}

#[test]
fn bytes_that_are_not_text_arrive_unchanged() {
    let bytes = noise(5000);
    assert!(std::str::from_utf8(&bytes).is_err());
    for pace in [&["--delay", "0"][..], &["--delay", "0.001", "--num-bytes", "777"]] {
        let (_poem, server) = poet(&bytes, pace);
        assert_eq!(server.connect().read_to_end().unwrap(), bytes);
    }
}

#[test]
fn twenty_megabytes_at_full_speed_arrive_unchanged_also_at_a_late_reader() {
    let bytes = noise(20_000_000);
    let (_poem, server) = poet(&bytes, &["--delay", "0"]);
    let mut late = server.connect();
    assert!(server.connect().read_to_end().unwrap() == bytes);
    assert!(late.read_to_end().unwrap() == bytes);
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_costs_little_beyond_the_poem() {
    const CLIENTS: u64 = 20;
    let (_poem, server) = poet(&noise(20_000_000), &["--delay", "0"]);
    server.connect().read_to_end().unwrap();
    let before = server.memory();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    // Every client is in mid-poem: the second piece of the last one meets backpressure.
    for client in &mut clients {
        client.read_exact(64 * 1024);
    }
    let grown = server.memory().saturating_sub(before);
    assert!(grown <= CLIENTS * 256, "{CLIENTS} clients cost {grown} KiB");
}

#[test]
fn an_empty_file_is_a_poem_only_by_name() {
    let (_poem, server) = poet(b"", &[]);
    assert_eq!(server.connect().read_to_end().unwrap(), b"");
    let ended = run(&["get", &server.address()]);
    assert_eq!(ended.text(), "");
    ended.says(1, "the connection was closed without data");
    server.stop(Signal::TERM).says(0, "the poem is empty");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = env!("CARGO_TARGET_TMPDIR");
    let missing = format!("{folder}/there-is-no-such-poem.txt");
    for (file, why) in [(&*missing, "no such file or directory"), (folder, "is a directory")] {
        let good = TempFile::new(b"a poem");
        let ended = run(&["serve", good.path(), file]);
        let told = format!("poetry: cannot read the poem {file}: {why}\n");
        assert_eq!((ended.code, ended.text(), &ended.stderr), (Some(1), "", &told));
    }
}

#[test]
fn a_client_that_stops_sending_gets_the_whole_poem() {
    let bytes = noise(3_000_000);
    for pace in [&["--delay", "0"][..], &["--delay", "0.01", "--num-bytes", "100000"]] {
        let (_poem, server) = poet(&bytes, pace);
        let mut client = server.connect();
        client.finish();
        assert!(client.read_to_end().unwrap() == bytes);
    }
}

/// A server in mid-poem, with a client that has the beginning.
fn in_mid_poem() -> (TempFile, Server, Client) {
    let (poem, server) = poet(&noise(1000), &["--num-bytes", "10", "--delay", "1000"]);
    let mut client = server.connect();
    assert_eq!(client.read_exact(10), noise(10));
    (poem, server, client)
}

#[test]
fn a_server_that_is_killed_in_mid_poem_resets_and_no_client_accepts_the_part() {
    let (_poem, server, mut client) = in_mid_poem();
    let mut get = Running::start(&mut program(&["get", &server.address(), "-vv"]));
    let mut proxy = Server::start(&["proxy", "--upstream", &server.address()]);
    let mut reader = proxy.connect();
    wait_until("a connection", || get.told().contains("connection made"));
    get.wait_snapshot(" open in 10 out 0 ");
    proxy.running.wait_snapshot(" open in 10 out 0 ");
    let address = server.address();
    server.stop(Signal::KILL);
    assert_eq!(client.read().unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let cut = "it was cut short after 10 bytes: connection lost: connection reset by peer";
    let ended = get.ended();
    assert_eq!(ended.text(), "");
    ended.says(1, &format!("no poem from tcp:{address}: {cut}\n"));
    assert_eq!(reader.read_to_end().unwrap(), b"", "not even a part");
    proxy.wait_told(cut);
    // The proxy caches nothing, so the next client makes it fetch again.
    assert_eq!(proxy.connect().read_to_end().unwrap(), b"");
    proxy.wait_told("connection refused");
}

#[test]
fn a_client_keeps_its_whole_poem_when_the_server_is_killed() {
    let bytes = noise(200_000);
    let (_poem, server) = poet(&bytes, &["--delay", "0"]);
    let (mut client, mut late) = (server.connect(), server.connect());
    assert_eq!(client.read_exact(bytes.len()), bytes);
    assert_eq!(client.read().unwrap(), b"", "the end of the poem, before the kill");
    // The kernel has the whole poem in its buffers, or else the client sees a reset.
    server.stop(Signal::KILL);
    match late.read_to_end() {
        Ok(got) => assert_eq!(got, bytes),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}
