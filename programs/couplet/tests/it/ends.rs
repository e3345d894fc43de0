//! How connections end: the exit codes of `couplet connect` for each end of a server, in clear and
//! over TLS; and a server that was stopped longer than its idle timeout.

use std::io::Write;
use std::ops::ControlFlow::Continue;
use std::process::{ChildStdin, Stdio};
use std::rc::Rc;
use std::time::Duration;

use couplet::layers::tls::{Identity, ServerTls, ServerTlsOptions};
use couplet::layers::{Layers, Outbox, Up};
use rustix::process::Signal;

use crate::kit::{Client, Running, Server, couplet, now, serve_raw, wait_until};
use crate::tls::certificate;

/// How the server ends after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// And keeps TCP open.
    CloseNotify,
    /// Over TLS, a truncated answer.
    Fin,
    /// In order: over TLS a close_notify, then the FIN.
    Both,
    Reset,
}

/// TLS on the server's end of a connection, driven by hand.
struct Sealed {
    layers: Layers,
    far: Client,
}

impl Sealed {
    fn new(tls: &ServerTls, far: Client) -> Sealed {
        Sealed { layers: Layers::new(tls.layer(now()), &Rc::default()), far }
    }

    /// Receives a line.
    fn read_line(&mut self) {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let bytes = self.far.read().unwrap();
            assert!(!bytes.is_empty(), "an end before the line");
            let _ = self.layers.feed(&bytes, now(), |up| {
                if let Up::Data(data) | Up::Last(data) = up {
                    line.extend_from_slice(data);
                }
                Continue(())
            });
            self.layers.down(&mut Outbox::new(Rc::default()), now());
            self.flush();
        }
    }

    fn send(&mut self, answer: &[u8]) {
        let mut above = Outbox::new(Rc::default());
        above.extend(answer);
        self.layers.down(&mut above, now());
        self.flush();
    }

    fn say_goodbye(&mut self) {
        self.layers.close(&mut Outbox::new(Rc::default()), now());
        self.flush();
    }

    fn flush(&mut self) {
        let bottom = self.layers.bottom();
        while !bottom.is_empty() {
            self.far.send(bottom.first());
            bottom.advance(bottom.first().len());
        }
    }
}

/// Ends the server's stream, and keeps the socket until the client closes.
fn end(mut far: Client, way: Way) {
    match way {
        Way::CloseNotify => {}
        Way::Fin | Way::Both => far.finish(),
        Way::Reset => return far.reset(),
    }
    let _ = far.read_to_end();
}

/// Runs `couplet connect` with a line on stdin; the second value keeps stdin open.
fn connect(to: &str) -> (Running, ChildStdin) {
    let mut command = couplet(&["connect", to]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::spawn(&mut command);
    let mut stdin = running.stdin().unwrap();
    stdin.write_all(b"a question\n").unwrap();
    (running, stdin)
}

/// The server's end, its answer, and the exit codes in clear and over TLS.
type Row = (Way, &'static str, Option<i32>, i32);

const TABLE: &[Row] = &[
    (Way::CloseNotify, "an answer", None, 0),
    (Way::CloseNotify, "", None, 1),
    (Way::Both, "an answer", Some(0), 0),
    (Way::Both, "", Some(1), 1),
    (Way::Fin, "an answer", Some(0), 1),
    (Way::Fin, "", Some(1), 1),
    (Way::Reset, "an answer", Some(1), 1),
    (Way::Reset, "", Some(1), 1),
];

/// Before the end of stdin, and after it.
const STAYS_OPEN: [bool; 2] = [true, false];

#[test]
fn connect_ends_with_the_server_and_reports_how() {
    needs!("openssl");
    let file = certificate();
    let try_row = |(way, answer, in_clear, over_tls): Row| {
        let clear = serve_raw(move |mut far| {
            far.read_line();
            far.send(answer.as_bytes());
            end(far, way);
        });
        let path = file.path().to_owned();
        let sealed = serve_raw(move |far| {
            let identity = Identity::from_pem_files(&path, &path).unwrap();
            let tls = ServerTls::new(&ServerTlsOptions::new(identity)).unwrap();
            let mut sealed = Sealed::new(&tls, far);
            sealed.read_line();
            sealed.send(answer.as_bytes());
            if matches!(way, Way::CloseNotify | Way::Both) {
                sealed.say_goodbye();
            }
            end(sealed.far, way);
        });
        let sealed = format!("tls:localhost:{}:ca={}", sealed.port(), file.path());
        for (to, code) in [(clear.to_string(), in_clear), (sealed, Some(over_tls))] {
            let Some(code) = code else { continue };
            for stays_open in STAYS_OPEN {
                let (running, stdin) = connect(&to);
                let kept = stays_open.then_some(stdin);
                let ended = running.ended();
                drop(kept);
                let case = format!("{to}: {way:?}, {answer:?}, stdin stays open: {stays_open}");
                assert_eq!(ended.code, Some(code), "{case}: {}", ended.stderr);
                if way != Way::Reset {
                    assert_eq!(ended.text(), answer, "{case}: {}", ended.stderr);
                }
            }
        }
    };
    // Each waits for a second or more.
    std::thread::scope(|scope| {
        for &row in TABLE {
            let try_row = &try_row;
            scope.spawn(move || try_row(row));
        }
    });
}

/// The bytes arrive while the server is stopped, before its idle timeout; the server continues
/// after the timeout.
#[test]
fn c15c_a_continued_server_reads_arrived_bytes_before_it_runs_timers() {
    const IDLE: Duration = Duration::from_secs(4);
    let timeout = IDLE.as_secs().to_string();
    let serve = |driver: &str| {
        let arguments = ["echo", "--idle-timeout", &timeout, "--driver", driver];
        let mut server = Server::start(&arguments);
        let mut client = server.connect();
        client.echoes(b"a");
        let stopped = now();
        server.running.signal(Signal::STOP);
        client.send(b"bytes");
        wait_until("the timeout to have passed", || stopped.elapsed() > IDLE + IDLE / 8);
        server.running.signal(Signal::CONT);
        assert_eq!(client.read_exact(5), b"bytes", "{driver}");
        server.stop(Signal::TERM).quietly(0);
    };
    std::thread::scope(|scope| {
        for driver in ["epoll", "uring"] {
            scope.spawn(move || serve(driver));
        }
    });
}
