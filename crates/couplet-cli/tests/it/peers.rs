//! The servers with common clients: nc, socat and curl.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::kit::{Running, Server, TempFile, has, noise};

/// Runs a peer with this stdin; returns its output.
pub(crate) fn peer(program: &str, args: &[&str], stdin: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start_with_stdout(command);
    let (mut to, bytes) = (running.stdin().unwrap(), stdin.to_vec());
    // A peer may end before it has read all of stdin.
    let sending = std::thread::spawn(move || drop(to.write_all(&bytes)));
    let ended = running.ended();
    sending.join().unwrap();
    assert_eq!(ended.code, Some(0), "{program} {args:?}: {}", ended.stderr);
    ended.stdout
}

fn port(server: &Server) -> String {
    server.ports[0].port().to_string()
}

#[test]
fn nc_that_closes_its_sending_side_gets_everything_back() {
    if !has("nc") {
        return;
    }
    let server = Server::start(&["echo"]);
    let bytes = noise(3_000_000);
    assert!(peer("nc", &["-N", "127.0.0.1", &port(&server)], &bytes) == bytes);
    assert_eq!(peer("nc", &["-N", "127.0.0.1", &port(&server)], b"a line\n"), b"a line\n");
}

#[test]
fn nc_that_closes_its_sending_side_gets_the_whole_poem() {
    if !has("nc") {
        return;
    }
    let poem = TempFile::new(&noise(10_000));
    let pace = ["--delay", "0.02", "--num-bytes", "1000"];
    let server = Server::start(&[&["poetry", "serve", poem.path()], &pace[..]].concat());
    assert!(peer("nc", &["-N", "127.0.0.1", &port(&server)], b"") == noise(10_000));
    assert!(peer("nc", &["-d", "127.0.0.1", &port(&server)], b"") == noise(10_000));
}

#[test]
fn socat_gets_poems_and_echoes() {
    if !has("socat") {
        return;
    }
    let bytes = noise(2_000_000);
    let poem = TempFile::new(&bytes);
    let server = Server::start(&["poetry", "serve", "--delay", "0", poem.path()]);
    let to = format!("TCP:127.0.0.1:{}", port(&server));
    assert!(peer("socat", &["-u", &to, "-"], b"") == bytes);
    let server = Server::start(&["echo"]);
    let to = format!("TCP:127.0.0.1:{}", port(&server));
    assert!(peer("socat", &["-t", "10", "-", &to], &bytes) == bytes);
}

#[test]
fn curl_gets_a_poem_though_it_asks_for_a_page() {
    if !has("curl") {
        return;
    }
    let bytes = noise(2_000_000);
    let poem = TempFile::new(&bytes);
    let server = Server::start(&["poetry", "serve", "--delay", "0", poem.path()]);
    let page = format!("http://127.0.0.1:{}/poem", port(&server));
    assert!(peer("curl", &["--silent", "--http0.9", "--noproxy", "*", &page], b"") == bytes);
}
