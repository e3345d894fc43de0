//! Clients that ask and never read, and the memory that a server holds for one.

use std::time::Duration;

use super::{Client, Server, now, pause};

pub const MIB: usize = 1024 * 1024;

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
        // A server that gets little processor time on a busy machine pauses, and takes more later.
        if taken == 0 {
            return (clients.into_iter().map(|(client, _)| client).collect(), memory);
        }
    }
}

/// Has each client send more of the requests, and returns the number of bytes taken.
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
pub fn check(name: &str, server: Server, requests: &[u8]) {
    let (first, before) = unread(&server, requests, FIRST);
    let (clients, after) = unread(&server, requests, CLIENTS);
    let held = after.saturating_sub(before) / CLIENTS as u64;
    println!("{name}: {held} KiB");
    assert!(held <= MOST, "{name} holds {held} KiB for each client that reads nothing");
    drop((first, clients));
}

pub fn repeated(request: &str) -> Vec<u8> {
    request.repeat(20 * MIB / request.len()).into_bytes()
}

/// The server's memory in KiB, once it is stable.
pub fn settled(server: &Server) -> u64 {
    let (mut memory, mut since) = (server.memory(), now());
    while since.elapsed() < Duration::from_secs(1) {
        pause();
        if server.memory() != memory {
            (memory, since) = (server.memory(), now());
        }
    }
    memory
}
