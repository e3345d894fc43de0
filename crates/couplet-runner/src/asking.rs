//! Questions between loops: a call in another loop, whose Deferred fires in the loop that asks.

use std::any::Any;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use couplet::defer::Canceller;
use couplet::hooks::SortedMap;
use couplet::reactor::LoopGone;
use couplet::{Deferred, Reactor, Remote, Resolver};

/// The number of the next question of any loop.
static NEXT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The answers that this loop waits for: a `Resolver` for each number.
    static AWAITED: RefCell<SortedMap<u64, Box<dyn Any>>> = const { RefCell::new(SortedMap::new()) };
    /// The questions of other loops that this one works on.
    static WORK: RefCell<SortedMap<u64, Canceller>> = const { RefCell::new(SortedMap::new()) };
}

/// A question to another loop.
pub(crate) struct Question {
    number: u64,
    to: Remote,
}

impl Question {
    /// Cancels the Deferred in the other loop, which still gives the answer.
    pub(crate) fn cancel(&self) {
        let number = self.number;
        // A loop that was dropped has answered.
        let _ = self.to.call(move |_| {
            let work = WORK.with_borrow(|work| work.get(&number).cloned());
            if let Some(work) = work {
                work.cancel();
            }
        });
    }
}

/// Asks a loop. The Deferred has its answer, or a failure if `answer` panics or the loop ends first.
pub(crate) fn ask<T: Send + 'static>(
    from: &Reactor,
    to: &Remote,
    answer: impl FnOnce(&Reactor) -> Deferred<T> + Send + 'static,
) -> (Deferred<T>, Question) {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let (deferred, resolver) = Deferred::<T>::new();
    // Not in a thread that ends: nothing awaits the answer.
    let _ = AWAITED.try_with(|all| all.borrow_mut().insert(number, Box::new(resolver)));
    let reply = Reply { to: from.remote(), number, outcome: None };
    // A refused call drops the reply, which sends a failure.
    let _ = to.call(move |reactor| {
        let reactor = reactor.clone();
        // Called in a callback, so that a panic becomes the answer.
        let work = Deferred::succeed(()).then(move |()| answer(&reactor));
        WORK.with_borrow_mut(|all| all.insert(number, work.canceller()));
        let answered = work.add_both(move |outcome| {
            // A thread that ends may have dropped the list first.
            let _ = WORK.try_with(|all| all.borrow_mut().remove(&number));
            reply.send(outcome);
            Ok(())
        });
        answered.detach();
    });
    (deferred, Question { number, to: to.clone() })
}

/// Drops all questions and answers of a loop that has ended: later, the thread has no place for them.
pub(crate) fn forget_all() {
    drop(AWAITED.take());
    drop(WORK.take());
}

/// A pending answer. Dropping it without one reports that the loop was dropped.
struct Reply<T: Send + 'static> {
    to: Remote,
    number: u64,
    outcome: Option<couplet::Result<T>>,
}

impl<T: Send + 'static> Reply<T> {
    fn send(mut self, outcome: couplet::Result<T>) {
        self.outcome = Some(outcome);
    }
}

impl<T: Send + 'static> Drop for Reply<T> {
    fn drop(&mut self) {
        let (number, outcome) = (self.number, self.outcome.take());
        // The loop that asked may have been dropped.
        let _ = self.to.call(move |_| {
            let awaited = AWAITED.with_borrow_mut(|awaited| awaited.remove(&number));
            let resolver = awaited.and_then(|awaited| awaited.downcast::<Resolver<T>>().ok());
            if let Some(resolver) = resolver {
                resolver.resolve(outcome.unwrap_or_else(|| Err(LoopGone.into())));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use couplet::{Failure, Loop};

    use super::*;

    /// A loop in a thread, which ends when it is stopped.
    fn other_loop() -> (Remote, thread::JoinHandle<()>) {
        let (send, receive) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut l = Loop::new().expect("a poll descriptor");
            send.send(l.reactor().remote()).expect("it waits");
            l.run(|_| Ok(())).expect("a stop");
        });
        (receive.recv().expect("it has started"), thread)
    }

    #[test]
    fn each_question_has_its_answer() {
        let (other, thread) = other_loop();
        let mut l = Loop::new().unwrap();
        let reactor = l.reactor();
        let talk = reactor.clone().spawn(async move {
            let ask_number = |n: u32| {
                ask(&reactor, &other, move |reactor| {
                    let waited = reactor.sleep(std::time::Duration::from_millis(u64::from(9 - n)));
                    waited.map(move |()| n)
                })
            };
            let (first, second) = (ask_number(1).0, ask_number(2).0);
            assert_eq!((first.await?, second.await?), (1, 2));
            let failed = ask(&reactor, &other, |_| Deferred::<()>::fail(Failure::msg("no"))).0;
            assert_eq!(failed.await.unwrap_err().to_string(), "no");
            let panicked = ask::<()>(&reactor, &other, |_| panic!("an answer that panics")).0;
            assert!(panicked.await.unwrap_err().to_string().contains("an answer that panics"));
            let (cancelled, question) = ask(&reactor, &other, |_| {
                let (deferred, resolver) = Deferred::<u32>::with_canceller(|it| it.callback(7));
                std::mem::forget(resolver);
                deferred
            });
            question.cancel();
            assert_eq!(cancelled.await?, 7);
            other.call(Reactor::stop)?;
            let late = ask(&reactor, &other, |reactor| reactor.spawn(std::future::pending()));
            let late: couplet::Result<()> = late.0.await;
            assert!(late.is_err());
            Ok(())
        });
        l.run_until(talk).unwrap();
        thread.join().unwrap();
        assert!(AWAITED.with_borrow(SortedMap::is_empty));
    }

    #[test]
    fn a_loop_that_has_ended_has_neither_questions_nor_work() {
        let mut l = Loop::new().unwrap();
        let reactor = l.reactor();
        let forever = |reactor: &Reactor| reactor.spawn(std::future::pending());
        let (answer, _question): (Deferred<()>, _) = ask(&reactor, &reactor.remote(), forever);
        // This question arrives after the first.
        let second = ask(&reactor, &reactor.remote(), |_| Deferred::succeed(())).0;
        l.run_until(second).unwrap();
        assert_eq!(WORK.with_borrow(SortedMap::len), 1);
        assert_eq!(AWAITED.with_borrow(SortedMap::len), 1);
        forget_all();
        assert!(AWAITED.with_borrow(SortedMap::is_empty));
        assert!(WORK.with_borrow(SortedMap::is_empty));
        drop(answer);
        assert!(AWAITED.with_borrow(SortedMap::is_empty));
        assert!(WORK.with_borrow(SortedMap::is_empty));
    }
}
