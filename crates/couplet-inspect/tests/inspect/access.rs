//! Who gets in, and what strangers get.

use std::io::{Read, Write};

use couplet::inspect::{Inspect, Inspector};
use couplet::{Loop, LoopOptions};

use crate::kit::{Program, connect, get};

#[test]
fn c181_nothing_but_the_style_and_the_script_is_shown_without_the_token() {
    let (program, ()) = Program::start(|_| ());
    let url = program.url();
    let (base, query) = url.split_once('?').expect("a token");
    assert_eq!(query.len(), "token=".len() + 32);
    for path in ["/", "/state.json", "/connections.json", "/live", "/unknown"] {
        for wrong in ["", "?token=", "?token=00000000000000000000000000000000", "?x=1"] {
            let answer = get(&format!("{base}{wrong}"), path, "");
            assert!(answer.starts_with("HTTP/1.1 403 "), "{path}{wrong}: {answer}");
            assert!(answer.contains("the token is missing or wrong"), "{answer}");
        }
    }
    for path in ["/page.css", "/page.js"] {
        assert!(get(base, path, "").starts_with("HTTP/1.1 200 "), "{path}");
    }
    assert!(get(&url, "/", "").contains("<html"));
}

#[test]
fn a_view_is_json_by_its_name_or_the_accept_field() {
    let (program, ()) = Program::start(|_| ());
    let url = program.url();
    for path in ["/state.json", "/state", "/loops.json", "/time", "/connections", "/calls.json"] {
        let answer = get(&url, path, "");
        assert!(answer.contains("content-type: application/json\r\n"), "{path}: {answer}");
    }
    let accepted = get(&url, "/", "accept: application/json\r\n");
    assert!(accepted.contains("\"program\":{\"name\":\"couplet\""), "{accepted}");
    let unknown = get(&url, "/unknown.json", "");
    assert!(unknown.starts_with("HTTP/1.1 404 "), "{unknown}");
    assert!(unknown.contains("/unknown.json is no view; see /state.json"), "{unknown}");
}

#[test]
fn pages_of_other_sites_and_caches_keep_nothing() {
    let (program, ()) = Program::start(|_| ());
    let answer = get(&program.url(), "/", "");
    for field in [
        "cache-control: no-store",
        "referrer-policy: no-referrer",
        "x-content-type-options: nosniff",
        "content-security-policy: default-src 'none'; script-src 'self'",
    ] {
        assert!(answer.contains(field), "{field}: {answer}");
    }
}

#[test]
fn other_methods_are_refused() {
    let (program, ()) = Program::start(|_| ());
    let mut stream = connect(&program.url());
    let request =
        "PUT /state.json HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[test]
fn c181_an_endpoint_for_other_machines_is_an_error_unless_it_is_allowed() {
    let inspected = |inspector: &Inspector| {
        Loop::with_options(LoopOptions::default().inspect(inspector)).map(drop)
    };
    let error = inspected(&Inspector::at("tcp:0")).expect_err("all interfaces").to_string();
    let wanted = "cannot open the inspector: tcp:0 accepts connections from other machines, \
                  unencrypted: add interface=127.0.0.1, or use a UNIX socket (unix:PATH)";
    assert_eq!(error, wanted);
    inspected(&Inspector::at("tcp:0").public(true)).expect("it is allowed");
    let error = inspected(&Inspector::at("tpc:0")).expect_err("no endpoint").to_string();
    assert!(error.starts_with("cannot open the inspector: "), "{error}");
}

#[test]
fn a_program_may_choose_the_token_or_have_none() {
    let (program, ()) =
        Program::start_with(Inspector::at("0").token("known"), LoopOptions::default(), |_| ());
    assert!(program.url().ends_with("/?token=known"));
    program.get("/state.json");
    drop(program);
    let (program, ()) =
        Program::start_with(Inspector::at("0").token(""), LoopOptions::default(), |_| ());
    assert!(program.url().ends_with('/'));
    program.get("/state.json");
}

#[test]
#[cfg(unix)]
fn c181_a_unix_socket_is_only_for_the_user_of_the_process() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    let folder = couplet_testkit::needed::Folder::new();
    let path = folder.path("socket");
    let endpoint = format!("unix:{path}");
    let (program, ()) =
        Program::start_with(Inspector::at(&*endpoint), LoopOptions::default(), |_| ());
    let mode = std::fs::metadata(&path).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&path).expect("it listens");
    let request = "GET /loops.json HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(program);
    assert_eq!(folder.names(), [""; 0], "the socket is gone with its loop");
}
