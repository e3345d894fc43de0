//! A busy program without a fault raises no flag.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use couplet::defer::DeferredLock;
use couplet::{Deferred, LoopingCall, Reactor, Stream};
use serde_json::Value;

use crate::kit::{Program, Session, text};

/// Flags that a machine without free processors raises too.
const OF_THE_MACHINE: [&str; 4] = ["busy", "held", "late", "slow"];

/// A server whose handlers take turns at a lock, ask a thread, sleep, and use Deferreds.
fn server(reactor: &Reactor) -> SocketAddr {
    let lock = DeferredLock::new();
    let own = reactor.clone();
    let port = reactor.serve("tcp:0:interface=127.0.0.1", move |mut stream: Stream| {
        let (lock, reactor) = (lock.clone(), own.clone());
        async move {
            let mut line = [0; 100];
            while stream.read_exact(&mut line).await.is_ok() {
                let permit = lock.acquire().await?;
                reactor.sleep(Duration::from_micros(10)).await?;
                drop(permit);
                let (deferred, resolver) = Deferred::new();
                reactor.call_later(Duration::ZERO, move || resolver.callback(1));
                let number = deferred.map(|n: u8| n + 1).await?;
                let sum = reactor.defer_to_thread(move || Ok(number + 1)).await?;
                line[0] = sum;
                stream.write_all(&line).await?;
            }
            Ok(())
        }
    });
    let ticks = LoopingCall::new(reactor, || ());
    ticks.start(Duration::from_millis(5)).detach();
    std::mem::forget(ticks);
    port.expect("a free port").host().socket_addr().expect("TCP")
}

/// Each connection sends and receives some lines at the same time as the others, and closes; then
/// others follow.
fn storm(address: SocketAddr, session: &mut Session) -> Vec<Value> {
    let mut raised = Vec::new();
    for _ in 0..5 {
        let mut clients: Vec<_> =
            (0..100).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        for _ in 0..10 {
            for client in &mut clients {
                client.write_all(&[b'x'; 100]).expect("it reads");
            }
            for client in &mut clients {
                let mut answer = [0; 100];
                client.read_exact(&mut answer).expect("it answers");
                assert_eq!(answer[0], 3);
            }
            let flags = session.get("/flags.json");
            raised.extend(flags.as_array().expect("flags").iter().cloned());
        }
    }
    raised
}

#[test]
fn a_storm_of_a_healthy_program_raises_no_flag() {
    let (program, address) = Program::start(server);
    let raised = storm(address, &mut Session::open(&program.url()));
    // The machine of a test may have other work; the flags of the program's own making are never up.
    let rule = |flag: &Value| text(flag, "id").split_once('.').map(|(_, rule)| rule.to_owned());
    let own = raised.iter().filter(|flag| {
        rule(flag).is_none_or(|rule| OF_THE_MACHINE.iter().all(|it| !rule.starts_with(it)))
    });
    assert_eq!(own.collect::<Vec<_>>(), Vec::<&Value>::new());
    let state = program.get("/state.json");
    let ended = &state["loops"][0]["ended"];
    let closed: u64 = ended.as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    assert!(closed >= 400, "{ended}");
}
