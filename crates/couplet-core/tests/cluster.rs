//! Rows 103a to 103j: several loops in one program.
//!
//! A separate process, because a signal is process-wide; its tests run one at a time.
#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

mod breaking;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use breaking::break_loops;
use couplet::defer::gather;
use couplet::endpoints::{FdServer, SharedPort, TcpServer};
use couplet::reactor::{Members, NoSuchLoop};
use couplet::{
    Address, Cluster, ConnectionId, Deferred, DriverChoice, Failure, ListenError, ListenOptions,
    LoopOptions, Port, Protocol, Reactor, Reason,
};
use couplet_testkit::apart::one_at_a_time;
use couplet_testkit::needed::{Folder, inheritable};
use couplet_testkit_loops::doubles::{Echo, on_data};
use couplet_testkit_loops::suite::recorder::{A, On, Recorder, Script};
use rustix::process::{Signal, getpid, kill_process};
use socket2::{Domain, SockAddr, Socket, Type};

/// Longer than any test takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(300);

const ANY: &str = "localhost:0";

fn local(folder: &Folder) -> String {
    format!("unix:{}", folder.path("socket"))
}

fn try_connect(server: &Address) -> std::io::Result<Socket> {
    let (domain, to) = match (server.socket_addr(), server.path()) {
        (Some(to), _) => (Domain::for_address(to), SockAddr::from(to)),
        (_, Some(path)) => (Domain::UNIX, SockAddr::unix(path)?),
        _ => panic!("{server} is no address to connect to"),
    };
    let client = Socket::new(domain, Type::STREAM, None)?;
    client.set_read_timeout(Some(LONG))?;
    client.connect(&to)?;
    Ok(client)
}

fn connect(server: &Address) -> Socket {
    try_connect(server).expect("the cluster listens")
}

/// Answers each read with the number of its thread.
fn who(number: u8) -> impl Protocol {
    on_data(move |transport, _| transport.write([number]))
}

/// Connects and asks; returns the number of the loop that answers.
fn asked(server: &Address) -> (Socket, u8) {
    let client = asking(server);
    let who = answer(&client);
    (client, who)
}

/// Connects and asks, without waiting for the answer.
fn asking(server: &Address) -> Socket {
    let mut client = connect(server);
    client.write_all(b"?").expect("it is served");
    client
}

fn answer(mut client: &Socket) -> u8 {
    let mut who = [0];
    client.read_exact(&mut who).expect("an answer");
    who[0]
}

/// The number of clients that each loop serves.
fn tally<const LOOPS: usize>(clients: &[(Socket, u8)]) -> [usize; LOOPS] {
    let mut tally = [0; LOOPS];
    clients.iter().for_each(|(_, who)| tally[usize::from(*who)] += 1);
    tally
}

/// Runs a cluster, and `work` in another thread; returns the outcomes of both.
fn beside<T: Send>(
    cluster: Cluster,
    setup: impl Fn(&Reactor) -> Result<(), Failure> + Send + Sync,
    work: impl FnOnce() -> T + Send,
) -> (Result<(), Failure>, T) {
    thread::scope(|scope| {
        let working = scope.spawn(work);
        let ended = cluster.run(setup);
        (ended, working.join().expect("the work does not panic"))
    })
}

#[test]
fn c103a_a_port_is_bound_once_and_each_loop_accepts_a_part() {
    each_loop_accepts_a_part(LoopOptions::default());
}

#[test]
fn c103a_c106b_each_loop_over_io_uring_accepts_a_part() {
    each_loop_accepts_a_part(over_io_uring());
}

/// Options of loops over io_uring; where the system forbids it they have epoll, and log that.
fn over_io_uring() -> LoopOptions {
    LoopOptions::default().driver(DriverChoice::Uring)
}

fn each_loop_accepts_a_part(options: LoopOptions) {
    let _turn = one_at_a_time();
    with_ports_of(Cluster::new(4).options(options), ANY, |ports| {
        let answers = tally::<4>(&ports.ask(60));
        assert!(answers.iter().all(|accepted| *accepted > 0), "{answers:?}");
    });
}

/// The system error of a failed bind.
fn refused(bound: Result<SharedPort, Failure>) -> Option<i32> {
    let failure = bound.expect_err("it is in use");
    failure.downcast_ref::<ListenError>().expect("an error of the port").raw_os_error()
}

#[test]
fn c103a_a_port_that_is_in_use_is_an_error_of_the_caller() {
    let _turn = one_at_a_time();
    let in_use = Some(rustix::io::Errno::ADDRINUSE.raw_os_error());
    let taken = std::net::TcpListener::bind("localhost:0").expect("a free port");
    let at = taken.local_addr().expect("an address");
    assert_eq!(refused(Cluster::new(2).bind(TcpServer::new(at))), in_use);
    let cluster = Cluster::new(2);
    let port = cluster.bind(ANY).expect("a free port");
    let at = port.host().socket_addr().expect("a TCP port");
    let other = Cluster::new(2).bind(TcpServer::new(at));
    assert_eq!(refused(other), in_use, "another cluster does not take a part of its clients");
    let options = ListenOptions::default().reuse_port(true);
    let shared = Cluster::new(2).bind(TcpServer::new(at).options(options));
    assert_eq!(shared.expect("as it was asked for").host(), port.host());
}

#[test]
fn c103b_a_stop_of_one_loop_stops_all_and_their_triggers_are_called() {
    let _turn = one_at_a_time();
    let (numbers, stopped) = (AtomicUsize::new(0), Arc::<AtomicUsize>::default());
    let ended = couplet::cluster(3, |reactor| {
        let stopped = stopped.clone();
        reactor.on(couplet::Shutdown::After, move || {
            stopped.fetch_add(1, Ordering::SeqCst);
            Deferred::succeed(())
        });
        if numbers.fetch_add(1, Ordering::SeqCst) == 2 {
            reactor.stop();
        }
        Ok(())
    });
    ended.expect("a stop is no failure");
    assert_eq!(stopped.load(Ordering::SeqCst), 3);
}

#[test]
fn c103c_a_failing_setup_ends_the_program_with_its_failure() {
    let _turn = one_at_a_time();
    let numbers = AtomicUsize::new(0);
    let third =
        |how: &dyn Fn() -> Result<(), Failure>| match numbers.fetch_add(1, Ordering::SeqCst) % 3 {
            2 => how(),
            _ => Ok(()),
        };
    let failed = Cluster::new(3).restart(true).run(|_| third(&|| Err(Failure::msg("no poems"))));
    assert_eq!(failed.expect_err("a setup failed").to_string(), "no poems");
    let panicked = couplet::cluster(3, |_| third(&|| panic!("no poets")));
    let panicked = panicked.expect_err("a setup panicked").to_string();
    assert!(panicked.contains("no poets"), "{panicked}");
}

struct Ends(mpsc::Sender<()>);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

thread_local! {
    static ENDS: RefCell<Option<Ends>> = const { RefCell::new(None) };
}

#[test]
fn c103c_the_first_of_two_failures_fails_the_program() {
    let _turn = one_at_a_time();
    for panics in [false, true] {
        let (sender, ended) = mpsc::channel();
        let (sender, ended) = (Mutex::new(Some(sender)), Mutex::new(ended));
        let calling = thread::current().id();
        let failed = Cluster::new(2).run(|_| {
            if thread::current().id() == calling {
                // A loop's failure is reported when its thread ends, so this one comes second.
                ended.lock().expect("one waits").recv().expect("it ends");
                return Err(Failure::msg("second"));
            }
            let sender = sender.lock().expect("one sends").take().map(Ends);
            ENDS.with(|ends| *ends.borrow_mut() = sender);
            match panics {
                true => panic!("first"),
                false => Err(Failure::msg("first")),
            }
        });
        let failure = failed.expect_err("both failed").to_string();
        assert!(failure.contains("first") && !failure.contains("second"), "{failure}");
    }
}

#[test]
fn c103c_a_loop_that_fails_ends_the_program_or_is_made_again() {
    let _turn = one_at_a_time();
    for restarts in [false, true] {
        let (setups, folder) = (AtomicUsize::new(0), Folder::new());
        let unix = local(&folder);
        let cluster = Cluster::new(2).restart(restarts);
        let ports = [ANY, &unix].map(|at| cluster.bind(at).expect("a free port"));
        let (members, (sender, made)) = (cluster.members(), mpsc::channel());
        let ended = thread::scope(|scope| {
            let (members, ports) = (&members, &ports);
            scope.spawn(move || {
                let made = || made.recv().expect("a loop is set up");
                made();
                made();
                for _ in 0..if restarts { 3 } else { 1 } {
                    break_loops();
                    // Wakes the loops that are waiting.
                    members.broadcast(|_| {});
                    if restarts {
                        made();
                        made();
                        ports.iter().for_each(|port| drop(asked(port.host())));
                    }
                }
                if restarts {
                    members.stop();
                }
            });
            cluster.run(|reactor| {
                setups.fetch_add(1, Ordering::SeqCst);
                for port in ports {
                    port.listen(reactor, || who(0))?;
                }
                let sender = sender.clone();
                // Sent after the setup.
                reactor.call_soon(move || sender.send(()).expect("the test listens"));
                Ok(())
            })
        });
        assert_eq!(ended.is_ok(), restarts, "{ended:?}");
        assert_eq!(setups.load(Ordering::SeqCst), if restarts { 8 } else { 2 });
    }
}

/// Answers, closes when a drain asks, and reports its reason.
fn polite(sender: mpsc::Sender<Reason>) -> Script {
    let script = Script::new().on(On::Data, |transport| transport.write("hello"));
    let script = script.on(On::Draining, |transport| {
        transport.write("bye");
        transport.lose_connection();
    });
    script.on_a(On::Lost, move |a, _| _ = sender.send(a.reason()))
}

#[test]
fn c103d_a_signal_drains_and_stops_every_loop() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let unix = local(&folder);
    for at in [ANY, &unix] {
        let cluster = Cluster::new(4).options(LoopOptions::default().drain(LONG));
        let port = cluster.bind(at).expect("a free port");
        let (sender, lost) = mpsc::channel();
        let setup = |reactor: &Reactor| {
            let sender = sender.clone();
            port.listen(reactor, A::default().makes(move || polite(sender.clone())))?;
            Ok(())
        };
        let (ended, ()) = beside(cluster, setup, || {
            let mut clients: Vec<_> = (0..40).map(|_| connect(port.host())).collect();
            for client in &mut clients {
                client.write_all(b"hello").expect("it is served");
                client.read_exact(&mut [0; 5]).expect("an echo");
            }
            signal(Signal::TERM);
            for client in &mut clients {
                let mut rest = String::new();
                client.read_to_string(&mut rest).expect("a clean end");
                assert_eq!(rest, "bye");
            }
        });
        ended.expect("a signal is no failure");
        drop(sender);
        let reasons: Vec<_> = lost.iter().collect();
        assert_eq!(reasons.len(), 40);
        assert!(reasons.iter().all(|reason| matches!(reason, Reason::Done(_))), "{reasons:?}");
        assert!(!folder.join("socket").exists());
    }
}

fn signal(signal: Signal) {
    kill_process(getpid(), signal).expect("a signal to ourselves");
}

#[test]
fn signals_that_come_together_are_all_handled() {
    let _turn = one_at_a_time();
    let options = LoopOptions::default().signals(true);
    let mut l = couplet::Loop::with_options(options).expect("a poll descriptor");
    let (shown, showing) = Deferred::<()>::new();
    let mut showing = Some(showing);
    l.on_snapshot(move |_| showing.take().into_iter().for_each(|showing| showing.callback(())));
    l.run(|reactor| {
        // The end waits for the snapshot.
        reactor.on(couplet::Shutdown::Before, move || shown);
        // SIGINT first: it begins the end.
        for next in [Signal::INT, Signal::USR1] {
            signal(next);
            until_handled();
        }
        Ok(())
    })
    .expect("its wait works");
}

/// Waits until a thread of the process has taken the signals sent to it.
fn until_handled() {
    while signals_in("ShdPnd:") != 0 {
        thread::yield_now();
    }
    (0..100).for_each(|_| thread::yield_now());
}

/// A set of signals in the status of this process.
fn signals_in(set: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has one");
    let mask = status.lines().find_map(|line| line.strip_prefix(set)).expect("a mask");
    u64::from_str_radix(mask.trim(), 16).expect("a number")
}

fn notify_of_its_end(reactor: &Reactor, sender: &mpsc::Sender<()>) {
    let sender = sender.clone();
    reactor.on(couplet::Shutdown::After, move || {
        sender.send(()).expect("the test waits");
        Deferred::succeed(())
    });
}

#[test]
fn c103d_a_second_signal_ends_the_loops_that_still_drain() {
    let _turn = one_at_a_time();
    let cluster = Cluster::new(2).options(LoopOptions::default().drain(LONG));
    let port = cluster.bind(ANY).expect("a free port");
    let first = thread::current().id();
    let (sender, first_has_ended) = mpsc::channel();
    let setup = |reactor: &Reactor| {
        if thread::current().id() == first {
            notify_of_its_end(reactor, &sender);
        } else {
            port.listen(reactor, || Echo)?;
        }
        Ok(())
    };
    let host = port.host();
    let (ended, ()) = beside(cluster, setup, move || {
        let mut client = asking(host);
        client.read_exact(&mut [0]).expect("an answer");
        signal(Signal::TERM);
        first_has_ended.recv().expect("it has nothing to drain");
        signal(Signal::TERM);
        assert_eq!(client.read(&mut [0]).expect("a clean end"), 0);
    });
    ended.expect("a signal is no failure");
}

#[test]
fn c103d_the_loop_of_the_signals_waits_for_one_that_stops_later() {
    let _turn = one_at_a_time();
    let first = thread::current().id();
    let (sender, stopped) = mpsc::channel();
    let ended = couplet::cluster(2, |reactor| {
        if thread::current().id() != first {
            let (sender, stopping) = (sender.clone(), reactor.clone());
            reactor.on(couplet::Shutdown::Before, move || {
                stopping
                    .sleep(Duration::from_millis(200))
                    .map(move |()| sender.send(()).expect("the test waits"))
            });
            reactor.stop();
        }
        Ok(())
    });
    ended.expect("a stop is no failure");
    stopped.try_recv().expect("all loops have stopped");
}

fn catches_sigterm() -> bool {
    signals_in("SigCgt:") & (1 << (Signal::TERM.as_raw() - 1)) != 0
}

#[test]
fn c103d_where_a_loop_hangs_the_signal_after_the_second_may_end_the_program() {
    let _turn = one_at_a_time();
    let first = thread::current().id();
    let (sender, first_has_ended) = mpsc::channel();
    let (go_on, hangs) = mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let setup = |reactor: &Reactor| {
        if thread::current().id() == first {
            notify_of_its_end(reactor, &sender);
        } else {
            sender.send(()).expect("the test waits");
            let _ = hangs.lock().expect("no panic").recv();
        }
        Ok(())
    };
    let (ended, ()) = beside(Cluster::new(2), setup, move || {
        first_has_ended.recv().expect("the second loop hangs");
        signal(Signal::TERM);
        first_has_ended.recv().expect("it has nothing to wait for");
        assert!(catches_sigterm());
        // Two signals of one kind might merge.
        signal(Signal::TERM);
        signal(Signal::INT);
        while catches_sigterm() {
            thread::yield_now();
        }
        drop(go_on);
    });
    ended.expect("a signal is no failure");
}

#[test]
fn c103e_a_tell_reaches_the_loop_of_its_connection_and_no_other() {
    let _turn = one_at_a_time();
    let ids = Arc::<Mutex<Vec<ConnectionId>>>::default();
    let cluster = Cluster::new(3);
    let port = cluster.bind(ANY).expect("a free port");
    let members = cluster.members();
    let setup = |reactor: &Reactor| {
        let ids = ids.clone();
        let known = move || {
            let ids = ids.clone();
            Script::new().once(On::Made, move |transport| {
                ids.lock().expect("no panic").push(transport.id());
                transport.write("!");
            })
        };
        port.listen(reactor, A::default().makes(known))?;
        Ok(())
    };
    let (ended, ()) = beside(cluster, setup, || {
        let clients: Vec<_> = (0..30).map(|_| connect(port.host())).collect();
        for client in &clients {
            (&mut &*client).read_exact(&mut [0]).expect("it is made");
        }
        let known = ids.lock().expect("no panic").clone();
        for id in known {
            let told = members.tell(id, move |_: &mut Recorder, transport| {
                assert_eq!(transport.id(), id);
                transport.write(format!("{}\n", transport.peer().port().expect("a TCP peer")));
                transport.lose_connection();
            });
            told.expect("its loop runs");
        }
        for client in &clients {
            let mut said = String::new();
            (&mut &*client).read_to_string(&mut said).expect("a clean end");
            let own = client.local_addr().expect("an address");
            let own = own.as_socket().expect("a TCP client").port();
            assert_eq!(said, format!("{own}\n"));
        }
        members.stop();
    });
    ended.expect("the cluster was stopped");
    let gone = ids.lock().expect("no panic")[0];
    let told = members.tell(gone, |_: &mut Recorder, _| {});
    assert_eq!(told, Err(NoSuchLoop(gone)), "its loop is gone");
}

#[test]
fn c103f_one_snapshot_shows_all_loops_on_request_and_at_a_signal() {
    let _turn = one_at_a_time();
    let (sender, shown) = mpsc::channel();
    let cluster = Cluster::new(3).on_snapshot(move |snapshot| {
        sender.send(snapshot.clone()).expect("the test waits");
    });
    with_ports_of(cluster, ANY, move |ports| {
        let _clients = ports.ask(30);
        let (remote, asking) = (ports.members.remotes().remove(1), ports.members.clone());
        let asked = remote.block_on_reactor(move |reactor| asking.snapshot(reactor));
        signal(Signal::USR1);
        for snapshot in [asked.expect("all loops answer"), shown.recv().expect("it is shown")] {
            assert_eq!((snapshot.ports.len(), snapshot.connections.len()), (3, 30));
            assert_eq!(snapshot.ports.iter().map(|port| port.counters.accepted).sum::<u64>(), 30);
            let loops = snapshot.connections.iter().map(|c| c.id.to_string());
            let loops = loops.map(|id| id.split('.').next().map(str::to_owned));
            assert_eq!(loops.collect::<BTreeSet<_>>().len(), 3);
        }
    });
}

#[test]
fn c103i_pin_gives_each_loop_its_own_processor() {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let _turn = one_at_a_time();
    let usable = || {
        let set = sched_getaffinity(None).expect("the system has it");
        (0..CpuSet::MAX_CPU).filter(|processor| set.is_set(*processor)).collect::<Vec<_>>()
    };
    let all = usable();
    let (used, by_jobs) = (Mutex::new(Vec::new()), Arc::<Mutex<Vec<_>>>::default());
    let loops = all.len() + 1;
    let ended = Cluster::new(loops).pin(true).run(|reactor| {
        used.lock().expect("no panic").push(usable());
        let (stopping, by_jobs) = (reactor.clone(), by_jobs.clone());
        let job = reactor.defer_to_thread(move || Ok(usable()));
        job.map(move |processors| {
            let mut by_jobs = by_jobs.lock().expect("no panic");
            by_jobs.push(processors);
            if by_jobs.len() == loops {
                stopping.stop();
            }
        })
        .detach();
        Ok(())
    });
    ended.expect("the cluster was stopped");
    let mut used = used.into_inner().expect("no panic");
    used.sort();
    let mut expected: Vec<_> = all.iter().chain(&all[..1]).map(|one| vec![*one]).collect();
    expected.sort();
    assert_eq!(used, expected);
    let by_jobs = by_jobs.lock().expect("no panic");
    assert!(by_jobs.iter().all(|processors| *processors == all), "{by_jobs:?}");
    assert_eq!(usable(), all, "the calling thread is free again");
}

#[test]
fn c103e_broadcasts_of_several_threads_reach_each_loop_once_and_in_their_order() {
    const SENDERS: usize = 12;
    const CALLS: usize = 100;
    let _turn = one_at_a_time();
    with_ports(4, ANY, |ports| {
        let (sender, heard) = mpsc::channel();
        let everybody = Barrier::new(SENDERS);
        thread::scope(|scope| {
            for number in 0..SENDERS {
                let (sender, everybody) = (sender.clone(), &everybody);
                scope.spawn(move || {
                    everybody.wait();
                    for call in 0..CALLS {
                        let sender = sender.clone();
                        let says = move |_: &Reactor| {
                            sender.send((NUMBER.get(), number, call)).expect("the test listens");
                        };
                        assert_eq!(ports.members.broadcast(says), 4);
                    }
                });
            }
        });
        drop(sender);
        let mut next = [[0; SENDERS]; 4];
        for (at, from, call) in heard {
            let next = &mut next[usize::from(at)][from];
            assert_eq!(call, *next, "of sender {from} in loop {at}");
            *next += 1;
        }
        assert_eq!(next, [[CALLS; SENDERS]; 4]);
    });
}

/// The ports of a cluster whose loops answer with their numbers; a test can run code in each port's
/// loop.
struct Ports {
    members: Members,
    host: Address,
}

thread_local! {
    static PORT: RefCell<Option<Port>> = const { RefCell::new(None) };
}

impl Ports {
    /// Runs `f` in the loop with this number.
    fn at<T: Send + 'static>(
        &self,
        number: u8,
        f: impl Fn(&Port) -> T + Send + Sync + 'static,
    ) -> T {
        let (sender, receiver) = mpsc::channel();
        self.in_loop(number, move |port| sender.send(f(port)).expect("the test waits"));
        receiver.recv().expect("a loop has this number")
    }

    /// Like [`at`](Self::at), without waiting for `f`.
    fn in_loop(&self, number: u8, f: impl Fn(&Port) + Send + Sync + 'static) {
        self.members.broadcast(move |_| {
            PORT.with_borrow(|port| match port {
                Some(port) if NUMBER.get() == number => f(port),
                _ => {}
            });
        });
    }

    fn settle(&self) {
        for remote in self.members.remotes() {
            remote.block_on_reactor(|reactor| reactor.snapshot()).expect("it runs");
        }
    }

    fn ask(&self, clients: usize) -> Vec<(Socket, u8)> {
        (0..clients).map(|_| asked(&self.host)).collect()
    }
}

thread_local! {
    static NUMBER: std::cell::Cell<u8> = const { std::cell::Cell::new(0) };
}

/// Runs a cluster whose loops listen in the order of their numbers, and the test in another thread.
fn with_ports(loops: usize, at: &str, test: impl FnOnce(&Ports) + Send) {
    with_ports_of(Cluster::new(loops), at, test);
}

fn with_ports_of(cluster: Cluster, at: &str, test: impl FnOnce(&Ports) + Send) {
    let loops = cluster.members().count();
    let port = cluster.bind(at).expect("a free port");
    let (members, next) = (cluster.members(), Mutex::new(0));
    let listening = Barrier::new(loops + 1);
    let ended = thread::scope(|scope| {
        let testing = scope.spawn(|| {
            listening.wait();
            let ports = Ports { members: members.clone(), host: port.host().clone() };
            // Stops the loops even if the test panics.
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&ports)));
            members.stop();
            tested
        });
        let ended = cluster.run(|reactor: &Reactor| {
            let mut next = next.lock().expect("no panic");
            let number = *next;
            *next += 1;
            NUMBER.set(number);
            let listens = port.listen(reactor, move || who(number))?;
            drop(next);
            PORT.set(Some(listens));
            // The first loop runs in the test's thread, which outlives it.
            reactor.on(couplet::Shutdown::After, || {
                PORT.set(None);
                Deferred::succeed(())
            });
            listening.wait();
            Ok(())
        });
        if let Err(panicked) = testing.join().expect("its panics are caught") {
            std::panic::resume_unwind(panicked);
        }
        ended
    });
    ended.expect("the cluster was stopped");
}

/// [`with_ports`] at a UNIX socket in a folder of the test, which has the process to itself.
fn with_unix_ports(loops: usize, test: impl FnOnce(&Ports, &Folder) + Send) {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    with_ports(loops, &local(&folder), |ports| test(ports, &folder));
    assert!(!folder.join("socket").exists(), "its file is removed");
}

#[test]
fn c103g_a_connection_goes_to_the_loop_with_the_fewest() {
    with_unix_ports(4, |ports, _| {
        let clients = ports.ask(40);
        assert_eq!(tally(&clients), [10; 4]);
        let (gone, left): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(_, who)| *who == 2);
        for (client, _) in gone {
            client.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!((&client).read(&mut [0]).expect("a clean end"), 0);
        }
        ports.settle();
        assert_eq!(tally(&ports.ask(10)), [0, 0, 10, 0]);
        drop(left);
    });
}

/// Messages move the connections into the rings, where they stay with their loops.
#[test]
fn c103g_c106b_loops_over_io_uring_share_a_port_too() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let cluster = Cluster::new(4).options(over_io_uring());
    with_ports_of(cluster, &local(&folder), |ports| {
        assert_eq!(tally(&ports.ask(40)), [10; 4]);
    });
    with_ports_of(Cluster::new(4).options(over_io_uring()), ANY, |ports| {
        for (mut client, who) in ports.ask(40) {
            for _ in 0..10 {
                client.write_all(b"?").expect("it is served");
                assert_eq!(answer(&client), who);
            }
        }
    });
}

/// The others wait until a connection of any loop has ended.
#[test]
fn c22c_each_loop_has_a_share_of_the_most_connections() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    with_ports(2, &format!("{}:connections=4", local(&folder)), |ports| {
        let served = ports.ask(4);
        assert_eq!(tally(&served), [2, 2]);
        let mut waiting: Vec<_> = (0..4).map(|_| asking(&ports.host)).collect();
        let mut held = Vec::new();
        for (client, who) in served {
            ports.settle();
            for client in &waiting {
                client.set_nonblocking(true).expect("it is open");
                (&*client).read(&mut [0]).expect_err("it is not accepted");
                client.set_nonblocking(false).expect("it is open");
            }
            client.shutdown(Shutdown::Write).expect("it is open");
            assert_eq!(answer(&waiting[0]), who, "its loop has room");
            held.push(waiting.remove(0));
        }
    });
}

#[test]
fn c103g_every_kind_of_endpoint_is_shared() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let unix = local(&folder);
    let capture = folder.path("traffic.pcap");
    let inherited = std::net::TcpListener::bind("localhost:0").expect("a free port");
    for at in [
        unix.clone(),
        FdServer::new(inheritable(&inherited)).to_string(),
        "throttle:localhost:0:read=1M:shared=yes".to_owned(),
        format!("throttle:{unix}:write=1M"),
        format!("log:{unix}:file={capture}"),
        "haproxy:localhost:0".to_owned(),
    ] {
        let begins = if at.starts_with("haproxy") { "PROXY UNKNOWN\r\n" } else { "" };
        with_ports(3, &at, |ports| {
            let mut clients: Vec<_> = (0..30).map(|_| connect(&ports.host)).collect();
            for client in &mut clients {
                write!(client, "{begins}?").expect("it is served");
            }
            let served = clients.into_iter().map(|client| (answer(&client), client));
            let served: Vec<_> = served.map(|(who, client)| (client, who)).collect();
            assert!(tally::<3>(&served).iter().all(|part| *part > 0), "{at}");
        });
    }
}

#[test]
fn c103g_a_capture_begins_once_and_before_any_loop_listens() {
    let folder = Folder::new();
    let at = format!("log:{}:file={}", local(&folder), folder.path("traffic.pcap"));
    for _ in 0..2 {
        Cluster::new(3).bind(at.as_str()).expect("a free path");
        let capture = std::fs::read(folder.join("traffic.pcap")).expect("a capture");
        assert_eq!(capture.len(), 24, "its header");
    }
}

#[cfg(feature = "tls")]
#[test]
fn c103g_a_session_of_one_loop_is_resumed_by_the_others() {
    use couplet_testkit::needed::SelfSigned;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let unix = local(&folder);
    let made = SelfSigned::new("couplet.test");
    let file = folder.write("server.pem", made.pem());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&file).expect("a certificate")).expect("a valid one");
    let trusting = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let trusting = Arc::new(trusting);
    with_ports(2, &format!("tls:{unix}:cert={file}"), |ports| {
        let ask = || {
            let name = ServerName::try_from("couplet.test").expect("a name");
            let client = ClientConnection::new(trusting.clone(), name).expect("a configuration");
            let mut client = StreamOwned::new(client, connect(&ports.host));
            let mut who = [0];
            client.write_all(b"?").expect("it is served");
            client.read_exact(&mut who).expect("an answer");
            (client.conn.handshake_kind(), who[0], client)
        };
        // The clients stay connected, so the loops alternate.
        let clients = [ask(), ask(), ask()];
        let seen = clients.map(|(kind, who, _)| (kind == Some(HandshakeKind::Resumed), who));
        assert_eq!(seen, [(false, 0), (true, 1), (true, 0)]);
    });
}

#[test]
fn c103g_an_endpoint_that_cannot_be_shared_is_an_error_of_the_caller() {
    #[derive(Debug)]
    struct Alone;
    impl couplet::endpoints::ServerEndpoint for Alone {
        fn listen(&self, _: &Reactor, _: couplet::factory::ErasedFactory) -> Result<Port, Failure> {
            Err(Failure::msg("never asked"))
        }
    }
    impl std::fmt::Display for Alone {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("alone:")
        }
    }
    let refused = Cluster::new(2).bind(Alone).expect_err("it has no `share`");
    assert_eq!(refused.to_string(), "cannot share alone: among several loops");
    let gone = Cluster::new(2).bind("fd:12345").expect_err("it is not open").to_string();
    assert!(gone.contains("cannot use descriptor 12345"), "{gone}");
}

#[test]
fn c103h_when_the_loop_that_accepts_stops_listening_another_one_accepts() {
    with_unix_ports(3, |ports, folder| {
        let held = ports.ask(3);
        for number in [0, 1] {
            ports.at(number, |port| drop(port.stop_listening()));
            ports.settle();
            let after = tally::<3>(&ports.ask(6));
            assert!(after[..=usize::from(number)].iter().all(|served| *served == 0), "{after:?}");
        }
        assert_eq!(tally::<3>(&held), [1; 3], "their connections stay open");
        ports.at(2, |port| drop(port.stop_listening()));
        ports.settle();
        assert!(!folder.join("socket").exists());
        try_connect(&ports.host).expect_err("nobody listens");
        ports.at(1, |port| port.start_listening().expect("the path is free"));
        ports.settle();
        let held = ports.ask(6);
        assert_eq!(tally(&held), [0, 6, 0]);
        ports.at(0, |port| port.start_listening().expect("it listens already"));
        ports.settle();
        assert_eq!(ports.ask(1)[0].1, 0, "it has the fewest");
    });
}

#[test]
fn c103h_a_loop_that_pauses_gets_none() {
    with_unix_ports(2, |ports, _| {
        for (paused, expected) in [(0, [0, 4]), (1, [4, 0])] {
            ports.at(paused, Port::pause_producing);
            ports.settle();
            assert_eq!(tally(&ports.ask(4)), expected);
            ports.at(paused, Port::resume_producing);
            ports.settle();
        }
        ports.at(0, Port::pause_producing);
        ports.at(1, Port::pause_producing);
        ports.settle();
        let waits = asking(&ports.host);
        ports.settle();
        ports.at(1, Port::resume_producing);
        assert_eq!(answer(&waits), 1, "it waited for whoever is ready first");
    });
}

#[test]
fn c103h_a_port_that_drains_ends_the_connections_that_it_serves() {
    with_unix_ports(2, |ports, _| {
        let clients = ports.ask(6);
        ports.at(0, |port| drop(port.drain(Duration::ZERO)));
        for (client, who) in &clients {
            if *who == 0 {
                assert_eq!((&*client).read(&mut [0]).expect("a clean end"), 0);
            }
        }
        ports.settle();
        for (mut client, who) in clients {
            if who == 1 {
                client.write_all(b"?").expect("it is served");
                assert_eq!(answer(&client), 1);
            }
        }
        assert_eq!(tally(&ports.ask(3)), [0, 3]);
    });
}

/// Blocks the loop with number 1 until the sender sends or is dropped; then runs `then` there.
fn hold_up(ports: &Ports, then: fn(&Port)) -> mpsc::Sender<()> {
    let (go_on, held) = mpsc::channel();
    let (holds, waits) = mpsc::channel();
    let held = Mutex::new(held);
    ports.in_loop(1, move |port| {
        holds.send(()).expect("the test waits");
        let _ = held.lock().expect("one call").recv();
        then(port);
    });
    waits.recv().expect("it is held up");
    go_on
}

#[test]
fn c103h_connections_in_transit_to_a_loop_that_stops_listening_go_to_another() {
    with_unix_ports(2, |ports, _| {
        let go_on = hold_up(ports, |port| drop(port.stop_listening()));
        let clients: Vec<_> = (0..10).map(|_| asking(&ports.host)).collect();
        // Half of them are answered now, so the others have been handed over.
        let early: Vec<_> = clients.iter().step_by(2).map(answer).collect();
        assert_eq!(early, [0; 5]);
        drop(go_on);
        let late: Vec<_> = clients.iter().skip(1).step_by(2).map(answer).collect();
        assert_eq!(late, [0; 5]);
    });
}

#[test]
fn c103h_at_most_the_backlog_is_in_transit_to_a_loop() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let unix = local(&folder);
    with_ports(2, &format!("{}:backlog=3", unix), |ports| {
        let go_on = hold_up(ports, |_| {});
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(asking(&ports.host));
            // Drains the listening socket, whose own queue has the same limit.
            ports.at(0, |_| ());
        }
        let (late, early): (Vec<_>, Vec<_>) =
            clients.iter().enumerate().partition(|(number, _)| [1, 3, 5].contains(number));
        assert!(early.into_iter().all(|(_, client)| answer(client) == 0));
        drop(go_on);
        assert!(late.into_iter().all(|(_, client)| answer(client) == 1));
        assert_eq!(tally(&ports.ask(14)), [0, 14], "until it has as many as the other");
    });
}

#[test]
fn c103h_connections_in_transit_to_a_dropped_loop_go_to_another() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let at = format!("{}:backlog=1000000", local(&folder));
    let port = Cluster::new(2).bind(at).expect("a free path");
    let ((mut l, _), (gone, _)) = (answering(&port, 0), answering(&port, 1));
    let clients = [(); 4].map(|()| asking(port.host()));
    l.turn(Some(Duration::ZERO)).expect("its wait works");
    l.turn(Some(Duration::ZERO)).expect("its wait works");
    drop(gone);
    assert_eq!(clients.map(|client| turned_until_answered(&mut l, client)), [0; 4]);
}

fn answering(port: &SharedPort, number: u8) -> (couplet::Loop, Port) {
    let l = couplet::Loop::new().expect("a poll descriptor");
    let port = port.listen(&l.reactor(), move || who(number)).expect("it is bound");
    (l, port)
}

fn turned_until_answered(l: &mut couplet::Loop, client: Socket) -> u8 {
    let answers = thread::spawn(move || answer(&client));
    while !answers.is_finished() {
        l.turn(Some(Duration::from_millis(1))).expect("its wait works");
    }
    answers.join().expect("no panic")
}

#[test]
fn c103h_clients_wait_while_no_loop_is_left() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let port = Cluster::new(1).bind(local(&folder)).expect("a free path");
    let early = asking(port.host());
    drop(answering(&port, 0));
    let late = asking(port.host());
    let (mut l, listens) = answering(&port, 1);
    assert_eq!([early, late].map(|client| turned_until_answered(&mut l, client)), [1, 1]);
    drop(listens.stop_listening());
    try_connect(port.host()).expect_err("the last has stopped listening");
}

#[test]
fn c103h_a_loop_may_have_to_accept_before_it_has_turned() {
    let _turn = one_at_a_time();
    let folder = Folder::new();
    let port = Cluster::new(2).bind(local(&folder)).expect("a free path");
    let ((_first, stops), (mut second, _)) = (answering(&port, 0), answering(&port, 1));
    drop(stops.stop_listening());
    let client = asking(port.host());
    assert_eq!(turned_until_answered(&mut second, client), 1);
}

#[test]
fn c103f_snapshots_of_all_loops_are_asked_for_together_and_again() {
    let _turn = one_at_a_time();
    let (sender, shown) = mpsc::channel();
    let cluster = Cluster::new(3).on_snapshot(move |snapshot| {
        sender.send(snapshot.clone()).expect("the test waits");
    });
    with_ports_of(cluster, ANY, move |ports| {
        let _clients = ports.ask(30);
        for _ in 0..2 {
            let (remote, asking) = (ports.members.remotes().remove(1), ports.members.clone());
            let asked = remote.block_on_reactor(move |reactor| {
                gather([asking.snapshot(reactor), asking.snapshot(reactor)])
            });
            signal(Signal::USR1);
            let mut all = asked.expect("all loops answer");
            all.push(shown.recv().expect("it is shown"));
            for snapshot in all {
                assert_eq!((snapshot.ports.len(), snapshot.connections.len()), (3, 30));
            }
        }
    });
}
