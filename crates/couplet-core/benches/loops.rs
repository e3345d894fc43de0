//! Several loops compared with tokio's multi-thread runtime: two loops of a `Cluster`, whose
//! connections the system or the accepting loop distributes, and two workers. A request, on one of
//! 256 connections, takes its handler no time, about 10 µs, or about 50 µs. Prints the server's
//! processor time per request, or the elapsed time, in its best round, and the ratio within a
//! round: median, least and most.
//!
//! Nothing is pinned: servers and load share the machine's processors, and the load is the same for
//! both.
//!
//! `cargo bench -p couplet-core --bench loops`, or with `-- "10 µs"` for the rows that contain it.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]

use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use couplet::{Cluster, Protocol, Transport};
use couplet_testkit::bench::served;
use couplet_testkit::bench::served::{Result, Row, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;

const THREADS: usize = 2;
const CONNECTIONS: usize = 256;
const REQUEST: usize = 64;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--serve", "couplet", steps] => {
            return serve_couplet("localhost:0:backlog=1024", steps.parse()?);
        }
        ["--serve", "handed", steps] => {
            let socket = std::net::TcpListener::bind("localhost:0")?;
            return serve_couplet(&format!("fd:{}", socket.as_raw_fd()), steps.parse()?);
        }
        ["--serve", "tokio", steps] => return serve_tokio(steps.parse()?),
        _ => {}
    }
    let wanted = words.into_iter().find(|word| !word.starts_with('-')).unwrap_or_default();
    let this = std::env::current_exe()?;
    let a_microsecond = steps_in_a_microsecond();
    for (microseconds, times) in [(0, 300), (10, 200), (50, 50)] {
        let steps = (a_microsecond * microseconds).to_string();
        let start =
            |name, word| Server::start(name, Command::new(&this).args(["--serve", word, &steps]));
        let servers = [
            start("2 loops", "couplet")?,
            start("2 loops, handed to the fewest", "handed")?,
            start("tokio, 2 workers", "tokio")?,
        ];
        let [busy, passed] = ["processor time", "time that passes"]
            .map(|what| format!("{what}, handlers of {microseconds} µs"));
        let rows: [Row<'_>; 2] = [
            (&busy, &|server| Ok(requests(server, times)?.0)),
            (&passed, &|server| Ok(requests(server, times)?.1)),
        ];
        served::compare(&servers, &rows, &wanted)?;
    }
    Ok(())
}

/// The handler's computation, in steps.
fn compute(steps: u64) -> u64 {
    let step =
        |seen: u64, step: u64| (seen ^ step).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    (0..steps).map(black_box).fold(1, step)
}

/// Takes the best of many tries.
fn steps_in_a_microsecond() -> u64 {
    const STEPS: u64 = 100_000;
    let took = |_| {
        let began = Instant::now();
        black_box(compute(STEPS));
        began.elapsed()
    };
    let least = (0..50).map(took).min().unwrap_or(Duration::MAX);
    (STEPS as f64 / (least.as_secs_f64() * 1e6)) as u64
}

/// Makes `times` requests on every connection, each after the previous answer. Returns, per
/// request, nanoseconds of the server's processors and elapsed nanoseconds.
fn requests(server: &Server, times: usize) -> Result<(f64, f64)> {
    let address = server.address;
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = TcpStream::connect(address).await?;
            client.set_nodelay(true)?;
            // The first answer includes the accept.
            exchange(&mut client, 1).await?;
            clients.push(client);
        }
        let (busy, began) = (server.processor_time()?, Instant::now());
        let clients = clients
            .into_iter()
            .map(|mut client| tokio::spawn(async move { exchange(&mut client, times).await }));
        for client in clients.collect::<Vec<_>>() {
            client.await??;
        }
        let requests = (CONNECTIONS * times) as f64;
        let busy = server.processor_time()? - busy;
        Ok((busy / requests, began.elapsed().as_nanos() as f64 / requests))
    })
}

async fn exchange(client: &mut TcpStream, times: usize) -> io::Result<()> {
    for _ in 0..times {
        client.write_all(&[7; REQUEST]).await?;
        client.read_exact(&mut [0; REQUEST]).await?;
    }
    Ok(())
}

struct Answers {
    steps: u64,
    waiting: usize,
}

impl Protocol for Answers {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.waiting += data.len();
        while self.waiting >= REQUEST {
            self.waiting -= REQUEST;
            black_box(compute(self.steps));
            transport.write([7; REQUEST]);
        }
    }
}

fn serve_couplet(endpoint: &str, steps: u64) -> Result<()> {
    let cluster = Cluster::new(THREADS);
    let port = cluster.bind(endpoint)?;
    println!("{}", port.host());
    cluster.run(|reactor| {
        port.listen(reactor, move || Answers { steps, waiting: 0 })?;
        Ok(())
    })?;
    Ok(())
}

fn serve_tokio(steps: u64) -> Result<()> {
    let mut runtime = Builder::new_multi_thread();
    served::serve_on_tokio(
        runtime.worker_threads(THREADS).enable_all(),
        move |mut stream| async move {
            let mut request = [0; REQUEST];
            while stream.read_exact(&mut request).await.is_ok() {
                black_box(compute(steps));
                stream.write_all(&request).await?;
            }
            Ok::<(), io::Error>(())
        },
    )
}
