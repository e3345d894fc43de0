//! UNIX sockets in the program: socat and curl as peers, and a killed server.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use crate::kit::{Running, Server, couplet, has, noise, peer, run, wait_until};
use crate::needed::Folder;

const OURS: &str = env!("CARGO_BIN_EXE_couplet");

/// Starts a server that listens on one UNIX socket.
fn serve(args: &[&str], endpoint: &str) -> Server {
    let server = Server::start_command(couplet(&[args, &["--listen", endpoint]].concat()), 0);
    let path = endpoint.split(':').nth(1).unwrap();
    assert_eq!(server.line().trim_end(), format!("listening on unix:{path}"));
    server
}

#[test]
fn socat_and_our_own_client_echo_over_a_unix_socket() {
    let folder = Folder::new();
    let path = folder.path("socket");
    let server = serve(&["echo"], &format!("unix:{path}:mode=600"));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = noise(2_000_000);
    assert!(peer(OURS, &["connect", &format!("unix:{path}")], &bytes) == bytes);
    if has("socat") {
        let to = format!("UNIX-CONNECT:{path}");
        assert!(peer("socat", &["-t", "10", "-", &to], &bytes) == bytes);
    }
    server.stop(Signal::TERM);
    assert!(folder.names().is_empty(), "its files are removed");
}

#[test]
fn our_client_connects_to_socat() {
    needs!("socat");
    let folder = Folder::new();
    let path = folder.path("socket");
    let mut socat = Command::new("socat");
    socat.args(["-t", "10", &format!("UNIX-LISTEN:{path}"), "EXEC:cat"]);
    let socat = Running::start_with_stdout(&mut socat);
    wait_until("socat to listen", || std::fs::exists(&path).unwrap());
    let bytes = noise(300_000);
    assert!(peer(OURS, &["connect", &format!("unix:{path}")], &bytes) == bytes);
    assert_eq!(socat.ended().code, Some(0));
}

#[test]
fn a_killed_server_leaves_a_socket_that_the_next_one_replaces() {
    let folder = Folder::new();
    let endpoint = format!("unix:{}", folder.path("socket"));
    serve(&["echo"], &endpoint).stop(Signal::KILL);
    assert!(!folder.names().is_empty());
    let server = serve(&["echo"], &endpoint);
    assert_eq!(peer(OURS, &["connect", &endpoint], b"a line\n"), b"a line\n");
    // While the server lives, a second one cannot listen on the path.
    run(&["echo", "--listen", &endpoint]).says(1, "something listens there already");
    assert_eq!(peer(OURS, &["connect", &endpoint], b"a line\n"), b"a line\n");
    server.stop(Signal::TERM);
    assert!(folder.names().is_empty());
}
