//! Unread logs and server lines: the loops keep serving, lost lines are counted, and the program
//! ends.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;

use crate::kit::{Running, couplet, full_pipe, wait_until};
use crate::needed::Folder;
use crate::tls::certificate;

/// The socket of the echo server that has to answer.
const SOCKET: &str = "echo";

/// A client that is served.
fn assert_served(folder: &Folder, what: &str) {
    wait_until(what, || UnixStream::connect(folder.path(SOCKET)).is_ok());
    let mut client = UnixStream::connect(folder.path(SOCKET)).unwrap();
    client.write_all(b"a line").unwrap();
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"a line", "{what}");
}

/// Bad clients of a TLS port, each of which is logged.
fn send_bad_hellos(folder: &Folder, count: usize) {
    for _ in 0..count {
        let mut client = UnixStream::connect(folder.path("tls")).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // Until the server has ended the connection, and logged that.
        let _ = client.read_to_end(&mut Vec::new());
    }
}

/// A configuration of these ports.
fn services(certificate: &str) -> String {
    format!(
        "[services.a]\nkind = \"echo\"\nlisten = [\"unix:echo\", \"tls:unix:tls:cert={certificate}\"]\n\
         [runner]\nlog-repeats = 0\n"
    )
}

fn ends(mut running: Running, what: &str) {
    running.signal(Signal::TERM);
    assert_eq!(running.ended().code, Some(0), "{what}");
}

#[test]
fn c119c_servers_with_an_unread_log_or_output_serve_and_end() {
    needs!("openssl");
    let file = certificate();
    let tls = format!("tls:unix:tls:cert={}", file.path());
    let echo = ["echo", "-l", "unix:echo", "-l", &tls];
    let run = ["run", "a.toml"];
    let services = services(file.path());
    let threads = [&run[..], &["--threads", "2"]].concat();
    let cases: [(&[&str], &[&str], &str); 9] = [
        (&echo, &[], "stderr"),
        (&echo, &["-vv"], "stderr"),
        (&echo, &["--threads", "2"], "stderr"),
        (&echo, &[], "stdout"),
        (&echo, &["--threads", "2"], "stdout"),
        (&echo, &["-vv", "--inspect", "0"], "both"),
        (&run, &[], "stderr"),
        (&run, &["-vv"], "both"),
        (&threads, &["-vv"], "both"),
    ];
    let try_one = |(args, more, stuck): (&[&str], &[&str], &str)| {
        let what = format!("{args:?} {more:?}, {stuck} is stuck");
        let folder = Folder::new();
        folder.write("a.toml", &services);
        let (_unread, full) = full_pipe();
        let stream = |name| match stuck == name || stuck == "both" {
            true => Stdio::from(full.try_clone().unwrap()),
            false => Stdio::null(),
        };
        let mut command = couplet(&[args, more].concat());
        command.current_dir(&*folder).stdin(Stdio::null());
        let running = Running::spawn(command.stdout(stream("stdout")).stderr(stream("stderr")));
        for _ in 0..2 {
            assert_served(&folder, &what);
            send_bad_hellos(&folder, 321);
            assert_served(&folder, &what);
        }
        ends(running, &what);
    };
    std::thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || try_one(case));
        }
    });
}

#[test]
fn c119c_a_reader_that_continues_gets_the_number_of_lost_lines_in_the_form_of_the_log() {
    needs!("openssl");
    let file = certificate();
    for form in ["text", "json"] {
        let folder = Folder::new();
        let more = format!("log-buffer = 3000\nlog-wait = 100\nlog = \"{form}\"\n");
        folder.write("a.toml", services(file.path()) + &more);
        let (mut reader, full) = full_pipe();
        let mut command = couplet(&["run", "a.toml"]);
        command.current_dir(&*folder).stdin(Stdio::null()).stdout(Stdio::null());
        let mut running = Running::spawn(command.stderr(Stdio::from(full)));
        // Drops our copies of the full pipe.
        drop(command);
        assert_served(&folder, form);
        send_bad_hellos(&folder, 100);
        running.signal(Signal::TERM);
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(running.ended().code, Some(0));
        let lines: Vec<&str> = read.lines().collect();
        let logged = lines.iter().filter(|line| line.contains("cannot open a connection")).count();
        let notice = lines.iter().find(|line| line.contains("lost: the log's reader is too slow"));
        let notice = notice.unwrap_or_else(|| panic!("{form}: {read}"));
        let number = notice.split_whitespace().flat_map(|word| word.rsplit('"').next());
        let lost: usize = number.filter_map(|word| word.parse().ok()).next().expect("a number");
        assert_eq!(logged + lost, 100, "{form}: {notice}");
        assert_eq!(notice.starts_with('{') && notice.ends_with('}'), form == "json", "{notice}");
        assert!(notice.contains("WARN"), "{notice}");
    }
}

#[test]
fn a_message_before_the_end_arrives() {
    let output = couplet(&["run", "none.toml"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("couplet: "), "{said}");
    let (_unread, full) = full_pipe();
    let mut command = couplet(&["run", "none.toml"]);
    let running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(full));
    assert_eq!(running.ended().code, Some(2), "it does not wait for a reader for ever");
}
