//! nghttp2's programs as clients: h2load for many requests, nghttp for single features.

use std::process::{Command, Stdio};

use crate::asked::{CLEAR, over_sockets};
use crate::needed::{Folder, SelfSigned};

/// Runs a program with the server's port in place of `PORT`, and returns its stdout and stderr.
fn said(endpoint: &str, program: &str, words: &[&str]) -> String {
    let mut command = Command::new(program);
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    over_sockets(endpoint, move |port| {
        command.args(words.iter().map(|word| word.replace("PORT", &port.to_string())));
        let ended = command.stdin(Stdio::null()).output()?;
        let all = [ended.stdout, ended.stderr].concat();
        Ok(String::from_utf8_lossy(&all).into_owned())
    })
}

/// Sends requests by h2load, checks that all succeed, and returns the report.
fn load(endpoint: &str, url: &str, words: &[&str], count: usize) -> String {
    let number = count.to_string();
    let words = [&["-n", &number, "-N", "20"], words, &[url]].concat();
    let report = said(endpoint, "h2load", &words);
    let all = format!(
        "requests: {count} total, {count} started, {count} done, {count} succeeded, 0 failed, \
         0 errored, 0 timeout"
    );
    let right = format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx");
    assert!(report.contains(&all) && report.contains(&right), "{words:?}: {report}");
    report
}

#[test]
fn h2load_succeeds_in_the_clear() {
    needs!("h2load");
    let folder = Folder::new();
    let body = folder.write("body", vec![b'x'; 100_000]);
    let (small, large) = ("http://127.0.0.1:PORT/a", "http://127.0.0.1:PORT/large/100000");
    let post = ["-c", "4", "-m", "8", "-d", &body];
    for (url, words, count) in [
        (small, &["-c", "1", "-m", "1"][..], 100),
        (small, &["-c", "16", "-m", "100"], 10_000),
        // More than the server allows at a time.
        (small, &["-c", "1", "-m", "1000"], 3_000),
        (large, &["-c", "4", "-m", "16"], 400),
        (large, &["-c", "2", "-m", "16", "-w", "14", "-W", "15"], 100),
        (large, &["-c", "2", "-m", "16", "-f", "1M"], 100),
        (small, &post, 100),
    ] {
        let report = load(CLEAR, url, words, count);
        assert!(report.contains("Application protocol: h2c"), "{words:?}: {report}");
    }
    for (url, words, count) in [
        (small, &["--h1", "-c", "16"][..], 2_000),
        (small, &["--h1", "-c", "4", "-m", "10"], 1_000),
        (large, &["--h1", "-c", "4"], 100),
        (small, &["--h1", "-c", "4", "-d", &body], 100),
    ] {
        let report = load(CLEAR, url, words, count);
        assert!(report.contains("Application protocol: http/1.1"), "{words:?}: {report}");
    }
}

#[test]
fn h2load_succeeds_over_tls_by_alpn() {
    needs!("h2load");
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    let secret = format!("tls:0:interface=127.0.0.1:cert={file}:alpn=h2,http/1.1");
    let url = "https://localhost:PORT/a";
    for (words, count, protocol) in [
        (&["-c", "8", "-m", "50"][..], 2_000, "h2"),
        (&["--h1", "-c", "8"], 500, "http/1.1"),
        (&["--npn-list=http/1.1,h2", "-c", "2"], 50, "h2"),
    ] {
        let report = load(&secret, url, words, count);
        assert!(report.contains(&format!("Application protocol: {protocol}\n")), "{report}");
    }
}

fn nghttp(words: &[&str]) -> String {
    said(CLEAR, "nghttp", &[&["--timeout=20"], words].concat())
}

#[test]
fn nghttp_gets_and_posts() {
    needs!("nghttp");
    let url = "http://127.0.0.1:PORT/a";
    let report = nghttp(&["-v", url]);
    let frames = ["recv SETTINGS", "recv (stream_id=13) :status: 200", "recv DATA", "GET /a 0"];
    assert!(frames.iter().all(|frame| report.contains(frame)), "{report}");
    assert!(!report.contains("RST_STREAM") && !report.contains("recv GOAWAY"), "{report}");

    let folder = Folder::new();
    let post = format!("--data={}", folder.write("body", vec![b'y'; 3_000_000]));
    for (words, wanted) in [
        (&[][..], "GET /a 0"),
        (&["--no-dep"], "GET /a 0"),
        (&["--continuation"], "GET /a 0"),
        (&["--padding=255"], "GET /a 0"),
        (&["-H:method: PUT"], "PUT /a 0"),
        (&["--header-table-size=0"], "GET /a 0"),
        (&["--encoder-header-table-size=0"], "GET /a 0"),
        (&["--no-rfc7540-pri"], "GET /a 0"),
        (&[&post], "POST /a 3000000"),
        (&[&post, "--padding=100"], "POST /a 3000000"),
        (&[&post, "--no-content-length"], "POST /a 3000000"),
        (&[&post, "--expect-continue"], "POST /a 3000000"),
        (&[&post, "--trailer=a: b"], "POST /a 3000000 a=b"),
        (&[&post, "--trailer=a: b", "--no-content-length"], "POST /a 3000000 a=b"),
    ] {
        assert_eq!(nghttp(&[words, &[url]].concat()), wanted, "{words:?}");
    }
}

#[test]
fn nghttp_gets_large_bodies_in_windows_of_each_size() {
    needs!("nghttp");
    let url = "http://127.0.0.1:PORT/large/1000000";
    for words in [&[][..], &["-w10"], &["-W16"], &["-w1"], &["-w30", "-W30"], &["-m5"]] {
        // A window of one byte costs a frame for each byte, so that answer is small.
        let (url, size) = if words == ["-w1"] {
            ("http://127.0.0.1:PORT/large/1000", 1_000)
        } else {
            (url, 1_000_000)
        };
        let times = if words == ["-m5"] { 5 } else { 1 };
        let said = nghttp(&[words, &[url]].concat());
        assert!(
            said.len() == size * times && said.bytes().all(|byte| byte == b'x'),
            "{words:?}: {}",
            said.len()
        );
    }
}

/// RFC 9113, 3.1: a server ignores `Upgrade: h2c`, and answers in HTTP/1.1.
#[test]
fn an_upgrade_to_http2_is_not_taken() {
    needs!("nghttp");
    let report = nghttp(&["-v", "--upgrade", "http://127.0.0.1:PORT/a"]);
    assert!(report.contains("HTTP/1.1 200 OK"), "{report}");
    assert!(report.contains("HTTP Upgrade failed"), "{report}");
}
