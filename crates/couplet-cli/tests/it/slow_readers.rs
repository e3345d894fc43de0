//! Clients that ask and never read: the memory that each server of the program holds for one. A chat
//! cuts them off.

use crate::http::Site;
use crate::kit::{Client, Server, TempFile, noise, serve_raw};
use crate::unread::settled;

const MIB: usize = 1024 * 1024;

/// Clients that come first: they make tables, the heap and the buffers that a loop keeps grow.
const FIRST: usize = 32;

/// Clients whose memory is measured: enough to average out the holes in the heap.
const CLIENTS: usize = 64;

/// The most that a client may hold, in KiB.
const MOST: u64 = 96;

/// Connects `count` clients that read nothing and send these requests until the server stops reading.
/// Returns them, and the memory of the server in KiB.
fn unread(server: &Server, requests: &[u8], count: usize) -> (Vec<Client>, u64) {
    let connect = || Client::connect_narrowly(server.address().parse().unwrap());
    let mut clients: Vec<(Client, usize)> = (0..count).map(|_| (connect(), 0)).collect();
    loop {
        let taken = push(&mut clients, requests);
        let memory = settled(server);
        // A server that has little of a busy machine stops for a while, and takes more later.
        if taken == 0 {
            return (clients.into_iter().map(|(client, _)| client).collect(), memory);
        }
    }
}

/// Lets each client go on with the requests, and returns the bytes that were taken.
fn push(clients: &mut [(Client, usize)], requests: &[u8]) -> usize {
    let all = |clients: &[(Client, usize)]| clients.iter().map(|(_, taken)| taken).sum::<usize>();
    let before = all(clients);
    std::thread::scope(|scope| {
        for (client, taken) in clients.iter_mut() {
            scope.spawn(|| *taken += client.push(&requests[*taken..]));
        }
    });
    all(clients) - before
}

/// Fails if a client that sends these requests and reads nothing holds too much.
fn check(name: &str, server: Server, requests: &[u8]) {
    let (first, before) = unread(&server, requests, FIRST);
    let (clients, after) = unread(&server, requests, CLIENTS);
    let held = after.saturating_sub(before) / CLIENTS as u64;
    println!("{name}: {held} KiB");
    assert!(held <= MOST, "{name} holds {held} KiB for each client that reads nothing");
    drop((first, clients));
}

fn repeated(request: &str) -> Vec<u8> {
    request.repeat(20 * MIB / request.len()).into_bytes()
}

#[test]
fn who_never_reads_an_echo_holds_little() {
    check("echo", Server::start(&["echo"]), &noise(20 * MIB));
}

#[test]
fn who_never_reads_transformed_poems_holds_little() {
    for length in [100, 1000, 20_000, 60_000, 80_000, 90_000] {
        let poem = "x".repeat(length);
        let request = format!("{}:upper.{poem},", poem.len() + 6);
        let name = format!("transform, {length} bytes");
        check(&name, Server::start(&["poetry", "transform"]), &repeated(&request));
    }
}

#[test]
fn who_never_reads_a_poem_holds_little() {
    let poem = TempFile::named("poem", &noise(20 * MIB));
    let serve = |options: &[&str]| {
        let common = ["poetry", "serve", "--delay", "0", poem.path()];
        Server::start(&[&common[..], options].concat())
    };
    check("poetry serve", serve(&[]), b"");
    for line in ["poem\n", "\n", "no\n"] {
        let name = format!("poetry serve --by-name, {line:?}");
        check(&name, serve(&["--by-name"]), &repeated(line)[..8 * MIB]);
    }
}

#[test]
fn who_never_reads_what_is_forwarded_holds_little() {
    let poem = noise(20 * MIB);
    let upstream = serve_raw(move |mut peer| {
        peer.push(&poem);
        let _ = peer.read_to_end();
    });
    let server = Server::start(&["forward", "0", &upstream.to_string()]);
    // A client that also sends would hold as much for the upstream server, which does not read either.
    check("forward", server, b"");
}

#[test]
fn who_never_reads_a_file_holds_little() {
    let site = Site::new(&[("large", &noise(20 * MIB)), ("medium", &noise(MIB / 2))]);
    for path in ["/large", "/medium", "/"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        check(&format!("serve, {path}"), site.serve(), request.as_bytes());
    }
}
