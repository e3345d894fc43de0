//! The ready-made services.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use couplet::services::{
    Child, ClientService, DatagramService, FunctionService, Health, Restart, Service,
    StreamServerService, Supervisor, TaskService, TimerService,
};
use couplet::testing::{Clock, MemoryReactor};
use couplet::{
    Datagram, DatagramProtocol, DatagramTransport, Deferred, Failure, Reactor, Resolver,
};

use super::S;
use crate::defer_witness::{Log, given};
use couplet_testkit_loops::doubles::Echo;

#[test]
fn c139k_a_stream_server_listens_while_it_runs_and_drains_its_connections() {
    let mut memory = MemoryReactor::new();
    let ports = Rc::new(Cell::new(0));
    let opened = ports.clone();
    let mut service = StreamServerService::new("echo", "tcp:8000", || Echo)
        .unwrap()
        .drain(S * 3)
        .on_listening(move |port| opened.set(opened.get() + port.host().port().unwrap_or(0)));
    given(service.start(&memory.reactor())).take().unwrap();
    memory.settle();
    let wire = memory.connect(8000);
    memory.settle();
    let stopped = given(service.stop());
    memory.settle();
    assert!(memory.listening().is_empty());
    wire.push(b"still served");
    memory.settle();
    assert_eq!(wire.take(), b"still served");
    assert!(stopped.is_none());
    memory.advance(S * 4);
    stopped.take().unwrap();
    assert!(wire.saw_fin());
    wire.close();
    given(service.start(&memory.reactor())).take().unwrap();
    memory.settle();
    assert_eq!((memory.listening().len(), ports.get()), (1, 16000));
    // Cancelled, it waits no longer.
    let wire = memory.connect(8000);
    memory.settle();
    let stopping = service.stop();
    memory.settle();
    assert!(!wire.saw_fin());
    stopping.cancel();
    memory.settle();
    assert!(wire.saw_fin());
    assert!(given(stopping).take().unwrap_err().is_cancelled());
}

/// Starts a service below a supervisor, which fails with this text.
fn fails_to_start(memory: &mut MemoryReactor, service: impl Service + 'static, text: &str) {
    let mut supervisor = Supervisor::new("top");
    supervisor.add(Child::new(service)).detach();
    let started = given(supervisor.start(&memory.reactor()));
    memory.settle();
    assert!(started.text().contains(text), "{}", started.text());
}

#[test]
fn c139k_a_server_that_cannot_listen_does_not_start_and_keeps_no_port_when_it_panics() {
    let mut memory = MemoryReactor::new();
    let taken = memory.reactor().listen("tcp:8000", || Echo).unwrap();
    let streams = || StreamServerService::new("echo", "tcp:8000", || Echo).unwrap();
    fails_to_start(&mut memory, streams(), "8000");
    taken.stop_listening().unwrap().detach();
    memory.settle();
    let panics = streams().on_listening(|_| panic!("no room"));
    fails_to_start(&mut memory, panics, "no room");
    assert!(memory.listening().is_empty());

    let address = SocketAddr::from(([127, 0, 0, 1], 8000));
    let open =
        move |reactor: &Reactor| Ok(reactor.listen_datagrams(address, Answers(Log::default()))?);
    let taken = open(&memory.reactor()).unwrap();
    fails_to_start(&mut memory, DatagramService::opening("echo", open), "8000");
    taken.stop_listening().unwrap().detach();
    memory.settle();
    let panics = DatagramService::opening("echo", open).on_listening(|_| panic!("no room"));
    fails_to_start(&mut memory, panics, "no room");
    open(&memory.reactor()).unwrap();
}

/// Answers datagrams, and records when it is closed.
struct Answers(Log);

impl DatagramProtocol for Answers {
    fn datagram_received(&mut self, transport: &DatagramTransport, datagram: &Datagram<'_>) {
        self.0.say(String::from_utf8_lossy(datagram.data));
        transport.answer(datagram, "an answer").unwrap();
    }

    fn stop_protocol(&mut self, _: &DatagramTransport) {
        self.0.say("closed");
    }
}

#[test]
fn c139k_a_datagram_server_receives_while_it_runs_and_lets_its_protocol_finish() {
    let (mut memory, log) = (MemoryReactor::new(), Log::default());
    let address = SocketAddr::from(([127, 0, 0, 1], 8000));
    let (answers, said) = (log.clone(), log.clone());
    let mut service = DatagramService::opening("echo", move |reactor| {
        Ok(reactor.listen_datagrams(address, Answers(answers.clone()))?)
    })
    .on_listening(move |port| said.say(port.host().to_string()))
    .finish(|port| {
        port.send_to("the last", SocketAddr::from(([127, 0, 0, 1], 9000))).unwrap();
        port.reactor().sleep(S)
    });
    let heard = log.clone();
    let hears = move |_: &DatagramTransport, datagram: &Datagram<'_>| {
        heard.say(format!("got {}", String::from_utf8_lossy(datagram.data)));
    };
    let client = memory
        .reactor()
        .listen_datagrams("127.0.0.1:9000".parse::<SocketAddr>().unwrap(), hears)
        .unwrap();
    for is_cancelled in [false, true] {
        given(service.start(&memory.reactor())).take().unwrap();
        memory.settle();
        client.send_to("one", address).unwrap();
        memory.settle();
        assert_eq!(log.take(), ["udp:127.0.0.1:8000", "one", "got an answer"]);
        let stopping = service.stop();
        let canceller = stopping.canceller();
        let stopped = given(stopping);
        client.send_to("two", address).unwrap();
        memory.settle();
        assert_eq!(log.take(), ["got the last"]);
        match is_cancelled {
            false => memory.advance(S),
            true => canceller.cancel(),
        }
        memory.settle();
        stopped.take().unwrap();
        assert_eq!(log.take(), ["closed"]);
    }
    given(service.stop()).take().unwrap();
}

/// Runs a service below a supervisor on a clock.
fn supervised(service: impl Service + 'static, restart: Restart) -> (Clock, Supervisor) {
    let mut clock = Clock::new();
    let mut supervisor = Supervisor::new("top").back_off(Duration::ZERO, Duration::ZERO);
    supervisor.add(Child::new(service).restart(restart)).detach();
    let started = given(supervisor.start(&clock.reactor()));
    clock.settle();
    started.take().unwrap();
    (clock, supervisor)
}

fn stop(clock: &mut Clock, supervisor: &mut Supervisor) {
    let stopped = given(supervisor.stop());
    clock.settle();
    stopped.take().unwrap();
}

#[test]
fn c139k_a_timer_calls_at_once_and_every_interval_until_it_stops() {
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    let service = TimerService::new("tick", S, move || counted.set(counted.get() + 1));
    let (mut clock, mut supervisor) = supervised(service, Restart::Permanent);
    assert_eq!(calls.get(), 1);
    clock.advance(S * 3);
    assert_eq!(calls.get(), 4);
    for stopped_after in [4, 7] {
        stop(&mut clock, &mut supervisor);
        clock.advance(S * 3);
        assert_eq!(calls.get(), stopped_after);
        let started = given(supervisor.start(&clock.reactor()));
        clock.settle();
        started.take().unwrap();
        clock.advance(S * 2);
        assert_eq!(calls.get(), stopped_after + 3);
    }
}

#[test]
fn c139k_a_timer_whose_function_fails_has_failed_and_is_restarted() {
    let calls = Rc::new(Cell::new(0));
    let counted = calls.clone();
    let service = TimerService::new("tick", S * 10, move || {
        counted.set(counted.get() + 1);
        match counted.get() {
            1 => Err(Failure::msg("the first time")),
            _ => Ok(()),
        }
    });
    let (mut clock, supervisor) = supervised(service, Restart::Permanent);
    clock.settle();
    assert_eq!((calls.get(), supervisor.children()[0].restarts), (2, 1));
    clock.advance(S * 10);
    assert_eq!(calls.get(), 3);
}

#[test]
fn c139k_the_stop_of_a_timer_waits_for_the_call_in_progress_and_its_cancel_cancels_the_call() {
    for cancels in [false, true] {
        let mut clock = Clock::new();
        let (reactor, log) = (clock.reactor(), Log::default());
        let said = log.clone();
        let mut service = TimerService::new("tick", S, move || {
            let (done, said) = (said.clone(), said.clone());
            let call = reactor.sleep(S * 5).map(move |()| done.say("done"));
            call.add_errback(move |failure| {
                said.say("cancelled");
                Err(failure)
            })
        });
        given(service.start(&clock.reactor())).take().unwrap();
        clock.settle();
        let stopping = service.stop();
        clock.settle();
        assert!(!stopping.has_fired());
        if cancels {
            stopping.cancel();
        }
        clock.advance(S * 5);
        assert_eq!(log.take(), [if cancels { "cancelled" } else { "done" }]);
        drop(given(stopping));
    }
}

#[test]
fn c139k_a_task_ends_with_its_result_and_a_stop_drops_it() {
    struct Dropped(Log);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.say("dropped");
        }
    }
    let log = Log::default();
    let (said, runs) = (log.clone(), Rc::new(Cell::new(0)));
    let service = TaskService::new("work", move |reactor: Reactor| {
        let (log, run) = (said.clone(), runs.get() + 1);
        runs.set(run);
        async move {
            let _dropped = Dropped(log.clone());
            log.say(format!("run {run}"));
            reactor.sleep(S * run).await?;
            if run == 1 { Err(Failure::msg("the first run")) } else { Ok(()) }
        }
    });
    let (mut clock, mut supervisor) = supervised(service, Restart::Transient);
    assert_eq!(log.take(), ["run 1"]);
    clock.advance(S);
    assert_eq!(log.take(), ["dropped", "run 2"]);
    clock.advance(S * 2);
    assert_eq!(log.take(), ["dropped"]);
    assert_eq!(supervisor.children()[0].to_string(), "work ended restarts 1");
    let again = given(supervisor.start_child("work"));
    clock.settle();
    again.take().unwrap();
    stop(&mut clock, &mut supervisor);
    assert_eq!(log.take(), ["run 3", "dropped"]);
}

#[test]
fn c139k_a_service_from_closures_calls_them() {
    let log = Log::default();
    let (starts, stops) = (log.clone(), log.clone());
    let degraded = Health::Degraded("half".to_owned());
    let said = degraded.clone();
    let mut service = FunctionService::new("cache", move |_| {
        starts.say("start");
        Deferred::succeed(())
    })
    .on_stop(move || {
        stops.say("stop");
        Deferred::succeed(())
    })
    .on_health(move || said.clone());
    let clock = Clock::new();
    assert_eq!(service.name(), "cache");
    given(service.start(&clock.reactor())).take().unwrap();
    given(service.stop()).take().unwrap();
    assert_eq!((log.take(), service.health()), (vec!["start".into(), "stop".into()], degraded));
    let mut bare = FunctionService::new("bare", |_| Deferred::succeed(()));
    given(bare.stop()).take().unwrap();
    assert_eq!(bare.health(), Health::Ready);
}

#[test]
fn c139k_a_client_is_healthy_while_it_is_connected() {
    let mut memory = MemoryReactor::new();
    let client = ClientService::new(&memory.reactor(), "tcp:127.0.0.1:8000", || Echo).unwrap();
    let mut supervisor = Supervisor::new("top");
    supervisor.add(Child::new(client.clone())).detach();
    given(Service::start(&mut supervisor, &memory.reactor()));
    memory.settle();
    assert_eq!(supervisor.health(), Health::Starting);
    memory.connecting()[0].fail(std::io::ErrorKind::ConnectionRefused.into());
    memory.settle();
    let failed = "tcp:127.0.0.1:8000: not connected after 1 failures";
    assert_eq!(supervisor.health(), Health::Failed(failed.to_owned()));
    memory.advance(S * 3);
    let wire = memory.connecting()[0].complete();
    memory.settle();
    assert_eq!(supervisor.health(), Health::Ready);
    let stopped = given(supervisor.stop());
    memory.settle();
    wire.close();
    memory.settle();
    stopped.take().unwrap();
    assert!(!client.is_running());
    given(Service::start(&mut supervisor, &memory.reactor()));
    memory.settle();
    assert_eq!(supervisor.health(), Health::Starting);
    let _wire = memory.connecting()[0].complete();
    memory.settle();
    assert_eq!(supervisor.health(), Health::Ready);
}

#[test]
fn c139k_the_health_of_a_client_follows_each_of_its_connections() {
    let mut memory = MemoryReactor::new();
    let prepared = Rc::<RefCell<Option<Resolver<()>>>>::default();
    let slot = prepared.clone();
    let client = ClientService::new(&memory.reactor(), "tcp:127.0.0.1:8000", || Echo).unwrap();
    let client = client.retry_policy(|failures, _| S * failures).prepare(move |_| {
        let (deferred, resolver) = Deferred::new();
        *slot.borrow_mut() = Some(resolver);
        deferred
    });
    let failed = Health::Failed("not connected after 1 failures".to_owned());
    client.start();
    for before in [Health::Starting, failed.clone(), failed.clone()] {
        assert_eq!(client.health(), before);
        let wire = memory.connecting()[0].complete();
        memory.settle();
        assert_eq!(client.health(), before, "it is not prepared");
        prepared.take().expect("it is being prepared").callback(());
        assert_eq!(client.health(), Health::Ready);
        wire.close();
        memory.settle();
        assert_eq!(client.health(), failed);
        memory.advance(S);
    }
}
