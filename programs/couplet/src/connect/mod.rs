//! `couplet connect`: copies stdin to the peer and the peer's bytes to stdout, like `nc`.
//!
//! Standard streams may be files, which can't be polled, or be shared with other programs, which
//! need them in blocking mode. So each stream has a thread, and neither blocks the loop.

mod stdin;
mod stdout;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::{ArgAction, Args};
use couplet::process::{Process, ProcessEnd};
use couplet::transport::Timeout;
use couplet::{
    Address, Connection, DelayedCall, Failure, Loop, Protocol, Reactor, Reason, Transport,
};

use crate::datagrams::{self, Remote};
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;
use crate::values::{flag, or_never, seconds_or_none};
use stdin::{Read, Stdin};
use stdout::{PrintResult, Stdout};

/// Law 9: reading from the peer pauses above this many unprinted bytes, and resumes at half.
const UNPRINTED: usize = 256 * 1024;
/// After the peer's FIN, stdin is still sent until it has been silent for this long: it may be a
/// pipe that is never closed.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the rest of stdin may make no progress then.
const STALL: Duration = Duration::from_secs(30);
/// How long an interrupted run may take to print the received bytes.
const LAST_PRINT: Duration = Duration::from_millis(300);

/// How the connection ended. `None` while it lives.
type End = Rc<RefCell<Option<Outcome>>>;

enum Outcome {
    /// The connection was not established.
    Unconnected(Failure),
    Lost(Reason),
    /// The peer closed in order, but never sent the awaited answer.
    Unanswered,
    /// The peer was a program, which may have closed its input early. The run waits for its exit.
    LostProgram(Process),
}

/// Whether an answer is outstanding. While it is, an orderly close is a failure: a server that
/// refuses a request, or is overloaded, often just closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// With `--no-answer`.
    Unexpected,
    /// Nothing has been sent yet.
    Unasked,
    Awaited,
    Received,
}

/// The connection between the streams.
struct Session {
    /// `None` after EOF.
    stdin: Option<Stdin>,
    /// `None` once the connection is lost: everything has been queued.
    stdout: Option<Stdout>,
    /// Bytes queued for stdout.
    unprinted: usize,
    peer: PeerStream,
    answer: Answer,
    /// How long the server may take nothing of stdin, and send nothing once that has ended.
    timeout: Option<Duration>,
    end: End,
}

/// The receiving half.
enum PeerStream {
    Open,
    /// The peer sent its FIN. The call closes the connection if stdin stays silent; `None` while no
    /// read from stdin is pending.
    Ended(Option<DelayedCall>),
}

impl Session {
    /// Handles the result of a read from stdin.
    fn handle_input(&mut self, transport: &Transport, read: Read) {
        if let PeerStream::Ended(silence) = &mut self.peer
            && let Some(silence) = silence.take()
        {
            silence.cancel();
        }
        match read {
            Read::Bytes(bytes) => {
                if self.answer == Answer::Unasked {
                    self.answer = Answer::Awaited;
                }
                transport.write_bytes(bytes);
                self.request_input(transport);
            }
            Read::End => {
                self.stdin = None;
                match self.peer {
                    PeerStream::Open => transport.lose_write_connection(),
                    PeerStream::Ended(_) => transport.lose_connection(),
                }
            }
            Read::Failed(error) => {
                let error = format!("cannot read stdin: {}", output::plain(&error));
                transport.fail(Failure::msg(error));
            }
        }
    }

    /// Requests the next piece from stdin once the write side is not full.
    fn request_input(&mut self, transport: &Transport) {
        let Some(stdin) = &mut self.stdin else { return };
        if transport.is_full() {
            stdin.hold();
            let me: Connection<Self> = transport.connection();
            // Fails if the connection is lost; there is nothing left to do.
            let go_on = move |_| {
                me.tell(Self::request_input);
                Ok(())
            };
            return transport.writable().add_both(go_on).detach();
        }
        stdin.ask();
        self.limit_silence(transport);
    }

    /// After the peer's FIN, closes the connection if stdin stays silent.
    fn limit_silence(&mut self, transport: &Transport) {
        let is_requested = self.stdin.as_ref().is_some_and(Stdin::is_requested);
        if let PeerStream::Ended(silence) = &mut self.peer
            && is_requested
        {
            let end = |_: &mut Self, transport: &Transport| transport.lose_connection();
            *silence = Some(transport.connection().call_later(SILENCE, end));
        }
    }

    /// Called when stdout has written `bytes` bytes.
    fn printed(&mut self, transport: &Transport, bytes: usize) {
        self.unprinted -= bytes;
        if self.unprinted <= UNPRINTED / 2 {
            transport.resume_producing();
        }
    }
}

impl Protocol for Session {
    fn connection_made(&mut self, transport: &Transport) {
        tracing::info!(peer = %transport.peer(), host = %transport.host(), "connected");
        transport.set_timeout(Timeout::Write, self.timeout);
        transport.set_timeout(Timeout::Close, self.timeout);
        transport.set_timeout(Timeout::HalfClose, Some(STALL));
        match Stdin::start(transport.reactor().remote(), transport.id()) {
            Ok(stdin) => self.stdin = Some(stdin),
            Err(error) => transport.fail(error),
        }
        self.request_input(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let Some(stdout) = &self.stdout else { return };
        self.answer = Answer::Received;
        stdout.print(transport.id(), Bytes::copy_from_slice(data));
        self.unprinted += data.len();
        if self.unprinted > UNPRINTED {
            transport.pause_producing();
        }
    }

    /// The peer may still read, but a user at a terminal is not asked for more input.
    fn read_closed(&mut self, transport: &Transport) {
        self.peer = PeerStream::Ended(None);
        transport.set_timeout(Timeout::Close, Some(STALL));
        match &self.stdin {
            Some(stdin) if !stdin.is_terminal() => self.limit_silence(transport),
            Some(_) | None => transport.lose_connection(),
        }
    }

    /// A program that has closed its input still answers, but takes no more of stdin.
    fn write_closed(&mut self, transport: &Transport) {
        transport.set_timeout(Timeout::Idle, self.timeout);
        if transport.write_error().is_some() {
            self.stdin = None;
        }
    }

    fn connection_lost(&mut self, transport: &Transport, reason: &Reason) {
        let has_taken_all = matches!(reason, Reason::Done(_));
        let has_closed_input =
            matches!(reason, Reason::Lost(error) if error.kind() == io::ErrorKind::BrokenPipe);
        self.end.replace(Some(match (Process::of(transport), self.answer) {
            (Some(program), _) if has_taken_all || has_closed_input => {
                Outcome::LostProgram(program)
            }
            (None, Answer::Awaited) if has_taken_all => Outcome::Unanswered,
            _ => Outcome::Lost(reason.clone()),
        }));
        // The run ends when everything has been printed.
        self.stdout = None;
    }
}

const EXAMPLE: &str = "\
Example:
  couplet connect 7777                      type lines, as in a chat; Ctrl-D ends them
  printf 'hope\\n' | couplet connect 10000   send a request, print the answer
  couplet connect 10000 < /dev/null         send nothing, print the output
  couplet connect udp:host:9000             each line is a datagram; print the answers

At the end of stdin the sending side is closed, and output is printed until the
server closes, or is silent for two hours (--timeout). If the server closes
first, the command ends if stdin is a terminal; otherwise it sends the rest of stdin,
until stdin is silent for a second or the server has taken none of it for 30 seconds.
A server that has been sent everything and the end has 30 seconds to close, unless it
closed first or, over TLS, sent its close_notify. A slow side slows the other down, so
nothing is lost or piles up. -v logs the connection.

An ENDPOINT is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  example.com:10000:timeout=5     the same, with at most 5 seconds to connect
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  process:/bin/cat                a program, on its standard input and output
  serial:/dev/ttyS0:speed=9600    a serial line; also bits=, parity=, stop=, flow=
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log

Exit codes: 0 the connection closed cleanly, or stdout was closed; 1 the connection failed or
was lost, stdin or stdout failed, the server closed without having sent a byte, though something
was sent to it (unless --no-answer), or a program exited with another code than 0; 2 usage error;
130 or 143 interrupted.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Connect {
    /// The endpoint to connect to
    #[arg(value_name = "ENDPOINT", value_parser = datagrams::remote, allow_negative_numbers = true)]
    endpoint: Remote,
    /// Expect no answer: it is not an error if the server closes without sending anything
    #[arg(
        long = "no-answer",
        action = ArgAction::SetTrue,
        value_parser = flag(Answer::Unasked, Answer::Unexpected)
    )]
    answer: Answer,
    /// For how many seconds the server may take nothing of stdin and, once that has ended, send
    /// nothing; 0 waits forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "7200",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    timeout: Duration,
}

pub(crate) fn run(options: Connect) -> Result<(), Exit> {
    let Peer { endpoint, name } = match options.endpoint {
        Remote::Streams(peer) => peer,
        Remote::Udp(peer) => return datagrams::connect(&peer),
    };
    let l = signalled_loop(couplet::LoopOptions::default(), output::print_to_stderr)?;
    let (stdout, printed) = Stdout::start(l.reactor().remote())?;
    let end = End::default();
    let failed = end.clone();
    let session = Session {
        stdin: None,
        stdout: Some(stdout),
        unprinted: 0,
        peer: PeerStream::Open,
        answer: options.answer,
        timeout: or_never(options.timeout),
        end: end.clone(),
    };
    let mut session = Some(session);
    l.run(|reactor: &Reactor| {
        let connecting = reactor.connect(endpoint, move |_: &Address| session.take());
        let stopping = reactor.clone();
        let connected = connecting.add_both(move |connected| {
            if let Err(failure) = connected {
                failed.borrow_mut().get_or_insert(Outcome::Unconnected(failure));
                stopping.stop();
            }
            Ok(())
        });
        connected.detach();
        Ok(())
    })?;
    session_result(l, &printed, end.take(), &name)
}

/// Maps the outcome of the run to the command's result.
fn session_result(
    l: &Loop,
    printed: &PrintResult,
    end: Option<Outcome>,
    name: &str,
) -> Result<(), Exit> {
    if let Some(signal) = l.stopped_by() {
        printed.wait_at_most(LAST_PRINT);
        return Err(Exit::interrupted(signal));
    }
    let ended = match end {
        None => return Err(Exit::failed("the run ended before the connection did")),
        Some(Outcome::Unconnected(failure)) => {
            return Err(Exit::failed(format!("cannot connect to {name}: {failure}")));
        }
        Some(Outcome::Lost(Reason::Done(_))) => Ok(()),
        Some(Outcome::Lost(Reason::Failed(failure))) => Err(Exit::failed(failure)),
        Some(Outcome::Lost(reason)) => Err(Exit::failed(format!("{name}: {reason}"))),
        Some(Outcome::Unanswered) => Err(Exit::failed(format!(
            "{name}: the server closed the connection without an answer (--no-answer expects none)"
        ))),
        Some(Outcome::LostProgram(program)) => match program.end() {
            Some(end) if !end.is_success() && !matches!(end, ProcessEnd::LeftRunning) => {
                Err(Exit::failed(format!("{name}: {end}")))
            }
            _ => Ok(()),
        },
    };
    printed.wait().map_err(|error| output::cannot_print(&error))?;
    ended
}
