//! What relaying costs beside tokio's `copy_bidirectional`: eight streams at once, four in each
//! direction.
//!
//! `cargo bench --bench relay`, or with `-- --assert` to fail where ours needs more processor time
//! for a megabyte.
//!
//! Each relay is a process of its own; the load, and the server behind the relays, are here, on
//! another processor. The relays take turns, A B B A. Told are the medians over the turns, and the
//! median of the ratios within a pair.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench reads the clock, and its load stands outside of any loop"
)]

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use couplet::protocols::Relay;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

const STREAMS: usize = 8;
const SLICE: Duration = Duration::from_millis(400);
const PAIRS: usize = 12;
/// Bytes that are written and read at a time.
const PIECE: usize = 64 * 1024;

type Result<T = (), E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, kind, server] = arguments.as_slice()
        && serve == "--serve"
    {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        pin(1);
        return if kind == "couplet" { couplet_relay(server) } else { tokio_relay(server) };
    }
    pin(0);
    let server = serve()?;
    let mut relays = [Running::start("tokio", server)?, Running::start("couplet", server)?];
    relays.iter().try_for_each(|relay| relay.slice().map(drop))?;
    let mut costs = [vec![], vec![]];
    for pair in 0..PAIRS {
        for at in [pair % 2, 1 - pair % 2] {
            costs[at].push(relays[at].slice()?);
        }
    }
    let ratios = costs[1].iter().zip(&costs[0]).map(|(ours, theirs)| ours / theirs).collect();
    println!("  CPU us/MB");
    for (relay, costs) in relays.iter_mut().zip(costs) {
        println!("  {:9.1}  {}", median(costs), relay.kind);
        relay.child.kill()?;
        relay.child.wait()?;
    }
    let ratio = median(ratios);
    println!("  {ratio:9.2}  couplet / tokio");
    if arguments.iter().any(|argument| argument == "--assert") && ratio > 1.0 {
        return Err("ours needs more processor time than tokio's copy_bidirectional".into());
    }
    Ok(())
}

/// Stays on one processor, if there is more than that one.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

fn couplet_relay(server: &str) -> Result {
    let server = format!("tcp:{server}");
    couplet::run(|reactor| {
        let connecting = reactor.clone();
        let port = reactor.listen("tcp:0:interface=127.0.0.1", move || {
            let (near, far) = Relay::pair();
            connecting.connect_protocol(&server, far).detach();
            near
        })?;
        println!("{}", port.host().socket_addr().expect("a TCP port"));
        Ok(())
    })?;
    Ok(())
}

fn tokio_relay(server: &str) -> Result {
    let server: SocketAddr = server.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        loop {
            let (mut near, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut far = tokio::net::TcpStream::connect(server).await?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    })
}

/// A server that drains what it is sent, or sends as long as a slice lasts: the first byte says
/// which.
fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream?));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut which = [0];
    stream.read_exact(&mut which)?;
    if which == [b'u'] {
        let count = drain(&mut stream)?;
        stream.write_all(&count.to_be_bytes())
    } else {
        send(&mut stream).map(drop)
    }
}

fn drain(stream: &mut TcpStream) -> io::Result<u64> {
    let (mut count, mut buffer) = (0, vec![0; PIECE]);
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(count),
            length => count += length as u64,
        }
    }
}

/// Sends for a slice of time, and then the end of the stream.
fn send(stream: &mut TcpStream) -> io::Result<u64> {
    let (mut count, piece, until) = (0, vec![b'x'; PIECE], Instant::now() + SLICE);
    while Instant::now() < until {
        stream.write_all(&piece)?;
        count += PIECE as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(count)
}

/// One stream through a relay; its length.
fn stream(relay: SocketAddr, up: bool) -> io::Result<u64> {
    let mut stream = TcpStream::connect(relay)?;
    stream.write_all(if up { b"u" } else { b"d" })?;
    if !up {
        return drain(&mut stream);
    }
    let sent = send(&mut stream)?;
    // What came is told in the other direction, after the end of this one.
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    assert_eq!(u64::from_be_bytes(count), sent, "the relay loses bytes");
    Ok(sent)
}

struct Running {
    kind: &'static str,
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(kind: &'static str, server: SocketAddr) -> Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--serve", kind, &server.to_string()]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Running { kind, child, address: line.trim().parse()? })
    }

    /// Processor time, to the nanosecond.
    fn ran(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    }

    /// Microseconds of processor time that a megabyte costs.
    fn slice(&self) -> Result<f64> {
        let before = self.ran()?;
        let relay = self.address;
        let streams = (0..STREAMS).map(|n| thread::spawn(move || stream(relay, n % 2 == 0)));
        let mut bytes = 0;
        for stream in streams.collect::<Vec<_>>() {
            bytes += stream.join().map_err(|_| "a stream panicked")??;
        }
        Ok((self.ran()? - before) / 1e3 / (bytes as f64 / 1e6))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
