//! Rows 103a to 103f: many loops, one program.
//!
//! A separate process, because a signal is process-wide; its tests run one at a time.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_types, reason = "the tests' peers are blocking sockets")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::reactor::{Members, NoSuchLoop};
use couplet::{Cluster, ConnectionId, Deferred, Failure, LoopOptions, Protocol, Reason, Transport};
use couplet_os::descriptor::Foreign;
use rustix::process::{Signal, getpid, kill_process};

/// Longer than any test takes: whatever reaches it hangs.
const LONG: Duration = Duration::from_secs(60);

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn connect(server: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(server).expect("the cluster listens");
    client.set_read_timeout(Some(LONG)).expect("a nonzero timeout");
    client
}

/// The number of the thread that it runs in, as an answer to anything.
struct Who(u8);

impl Protocol for Who {
    fn data_received(&mut self, transport: &Transport, _: &[u8]) {
        transport.write([self.0]);
    }
}

/// Who answers on a new connection.
fn asked(server: SocketAddr) -> (TcpStream, u8) {
    let mut client = connect(server);
    client.write_all(b"?").expect("it is served");
    let mut who = [0];
    client.read_exact(&mut who).expect("an answer");
    (client, who[0])
}

/// Runs a cluster whose loops answer with their numbers, and once all of them listen clients in a thread;
/// returns what both did.
fn with_clients<T: Send>(
    cluster: Cluster,
    clients: impl FnOnce(SocketAddr, &Members) -> T + Send,
) -> (Result<(), Failure>, T) {
    let port = cluster.bind(any(), Default::default()).expect("a free port");
    let (members, numbers) = (cluster.members(), AtomicUsize::new(0));
    let listening = Barrier::new(members.count() + 1);
    thread::scope(|scope| {
        let working = scope.spawn(|| {
            listening.wait();
            clients(port.host(), &members)
        });
        let ended = cluster.run(|reactor| {
            let number = numbers.fetch_add(1, Ordering::SeqCst) as u8;
            port.listen(reactor, move || Who(number))?;
            listening.wait();
            Ok(())
        });
        (ended, working.join().expect("the clients do not panic"))
    })
}

#[test]
fn c103a_a_port_is_bound_once_and_each_loop_accepts_a_part() {
    let _turn = one_at_a_time();
    let (ended, answers) = with_clients(Cluster::new(4), |server, members| {
        let mut answers = [0; 4];
        let held: Vec<_> = (0..200).map(|_| asked(server)).collect();
        held.iter().for_each(|(_, who)| answers[usize::from(*who)] += 1);
        members.stop();
        answers
    });
    ended.expect("the cluster was stopped");
    assert_eq!(answers.iter().sum::<i32>(), 200);
    assert!(answers.iter().all(|accepted| *accepted > 0), "{answers:?}");
}

#[test]
fn c103a_a_port_that_is_in_use_is_an_error_of_the_caller() {
    let _turn = one_at_a_time();
    let taken = std::net::TcpListener::bind(any()).expect("a free port");
    let at = taken.local_addr().expect("an address");
    let error = Cluster::new(2).bind(at, Default::default()).expect_err("it is in use");
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::ADDRINUSE.raw_os_error()));
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

/// Has the waits of all loops fail: in place of each epoll comes a file that can't wait.
fn break_loops() {
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("a process has a list of these");
    let is_poll = |path: &std::path::Path| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("[eventpoll]"))
    };
    let polls = descriptors.flatten().filter(|entry| is_poll(&entry.path()));
    let numbers = polls.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let nothing = std::fs::File::open("/dev/null").expect("a device");
    for number in numbers.collect::<Vec<_>>() {
        // The loop closes it.
        let poll = Foreign::new(number).expect("it is open").into_owned();
        rustix::io::dup2(&nothing, &mut ManuallyDrop::new(poll)).expect("a duplicate");
    }
}

#[test]
fn c103c_a_loop_that_fails_ends_the_program_or_is_made_again() {
    let _turn = one_at_a_time();
    for restarts in [false, true] {
        let setups = AtomicUsize::new(0);
        let cluster = Cluster::new(2).restart(restarts);
        let (members, (sender, made)) = (cluster.members(), mpsc::channel());
        let ended = thread::scope(|scope| {
            let members = &members;
            scope.spawn(move || {
                let made = || made.recv().expect("a loop is set up");
                made();
                made();
                break_loops();
                // Ends the waits in progress.
                members.broadcast(|_| {});
                if restarts {
                    made();
                    made();
                    members.stop();
                }
            });
            cluster.run(|reactor| {
                setups.fetch_add(1, Ordering::SeqCst);
                let sender = sender.clone();
                // When it is set up.
                reactor.call_soon(move || sender.send(()).expect("the test listens"));
                Ok(())
            })
        });
        assert_eq!(ended.is_ok(), restarts, "{ended:?}");
        assert_eq!(setups.load(Ordering::SeqCst), if restarts { 4 } else { 2 });
    }
}

/// Ends as soon as it is asked to, and says how it ended.
struct Polite(mpsc::Sender<Reason>);

impl Protocol for Polite {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }

    fn draining(&mut self, transport: &Transport) {
        transport.write("bye");
        transport.lose_connection();
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let _ = self.0.send(reason.clone());
    }
}

#[test]
fn c103d_a_signal_drains_and_stops_every_loop() {
    let _turn = one_at_a_time();
    let cluster = Cluster::new(4).options(LoopOptions::default().drain(LONG));
    let port = cluster.bind(any(), Default::default()).expect("a free port");
    let (sender, lost) = mpsc::channel();
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            let mut clients: Vec<_> = (0..40).map(|_| connect(port.host())).collect();
            for client in &mut clients {
                client.write_all(b"hello").expect("it is served");
                client.read_exact(&mut [0; 5]).expect("an echo");
            }
            kill_process(getpid(), Signal::TERM).expect("a signal to ourselves");
            for client in &mut clients {
                let mut rest = String::new();
                client.read_to_string(&mut rest).expect("a clean end");
                assert_eq!(rest, "bye");
            }
        });
        cluster.run(|reactor| {
            let sender = sender.clone();
            port.listen(reactor, move || Polite(sender.clone()))?;
            Ok(())
        })
    });
    ended.expect("a signal is no failure");
    drop(sender);
    let reasons: Vec<_> = lost.iter().collect();
    assert_eq!(reasons.len(), 40);
    assert!(reasons.iter().all(|reason| matches!(reason, Reason::Done(_))), "{reasons:?}");
}

/// Notes its connection.
struct Known(Arc<Mutex<Vec<ConnectionId>>>);

impl Protocol for Known {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.lock().expect("no panic").push(transport.id());
        transport.write("!");
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

#[test]
fn c103e_a_tell_reaches_the_loop_of_its_connection_and_no_other() {
    let _turn = one_at_a_time();
    let ids = Arc::<Mutex<Vec<ConnectionId>>>::default();
    let cluster = Cluster::new(3);
    let port = cluster.bind(any(), Default::default()).expect("a free port");
    let members = cluster.members();
    thread::scope(|scope| {
        scope.spawn(|| {
            let clients: Vec<_> = (0..30).map(|_| connect(port.host())).collect();
            for client in &clients {
                (&mut &*client).read_exact(&mut [0]).expect("it is made");
            }
            let known = ids.lock().expect("no panic").clone();
            for id in known {
                let told = members.tell(id, move |_: &mut Known, transport| {
                    assert_eq!(transport.id(), id);
                    transport.write(format!("{}\n", transport.peer().port().expect("a TCP peer")));
                    transport.lose_connection();
                });
                told.expect("its loop runs");
            }
            for client in &clients {
                let mut said = String::new();
                (&mut &*client).read_to_string(&mut said).expect("a clean end");
                let own = client.local_addr().expect("an address").port();
                assert_eq!(said, format!("{own}\n"));
            }
            members.stop();
        });
        cluster.run(|reactor| {
            let ids = ids.clone();
            port.listen(reactor, move || Known(ids.clone()))?;
            Ok(())
        })
    })
    .expect("the cluster was stopped");
    let gone = ids.lock().expect("no panic")[0];
    let told = members.tell(gone, |_: &mut Known, _| {});
    assert_eq!(told, Err(NoSuchLoop(gone)), "its loop is gone");
}

#[test]
fn c103f_one_snapshot_shows_what_all_loops_hold() {
    let _turn = one_at_a_time();
    let (ended, snapshot) = with_clients(Cluster::new(3), |server, members| {
        let clients: Vec<_> = (0..30).map(|_| asked(server)).collect();
        let remote = members.remotes().remove(1);
        let asking = members.clone();
        let snapshot = remote.block_on_reactor(move |reactor| asking.snapshot(reactor));
        drop(clients);
        members.stop();
        snapshot.expect("all loops answer")
    });
    ended.expect("the cluster was stopped");
    assert_eq!((snapshot.ports.len(), snapshot.connections.len()), (3, 30));
    assert_eq!(snapshot.ports.iter().map(|port| port.accepted).sum::<u64>(), 30);
    let loops = snapshot.connections.iter().map(|c| c.id.to_string());
    let loops = loops.map(|id| id.split('.').next().map(str::to_owned));
    assert_eq!(loops.collect::<std::collections::BTreeSet<_>>().len(), 3);
}

thread_local! {
    /// Who is in the room of this thread's loop.
    static ROOM: RefCell<BTreeMap<ConnectionId, LineTransport>> = const { RefCell::new(BTreeMap::new()) };
}

/// Passes each line to everybody in every loop.
struct Chat(Members);

impl LineProtocol for Chat {
    fn connection_made(&mut self, transport: &LineTransport) {
        ROOM.with_borrow_mut(|room| room.insert(transport.id(), transport.clone()));
        transport.send_line("welcome");
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let line = line.to_vec();
        self.0.broadcast(move |_| {
            ROOM.with_borrow(|room| room.values().for_each(|each| each.send_line(&line)));
        });
    }

    fn connection_lost(&mut self, transport: &LineTransport, _: &Reason) {
        ROOM.with_borrow_mut(|room| room.remove(&transport.id()));
    }
}

#[test]
fn c103e_a_chat_over_four_loops_loses_no_line_and_tells_none_twice() {
    const GUESTS: usize = 12;
    const LINES: usize = 100;
    let _turn = one_at_a_time();
    let cluster = Cluster::new(4);
    let port = cluster.bind(any(), Default::default()).expect("a free port");
    let (members, everybody) = (cluster.members(), Barrier::new(GUESTS));
    let guest = |number: usize| {
        let mut client = connect(port.host());
        let mut heard = BufReader::new(client.try_clone().expect("a duplicate")).lines();
        let mut hear = || heard.next().expect("the server stays").expect("a line");
        assert_eq!(hear(), "welcome");
        everybody.wait();
        for line in 0..LINES {
            write!(client, "{number} {line}\r\n").expect("the server reads");
        }
        let mut next = [0; GUESTS];
        for _ in 0..GUESTS * LINES {
            let said = hear();
            let (who, line) = said.split_once(' ').expect("a guest's line");
            let who: usize = who.parse().expect("a guest");
            assert_eq!(line, next[who].to_string(), "of guest {who}");
            next[who] += 1;
        }
        everybody.wait();
    };
    let ended = thread::scope(|scope| {
        scope.spawn(|| {
            thread::scope(|scope| {
                (0..GUESTS).for_each(|number| drop(scope.spawn(move || guest(number))));
            });
            members.stop();
        });
        cluster.run(|reactor| {
            let members = members.clone();
            port.listen(reactor, move || LineReceiver::new(Chat(members.clone())))?;
            Ok(())
        })
    });
    ended.expect("the cluster was stopped");
}
