//! The servers with common clients: nc, socat and curl.

use crate::kit::{Server, has, noise, peer};

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
fn socat_echoes() {
    if !has("socat") {
        return;
    }
    let bytes = noise(2_000_000);
    let server = Server::start(&["echo"]);
    let to = format!("TCP:127.0.0.1:{}", port(&server));
    assert!(peer("socat", &["-t", "10", "-", &to], &bytes) == bytes);
}
