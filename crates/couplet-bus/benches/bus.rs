//! A message from a client of one node to 1000 clients of another one over NATS, compared with
//! nodes written by hand on tokio and async-nats; messages a second of publishers, and the memory
//! of subscribers.
//!
//! `cargo bench -p couplet-bus --bench bus`; needs nats-server. The nodes, the server and the
//! clients are separate processes, connected over loopback.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use couplet::bus::{Bus, Subscription, nats};
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::rooms::{Event, Member, RoomOptions, Rooms};
use couplet::{Bytes, Loop, Reactor};
use couplet_testkit::processes::Killed;
use futures_util::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::broadcast;
use tokio::task::{LocalSet, spawn_local};

const CLIENTS: usize = 1000;
const MESSAGES: usize = 500;
const PUBLISHED: usize = 200_000;
const SUBSCRIBERS: usize = 50_000;
/// A line of a client.
const LINE: &[u8] = b"0123456789012345678901234567890123456789012345678901234567890 \r\n";

struct Guest(Rooms<u8>, Option<Member<u8, ()>>);

impl LineProtocol for Guest {
    fn connection_made(&mut self, transport: &LineTransport) {
        self.1 = self.0.join(&0, transport, ()).ok();
    }

    fn line_received(&mut self, _: &LineTransport, line: &[u8]) {
        let member = self.1.as_ref().expect("it has joined");
        member.publish([line, b"\r\n"].concat()).expect("there is room");
    }
}

fn bus(reactor: &Reactor, server: &str) -> Bus {
    let options = nats::Options::new([server]).expect("an address");
    Bus::nats(reactor, options.echo(false).queue(64 << 20))
}

fn join(bus: &Bus, rooms: &Rooms<u8>) -> Subscription {
    let sending = bus.clone();
    rooms.on_event(move |event| {
        if let Event::Published { bytes, by: Some(_), .. } = event {
            sending.publish("room", bytes.clone()).expect("there is room");
        }
    });
    let rooms = rooms.clone();
    let subscription = bus.subscribe("room", move |message| {
        rooms.publish(&0, message.payload().clone()).expect("there is room");
    });
    subscription.expect("a pattern")
}

/// The process of a node: prints its port.
fn run_node(server: &str) {
    let mut l = Loop::new().expect("a loop");
    let reactor = l.reactor();
    let rooms = Rooms::new(&reactor, |_| RoomOptions::default());
    let bus = bus(&reactor, server);
    let _subscription = join(&bus, &rooms);
    l.run_until(bus.flush()).expect("it is connected");
    let guest = move || LineReceiver::new(Guest(rooms.clone(), None));
    let port = reactor.listen("tcp:0:interface=127.0.0.1", guest).expect("a port");
    println!("{}", port.host().port().expect("a TCP port"));
    l.run(|_| Ok(())).expect("it runs");
}

/// A node by hand: each client has a task that reads, and one that writes the lines of a broadcast
/// channel.
fn run_peer(server: &str) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let options = async_nats::ConnectOptions::new().no_echo();
        let nats = options.connect(server).await.expect("it is connected");
        let lines = broadcast::Sender::<Bytes>::new(1024);
        let mut messages = nats.subscribe("room").await.expect("a subject");
        nats.flush().await.expect("it is connected");
        let received = lines.clone();
        spawn_local(async move {
            while let Some(message) = messages.next().await {
                // Without clients it has no receivers.
                let _ = received.send(message.payload);
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!("{}", listener.local_addr().expect("bound").port());
        loop {
            let (socket, _) = listener.accept().await.expect("a client");
            socket.set_nodelay(true).expect("an option");
            let (reading, mut writing) = socket.into_split();
            let (mut receiver, sender, nats) = (lines.subscribe(), lines.clone(), nats.clone());
            spawn_local(async move {
                while let Ok(line) = receiver.recv().await {
                    writing.write_all(&line).await.expect("the client reads");
                }
            });
            spawn_local(async move {
                let mut reading = tokio::io::BufReader::new(reading);
                let mut line = String::new();
                while reading.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    let bytes = Bytes::from(std::mem::take(&mut line));
                    sender.send(bytes.clone()).expect("this client receives");
                    nats.publish("room", bytes).await.expect("it is open");
                }
            });
        }
    });
}

/// A process that ends with this, and a number that it prints first.
struct Process(Killed, u16);

impl Process {
    /// A node of a kind.
    fn node(kind: &str, server: &str) -> Process {
        let this = std::env::current_exe().expect("this program");
        let mut command = Command::new(this);
        let mut child =
            command.args([kind, server]).stdout(Stdio::piped()).spawn().expect("a process");
        let mut line = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        said.read_line(&mut line).expect("a port");
        Process(Killed(child), line.trim().parse().expect("a number"))
    }

    fn server() -> Process {
        let mut child = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", "-1"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("nats-server is installed");
        let log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut lines = log.map_while(Result::ok);
        let port = lines.by_ref().find_map(|line| {
            let (_, address) = line.split_once("Listening for client connections on ")?;
            address.rsplit(':').next()?.trim().parse().ok()
        });
        std::thread::spawn(move || lines.for_each(drop));
        Process(Killed(child), port.expect("a port"))
    }

    /// The processor time of the process.
    fn busy(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.0.id());
        let stat = std::fs::read_to_string(path).expect("Linux");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split(' ').collect();
        let ticks: u64 = fields[12..14].iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(("127.0.0.1", self.1)).expect("it listens");
        client.set_nodelay(true).expect("an option");
        client
    }
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

fn fan_out(kind: &str, server: &str) {
    let (near, far) = (Process::node(kind, server), Process::node(kind, server));
    let mut speaker = near.connect();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| far.connect()).collect();
    let mut line = vec![0; LINE.len()];
    let mut times: [Vec<Duration>; 2] = Default::default();
    let mut before = [Duration::ZERO; 2];
    for message in 0..MESSAGES + 50 {
        // The first messages warm up, and see that all have joined.
        if message == 50 {
            times.iter_mut().for_each(Vec::clear);
            before = [near.busy(), far.busy()];
        }
        let began = Instant::now();
        speaker.write_all(LINE).expect("it reads");
        for (at, client) in clients.iter_mut().enumerate() {
            client.read_exact(&mut line).expect("a message");
            if at == 0 || at == CLIENTS - 1 {
                times[usize::from(at > 0)].push(began.elapsed());
            }
        }
        speaker.read_exact(&mut line).expect("its own message");
    }
    for (name, mut times) in ["first", "last"].into_iter().zip(times) {
        times.sort();
        let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
        println!(
            "{kind}: the {name} of {CLIENTS} clients has a message after: p50 {p50:.1?}, p99 {p99:.1?}"
        );
    }
    let deliveries = (MESSAGES * CLIENTS) as u32;
    let (sends, delivers) = (near.busy() - before[0], far.busy() - before[1]);
    println!(
        "{kind}: processor time: {:.1?} a message on the sender's node, {:.0?} a delivery on the other one",
        sends / MESSAGES as u32,
        delivers / deliveries
    );
}

fn throughput(server: &str, publishers: usize) {
    let mut l = Loop::new().expect("a loop");
    let buses: Vec<Bus> = (0..publishers).map(|_| bus(&l.reactor(), server)).collect();
    let flush = |l: &mut Loop| {
        for bus in &buses {
            l.run_until(bus.flush()).expect("it is connected");
        }
    };
    flush(&mut l);
    let began = Instant::now();
    for _ in 0..10 {
        for message in 0..PUBLISHED / 10 {
            let bus = &buses[message % publishers];
            bus.publish("nobody", LINE).expect("there is room");
        }
        flush(&mut l);
    }
    let rate = PUBLISHED as f64 / began.elapsed().as_secs_f64();
    println!("{publishers} publishers: {rate:.0} messages a second, confirmed");
}

/// The resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a number");
    pages * 4096
}

fn memory(server: &str) {
    let mut l = Loop::new().expect("a loop");
    let bus = bus(&l.reactor(), server);
    l.run_until(bus.flush()).expect("it is connected");
    let before = resident();
    let subscriptions: Vec<_> =
        (0..SUBSCRIBERS).map(|at| bus.subscribe(format!("room.{at}"), drop)).collect();
    l.run_until(bus.flush()).expect("it is connected");
    println!("an idle subscriber: {} bytes", (resident() - before) / SUBSCRIBERS);
    drop(subscriptions);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["couplet", server] => return run_node(server),
        ["async-nats", server] => return run_peer(server),
        _ => {}
    }
    let process = Process::server();
    let server = format!("127.0.0.1:{}", process.1);
    for kind in ["couplet", "async-nats", "couplet", "async-nats"] {
        fan_out(kind, &server);
    }
    memory(&server);
    throughput(&server, 1);
    throughput(&server, 100);
}
