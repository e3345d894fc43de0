//! TLS in the program, with OpenSSL as the peer.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::http::Site;
use crate::kit::{Client, Ended, Running, Server, TempFile, couplet, peer, serve_raw, wait_until};
use rustix::process::Signal;

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
    needs!("openssl");
    let file = certificate();
    let (path, (_server, to, port)) = (file.path(), secure(&["echo"], &file));
    assert_eq!(given(&to, b"a line\n").text(), "a line\n");
    let to = format!("localhost:{port}");
    for version in ["-tls1_2", "-tls1_3"] {
        let args = ["s_client", "-connect", &to, version, "-CAfile", path, "-quiet"];
        let args = [&args[..], &["-verify_return_error", "-no_ign_eof"]].concat();
        let said = peer("openssl", &args, b"");
        assert!(said.is_empty(), "{version}: {said:?}");
    }
}

/// The port that a server with one endpoint prints.
fn announced_port(server: &Server) -> u16 {
    let line = server.line();
    line.trim_end().rsplit(':').find_map(|part| part.parse().ok()).expect("a port")
}

#[test]
fn a_handshake_counts_as_a_forwarded_client() {
    needs!("openssl");
    let file = certificate();
    let upstream = serve_raw(|mut far| {
        let line = far.read_line() + "\n";
        far.send(line.as_bytes());
    });
    let endpoint = format!("tls:127.0.0.1:0:cert={}", file.path());
    let forward = ["forward", &endpoint, &upstream.to_string(), "--max-connections", "1"];
    let server = Server::start_command(couplet(&forward), 0);
    let port = announced_port(&server);
    let connect = || Client::connect(([127, 0, 0, 1], port).into());
    let silent = connect();
    assert_eq!(connect().read_to_end().unwrap_or_default(), b"", "the only place is taken");
    server.wait_told("too many connections; turning some away");
    drop(silent);
    let to = format!("tls:localhost:{port}:ca={}", file.path());
    wait_until("a client in its place", || given(&to, b"a line\n").stdout == b"a line\n");
    server.stop(Signal::TERM);
}

/// Starts this command as a TLS server; returns it with its address for `couplet connect` and its
/// port.
pub(crate) fn secure(args: &[&str], file: &TempFile) -> (Server, String, u16) {
    let path = file.path();
    let endpoint = format!("tls:127.0.0.1:0:cert={path}");
    let server = Server::start_command(couplet(&[args, &["--listen", &endpoint]].concat()), 0);
    let port = announced_port(&server);
    (server, format!("tls:localhost:{port}:ca={path}"), port)
}

/// Runs `couplet connect` with these bytes on stdin.
fn given(to: &str, bytes: &[u8]) -> Ended {
    let mut command = couplet(&["connect", to]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start_with_stdout(&mut command);
    running.stdin().unwrap().write_all(bytes).unwrap();
    running.ended()
}

#[test]
fn a_close_without_the_answer_that_was_awaited_is_a_failure_over_tls() {
    needs!("openssl");
    let file = certificate();
    let listen = format!("tls:127.0.0.1:0:cert={}", file.path());
    let services = format!("[services.critic]\nkind = \"transform\"\nlisten = \"{listen}\"\n");
    let services = TempFile::named("services.toml", services.as_bytes());
    let server = Server::start_command(couplet(&["run", services.path()]), 0);
    let to = format!("tls:localhost:{}:ca={}", announced_port(&server), file.path());
    // Bytes that are not a netstring end the connection.
    let ended = given(&to, b"words");
    assert_eq!(ended.text(), "");
    ended.says(1, "closed the connection without an answer");
}

#[test]
fn a_request_from_a_pipe_is_answered_over_tls() {
    needs!("openssl");
    let file = certificate();
    let site = Site::new(&[("file", b"a file")]);
    let (_server, to, _) = secure(&["serve", site.0.to_str().unwrap()], &file);
    let ended = given(&to, b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n");
    ended.quietly(0);
    assert!(ended.text().ends_with("\r\n\r\na file"), "{}", ended.text());
}

#[test]
fn curl_speaks_http2_by_alpn_without_a_setting() {
    needs!("openssl", "curl");
    let file = certificate();
    let site = Site::new(&[("file", b"a file")]);
    let (_server, _, port) = secure(&["serve", site.0.to_str().unwrap()], &file);
    let url = format!("https://localhost:{port}/file");
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let args = ["--silent", "--noproxy", "*", "--cacert", file.path(), option];
        let said = peer("curl", &[&args[..], &["-w", " %{http_version}", &url]].concat(), b"");
        assert_eq!(String::from_utf8(said).unwrap(), format!("a file {version}"));
    }
}
