//! A UDP echo server: compares a loop with plain poll, recvmmsg(2) and sendmmsg(2), and with tokio.
//! A client sends 64-byte datagrams to each server: singly, 32 at a time, or 32 joined
//! (`UDP_SEGMENT`). Prints the processor time of the server's thread per datagram.
//!
//! With a processor for each side, the server answers the first datagrams while the client still
//! sends the others. A server that lags finds all of them in its queue. The last rows show that
//! case: server and client share a processor under the batch policy, so the server does not preempt
//! the client.
//!
//! `cargo bench -p couplet-core --bench datagrams`

#[cfg(target_os = "linux")]
use linux::run;

#[cfg(not(target_os = "linux"))]
fn run() {}

fn main() {
    run();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsFd;
    use std::process::Command;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use couplet::{Datagram, DatagramTransport, Loop};
    use couplet_os::datagrams::{self, Batch, Name, Outgoing, Target};
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
    use rustix::time::{ClockId, clock_gettime};

    use couplet_testkit::bench::rows::row;

    const DATAGRAMS: usize = 64_000;
    const MESSAGE: [u8; 64] = [7; 64];
    const ANY: &str = "127.0.0.1:0";

    /// The processor time of this thread.
    fn now() -> Duration {
        clock_gettime(ClockId::ThreadCPUTime).try_into().expect("a time after the origin")
    }

    fn any() -> SocketAddr {
        ANY.parse().expect("an address")
    }

    fn plain(data: &[u8], to: SocketAddr) -> Outgoing<'_> {
        let to = Some(Target::Inet(to));
        Outgoing { data, to, from: None, tos: None, segment: None }
    }

    fn until_readable(socket: &UdpSocket) {
        poll(&mut [PollFd::new(socket, PollFlags::IN)], None).expect("a socket");
    }

    fn raw(address: Sender<SocketAddr>) {
        let socket = UdpSocket::bind(ANY).expect("a free port");
        address.send(socket.local_addr().expect("bound")).expect("it is awaited");
        let mut batch = Batch::new(64, 2048);
        let mut left = DATAGRAMS;
        while left > 0 {
            until_readable(&socket);
            while let Ok(n) = batch.receive(socket.as_fd(), 64, 2048) {
                let got: Vec<_> = (0..n).map(|n| batch.get(n)).collect();
                let mut answers = got.iter().map(|got| match got.from {
                    Name::Inet(from) => plain(got.data, from),
                    Name::Unix(_) => unreachable!("it is a UDP socket"),
                });
                let answers: Vec<_> = answers.by_ref().collect();
                datagrams::send(socket.as_fd(), &answers).expect("there is room");
                left = left.saturating_sub(n);
                if n < 64 {
                    break;
                }
            }
        }
    }

    fn couplet(address: Sender<SocketAddr>) {
        let run = Loop::new().expect("a loop").run(|reactor| {
            let mut left = DATAGRAMS;
            let echo = move |transport: &DatagramTransport, datagram: &Datagram<'_>| {
                transport.answer(datagram, datagram.data).expect("there is room");
                left -= 1;
                if left == 0 {
                    transport.reactor().stop();
                }
            };
            let port = reactor.listen_datagrams(any(), echo)?;
            address.send(port.host().socket_addr().expect("bound"))?;
            Ok(())
        });
        run.expect("a run");
    }

    fn tokio(address: Sender<SocketAddr>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let socket = tokio::net::UdpSocket::bind(ANY).await.expect("a free port");
            address.send(socket.local_addr().expect("bound")).expect("it is awaited");
            let mut buffer = [0; 65_536];
            for _ in 0..DATAGRAMS {
                let (n, from) = socket.recv_from(&mut buffer).await.expect("a datagram");
                socket.send_to(&buffer[..n], from).await.expect("there is room");
            }
        });
    }

    /// The server's processor time for all datagrams, with `at_once` of them in flight.
    fn serve(server: fn(Sender<SocketAddr>), (at_once, joined): (usize, bool)) -> Duration {
        let (sender, address) = channel();
        let serving = std::thread::spawn(move || {
            let before = now();
            server(sender);
            now() - before
        });
        let to = address.recv().expect("it has a port");
        let socket = UdpSocket::bind(ANY).expect("a free port");
        let mut batch = Batch::new(64, 2048);
        let all = MESSAGE.repeat(at_once);
        let messages = if joined {
            vec![Outgoing { segment: Some(MESSAGE.len() as u16), ..plain(&all, to) }]
        } else {
            vec![plain(&MESSAGE, to); at_once]
        };
        for _ in 0..DATAGRAMS / at_once {
            datagrams::send(socket.as_fd(), &messages).expect("there is room");
            let mut got = 0;
            while got < at_once {
                until_readable(&socket);
                got += batch.receive(socket.as_fd(), 64, 2048).unwrap_or(0);
            }
        }
        serving.join().expect("no panic")
    }

    const BEHIND: &str = "--behind";

    pub(super) fn run() {
        if std::env::args().any(|word| word == BEHIND) {
            let mut one = CpuSet::new();
            one.set(sched_getcpu());
            sched_setaffinity(None, &one).expect("one of its processors");
            for (at_once, name) in [(1, "1"), (8, "8"), (32, "32")] {
                compare(&format!("{name} in the queue"), (at_once, false));
            }
            return;
        }
        compare("1 at once", (1, false));
        compare("32 at once", (32, false));
        compare("32 joined", (32, true));
        let this = std::env::current_exe().expect("a path");
        let behind = Command::new("chrt").args(["--batch", "0"]).arg(this).arg(BEHIND).status();
        assert!(behind.expect("chrt of util-linux").success(), "it prints rows");
    }

    fn compare(name: &str, manner: (usize, bool)) {
        row(
            &format!("echo of a datagram, {name}"),
            DATAGRAMS,
            &mut [
                ("recvmmsg and sendmmsg", &mut || serve(raw, manner)),
                ("couplet", &mut || serve(couplet, manner)),
                ("tokio", &mut || serve(tokio, manner)),
            ],
        );
    }
}
