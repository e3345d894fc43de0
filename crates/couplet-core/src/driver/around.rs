//! [`Around`]: drivers that hold another driver, and pass everything on to it.

use std::io;
use std::num::NonZeroUsize;
#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use couplet_os::ticks::ticks;

use super::contents::Contents;
use super::recorded::RingWriter;
use super::{
    Adopted, Bound, CloseMode, Commands, ConnectOptions, Datagram, DatagramQueue, DatagramSocket,
    DatagramsSent, Driver, Event, Group, Job, Key, ListeningSocket, LocalSocket, Membership,
    Outbox, PeerCredentials, Released, SocketCall, SocketOption, Ticket, World, WriteOutcome,
};
use crate::address::Address;
use crate::counters::PortCounters;

/// A driver that holds another one: a box, or a recorder of its events.
pub trait Around {
    /// The other driver.
    type Inner: Driver + ?Sized;

    /// The other driver.
    fn inner(&self) -> &Self::Inner;

    /// The other driver.
    fn inner_mut(&mut self) -> &mut Self::Inner;

    /// The ring in which everything is recorded that passes; `None` costs nothing.
    #[doc(hidden)]
    #[inline(always)]
    fn ring(&self) -> Option<&RingWriter> {
        None
    }

    /// The first bytes of each chunk, kept in addition to the ring; `None` costs nothing.
    #[doc(hidden)]
    #[inline(always)]
    fn contents(&self) -> Option<&Contents> {
        None
    }

    /// The present time of the ring.
    #[doc(hidden)]
    #[inline(always)]
    fn ticks(&self) -> u64 {
        ticks()
    }
}

impl<A: Around> Commands for A {
    fn world(&self) -> Rc<dyn World> {
        self.inner().world()
    }

    fn listen(&mut self, bound: Bound) -> io::Result<Key> {
        self.inner_mut().listen(bound)
    }

    fn adopt(&mut self, adopted: Adopted) -> io::Result<Key> {
        let ends = self.ring().map(|_| (adopted.peer.clone(), adopted.host.clone()));
        let key = self.inner_mut().adopt(adopted)?;
        if let (Some(ring), Some((peer, host))) = (self.ring(), ends) {
            ring.adopted(key, peer, host);
        }
        Ok(key)
    }

    fn can_release(&self, key: Key) -> bool {
        self.inner().can_release(key)
    }

    fn release(&mut self, key: Key) -> io::Result<Released> {
        let released = self.inner_mut().release(key)?;
        if let Some(ring) = self.ring() {
            ring.closed(key, CloseMode::Normal);
        }
        Ok(released)
    }

    fn duplicate_port(&mut self, port: Key) -> io::Result<ListeningSocket> {
        self.inner_mut().duplicate_port(port)
    }

    fn keep_socket_file(&mut self, port: Key, is_kept: bool) {
        self.inner_mut().keep_socket_file(port, is_kept);
    }

    fn duplicate_datagrams(&mut self, port: Key) -> io::Result<DatagramSocket> {
        self.inner_mut().duplicate_datagrams(port)
    }

    fn read_datagrams(&mut self, port: Key, on: bool) {
        self.inner_mut().read_datagrams(port, on);
    }

    fn send_datagrams(&mut self, key: Key, out: &mut DatagramQueue) -> DatagramsSent {
        self.inner_mut().send_datagrams(key, out)
    }

    fn set_membership(&mut self, key: Key, group: &Group, change: Membership) -> io::Result<()> {
        self.inner_mut().set_membership(key, group, change)
    }

    fn connect(&mut self, to: &Address, options: &ConnectOptions) -> io::Result<Key> {
        let key = self.inner_mut().connect(to, options)?;
        if let Some(ring) = self.ring() {
            ring.connecting(key, to);
        }
        Ok(key)
    }

    fn peer_has_ended(&self, key: Key) -> bool {
        self.inner().peer_has_ended(key)
    }

    fn unsent(&self, key: Key) -> Option<usize> {
        self.inner().unsent(key)
    }

    fn port_counters(&self, port: Key) -> PortCounters {
        self.inner().port_counters(port)
    }

    fn set_reserved(&mut self, port: Key, on: bool) {
        self.inner_mut().set_reserved(port, on);
    }

    fn peer_credentials(&self, key: Key) -> Option<PeerCredentials> {
        self.inner().peer_credentials(key)
    }

    fn socket(&self, key: Key) -> Option<LocalSocket> {
        self.inner().socket(key)
    }

    fn set_option(&mut self, key: Key, option: SocketOption) -> io::Result<()> {
        self.inner_mut().set_option(key, option)
    }

    fn with_socket(&mut self, key: Key, call: SocketCall) -> Option<io::Result<()>> {
        self.inner_mut().with_socket(key, call)
    }

    fn resolve(&mut self, ticket: Ticket, name: &str) {
        self.inner_mut().resolve(ticket, name);
    }

    fn forget(&mut self, ticket: Ticket) {
        self.inner_mut().forget(ticket);
    }

    fn run_blocking(&mut self, ticket: Ticket, job: Job) {
        self.inner_mut().run_blocking(ticket, job);
    }

    fn forget_job(&mut self, ticket: Ticket) {
        self.inner_mut().forget_job(ticket);
    }

    fn waker(&self) -> Waker {
        self.inner().waker()
    }

    fn watch_signals(&mut self, on: bool) -> io::Result<()> {
        self.inner_mut().watch_signals(on)
    }

    #[inline(always)]
    fn write(&mut self, key: Key, out: &mut Outbox) -> WriteOutcome {
        if let Some(ring) = self.ring() {
            ring.writing(self.ticks(), key, out);
        }
        let before = self.contents().map(|contents| (contents.hold(out.slices()), out.len()));
        let outcome = self.inner_mut().write(key, out);
        let Some(ring) = self.ring() else { return outcome };
        if let (Some(contents), Some((held, before))) = (self.contents(), before) {
            // The bytes behind a part of a file are not held.
            contents.keep(ring.ring().count(), held.min(before - out.len()));
        }
        if outcome == WriteOutcome::All {
            ring.written();
            return WriteOutcome::All;
        }
        ring.written_partly(out, outcome);
        outcome
    }

    fn receive(&mut self, key: Key, on: bool) {
        if let Some(ring) = self.ring() {
            ring.reading(key, on);
        }
        self.inner_mut().receive(key, on);
    }

    fn shut_write(&mut self, key: Key) {
        if let Some(ring) = self.ring() {
            ring.shut(key);
        }
        self.inner_mut().shut_write(key);
    }

    fn close(&mut self, key: Key, mode: CloseMode) {
        if let Some(ring) = self.ring() {
            ring.closed(key, mode);
        }
        self.inner_mut().close(key, mode);
    }
}

impl<A: Around> Driver for A {
    #[inline(always)]
    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let begun = self.ring().map(|ring| ring.begin_wait(self.ticks()));
        let waited = self.inner_mut().wait(until);
        if let (Some(ring), Some(begun)) = (self.ring(), begun) {
            ring.waited(begun, self.ticks());
        }
        waited
    }

    #[inline(always)]
    fn next(&mut self) -> Option<Event> {
        let event = self.inner_mut().next();
        if let Some(Event::Received(key)) = event {
            // The bytes are recorded when the loop takes them. The event needs no drop, and a new one
            // stays in registers.
            std::mem::forget(event);
            return Some(Event::Received(key));
        }
        if let (Some(ring), Some(event)) = (self.ring(), &event) {
            ring.event(event);
        }
        event
    }

    #[inline(always)]
    fn has_more(&self) -> bool {
        self.inner().has_more()
    }

    fn full_batch(&self) -> Option<NonZeroUsize> {
        self.inner().full_batch()
    }

    #[inline(always)]
    fn lent(&self, key: Key) -> &[u8] {
        let bytes = self.inner().lent(key);
        if let Some(ring) = self.ring() {
            if let Some(contents) = self.contents() {
                contents.hold(std::iter::once(bytes));
                contents.keep(ring.ring().count(), bytes.len());
            }
            ring.bytes(self.ticks(), key, bytes);
        }
        bytes
    }

    fn datagram(&self) -> Datagram<'_> {
        self.inner().datagram()
    }

    fn due(&self) -> Option<Instant> {
        self.inner().due()
    }

    #[cfg(unix)]
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inner().descriptor()
    }
}
