//! A small thread pool for blocking work; the driver collects the answers.
//!
//! Threads start on demand, up to a limit, and exit after a time without work. To cancel, forget
//! the ticket: a queued question is dropped; a running one finishes, and its answer is dropped.
//! Dropping the pool does not wait for its threads; they exit on their own.
//!
//! INVARIANT: questions, which may hold user objects, are dropped while nothing is locked.
//!
//! Contract: 97, 103i, 142.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::{Ticket, affinity};

/// How long threads wait for work.
pub(super) const IDLE: Duration = Duration::from_secs(10);

/// A pool's function and limits.
#[derive(Debug)]
pub(super) struct PoolSpec<Q, A> {
    /// The name of its threads.
    pub(super) name: &'static str,
    pub(super) threads: usize,
    /// How long a thread waits for work before it exits.
    pub(super) idle: Duration,
    /// Maximum queued questions; further ones are refused.
    pub(super) queue: usize,
    /// Answers a question. Does not panic.
    pub(super) run: fn(Q) -> A,
    /// The answer to a question that was refused.
    pub(super) refuse: fn(io::Error) -> A,
}

/// The pool: questions in, answers out.
#[derive(Debug)]
pub(super) struct Pool<Q, A> {
    shared: Arc<PoolShared<Q, A>>,
}

#[derive(Debug)]
struct PoolShared<Q, A> {
    work: PoolSpec<Q, A>,
    state: Mutex<PoolState<Q, A>>,
    work_added: Condvar,
    waker: Waker,
}

#[derive(Debug)]
struct PoolState<Q, A> {
    // Lookups beyond QUEUE are refused; jobs are unlimited.
    waiting: VecDeque<(Ticket, Q)>,
    /// Started, and neither answered nor forgotten.
    running: Vec<Ticket>,
    answers: VecDeque<(Ticket, A)>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl<Q: Send + 'static, A: Send + 'static> Pool<Q, A> {
    pub(super) fn new(work: PoolSpec<Q, A>, waker: Waker) -> Pool<Q, A> {
        let state = PoolState {
            waiting: VecDeque::new(),
            running: Vec::new(),
            answers: VecDeque::new(),
            threads: 0,
            idle: 0,
            closed: false,
        };
        let shared =
            PoolShared { work, state: Mutex::new(state), work_added: Condvar::new(), waker };
        Pool { shared: Arc::new(shared) }
    }

    pub(super) fn submit(&self, ticket: Ticket, question: Q) {
        let mut state = self.shared.lock();
        if state.waiting.len() >= self.shared.work.queue {
            let error = io::Error::new(io::ErrorKind::QuotaExceeded, "the pool's queue is full");
            state.answers.push_back((ticket, (self.shared.work.refuse)(error)));
            drop(state);
            return self.shared.waker.wake_by_ref();
        }
        state.waiting.push_back((ticket, question));
        if state.idle < state.waiting.len() && state.threads < self.shared.work.threads {
            state.threads += 1;
            drop(state);
            self.start_thread();
        } else {
            drop(state);
            self.shared.work_added.notify_one();
        }
    }

    fn start_thread(&self) {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(shared.work.name.into());
        if let Err(error) = thread.spawn(move || {
            affinity::unpin();
            shared.run_thread();
        }) {
            let mut state = self.shared.lock();
            state.threads -= 1;
            if state.threads == 0 {
                // No thread is left to run them.
                let waiting = std::mem::take(&mut state.waiting);
                for (ticket, _) in &waiting {
                    let error = io::Error::from(error.kind());
                    state.answers.push_back((*ticket, (self.shared.work.refuse)(error)));
                }
                drop(state);
                drop(waiting);
                self.shared.waker.wake_by_ref();
            }
        }
    }

    /// Cancels a question: its answer is never returned.
    pub(super) fn forget(&self, ticket: Ticket) {
        let mut state = self.shared.lock();
        let (mut waited, mut answered) = (None, None);
        if let Some(at) = state.waiting.iter().position(|(waiting, _)| *waiting == ticket) {
            waited = state.waiting.remove(at);
        } else if let Some(at) = state.answers.iter().position(|(answer, _)| *answer == ticket) {
            answered = state.answers.remove(at);
        }
        state.running.retain(|running| *running != ticket);
        drop(state);
        drop((waited, answered));
    }

    pub(super) fn next(&self) -> Option<(Ticket, A)> {
        self.shared.lock().answers.pop_front()
    }
}

impl<Q, A> Drop for Pool<Q, A> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.shared.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        self.shared.work_added.notify_all();
        drop(waiting);
    }
}

impl<Q, A> PoolShared<Q, A> {
    fn lock(&self) -> MutexGuard<'_, PoolState<Q, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_thread(&self) {
        let mut state = self.lock();
        while !state.closed {
            if let Some((ticket, question)) = state.waiting.pop_front() {
                state.running.push(ticket);
                drop(state);
                let answer = (self.work.run)(question);
                state = self.lock();
                if let Some(at) = state.running.iter().position(|running| *running == ticket) {
                    state.running.swap_remove(at);
                    state.answers.push_back((ticket, answer));
                    self.waker.wake_by_ref();
                }
                continue;
            }
            state.idle += 1;
            #[expect(clippy::disallowed_methods, reason = "a thread of the pool, and not the loop")]
            let (held, timeout) = self
                .work_added
                .wait_timeout(state, self.work.idle)
                .unwrap_or_else(PoisonError::into_inner);
            state = held;
            state.idle -= 1;
            if timeout.timed_out() && state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::task::Wake;
    use std::thread::Thread;

    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    type Gate = (Sender<()>, Receiver<()>);

    /// A pool whose jobs report that they have started, and wait to be released.
    fn gates(threads: usize, queue: usize) -> Pool<Gate, io::Result<()>> {
        let run = |(begun, go): Gate| {
            begun.send(()).map_err(io::Error::other)?;
            go.recv().map_err(io::Error::other)
        };
        let work = PoolSpec { name: "test", threads, idle: IDLE, queue, run, refuse: Err };
        Pool::new(work, Arc::new(Unpark(std::thread::current())).into())
    }

    /// A pool of one thread that answers with the question, and a refused one with 0.
    fn repeating(idle: Duration, queue: usize) -> Pool<u32, u32> {
        let run = |answer: u32| answer;
        let work = PoolSpec { name: "test", threads: 1, idle, queue, run, refuse: |_| 0 };
        Pool::new(work, Arc::new(Unpark(std::thread::current())).into())
    }

    #[expect(clippy::disallowed_methods, reason = "the pool wakes the thread")]
    fn answer<Q: Send + 'static, A: Send + 'static>(pool: &Pool<Q, A>) -> (Ticket, A) {
        loop {
            match pool.next() {
                Some(answer) => return answer,
                None => std::thread::park(),
            }
        }
    }

    #[test]
    fn c142_a_pool_is_bounded_and_refuses_more_immediately() {
        let pool = gates(1, 1);
        let (begun, has_begun) = channel();
        let (let_first_go, first) = channel();
        let (let_second_go, second) = channel();
        pool.submit(Ticket(1), (begun.clone(), first));
        has_begun.recv().unwrap();
        pool.submit(Ticket(2), (begun.clone(), second));
        pool.submit(Ticket(3), (begun, channel().1));
        let (ticket, refused) = answer(&pool);
        assert_eq!((ticket, refused.is_err()), (Ticket(3), true));
        let_first_go.send(()).unwrap();
        assert!(matches!(answer(&pool), (Ticket(1), Ok(()))));
        let_second_go.send(()).unwrap();
        assert!(matches!(answer(&pool), (Ticket(2), Ok(()))));
        let state = pool.shared.lock();
        assert_eq!(
            (state.threads, state.running.len()),
            (1, 0),
            "finished jobs leave nothing behind"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test fails where it would wait for ever")]
    fn a_thread_that_was_idle_and_works_again_does_not_count_as_idle() {
        let pool = gates(2, 9);
        let (begun, has_begun) = channel();
        let submit = |ticket| {
            let (let_go, go) = channel();
            pool.submit(Ticket(ticket), (begun.clone(), go));
            has_begun.recv_timeout(IDLE).expect("a thread has it");
            let_go
        };
        submit(1).send(()).unwrap();
        assert!(matches!(answer(&pool), (Ticket(1), Ok(()))));
        while pool.shared.lock().idle == 0 {
            std::thread::yield_now();
        }
        let (let_second_go, let_third_go) = (submit(2), submit(3));
        let_second_go.send(()).unwrap();
        assert!(matches!(answer(&pool), (Ticket(2), Ok(()))));
        let_third_go.send(()).unwrap();
        assert!(matches!(answer(&pool), (Ticket(3), Ok(()))));
    }

    /// Idle threads that have not woken up yet are counted on for one question each.
    #[test]
    fn no_question_waits_for_another_while_threads_may_start() {
        const QUESTIONS: usize = 4;
        for idle in 0..=QUESTIONS {
            let pool = gates(QUESTIONS, 9);
            let mut state = pool.shared.lock();
            (state.threads, state.idle) = (idle, idle);
            drop(state);
            let (begun, _has_begun) = channel();
            let gates = (0..QUESTIONS).map(|ticket| {
                let (let_go, go) = channel();
                pool.submit(Ticket(ticket as u64), (begun.clone(), go));
                let_go
            });
            let _gates: Vec<Sender<()>> = gates.collect();
            assert_eq!(pool.shared.lock().threads, QUESTIONS, "{idle} were idle");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test fails where it would wait for ever")]
    fn threads_exit_when_idle_and_others_start_in_their_place() {
        let pool = repeating(Duration::from_millis(1), 1);
        for ticket in 1..4 {
            pool.submit(Ticket(ticket), 7);
            assert_eq!(answer(&pool), (Ticket(ticket), 7));
            let exited = (0..10_000).any(|_| {
                std::thread::park_timeout(Duration::from_millis(1));
                pool.shared.lock().threads == 0
            });
            assert!(exited, "the idle thread is still counted");
        }
    }

    /// Counts its wake-ups.
    #[derive(Default)]
    struct Wakes(AtomicUsize);
    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_refused_question_wakes_its_loop_and_a_queued_one_does_not() {
        let wakes = Arc::new(Wakes::default());
        let run = |answer: u32| answer;
        // Without threads, all wake-ups come from `submit`.
        let work = PoolSpec { name: "test", threads: 0, idle: IDLE, queue: 2, run, refuse: |_| 0 };
        let pool = Pool::new(work, wakes.clone().into());
        for (ticket, woken) in [(1, 0), (2, 0), (3, 1), (4, 2)] {
            pool.submit(Ticket(ticket), 7);
            assert_eq!(wakes.0.load(Ordering::SeqCst), woken, "after question {ticket}");
        }
        pool.forget(Ticket(1));
        pool.submit(Ticket(5), 7);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 2, "a forgotten question makes room");
        assert_eq!([pool.next(), pool.next()], [Some((Ticket(3), 0)), Some((Ticket(4), 0))]);
        assert!(pool.next().is_none());
    }

    #[test]
    fn each_answer_wakes_the_loop_unless_it_was_forgotten() {
        let wakes = Arc::new(Wakes::default());
        let run = |(begun, go): Gate| {
            begun.send(()).expect("the test waits");
            let _ = go.recv();
        };
        let work = PoolSpec { name: "test", threads: 1, idle: IDLE, queue: 9, run, refuse: drop };
        let pool = Pool::new(work, wakes.clone().into());
        let (begun, has_begun) = channel();
        let mut gates: Vec<Sender<()>> = Vec::new();
        for ticket in 1..=4 {
            let (let_go, go) = channel();
            pool.submit(Ticket(ticket), (begun.clone(), go));
            gates.push(let_go);
        }
        // Each one has ended when the one behind it begins.
        for (gate, (ticket, woken)) in gates.iter().zip([(1, 0), (2, 1), (3, 1), (4, 2)]) {
            has_begun.recv().unwrap();
            assert_eq!(wakes.0.load(Ordering::SeqCst), woken, "before answer {ticket}");
            if ticket == 2 {
                pool.forget(Ticket(2));
            }
            gate.send(()).unwrap();
        }
    }

    #[test]
    fn a_pool_that_is_dropped_drops_its_questions_and_lets_its_threads_exit() {
        let pool = gates(1, 9);
        let (begun, has_begun) = channel();
        let (let_go, go) = channel();
        pool.submit(Ticket(1), (begun.clone(), go));
        has_begun.recv().unwrap();
        let (queued, go) = channel();
        pool.submit(Ticket(2), (begun, go));
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(queued.send(()).is_err(), "the queued question was dropped");
        let_go.send(()).unwrap();
        while shared.upgrade().is_some() {
            std::thread::yield_now();
        }
        assert!(has_begun.recv().is_err(), "it was never run");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test fails where it would wait for ever")]
    fn an_idle_thread_exits_with_its_pool() {
        let pool = repeating(Duration::from_secs(3600), 1);
        pool.submit(Ticket(1), 7);
        assert_eq!(answer(&pool), (Ticket(1), 7));
        while pool.shared.lock().idle == 0 {
            std::thread::yield_now();
        }
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        let exited = (0..10_000).any(|_| {
            std::thread::park_timeout(Duration::from_millis(1));
            shared.upgrade().is_none()
        });
        assert!(exited, "it waits for more questions");
    }

    /// Calls the closure when dropped.
    struct OnDrop(Box<dyn FnMut() + Send>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    #[test]
    fn a_forgotten_question_is_dropped_while_nothing_is_locked() {
        let run = |_: OnDrop| ();
        let work = PoolSpec { name: "test", threads: 0, idle: IDLE, queue: 1, run, refuse: drop };
        let pool = Pool::new(work, Waker::noop().clone());
        let (dropped, was_dropped) = channel();
        let shared = pool.shared.clone();
        let on_drop = move || dropped.send(shared.state.try_lock().is_ok()).unwrap();
        pool.submit(Ticket(1), OnDrop(Box::new(on_drop)));
        pool.forget(Ticket(1));
        assert!(was_dropped.recv().unwrap());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the pool wakes the thread")]
    fn an_answer_that_is_forgotten_is_not_returned() {
        let pool = repeating(IDLE, 9);
        (1..4).for_each(|ticket| pool.submit(Ticket(ticket), 7));
        while pool.shared.lock().answers.len() < 3 {
            std::thread::park();
        }
        pool.forget(Ticket(2));
        assert_eq!([answer(&pool), answer(&pool)], [(Ticket(1), 7), (Ticket(3), 7)]);
        assert!(pool.next().is_none());
    }

    #[test]
    fn a_forgotten_ticket_gets_no_answer_whether_queued_or_running() {
        let pool = gates(1, 9);
        let (begun, has_begun) = channel();
        let (let_first_go, first) = channel();
        let (let_last_go, last) = channel();
        pool.submit(Ticket(1), (begun.clone(), first));
        has_begun.recv().unwrap();
        pool.submit(Ticket(2), (begun.clone(), channel().1));
        pool.submit(Ticket(3), (begun, last));
        pool.forget(Ticket(1));
        pool.forget(Ticket(2));
        let_first_go.send(()).unwrap();
        let_last_go.send(()).unwrap();
        assert!(matches!(answer(&pool), (Ticket(3), Ok(()))));
        assert!(pool.next().is_none());
    }
}
