//! `couplet sim`: runs worlds in which this program's own protocols meet bad networks, many seeds
//! in parallel, and reports failures.

mod cluster;
mod devices;
mod meters;
mod nats;
mod reconnecting;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use couplet::inspect::{Recording, WorldLoop};
use couplet::sim::{FIRST_DAY, RecordedLoop, Recorder, Report, Trial, Weather};
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::PROGRAM;
use crate::exit::Exit;
use crate::inspect;
use crate::known::Known;
use crate::logging::{Logging, is_dumb};
use crate::output;
use crate::values::seconds;

type World = Box<dyn Fn(&mut couplet::sim::Sim) -> couplet::Result<()> + Send + Sync>;

/// A world that the user can choose.
struct Scenario {
    name: &'static str,
    about: &'static str,
    weather: Weather,
    seeds: (u64, u64),
    /// The default virtual time, if the user can choose it.
    time: Option<Duration>,
    world: fn(Duration) -> World,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "poetry",
        about: "servers, a proxy and readers; no reader takes a cut poem for a whole one",
        weather: Weather::Storm,
        seeds: (1, 100),
        time: None,
        world: |_| Box::new(poetry::worlds::storm),
    },
    Scenario {
        name: "chat",
        about: "members come and go; nothing is heard twice or out of order",
        weather: Weather::Storm,
        seeds: (1, 100),
        time: None,
        world: |_| Box::new(chat::worlds::storm),
    },
    Scenario {
        name: "cluster",
        about: "nodes on a bus, with up to 1000 clients; no line is lost unreported",
        weather: Weather::Storm,
        seeds: (1, 100),
        time: None,
        world: |_| Box::new(cluster::run),
    },
    Scenario {
        name: "reconnecting",
        about: "clients that reconnect; all are back in time after the storm",
        weather: Weather::Storm,
        seeds: (1, 100),
        time: None,
        world: |_| Box::new(reconnecting::run),
    },
    Scenario {
        name: "devices",
        about: "10 000 devices; the server drops the silent ones, and no others",
        weather: Weather::Calm,
        seeds: (1, 1),
        time: Some(Duration::from_secs(3600)),
        world: |time| Box::new(move |sim| devices::run(sim, time)),
    },
    Scenario {
        name: "meters",
        about: "meters that report by UDP; no reading is lost, and none is counted twice",
        weather: Weather::Storm,
        seeds: (1, 100),
        time: None,
        world: |_| Box::new(meters::run),
    },
    Scenario {
        name: "naive",
        about: "a reader that trusts the end of the stream: breaks, to show a failure's report",
        weather: Weather::Storm,
        seeds: (1, 100),
        time: None,
        world: |_| Box::new(poetry::worlds::naive),
    },
];

/// The names of the scenarios.
fn names() -> Vec<&'static str> {
    SCENARIOS.iter().map(|scenario| scenario.name).collect()
}

const EXAMPLE: &str = "\
Example:
  couplet sim poetry --seeds 1..1000
  couplet sim chat --seeds 17 --weather storm --trace chat.txt --pcap chat.pcap
  couplet sim naive --open
  couplet sim devices --time 86400

A world runs in virtual time, and its seed decides everything in it: the same seed gives the same
trace. A failure comes with its seed, the shortest list of faults that still fails, and the trace
before it. COUPLET_SEED=17 in the environment means --seeds 17.

Exit codes: 0 all is well, 1 a world broke, 2 usage error.";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Sim {
    /// The world to run; without it, the worlds are listed
    #[arg(
        value_name = "SCENARIO",
        value_parser = Known { values: names, read: |name| Ok(name.to_owned()) }
    )]
    scenario: Option<String>,
    /// Seeds, one world each: a number, or FIRST..LAST, both included
    #[arg(long, value_name = "SEEDS", value_parser = seeds)]
    seeds: Option<(u64, u64)>,
    /// calm, breezy or storm [default: the scenario's own]
    #[arg(
        long,
        value_name = "WEATHER",
        value_parser = Known { values: || vec!["calm", "breezy", "storm"], read: weather },
        hide_possible_values = true
    )]
    weather: Option<Weather>,
    /// Write the trace of the failed seed, or else of the first, to this file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write the packets of the same seed to this capture file, for Wireshark
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Write the last events of each loop of the same seed to this file, with the faults: a recording
    /// for couplet inspect
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Serve the inspector's page with this recording until Ctrl-C, and print its URL
    #[arg(long)]
    open: bool,
    /// Virtual seconds that the devices world runs [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    time: Option<Duration>,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.trim().parse::<u64>(), last.trim_start_matches('=').trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        (Ok(first), Ok(last)) => {
            Err(format!("the first seed is above the last one: write {last}..{first}"))
        }
        _ => Err("a number or FIRST..LAST is expected here".to_owned()),
    }
}

fn weather(text: &str) -> Result<Weather, String> {
    text.parse::<Weather>().map_err(|error| error.to_string())
}

impl Sim {
    /// Whether a recording of a world is made.
    pub(crate) fn records(&self) -> bool {
        self.open || self.record.is_some()
    }
}

/// Runs the worlds. `contents`: how many bytes of each chunk a recording keeps.
pub(crate) fn run(options: Sim, contents: usize, logging: &Logging) -> Result<(), Exit> {
    let Some(name) = &options.scenario else {
        return list();
    };
    let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) else {
        let known = names().join(", ");
        return Err(Exit::bad_usage(format!(
            "there is no scenario '{name}'; known scenarios: {known}"
        )));
    };
    if options.time.is_some() && scenario.time.is_none() {
        return Err(Exit::bad_usage(format!("the scenario {name} has a fixed duration")));
    }
    let time = options.time.or(scenario.time).unwrap_or_default();
    let seeds = options.seeds.map_or_else(|| requested_seeds(scenario.seeds), Ok)?;
    let weather = options.weather.unwrap_or(scenario.weather);
    let world = (scenario.world)(time);
    let world: World = match logging.is_talkative() {
        true => world,
        false => Box::new(move |sim| quietly(|| world(sim))),
    };
    let began = now();
    let outcome = run_all(&world, seeds, weather);
    let seed = outcome.as_ref().err().map_or(seeds.0, |failed| failed.seed);
    let trial = Trial::new(seed, weather);
    let (trace, pcap) = (options.trace.as_deref(), options.pcap.as_deref());
    let written = trace.map_or(Ok(()), |file| write_trace(&world, (seed, weather), file));
    let captured = pcap.map_or(Ok(()), |file| write_capture(&world, &trial, file));
    let recording = options.records().then(|| recording((name, &world), &trial, contents));
    let recorded = match (&options.record, &recording) {
        (Some(file), Some(bytes)) => write_recording(bytes, file),
        _ => Ok(()),
    };
    let written = written.and(captured).and(recorded);
    let ended = match outcome {
        Ok(totals) => written.map_err(Exit::failed).and_then(|()| {
            let took = now().saturating_duration_since(began);
            output::print(totals.summary(name, weather, seeds, took).as_bytes())
        }),
        Err(Failed { seed, text }) => {
            let mut told = format!("{name}: {text}\n");
            if let Err(why) = written {
                told += &format!("{why}\n");
            }
            if recording.is_none() {
                told += "for its events on a page: --open\n";
            }
            told += &format!("replay it: couplet sim {name} --weather {weather} --seeds {seed}");
            if let Some(time) = options.time {
                told += &format!(" --time {}", time.as_secs_f64());
            }
            Err(Exit::failed(told))
        }
    };
    match recording.filter(|_| options.open) {
        Some(bytes) => open(bytes, ended),
        None => ended,
    }
}

/// Reports the outcome, and serves the page with a recording until a signal ends it.
fn open(recording: Vec<u8>, outcome: Result<(), Exit>) -> Result<(), Exit> {
    let outcome = outcome.map_err(|exit| exit.report(PROGRAM));
    inspect::open(recording)?;
    outcome
}

/// Discards the log of a world's programs: the logs of hundreds of worlds are useless.
fn quietly<T>(f: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), f)
}

fn list() -> Result<(), Exit> {
    let mut text = String::new();
    for Scenario { name, about, .. } in &SCENARIOS {
        text += &format!("{name:<14} {about}\n");
    }
    output::print(text.as_bytes())
}

/// The seed from the environment, or else `seeds`.
fn requested_seeds(seeds: (u64, u64)) -> Result<(u64, u64), Exit> {
    match std::env::var("COUPLET_SEED") {
        Err(_) => Ok(seeds),
        Ok(text) => {
            let seed = text.trim().parse();
            let seed = seed.map_err(|_| Exit::bad_usage("COUPLET_SEED must be a number"))?;
            Ok((seed, seed))
        }
    }
}

struct Failed {
    seed: u64,
    text: String,
}

/// Totals over the successful worlds.
#[derive(Default)]
struct Totals {
    events: u64,
    elapsed: Duration,
    /// Hash over each seed and its trace, independent of the order in which they ran.
    hash: u64,
}

impl Totals {
    fn add(&mut self, seed: u64, report: &Report) {
        self.events += report.events;
        self.elapsed += report.elapsed;
        let mixed = (seed ^ report.hash.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.hash = self.hash.wrapping_add(mixed ^ (mixed >> 29));
    }

    fn summary(&self, name: &str, weather: Weather, seeds: (u64, u64), took: Duration) -> String {
        let seeds = match seeds {
            (first, last) if first == last => format!("seed {first}"),
            (first, last) => format!("seeds {first}..{last}"),
        };
        format!(
            "{name}: {seeds}, weather {weather}: all is well\n\
             {} events in {} of virtual time, {:.1} s of real time\n\
             trace {:016x}\n",
            HumanCount(self.events),
            HumanDuration(self.elapsed),
            took.as_secs_f64(),
            self.hash
        )
    }
}

/// Runs all seeds, in parallel. Reports the failure of the lowest seed.
fn run_all(world: &World, (first, last): (u64, u64), weather: Weather) -> Result<Totals, Failed> {
    let count = (last - first).saturating_add(1);
    let bar = progress(count);
    let next = AtomicU64::new(0);
    let lowest = AtomicU64::new(u64::MAX);
    let done: Mutex<Totals> = Mutex::default();
    let failed: Mutex<BTreeMap<u64, String>> = Mutex::default();
    let compared = AtomicBool::new(false);
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count || nth > lowest.load(Ordering::Relaxed) {
                return;
            }
            let seed = first + nth;
            let trial = Trial::new(seed, weather);
            // One seed runs twice: the same seed must give the same trace.
            let twice = !compared.swap(true, Ordering::Relaxed);
            let outcome = trial.examine(world).and_then(|report| match twice {
                true => trial.compare(&report, world).map(|()| report),
                false => Ok(report),
            });
            match outcome {
                Ok(report) => lock(&done).add(seed, &report),
                Err(text) => {
                    lowest.fetch_min(nth, Ordering::Relaxed);
                    lock(&failed).insert(seed, text);
                }
            }
            bar.inc(1);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner).pop_first() {
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
        Some((seed, text)) => Err(Failed { seed, text }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn progress(seeds: u64) -> ProgressBar {
    if !io::stderr().is_terminal() || is_dumb() {
        return ProgressBar::hidden();
    }
    let style = "{bar:40} {pos}/{len} seeds, {elapsed} elapsed, {eta} to go";
    let bar = ProgressBar::with_draw_target(Some(seeds), ProgressDrawTarget::stderr_with_hz(10));
    bar.with_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

/// A file that a world writes to. The last bytes are flushed where an error can be reported.
#[derive(Clone)]
struct Capture(Rc<RefCell<BufWriter<File>>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().flush()
    }
}

fn write_capture(world: &World, trial: &Trial, path: &Path) -> Result<(), String> {
    let refused = |error: io::Error| {
        let (path, why) = (path.display(), output::plain(&error));
        format!("cannot write the packets to {path}: {why}")
    };
    let file = File::create(path).map_err(refused)?;
    let mut capture = Capture(Rc::new(RefCell::new(BufWriter::new(file))));
    trial.run(&|sim| {
        sim.capture(capture.clone())?;
        world(sim)
    });
    capture.flush().map_err(refused)
}

/// The recording of a world's loops.
fn recording((name, world): (&str, &World), trial: &Trial, contents: usize) -> Vec<u8> {
    let recorder = Recorder::new().contents(contents);
    let report = trial.run(&|sim| {
        sim.record(&recorder);
        world(sim)
    });
    let loops = recorder.loops().into_iter();
    let of = |it: RecordedLoop| WorldLoop {
        host: it.host,
        serial: it.serial,
        ring: it.ring,
        frames: it.frames,
    };
    let loops: Vec<_> = loops.map(of).collect();
    let failure = report.failure.map(|failure| (report.elapsed, failure));
    let faults = report.fault_times.into_iter().zip(report.faults).chain(failure);
    Recording::of_world(name, (FIRST_DAY, report.elapsed), &loops, faults)
}

fn write_recording(bytes: &[u8], path: &Path) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|error| {
        let (path, why) = (path.display(), output::plain(&error));
        format!("cannot write the recording to {path}: {why}")
    })
}

fn write_trace(world: &World, (seed, weather): (u64, Weather), file: &Path) -> Result<(), String> {
    let mut text = format!("# seed {seed}, weather {weather}\n");
    let report = Trial::new(seed, weather).whole_trace().run(world);
    for (n, fault) in report.faults.iter().enumerate() {
        text += &format!("# fault {n} {fault}\n");
    }
    text += &report.trace.join("\n");
    text += "\n";
    std::fs::write(file, text).map_err(|error| {
        let (file, why) = (file.display(), output::plain(&error));
        format!("cannot write the trace to {file}: {why}")
    })
}

#[expect(clippy::disallowed_methods, reason = "measures how long the user waits")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weather_that_is_completed_is_taken() {
        let sim = Sim::augment_args(clap::Command::new("sim"));
        let arg = sim.get_arguments().find(|arg| arg.get_id() == "weather").unwrap();
        let known = arg.get_possible_values();
        assert_eq!(known.len(), 3);
        assert!(known.iter().all(|known| weather(known.get_name()).is_ok()));
    }

    #[test]
    fn seeds_are_a_number_or_a_range() {
        assert_eq!(seeds("7"), Ok((7, 7)));
        assert_eq!(seeds("1..1000"), Ok((1, 1000)));
        assert_eq!(seeds("5..=5"), Ok((5, 5)));
        for backwards in ["5..1", "5..=1", "5 .. 1"] {
            let error = seeds(backwards).unwrap_err();
            assert_eq!(error, "the first seed is above the last one: write 1..5");
        }
        for bad in ["", "..", "3..1", "a..b", "1..", "-1"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }
}
