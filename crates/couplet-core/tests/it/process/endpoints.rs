//! Row 145b: programs and descriptors as client endpoints.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use couplet::endpoints::{EndpointError, ProcessClient, client_from_string};
use couplet::process::{Command, SpawnError};
use couplet::{Failure, Transport};

use super::Nursery;
use crate::needed::inheritable;
use couplet_testkit_loops::doubles::Quiet;
use couplet_testkit_loops::suite::callbacks::Asks;

fn ask(nursery: &mut Nursery, endpoint: &str, says: &'static str) -> Result<Vec<u8>, Failure> {
    let (asks, answer) = Asks::new(says);
    let connecting = nursery.l.reactor().connect_protocol(endpoint, asks);
    nursery.l.run_until(connecting.then(move |_| answer))
}

#[test]
fn c145b_a_program_is_a_peer_with_its_input_and_output() {
    let mut nursery = Nursery::new();
    let cases = [
        ("process:cat", "rose", &b"rose"[..]),
        ("process:tr a-z A-Z", "rose", b"ROSE"),
        (r#"process:/bin/sh -c "read line; echo 'a  '$line""#, "rose\n", b"a  rose\n"),
        (r"process:/bin/sh -c 'A\=1; echo $A\:$1' sh ''", "", b"1:\n"),
        ("process:printf <%s> '' a \"\" b''c ' ' \"\"", "", b"<><a><><bc>< ><>"),
        ("process:pwd:directory=/", "", b"/\n"),
        ("process:/bin/sh -c 'echo a; echo b >&2':stderr=stdout", "", b"a\nb\n"),
        ("process:/bin/sh -c 'echo a; echo b >&2':stderr=null", "", b"a\n"),
        ("process:/bin/sh -c 'echo a >&2':stderr=inherit", "", b""),
        ("log:throttle:process:cat:read=1M", "rose", b"rose"),
    ];
    for (endpoint, says, answer) in cases {
        assert_eq!(ask(&mut nursery, endpoint, says).expect("it runs"), answer, "{endpoint}");
        let printed = client_from_string(endpoint).expect("it reads").to_string();
        assert_eq!(ask(&mut nursery, &printed, says).expect("it runs"), answer, "{printed}");
    }
    let failure = ask(&mut nursery, "process:/nonexistent", "").expect_err("there is none");
    assert!(failure.downcast_ref::<SpawnError>().is_some(), "{failure}");
}

#[test]
fn c145b_a_program_may_have_a_terminal() {
    let mut nursery = Nursery::new();
    let answer = ask(&mut nursery, "process:tty:pty=yes", "").expect("it runs");
    assert!(answer.starts_with(b"/dev/"), "{:?}", String::from_utf8_lossy(&answer));
}

#[test]
fn c145b_mistakes_in_a_command_are_shown() {
    for (text, at, problem) in [
        ("process:", 8, "expected a program"),
        ("process", 7, "missing command"),
        ("process:cat 'x", 8, "unclosed quote"),
        ("process:cat 'x\0'", 8, "a command must not contain a NUL"),
        ("process:cat:uid=x", 16, "expected a number"),
        ("process:cat:gid=x", 16, "expected a number"),
        ("process:cat:uid=4294967295", 16, "expected a number from 0 to 4294967294"),
        ("process:cat:kill=0", 17, "expected a number of seconds"),
        ("process:cat:keep=x", 17, "expected yes or no"),
        ("process:cat:kill=1:keep=yes", 17, "the program is not killed"),
        ("process:cat:usr=1", 12, "unknown keyword"),
        ("process:cat:stderr=stdin", 19, "expected inherit, stdout or null"),
        ("process:cat:stderr=null:pty=yes", 19, "the standard error is the terminal"),
        ("stdio:x", 6, "expected nothing"),
        ("fd:x", 3, "expected the number of a descriptor"),
    ] {
        let error = client_from_string(text).expect_err(text);
        assert!(error.at() == at && error.problem().contains(problem), "{text}: {error}");
    }
}

#[test]
fn a_descriptor_or_a_line_that_cannot_be_used_is_an_error_with_its_place() {
    let mut nursery = Nursery::new();
    for (text, at, problem) in [
        ("fd:2147483646", 3, "cannot use descriptor 2147483646: "),
        ("log:fd:2147483646", 7, "cannot use descriptor 2147483646: "),
        ("serial:/nonexistent", 7, "cannot use /nonexistent as a serial line: "),
        ("log:serial:/dev/null", 11, "cannot use /dev/null as a serial line: "),
    ] {
        let failure = ask(&mut nursery, text, "").expect_err(text);
        let error = failure.downcast_ref::<EndpointError>().expect("an error with a place");
        assert!(error.at() == at && error.problem().starts_with(problem), "{text}: {error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_program_prints_with_its_options() {
    for text in [
        r"process:cat a\:b:directory=/a\=b:uid=0:gid=7:stderr=stdout:kill=0.5",
        "process:cat:stderr=null:keep=yes",
        "process:cat:gid=4294967294:pty=yes",
    ] {
        assert_eq!(client_from_string(text).expect(text).to_string(), text);
    }
    for usual in ["stderr=inherit", "pty=no", "keep=no", "kill=5", "keep=no:kill=5"] {
        let endpoint = client_from_string(&format!("process:cat:{usual}")).expect(usual);
        assert_eq!(endpoint.to_string(), "process:cat", "{usual}");
    }
}

#[test]
fn c145b_a_connection_that_is_lost_leaves_no_zombie() {
    let mut nursery = Nursery::new();
    let lost: Rc<RefCell<Option<Transport>>> = Rc::default();
    let kept = lost.clone();
    let connecting = nursery.l.reactor().connect(ProcessClient::new(Command::new("cat")), || Quiet);
    connecting.map(move |connection| *kept.borrow_mut() = Some(connection.transport())).detach();
    nursery.until("connection_made", || lost.borrow().is_some());
    nursery.turn();
    assert_eq!(nursery.l.snapshot().watches, 1);
    lost.borrow().as_ref().expect("made").abort_connection();
    nursery.until_loop("the end of its watch", |l| l.snapshot().watches == 0);
}

#[test]
fn c145b_an_inherited_descriptor_is_a_socket_or_a_pipe() {
    let mut nursery = Nursery::new();
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(b"red").expect("room");
    theirs.shutdown(std::net::Shutdown::Write).expect("it is connected");
    let endpoint = format!("fd:{}", ours.as_raw_fd());
    let failure = ask(&mut nursery, &endpoint, "").expect_err("the test opened it");
    assert!(failure.to_string().contains("it was not inherited"), "{failure}");
    inheritable(&ours);
    assert_eq!(ask(&mut nursery, &endpoint, "rose").expect("a socket"), b"red");
    drop(ours);
    let mut said = String::new();
    theirs.read_to_string(&mut said).expect("its end");
    assert_eq!(said, "rose");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(b"red").expect("room");
    drop(writer);
    let endpoint = format!("fd:{}", inheritable(&reader));
    assert_eq!(ask(&mut nursery, &endpoint, "").expect("a pipe"), b"red");
    let failure = ask(&mut nursery, "fd:1000000", "").expect_err("it is not open");
    assert!(failure.to_string().contains("cannot use descriptor 1000000"), "{failure}");
}
