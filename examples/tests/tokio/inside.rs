//! `couplet::embed`: a loop inside a tokio runtime.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::task::Poll;
use std::time::Duration;

use couplet::embed::{self, Embedded};
use couplet::reactor::Stopped;
use couplet::testing::{Manner, Memory};
use couplet::{
    Deferred, Failure, Loop, LoopOptions, Protocol, Reactor, Reason, Result, Shutdown, Signal,
    Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, yield_now};
use tokio::time::sleep;

use crate::{ANY, Echo, PATIENCE, address, echoed};

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn new_loop() -> Loop {
    Loop::new().expect("a loop")
}

/// Runs a test as a tokio task next to a spawned [`Embedded`], which only its own wake-ups turn.
fn beside<T>(test: impl AsyncFnOnce(Reactor) -> Result<T>) -> T {
    let (runtime, local) = (current_thread(), LocalSet::new());
    let talk = async {
        let run = Embedded::begin(new_loop(), |_| Ok(()))?;
        let reactor = run.reactor();
        let running = tokio::task::spawn_local(run);
        let result = tokio::time::timeout(PATIENCE, test(reactor.clone())).await??;
        reactor.stop();
        running.await??;
        Ok::<_, Failure>(result)
    };
    local.block_on(&runtime, talk).expect("the test ends")
}

/// Polls the loop's task many times, so that it sleeps afterwards.
async fn let_it_sleep() {
    for _ in 0..100 {
        yield_now().await;
    }
}

#[test]
fn a_loop_serves_tokio_in_every_kind_of_runtime() {
    let program = async |reactor: Reactor| echoed(&reactor, "hello").await;
    let here = current_thread().block_on(embed::run(new_loop(), program));
    assert_eq!(here.expect("an answer"), "hello");
    let local = LocalSet::new().block_on(&current_thread(), embed::run(new_loop(), program));
    assert_eq!(local.expect("an answer"), "hello");
    // The runtime's other threads wait for the descriptor.
    let threads = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let threads = threads.expect("a runtime").block_on(embed::run(new_loop(), program));
    assert_eq!(threads.expect("an answer"), "hello");
}

#[test]
fn a_record_made_in_a_task_of_tokio_wakes_a_sleeping_loop() {
    beside(async |reactor| {
        let port = reactor.listen(ANY, || Echo)?;
        let_it_sleep().await;
        let connection = reactor.connect(port.host().to_string(), || Echo).await?;
        let_it_sleep().await;
        assert_eq!(connection.ask(|_, _| 7).await?, 7);
        let_it_sleep().await;
        reactor.spawn(async { Ok(()) }).await?;
        let_it_sleep().await;
        reactor.defer_to_thread(|| Ok(())).await?;
        let_it_sleep().await;
        reactor.snapshot().await?;
        Ok(())
    });
}

#[test]
fn timed_calls_run_in_order_when_added_or_moved_during_a_sleep() {
    let order = beside(async |reactor| {
        let order: Rc<RefCell<Vec<u32>>> = Rc::default();
        let call = |after, number| {
            let order = order.clone();
            let call = move || order.borrow_mut().push(number);
            reactor.call_later(Duration::from_millis(after), call)
        };
        let far = call(3_600_000, 3);
        // The first sleep of a loop is short.
        sleep(Duration::from_millis(5)).await;
        // Due before the end of the loop's sleep.
        call(2, 1);
        let_it_sleep().await;
        // Due after the end of the loop's sleep.
        let postponed = call(1, 2);
        assert!(postponed.reset(Duration::from_millis(5)));
        let_it_sleep().await;
        assert!(far.reset(Duration::from_millis(9)));
        reactor.sleep(Duration::from_millis(12)).await?;
        Ok(order.take())
    });
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn all_of_a_large_echo_comes_back_though_an_edge_comes_once() {
    const MUCH: usize = 4 << 20;
    let received = beside(async |reactor| {
        let port = reactor.listen(ANY, || Echo)?;
        let (mut reads, mut writes) = TcpStream::connect(address(&port)).await?.into_split();
        let writing = tokio::spawn(async move {
            let sent: Vec<u8> = (0..MUCH).map(|at| (at % 251) as u8).collect();
            writes.write_all(&sent).await.map(|()| writes)
        });
        let mut received = vec![0; MUCH];
        reads.read_exact(&mut received).await?;
        writing.await??;
        Ok(received)
    });
    assert!((0..MUCH).all(|at| received[at] == (at % 251) as u8));
}

#[test]
fn a_loop_with_nothing_to_do_is_left_alone() {
    let mut polls = 0;
    current_thread().block_on(async {
        let mut run = Embedded::begin(new_loop(), |reactor| {
            reactor.listen(ANY, || Echo)?;
            reactor.call_later(Duration::from_secs(3600), || ());
            // The end of the job is an event of the driver.
            reactor.defer_to_thread(|| Ok(())).detach();
            // The loop's sleep is set for the call until that is cancelled; it wakes once without
            // work.
            let cancelled = reactor.call_later(Duration::from_millis(10), || ());
            reactor.call_later(Duration::from_millis(5), move || assert!(cancelled.cancel()));
            let stopping = reactor.clone();
            reactor.call_later(Duration::from_millis(40), move || stopping.stop());
            Ok(())
        })
        .expect("it begins");
        let counted = std::future::poll_fn(|cx| {
            polls += 1;
            Pin::new(&mut run).poll(cx)
        });
        counted.await.expect("it is stopped");
        let again = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut run).poll(cx))).await;
        assert!(matches!(again, Poll::Ready(Ok(()))), "it has ended for good");
    });
    assert!(polls < 20, "{polls} polls");
}

#[test]
fn neither_side_starves_the_other() {
    const ROUNDS: u32 = 10_000;
    /// Far more turns than a fair share.
    const TOO_MANY: u32 = 1_000_000;
    beside(async |reactor| {
        let (in_loop, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let (turns, is_done) = (in_loop.clone(), done.clone());
        // Wakes itself in each turn.
        let busy = reactor.spawn(async move {
            // tokio's `yield_now` would wake it from outside a turn.
            std::future::poll_fn(|cx| {
                turns.set(turns.get() + 1);
                if is_done.get() || turns.get() == TOO_MANY {
                    return Poll::Ready(Ok(()));
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            })
            .await
        });
        for _ in 0..ROUNDS {
            yield_now().await;
        }
        done.set(true);
        busy.await?;
        let turns = in_loop.get();
        assert!((ROUNDS / 100..TOO_MANY).contains(&turns), "{turns} turns to {ROUNDS} polls");
        Ok(())
    });
}

#[test]
fn callbacks_run_in_the_context_of_tokio() {
    /// Answers from a tokio task.
    struct Later;
    impl Protocol for Later {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            let (transport, data) = (transport.clone(), data.to_vec());
            tokio::task::spawn_local(async move {
                sleep(Duration::from_millis(1)).await;
                transport.write(data);
            });
        }
    }
    let answer = beside(async |reactor| {
        let port = reactor.listen(ANY, || Later)?;
        let mut stream = TcpStream::connect(address(&port)).await?;
        stream.write_all(b"late").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        // A task of the loop waits for tokio's time.
        let slept = async {
            sleep(Duration::from_millis(1)).await;
            Ok(())
        };
        reactor.spawn(slept).await?;
        Ok(answer)
    });
    assert_eq!(&answer, b"late");
}

/// Records why the connection was lost.
struct Lost(Rc<RefCell<Option<Reason>>>);

impl Protocol for Lost {
    fn data_received(&mut self, _: &Transport, _: &[u8]) {}

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        self.0.replace(Some(reason.clone()));
    }
}

#[test]
fn dropping_the_future_ends_the_run() {
    current_thread().block_on(async {
        let reason: Rc<RefCell<Option<Reason>>> = Rc::default();
        let program = async |reactor: Reactor| {
            let factory = {
                let reason = Rc::clone(&reason);
                move || Lost(reason.clone())
            };
            let port = reactor.listen(ANY, factory)?;
            let connection = reactor.connect(port.host().to_string(), || Echo).await?;
            connection.ask(|_, _| ()).await?;
            let dropped = Rc::new(Cell::new(false));
            let during = dropped.clone();
            reactor.on(Shutdown::During, move || {
                during.set(true);
                Deferred::succeed(())
            });
            Ok::<_, Failure>((port, dropped))
        };
        let run = Embedded::begin(new_loop(), |_| Ok(())).expect("it begins");
        let reactor = run.reactor();
        let mut run = Box::pin(run);
        let (port, during) = tokio::select! {
            set_up = program(reactor.clone()) => set_up.expect("connected"),
            _ = &mut run => panic!("nobody stops it"),
        };
        // The accepted end may be created a turn later.
        while reactor_has_one_end(&mut run, &reactor).await {}
        drop(run);
        assert!(!port.is_listening());
        assert!(during.get());
        assert!(matches!(*reason.borrow(), Some(Reason::Shutdown)), "{reason:?}");
    });
}

/// Continues while the loop has only the client's end of a connection.
async fn reactor_has_one_end(run: &mut Pin<Box<Embedded>>, reactor: &Reactor) -> bool {
    tokio::select! {
        snapshot = reactor.snapshot() => snapshot.expect("it runs").connections.len() < 2,
        _ = run => panic!("nobody stops it"),
    }
}

/// Calls `stop`, and waits until the shutdown has closed a connection. A job holds up the end of
/// the run until the returned sender is dropped.
async fn closed_by(reactor: &Reactor, stop: impl FnOnce()) -> Result<Sender<()>> {
    let (ends, held) = channel();
    reactor.defer_to_thread(move || Ok(held.recv().is_ok())).detach();
    let port = reactor.listen(ANY, || Echo)?;
    let mut stream = reactor.connect_stream(port.host().to_string()).await?;
    stop();
    assert!(!matches!(stream.read(&mut [0]).await, Ok(1..)), "nothing was sent");
    Ok(ends)
}

#[test]
fn a_run_that_was_stopped_first_returns_a_success_or_stopped() {
    for (is_stopped, result, expected) in [
        (false, Some(Ok("done")), "done"),
        (false, Some(Err("broken")), "broken"),
        (true, None, "stopped"),
        (true, Some(Ok("done")), "done"),
        // The shutdown may have caused the failure.
        (true, Some(Err("broken")), "stopped"),
    ] {
        let outcome = current_thread().block_on(embed::run(new_loop(), async |reactor| {
            if is_stopped {
                drop(closed_by(&reactor, || reactor.stop()).await?);
            }
            match result {
                Some(result) => result.map(str::to_owned).map_err(Failure::msg),
                None => std::future::pending().await,
            }
        }));
        let said = outcome.unwrap_or_else(|failure| match failure.downcast_ref::<Stopped>() {
            Some(Stopped { signal: None, .. }) => "stopped".to_owned(),
            _ => failure.to_string(),
        });
        assert_eq!(said, expected, "stopped: {is_stopped}, {result:?}");
    }
}

#[test]
fn the_result_of_a_program_waits_for_the_shutdown() {
    let flushed = Rc::new(Cell::new(false));
    let before = flushed.clone();
    let result = current_thread().block_on(embed::run(new_loop(), async |reactor| {
        let waits = reactor.clone();
        reactor.on(Shutdown::Before, move || {
            waits.sleep(Duration::from_millis(2)).map(move |()| before.set(true))
        });
        Ok("done")
    }));
    assert_eq!(result.expect("it succeeds"), "done");
    assert!(flushed.get());
}

#[test]
fn a_failure_is_returned_of_the_program_or_the_setup() {
    current_thread().block_on(async {
        let program = async |_| Err::<(), _>(std::io::Error::other("no program").into());
        let failure = embed::run(new_loop(), program).await.expect_err("it fails");
        assert_eq!(failure.to_string(), "no program");
        let failure =
            Embedded::begin(new_loop(), |_| Err(std::io::Error::other("no setup").into()));
        assert_eq!(failure.expect_err("it fails").to_string(), "no setup");
    });
}

#[test]
fn a_loop_without_a_descriptor_is_refused() {
    current_thread().block_on(async {
        let (driver, _network) = Memory::new(Manner::Readiness, 1);
        let l = Loop::with_driver(driver, LoopOptions::default());
        let refused = Embedded::begin(l, |_| Ok(())).expect_err("nothing to wait for");
        assert!(refused.to_string().contains("no descriptor"), "{refused}");
    });
}

/// The only test of this process that handles signals.
#[test]
fn a_signal_stops_an_embedded_run_that_asks_for_it() {
    use rustix::process::{Signal as Sent, getpid, kill_process};
    for fails in [false, true] {
        let l = Loop::with_options(LoopOptions::default().signals(true)).expect("a loop");
        let stopped = current_thread().block_on(embed::run(l, async |reactor| {
            let terminate = || kill_process(getpid(), Sent::TERM).expect("it runs");
            drop(closed_by(&reactor, terminate).await?);
            if fails {
                return Err(Failure::msg("broken"));
            }
            std::future::pending::<Result<()>>().await
        }));
        let failure = stopped.expect_err("it never succeeds");
        let signal = failure.downcast_ref::<Stopped>().and_then(|stopped| stopped.signal);
        assert_eq!(signal, Some(Signal::Terminate), "{failure}");
    }
}
