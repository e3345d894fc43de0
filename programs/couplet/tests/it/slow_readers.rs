//! Clients that ask and never read: the memory that each server of the program holds for one.

use crate::http::Site;
use crate::kit::{MIB, Server, check, noise, serve_raw};

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_an_echo_holds_little() {
    check("echo", Server::start(&["echo"]), &noise(20 * MIB));
}

#[test]
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_forwarded_bytes_holds_little() {
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
#[ignore = "measures; run it alone"]
fn a_client_that_never_reads_a_file_holds_little() {
    let site = Site::new(&[("large", &noise(20 * MIB)), ("medium", &noise(MIB / 2))]);
    for path in ["/large", "/medium", "/"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        check(&format!("serve, {path}"), site.serve(), request.as_bytes());
    }
}
