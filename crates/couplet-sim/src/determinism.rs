//! Runs worlds twice in one process and once in another, and names the first event that differs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::panic::Location;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io, thread};

use couplet_core::defer::Result;

use super::{Report, Sim, Trial, Weather};

/// Environment variable set for the other process: the call to run, the output file and,
/// optionally, the seed to trace in full. Without a seed, the process writes the hash of every
/// seed.
const REQUEST: &str = "COUPLET_DETERMINED";

type Scenario<'a> = &'a (dyn Fn(&mut Sim) -> Result<()> + Sync);

impl Trial {
    /// Like [`run`](Self::run), but in a new thread, so that thread-local state of earlier runs,
    /// such as hash map keys, has no effect.
    pub fn run_apart(&self, scenario: &(dyn Fn(&mut Sim) -> Result<()> + Sync)) -> Report {
        let own = thread::current();
        let named = own
            .name()
            .map_or_else(thread::Builder::new, |name| thread::Builder::new().name(name.to_owned()));
        let ran = thread::scope(|scope| {
            let run = named.spawn_scoped(scope, || self.run(scenario));
            run.expect("a thread for the world").join()
        });
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Like [`check`](super::check), but also requires determinism: each seed runs twice in this
/// process, each time in a [new thread](Trial::run_apart), and once in another process. All three
/// traces must be the same. For tests.
///
/// This finds order, time or entropy from outside the simulator: a `HashMap`, a clock, object
/// addresses, a `static` counter. With the feature `trap`, on Linux, simulating threads get the
/// system's time and entropy from the seed, so that a `HashMap` and a generator seeded by the
/// system are deterministic too.
///
/// The other process runs this same program, in a test with the test's name as the filter, and
/// exits when it reaches this call.
///
/// ```no_run
/// use std::time::Duration;
/// use couplet::sim::{self, Weather};
///
/// # fn shop(_: &couplet::Reactor) -> couplet::Result<()> { Ok(()) }
/// #[test]
/// fn a_seed_is_one_trace() {
///     sim::check_determined(0..20, Weather::Storm, |sim| {
///         sim.host("shop", shop);
///         sim.draw_faults(Duration::from_secs(60));
///         sim.run_for(Duration::from_secs(90))
///     });
/// }
/// ```
///
/// # Panics
///
/// Panics with a report at the first seed that fails or whose traces differ.
#[track_caller]
pub fn check_determined(
    seeds: impl IntoIterator<Item = u64>,
    weather: Weather,
    scenario: impl Fn(&mut Sim) -> Result<()> + Sync,
) {
    let call = this_call(Location::caller());
    let trials: Vec<Trial> = seeds.into_iter().map(|seed| Trial::new(seed, weather)).collect();
    if let Ok(request) = env::var(REQUEST) {
        return answer_request(&request, &call, &trials, &scenario);
    }
    let mut hashes = BTreeMap::new();
    for trial in &trials {
        match run_twice(trial, &scenario) {
            Ok(report) => hashes.insert(trial.seed, report.hash),
            Err(text) => panic!("{text}"),
        };
    }
    let there = run_in_other_process(&call, None)
        .unwrap_or_else(|error| panic!("cannot run in another process: {error}"));
    let there: BTreeMap<u64, u64> = there.iter().filter_map(|line| hash_of(line)).collect();
    for trial in &trials {
        if there.get(&trial.seed) == hashes.get(&trial.seed) {
            continue;
        }
        let first = trial.clone().whole_trace().run_apart(&scenario).trace;
        let second = run_in_other_process(&call, Some(trial.seed)).unwrap_or_default();
        panic!("{}", trial.difference("the runs of two processes", &first, &second));
    }
}

fn run_twice(trial: &Trial, scenario: Scenario<'_>) -> Result<Report, String> {
    // Both runs keep the whole trace: an effect of only the first run, such as initializing a
    // static, would not show in two further runs.
    let whole = trial.clone().whole_trace();
    let first = whole.run_apart(scenario);
    if first.failure.is_some() {
        return trial.examine(scenario);
    }
    let second = whole.run_apart(scenario);
    match second.hash == first.hash {
        true => Ok(first),
        false => Err(trial.difference("two runs", &first.trace, &second.trace)),
    }
}

/// Parses a line from the other process: a seed and its hash.
fn hash_of(line: &str) -> Option<(u64, u64)> {
    let (seed, hash) = line.split_once(' ')?;
    Some((seed.parse().ok()?, u64::from_str_radix(hash, 16).ok()?))
}

/// Names this call in both processes: its source location, and its ordinal there in this thread.
fn this_call(place: &Location<'_>) -> String {
    thread_local! {
        static CALLS: RefCell<BTreeMap<String, u32>> = const { RefCell::new(BTreeMap::new()) };
    }
    let place = place.to_string();
    let nth = CALLS.with(|calls| {
        let mut calls = calls.borrow_mut();
        let nth = calls.entry(place.clone()).or_default();
        *nth += 1;
        *nth
    });
    format!("{place}#{nth}")
}

/// In the other process: if this is the requested call, writes the answer and exits.
fn answer_request(request: &str, call: &str, trials: &[Trial], scenario: Scenario<'_>) {
    let mut parts = request.split('\n');
    let (place, file, seed) = (parts.next(), parts.next(), parts.next());
    let (true, Some(file)) = (place == Some(call), file) else { return };
    let whole = seed.and_then(|seed| seed.parse::<u64>().ok());
    let text: String = match trials.iter().find(|trial| Some(trial.seed) == whole) {
        Some(trial) => trial.clone().whole_trace().run_apart(scenario).trace.join("\n"),
        None => trials
            .iter()
            .map(|trial| format!("{} {:x}\n", trial.seed, trial.run_apart(scenario).hash))
            .collect(),
    };
    let code = i32::from(fs::write(file, text).is_err());
    std::process::exit(code);
}

/// Runs this program again up to this call, and returns the lines that it writes.
fn run_in_other_process(call: &str, seed: Option<u64>) -> io::Result<Vec<String>> {
    let file = AnswerFile::new(call);
    let seed = seed.map(|seed| seed.to_string()).unwrap_or_default();
    let request = format!("{call}\n{}\n{seed}", file.0.display());
    let output =
        Command::new(env::current_exe()?).args(arguments()).env(REQUEST, request).output()?;
    let answered = fs::read_to_string(&file.0).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        io::Error::new(error.kind(), format!("no answer ({}): {said}", output.status))
    })?;
    Ok(answered.lines().map(str::to_owned).collect())
}

/// Arguments that lead the program back to this call. A test's thread has the test's name; anything
/// else runs in `main`, with our own arguments.
fn arguments() -> Vec<OsString> {
    match thread::current().name() {
        Some(name) if name != "main" => ["--exact", name, "--nocapture"].map(Into::into).to_vec(),
        _ => env::args_os().skip(1).collect(),
    }
}

/// The answer file; removed on drop.
struct AnswerFile(PathBuf);

impl AnswerFile {
    fn new(call: &str) -> AnswerFile {
        let hash = super::random::fold_bytes(0, call.as_bytes());
        let name = format!("couplet-determined-{}-{hash:016x}", std::process::id());
        AnswerFile(env::temp_dir().join(name))
    }
}

impl Drop for AnswerFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
