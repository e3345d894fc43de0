//! Datagram ports, in the turn. A port is another `Resource` of the table.
//!
//! Only `Core::datagram_received` takes the datagrams that a driver lends. Output waits in a
//! `DatagramQueue`, which keeps the boundaries that an `Outbox` would lose; within a batch of input,
//! answers wait for its end. `Core::send_all_datagrams` decides how to treat an error; a driver only
//! reports it.
//!
//! Contract: 157, 158, 159, 160a, 160c, 160f, 160g.

use std::io;
use std::rc::Rc;

use super::core::Core;
use super::table::Resource;
use crate::counters::tally;
use crate::datagrams::{DatagramCell, OptionChange, OptionRequest, PortState, SocketRequest};
use crate::driver::{CloseMode, Commands, DatagramsSent, Driver, Key, UserCall};
use crate::panics::contain_closure;
use crate::reactor::monitor::CallGuard;
use crate::reactor::records::Call;
use crate::reactor::turn::ports::set_port_option;
use crate::recorder::loop_ended;

/// While more datagrams of a batch follow, replies wait until there are this many.
const TOGETHER: usize = 64;
/// Or until they hold this many bytes.
const BYTES_TOGETHER: usize = 16 * 1024;

impl Core {
    pub(super) fn start_datagrams(&mut self, io: &mut dyn Commands, port: &Rc<DatagramCell>) {
        let bound = port.bound.take();
        let Some(bound) = bound.filter(|_| port.is_open() && !self.reactor.is_stopping()) else {
            return port.finish();
        };
        match io.listen(bound) {
            Ok(key) => {
                self.table.put(key, Resource::Datagrams(port.clone()));
                port.key.set(Some(key));
                port.state.set(PortState::Listening);
                tracing::info!(host = %port.host, "listening");
                let _hold = self.hold_datagrams(port);
                port.call("start_protocol", |protocol, transport| {
                    protocol.start_protocol(transport);
                });
                self.apply_datagram_requests(io, port);
            }
            Err(error) => {
                log_error!(host = %port.host, %error, "cannot serve a port");
                port.finish();
            }
        }
    }

    /// The loop is dropped: the protocol is not called again.
    pub(super) fn abandon_datagrams(port: &DatagramCell) {
        for resolver in port.release() {
            resolver.errback(loop_ended());
        }
    }

    fn hold_datagrams(&self, port: &DatagramCell) -> Option<CallGuard> {
        self.records.hold_for(|| UserCall::at("datagrams", port.place))
    }

    /// Delivers a datagram. Law 4: the only way in, on every driver.
    pub(super) fn datagram_received<D: Driver>(
        &mut self,
        driver: &mut D,
        key: Key,
        more: bool,
    ) -> Option<Key> {
        let port = self.datagram_port(key)?;
        if port.is_open() && !port.receiving.get().is_paused() {
            let _hold = self.hold_datagrams(&port);
            port.deliver(&driver.datagram());
        }
        port.holds.set(more);
        Some(key)
    }

    fn datagram_port(&mut self, key: Key) -> Option<Rc<DatagramCell>> {
        match self.table.resource(key) {
            Some(Resource::Datagrams(port)) => Some(port.clone()),
            _ => None,
        }
    }

    /// The system reported an error, perhaps of an earlier send.
    pub(super) fn datagrams_failed(&mut self, key: Key, error: io::Error) {
        let Some(port) = self.datagram_port(key) else { return };
        if port.options.peer.is_none() || error.kind() != io::ErrorKind::ConnectionRefused {
            tracing::debug!(host = %port.host, %error, "error on a datagram port");
            return;
        }
        let _hold = self.hold_datagrams(&port);
        port.call("connection_refused", |protocol, transport| {
            protocol.connection_refused(transport);
        });
    }

    /// Carries out the requests of a port.
    pub(super) fn apply_datagram_requests(
        &mut self,
        io: &mut dyn Commands,
        port: &Rc<DatagramCell>,
    ) {
        port.clear_turn_request();
        if let (PortState::Listening | PortState::Stopping, Some(key)) =
            (port.state.get(), port.key.get())
        {
            apply_socket_requests(io, port, key);
        }
        let key = match (port.state.get(), port.key.get()) {
            (PortState::Listening, Some(key)) => key,
            (PortState::Stopping, Some(key)) => return self.close_datagrams(io, key),
            // Requests of an unserved port wait until it is served.
            (PortState::Starting | PortState::Stopped, _) | (_, None) => return,
        };
        let receiving = port.receiving.get().applied();
        if port.receiving.replace(receiving) != receiving {
            io.receive(key, !receiving.is_paused());
        }
        loop {
            let request = port.option_requests.borrow_mut().pop_front();
            let Some(OptionRequest { change, queued_before }) = request else { break };
            self.send_queued_before(io, port, queued_before);
            match change {
                OptionChange::Set(option) => set_port_option(io, key, &port.host, option),
                OptionChange::Member(group, change, resolver) => {
                    let set = io.set_membership(key, &group, change);
                    resolver.resolve(set.map_err(Into::into));
                }
            }
        }
        if !port.queue.borrow().is_empty() {
            self.send_at_turn_end(key, port);
        }
    }

    /// Sends the datagrams queued before an option is set. Datagrams that the system cannot accept
    /// yet wait, and leave with the new option.
    fn send_queued_before(
        &mut self,
        io: &mut dyn Commands,
        port: &Rc<DatagramCell>,
        queued_before: u64,
    ) {
        let waiting = port.queue.borrow().len() as u64;
        let before = (queued_before + waiting).saturating_sub(port.queued.get());
        if before > 0 {
            let rest = port.queue.borrow_mut().split_off(before as usize);
            self.send_all_datagrams(io, port);
            port.queue.borrow_mut().append(rest);
        }
    }

    /// Queues the port for sending at the end of the turn.
    fn send_at_turn_end(&mut self, key: Key, port: &DatagramCell) {
        if !port.to_write.replace(true) {
            self.table.queue_write(key);
        }
    }

    /// Sends the queued datagrams of a port, unless more of the batch follow, whose replies leave
    /// together with them.
    pub(super) fn send_datagrams(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(port) = self.datagram_port(key) else { return };
        let (count, bytes) = (port.queue.borrow().len(), port.queue.borrow().bytes());
        if count > 0 && port.holds.get() && count < TOGETHER && bytes < BYTES_TOGETHER {
            self.send_at_turn_end(key, &port);
        } else if count > 0 {
            self.send_all_datagrams(io, &port);
        }
    }

    /// Sends as many datagrams as the system accepts. Law 4: the only way out. A datagram that the
    /// system refuses is dropped. A refusal by the peer concerns an earlier datagram, and is
    /// reported instead.
    pub(super) fn send_all_datagrams(&mut self, io: &mut dyn Commands, port: &Rc<DatagramCell>) {
        port.to_write.set(false);
        let Some(key) = port.key.get() else { return };
        let mut refused_again = false;
        loop {
            let mut queue = port.queue.borrow_mut();
            let before = queue.len();
            let outcome = io.send_datagrams(key, &mut queue);
            let sent = before - queue.len();
            tally(&port.counters, |counters| counters.sent += sent as u64);
            let DatagramsSent::Failed(error) = outcome else { return };
            let is_earlier = error.kind() == io::ErrorKind::ConnectionRefused;
            if is_earlier && (sent > 0 || !refused_again) {
                refused_again = true;
                drop(queue);
                self.queue_connection_refused(port);
            } else {
                refused_again = false;
                queue.pop(1);
                drop(queue);
                port.count_drop(&error);
            }
        }
    }

    /// Queues a call of `connection_refused` for a round; protocols must not be called here.
    fn queue_connection_refused(&mut self, port: &Rc<DatagramCell>) {
        if port.options.peer.is_none() {
            return;
        }
        let port = port.clone();
        let call = contain_closure(move || {
            port.call("connection_refused", |protocol, transport| {
                protocol.connection_refused(transport);
            });
        });
        let call = self.records.monitor_call(|| UserCall::kind("datagrams"), call);
        self.records.enqueue(Call::Run(call));
    }

    /// Closes a port, after an attempt to send its queue.
    pub(super) fn close_datagrams(&mut self, io: &mut dyn Commands, key: Key) {
        let Some(port) = self.datagram_port(key) else { return };
        if !port.queue.borrow().is_empty() {
            self.send_all_datagrams(io, &port);
        }
        self.table.take(key);
        io.close(key, CloseMode::Normal);
        let _hold = self.hold_datagrams(&port);
        port.finish();
    }
}

/// Carries out the requests of a port whose socket another process has too.
fn apply_socket_requests(io: &mut dyn Commands, port: &DatagramCell, key: Key) {
    for request in port.socket_requests.take() {
        match request {
            SocketRequest::Duplicate(resolver) => {
                resolver.resolve(io.duplicate_datagrams(key).map_err(Into::into));
            }
            SocketRequest::Read(on) => {
                io.read_datagrams(key, on);
                if port.receiving.get().applied().is_paused() {
                    io.receive(key, false);
                }
            }
        }
    }
}
