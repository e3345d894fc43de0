//! The servers with common clients: nc, socat and curl.

use crate::kit::{Server, noise, peer};

#[test]
fn nc_that_closes_its_sending_side_gets_everything_back() {
    needs!("nc");
    let server = Server::start(&["echo"]);
    let port = server.ports[0].port().to_string();
    for bytes in [noise(3_000_000), b"a line\n".to_vec()] {
        assert!(peer("nc", &["-N", "127.0.0.1", &port], &bytes) == bytes);
    }
}

#[test]
fn socat_echoes() {
    needs!("socat");
    let bytes = noise(2_000_000);
    let server = Server::start(&["echo"]);
    let to = format!("TCP:{}", server.address());
    assert!(peer("socat", &["-t", "10", "-", &to], &bytes) == bytes);
}
