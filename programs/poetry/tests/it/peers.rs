//! The servers with common clients: nc, socat and curl.

use crate::kit::{Server, TempFile, noise, peer, program};
use crate::needed::Folder;
use crate::serve::poet;

fn port(server: &Server) -> String {
    server.ports[0].port().to_string()
}

#[test]
fn nc_that_closes_its_sending_side_gets_the_whole_poem() {
    needs!("nc");
    let (_poem, server) = poet(&noise(10_000), &["--delay", "0.02", "--num-bytes", "1000"]);
    assert!(peer("nc", &["-N", "127.0.0.1", &port(&server)], b"") == noise(10_000));
    assert!(peer("nc", &["-d", "127.0.0.1", &port(&server)], b"") == noise(10_000));
}

#[test]
fn curl_gets_a_poem_though_it_asks_for_a_page() {
    needs!("curl");
    let bytes = noise(2_000_000);
    let (_poem, server) = poet(&bytes, &["--delay", "0"]);
    let page = format!("http://127.0.0.1:{}/poem", port(&server));
    assert!(peer("curl", &["--silent", "--http0.9", "--noproxy", "*", &page], b"") == bytes);
}

#[test]
fn socat_gets_a_poem() {
    needs!("socat");
    let bytes = noise(2_000_000);
    let (_poem, server) = poet(&bytes, &["--delay", "0"]);
    let to = format!("TCP:127.0.0.1:{}", port(&server));
    assert!(peer("socat", &["-u", &to, "-"], b"") == bytes);
}

#[test]
fn curl_gets_a_poem_from_a_unix_socket() {
    needs!("curl");
    let (folder, bytes) = (Folder::new(), noise(2_000_000));
    let (path, poem) = (folder.path("socket"), TempFile::new(&bytes));
    let listen = format!("unix:{path}");
    let args = ["serve", "--delay", "0", poem.path(), "--listen", &listen];
    let server = Server::start_command(program(&args), 0);
    assert_eq!(server.line().trim_end(), format!("listening on {listen}"));
    let args = ["--silent", "--http0.9", "--unix-socket", &path, "http://localhost/poem"];
    assert!(peer("curl", &args, b"") == bytes);
}
