//! `poetry get`: complete poems, failed fetches, and the messages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use crate::kit::{
    Client, Ended, Running, Server, TempFile, noise, program, run, serve_raw, unused_port,
    wait_until,
};
use crate::serve::poet;

/// Runs `poetry get` with these arguments.
fn get(args: &[&str]) -> Ended {
    run(&[&["get"], args].concat())
}

/// A server that sends `bytes`, then runs `end`.
fn sends(bytes: Vec<u8>, end: fn(Client)) -> String {
    serve_raw(move |mut client| {
        client.send(&bytes);
        end(client);
    })
    .to_string()
}

/// Keeps the connection until the peer closes it.
fn hold(mut client: Client) {
    let _ = client.read_to_end();
}

#[test]
fn poems_are_printed_in_the_order_of_the_addresses_byte_for_byte() {
    let poems =
        [&noise(3000)[..], b"no newline at the end", b"\xff\xfe\0last\n"].map(TempFile::new);
    // The first server is the slowest.
    let servers: Vec<Server> = ["0.06", "0.03", "0"]
        .iter()
        .zip(&poems)
        .map(|(delay, poem)| {
            let pace = ["--delay", delay, "--num-bytes", "700"];
            Server::start(&[&["serve", poem.path()], &pace[..]].concat())
        })
        .collect();
    let addresses: Vec<String> = servers.iter().map(Server::address).collect();
    let ended = get(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let expected = [&noise(3000)[..], b"no newline at the end", b"\xff\xfe\0last\n"].concat();
    assert_eq!(ended.stdout, expected);
    assert!(ended.stderr.contains("3 of 3 poems, 3029 bytes in "), "{}", ended.stderr);
}

#[test]
fn all_come_at_once() {
    // The server sends no poem before all clients have connected.
    let asked = Arc::new(Barrier::new(12));
    let address = serve_raw(move |mut client| {
        asked.wait();
        client.send(b"abcdef");
    });
    let ended = get(&[&*address.to_string(); 12]);
    assert_eq!((ended.code, ended.text()), (Some(0), &*"abcdef".repeat(12)));
}

#[test]
fn a_failing_address_costs_only_itself() {
    let (_poem, server) = poet(b"a poem\n", &["--delay", "0"]);
    let (good, (bad, _guard)) = (server.address(), unused_port());
    let ended = get(&[&bad.to_string(), &good, "no..where:80", &good]);
    assert_eq!(ended.text(), "a poem\na poem\n");
    let refused = format!("no poem from tcp:{bad}: connection refused\n");
    ended.says(1, &refused);
    let unknown = "no poem from tcp:no..where:80: cannot find the host \"no..where\": ";
    assert!(ended.stderr.contains(unknown), "{}", ended.stderr);
    assert!(ended.stderr.contains("2 of 4 poems, 14 bytes in "), "{}", ended.stderr);
}

#[test]
fn two_hundred_addresses_are_no_trouble() {
    let (_poem, server) = poet(&noise(1000), &["--delay", "0"]);
    let address = server.address();
    let ended = get(&[&*address; 200]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout == noise(1000).repeat(200));
    assert!(ended.stderr.contains("200 of 200 poems, 200000 bytes"), "{}", ended.stderr);
}

#[test]
fn a_poem_cut_by_a_reset_is_an_error_and_is_not_printed() {
    let cut = Arc::new(AtomicBool::new(false));
    let when = cut.clone();
    let address = serve_raw(move |mut client| {
        client.send(b"half a poem");
        wait_until("the client has read", || when.load(Ordering::SeqCst));
        client.reset();
    });
    let mut running = Running::start(&mut program(&["get", &address.to_string(), "-vv"]));
    wait_until("a connection", || running.told().contains("connection made"));
    running.wait_snapshot(" open in 11 out 0 ");
    cut.store(true, Ordering::SeqCst);
    let ended = running.ended();
    assert_eq!(ended.text(), "");
    let line = format!(
        "no poem from tcp:{address}: it was cut short after 11 bytes: \
         connection lost: connection reset by peer\n"
    );
    ended.says(1, &line);
}

#[test]
fn a_reset_at_any_moment_is_an_error() {
    let addresses: Vec<String> =
        (0..20).map(|length| sends(noise(length * 1000), Client::reset)).collect();
    let ended = get(&addresses.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((ended.code, ended.stdout.len()), (Some(1), 0), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("connection reset by peer\n").count(), 20, "{}", ended.stderr);
}

#[test]
fn a_poem_that_never_begins_or_never_ends_is_given_up_after_the_timeout() {
    let silent = sends(Vec::new(), hold);
    let half = sends(b"half a poem".to_vec(), hold);
    // Bytes keep arriving: the timeout is for the whole poem.
    let endless = serve_raw(|mut client| {
        while client.push(b"more and more ") > 0 {
            crate::kit::pause();
        }
    });
    let whole = sends(b"a whole poem\n".to_vec(), drop);
    let endless = endless.to_string();
    let ended = get(&["--timeout", "3", &silent, &half, &endless, &whole]);
    assert_eq!((ended.code, ended.text()), (Some(1), "a whole poem\n"));
    for address in [silent, half, endless] {
        let line = format!("no poem from tcp:{address}: it was incomplete after 3 s (--timeout)\n");
        assert!(ended.stderr.contains(&line), "{}", ended.stderr);
    }
    let took = ended.took.as_secs_f64();
    assert!(took >= 3.0, "{took}");
}

#[test]
fn a_poem_at_the_limit_comes_and_one_byte_more_is_too_long() {
    let exact = sends(noise(100_000), drop);
    let longer = sends(noise(100_001), hold);
    let ended = get(&["--max-bytes", "100000", &longer, &exact]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stdout == noise(100_000));
    let line = format!(
        "no poem from tcp:{longer}: it is longer than 100000 bytes (--max-bytes sets the limit)\n"
    );
    assert!(ended.stderr.contains(&line), "{}", ended.stderr);
}

#[test]
fn a_server_that_closes_without_data_has_no_poem() {
    let (empty, one) = (sends(Vec::new(), drop), sends(b"x".to_vec(), drop));
    let ended = get(&[&empty, &one]);
    assert_eq!(ended.text(), "x");
    ended.says(1, &format!("no poem from tcp:{empty}: the connection was closed without data"));
}

#[test]
fn the_limit_is_64_mib_unless_set() {
    const LIMIT: usize = 64 * 1024 * 1024;
    // Serves zeros without holding all of them in memory.
    fn zeros(count: usize) -> String {
        let serve = move |mut client: Client| {
            let mut count = count;
            let piece = vec![0; 1024 * 1024];
            while count > 0 && client.push(&piece[..count.min(piece.len())]) > 0 {
                count -= count.min(piece.len());
            }
        };
        serve_raw(serve).to_string()
    }
    let ended = get(&[&zeros(LIMIT), &zeros(LIMIT + 1)]);
    assert_eq!((ended.code, ended.stdout.len()), (Some(1), LIMIT));
    let too_long = format!("it is longer than {LIMIT} bytes");
    assert!(ended.stderr.contains(&too_long), "{}", ended.stderr);
}

#[test]
fn twenty_megabytes_come_exactly() {
    let bytes = noise(20_000_000);
    let (_poem, server) = poet(&bytes, &["--delay", "0"]);
    let ended = get(&[&server.address()]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stdout == bytes);
}

#[test]
fn a_poem_byte_by_byte_is_a_poem() {
    let address = serve_raw(|mut client| {
        for byte in b"one byte at a time\n" {
            client.send(&[*byte]);
        }
    });
    let ended = get(&[&address.to_string()]);
    assert_eq!((ended.code, ended.text()), (Some(0), "one byte at a time\n"));
}
