//! The log: lines for people or of JSON, on stderr or in a file that is opened again on SIGHUP. Loops
//! only queue lines: a [`Backlog`]'s thread waits for their reader.
//!
//! Contract: 119c.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use couplet::backlog::{self, Backlog, lost_lines};
use couplet_command::logging::{levels_of, log_panics, timestamp};
use tracing::Subscriber;
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets};
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::{Layer, Registry};

use crate::exit::{Exit, plain};
use crate::files;
use crate::identity::Identity;
use crate::options::{Arguments, LogForm, Options};
use crate::repeats::Repeats;

/// How many warnings or errors of one place are logged within a period, unless set.
const MOST_REPEATS: u32 = 20;

/// The log of the process.
#[derive(Clone)]
pub(crate) struct Log {
    output: LogOutput,
    form: LogForm,
    levels: Handle<Targets, Registry>,
    /// The levels of the command line, if it sets them.
    asked: Option<Targets>,
    pub(crate) repeats: Repeats,
    /// The levels of the configuration.
    of_file: Rc<RefCell<Option<Targets>>>,
}

impl Log {
    /// Starts logging, and has panics logged.
    pub(crate) fn start(arguments: &Arguments, of_file: Option<Targets>) -> Result<Log, Exit> {
        let (log, subscriber) = Log::prepare(arguments, of_file)?;
        let counted = CountEvents.with_filter(LevelFilter::WARN);
        let started = subscriber.with(counted).try_init();
        started.map_err(|error| Exit::failed(format!("cannot start logging: {error}")))?;
        log_panics();
        Ok(log)
    }

    /// Opens the log. Events go to it through the subscriber.
    pub(crate) fn prepare(
        arguments: &Arguments,
        of_file: Option<Targets>,
    ) -> Result<(Log, impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync), Exit> {
        let output = LogOutput::open(arguments.options.log_file.as_deref())?;
        let verbose = (arguments.verbose > 0).then(|| levels_of(arguments.verbose));
        let asked = arguments.log_level.clone().or(verbose);
        let first = asked.clone().or(of_file.clone()).unwrap_or_else(default_levels);
        let (filter, levels) = reload::Layer::new(first);
        let repeats = Repeats::new(arguments.options.log_repeats.unwrap_or(MOST_REPEATS));
        let form = arguments.log.unwrap_or_default();
        output.set_up(&arguments.options, form);
        let (writer, is_colourful) = (output.lines.clone(), output.is_colourful());
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(is_colourful);
        let layer = match form {
            LogForm::Text => lines.with_target(false).boxed(),
            LogForm::Json => lines.json().flatten_event(true).boxed(),
        };
        let subscriber =
            tracing_subscriber::registry().with(layer.with_filter(filter.and(repeats.clone())));
        let of_file = Rc::new(RefCell::new(of_file));
        let log = Log { output, form, levels, asked, repeats, of_file };
        Ok((log, subscriber))
    }

    /// Sets the levels of the configuration if they have changed, unless the command line has set
    /// others.
    pub(crate) fn set_levels_of_file(&self, levels: Option<Targets>) {
        let before = self.of_file.replace(levels.clone());
        if self.asked.is_none() && before != levels {
            self.set_levels(levels.unwrap_or_else(default_levels));
        }
    }

    pub(crate) fn set_levels(&self, levels: Targets) {
        self.levels.reload(levels).expect("the log lives as long as the process");
    }

    /// Opens the log file again, behind the lines logged so far. If that fails, the old one stays in
    /// use.
    pub(crate) fn reopen(&self) {
        let Some(file) = self.output.file.clone() else { return };
        self.output.lines.run(move || {
            if let Err(error) = file.reopen() {
                let error = plain(&error);
                tracing::error!(path = %file.path.display(), error, "cannot open the log file again");
            }
        });
    }

    /// Makes the user of the process the owner of the log file, so that it can be opened again.
    pub(crate) fn give_to(&self, identity: &Identity) -> Result<(), Exit> {
        match &self.output.file {
            None => Ok(()),
            Some(log) => identity.give_open(&*log.open_file(), &log.path),
        }
    }

    /// Warns if the user that the process has become can't open the log file again, or make a new one
    /// after it was renamed: the next SIGHUP, restart or rotation would fail.
    pub(crate) fn check_reopening(&self) {
        let Some(LogFile { path, .. }) = self.output.file.as_deref() else { return };
        if let Err(error) = files::can_append(path) {
            let (path, error) = (path.display(), plain(&error));
            tracing::warn!(%path, error, "SIGHUP and restarts cannot open the log file again: its user may not");
        } else if let Err(error) = files::can_create_beside(path) {
            let (path, error) = (path.display(), plain(&error));
            tracing::warn!(%path, error, "SIGHUP cannot make a new log file: its user may not write to the folder, so the rotation has to make the file");
        }
    }

    /// Writes text into the log at any level: as lines, or as the message of a line of JSON.
    pub(crate) fn print(&self, text: &str) {
        let text = text.trim_end();
        self.output.lines.push(match self.form {
            LogForm::Text => format!("{text}\n"),
            LogForm::Json => json_line(tracing::Level::INFO, text),
        });
    }

    /// Waits until everything that was logged so far is written.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        assert!(self.output.lines.settle(couplet_testkit::PATIENCE), "its reader hangs");
    }

    /// Whether stderr is not where the log goes.
    pub(crate) fn is_a_file(&self) -> bool {
        self.output.file.is_some()
    }
}

/// A line about an event without fields.
fn line(form: LogForm, level: tracing::Level, text: &str) -> String {
    match form {
        LogForm::Text => couplet_command::logging::line(level, text),
        LogForm::Json => json_line(level, text),
    }
}

fn json_line(level: tracing::Level, text: &str) -> String {
    let (timestamp, level) = (timestamp(), level.as_str());
    let line = serde_json::json!({ "timestamp": timestamp, "level": level, "message": text });
    format!("{line}\n")
}

/// Events so far at the levels error and warn.
static EVENTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// How many events there were, by level, whether they were logged or not.
pub(crate) fn count_of_events() -> [(&'static str, u64); 2] {
    let count = |number: usize| EVENTS[number].load(Ordering::Relaxed);
    [("error", count(0)), ("warn", count(1))]
}

/// Counts events.
struct CountEvents;

impl<S: Subscriber> Layer<S> for CountEvents {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let number = usize::from(*event.metadata().level() != tracing::Level::ERROR);
        EVENTS[number].fetch_add(1, Ordering::Relaxed);
    }
}

fn default_levels() -> Targets {
    levels_of(0)
}

/// The destination of the log.
#[derive(Clone)]
struct LogOutput {
    lines: Backlog,
    /// `None` for stderr.
    file: Option<Arc<LogFile>>,
}

struct LogFile {
    path: PathBuf,
    file: Mutex<Arc<File>>,
}

impl LogOutput {
    fn open(path: Option<&Path>) -> Result<LogOutput, Exit> {
        let Some(path) = path else {
            return Ok(LogOutput { lines: Backlog::stderr(), file: None });
        };
        let file = append(path).map_err(|error| cannot_open(path, &error))?;
        let file = LogFile { path: path.to_owned(), file: Mutex::new(Arc::new(file)) };
        let file = Arc::new(file);
        let lines = Backlog::new(path.display().to_string(), Appending(file.clone()));
        Ok(LogOutput { lines, file: Some(file) })
    }

    fn set_up(&self, options: &Options, form: LogForm) {
        if let Some(bytes) = options.log_buffer {
            self.lines.set_capacity(bytes.get());
        }
        if let Some(at_most) = options.log_wait {
            backlog::set_exit_wait(at_most.0);
        }
        let warning = move |lost| Some(line(form, tracing::Level::WARN, &lost_lines(lost)));
        self.lines.set_notice(warning);
    }

    /// True if stderr is a terminal with colours and the user has not disabled them (`NO_COLOR`).
    fn is_colourful(&self) -> bool {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        self.file.is_none() && io::stderr().is_terminal() && !is_set("NO_COLOR") && !is_dumb
    }
}

impl LogFile {
    fn reopen(&self) -> io::Result<()> {
        let opened = Arc::new(append(&self.path)?);
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    fn open_file(&self) -> Arc<File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

pub(crate) fn cannot_open(path: &Path, error: &io::Error) -> Exit {
    Exit::failed(format!("cannot open the log file {}: {}", path.display(), plain(error)))
}

fn append(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).open(path)
}

/// Appends to the file that is open at present.
struct Appending(Arc<LogFile>);

impl Write for Appending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0.open_file()).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::{env, thread};

    use super::*;

    /// Set in the process whose log is tested: it is the log of a whole process.
    const IS_CHILD: &str = "COUPLET_TEST_LOGS";

    #[test]
    fn the_only_log_counts_events_and_has_a_panic_on_one_line() {
        if env::var_os(IS_CHILD).is_some() {
            assert!(Log::start(&Arguments::default(), None).is_ok());
            let second = Log::start(&Arguments::default(), None).err().expect("an error");
            assert!(second.message().starts_with("cannot start logging: "), "{}", second.message());
            let before = count_of_events();
            tracing::error!("counted");
            for _ in 0..2 {
                tracing::warn!("counted");
            }
            tracing::info!("not counted");
            let after = count_of_events();
            let counted = [0, 1].map(|at| (after[at].0, after[at].1 - before[at].1));
            assert_eq!(counted, [("error", 1), ("warn", 2)]);
            let _ = thread::spawn(|| panic!("it broke")).join();
            backlog::settle_all();
            return;
        }
        let mut again = Command::new(env::current_exe().expect("a test has a path"));
        let name = "logging::tests::the_only_log_counts_events_and_has_a_panic_on_one_line";
        again.args(["--exact", name, "--nocapture"]).env(IS_CHILD, "1");
        let output = again.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("broke")).collect();
        let [line] = lines[..] else { panic!("one line: {said}") };
        assert!(line.contains("ERROR panic: it broke place=crates/couplet-runner/src/"), "{line}");
        assert!(!said.contains("panicked at"), "{said}");
    }

    #[test]
    fn each_v_logs_a_level_more() {
        use tracing::Level;
        let levels = [Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        for (verbose, level) in (0..).zip(levels) {
            let least = levels.into_iter().rfind(|it| levels_of(verbose).would_enable("a", it));
            assert_eq!(least, Some(level), "-v {verbose} times");
        }
    }
}
