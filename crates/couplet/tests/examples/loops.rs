//! Programs that embed Couplet's loop in another one.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Stdio;

use super::{Running, connect, example, read_all};

/// The next line that the peer sends.
fn line(stream: &TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("it sends text");
    line
}

#[test]
fn a_poll_loop_sends_typed_lines_to_every_connection_until_the_end_of_stdin() {
    let mut program = Running::spawn(example("poll_loop").stdin(Stdio::piped()));
    let mut typing = program.child.stdin.take().expect("it is piped");
    let address = program.address();
    let listeners = [1, 2].map(|count| {
        let listener = connect(&address);
        assert_eq!(program.line(), format!("{count} listening"));
        listener
    });
    for typed in ["a line\n", "another\n"] {
        typing.write_all(typed.as_bytes()).expect("it reads");
        for listener in &listeners {
            assert_eq!(line(listener), typed);
        }
    }
    drop(typing);
    for mut listener in listeners {
        assert_eq!(read_all(&mut listener), "");
    }
    assert!(program.child.wait().expect("it ends").success());
}

#[test]
fn a_window_draws_a_visitors_lines_and_greets_from_a_button() {
    let mut program = Running::start("gui_loop", &[]);
    let mut visitor = connect(&program.address());
    assert_eq!(program.line(), "[a visitor]");
    assert_eq!(line(&visitor), "hello\n");
    visitor.write_all(b"good day\n").expect("it reads");
    assert_eq!(program.line(), "[says good day]");
    assert_eq!(read_all(&mut visitor), "");
    assert!(program.child.wait().expect("it ends").success());
}
