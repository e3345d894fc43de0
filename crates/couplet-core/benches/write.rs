//! One large write after another to a peer that reads, compared with tokio's.
//!
//! `cargo bench -p couplet-core --bench write`. The peer reads in its own thread.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use couplet::{Protocol, Transport};
use couplet_testkit::bench::rows;
use couplet_testkit::bench::rows::{row, timed};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::AsyncWriteExt;

const SIZE: usize = 1024 * 1024;
const TIMES: usize = 400;

/// A peer that reads everything and returns the number of bytes.
fn peer() -> (SocketAddr, thread::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let reads = move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut buffer = vec![0; 256 * 1024];
        let mut taken = 0;
        loop {
            match stream.read(&mut buffer).expect("it ends by a FIN") {
                0 => return taken,
                n => taken += n,
            }
        }
    };
    (address, thread::spawn(reads))
}

/// Runs with a peer, and checks that the peer received everything.
fn with_peer(run: impl FnOnce(SocketAddr)) {
    let (address, taken) = peer();
    run(address);
    assert_eq!(taken.join().expect("the peer"), SIZE * TIMES);
}

/// The processor time of `run` in this thread.
fn busy(run: fn()) -> Duration {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let start = now();
    run();
    now() - start
}

struct Writer {
    data: Vec<u8>,
    left: usize,
}

impl Writer {
    fn write(&mut self, transport: &Transport) {
        if self.left == 0 {
            return transport.lose_connection();
        }
        self.left -= 1;
        transport.write(&self.data);
        let connection = transport.connection::<Writer>();
        let goes_on = move |_| {
            connection.tell(|writer, transport| writer.write(transport));
        };
        transport.writable().map(goes_on).detach();
    }
}

impl Protocol for Writer {
    fn connection_made(&mut self, transport: &Transport) {
        self.write(transport);
    }
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}
    fn connection_lost(&mut self, transport: &Transport, _: &couplet::Reason) {
        transport.reactor().stop();
    }
}

fn ours() {
    with_peer(|address| {
        couplet::run(|reactor| {
            let writer = Writer { data: vec![7; SIZE], left: TIMES };
            reactor.connect_protocol(format!("tcp:{address}"), writer).detach();
            Ok(())
        })
        .expect("it is stopped");
    });
}

fn theirs() {
    with_peer(|address| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
            let data = vec![7; SIZE];
            for _ in 0..TIMES {
                stream.write_all(&data).await.expect("it is read");
            }
            stream.shutdown().await.expect("a FIN");
        });
    });
}

fn both(name: &str, measure: fn(fn()) -> Duration) {
    let [mut run_ours, mut run_theirs] = [ours as fn(), theirs].map(|run| move || measure(run));
    let contestants: &mut [rows::Contestant<'_>] =
        &mut [("Transport::write", &mut run_ours), ("tokio, write_all", &mut run_theirs)];
    row(name, TIMES, contestants);
}

fn main() {
    both("write 1 MiB, again when it has left: processor time", busy);
    both("write 1 MiB, again when it has left: elapsed time", timed);
}
