//! A thread that prints on standard output, so a slow reader blocks neither the loop nor Ctrl-C.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;

use crate::exit::Exit;
use crate::output::{plain, write};
use crate::progress::Progress;

/// Prints on a separate thread, in order, so a slow reader blocks neither the loop nor Ctrl-C.
/// After it is dropped, the thread prints the queued pieces and ends.
pub(crate) struct Printer(Arc<PrintQueue>);

/// Resolves once the [`Printer`] is dropped and everything is printed, or at the first error.
#[derive(Clone)]
pub(crate) struct Printed(Arc<PrintQueue>);

#[derive(Default)]
struct PrintQueue {
    state: Mutex<PrintState>,
    more: Condvar,
    less: Condvar,
}

#[derive(Default)]
struct PrintState {
    /// The first is being printed.
    // Unbounded: poems that `Collection` had in memory already, each within --max-bytes.
    waiting: VecDeque<Bytes>,
    stage: Stage,
    waker: Option<Waker>,
}

/// The life of the printing thread.
#[derive(Default)]
enum Stage {
    #[default]
    Open,
    /// The [`Printer`] was dropped: the thread ends once everything is printed.
    Closing,
    /// The thread has ended. [`Printed`] takes the outcome.
    Ended(Option<io::Result<()>>),
}

impl Printer {
    /// Starts the thread. If stdout is a terminal, the bars of `progress` are cleared while it
    /// prints.
    pub(crate) fn start(progress: Progress) -> Result<(Printer, Printed), Exit> {
        let shared = Arc::<PrintQueue>::default();
        let printing = shared.clone();
        let thread = std::thread::Builder::new().name("couplet-stdout".into());
        thread.spawn(move || printing.run(&progress)).map_err(|error| {
            Exit::failed(format!("cannot start a thread for stdout: {}", plain(&error)))
        })?;
        Ok((Printer(shared.clone()), Printed(shared)))
    }

    pub(crate) fn print(&self, bytes: Bytes) {
        self.0.lock().waiting.push_back(bytes);
        self.0.more.notify_one();
    }
}

impl Drop for Printer {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if matches!(state.stage, Stage::Open) {
            state.stage = Stage::Closing;
        }
        drop(state);
        self.0.more.notify_one();
    }
}

impl PrintQueue {
    fn lock(&self) -> MutexGuard<'_, PrintState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Bytes> {
        let waits =
            |state: &mut PrintState| state.waiting.is_empty() && matches!(state.stage, Stage::Open);
        let state = self.more.wait_while(self.lock(), waits);
        state.unwrap_or_else(PoisonError::into_inner).waiting.front().cloned()
    }

    fn run(&self, progress: &Progress) {
        let shared_with_bars = io::stdout().is_terminal();
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(bytes) = self.next()
        {
            outcome = match shared_with_bars {
                true => progress.suspend(|| write(&bytes)),
                false => write(&bytes),
            };
            self.lock().waiting.pop_front();
            self.less.notify_all();
        }
        let mut state = self.lock();
        state.stage = Stage::Ended(Some(outcome));
        self.less.notify_all();
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Printed {
    /// Waits, for `at_most`, until everything queued so far is printed.
    #[expect(clippy::disallowed_methods, reason = "the program ends, and its loop has")]
    pub(crate) fn settle(&self, at_most: Duration) {
        let waits = |state: &mut PrintState| {
            !matches!(state.stage, Stage::Ended(_)) && !state.waiting.is_empty()
        };
        drop(self.0.less.wait_timeout_while(self.0.lock(), at_most, waits));
    }
}

impl Future for Printed {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if let Stage::Ended(outcome) = &mut state.stage
            && let Some(outcome) = outcome.take()
        {
            return Poll::Ready(outcome);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
