//! Other implementations: nghttp2's programs, and the Python packages h2 and hpack, as clients with
//! the cases of `couplet-http/tests/http/h2_frames`. A missing one is a visible skip, and a failure
//! in CI.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, BufRead, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use couplet_http2::{Event, Options, RequestLine};
use couplet_testkit::needed::{Venv, missing};
use couplet_testkit::processes::Killed;

use crate::kit::Connection;
use crate::service::serve;

const FRAMES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../couplet-http/tests/http/h2_frames");

/// Writes a file of this many bytes, and returns its path.
fn file(length: usize) -> String {
    let path = format!("{}/body-{length}", env!("CARGO_TARGET_TMPDIR"));
    // Renamed into place, since another test or run may be reading it.
    let fresh = format!("{path}-{}", std::process::id());
    fs::write(&fresh, vec![b'x'; length]).expect("a folder of ours");
    fs::rename(fresh, &path).expect("the same folder");
    path
}

/// The interpreter of an environment with h2.
fn interpreter() -> Option<&'static str> {
    const H2: Venv = Venv {
        name: "h2",
        modules: "h2.connection, hpack, hyperframe.frame",
        packages: &["h2==4.3.0", "hpack==4.1.0", "hyperframe==6.1.0"],
    };
    static PYTHON: OnceLock<Option<String>> = OnceLock::new();
    let python = PYTHON.get_or_init(|| Some(H2.python().ok()?.to_str()?.to_owned())).as_deref();
    if python.is_none() {
        missing("Python package h2");
    }
    python
}

/// Runs a program with the server's port in place of `PORT`, and returns its output.
fn said(program: &str, words: &[&str]) -> String {
    let port = serve().to_string();
    let words = words.iter().map(|word| word.replace("PORT", &port));
    let ended = Command::new(program).args(words).stdin(Stdio::null()).output();
    let ended = ended.expect("it is installed");
    String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned()
}

fn python(program: &str, words: &[&str]) -> Option<String> {
    let program = format!("{FRAMES}/{program}.py");
    Some(said(interpreter()?, &[&["-B", &program, "PORT"], words].concat()))
}

#[test]
fn h2load_succeeds() {
    needs!("h2load");
    let body = file(100_000);
    let (small, large) = ("http://127.0.0.1:PORT/a", "http://127.0.0.1:PORT/large/100000");
    for (url, words, count) in [
        (small, &["-c", "1", "-m", "1"][..], "100"),
        (small, &["-c", "16", "-m", "100"], "10000"),
        (small, &["-c", "1", "-m", "1000"], "3000"),
        (large, &["-c", "4", "-m", "16"], "400"),
        (large, &["-c", "2", "-m", "16", "-w", "14", "-W", "15"], "100"),
        (large, &["-c", "2", "-m", "16", "-f", "1M"], "100"),
        (small, &["-c", "4", "-m", "8", "-d", &body], "100"),
    ] {
        let report = said("h2load", &[&["-n", count, "-N", "20"], words, &[url]].concat());
        let all = format!("{count} done, {count} succeeded, 0 failed, 0 errored, 0 timeout");
        let right = format!("status codes: {count} 2xx, 0 3xx, 0 4xx, 0 5xx");
        assert!(report.contains(&all) && report.contains(&right), "{words:?}: {report}");
    }
}

#[test]
fn nghttp_gets_and_posts() {
    needs!("nghttp");
    let post = format!("--data={}", file(3_000_000));
    let url = "http://127.0.0.1:PORT/a";
    for (words, wanted) in [
        (&[][..], "GET /a 0"),
        (&["--continuation"], "GET /a 0"),
        (&["--padding=255"], "GET /a 0"),
        (&["-H:method: PUT"], "PUT /a 0"),
        (&["--header-table-size=0"], "GET /a 0"),
        (&["--encoder-header-table-size=0"], "GET /a 0"),
        (&[&post], "POST /a 3000000"),
        (&[&post, "--padding=100"], "POST /a 3000000"),
        (&[&post, "--no-content-length"], "POST /a 3000000"),
        (&[&post, "--expect-continue"], "POST /a 3000000"),
        (&[&post, "--trailer=a: b"], "POST /a 3000000 a=b"),
    ] {
        let words = [&["--timeout=20"], words, &[url]].concat();
        assert_eq!(said("nghttp", &words), wanted, "{words:?}");
    }
}

#[test]
fn nghttp_gets_large_bodies_in_windows_of_each_size() {
    needs!("nghttp");
    for (words, size) in [
        (&["-w10"][..], 1_000_000),
        (&["-W16"], 1_000_000),
        (&["-w1"], 1_000),
        (&["-w30", "-W30"], 1_000_000),
    ] {
        let url = format!("http://127.0.0.1:PORT/large/{size}");
        let body = said("nghttp", &[&["--timeout=20"], words, &[&url]].concat());
        assert!(body.len() == size && body.bytes().all(|byte| byte == b'x'), "{words:?}");
    }
}

#[test]
fn h2_of_python_is_answered() {
    for (words, wanted) in [
        (
            &["requests"][..],
            "200 GET /a 0|200 POST /a 5|200 PUT /a 0|200 POST /a 5 a=b|200 0 of 9|\
             200 hello {'a': 'b'}|204|closed True",
        ),
        (&["bodies", "5000000"], "200 POST /a 5000000|5000000|True"),
        (&["parallel", "100"], "100 100"),
    ] {
        let Some(said) = python("client", words) else { return };
        assert_eq!(said.trim(), wanted, "{words:?}");
    }
}

/// Cases that RFC 9113 leaves open, and a part of their outcome here.
const DIFFERENT: [(&str, &str); 7] = [
    ("a preface that goes wrong at its end", "no preface of HTTP/2"),
    // The encoder has a table, so that it changes its size only when it must.
    ("a table without room, then one with, in two frames of settings", "0x88, then 0x20"),
    ("a table without room, then one with, in one frame of settings", "0x88, then 0x20"),
    // RFC 9113, 5.1, rather than 5.1.1.
    ("headers after a reset", "connection STREAM_CLOSED"),
    ("headers on a closed stream", "connection STREAM_CLOSED"),
    ("a stream used again", "connection STREAM_CLOSED"),
    ("cookies in several fields", "cookie=a=b cookie=c=d"),
];

#[test]
fn each_rule_of_rfc_9113_holds_over_a_socket() {
    let Some(said) = python("cases", &[]) else { return };
    let mut wrong = Vec::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let [section, name, wanted, seen, ..] = words[..] else { panic!("{said}") };
        // A stream error may be one of the connection: RFC 9113, 5.4.1.
        let of_stream = wanted.strip_prefix("stream ").and_then(|rest| rest.split_once(' '));
        let is_right = seen == wanted
            || of_stream.is_some_and(|(_, code)| seen == format!("connection {code}"))
            || DIFFERENT.iter().any(|(known, part)| *known == name && seen.contains(part));
        if !is_right {
            wrong.push(format!("{section}, {name}: {wanted:?} is wanted, {seen:?} was seen"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    let count = said.lines().count();
    assert!(count >= 250, "{count} cases were run");
}

/// Sends requests all at once, given their paths and the lengths of their bodies. Returns the
/// status and the length of the body of each answer.
fn asked(port: u16, requests: &[(String, usize)]) -> io::Result<Vec<(u16, usize)>> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    let mut connection = Connection::client(Options::default());
    let mut waiting: VecDeque<_> = requests.iter().enumerate().collect();
    let mut answers = vec![(0, 0); requests.len()];
    let (mut numbers, mut ended) = (BTreeMap::new(), 0);
    let mut buffer = vec![0; 64 * 1024];
    while ended < requests.len() {
        while let Some((at, (path, length))) = waiting.front() {
            let method: &[u8] = if *length == 0 { b"GET" } else { b"POST" };
            let line = RequestLine { method, ..RequestLine::get("127.0.0.1", path) };
            let Ok(stream) = connection.request(&line, [("a", "b")], *length == 0) else { break };
            if *length > 0 {
                connection.send(stream, vec![b'x'; *length], true).expect("it is open");
            }
            numbers.insert(stream, *at);
            waiting.pop_front();
        }
        loop {
            let output = connection.take_output();
            if output.is_empty() {
                break;
            }
            socket.write_all(&output)?;
        }
        let count = socket.read(&mut buffer)?;
        assert!(count > 0, "the server has left: {answers:?}");
        connection.receive(&buffer[..count]).expect("the server is right");
        while let Some(event) = connection.next_event() {
            match event {
                Event::Response { stream, status, ends, .. } => {
                    answers[numbers[&stream]].0 = status;
                    ended += usize::from(ends);
                }
                Event::Data { stream, bytes } => {
                    answers[numbers[&stream]].1 += bytes.len();
                    connection.release(stream, bytes.len());
                }
                Event::End { .. } => ended += 1,
                Event::Reset { .. } | Event::GoneAway { .. } => panic!("{event:?}"),
                _ => {}
            }
        }
    }
    Ok(answers)
}

#[test]
fn our_client_asks_nghttpd() {
    needs!("nghttpd");
    let large = file(1_000_000);
    let (folder, name) = large.rsplit_once('/').expect("a path");
    let requests: Vec<_> = (0..30)
        .flat_map(|_| [(format!("/{name}"), 0), ("/none".into(), 0), (format!("/{name}"), 70_000)])
        .collect();
    for words in [
        &[][..],
        &["--max-concurrent-streams=3"],
        &["--window-bits=10"],
        &["--padding=200"],
        &["--header-table-size=0"],
        &["--trailer=a: b"],
    ] {
        // A free port, which another program could take first.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let mut command = Command::new("nghttpd");
        command.args(["--no-tls", "--address=127.0.0.1", "--htdocs", folder]).args(words);
        command.arg(port.to_string()).stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Killed::start(&mut command);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(server.0.try_wait().expect("a child"), None, "nghttpd has ended");
            std::thread::yield_now();
        }
        let answers = asked(port, &requests).expect("it answers");
        for (answer, (path, _)) in answers.iter().zip(&requests) {
            match &path[..] {
                "/none" => assert_eq!(answer.0, 404, "{words:?}"),
                _ => assert_eq!(*answer, (200, 1_000_000), "{words:?}"),
            }
        }
    }
}

#[test]
fn our_client_asks_h2_of_python() {
    let Some(python) = interpreter() else { return };
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http2/server.py");
    let mut command = Command::new(python);
    command.args(["-B", program]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut server = Killed::start(&mut command);
    let mut said = String::new();
    let output = server.0.stdout.take().expect("a pipe");
    io::BufReader::new(output).read_line(&mut said).expect("it prints its port");
    let requests: Vec<_> =
        (0..100).map(|n| (format!("/get/{}", n * 1000), 3000 * (n % 3))).collect();
    let port = said.trim().parse().expect("a port");
    let answers = asked(port, &requests).expect("it answers");
    let expected: Vec<_> = (0..100).map(|n| (200, n * 1000)).collect();
    assert_eq!(answers, expected);
}
