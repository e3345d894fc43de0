//! Servers that signals stop, with clients in every state.

use rustix::process::Signal;

use super::{Client, Server};

/// Asserts that servers end with 0 at their first signal, and at a second one.
#[track_caller]
pub fn assert_stop_at_once(busy_servers: impl Fn() -> Vec<(Server, Vec<Client>)>) {
    for (signal, twice) in [(Signal::INT, false), (Signal::TERM, false), (Signal::INT, true)] {
        for (mut server, _clients) in busy_servers() {
            if twice {
                server.running.signal(signal);
            }
            server.stop(signal).quietly(0);
        }
    }
}

/// Asserts that a drain ends with its clients between two requests, and that a new client has the
/// whole time of the drain for its first one. Each server has arguments and a request.
#[track_caller]
pub fn assert_drain_briefly(servers: &[(&[&str], &str)]) {
    for (is_new, drain) in [(false, "600"), (true, "1")] {
        std::thread::scope(|scope| {
            for (args, request) in servers {
                let server = Server::start(&[args, &["--drain", drain][..]].concat());
                let mut silent = server.connect();
                if !is_new {
                    silent.send(request.as_bytes());
                    silent.read_exact(1);
                }
                scope.spawn(move || {
                    let ended = server.stop(Signal::TERM);
                    assert_eq!(ended.code, Some(0), "{args:?} {}", ended.stderr);
                    drop(silent);
                });
            }
        });
    }
}
