//! Restarts of a host's program, without an end for the connections whose protocols allow it.

use std::cell::RefCell;
use std::rc::Rc;

use couplet_core::defer::gather;
use couplet_core::reactor::{HandedOver, Reactor};

use super::{Host, Sim};

/// Continues a connection of the program that ran before.
pub(super) type TakeOver = Rc<dyn Fn(&Reactor, HandedOver) -> couplet_core::Result<()>>;

/// Connections on their way to the next program of a host.
pub(super) type Moving = Rc<RefCell<Vec<HandedOver>>>;

impl Sim {
    /// Sets how a host's program continues a connection that its predecessor has handed over, at a
    /// [`Fault::Restart`](super::Fault::Restart): usually with
    /// [`take_over`](Reactor::take_over). Called for each, after the program has started. Without it, no
    /// connection of the host outlives its program.
    ///
    /// An error closes the connection, and breaks the world.
    ///
    /// ```
    /// use couplet::sim::{Fault, Sim};
    /// use couplet::{HandOver, Protocol, ProtocolExtension, Transport};
    /// use std::time::Duration;
    ///
    /// /// Answers with the number of bytes so far.
    /// struct Counter(u8);
    /// impl Protocol for Counter {
    ///     fn data_received(&mut self, transport: &Transport, data: &[u8]) {
    ///         self.0 += data.len() as u8;
    ///         transport.write([self.0]);
    ///     }
    ///     fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
    ///         Some(self)
    ///     }
    /// }
    ///
    /// impl ProtocolExtension for Counter {
    ///     fn hand_over(&mut self) -> Option<HandOver> {
    ///         HandOver::new("counter", [self.0])
    ///     }
    /// }
    ///
    /// let mut sim = Sim::new(1);
    /// let server = sim.host("server", |reactor| reactor.listen("tcp:80", || Counter(0)).map(drop));
    /// sim.take_over(server, |reactor, handed| {
    ///     let counter = Counter(handed.state()[0]);
    ///     reactor.take_over(handed, counter)?.detach();
    ///     Ok(())
    /// });
    /// let client = sim.bare_host("client");
    /// sim.fault(Duration::from_secs(1), Duration::ZERO, Fault::Restart(server));
    ///
    /// let socket = sim.socket(client, sim.at(server, 80))?;
    /// sim.run_for(Duration::from_millis(500))?;
    /// socket.push(b"two")?;
    /// sim.run_for(Duration::from_secs(1))?;
    /// socket.push(b"lives")?;
    /// sim.run_for(Duration::from_secs(1))?;
    /// assert_eq!(socket.take(100), [3, 8]);
    /// # drop(socket);
    /// sim.finish()?;
    /// # Ok::<(), couplet::Failure>(())
    /// ```
    pub fn take_over(
        &mut self,
        host: Host,
        take_over: impl Fn(&Reactor, HandedOver) -> couplet_core::Result<()> + 'static,
    ) {
        self.programs[host.0 as usize].take_over = Some(Rc::new(take_over));
    }

    /// Has the program hand its connections over, and stop. The next one starts at its end.
    pub(super) fn restart(&mut self, host: u32) {
        let program = &mut self.programs[host as usize];
        let Some(running) = program.running.as_mut().filter(|_| program.moving.is_none()) else {
            return;
        };
        let (reactor, moving) = (running.l().reactor(), Moving::default());
        program.moving = Some(moving.clone());
        let ids =
            running.l_mut().snapshot().connections.into_iter().map(|connection| connection.id);
        let ids: Vec<_> = ids.filter(|_| program.take_over.is_some()).collect();
        self.kernel.borrow_mut().leave_ports(host);
        let _here = self.as_host(host);
        let handed = ids.into_iter().map(|id| {
            let moving = moving.clone();
            reactor.hand_over(id).map(move |handed| moving.borrow_mut().extend(handed))
        });
        let stopping = reactor.clone();
        let left = gather(handed.collect::<Vec<_>>()).add_both(move |_| {
            stopping.stop();
            Ok(())
        });
        left.detach();
        self.kernel.borrow_mut().schedule_turn(host);
    }

    /// The program has stopped: the next one starts, if there is one.
    pub(super) fn start_successor(&mut self, host: u32) {
        if self.programs[host as usize].moving.is_none() {
            return;
        }
        let are_faults_over = self.kernel.borrow().are_faults_over();
        match are_faults_over {
            true => self.abandon_restart(host),
            false => self.start_program(host),
        }
    }

    /// No program follows: its connections and ports are closed.
    pub(super) fn abandon_restart(&mut self, host: u32) {
        if self.programs[host as usize].running.is_none() {
            drop(self.programs[host as usize].moving.take());
            self.kernel.borrow_mut().close_left_ports(host);
        }
    }

    /// The program of a restart has started: it gets the connections of the one before.
    pub(super) fn continue_connections(&mut self, host: u32, reactor: &Reactor) {
        let program = &mut self.programs[host as usize];
        let (moving, take_over) = (program.moving.take(), program.take_over.clone());
        let Some(moving) = moving else { return };
        for handed in moving.take() {
            let taken = take_over.as_ref().map(|take_over| take_over(reactor, handed));
            if let Some(Err(failure)) = taken {
                let name = self.name(Host(host));
                let text = format!("the program of {name} cannot continue a connection: {failure}");
                self.kernel.borrow_mut().violate(text);
            }
        }
        self.kernel.borrow_mut().close_left_ports(host);
    }
}
