//! TLS in the program, with OpenSSL as the peer.

use std::process::Command;

use crate::kit::{Server, TempFile, couplet, has};
use crate::peers::peer;

/// A certificate for localhost and its key, in one file.
pub(crate) fn certificate() -> TempFile {
    let file = TempFile::new(b"");
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]);
    openssl.args(["/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    let made = openssl.args(["-keyout", "-", "-out", "-"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::write(file.path(), made.stdout).unwrap();
    file
}

#[test]
fn openssl_and_our_own_client_echo_over_tls() {
    if !has("openssl") {
        return;
    }
    let file = certificate();
    let path = file.path();
    let endpoint = format!("tls:127.0.0.1:0:cert={path}");
    let server = Server::start_command(couplet(&["echo", "--listen", &endpoint]), 0);
    let line = server.line();
    let port =
        line.trim_end().rsplit(':').find_map(|part| part.parse::<u16>().ok()).expect("a port");
    let ours = env!("CARGO_BIN_EXE_couplet");
    let to = format!("tls:localhost:{port}:ca={path}");
    assert_eq!(peer(ours, &["connect", &to], b"a line\n"), b"a line\n");
    let to = format!("localhost:{port}");
    for version in ["-tls1_2", "-tls1_3"] {
        let args = ["s_client", "-connect", &to, version, "-CAfile", path, "-quiet"];
        let args = [&args[..], &["-verify_return_error", "-no_ign_eof"]].concat();
        let said = peer("openssl", &args, b"");
        assert!(said.is_empty(), "{version}: {said:?}");
    }
}
