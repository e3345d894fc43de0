//! `couplet connect`: stdin goes to the peer, and what the peer sends to stdout, as `nc` does.
//!
//! Standard streams may be files, which cannot be polled, or shared with other programs, which
//! must not find them non-blocking: each has a thread of its own, and neither holds up the loop.

mod stdin;
mod stdout;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use couplet::{
    Address, Connection, DelayedCall, Failure, Loop, Protocol, Reactor, Reason, Transport,
};

use crate::cli;
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::{output, signalled_loop};
use stdin::{Read, Stdin};
use stdout::{Printed, Stdout};

/// Law 9: reading from the peer is paused while more than this waits for stdout, and goes on below
/// half of it.
const UNPRINTED: usize = 256 * 1024;
/// When the peer has ended its stream, stdin may give more as long as it is never silent for this
/// long: it may be a pipe that nobody ever closes.
const SILENCE: Duration = Duration::from_secs(1);
/// What an interrupted run has received may be printed within this time.
const LAST_PRINT: Duration = Duration::from_millis(300);

/// How the connection ended, or why there was none.
type End = Rc<RefCell<Option<Result<Reason, Failure>>>>;

/// The connection between the streams.
struct Session {
    /// `None` once it has ended.
    stdin: Option<Stdin>,
    /// `None` once everything was handed to it.
    stdout: Option<Stdout>,
    /// Bytes that stdout has not taken.
    unprinted: usize,
    peer: PeerStream,
    end: End,
}

/// What the peer sends.
enum PeerStream {
    Open,
    /// It has ended. There is a call while stdin is asked for more, to end a long silence.
    Ended(Option<DelayedCall>),
}

impl Session {
    /// What stdin gave.
    fn typed(&mut self, transport: &Transport, read: Read) {
        if let PeerStream::Ended(silence) = &mut self.peer
            && let Some(silence) = silence.take()
        {
            silence.cancel();
        }
        match read {
            Read::Bytes(bytes) => {
                transport.write_bytes(bytes);
                self.ask_stdin(transport);
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

    /// Asks stdin for more, as soon as the peer takes it.
    fn ask_stdin(&mut self, transport: &Transport) {
        let Some(stdin) = &mut self.stdin else { return };
        if transport.is_full() {
            stdin.hold();
            let me: Connection<Self> = transport.connection();
            // A lost connection fails it, and is told of elsewhere.
            let go_on = move |_| {
                me.tell(Self::ask_stdin);
                Ok(())
            };
            return transport.drained().add_both(go_on).detach();
        }
        stdin.ask();
        self.bound_silence(transport);
    }

    /// When the peer has ended its stream, a stdin that is asked for more may not be silent for long.
    fn bound_silence(&mut self, transport: &Transport) {
        let is_asked = self.stdin.as_ref().is_some_and(Stdin::is_asked);
        if let PeerStream::Ended(silence) = &mut self.peer
            && is_asked
        {
            let end = |_: &mut Self, transport: &Transport| transport.lose_connection();
            *silence = Some(transport.connection().call_later(SILENCE, end));
        }
    }

    /// Stdout has taken this many bytes.
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
        // A peer that reads slowly is not cut.
        transport.set_close_deadline(None);
        match Stdin::start(transport.reactor().remote(), transport.id()) {
            Ok(stdin) => self.stdin = Some(stdin),
            Err(error) => transport.fail(error),
        }
        self.ask_stdin(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let Some(stdout) = &self.stdout else { return };
        stdout.print(transport.id(), Bytes::copy_from_slice(data));
        self.unprinted += data.len();
        if self.unprinted > UNPRINTED {
            transport.pause_producing();
        }
    }

    /// The peer may go on reading. At a terminal nobody wants to type for it any more.
    fn read_closed(&mut self, transport: &Transport) {
        self.peer = PeerStream::Ended(None);
        match &self.stdin {
            Some(stdin) if !stdin.is_terminal() => self.bound_silence(transport),
            Some(_) | None => transport.lose_connection(),
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.end.replace(Some(Ok(reason.clone())));
        // The run ends when everything is printed.
        self.stdout = None;
    }
}

pub(crate) fn run(options: cli::Connect) -> Result<(), Exit> {
    let Peer { endpoint, name } = options.endpoint;
    let mut l = signalled_loop(output::tell)?;
    let (stdout, printed) = Stdout::start(l.reactor().remote())?;
    let end = End::default();
    let failed = end.clone();
    let session = Session {
        stdin: None,
        stdout: Some(stdout),
        unprinted: 0,
        peer: PeerStream::Open,
        end: end.clone(),
    };
    let mut session = Some(session);
    l.run(|reactor: &Reactor| {
        let connecting = reactor.connect(endpoint, move |_: &Address| session.take());
        let stopping = reactor.clone();
        let connected = connecting.add_both(move |connected| {
            if let Err(failure) = connected {
                failed.borrow_mut().get_or_insert(Err(failure));
                stopping.stop();
            }
            Ok(())
        });
        connected.detach();
        Ok(())
    })?;
    ended(&l, &printed, end.take(), &name)
}

/// What the command comes to, when the run is over.
fn ended(
    l: &Loop,
    printed: &Printed,
    end: Option<Result<Reason, Failure>>,
    name: &str,
) -> Result<(), Exit> {
    if let Some(signal) = l.stopped_by() {
        printed.within(LAST_PRINT);
        return Err(Exit::interrupted(signal));
    }
    match end {
        Some(Err(failure)) => Err(Exit::failed(format!("cannot connect to {name}: {failure}"))),
        Some(Ok(reason)) => {
            printed.wait().or_else(|error| output::cannot_print(&error))?;
            match reason {
                Reason::Done(_) => Ok(()),
                Reason::Failed(failure) => Err(Exit::failed(failure)),
                reason => Err(Exit::failed(format!("{name}: {reason}"))),
            }
        }
        None => Err(Exit::failed("the run ended before the connection did")),
    }
}
