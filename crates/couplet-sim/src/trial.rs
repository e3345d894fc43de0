//! Runs a scenario with many seeds, and reports a failure with its seed, the shortest list of
//! faults that still fails, and the last lines of the trace.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use couplet_core::defer::Result;
use couplet_defer::internals::live_nodes;
use couplet_defer::panics::panic_text;

use super::trapped::{self, Source};
use super::{Sim, Weather};

/// Trace lines in a failure's text.
const AROUND: usize = 40;
/// Maximum runs in the search for the shortest list of faults.
const RUNS: usize = 300;

/// An invariant of a world was violated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} (at {at:?})")]
#[non_exhaustive]
pub struct Broken {
    /// The violated invariant.
    pub text: String,
    /// Time of the violation since the world began.
    pub at: Duration,
}

/// The parameters that determine one run of a scenario.
///
/// A scenario is a function that adds hosts to a [`Sim`], lets time pass, and fails if an
/// expectation is not met. [`Sim::finish`] is called after it.
#[derive(Clone, Debug)]
pub struct Trial {
    pub(super) seed: u64,
    weather: Weather,
    whole_trace: bool,
    keep: Option<Vec<usize>>,
}

/// The result of a [`Trial`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The failure, if the run failed.
    pub failure: Option<String>,
    /// A hash of every event, in order.
    pub hash: u64,
    /// Number of events.
    pub events: u64,
    /// Virtual time at the end of the run.
    pub elapsed: Duration,
    /// Descriptions of the faults.
    pub faults: Vec<String>,
    /// When each of these faults begins, since the start of the world.
    pub fault_times: Vec<Duration>,
    /// The last lines of the trace after a failure, or the whole trace if it was kept.
    pub trace: Vec<String>,
    /// Number of faults drawn by the weather.
    drawn: usize,
    /// Number of faults added by the scenario.
    by_hand: usize,
    /// The world was given up at a limit, and did not fail before that.
    given_up: bool,
}

impl Trial {
    /// A run with this seed in this weather.
    pub fn new(seed: u64, weather: Weather) -> Trial {
        Trial { seed, weather, whole_trace: false, keep: None }
    }

    /// Keeps the whole trace.
    #[must_use]
    pub fn whole_trace(mut self) -> Trial {
        self.whole_trace = true;
        self
    }

    fn with_faults_kept(&self, keep: &[usize]) -> Trial {
        Trial { keep: Some(keep.to_vec()), ..self.clone() }
    }

    /// Runs the scenario and [finishes](Sim::finish) its world.
    pub fn run(&self, scenario: &dyn Fn(&mut Sim) -> Result<()>) -> Report {
        let _trapped = trapped::enter(Source::before(self.seed));
        let alive = live_nodes();
        let mut sim = Sim::with_weather(self.seed, self.weather, self.keep.clone());
        if self.whole_trace {
            sim.keep_trace();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            scenario(&mut sim)?;
            sim.finish()
        }));
        let mut report = Report {
            failure: match outcome {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(format!("{failure:#}")),
                Err(payload) => Some(format!("the scenario panicked: {}", panic_text(payload))),
            },
            hash: sim.hash(),
            events: sim.events(),
            elapsed: sim.elapsed(),
            faults: sim.describe_faults(),
            fault_times: sim.fault_times(),
            trace: Vec::new(),
            drawn: sim.drawn(),
            by_hand: sim.by_hand(),
            given_up: sim.was_given_up(),
        };
        if self.whole_trace || report.failure.is_some() {
            report.trace = sim.trace_lines();
        }
        // The Deferreds of a killed program are not leaked: a real system would have freed them.
        let killed = sim.has_killed();
        drop(sim);
        let left = live_nodes().saturating_sub(alive);
        if report.failure.is_none() && left > 0 && !killed {
            report.failure = Some(format!("{left} Deferred links were leaked"));
        }
        report
    }

    /// Runs the scenario. On failure, reruns it with fewer and fewer faults, and once more to check
    /// for determinism.
    ///
    /// # Errors
    ///
    /// A human-readable report of the failure.
    pub fn examine(&self, scenario: &dyn Fn(&mut Sim) -> Result<()>) -> Result<Report, String> {
        let report = self.run(scenario);
        match report.failure {
            None => Ok(report),
            Some(_) => Err(self.explain(&report, scenario)),
        }
    }

    /// Runs the scenario again and compares its hash with an earlier report's.
    ///
    /// # Errors
    ///
    /// A human-readable description of the first difference.
    pub fn compare(
        &self,
        before: &Report,
        scenario: &dyn Fn(&mut Sim) -> Result<()>,
    ) -> Result<(), String> {
        if self.run(scenario).hash == before.hash {
            return Ok(());
        }
        let whole = self.clone().whole_trace();
        let (first, second) = (whole.run(scenario).trace, whole.run(scenario).trace);
        Err(self.difference("two runs", &first, &second))
    }

    /// Describes the first difference between the traces of two runs.
    pub(super) fn difference(&self, runs: &str, first: &[String], second: &[String]) -> String {
        let mut text = format!(
            "seed {}, weather {}: {runs} differ, so something takes randomness or order from \
             outside the simulation (a HashMap, a clock, a thread)\n",
            self.seed, self.weather
        );
        let same = first.iter().zip(second).take_while(|(a, b)| a == b).count();
        if same == first.len() && same == second.len() {
            return text + "but the traces of two further runs are identical";
        }
        for line in &first[same.saturating_sub(5)..same] {
            text += &format!("  both:   {line}\n");
        }
        let line = |lines: &[String]| lines.get(same).map_or("(ended)".to_owned(), Clone::clone);
        text + &format!("  first:  {}\n  second: {}", line(first), line(second))
    }

    /// The number of the weather's faults that suffice for a failure, and the report of a run with
    /// only those. `None` if the failure does not recur or the world was given up.
    fn shortened(
        &self,
        report: &Report,
        scenario: &dyn Fn(&mut Sim) -> Result<()>,
    ) -> (Option<usize>, Option<Report>) {
        // Each of many runs would use up the whole limit.
        if report.given_up {
            return (None, None);
        }
        let gave_up = Cell::new(false);
        let fails = |keep: &[usize]| {
            if gave_up.get() {
                return false;
            }
            let shorter = self.with_faults_kept(keep).run(scenario);
            gave_up.set(shorter.given_up);
            shorter.failure.is_some() && !shorter.given_up
        };
        let keep = shortest(report.drawn, fails);
        let short = self.with_faults_kept(&keep).run(scenario);
        match short.failure {
            Some(_) if !short.given_up => (Some(keep.len()), Some(short)),
            _ => (None, None),
        }
    }

    fn explain(&self, report: &Report, scenario: &dyn Fn(&mut Sim) -> Result<()>) -> String {
        let (keep, short) = self.shortened(report, scenario);
        // If the failure does not recur, show the original one in full.
        let shown = short.as_ref().unwrap_or(report);
        let mut text = format!("seed {}, weather {}: ", self.seed, self.weather);
        text += shown.failure.as_deref().unwrap_or_default();
        if let (Some(all), true) = (&report.failure, shown.failure != report.failure) {
            text += &format!("\nwith all its faults: {all}");
        }
        if !report.given_up
            && let Err(difference) = self.compare(report, scenario)
        {
            text += &format!("\n{difference}");
        }
        text += &format!("\n{}", describe_needed_faults(keep, report));
        for fault in &shown.faults {
            text += &format!("\n  {fault}");
        }
        text += "\nthe trace before it:\n";
        text += &shown.trace[shown.trace.len().saturating_sub(AROUND)..].join("\n");
        text
    }
}

/// One line on the number of faults that the failure needs.
fn describe_needed_faults(keep: Option<usize>, report: &Report) -> String {
    let weather = match (report.drawn, keep) {
        (0, _) => "the weather drew no faults".to_owned(),
        (1, None) => "with the fault of the weather".to_owned(),
        (all, None) => format!("with all {all} faults of the weather"),
        (1, Some(0)) => "it does not need the fault of the weather".to_owned(),
        (all, Some(0)) => format!("it needs none of the {all} faults of the weather"),
        (1, Some(_)) => "it needs the fault of the weather".to_owned(),
        (all, Some(1)) => format!("1 of the {all} faults of the weather is enough"),
        (all, Some(keep)) => format!("{keep} of the {all} faults of the weather are enough"),
    };
    match report.by_hand {
        0 => weather,
        1 => weather + "; 1 was added by hand",
        more => format!("{weather}; {more} were added by hand"),
    }
}

/// The shortest list of indexes below `all` that still fails. Found by leaving out halves, then
/// smaller parts, then single indexes (delta debugging).
fn shortest(all: usize, fails: impl Fn(&[usize]) -> bool) -> Vec<usize> {
    let mut keep: Vec<usize> = (0..all).collect();
    let mut runs = 0;
    let mut size = all;
    while size > 0 && runs < RUNS {
        let mut at = 0;
        while at < keep.len() && runs < RUNS {
            let end = keep.len().min(at + size);
            let fewer = [&keep[..at], &keep[end..]].concat();
            runs += 1;
            if fails(&fewer) { keep = fewer } else { at = end }
        }
        size /= 2;
    }
    keep
}

/// Runs a scenario with each seed, and the first seed twice. For tests.
///
/// If `COUPLET_SEED` is set in the environment, runs only that seed, to replay a failure.
///
/// ```
/// use std::time::Duration;
/// use couplet::sim::{self, Weather};
///
/// sim::check(0..20, Weather::Storm, |sim| {
///     sim.host("alone", |reactor| {
///         reactor.sleep(Duration::from_secs(5)).detach();
///         Ok(())
///     });
///     sim.draw_faults(Duration::from_secs(60));
///     sim.run_for(Duration::from_secs(60))
/// });
/// ```
///
/// # Panics
///
/// Panics with a report at the first seed that fails.
pub fn check(
    seeds: impl IntoIterator<Item = u64>,
    weather: Weather,
    scenario: impl Fn(&mut Sim) -> Result<()>,
) {
    let asked = std::env::var("COUPLET_SEED").ok();
    let asked = asked.map(|text| match text.trim().parse() {
        Ok(seed) => seed,
        Err(_) => panic!("COUPLET_SEED must be a number, not '{text}'"),
    });
    let (seeds, only) = (seeds.into_iter().filter(|_| asked.is_none()), asked.into_iter());
    for (n, seed) in only.chain(seeds).enumerate() {
        let trial = Trial::new(seed, weather);
        let outcome = trial.examine(&scenario).and_then(|report| match n {
            0 => trial.compare(&report, &scenario),
            _ => Ok(()),
        });
        if let Err(text) = outcome {
            panic!("{text}\nreplay it with COUPLET_SEED={seed}");
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failure = self.failure.as_deref().unwrap_or("all is well");
        write!(
            f,
            "{failure}: {} events in {:?} of virtual time, {:016x}",
            self.events, self.elapsed, self.hash
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{Report, Trial, Weather, describe_needed_faults, shortest};

    #[test]
    fn a_report_says_how_many_faults_a_failure_needs() {
        let report = Trial::new(1, Weather::Calm).run(&|_| Ok(()));
        for (drawn, keep, text) in [
            (0, None, "the weather drew no faults"),
            (0, Some(0), "the weather drew no faults"),
            (1, None, "with the fault of the weather"),
            (3, None, "with all 3 faults of the weather"),
            (1, Some(0), "it does not need the fault of the weather"),
            (3, Some(0), "it needs none of the 3 faults of the weather"),
            (1, Some(1), "it needs the fault of the weather"),
            (3, Some(1), "1 of the 3 faults of the weather is enough"),
            (3, Some(2), "2 of the 3 faults of the weather are enough"),
        ] {
            for (by_hand, more) in
                [(0, ""), (1, "; 1 was added by hand"), (2, "; 2 were added by hand")]
            {
                let report = Report { drawn, by_hand, ..report.clone() };
                assert_eq!(describe_needed_faults(keep, &report), format!("{text}{more}"));
            }
        }
    }

    #[test]
    fn the_shortest_list_keeps_only_the_needed_faults() {
        for needed in [&[][..], &[0], &[9], &[3, 4], &[0, 5, 9], &[1, 2, 3, 7, 8]] {
            let fails = |keep: &[usize]| needed.iter().all(|n| keep.contains(n));
            assert_eq!(shortest(10, fails), needed);
        }
    }
}
