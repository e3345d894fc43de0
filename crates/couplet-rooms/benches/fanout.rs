//! One message to 10 000 members, compared with a bare loop of `send` with one buffer, and with a
//! tokio task for each connection that receives from a broadcast channel.
//!
//! `cargo bench -p couplet-rooms --bench fanout`; needs 10 100 descriptors in each of two
//! processes. Each contestant writes in one thread, over loopback; the clients, in another process,
//! read between the messages. An operation is a delivery; below a row is the longest time from a
//! message to its last delivery, which no delivery of all rounds exceeds.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use couplet::rooms::{RoomOptions, Rooms};
use couplet::{Bytes, Loop, Protocol, Transport};
use couplet_testkit::bench::rows::{row, timed};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::broadcast;
use tokio::task::{LocalSet, spawn_local, yield_now};

const MEMBERS: usize = 10_000;
/// Messages of a round; the clients read after each.
const MESSAGES: usize = 20;

/// The longest time of a message.
type Slowest = Cell<Duration>;

/// The process of the clients: connects them, and for each line with a number has each read that
/// many bytes.
fn run_clients(address: &str) {
    // Each waits to be accepted: a full queue of the listener drops the last packet of a handshake.
    let connect = |_| {
        let mut client = TcpStream::connect(address).expect("enough descriptors");
        client.read_exact(&mut [0]).expect("a welcome");
        client
    };
    let mut clients: Vec<TcpStream> = (0..MEMBERS).map(connect).collect();
    for line in std::io::stdin().lines() {
        let length = line.expect("a pipe").parse().expect("a number");
        let mut buffer = vec![0; length];
        for client in &mut clients {
            client.read_exact(&mut buffer).expect("a message");
        }
        println!("read");
    }
}

/// The process of the clients, as its parent sees it.
struct Clients {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Clients {
    /// Starts the clients; returns their connections, too.
    fn start() -> (Clients, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["clients", &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let accept = |_| {
            let (mut socket, _) = listener.accept().expect("a client");
            socket.write_all(b"!").expect("the client waits");
            socket.set_nonblocking(true).expect("an option");
            socket.set_nodelay(true).expect("an option");
            socket
        };
        let sockets = (0..MEMBERS).map(accept).collect();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        (Clients { child, answers }, sockets)
    }

    /// Has each client read a message.
    fn read(&mut self, length: usize) {
        writeln!(self.child.stdin.as_mut().expect("a pipe"), "{length}").expect("it reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, "read\n", "each client got its message");
    }

    /// Sends messages, and has the clients read after each; returns the time of the sending, and
    /// notes the time of the slowest message. The first message warms up.
    fn round(&mut self, length: usize, slowest: &Slowest, mut send: impl FnMut()) -> Duration {
        let mut all = Duration::ZERO;
        for message in 0..=MESSAGES {
            let took = timed(&mut send);
            if message > 0 {
                all += took;
                slowest.set(slowest.get().max(took));
            }
            self.read(length);
        }
        all
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // The end of its input ends the process.
        drop(self.child.stdin.take());
        self.child.wait().expect("its end");
    }
}

struct Subscriber(Rooms<u8>);

impl Protocol for Subscriber {
    fn connection_made(&mut self, transport: &Transport) {
        self.0.join(&1, transport, ()).expect("it may join");
    }

    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
}

/// A loop whose connections are members of one room.
fn rooms(sockets: Vec<TcpStream>) -> (Loop, Rooms<u8>) {
    let mut l = Loop::new().expect("a poll descriptor");
    let reactor = l.reactor();
    let rooms = Rooms::new(&reactor, |_| RoomOptions::default());
    for socket in sockets {
        let rooms = rooms.clone();
        reactor.adopt(socket, move || Subscriber(rooms.clone())).expect("a socket").detach();
    }
    while rooms.present(&1).len() < MEMBERS {
        l.turn(Some(Duration::ZERO)).expect("a turn");
    }
    (l, rooms)
}

/// A task for each connection; counts the deliveries.
struct Tasks {
    runtime: Runtime,
    local: LocalSet,
    sender: broadcast::Sender<Bytes>,
    delivered: Rc<Cell<usize>>,
}

impl Tasks {
    fn new(sockets: Vec<TcpStream>) -> Tasks {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (local, sender) = (LocalSet::new(), broadcast::Sender::<Bytes>::new(16));
        let delivered = Rc::<Cell<usize>>::default();
        local.block_on(&runtime, async {
            for socket in sockets {
                let mut socket = tokio::net::TcpStream::from_std(socket).expect("a socket");
                let (mut receiver, delivered) = (sender.subscribe(), delivered.clone());
                spawn_local(async move {
                    while let Ok(bytes) = receiver.recv().await {
                        socket.write_all(&bytes).await.expect("the client reads");
                        delivered.set(delivered.get() + 1);
                    }
                });
            }
            yield_now().await;
        });
        Tasks { runtime, local, sender, delivered }
    }

    fn publish(&self, bytes: Bytes) {
        self.delivered.set(0);
        self.local.block_on(&self.runtime, async {
            self.sender.send(bytes).expect("there are receivers");
            while self.delivered.get() < MEMBERS {
                yield_now().await;
            }
        });
    }
}

fn sends(message: &Bytes, slowest: &Slowest) -> Duration {
    let (mut clients, sockets) = Clients::start();
    clients.round(message.len(), slowest, || {
        for mut socket in &sockets {
            assert_eq!(socket.write(message).ok(), Some(message.len()));
        }
    })
}

fn publishes(message: &Bytes, slowest: &Slowest) -> Duration {
    let (mut clients, sockets) = Clients::start();
    let (mut l, rooms) = rooms(sockets);
    clients.round(message.len(), slowest, || {
        let delivered = rooms.counts().delivered;
        rooms.publish(&1, message.clone()).expect("there is such a room");
        while rooms.counts().delivered < delivered + MEMBERS as u64 {
            l.turn(Some(Duration::ZERO)).expect("a turn");
        }
    })
}

fn broadcasts(message: &Bytes, slowest: &Slowest) -> Duration {
    let (mut clients, sockets) = Clients::start();
    let tasks = Tasks::new(sockets);
    clients.round(message.len(), slowest, || tasks.publish(message.clone()))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("clients") {
        return run_clients(&arguments.next().expect("an address"));
    }
    for length in [100, 1000] {
        let message = Bytes::from(vec![b'x'; length]);
        let slowest: [Slowest; 3] = Default::default();
        row(
            &format!("{length} bytes to {MEMBERS} members"),
            MESSAGES * MEMBERS,
            &mut [
                ("a loop of send", &mut || sends(&message, &slowest[0])),
                ("a room", &mut || publishes(&message, &slowest[1])),
                ("tokio's broadcast", &mut || broadcasts(&message, &slowest[2])),
            ],
        );
        let [send, room, broadcast] = slowest.map(|slowest| slowest.get().as_secs_f64() * 1e3);
        println!("  slowest message: {send:.1}, {room:.1} and {broadcast:.1} ms");
    }
}
