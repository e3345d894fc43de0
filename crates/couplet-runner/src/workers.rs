//! The threads of a program's further loops. The main loop, which runs in the program's own thread,
//! starts and stops them.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::Builder;
use std::time::Duration;

use couplet::{Deferred, Loop, LoopOptions, Reactor, Remote, Resolver, Shutdown, hooks};

use crate::{asking, parts};

/// The further loops. Dropped, they end immediately.
#[derive(Default)]
pub(crate) struct Workers(Vec<Worker>);

struct Worker {
    number: usize,
    remote: Remote,
    /// Whether its loop ends after this turn.
    is_over: Arc<AtomicBool>,
    /// Disconnected when the thread is about to end.
    // One message, when the loop has started.
    life: Receiver<io::Result<Remote>>,
}

/// How long a loop may take to end after the main loop.
const GRACE: Duration = Duration::from_secs(5);

thread_local! {
    /// Whether this loop may end.
    static LEAVE: RefCell<Leave> = const { RefCell::new(Leave::Withheld) };
}

/// The permission of the main loop to end.
enum Leave {
    Withheld,
    /// A part of the program has stopped this loop, which turns until the program stops.
    Awaited(Resolver<()>),
    Granted,
}

impl Workers {
    /// Starts a loop in a new thread, calls `set_up` there, and waits until the loop turns.
    pub(crate) fn start(
        &mut self,
        options: LoopOptions,
        main: Remote,
        set_up: impl FnOnce(&mut Loop) + Send + 'static,
    ) -> io::Result<()> {
        let (started, life) = mpsc::sync_channel(1);
        let is_over = Arc::new(AtomicBool::new(false));
        let ends = is_over.clone();
        let number = self.0.len() + 1;
        Builder::new().name(format!("couplet loop {number}")).spawn(move || {
            let begun = Loop::with_options(options.signals(false));
            let mut l = match begun {
                Ok(l) => l,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            set_up(&mut l);
            let _ = started.send(Ok(l.reactor().remote()));
            if let Err(failure) = turn(&mut l, &ends, main) {
                tracing::error!(number, "a loop has failed: {failure}");
            }
            parts::forget_all();
            asking::forget_all();
            // The loop is dropped first, and then `started`.
        })?;
        let remote =
            life.recv().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))?;
        self.0.push(Worker { number, remote, is_over, life });
        Ok(())
    }

    pub(crate) fn remotes(&self) -> impl Iterator<Item = Remote> {
        self.0.iter().map(|worker| worker.remote.clone())
    }
}

/// Turns a loop to its end. A stop inside it stops the program.
fn turn(l: &mut Loop, is_over: &AtomicBool, main: Remote) -> couplet::Result<()> {
    l.begin(|reactor| {
        reactor.on(Shutdown::Before, move || await_leave(&main));
        Ok(())
    })?;
    while l.turn_until(None)? && !is_over.load(Ordering::Acquire) {}
    l.end()
}

/// Stops the program, and waits until this loop may end.
fn await_leave(main: &Remote) -> Deferred<()> {
    let (deferred, resolver) = Deferred::new();
    let before = LEAVE.replace(Leave::Awaited(resolver));
    if let Leave::Granted = before {
        grant();
    } else {
        // The main loop may have been dropped.
        let _ = main.call(Reactor::stop);
    }
    deferred
}

/// Lets this loop end, and stops it.
pub(crate) fn stop(reactor: &Reactor) {
    grant();
    reactor.stop();
}

fn grant() {
    if let Leave::Awaited(resolver) = LEAVE.replace(Leave::Granted) {
        resolver.callback(());
    }
}

impl Drop for Workers {
    #[expect(clippy::disallowed_methods, reason = "the main loop has ended")]
    fn drop(&mut self) {
        for worker in &self.0 {
            worker.is_over.store(true, Ordering::Release);
            // A loop that was dropped has ended.
            let _ = worker.remote.call(hooks::interrupt);
        }
        for worker in &self.0 {
            if let Err(RecvTimeoutError::Timeout) = worker.life.recv_timeout(GRACE) {
                let number = worker.number;
                tracing::error!(number, "a loop does not end: its thread is left behind");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_further_loop_has_a_thread_with_its_number() {
        let l = Loop::new().unwrap();
        let mut workers = Workers::default();
        let (send, receive) = mpsc::channel();
        for number in 1..=3 {
            let send = send.clone();
            let name = move |_: &mut Loop| {
                send.send(std::thread::current().name().map(str::to_owned)).unwrap();
            };
            workers.start(LoopOptions::default(), l.reactor().remote(), name).unwrap();
            assert_eq!(receive.recv().unwrap(), Some(format!("couplet loop {number}")));
        }
    }

    #[test]
    fn a_stop_in_a_further_loop_stops_the_main_loop_first() {
        let mut l = Loop::new().unwrap();
        let mut workers = Workers::default();
        workers.start(LoopOptions::default(), l.reactor().remote(), |_| ()).unwrap();
        let worker = workers.remotes().next().unwrap();
        let stopped = worker.clone();
        l.run(move |_| Ok(stopped.call(Reactor::stop)?)).unwrap();
        // The further loop turns until the main loop lets it end.
        let (send, receive) = mpsc::channel();
        worker.call(move |_| send.send(()).unwrap()).unwrap();
        receive.recv().unwrap();
        worker.call(stop).unwrap();
        let life = workers.0[0].life.recv();
        assert!(life.is_err(), "its thread has ended");
    }
}
