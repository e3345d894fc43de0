//! HTTP/2 against the Python packages h2, hyperframe and hpack, over sockets: every rule of RFC 9113
//! for a client's frames (`cases.py`), and h2 as a client (`client.py`), also with 10,000 streams.
//!
//! The tests need a Python that `venv.sh` of the test kit sets up in the target folder. Without one,
//! they print that they are skipped; in CI they fail.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::asked::{CLEAR, over_sockets};
use crate::counting::{live, peak, reset_peak};
use crate::needed::{Venv, missing};

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/h2_frames");

const VENV: Venv = Venv {
    name: "h2",
    modules: "h2.connection, hpack, hyperframe.frame",
    packages: &["h2==4.3.0", "hpack==4.1.0", "hyperframe==6.1.0"],
};

fn python() -> Option<&'static PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let made = || VENV.python().inspect_err(|why| missing(format_args!("h2 ({why})"))).ok();
    PYTHON.get_or_init(made).as_ref()
}

/// Serves while a Python program runs, and returns its output.
fn beside(program: &str, words: &[&str]) -> Option<String> {
    let python = python()?;
    let mut command = Command::new(python);
    command.arg("-B").arg(format!("{HERE}/{program}.py"));
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    Some(over_sockets(CLEAR, move |port| {
        let said = command.arg(port.to_string()).args(words).stdin(Stdio::null()).output()?;
        let errors = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{errors}");
        Ok(String::from_utf8(said.stdout)?)
    }))
}

/// Instead of a stream error, the server may report a connection error (RFC 9113, 5.4.1), and
/// answer a malformed request with status 400 (8.1.1).
fn is_as_wanted(wanted: &str, seen: &str) -> bool {
    let of_stream = wanted.strip_prefix("stream ").and_then(|rest| rest.split_once(' '));
    let is_permitted = |(_, code): (&str, &str)| {
        seen == format!("connection {code}") || (code == "PROTOCOL_ERROR" && seen == "400")
    };
    seen == wanted || of_stream.is_some_and(is_permitted)
}

#[test]
fn each_rule_of_rfc_9113_holds() {
    let Some(said) = beside("cases", &[]) else { return };
    let mut wrong = Vec::new();
    for line in said.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let (section, name, wanted, seen) = (words[0], words[1], words[2], words[3]);
        let is_right = match words.get(4) {
            Some(instead) => seen == *instead && !is_as_wanted(wanted, seen),
            None => is_as_wanted(wanted, seen),
        };
        if !is_right {
            wrong.push(format!("{section}, {name}: {wanted:?} is wanted, {seen:?} was seen"));
        }
    }
    assert_eq!(wrong, [""; 0], "\n{}", wrong.join("\n"));
    let count = said.lines().count();
    assert!(count >= 250, "{count} cases were run");
}

#[test]
fn h2_as_a_client_is_answered() {
    let Some(said) = beside("client", &["requests"]) else { return };
    let said: Vec<&str> = said.trim().split('|').collect();
    let wanted = [
        "200 GET /a 0",
        "200 POST /a 5",
        "200 PUT /a 0",
        "200 POST /a 5 a=b",
        "200 0 of 9",
        "200 hello {'a': 'b'}",
        "204",
        "closed True",
    ];
    assert_eq!(said, wanted);
}

#[test]
fn large_bodies_come_and_go_as_windows_allow() {
    let Some(said) = beside("client", &["bodies", "5000000"]) else { return };
    assert_eq!(said.trim(), "200 POST /a 5000000|5000000|True");
}

#[test]
fn a_hundred_streams_share_a_connection() {
    let Some(said) = beside("client", &["parallel", "100"]) else { return };
    assert_eq!(said.trim(), "100 100");
}

#[test]
fn ten_thousand_requests_on_one_connection() {
    let Some((said, most)) = most_memory("many", "10000") else { return };
    assert_eq!(said, "128 128 {'200 GET /many 0': 10000}");
    assert!(most < 2_000_000, "{most} bytes");
}

/// Runs a task of the client, and returns its output and the server thread's peak of allocated
/// bytes.
fn most_memory(task: &str, count: &str) -> Option<(String, isize)> {
    python()?;
    let before = live();
    reset_peak();
    let said = beside("client", &[task, count])?;
    Some((said.trim().to_owned(), peak() - before))
}

#[test]
fn streams_beyond_the_limit_are_refused_and_harm_no_other() {
    let Some((said, most)) = most_memory("beyond", "1000") else { return };
    let wanted = "answered 128 refused 1000 other 0 200 GET /release 0 alive True";
    assert_eq!(said, wanted);
    assert!(most < 2_000_000, "{most} bytes");
}

#[test]
fn ten_thousand_streams_beyond_the_limit_end_only_their_connection() {
    let Some((said, most)) = most_memory("far-beyond", "10000") else { return };
    // After 1,024 refusals, the server closes the connection.
    let wanted = "connection ENHANCE_YOUR_CALM answered 0 refused 1024 other 0 \
                  200 GET /release 0 client 200 GET /a 0";
    assert_eq!(said, wanted);
    assert!(most < 2_000_000, "{most} bytes");
}
