//! A round trip of 64 bytes between an echo server on the loop and a client on tokio, in one
//! process: the loop inside tokio, and a tokio runtime around the loop, whose sockets wait in
//! another thread. For comparison, both ends run on the loop, and both on tokio. Prints the elapsed
//! time, then the processor time.
//!
//! `cargo bench -p couplet-core --features tokio --bench embed`

use std::net::SocketAddr;
use std::time::Duration;

use couplet::{Loop, LoopOptions, Reactor, Result};
use couplet_core::embed;
use couplet_testkit::bench::program::{pin, processors};
use couplet_testkit::bench::rows::row;
use couplet_testkit_loops::doubles::Echo;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TRIPS: usize = 20_000;
const MESSAGE: [u8; 64] = [7; 64];
const ANY: &str = "tcp:0:interface=127.0.0.1";

fn listen(reactor: &Reactor) -> Result<SocketAddr> {
    Ok(reactor.listen(ANY, || Echo)?.host().socket_addr().expect("a TCP port"))
}

/// The time by this clock.
fn now(clock: ClockId) -> Duration {
    clock_gettime(clock).try_into().expect("a time after the origin")
}

/// The round trips of a tokio client, timed by this clock.
async fn trips(at: SocketAddr, clock: ClockId) -> Result<Duration> {
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let began = now(clock);
    let mut answer = [0; MESSAGE.len()];
    for _ in 0..TRIPS {
        stream.write_all(&MESSAGE).await?;
        stream.read_exact(&mut answer).await?;
    }
    Ok(now(clock) - began)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn inside(clock: ClockId) -> Result<Duration> {
    let program = async |reactor: Reactor| trips(listen(&reactor)?, clock).await;
    runtime().block_on(embed::run(Loop::new()?, program))
}

/// Pins the loop to one processor, and tokio's thread to another or to the same.
fn around(clock: ClockId, loops: Option<usize>, tokios: Option<usize>) -> Result<Duration> {
    let pinned = std::thread::spawn(move || {
        // Tokio's thread starts here, and inherits this processor.
        tokios.map(pin).transpose()?;
        let mut l = Loop::with_options(LoopOptions::default().tokio())?;
        loops.map(pin).transpose()?;
        let at = listen(&l.reactor())?;
        let client = l.reactor().spawn(trips(at, clock));
        l.run_until(client)
    });
    pinned.join().expect("no panic")
}

fn couplet_alone(clock: ClockId) -> Result<Duration> {
    couplet::run_until(|reactor| {
        let reactor = reactor.clone();
        reactor.clone().spawn(async move {
            let at = listen(&reactor)?;
            let mut stream = reactor.connect_stream(format!("tcp:{at}")).await?;
            let began = now(clock);
            let mut answer = [0; MESSAGE.len()];
            for _ in 0..TRIPS {
                stream.write_all(&MESSAGE).await?;
                stream.read_exact(&mut answer).await?;
            }
            Ok(now(clock) - began)
        })
    })
}

fn tokio_alone(clock: ClockId) -> Result<Duration> {
    runtime().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let mut data = vec![0; 4096];
            loop {
                let read = stream.read(&mut data).await?;
                stream.write_all(&data[..read]).await?;
                if read == 0 {
                    return Ok::<_, std::io::Error>(());
                }
            }
        });
        trips(at, clock).await
    })
}

fn main() {
    let (one, other) = processors().expect("the system tells");
    for (name, clock) in
        [("a trip", ClockId::Monotonic), ("a trip, processor time", ClockId::ProcessCPUTime)]
    {
        let measured = |trips: Result<Duration>| trips.expect("they talk");
        row(
            name,
            TRIPS,
            &mut [
                ("couplet alone, a stream", &mut || measured(couplet_alone(clock))),
                ("tokio alone, current-thread", &mut || measured(tokio_alone(clock))),
                ("the loop inside tokio", &mut || measured(inside(clock))),
                ("tokio around the loop, same processor", &mut || {
                    measured(around(clock, one, one))
                }),
                ("tokio around the loop, another", &mut || measured(around(clock, one, other))),
            ],
        );
    }
}
