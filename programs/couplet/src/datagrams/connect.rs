//! `couplet connect` over UDP: sends each piece of stdin (on a terminal, a line) as a datagram, and
//! prints the peer's datagrams on stdout.
//!
//! Contract: 160i.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::endpoints::UdpClient;
use couplet::{
    Datagram, DatagramEndpoint, DatagramProtocol, DatagramTransport, DelayedCall, Failure,
    LoopOptions, Reactor,
};

use super::addresses_of;
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

/// Largest payload of a datagram. Longer than an Ethernet frame, because the program that writes
/// into a pipe knows better where to cut.
const PIECE: usize = 65_507;
/// How long answers are awaited after the end of stdin.
const SILENCE: Duration = Duration::from_secs(1);

/// The exchange with a peer, at one of its addresses after another until one answers.
struct Session {
    reactor: Reactor,
    addresses: Vec<SocketAddr>,
    /// The place of the address in use.
    at: Cell<usize>,
    /// The port towards it.
    port: RefCell<Option<DatagramTransport>>,
    /// The last datagram, for the next address, until one has answered.
    unanswered: RefCell<Option<Vec<u8>>>,
    end: RefCell<Option<Failure>>,
    /// Ends the run; `Some` after the end of stdin.
    silence: RefCell<Option<DelayedCall>>,
}

/// The protocol of the port towards an address.
struct Peer(Rc<Session>, SocketAddr);

impl Session {
    /// Opens a port towards the address in use, or the next one that can be used.
    fn open(self: &Rc<Self>) -> couplet::Result<()> {
        loop {
            let address = self.addresses[self.at.get()];
            match self
                .reactor
                .listen_datagrams(DatagramEndpoint::to(address), Peer(self.clone(), address))
            {
                Ok(port) => {
                    let before = self.port.replace(Some((*port).clone()));
                    drop(before.map(|before| before.stop_listening()));
                    return Ok(());
                }
                Err(_) if self.advance() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Uses the next address, if there is one.
    fn advance(&self) -> bool {
        let next = self.at.get() + 1;
        let has_next = next < self.addresses.len();
        if has_next {
            self.at.set(next);
        }
        has_next
    }

    /// Reads the next piece in a thread, because stdin may be a file, which can't be polled.
    fn read(self: &Rc<Self>) {
        let session = self.clone();
        let read = self.reactor.defer_to_thread(|| {
            let mut piece = vec![0; PIECE];
            let n = io::stdin().lock().read(&mut piece)?;
            piece.truncate(n);
            Ok(piece)
        });
        let read = read.add_both(move |piece| {
            session.handle_input(piece);
            Ok(())
        });
        read.detach();
    }

    fn handle_input(self: &Rc<Self>, piece: couplet::Result<Vec<u8>>) {
        match piece {
            Ok(piece) if piece.is_empty() => self.wait(),
            Ok(piece) => match self.send(&piece) {
                Ok(()) => self.read(),
                Err(failure) => self.fail(failure),
            },
            Err(failure) => self.fail(Failure::msg(format!("cannot read stdin: {failure}"))),
        }
    }

    fn send(&self, piece: &[u8]) -> couplet::Result<()> {
        if self.at.get() + 1 < self.addresses.len() {
            self.unanswered.replace(Some(piece.to_vec()));
        }
        let port = self.port.borrow();
        Ok(port.as_ref().map_or(Ok(()), |port| port.send(piece))?)
    }

    /// Ends the run after [`SILENCE`] without answers.
    fn wait(&self) {
        let reactor = self.reactor.clone();
        let next = self.reactor.call_later(SILENCE, move || reactor.stop());
        if let Some(last) = self.silence.replace(Some(next)) {
            last.cancel();
        }
    }

    fn fail(&self, why: impl Into<Failure>) {
        self.end.borrow_mut().get_or_insert(why.into());
        self.reactor.stop();
    }

    /// An address has refused a datagram. The last one goes to the next address, unless an address
    /// has answered.
    fn refused(self: &Rc<Self>, address: SocketAddr) {
        if self.addresses[self.at.get()] != address {
            return;
        }
        let Some(piece) = self.unanswered.take().filter(|_| self.advance()) else {
            return self.fail(Failure::msg(format!("no server listens on udp:{address}")));
        };
        tracing::warn!("no server listens on udp:{address}; the next address is tried");
        if let Err(failure) = self.open().and_then(|()| self.send(&piece)) {
            self.fail(failure);
        }
    }
}

impl DatagramProtocol for Peer {
    /// Receiving pauses until the datagram is printed, so a slow reader of stdout uses no memory.
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        transport.pause_producing();
        let session = self.0.clone();
        // The address answers, so the others are not tried.
        session.unanswered.take();
        if session.silence.borrow().is_some() {
            session.wait();
        }
        let (bytes, port) = (datagram.data.to_vec(), transport.clone());
        let print = transport.reactor().defer_to_thread(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush())?;
            Ok(())
        });
        let printed = print.add_both(move |printed| {
            match printed {
                Ok(()) => port.resume_producing(),
                Err(failure) => session.fail(failure),
            }
            Ok(())
        });
        printed.detach();
    }

    fn connection_refused(&mut self, _: &DatagramTransport) {
        self.0.refused(self.1);
    }
}

pub(crate) fn run(peer: &UdpClient) -> Result<(), Exit> {
    let addresses = addresses_of(peer)?;
    // A pending read of stdin can't be interrupted.
    let options = LoopOptions::default().tune(|it| it.job_grace(Duration::ZERO));
    let l = signalled_loop(options, output::print_to_stderr)?;
    let session = Rc::new(Session {
        reactor: l.reactor(),
        addresses,
        at: Cell::new(0),
        port: RefCell::new(None),
        unanswered: RefCell::new(None),
        end: RefCell::new(None),
        silence: RefCell::new(None),
    });
    let begun = session.clone();
    l.run(move |_| {
        begun.open()?;
        begun.read();
        Ok(())
    })?;
    if let Some(signal) = l.stopped_by() {
        return Err(Exit::interrupted(signal));
    }
    session.end.take().map_or(Ok(()), |failure| Err(Exit::failed(failure)))
}
