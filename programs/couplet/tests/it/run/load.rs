//! Load on a program that restarts: clients that fail if a byte is lost or doubled.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::{Program, echoes};
use crate::kit::{Client, noise, pause};

/// Clients of an echo server: three that stay connected, one of them behind a proxy, and two that
/// connect repeatedly, over TCP and over a UNIX socket.
pub(super) struct Load {
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<usize>>,
}

impl Load {
    pub(super) fn start(port: SocketAddr, proxied: SocketAddr, path: String) -> Load {
        let mut load = Load { ends: Arc::default(), clients: Vec::new() };
        for seed in [0, 1] {
            load.add(move |ends| echo_for_ever(Client::connect(port), seed, ends));
        }
        let mut behind = Client::connect(proxied);
        behind.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1001 1002\r\n");
        load.add(move |ends| echo_for_ever(behind, 2, ends));
        load.add(move |ends| repeat(ends, || echoes(&mut Client::connect(port))));
        load.add(move |ends| {
            repeat(ends, || {
                UnixStream::connect(&path).expect("it listens");
                pause();
            })
        });
        load
    }

    fn add(&mut self, client: impl FnOnce(&AtomicBool) -> usize + Send + 'static) {
        let ends = self.ends.clone();
        self.clients.push(std::thread::spawn(move || client(&ends)));
    }

    /// Stops the clients, and asserts that the program has served each.
    pub(super) fn end(self, program: &Program) {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            let served = client.join().unwrap_or_else(|_| panic!("{}", program.told()));
            assert!(served > 10, "{served}");
        }
    }
}

/// Repeats `once` until `ends` is set; returns the number of times.
fn repeat(ends: &AtomicBool, mut once: impl FnMut()) -> usize {
    let mut count = 0;
    while !ends.load(Ordering::Relaxed) {
        once();
        count += 1;
    }
    count
}

/// Echoes pieces of random lengths on one connection until `ends` is set; returns their number.
fn echo_for_ever(mut client: Client, seed: usize, ends: &AtomicBool) -> usize {
    let bytes = noise(100_000);
    let mut count = 0;
    while !ends.load(Ordering::Relaxed) {
        let length = [1, 10, 1000, 30_000, 100_000][(count + seed) % 5];
        let at = (count * 7919) % (bytes.len() - length + 1);
        client.send(&bytes[at..at + length]);
        assert!(client.read_exact(length) == bytes[at..at + length], "other bytes came back");
        count += 1;
    }
    count
}

/// Two members of a chat.
pub(super) struct Talk {
    pub(super) ada: Client,
    pub(super) other: Client,
    count: usize,
}

impl Talk {
    pub(super) fn start(port: SocketAddr) -> Talk {
        let mut ada = Client::connect(port);
        ada.send(b"/nick ada\n");
        while !ada.read_line().ends_with("is now ada") {}
        let mut other = Client::connect(port);
        // Their loops may differ, which order only the lines of one speaker.
        while !ada.read_line().ends_with("has joined") {}
        ada.send(b"welcome\n");
        while other.read_line() != "<ada> welcome" {}
        Talk { ada, other, count: 0 }
    }

    /// Each says a line, which the other reads next.
    pub(super) fn say(&mut self) {
        let Talk { ada, other, count } = self;
        *count += 1;
        ada.send(format!("{count}\n").as_bytes());
        assert_eq!(other.read_line(), format!("<ada> {count}"));
        if *count % 10 == 0 {
            other.send(b"ten\n");
            let line = ada.read_line();
            assert!(line.ends_with("> ten"), "nobody has joined or left, but: {line}");
        }
    }
}
