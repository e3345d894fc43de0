//! Output that never blocks its writers: [`Backlog`], a bounded queue in front of a thread.
//!
//! A reader may stop for ever: a stopped terminal, a stuck collector, a dead mount. Only the thread of
//! the backlog waits for it.
//!
//! Contract: 119c.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Default limit on the queued output, in bytes.
pub const CAPACITY: usize = 1024 * 1024;

/// Default limit on the wait for readers at the end of a program.
pub const EXIT_WAIT: Duration = Duration::from_secs(1);

/// Memory of a queued line besides its bytes, counted towards the capacity.
const OVERHEAD: usize = 64;

/// Maximum number of queued jobs; later ones are dropped.
const JOBS: usize = 8192;

/// Pause before output is tried again that a nonblocking descriptor has refused.
const RETRY: Duration = Duration::from_millis(10);

/// [`exit_wait`] in milliseconds, if it was set.
static EXIT_MILLIS: AtomicU64 = AtomicU64::new(EXIT_WAIT.as_millis() as u64);

thread_local! {
    /// Ends with a thread that has queued lines.
    static LAST: LastLines = const { LastLines };
}

/// Waits for the lines of a thread that ends: with the main thread, the threads that write end too.
struct LastLines;

impl Drop for LastLines {
    fn drop(&mut self) {
        settle_all();
    }
}

static ALL: Mutex<Vec<Weak<SharedBacklog>>> = Mutex::new(Vec::new());

/// Output that never blocks the writer: lines are queued, and a thread writes them, in order, each in
/// one piece. When the reader is too slow and the queue is full, lines are lost; a line with their
/// number takes their place once the reader continues.
///
/// The log of a program goes through one, as the writer of its subscriber: a loop that waited for a
/// stopped terminal would serve no client. Clones share the queue, whose thread ends once the last one
/// is dropped and everything is written.
///
/// ```
/// use std::io::Write;
///
/// use couplet_defer::backlog::Backlog;
///
/// // With tracing_subscriber: `fmt().with_writer(Backlog::stderr)`.
/// writeln!(Backlog::stderr(), "a line")?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Backlog(Arc<Handle>);

/// The clones of a backlog, as opposed to its thread.
struct Handle(Arc<SharedBacklog>);

struct SharedBacklog {
    name: String,
    state: Mutex<QueueState>,
    more: Condvar,
    less: Condvar,
    /// The writer; locked by the thread.
    out: Mutex<Box<dyn Write + Send>>,
}

struct QueueState {
    queue: VecDeque<Entry>,
    /// Bytes of the queued lines, the one that is being written included.
    bytes: usize,
    jobs: usize,
    capacity: usize,
    lost: u64,
    notice: Box<Notice>,
    thread: Thread,
    /// True once the last handle was dropped.
    is_closing: bool,
}

/// Formats the line about lost lines; `None` writes none.
type Notice = dyn Fn(u64) -> Option<String> + Send;

enum Entry {
    Line(Vec<u8>),
    /// This number of lines was lost here.
    Lost(u64),
    Job(Box<dyn FnOnce() + Send>),
}

/// The writing thread.
#[derive(Clone, Copy, PartialEq)]
enum Thread {
    /// The next line starts the thread.
    None,
    /// Waiting for a line, in the process with this number.
    Waits(u32),
    /// Writing, in the process with this number.
    Writes(u32),
}

/// The state of a backlog, for metrics and the inspector.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BacklogState {
    /// The backlog's name, such as `stderr`.
    pub name: String,
    /// Queued bytes.
    pub bytes: usize,
    /// Maximum number of queued bytes.
    pub capacity: usize,
    /// Lines that were lost so far.
    pub lost: u64,
}

impl Backlog {
    /// A backlog of this writer. The name appears in metrics and in the inspector.
    pub fn new(name: impl Into<String>, out: impl Write + Send + 'static) -> Backlog {
        let state = QueueState {
            queue: VecDeque::new(),
            bytes: 0,
            jobs: 0,
            capacity: CAPACITY,
            lost: 0,
            notice: Box::new(|lost| Some(format!("{}\n", lost_lines(lost)))),
            thread: Thread::None,
            is_closing: false,
        };
        let shared = Arc::new(SharedBacklog {
            name: name.into(),
            state: Mutex::new(state),
            more: Condvar::new(),
            less: Condvar::new(),
            out: Mutex::new(Box::new(out)),
        });
        let mut all = lock(&ALL);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&shared));
        Backlog(Arc::new(Handle(shared)))
    }

    /// The backlog of the program's standard error.
    pub fn stderr() -> Backlog {
        static STDERR: LazyLock<Backlog> = LazyLock::new(|| Backlog::new("stderr", io::stderr()));
        STDERR.clone()
    }

    /// The backlog of the program's standard output, for lines of a server. Results of a command are
    /// not lines that may be lost.
    pub fn stdout() -> Backlog {
        static STDOUT: LazyLock<Backlog> =
            LazyLock::new(|| Backlog::new("stdout", Flushed(io::stdout())));
        STDOUT.clone()
    }

    /// Sets the maximum number of queued bytes. Default: 1 MiB. A longer line passes only while
    /// nothing else is queued.
    pub fn set_capacity(&self, bytes: usize) {
        self.shared().lock().capacity = bytes;
    }

    /// Sets the format of the line about lost lines: by default `7 lines lost: the log's reader is too
    /// slow`. No line is written if `notice` returns `None`.
    pub fn set_notice(&self, notice: impl Fn(u64) -> Option<String> + Send + 'static) {
        let before = std::mem::replace(&mut self.shared().lock().notice, Box::new(notice));
        drop(before);
    }

    /// Queues a line; it is lost if the queue is full.
    pub fn push(&self, line: impl Into<Vec<u8>>) {
        self.shared().push(line.into());
        // Fails in a destructor of the ending thread, where the line may be the last.
        if LAST.try_with(|_| ()).is_err() {
            settle_all();
        }
    }

    /// Runs `job` in the thread, behind the lines and jobs queued so far. Returns false, and drops it,
    /// if 8192 jobs are queued.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let shared = self.shared();
        let mut state = shared.lock();
        if state.jobs >= JOBS {
            return false;
        }
        state.jobs += 1;
        state.queue.push_back(Entry::Job(Box::new(job)));
        shared.wake(state);
        true
    }

    /// Waits, for `at_most`, until everything queued so far is written. False if it is not.
    pub fn settle(&self, at_most: Duration) -> bool {
        self.shared().settle(at_most)
    }

    /// The state of the queue, and the lines that were lost.
    pub fn state(&self) -> BacklogState {
        self.shared().describe()
    }

    fn shared(&self) -> &Arc<SharedBacklog> {
        &self.0.0
    }
}

/// `7 lines lost: the log's reader is too slow`.
pub fn lost_lines(lost: u64) -> String {
    let lines = if lost == 1 { "line" } else { "lines" };
    format!("{lost} {lines} lost: the log's reader is too slow")
}

/// The states of all backlogs.
pub fn all() -> Vec<BacklogState> {
    let all: Vec<_> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
    all.iter().map(|shared| shared.describe()).collect()
}

/// Waits until all backlogs have written everything, for [`exit_wait`] in total. Called when a loop is
/// dropped and at the end of a program, since threads end with the process.
pub fn settle_all() {
    let all: Vec<_> = lock(&ALL).iter().filter_map(Weak::upgrade).collect();
    let mut left = exit_wait();
    for shared in all {
        let began = now();
        shared.settle(left);
        left = left.saturating_sub(now().saturating_duration_since(began));
    }
}

/// How long the end of a program waits for readers. Default: 1 s.
pub fn exit_wait() -> Duration {
    Duration::from_millis(EXIT_MILLIS.load(Ordering::Relaxed))
}

/// Sets how long the end of a program waits for the readers of its log.
pub fn set_exit_wait(at_most: Duration) {
    let millis = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
    EXIT_MILLIS.store(millis, Ordering::Relaxed);
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closing = true;
        drop(state);
        self.0.more.notify_one();
    }
}

impl SharedBacklog {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        lock(&self.state)
    }

    fn push(self: &Arc<Self>, line: Vec<u8>) {
        let mut state = self.lock();
        let size = line.len() + OVERHEAD;
        if state.bytes > 0 && state.bytes + size > state.capacity {
            state.lost += 1;
            match state.queue.back_mut() {
                Some(Entry::Lost(lost)) => *lost += 1,
                _ => state.queue.push_back(Entry::Lost(1)),
            }
            return;
        }
        state.bytes += size;
        state.queue.push_back(Entry::Line(line));
        self.wake(state);
    }

    /// Has the thread take the queue.
    fn wake(self: &Arc<Self>, mut state: MutexGuard<'_, QueueState>) {
        let process = std::process::id();
        match state.thread {
            Thread::Writes(of) if of == process => {}
            Thread::Waits(of) if of == process => {
                drop(state);
                self.more.notify_one();
            }
            // A process that was forked without `exec` does not have the thread.
            Thread::None | Thread::Waits(_) | Thread::Writes(_) => {
                state.thread = Thread::Writes(process);
                let shared = self.clone();
                let thread = std::thread::Builder::new().name(format!("log {}", self.name));
                if thread.spawn(move || shared.write_all()).is_err() {
                    // The next line tries again.
                    state.thread = Thread::None;
                }
            }
        }
    }

    /// Writes until the last handle is dropped.
    fn write_all(&self) {
        let mut out = lock(&self.out);
        let mut state = self.lock();
        loop {
            let Some(entry) = state.queue.pop_front() else {
                self.less.notify_all();
                if state.is_closing {
                    state.thread = Thread::None;
                    return;
                }
                state.thread = Thread::Waits(std::process::id());
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.thread = Thread::Writes(std::process::id());
                continue;
            };
            let notice = match &entry {
                Entry::Lost(lost) => (state.notice)(*lost),
                Entry::Line(_) | Entry::Job(_) => None,
            };
            drop(state);
            let (size, written, is_job) = match entry {
                Entry::Line(line) => (line.len() + OVERHEAD, write(&mut **out, &line), false),
                Entry::Lost(_) => {
                    let written = notice.map_or(Ok(()), |line| write(&mut **out, line.as_bytes()));
                    (0, written, false)
                }
                Entry::Job(job) => {
                    job();
                    (0, Ok(()), true)
                }
            };
            state = self.lock();
            state.bytes -= size;
            state.jobs -= usize::from(is_job);
            // A full disk or a closed pipe does not end the thread, and cannot be reported.
            state.lost += u64::from(written.is_err());
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the program ends, and the reader is elsewhere")]
    fn settle(&self, at_most: Duration) -> bool {
        let state = self.lock();
        if state.thread == Thread::None {
            return state.queue.is_empty();
        }
        let of = match state.thread {
            Thread::Waits(of) | Thread::Writes(of) => of,
            Thread::None => return true,
        };
        if of != std::process::id() {
            return false;
        }
        let waits = |state: &mut QueueState| {
            matches!(state.thread, Thread::Writes(_)) || !state.queue.is_empty()
        };
        let settled = self.less.wait_timeout_while(state, at_most, waits);
        !settled.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn describe(&self) -> BacklogState {
        let QueueState { bytes, capacity, lost, .. } = *self.lock();
        BacklogState { name: self.name.clone(), bytes, capacity, lost }
    }
}

/// Writes a line in one call, unless the system takes only a part.
#[expect(clippy::disallowed_methods, reason = "only this thread waits")]
fn write(out: &mut dyn Write, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match out.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => line = &line[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another program has made the descriptor nonblocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let never = Mutex::new(());
                drop(Condvar::new().wait_timeout(lock(&never), RETRY));
            }
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

#[expect(clippy::disallowed_methods, reason = "measures a wait at the end of the program")]
fn now() -> Instant {
    Instant::now()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes each line without a second buffer.
struct Flushed<W>(W);

impl<W: Write> Write for Flushed<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let count = self.0.write(line)?;
        self.0.flush()?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Queues each piece that is written as a line.
impl Write for Backlog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.push(text.to_string());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Backlog").field(&self.state()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// More than any machine needs.
    const LONG: Duration = Duration::from_secs(300);

    /// A reader that takes a line when the test does.
    struct Reader(SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn backlog() -> (Backlog, Receiver<Vec<u8>>) {
        let (send, receive) = sync_channel(0);
        (Backlog::new("test", Reader(send)), receive)
    }

    fn read(reader: &Receiver<Vec<u8>>, lines: usize) -> String {
        let read = (0..lines).map(|_| reader.recv().expect("a line"));
        String::from_utf8(read.flatten().collect()).expect("text")
    }

    #[test]
    fn c119c_lines_stay_in_order_and_a_count_replaces_the_lost_ones_each_time() {
        let (backlog, reader) = backlog();
        let room = |lines: usize| lines * (OVERHEAD + 2);
        backlog.set_capacity(room(3));
        let mut total = 0;
        for (extra, notice) in [(0, ""), (1, "1 line lost"), (0, ""), (321, "321 lines lost")] {
            for line in ["1\n", "2\n", "3\n"] {
                backlog.push(line);
            }
            (0..extra).for_each(|_| backlog.push("x\n"));
            total += extra;
            assert_eq!(backlog.state().lost, total);
            assert!(backlog.state().bytes <= room(3));
            let read = read(&reader, 3 + usize::from(extra > 0));
            let mut wanted = "1\n2\n3\n".to_owned();
            if extra > 0 {
                wanted += &format!("{notice}: the log's reader is too slow\n");
            }
            assert_eq!(read, wanted);
            assert!(backlog.settle(LONG));
            assert_eq!(backlog.state().bytes, 0);
        }
    }

    #[test]
    fn a_line_longer_than_the_capacity_passes_only_when_nothing_is_queued() {
        let (backlog, reader) = backlog();
        backlog.set_capacity(100);
        for _ in 0..2 {
            backlog.push("a".repeat(1000));
            backlog.push("b".repeat(1000));
            assert_eq!(reader.recv().expect("a line"), "a".repeat(1000).as_bytes());
            assert!(reader.recv().expect("a line").starts_with(b"1 line lost"));
            assert!(backlog.settle(LONG));
        }
    }

    #[test]
    fn a_job_runs_behind_the_lines_before_it() {
        let (backlog, reader) = backlog();
        let order = Arc::new(Mutex::new(Vec::new()));
        backlog.push("1\n");
        for number in 0..2 * JOBS {
            let order = order.clone();
            backlog.run(move || lock(&order).push(number));
        }
        backlog.push("2\n");
        assert!(lock(&order).is_empty());
        assert_eq!(read(&reader, 1), "1\n");
        assert_eq!(read(&reader, 1), "2\n");
        let wanted: Vec<_> = (0..JOBS).collect();
        assert_eq!(*lock(&order), wanted, "the others were too many");
        let second = order.clone();
        backlog.run(move || lock(&second).push(99));
        assert!(backlog.settle(LONG));
        assert_eq!(lock(&order).last(), Some(&99));
    }

    #[test]
    fn c119c_the_wait_for_a_reader_is_bounded() {
        let (backlog, reader) = backlog();
        assert!(backlog.settle(Duration::ZERO), "nothing is queued");
        for _ in 0..2 {
            backlog.push("1\n");
            assert!(!backlog.settle(Duration::from_millis(1)), "it reads nothing");
            assert_eq!(read(&reader, 1), "1\n");
            assert!(backlog.settle(LONG));
        }
    }

    #[test]
    fn a_dropped_backlog_writes_its_queue_and_ends_its_thread() {
        let (backlog, reader) = backlog();
        let clone = backlog.clone();
        backlog.push("1\n");
        drop(backlog);
        clone.push("2\n");
        drop(clone);
        assert_eq!(read(&reader, 2), "1\n2\n");
        assert!(reader.recv().is_err(), "its end has dropped the writer");
    }

    #[test]
    fn a_reader_that_fails_loses_lines_and_blocks_nothing() {
        let (backlog, reader) = backlog();
        drop(reader);
        for lost in 1..3 {
            backlog.push("1\n");
            assert!(backlog.settle(LONG));
            assert_eq!((backlog.state().lost, backlog.state().bytes), (lost, 0));
        }
    }

    #[test]
    fn a_nonblocking_descriptor_that_refuses_output_is_tried_again() {
        struct Refusing(Vec<u8>, bool, SyncSender<Vec<u8>>);
        impl Write for Refusing {
            fn write(&mut self, line: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.0.push(line[0]);
                Ok(1)
            }
            fn flush(&mut self) -> io::Result<()> {
                self.2
                    .send(std::mem::take(&mut self.0))
                    .map_err(|_| io::ErrorKind::BrokenPipe.into())
            }
        }
        let (send, reader) = sync_channel(1);
        let backlog = Backlog::new("test", Refusing(Vec::new(), false, send));
        backlog.push("abc");
        assert_eq!(read(&reader, 1), "abc");
    }

    #[test]
    fn the_states_of_all_backlogs_are_listed_by_name() {
        let backlog = Backlog::new("a name of this test", io::sink());
        let found = || all().into_iter().filter(|it| it.name == "a name of this test").count();
        assert_eq!(found(), 1);
        drop(backlog);
        // Another test may be waiting for all backlogs: it holds this one until then.
        let late = now() + LONG;
        while found() > 0 {
            assert!(now() < late, "it is still listed");
            std::thread::yield_now();
        }
    }
}
