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
    waiting: VecDeque<Bytes>,
    stage: PrinterStage,
    waker: Option<Waker>,
}

/// The life of the printing thread.
#[derive(Default)]
enum PrinterStage {
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
        if matches!(state.stage, PrinterStage::Open) {
            state.stage = PrinterStage::Closing;
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
        let waits = |state: &mut PrintState| {
            state.waiting.is_empty() && matches!(state.stage, PrinterStage::Open)
        };
        let state = self.more.wait_while(self.lock(), waits);
        state.unwrap_or_else(PoisonError::into_inner).waiting.front().cloned()
    }

    fn run(&self, progress: &Progress) {
        let shared_with_bars = io::stdout().is_terminal();
        self.write_all(|bytes| match shared_with_bars {
            true => progress.suspend(|| write(bytes)),
            false => write(bytes),
        });
    }

    /// Writes the pieces until the [`Printer`] is dropped, or to the first error.
    fn write_all(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(bytes) = self.next()
        {
            outcome = write(&bytes);
            self.lock().waiting.pop_front();
            self.less.notify_all();
        }
        let mut state = self.lock();
        state.stage = PrinterStage::Ended(Some(outcome));
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
            !matches!(state.stage, PrinterStage::Ended(_)) && !state.waiting.is_empty()
        };
        drop(self.0.less.wait_timeout_while(self.0.lock(), at_most, waits));
    }
}

impl Future for Printed {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if let PrinterStage::Ended(outcome) = &mut state.stage
            && let Some(outcome) = outcome.take()
        {
            return Poll::Ready(outcome);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    const PIECES: [&str; 3] = ["one", "two", "three"];

    fn queued() -> (Printer, Printed) {
        let shared = Arc::<PrintQueue>::default();
        let printer = Printer(shared.clone());
        PIECES.iter().for_each(|piece| printer.print(Bytes::from_static(piece.as_bytes())));
        (printer, Printed(shared))
    }

    #[test]
    fn a_piece_is_waited_for_until_it_is_written() {
        let (printer, printed) = queued();
        drop(printer);
        let mut unwritten = Vec::new();
        printed.0.write_all(|_| {
            unwritten.push(printed.0.lock().waiting.len());
            Ok(())
        });
        assert_eq!(unwritten, [3, 2, 1]);
        assert!(printed.0.lock().waiting.is_empty());
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_waiter_is_woken_at_the_end_or_at_the_first_error() {
        let broken = io::ErrorKind::BrokenPipe;
        for (last, outcome) in [(2, Err(broken)), (3, Err(broken)), (3, Ok(()))] {
            let expected = PIECES[..last].concat();
            let (printer, mut printed) = queued();
            let woken = Arc::<Woken>::default();
            let waker = Waker::from(woken.clone());
            let mut poll = || Pin::new(&mut printed).poll(&mut Context::from_waker(&waker));
            assert!(poll().is_pending());
            let shared = printer.0.clone();
            // An error ends the thread even if more may be printed.
            let _open = outcome.is_err().then_some(printer);
            let mut written = String::new();
            shared.write_all(|bytes| {
                written += std::str::from_utf8(bytes).unwrap();
                if written == expected { outcome.map_err(io::Error::from) } else { Ok(()) }
            });
            assert_eq!(written, expected);
            assert!(woken.0.load(Ordering::Relaxed));
            let Poll::Ready(ended) = poll() else { panic!("the outcome is there") };
            assert_eq!(ended.map_err(|error| error.kind()), outcome);
        }
    }
}
