//! Clients that disconnect at any step, and the state of their server after that.

use rustix::process::Signal;

use super::{Client, Server, noise, wait_until};

/// Asserts that a server serves the next client and holds no descriptors of earlier ones.
#[track_caller]
pub fn is_well(server: Server, descriptors: usize, served: impl Fn(Client)) {
    served(server.connect());
    wait_until("all descriptors to be closed", || server.descriptors() <= descriptors);
    server.stop(Signal::TERM).quietly(0);
}

/// Clients that disconnect in different ways at each step of a connection's life.
pub fn misbehave(server: &Server) {
    let garbage = noise(200_000);
    let leave: [fn(Client); 3] = [drop, Client::reset, |mut client| client.finish()];
    for leave in leave {
        leave(server.connect());
        let mut client = server.connect();
        client.send(&garbage[..10]);
        leave(client);
        let mut client = server.connect();
        client.push(&garbage);
        leave(client);
        let mut client = server.connect();
        client.send(b"x");
        client.read().unwrap();
        leave(client);
        let mut client = server.connect();
        for byte in &garbage[..50] {
            client.send(&[*byte]);
        }
        leave(client);
    }
}

/// Each client sends one of these steps, perhaps with garbage after it, and disconnects.
pub fn leave_at_each_step(server: &Server, steps: &[&[u8]]) {
    let leave: [fn(Client); 3] = [drop, Client::reset, |mut client| client.finish()];
    for leave in leave {
        for sent in steps.iter().copied().chain([&b""[..]]) {
            let mut client = server.connect();
            client.send(sent);
            leave(client);
            let mut client = server.connect();
            client.send(sent);
            client.push(&noise(100_000));
            leave(client);
        }
    }
}

/// Asserts that a server with these arguments resets a client that stops within its request after the
/// idle timeout, unless that is 0.
pub fn assert_idle_is_cut(args: &[&str], little: &[u8]) {
    let server = Server::start(&[args, &["--idle-timeout", "0.3"]].concat());
    let mut client = server.connect();
    client.send(little);
    let end = client.read_to_end();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{args:?}");
    server.stop(Signal::TERM).quietly(0);
    // The client stays while others come and go.
    let server = Server::start(&[args, &["--idle-timeout", "0"]].concat());
    let client = server.connect();
    for mut client in std::iter::repeat_with(|| server.connect()).take(3).chain([client]) {
        client.send(little);
        client.finish();
        assert!(client.read_to_end().is_ok(), "{args:?}");
    }
}

/// The time until the kernel's next probe of this connection, in seconds, if it will send one.
#[cfg(target_os = "linux")]
pub fn next_probe(server: &Server, client: &Client) -> Option<u64> {
    let ends = [server.ports[0].port(), client.address().port()].map(|port| format!(":{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row[1].ends_with(&ends[0]) && row[2].ends_with(&ends[1]))?;
    // Timer 2 counts down to the next probe, in hundredths of a second.
    let hundredths = row[5].strip_prefix("02:")?;
    Some(u64::from_str_radix(hundredths, 16).unwrap() / 100)
}
