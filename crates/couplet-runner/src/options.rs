//! The command line, and the table `[runner]` with the same options.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};
use couplet::{DriverChoice, LoadLimits, LoopOptions};
use couplet_command::logging::log_levels;
use couplet_command::server::{MOST_THREADS, driver, drivers, threads};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use tracing_subscriber::filter::Targets;

use crate::exit::Exit;
use crate::places::Placed;
use crate::values::{Listen, Seconds};
use crate::{control, files, logging, pid_file};

/// The arguments of a program that a [`Runner`](crate::Runner) runs. A program with further arguments
/// flattens these into them, and calls [`Runner::run`](crate::Runner::run).
#[derive(Args, Clone, Debug, Default)]
pub struct Arguments {
    /// Configuration, in TOML
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Log more: -v for important events, -vv for each connection
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Events to log, as in warn, or couplet=debug,info
    #[arg(long, value_name = "FILTER", value_parser = log_levels)]
    pub(crate) log_level: Option<Targets>,
    /// Form of the log: text, or json for a line of JSON for each event
    #[arg(long, value_name = "FORM")]
    pub(crate) log: Option<LogForm>,
    #[command(flatten)]
    pub(crate) options: Options,
}

impl Arguments {
    /// The arguments for a configuration, and with these options. For programs that have their own
    /// options for logging.
    pub fn new(config: impl Into<PathBuf>, options: Options) -> Arguments {
        Arguments { config: Some(config.into()), options, ..Arguments::default() }
    }

    /// Sets how much is logged: 0 for warnings and errors, 1 for important events, 2 for each
    /// connection, 3 for everything.
    #[must_use]
    pub fn verbose(mut self, level: u8) -> Arguments {
        self.verbose = level;
        self
    }

    /// Sets which events are logged, in place of [`verbose`](Self::verbose).
    #[must_use]
    pub fn log_level(mut self, events: Targets) -> Arguments {
        self.log_level = Some(events);
        self
    }
}

/// Options of the process. In the table `[runner]` of a configuration they have the same names; the
/// command line takes precedence.
#[derive(Args, Clone, Debug, Default, Deserialize, PartialEq)]
#[command(next_help_heading = "Process")]
#[serde(rename_all = "kebab-case", default)]
pub struct Options {
    /// Check the configuration, and exit
    #[arg(long)]
    #[serde(skip)]
    pub(crate) check: bool,
    /// Work in this folder, an absolute path: it is entered at the start, at each reload and at each
    /// restart, wherever a link in it leads by then
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Append the log to this file instead of stderr; SIGHUP opens it again
    #[arg(long, value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Log at most N warnings and errors from one place in the program within ten seconds, and count
    /// the others; 0 for no limit [default: 20]
    #[arg(long, value_name = "N")]
    pub(crate) log_repeats: Option<u32>,
    /// Queue at most this many bytes of the log for a slow reader; further lines are lost, and counted
    /// [default: 1048576]
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) log_buffer: Option<NonZeroUsize>,
    /// At the end, wait at most this long for the log's reader [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) log_wait: Option<Seconds>,
    /// Write the process's number into this file, and lock it
    #[arg(long, value_name = "FILE")]
    pub(crate) pid_file: Option<PathBuf>,
    /// Become this user, by name or number, once the ports are open
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Become this group; the user's own unless set
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// Permissions that new files never have, in octal
    #[arg(long, value_name = "MODE", value_parser = octal)]
    #[serde(deserialize_with = "umask_of")]
    pub(crate) umask: Option<u32>,
    /// Serve /healthz and /readyz over HTTP on this endpoint
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) health: Option<Listen>,
    /// Serve /metrics, in the text of OpenMetrics, and the health on this endpoint
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) metrics: Option<Listen>,
    /// Answer questions on this UNIX socket, for the process's own user only
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Number of threads that serve clients; auto (or 0) starts one per processor [default: 1]
    #[arg(long, value_name = "N", value_parser = threads, allow_negative_numbers = true)]
    #[serde(deserialize_with = "threads_of")]
    pub(crate) threads: Option<usize>,
    /// The system's interface for input and output: auto is the best one for most loads, at present
    /// epoll [default: the program's choice]
    #[arg(long, value_name = "DRIVER", value_parser = drivers())]
    #[serde(deserialize_with = "driver_of")]
    pub(crate) driver: Option<DriverChoice>,
    /// Stop accepting at this number of connections; clients wait in the queues of the ports
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) max_connections: Option<NonZeroUsize>,
    /// Limit the unsent output of all connections: above three quarters of the limit, the program stops
    /// accepting and writes less for the slowest clients; above the limit it resets them
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) max_buffered: Option<NonZeroUsize>,
    /// Limit the unsent output for the clients of each address in the same way
    #[arg(long, value_name = "BYTES")]
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) max_buffered_by_peer: Option<NonZeroUsize>,
}

impl Options {
    /// The number of loops.
    ///
    /// # Errors
    ///
    /// If there would be more loops than connections.
    pub(crate) fn loops(&self) -> Result<usize, String> {
        let most = self.max_connections.map_or(usize::MAX, NonZeroUsize::get);
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        match self.threads.unwrap_or(1) {
            0 => Ok(processors().min(MOST_THREADS).min(most)),
            threads => self.check_limits(threads).map(|()| threads),
        }
    }

    /// Checks that the limits can be divided among this number of loops.
    ///
    /// # Errors
    ///
    /// If there are more loops than connections.
    pub(crate) fn check_limits(&self, loops: usize) -> Result<(), String> {
        match self.max_connections {
            Some(most) if loops > most.get() => {
                Err(format!("{loops} threads need a max-connections of {loops} at least"))
            }
            _ => Ok(()),
        }
    }

    /// Adds the options of a file.
    pub(crate) fn or(self, file: Options) -> Options {
        Options {
            check: self.check,
            directory: self.directory.or(file.directory),
            log_file: self.log_file.or(file.log_file),
            log_repeats: self.log_repeats.or(file.log_repeats),
            log_buffer: self.log_buffer.or(file.log_buffer),
            log_wait: self.log_wait.or(file.log_wait),
            pid_file: self.pid_file.or(file.pid_file),
            user: self.user.or(file.user),
            group: self.group.or(file.group),
            umask: self.umask.or(file.umask),
            health: self.health.or(file.health),
            metrics: self.metrics.or(file.metrics),
            control: self.control.or(file.control),
            threads: self.threads.or(file.threads),
            driver: self.driver.or(file.driver),
            max_connections: self.max_connections.or(file.max_connections),
            max_buffered: self.max_buffered.or(file.max_buffered),
            max_buffered_by_peer: self.max_buffered_by_peer.or(file.max_buffered_by_peer),
        }
    }

    /// The options that a reload does not change.
    pub(crate) fn of_the_start(&self) -> Options {
        let [max_connections, max_buffered, max_buffered_by_peer] = [None; 3];
        Options { max_connections, max_buffered, max_buffered_by_peer, ..self.clone() }
    }

    /// The endpoints of the runner itself.
    pub(crate) fn own_endpoints(&self) -> Vec<Placed> {
        let web = [("health", &self.health), ("metrics", &self.metrics)];
        let web = web.into_iter().filter_map(|(name, at)| Some(at.as_ref()?.of_runner(name)));
        web.chain(self.control.as_deref().map(control::endpoint)).collect()
    }

    /// Checks that the files of the process can be opened, without opening them.
    pub(crate) fn check_files(&self) -> Result<(), Exit> {
        if let Some(path) = &self.log_file {
            files::can_append(path).map_err(|error| logging::cannot_open(path, &error))?;
        }
        if let Some(path) = &self.pid_file {
            files::can_append(path).map_err(|error| pid_file::cannot_write(path, &error))?;
        }
        Ok(())
    }

    /// Sets the driver of a loop, if an option does.
    pub(crate) fn set_driver(&self, options: LoopOptions) -> LoopOptions {
        match self.driver {
            Some(driver) => options.driver(driver),
            None => options,
        }
    }

    /// The limits of loop `number` of `loops`; `of_program` if no option sets one. The limits of all
    /// loops together are the options, except that each loop has at least a byte.
    pub(crate) fn load_limits(
        &self,
        of_program: LoadLimits,
        number: usize,
        loops: usize,
    ) -> LoadLimits {
        let share = |most: NonZeroUsize| {
            let rest = usize::from(number < most.get() % loops);
            (most.get() / loops + rest).max(1)
        };
        let mut limits = LoadLimits::default();
        if let Some(most) = self.max_connections {
            limits = limits.connections(share(most));
        }
        if let Some(most) = self.max_buffered {
            limits = limits.buffered(share(most));
        }
        if let Some(most) = self.max_buffered_by_peer {
            limits = limits.buffered_by_peer(share(most));
        }
        if limits == LoadLimits::default() { of_program } else { limits }
    }
}

/// The keys of [`LogTable`].
pub(crate) const OF_THE_LOG: &[&str] = &["log", "log-level"];

/// Keys of the table `[runner]` for programs without their own options for logging. [`Options`] has
/// the other keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct LogTable {
    log: Option<LogForm>,
    #[serde(deserialize_with = "filter_of")]
    pub(crate) log_level: Option<Targets>,
}

impl Arguments {
    /// Adds the options of a file.
    pub(crate) fn or(mut self, log: &LogTable, file: Options) -> Arguments {
        self.log = self.log.or(log.log);
        self.options = self.options.or(file);
        self
    }
}

/// Forms of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogForm {
    /// Lines for people.
    #[default]
    Text,
    /// A line of JSON for each event.
    Json,
}

fn filter_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Targets>, D::Error> {
    log_levels(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

/// Reads a number of seconds from 0 on.
fn seconds(text: &str) -> Result<Seconds, String> {
    let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
    seconds.map(Seconds).ok_or_else(|| "a number of seconds from 0 on is expected here".to_owned())
}

fn octal(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "an octal number up to 777 is expected here".to_owned())
}

/// TOML has octal numbers, `0o027`.
fn umask_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let mode = u32::deserialize(deserializer)?;
    match mode {
        0..=0o777 => Ok(Some(mode)),
        _ => Err(D::Error::custom("a number up to 0o777 is expected here")),
    }
}

fn threads_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Threads {
        Number(i64),
        Word(String),
    }
    let text = match Threads::deserialize(deserializer)? {
        Threads::Number(number) => number.to_string(),
        Threads::Word(word) => word,
    };
    threads(&text).map(Some).map_err(D::Error::custom)
}

fn driver_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DriverChoice>, D::Error> {
    let word = String::deserialize(deserializer)?;
    let known = || D::Error::custom("auto, epoll or uring is expected here");
    driver(&word).map(Some).ok_or_else(known)
}

fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NonZeroUsize>, D::Error> {
    let number = NonZeroUsize::new(usize::deserialize(deserializer)?);
    number.map(Some).ok_or_else(|| D::Error::custom("a number from 1 on is expected here"))
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn the_command_line_takes_precedence_over_the_file() {
        let command = Arguments::augment_args(Command::new("x"));
        command.clone().debug_assert();
        let line = [
            "x",
            "--log",
            "json",
            "--umask",
            "27",
            "--user",
            "a",
            "-vv",
            "--log-repeats=3",
            "--max-buffered=9",
            "--log-wait=2.5",
        ];
        let matches = command.try_get_matches_from(line).unwrap();
        let arguments = Arguments::from_arg_matches(&matches).unwrap();
        let file = "log = \"text\"\numask = 0o77\nmax-connections = 5\nmax-buffered = 6\nmax-buffered-by-peer = 7\nuser = \"b\"\ngroup = \"c\"\npid-file = \"d\"\nlog-buffer = 5\nlog-wait = 0.5\n\
                    log-file = \"e\"\nlog-repeats = 9\nhealth = \"tcp:1\"\ncontrol = \"f\"\nlog-level = \"info\"";
        let both = arguments.or(&toml::from_str(file).unwrap(), toml::from_str(file).unwrap());
        assert_eq!((both.log, both.verbose), (Some(LogForm::Json), 2));
        let options = both.options;
        let wanted = LoadLimits::default().connections(5).buffered(9).buffered_by_peer(7);
        let of_program = LoadLimits::default().connections(1);
        assert_eq!(options.load_limits(of_program, 0, 1), wanted);
        let paths = [options.pid_file, options.log_file, options.control];
        assert_eq!(paths, ["d", "e", "f"].map(|path| Some(path.into())));
        let names = [options.user, options.group, options.health.map(|it| it.to_string())];
        assert_eq!(names, ["a", "c", "tcp:1"].map(|name| Some(name.into())));
        assert_eq!((options.umask, options.log_repeats), (Some(0o27), Some(3)));
        let wait = Seconds(Duration::from_millis(2500));
        assert_eq!((options.log_buffer, options.log_wait), (NonZeroUsize::new(5), Some(wait)));
        assert_eq!(Options::default().load_limits(of_program, 0, 1), of_program);
    }

    #[test]
    fn the_file_sets_options_missing_on_the_command_line() {
        let file = "log = \"json\"\numask = 0o77\nuser = \"b\"\nlog-repeats = 9\nthreads = 2\n\
                    max-buffered = 6\nmetrics = \"tcp:1\"";
        let (log, options) = (toml::from_str(file).unwrap(), toml::from_str(file).unwrap());
        let both = Arguments::default().or(&log, options);
        let options = both.options;
        assert_eq!((both.log, options.umask), (Some(LogForm::Json), Some(0o77)));
        assert_eq!((options.log_repeats, options.threads), (Some(9), Some(2)));
        let names = [options.user, options.metrics.map(|it| it.to_string())];
        assert_eq!(names, ["b", "tcp:1"].map(|name| Some(name.into())));
        assert_eq!(options.max_buffered, NonZeroUsize::new(6));
    }

    #[test]
    fn a_program_sets_the_events_of_its_log() {
        let events = Targets::new().with_default(LevelFilter::INFO);
        let arguments = Arguments::new("a.toml", Options::default());
        let arguments = arguments.verbose(2).log_level(events.clone());
        assert_eq!((arguments.verbose, arguments.log_level), (2, Some(events)));
    }

    #[test]
    fn threads_are_a_number_or_as_many_as_processors() {
        assert_eq!(
            ["1", "3", "0", "auto", "1024"].map(threads),
            [Ok(1), Ok(3), Ok(0), Ok(0), Ok(1024)]
        );
        for bad in ["", "-1", "1.5", "x", "many", "1025", "99999999999999999999"] {
            assert!(threads(bad).unwrap_err().contains("or auto is expected here"), "{bad}");
        }
        let loops = |file: &str| toml::from_str::<Options>(file).map(|options| options.loops());
        assert_eq!(loops("").unwrap(), Ok(1));
        assert_eq!(loops("threads = 3").unwrap(), Ok(3));
        assert_eq!(loops("threads = \"auto\"\nmax-connections = 1").unwrap(), Ok(1));
        assert_eq!(loops("threads = 3\nmax-connections = 3").unwrap(), Ok(3));
        assert!(loops("threads = 0").unwrap().is_ok_and(|loops| loops >= 1));
        for bad in ["1025", "-1", "\"x\"", "1.5", "true"] {
            assert!(loops(&format!("threads = {bad}")).is_err(), "{bad}");
        }
        let error = loops("threads = 3\nmax-connections = 2").unwrap().unwrap_err();
        assert_eq!(error, "3 threads need a max-connections of 3 at least");
    }

    #[test]
    fn the_command_line_overrides_the_driver_of_the_file() {
        let command = Arguments::augment_args(Command::new("x"));
        let driver = |line: &[&str], file: &str| {
            let line = ["x"].iter().chain(line);
            let matches = command.clone().try_get_matches_from(line).unwrap();
            let arguments = Arguments::from_arg_matches(&matches).unwrap();
            let both = arguments.or(&LogTable::default(), toml::from_str(file).unwrap());
            both.options.driver
        };
        assert_eq!(driver(&[], ""), None);
        assert_eq!(driver(&[], "driver = \"uring\""), Some(DriverChoice::Uring));
        let epoll = ["--driver", "epoll"];
        assert_eq!(driver(&epoll, "driver = \"uring\""), Some(DriverChoice::Epoll));
        assert_eq!(driver(&["--driver=auto"], ""), Some(DriverChoice::Auto));
        let error = toml::from_str::<Options>("driver = \"fast\"").unwrap_err().to_string();
        assert!(error.contains("auto, epoll or uring is expected here"), "{error}");
    }

    #[test]
    fn the_limits_of_the_process_are_divided_among_its_loops() {
        let options: Options =
            toml::from_str("max-connections = 7\nmax-buffered = 2").expect("options");
        let limits = [0, 1, 2].map(|number| options.load_limits(LoadLimits::default(), number, 3));
        let wanted = [(3, 1), (2, 1), (2, 1)];
        let of =
            |(connections, bytes)| LoadLimits::default().connections(connections).buffered(bytes);
        assert_eq!(limits, wanted.map(of));
    }

    #[test]
    fn filters_and_modes_are_checked() {
        for (file, wanted) in [
            ("log-level = \"a b\"", "' ' is not allowed in a filter; examples are warn"),
            ("log-level = \"couplet=x\"", "examples are warn"),
            ("log-level = \"loud\"", "\"loud\" is not a level; examples are warn"),
            ("log-level = \"info,\"", "\"\" is not a level"),
            ("umask = 0o1000", "a number up to 0o777 is expected here"),
            ("max-connections = 0", "a number from 1 on is expected here"),
            ("log = \"xml\"", "unknown variant `xml`, expected `text` or `json`"),
        ] {
            let log = toml::from_str::<LogTable>(file).err();
            let error = log.or(toml::from_str::<Options>(file).err()).expect(file).to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert_eq!(octal("777"), Ok(0o777));
        for text in ["8", "-1", "1000", ""] {
            assert!(octal(text).is_err(), "{text}");
        }
    }
}
