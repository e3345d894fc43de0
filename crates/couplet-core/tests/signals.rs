//! OS signals, row 105: a run installs its handlers and restores the previous ones when it ends.
//!
//! A separate process, because a signal is process-wide; its tests run one at a time.
#![cfg(unix)]

#[macro_use]
extern crate couplet_testkit;

use std::cell::{Cell, RefCell};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard, Once};
use std::time::{Duration, Instant};

use couplet::{Deferred, Loop, LoopOptions, Reactor, Reason, Signal as Stopped, run_until};
use couplet_testkit::apart;
use couplet_testkit_loops::doubles::Quiet;
use couplet_testkit_loops::suite::recorder::{A, On, Script};
use rustix::process::Signal;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

/// Longer than any test takes; a test that reaches it hangs.
const LONG: Duration = Duration::from_secs(600);
/// More than the kernel buffers for a peer that does not read.
const MUCH: usize = 10_000_000;

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static HARMLESS: Once = Once::new();
    // A signal that arrives outside a run must not kill this process.
    HARMLESS.call_once(|| {
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            signal_hook::flag::register(signal, Arc::default()).expect("a handler");
        }
    });
    apart::one_at_a_time()
}

/// Sends this thread a signal, which is handled before the call returns. A signal to the process
/// may arrive in another thread, and later.
fn raise(signal: Signal) {
    signal_hook::low_level::raise(signal.as_raw()).expect("a signal to ourselves");
}

/// A handler installed before a run; records whether it was called.
struct Before {
    called: Arc<AtomicBool>,
    id: signal_hook::SigId,
}

impl Before {
    fn install(signal: i32) -> Before {
        let called = Arc::new(AtomicBool::new(false));
        let id = signal_hook::flag::register(signal, called.clone()).expect("a handler");
        Before { called, id }
    }

    fn is_called_by(&self, signal: Signal) -> bool {
        raise(signal);
        self.called.swap(false, Ordering::SeqCst)
    }

    fn was_called(&self) -> bool {
        self.called.load(Ordering::SeqCst)
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.id);
    }
}

#[test]
fn c105g_a_sigint_that_was_ignored_stays_ignored() {
    const TEST: &str = "c105g_a_sigint_that_was_ignored_stays_ignored";
    let Some(ends) = apart::told() else {
        for (trap, ends) in [("trap '' INT", "TERM"), (":", "INT")] {
            let script = format!("{trap}; exec \"$@\"");
            let mut command = apart::again_by(&["sh", "-c", &script, "sh"], TEST, ends);
            assert!(command.status().expect("it starts").success(), "{trap}");
        }
        return;
    };
    // Twice: the end of a run restores the previous disposition.
    for _ in 0..2 {
        let mut l = Loop::with_options(LoopOptions::default().signals(true)).expect("a loop");
        l.run(|_| {
            raise(Signal::INT);
            if ends == "TERM" {
                raise(Signal::TERM);
            }
            Ok(())
        })
        .expect("a run");
        let expected = if ends == "TERM" { Stopped::Terminate } else { Stopped::Interrupt };
        assert_eq!(l.stopped_by(), Some(expected));
    }
}

#[test]
fn c105_a_signal_ends_the_run_and_the_previous_handler_is_back() {
    let _turn = one_at_a_time();
    for (number, signal) in [(SIGINT, Signal::INT), (SIGTERM, Signal::TERM)] {
        let before = Before::install(number);
        assert!(before.is_called_by(signal), "it is active before the run");
        for _ in 0..2 {
            couplet::run(|reactor| {
                reactor.call_soon(move || raise(signal));
                Ok(())
            })
            .expect("the signal is a clean end");
            assert!(!before.was_called(), "the run received the signal instead");
            assert!(before.is_called_by(signal), "it is active again");
        }
    }
}

#[test]
fn c105_the_previous_handler_is_back_also_after_a_setup_that_failed_and_a_run_that_was_stopped() {
    let _turn = one_at_a_time();
    let before = Before::install(SIGINT);
    couplet::run(|_| Err(couplet::Failure::msg("no"))).expect_err("the setup's error");
    assert!(before.is_called_by(Signal::INT));
    couplet::run(|reactor| {
        reactor.stop();
        Ok(())
    })
    .expect("a clean end");
    assert!(before.is_called_by(Signal::INT));
}

#[test]
fn c105_c134_an_interrupted_script_reports_its_signal_also_by_its_exit_code() {
    let _turn = one_at_a_time();
    for (signal, stopped, code) in
        [(Signal::INT, Stopped::Interrupt, 130), (Signal::TERM, Stopped::Terminate, 143)]
    {
        let script = move |reactor: &Reactor| -> Deferred<()> {
            reactor.call_soon(move || raise(signal));
            reactor.sleep(LONG)
        };
        let failure = run_until(script).expect_err("it was interrupted");
        let said = failure.downcast_ref::<couplet::reactor::Stopped>().expect("a Stopped error");
        assert_eq!(said.signal, Some(stopped));
        assert_eq!(couplet::react(script), std::process::ExitCode::from(code));
    }
}

#[test]
fn c105_a_loop_leaves_signals_alone_by_default() {
    let _turn = one_at_a_time();
    let before = Before::install(SIGINT);
    let mut l = Loop::new().expect("a loop");
    l.run(|reactor| {
        assert!(before.is_called_by(Signal::INT));
        reactor.stop();
        Ok(())
    })
    .expect("a clean end");
    assert_eq!(l.stopped_by(), None);
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Idle,
    Unsent,
    Draining,
}

/// Runs a loop with one such connection, whose peer neither reads nor closes, until `signals` end
/// the run: the first is raised once the connection is set up, each of the others a turn later.
fn interrupted(
    kind: Kind,
    grace: Duration,
    signals: &'static [Signal],
) -> (Loop, Reason, Duration) {
    let mut l = Loop::with_options(LoopOptions::default().signals(true).shutdown_grace(grace))
        .expect("a loop");
    let (a, raised) = (A::default(), Rc::new(Cell::new(None)));
    let began = raised.clone();
    let script = Script::new().once(On::Made, move |transport| {
        match kind {
            Kind::Idle => {}
            Kind::Unsent => transport.write(vec![7; MUCH]),
            Kind::Draining => transport.lose_connection(),
        }
        // By the next turn the socket's buffers are full.
        let raising = transport.reactor().clone();
        transport.reactor().call_soon(move || {
            began.set(Some(raising.now()));
            raise_each(&raising, signals);
        });
    });
    let mut peer = None;
    l.run(|reactor| {
        let port = reactor.listen(LOOPBACK, a.once(script))?;
        peer = port.host().socket_addr().map(|to| TcpStream::connect(to).expect("a connection"));
        Ok(())
    })
    .expect("a clean end");
    let began: Instant = raised.get().expect("it was ready");
    let took = l.reactor().now().saturating_duration_since(began);
    (l, a.reason(), took)
}

/// Raises each signal once the previous one has arrived: two pending signals merge into one.
fn raise_each(reactor: &Reactor, signals: &'static [Signal]) {
    if let [first, rest @ ..] = signals {
        raise(*first);
        let later = reactor.clone();
        reactor.call_soon(move || raise_when_stopping(&later, rest));
    }
}

fn raise_when_stopping(reactor: &Reactor, signals: &'static [Signal]) {
    if reactor.is_stopping() {
        return raise_each(reactor, signals);
    }
    let later = reactor.clone();
    reactor.call_soon(move || raise_when_stopping(&later, signals));
}

#[test]
fn c105_one_signal_ends_a_run_with_connections_idle_or_draining_at_once() {
    let _turn = one_at_a_time();
    for kind in [Kind::Idle, Kind::Draining] {
        let (l, reason, took) = interrupted(kind, LONG, &[Signal::INT]);
        assert!(took < LONG, "{kind:?}: {took:?}");
        assert_eq!(l.stopped_by(), Some(Stopped::Interrupt));
        match kind {
            Kind::Draining => assert!(matches!(reason, Reason::Done(_)), "{reason:?}"),
            _ => assert!(matches!(reason, Reason::Shutdown), "{reason:?}"),
        }
    }
}

#[test]
fn c105_ten_megabytes_unsent_are_waited_for_as_long_as_the_grace() {
    let _turn = one_at_a_time();
    let grace = Duration::from_millis(200);
    let (_, reason, took) = interrupted(Kind::Unsent, grace, &[Signal::TERM]);
    assert!(took >= grace && took < LONG, "{took:?}");
    assert!(matches!(reason, Reason::Shutdown), "{reason:?}");
}

#[test]
fn c105_a_second_signal_ends_a_run_immediately_with_connections_in_any_state() {
    let _turn = one_at_a_time();
    for kind in [Kind::Idle, Kind::Unsent, Kind::Draining] {
        let (_, _, took) = interrupted(kind, LONG, &[Signal::INT, Signal::INT]);
        assert!(took < LONG, "{kind:?}: {took:?}");
    }
    let before = Before::install(SIGINT);
    let (l, _, _) = interrupted(Kind::Unsent, LONG, &[Signal::INT, Signal::TERM]);
    assert_eq!(l.stopped_by(), Some(Stopped::Terminate), "the last signal is reported");
    drop(l);
    assert!(
        before.is_called_by(Signal::INT),
        "the handlers were restored although connections were cut off"
    );
}

#[test]
fn c105_a_signal_after_a_run_that_a_signal_ended_is_ignored_until_the_loop_is_dropped() {
    let _turn = one_at_a_time();
    let before = Before::install(SIGINT);
    let (mut l, _, _) = interrupted(Kind::Idle, LONG, &[Signal::INT]);
    raise(Signal::INT);
    assert!(!before.was_called(), "the loop has kept its handler");
    let result = l.run(|reactor| {
        reactor.call_soon(|| raise(Signal::TERM));
        Ok(())
    });
    result.expect("another run takes the signals again");
    assert_eq!(l.stopped_by(), Some(Stopped::Terminate));
    assert!(!before.was_called(), "the loop has kept its handler");
    drop(l);
    assert!(before.is_called_by(Signal::INT), "the previous handler is back");
}

#[cfg(target_os = "linux")]
#[test]
fn a_wait_that_a_signal_interrupts_ends_without_an_error_each_time() {
    use couplet_core::driver::{Driver, Mio};
    use couplet_os::signals::SignalledThread;

    let _turn = one_at_a_time();
    let waiting = SignalledThread::current();
    let is_over = Arc::new(AtomicBool::new(false));
    let over = is_over.clone();
    let sends = std::thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            waiting.send(SIGUSR1).expect("it waits");
            std::thread::yield_now();
        }
    });
    let mut driver = Mio::new(4096).expect("a driver");
    let waits = [(); 3].map(|()| driver.wait(None).map_err(|error| error.kind()));
    is_over.store(true, Ordering::SeqCst);
    sends.join().expect("no panic");
    assert_eq!(waits, [Ok(()); 3]);
    assert!(driver.next().is_none());
}

#[test]
fn sigusr1_delivers_a_snapshot_and_the_run_continues() {
    let _turn = one_at_a_time();
    let before = Before::install(SIGUSR1);
    let mut l = Loop::with_options(LoopOptions::default().signals(true)).expect("a loop");
    let shown = Rc::new(RefCell::new(Vec::new()));
    let (showing, stopping) = (shown.clone(), l.reactor());
    l.on_snapshot(move |snapshot| {
        showing.borrow_mut().push(snapshot.to_string());
        match showing.borrow().len() {
            1 => raise(Signal::USR1),
            _ => stopping.stop(),
        }
    });
    l.run(|reactor| {
        reactor.listen(LOOPBACK, || Quiet)?;
        reactor.call_soon(|| raise(Signal::USR1));
        Ok(())
    })
    .expect("a clean end");
    assert_eq!(shown.borrow().len(), 2);
    assert!(shown.borrow().iter().all(|text| text.starts_with("1 ports, 0 connectors, ")));
    assert!(!before.was_called());
    assert!(before.is_called_by(Signal::USR1), "the previous handler is back");
}
