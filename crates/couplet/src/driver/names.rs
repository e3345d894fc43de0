//! Looking up names through the system's `getaddrinfo`, which blocks and can't be cancelled.
//!
//! A pool of its own, so that slow names hold up nothing else: at most [`THREADS`] threads, started
//! when there is work and ended when there was none for a while. Who no longer wants an answer
//! forgets the ticket; the thread goes on alone and its answer is dropped. Law 9: at most
//! [`QUEUE`] names wait, and one more is refused at once.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use super::Ticket;

const THREADS: usize = 4;
const QUEUE: usize = 1000;
const IDLE: Duration = Duration::from_secs(10);

pub(super) type Answer = (Ticket, io::Result<Vec<IpAddr>>);

/// The pool. Dropping it lets its threads end by themselves.
#[derive(Debug)]
pub(super) struct Names {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    waker: Waker,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Ticket, String)>,
    answers: VecDeque<Answer>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Names {
    pub(super) fn new(waker: Waker) -> Names {
        let shared = Shared { state: Mutex::default(), work: Condvar::new(), waker };
        Names { shared: Arc::new(shared) }
    }

    pub(super) fn resolve(&self, ticket: Ticket, name: &str) {
        let mut state = self.shared.lock();
        if state.waiting.len() >= QUEUE {
            let error = io::Error::new(io::ErrorKind::QuotaExceeded, "too many names to look up");
            state.answers.push_back((ticket, Err(error)));
            drop(state);
            return self.shared.waker.wake_by_ref();
        }
        state.waiting.push_back((ticket, name.to_owned()));
        if state.idle < state.waiting.len() && state.threads < THREADS {
            state.threads += 1;
            drop(state);
            self.start_thread();
        } else {
            drop(state);
            self.shared.work.notify_one();
        }
    }

    fn start_thread(&self) {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("couplet-names".into());
        if let Err(error) = thread.spawn(move || shared.work()) {
            let mut state = self.shared.lock();
            state.threads -= 1;
            if state.threads == 0 {
                // Nobody is left to do it.
                while let Some((ticket, _)) = state.waiting.pop_front() {
                    state.answers.push_back((ticket, Err(io::Error::from(error.kind()))));
                }
                drop(state);
                self.shared.waker.wake_by_ref();
            }
        }
    }

    pub(super) fn forget(&self, ticket: Ticket) {
        let mut state = self.shared.lock();
        state.waiting.retain(|(waiting, _)| *waiting != ticket);
        state.answers.retain(|(answered, _)| *answered != ticket);
    }

    pub(super) fn next(&self) -> Option<Answer> {
        self.shared.lock().answers.pop_front()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if state.closed {
                break;
            }
            if let Some((ticket, name)) = state.waiting.pop_front() {
                drop(state);
                let answer = look_up(&name);
                state = self.lock();
                state.answers.push_back((ticket, answer));
                self.waker.wake_by_ref();
                continue;
            }
            state.idle += 1;
            let (held, timeout) =
                self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = held;
            state.idle -= 1;
            if timeout.timed_out() && state.waiting.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that may block on a name")]
fn look_up(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in (name, 0).to_socket_addrs()? {
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Wake;
    use std::thread::Thread;

    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn answers(names: &Names, count: usize) -> Vec<Answer> {
        let mut all = Vec::new();
        while all.len() < count {
            match names.next() {
                Some(answer) => all.push(answer),
                None => std::thread::park(),
            }
        }
        all
    }

    #[test]
    fn localhost_is_found_and_an_answer_is_given_for_each_ticket() {
        let names = Names::new(Arc::new(Unpark(std::thread::current())).into());
        for ticket in 0..10 {
            names.resolve(Ticket(ticket), "localhost");
        }
        let mut tickets = Vec::new();
        for (ticket, answer) in answers(&names, 10) {
            assert!(answer.unwrap().iter().all(IpAddr::is_loopback));
            tickets.push(ticket.0);
        }
        tickets.sort_unstable();
        assert_eq!(tickets, (0..10).collect::<Vec<_>>());
        assert!(names.shared.lock().threads <= THREADS);
    }

    #[test]
    fn a_forgotten_ticket_gets_no_answer() {
        let names = Names::new(Waker::noop().clone());
        {
            let mut state = names.shared.lock();
            state.answers.push_back((Ticket(1), Ok(Vec::new())));
            state.waiting.push_back((Ticket(2), "localhost".into()));
        }
        names.forget(Ticket(1));
        names.forget(Ticket(2));
        assert!(names.next().is_none());
        assert!(names.shared.lock().waiting.is_empty());
    }

    #[test]
    fn c142_lookups_have_a_bounded_pool_of_their_own() {
        let names = Names::new(Waker::noop().clone());
        {
            let mut state = names.shared.lock();
            state.threads = THREADS; // as if all were busy
            state.waiting.extend((0..QUEUE as u64).map(|n| (Ticket(n), String::new())));
        }
        names.resolve(Ticket(7777), "localhost");
        let (ticket, answer) = names.next().unwrap();
        assert_eq!((ticket, answer.is_err()), (Ticket(7777), true));
    }
}
