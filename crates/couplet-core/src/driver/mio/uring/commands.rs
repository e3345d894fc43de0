//! The loop's requests: those for connections in the ring are carried out here, all others by the
//! mio driver.

use std::io;
use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::rc::Rc;
use std::task::Waker;

use super::flows::{Place, Sending, Then};
use super::{Uring, fail};
use crate::address::Address;
use crate::counters::PortCounters;
use crate::driver::readiness::Readiness;
use crate::driver::{
    Adopted, Bound, CloseMode, Commands, ConnectOptions, DatagramQueue, DatagramSocket,
    DatagramsSent, Group, Job, Key, ListeningSocket, LocalSocket, Membership, Outbox,
    PeerCredentials, Released, SocketCall, SocketOption, Ticket, World, WriteOutcome,
};

/// Maximum output that is sent with the next wait. A system call for more is cheap for each byte.
const SMALL: usize = 16 * 1024;

impl Uring {
    /// Takes the output, to be sent by the next wait.
    #[inline(always)]
    fn take(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let spares = self.spares.get_or_insert_with(|| out.spares().clone());
        let (buffer, sent) = if out.is_plain() {
            out.take_plain()
        } else {
            let mut buffer = spares.take();
            out.slices().for_each(|slice| buffer.extend_from_slice(slice));
            out.advance(out.len());
            (buffer, 0)
        };
        if let (Some(stream), Some(flow)) = (self.mio.stream(key), self.flows.at(key)) {
            let operation = self.ring.send(key.number(), stream.stream.handle(), buffer, sent);
            flow.sending = Some(Sending { operation, then: Then::Nothing });
        }
        WriteOutcome::All
    }

    /// Adds to output that is still held, or sends that first.
    #[cold]
    fn write_more(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let sending = self.flows.get(key).and_then(|flow| flow.sending);
        if let Some(sending) = sending
            && let Some(held) = self.ring.recorded(sending.operation)
            && held.len() + out.len() <= SMALL
            && !out.has_files()
        {
            out.slices().for_each(|slice| held.extend_from_slice(slice));
            out.advance(out.len());
            return WriteOutcome::All;
        }
        if self.flush(key, Then::Room) {
            return self.write_directly(key, out);
        }
        WriteOutcome::Blocked
    }

    /// Sends held output immediately. If it can't leave yet, returns false, and `then` follows.
    fn flush(&mut self, key: Key, then: Then) -> bool {
        let (Some(stream), Some(flow)) = (self.mio.stream(key), self.flows.at(key)) else {
            return true;
        };
        let Some(sending) = &mut flow.sending else { return true };
        let Some((buffer, mut sent)) = self.ring.take_back(sending.operation) else {
            sending.then = then;
            return false;
        };
        let written = match stream.write_once(&buffer[sent..]) {
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Ok(0),
            written => written,
        };
        sent += *written.as_ref().unwrap_or(&0);
        if written.is_ok() && sent < buffer.len() {
            let socket = stream.stream.handle();
            let operation = self.ring.send(key.number(), socket, buffer, sent);
            flow.sending = Some(Sending { operation, then });
            return false;
        }
        flow.sending = None;
        if let Some(spares) = &self.spares {
            spares.give(buffer);
        }
        if let Err(error) = written {
            fail(stream, error);
            self.leave(key);
        }
        true
    }

    /// Writes directly. Output that the socket does not accept needs epoll.
    fn write_directly(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        let outcome = self.mio.write(key, out);
        if outcome == WriteOutcome::Blocked
            && let Some(stream) = self.mio.stream(key)
            && stream.readiness.has(Readiness::IN_RING)
        {
            // The socket is not read before the ring has ended its operation.
            stream.readiness.set(Readiness::READABLE, false);
            self.leave(key);
        }
        outcome
    }
}

/// Whether the ring may hold this output: bytes in memory.
#[inline(always)]
fn is_small(out: &Outbox) -> bool {
    (1..=SMALL).contains(&out.len()) && !out.has_files()
}

impl Commands for Uring {
    fn world(&self) -> Rc<dyn World> {
        self.mio.world()
    }

    #[inline(always)]
    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        match self.flows.get(key) {
            Some(flow) if flow.sending.is_some() => self.write_more(key, out),
            Some(flow) if flow.place == Place::Ring && is_small(out) => self.take(key, out),
            _ => self.write_directly(key, out),
        }
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        self.mio.listen(bound)
    }

    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        self.mio.send_datagrams(key, out)
    }

    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        self.mio.set_membership(key, group, change)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        self.mio.connect(to, options)
    }

    fn adopt(&mut self, adopted: Adopted) -> io::Result<Key> {
        let key = self.mio.adopt(adopted)?;
        self.begin(key);
        Ok(key)
    }

    fn can_release(&self, key: Key) -> bool {
        let is_quiet = self.flows.get(key).is_none_or(|flow| {
            let is_held = flow.sending.is_some_and(|it| !self.ring.is_recorded(it.operation));
            !is_held && !flow.receiving.is_some_and(|it| self.ring.has_completed(it))
        });
        is_quiet && self.mio.can_release(key)
    }

    fn release(&mut self, key: Key) -> io::Result<Released> {
        if !self.flush(key, Then::Nothing) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if let Some(flow) = self.flows.get(key)
            && let Some(operation) = flow.receiving
            && !self.ring.stop(operation)?
        {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let released = self.mio.release(key)?;
        self.flows.remove(key);
        Ok(released)
    }

    fn duplicate_port(&mut self, port: Key) -> io::Result<ListeningSocket> {
        self.mio.duplicate_port(port)
    }

    fn keep_socket_file(&mut self, port: Key, is_kept: bool) {
        self.mio.keep_socket_file(port, is_kept);
    }

    fn duplicate_datagrams(&mut self, port: Key) -> io::Result<DatagramSocket> {
        self.mio.duplicate_datagrams(port)
    }

    fn read_datagrams(&mut self, port: Key, on: bool) {
        self.mio.read_datagrams(port, on);
    }

    fn receive(&mut self, key: Key, on: bool) {
        self.mio.receive(key, on);
        if on && self.mio.held.contains_key(&key.slot) {
            self.mio.queue(key.slot);
        }
    }

    fn shut_write(&mut self, key: Key) {
        if self.flush(key, Then::Fin) {
            self.mio.shut_write(key);
        }
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        if mode == CloseMode::Normal {
            self.flush(key, Then::Nothing);
        }
        if let Some(flow) = self.flows.remove(key) {
            let sending = flow.sending.filter(|_| mode == CloseMode::Reset);
            let sending = sending.map(|sending| sending.operation);
            for operation in flow.receiving.into_iter().chain(sending) {
                self.ring.cancel(operation);
            }
        }
        self.mio.close(key, mode);
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        self.mio.peer_has_ended(key)
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        let held = self.flows.get(key).and_then(|flow| flow.sending);
        let held = held.map_or(0, |sending| self.ring.unsent(sending.operation));
        Some(self.mio.unsent(key)? + held)
    }

    fn port_counters(&self, port: Key) -> PortCounters {
        self.mio.port_counters(port)
    }

    fn set_reserved(&mut self, port: Key, on: bool) {
        self.mio.set_reserved(port, on);
    }

    fn peer_credentials(&self, key: Key) -> Option<PeerCredentials> {
        self.mio.peer_credentials(key)
    }

    fn socket(&self, key: Key) -> Option<LocalSocket> {
        self.mio.socket(key)
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        self.mio.set_option(key, option)
    }

    fn with_socket(&mut self, key: Key, call: SocketCall) -> Option<io::Result<()>> {
        self.mio.with_socket(key, call)
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        self.mio.resolve(ticket, name);
    }

    fn forget(&mut self, ticket: Ticket) {
        self.mio.forget(ticket);
    }

    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        self.mio.run_blocking(ticket, job);
    }

    fn forget_job(&mut self, ticket: Ticket) {
        self.mio.forget_job(ticket);
    }

    fn waker(&self) -> Waker {
        self.mio.waker()
    }

    fn watch_signals(&mut self, on: bool) -> io::Result<()> {
        self.mio.watch_signals(on)
    }
}
