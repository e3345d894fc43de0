//! `couplet connect` over UDP: sends each piece of stdin (on a terminal, a line) as a datagram, and
//! prints the peer's datagrams on stdout.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::UdpClient;
use couplet::{
    Datagram, DatagramPort, DatagramProtocol, DatagramTransport, DelayedCall, Failure, LoopOptions,
};

use super::address_of;
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

/// Largest payload of a datagram. It exceeds an Ethernet frame, but the program that writes into a
/// pipe chooses better where to cut.
const PIECE: usize = 65_507;
/// How long answers are awaited after the end of stdin.
const SILENCE: Duration = Duration::from_secs(1);

type End = Rc<RefCell<Option<Failure>>>;

struct Session {
    peer: SocketAddr,
    end: End,
    /// Ends the run; `Some` after the end of stdin.
    silence: Option<DelayedCall>,
}

impl Session {
    /// Reads the next piece in a thread, because stdin may be a file, which can't be polled.
    fn read(&mut self, transport: &DatagramTransport) {
        let port: DatagramPort<Self> = transport.port();
        let read = transport.reactor().defer_to_thread(|| {
            let mut piece = vec![0; PIECE];
            let n = io::stdin().lock().read(&mut piece)?;
            piece.truncate(n);
            Ok(piece)
        });
        let read = read.add_both(move |piece| {
            port.tell(|session, transport| session.handle_input(transport, piece));
            Ok(())
        });
        read.detach();
    }

    fn handle_input(&mut self, transport: &DatagramTransport, piece: couplet::Result<Vec<u8>>) {
        match piece {
            Ok(piece) if piece.is_empty() => self.wait(transport),
            Ok(piece) => match transport.send(piece) {
                Ok(()) => self.read(transport),
                Err(error) => self.fail(transport, error),
            },
            Err(failure) => {
                self.fail(transport, Failure::msg(format!("cannot read stdin: {failure}")))
            }
        }
    }

    /// Ends the run after [`SILENCE`] without answers.
    fn wait(&mut self, transport: &DatagramTransport) {
        let stop = |_: &mut Self, transport: &DatagramTransport| transport.reactor().stop();
        let next = transport.port::<Self>().call_later(SILENCE, stop);
        if let Some(last) = self.silence.replace(next) {
            last.cancel();
        }
    }

    fn fail(&mut self, transport: &DatagramTransport, why: impl Into<Failure>) {
        self.end.borrow_mut().get_or_insert(why.into());
        transport.reactor().stop();
    }
}

impl DatagramProtocol for Session {
    fn start_protocol(&mut self, transport: &DatagramTransport) {
        self.read(transport);
    }

    /// Receiving pauses until the datagram is printed, so a slow reader of stdout uses no memory.
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        transport.pause_producing();
        if self.silence.is_some() {
            self.wait(transport);
        }
        let (bytes, port) = (datagram.data.to_vec(), transport.port::<Self>());
        let print = transport.reactor().defer_to_thread(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush())?;
            Ok(())
        });
        let printed = print.add_both(move |printed| {
            match printed {
                Ok(()) => port.resume_producing(),
                Err(failure) => {
                    port.tell(|session, transport| session.fail(transport, failure));
                }
            }
            Ok(())
        });
        printed.detach();
    }

    fn connection_refused(&mut self, transport: &DatagramTransport) {
        let text = format!("no server listens on udp:{}", self.peer);
        self.fail(transport, Failure::msg(text));
    }
}

pub(crate) fn run(peer: &UdpClient) -> Result<(), Exit> {
    let peer = address_of(peer)?;
    // A pending read of stdin can't be interrupted.
    let options = LoopOptions::default().job_grace(Duration::ZERO);
    let l = signalled_loop(options, output::print_to_stderr)?;
    let end = End::default();
    let session = Session { peer, end: end.clone(), silence: None };
    l.run(|reactor| {
        reactor.connect_udp(peer, session)?;
        Ok(())
    })?;
    if let Some(signal) = l.stopped_by() {
        return Err(Exit::interrupted(signal));
    }
    end.take().map_or(Ok(()), |failure| Err(Exit::failed(failure)))
}
