//! The loops of a program, as its main loop sees them: calls and questions to all of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::list;
use couplet::reactor::{Drain, PortSnapshot, Snapshot};
use couplet::services::Supervisor;
use couplet::{ConnectionId, Deferred, Failure, Reactor, Remote, Resolver};

use crate::asking::{Question, ask};
use crate::workers;

/// How long a connection that is closed by its number may take.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// A program's loops: the main one, in which the program starts and ends, and further ones in
/// threads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Loops(Rc<LoopsCell>);

struct LoopsCell {
    reactor: Reactor,
    others: Vec<Remote>,
    /// The number of the loop that gets the next call that any loop can make.
    next: Cell<usize>,
    /// The further loops that turn.
    alive: Cell<usize>,
    stopped: RefCell<Option<Resolver<()>>>,
}

thread_local! {
    static THIS: Cell<ThisLoop> = const { Cell::new(ThisLoop { number: 0, of: 1 }) };
}

/// The loop of the present thread, among the loops of a program: see [`this_loop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThisLoop {
    /// The loop's number. The main loop, in which the program starts, has 0.
    pub number: usize,
    /// The number of loops.
    pub of: usize,
}

/// The loop of the present thread: in a service that runs in all loops, for work that only one of them
/// does, and to divide limits among them.
pub fn this_loop() -> ThisLoop {
    THIS.get()
}

/// Makes this the loop of the present thread.
pub(crate) fn enter(number: usize, of: usize) {
    THIS.set(ThisLoop { number, of });
}

/// How long a loop may take to describe itself.
const PATIENCE: Duration = Duration::from_secs(2);

impl Loops {
    pub(crate) fn new(reactor: &Reactor, others: impl IntoIterator<Item = Remote>) -> Loops {
        let others: Vec<Remote> = others.into_iter().collect();
        Loops(Rc::new(LoopsCell {
            reactor: reactor.clone(),
            alive: Cell::new(others.len()),
            others,
            next: Cell::new(0),
            stopped: RefCell::default(),
        }))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.others.len() + 1
    }

    /// The main loop's.
    pub(crate) fn reactor(&self) -> &Reactor {
        &self.0.reactor
    }

    /// Has `failed` called when a further loop ends before it is [stopped](Self::stop).
    pub(crate) fn watch(&self, failed: impl Fn(Failure) + 'static) {
        let failed = Rc::new(failed);
        for (number, remote) in (1..).zip(&self.0.others) {
            let (loops, failed) = (self.clone(), failed.clone());
            // Fails at the end of that loop.
            let life =
                |reactor: &Reactor| reactor.spawn(std::future::pending::<Result<(), Failure>>());
            let ended = ask(self.reactor(), remote, life).0.add_both(move |_| {
                loops.0.alive.set(loops.0.alive.get() - 1);
                let stopped = loops.0.stopped.borrow_mut().take();
                match stopped {
                    Some(stopped) if loops.0.alive.get() == 0 => stopped.callback(()),
                    Some(stopped) => *loops.0.stopped.borrow_mut() = Some(stopped),
                    None => failed(Failure::msg(format!("loop {number} has ended unexpectedly"))),
                }
                Ok(())
            });
            ended.detach();
        }
    }

    /// Stops the further loops. The Deferred fires when they have ended.
    pub(crate) fn stop(&self) -> Deferred<()> {
        if self.0.alive.get() == 0 {
            return Deferred::succeed(());
        }
        let (deferred, resolver) = Deferred::new();
        *self.0.stopped.borrow_mut() = Some(resolver);
        self.call_others(workers::stop);
        deferred
    }

    /// Makes a call in each further loop.
    pub(crate) fn call_others(&self, call: impl FnOnce(&Reactor) + Clone + Send + 'static) {
        for other in &self.0.others {
            // A loop that was dropped needs no call.
            let _ = other.call(call.clone());
        }
    }

    /// Makes a call in one loop, each time in the next.
    pub(crate) fn call_next(&self, call: impl FnOnce(&Reactor) + Send + 'static) {
        let number = self.0.next.get();
        self.0.next.set((number + 1) % self.count());
        match number.checked_sub(1).map(|number| &self.0.others[number]) {
            None => call(self.reactor()),
            Some(other) => {
                // The program ends if a loop does.
                let _ = other.call(call);
            }
        }
    }

    /// Asks each further loop, with its number.
    pub(crate) fn ask_others<T: Send + 'static, Q>(
        &self,
        question: impl Fn(usize) -> Q,
    ) -> Vec<(Deferred<T>, Question)>
    where
        Q: FnOnce(&Reactor) -> Deferred<T> + Send + 'static,
    {
        let others = (1..).zip(&self.0.others);
        others.map(|(number, other)| ask(self.reactor(), other, question(number))).collect()
    }

    /// Asks each loop, with its number. The main loop, which is the first, has number 0, and answers
    /// in its next turn.
    pub(crate) fn ask_all<T: Send + 'static, Q>(
        &self,
        question: impl Fn(usize) -> Q,
    ) -> Vec<(Deferred<T>, Question)>
    where
        Q: FnOnce(&Reactor) -> Deferred<T> + Send + 'static,
    {
        let main = ask(self.reactor(), &self.reactor().remote(), question(0));
        std::iter::once(main).chain(self.ask_others(question)).collect()
    }

    /// Makes a call in each further loop, and waits until it has had its effects.
    pub(crate) fn settle_others(&self, call: fn(&Reactor)) -> Deferred<()> {
        let answers = self.ask_others(|_| {
            move |reactor: &Reactor| {
                call(reactor);
                // The requests of this turn are applied before the next.
                reactor.sleep(Duration::ZERO)
            }
        });
        all(answers.into_iter().map(|(answer, _)| answer))
    }

    /// Fires when each further loop has turned.
    pub(crate) fn turned(&self) -> Deferred<()> {
        self.settle_others(|_| ())
    }

    /// A snapshot of each loop, in the order of their numbers; `None` for a loop that does not answer.
    pub(crate) fn snapshots(&self) -> Deferred<Vec<Option<Snapshot>>> {
        let own = self.reactor().snapshot();
        let others = self.ask_others(|_| |reactor: &Reactor| reactor.snapshot());
        let patient = |answer: Deferred<Snapshot>| answer.add_timeout(self.reactor(), PATIENCE);
        let others: Vec<_> = others.into_iter().map(|(answer, _)| patient(answer)).collect();
        self.reactor().spawn(async move {
            let mut snapshots = vec![Some(own.await?)];
            for other in others {
                snapshots.push(other.await.ok());
            }
            Ok(snapshots)
        })
    }

    /// One snapshot of all loops.
    ///
    /// # Errors
    ///
    /// If a loop does not answer.
    pub(crate) fn snapshot(&self) -> Deferred<Snapshot> {
        if self.count() == 1 {
            return self.reactor().snapshot();
        }
        self.snapshots().add_callback(|snapshots| {
            let silent = snapshots.iter().position(Option::is_none);
            match silent {
                None => Ok(merge(snapshots)),
                Some(number) => Err(Failure::msg(format!("loop {number} does not answer"))),
            }
        })
    }

    /// Closes a connection, given as snapshots and logs show it, and resets it if that takes long: its
    /// peer may read nothing, or its protocol may wait for something.
    pub(crate) fn close(&self, id: String) -> Deferred<String> {
        let (reactor, own) = (self.reactor().clone(), self.reactor().remote());
        let remotes: Vec<Remote> =
            std::iter::once(own).chain(self.0.others.iter().cloned()).collect();
        self.snapshots().add_callback(move |snapshots| {
            let found = remotes.iter().zip(&snapshots).find_map(|(remote, snapshot)| {
                let mut connections = snapshot.iter().flat_map(|snapshot| &snapshot.connections);
                let found = connections.find(|connection| connection.id.to_string() == id)?;
                Some((remote, found.id))
            });
            let Some((remote, connection)): Option<(&Remote, ConnectionId)> = found else {
                return Err(Failure::msg(format!("there is no connection {id}")));
            };
            remote.lose_connection(connection)?;
            let remote = remote.clone();
            reactor.call_later(CLOSES_WITHIN, move || {
                // With its loop, the connection has ended.
                let _ = remote.abort_connection(connection);
            });
            Ok(String::new())
        })
    }

    /// Drains the ports of all loops. Cancelled, it ends the first stage of each drain.
    pub(crate) fn drain(&self, times: Drain) -> Deferred<()> {
        let own = self.reactor().drain(times).map(drop);
        if self.count() == 1 {
            return own;
        }
        let others = self.ask_others(|_| move |reactor: &Reactor| reactor.drain(times).map(drop));
        let (answers, questions): (Vec<_>, Vec<_>) = others.into_iter().unzip();
        let canceller = own.canceller();
        let drained = all(std::iter::once(own).chain(answers));
        let (deferred, done) = Deferred::with_canceller(move |_| {
            canceller.cancel();
            questions.iter().for_each(Question::cancel);
        });
        let drained = drained.add_both(move |outcome| {
            done.resolve(outcome);
            Ok(())
        });
        drained.detach();
        deferred
    }

    /// Has a supervisor that ends drain the ports of all loops together.
    pub(crate) fn drain_at_end(&self, supervisor: Supervisor, times: Drain) -> Supervisor {
        let loops = self.clone();
        supervisor.drain_by(move |_| loops.drain(times))
    }
}

/// Fires when all of these have fired; fails with the first failure in their order.
pub(crate) fn all(answers: impl IntoIterator<Item = Deferred<()>>) -> Deferred<()> {
    list(answers).add_callback(|outcomes| outcomes.into_iter().collect())
}

/// One snapshot of the loops that have answered. Ports on one address are one port.
pub(crate) fn merge(snapshots: impl IntoIterator<Item = Option<Snapshot>>) -> Snapshot {
    let mut whole = Snapshot::default();
    for snapshot in snapshots.into_iter().flatten() {
        whole.extend(snapshot);
    }
    let mut ports: Vec<PortSnapshot> = Vec::new();
    for port in std::mem::take(&mut whole.ports) {
        match ports.iter_mut().find(|other| other.host == port.host) {
            Some(other) => {
                other.counters += port.counters;
                other.paused &= port.paused;
            }
            None => ports.push(port),
        }
    }
    whole.ports = ports;
    whole
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::mpsc;

    use couplet::testing::MemoryReactor;
    use couplet::{Loop, LoopOptions, Protocol, Shutdown, Transport};

    use super::*;
    use crate::workers::Workers;

    struct Idle;

    impl Protocol for Idle {
        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    /// The snapshot of a loop with a port on an address that each loop has.
    fn snapshot_with_port(is_paused: bool) -> Snapshot {
        let mut memory = MemoryReactor::new();
        let listening = memory.reactor().listen(SocketAddr::from(([10, 0, 0, 1], 80)), || Idle);
        let ports = listening.map(|_port| memory.listening()).expect("the port is free");
        let mut snapshot = Snapshot::default();
        snapshot.ports = ports;
        snapshot.ports[0].paused = is_paused;
        snapshot
    }

    #[test]
    fn a_port_of_all_loops_is_paused_if_it_is_in_each() {
        for paused in [[false, false], [false, true], [true, false], [true, true]] {
            let merged = merge(paused.map(|is_paused| Some(snapshot_with_port(is_paused))));
            assert_eq!(merged.ports.len(), 1);
            assert_eq!(merged.ports[0].paused, paused == [true, true], "{paused:?}");
        }
    }

    #[test]
    fn the_counters_of_a_port_of_all_loops_are_added() {
        let counted = |factor: u64| {
            let mut snapshot = snapshot_with_port(false);
            let port = &mut snapshot.ports[0];
            port.counters.accepted = factor;
            port.counters.not_opened = 2 * factor;
            port.counters.rejected = 3 * factor;
            port.counters.turned_away = 5 * factor;
            Some(snapshot)
        };
        let port = merge([counted(10), None, counted(1000)]).ports.remove(0);
        let counts = [
            port.counters.accepted,
            port.counters.not_opened,
            port.counters.rejected,
            port.counters.turned_away,
        ];
        assert_eq!(counts, [1010, 2020, 3030, 5050]);
    }

    /// A main loop, and `others` further ones. `set_up` is called in each further loop.
    fn loops(
        others: usize,
        set_up: impl FnOnce(&Reactor) + Clone + Send + 'static,
    ) -> (Loop, Workers, Loops) {
        let l = Loop::new().unwrap();
        let mut workers = Workers::default();
        enter(0, others + 1);
        for number in 1..=others {
            let set_up = set_up.clone();
            let enter = move |l: &mut Loop| {
                enter(number, others + 1);
                set_up(&l.reactor());
            };
            workers.start(LoopOptions::default(), l.reactor().remote(), enter).unwrap();
        }
        let loops = Loops::new(&l.reactor(), workers.remotes());
        (l, workers, loops)
    }

    #[test]
    fn calls_for_any_loop_go_to_each_in_its_turn() {
        for others in 0..4 {
            let (_l, _workers, loops) = loops(others, |_| ());
            let (send, receive) = mpsc::channel();
            let called = (0..9).map(|_| {
                let send = send.clone();
                loops.call_next(move |_| send.send(this_loop().number).unwrap());
                receive.recv().unwrap()
            });
            let wanted = (0..=others).cycle().take(9);
            assert_eq!(called.collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_further_loops_have_settled_once_each_has_made_the_call() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        for others in 0..3 {
            let (mut l, _workers, loops) = loops(others, |_| ());
            CALLS.store(0, Ordering::Release);
            let call = |_: &Reactor| {
                CALLS.fetch_add(1, Ordering::AcqRel);
            };
            l.run_until(loops.settle_others(call)).unwrap();
            assert_eq!(CALLS.load(Ordering::Acquire), others);
        }
    }

    #[test]
    fn one_snapshot_has_the_tasks_of_all_loops() {
        for others in 0..3 {
            let set_up = |reactor: &Reactor| {
                for _ in 0..100 {
                    reactor.spawn(std::future::pending::<couplet::Result<()>>()).detach();
                }
            };
            let (mut l, _workers, loops) = loops(others, set_up);
            let snapshot = l.run_until(loops.snapshot()).unwrap();
            assert_eq!(snapshot.tasks / 100, others);
        }
    }

    #[test]
    fn a_stop_waits_for_the_end_of_each_loop() {
        let slow = Arc::new(AtomicBool::new(false));
        let ended = slow.clone();
        let set_up = move |reactor: &Reactor| {
            if this_loop().number == 2 {
                let sleeping = reactor.clone();
                reactor.on(Shutdown::Before, move || {
                    let slept = sleeping.sleep(Duration::from_millis(100));
                    slept.map(move |()| ended.store(true, Ordering::Release))
                });
            }
        };
        let (mut l, _workers, loops) = loops(3, set_up);
        loops.watch(|failure| panic!("{failure}"));
        l.run_until(loops.stop()).unwrap();
        assert!(slow.load(Ordering::Acquire));
        assert_eq!(loops.0.alive.get(), 0);
    }

    #[test]
    fn a_stop_ends_the_only_further_loop() {
        let (mut l, _workers, loops) = loops(1, |_| ());
        loops.watch(|failure| panic!("{failure}"));
        l.run_until(loops.stop()).unwrap();
        assert_eq!(loops.0.alive.get(), 0);
    }

    /// Sends a byte, and stays.
    struct Greeter;

    impl Protocol for Greeter {
        fn connection_made(&mut self, transport: &Transport) {
            transport.write(b"!");
        }

        fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    }

    #[test]
    fn a_drain_and_its_cancellation_reach_all_loops() {
        let times = [Duration::ZERO, Duration::from_secs(1000)];
        for (others, time) in (0..3).flat_map(|others| times.map(|time| (others, time))) {
            let (send, receive) = mpsc::channel();
            let listen = move |reactor: &Reactor| {
                let port =
                    reactor.listen(SocketAddr::from(([127, 0, 0, 1], 0)), || Greeter).unwrap();
                send.send(port.host().socket_addr().unwrap()).unwrap();
            };
            let (mut l, _workers, loops) = loops(others, listen.clone());
            listen(&l.reactor());
            let hosts: Vec<SocketAddr> = (0..=others).map(|_| receive.recv().unwrap()).collect();
            let connect = move |host: &SocketAddr| {
                let mut client = TcpStream::connect(host).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                client.read_exact(&mut [0]).unwrap();
                client
            };
            let clients = l
                .reactor()
                .defer_to_thread(move || Ok(hosts.iter().map(connect).collect::<Vec<TcpStream>>()));
            let clients = l.run_until(clients).unwrap();
            let drained = loops.drain(Drain::within(time));
            if time.is_zero() {
                l.run_until(drained).unwrap();
            } else {
                drained.cancel();
            }
            let ended = l.reactor().defer_to_thread(move || {
                Ok(clients
                    .into_iter()
                    .all(|mut client| client.read(&mut [0]).is_ok_and(|n| n == 0)))
            });
            assert!(l.run_until(ended).unwrap(), "{others} {time:?}");
        }
    }
}
