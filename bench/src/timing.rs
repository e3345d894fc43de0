//! The timed scenarios. In each round every server is started and warmed up; then they run
//! alternately for short slices, A B C C B A A B C, until each has used its time. A server's
//! figures are divided by the first server's of the same round, so a temporary slowdown of the
//! machine, and effects of the preceding server, affect all equally.

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::kind::{Kind, Manner};
use crate::load::open_loop;
use crate::options::Bench;
use crate::results::{Missing, Outcome, Row};
use crate::scenario::{Pace, Playing, Scenario, Selected};
use crate::server::{self, Schedule, Server};
use crate::{Result, in_context, interrupt};
use couplet_testkit::bench::processors::pin;
use couplet_testkit::bench::spread::median;

/// Slices of a server's time in a round: an even number, so that each server runs before the others
/// as often as after them.
const SLICES: u32 = 10;
/// Most short connections to one server: each leaves a port in TIME_WAIT, of 28 000.
const MOST_SHORT: u64 = 20_000;
/// Ticks of a second: enough samples to measure a share of 10 % to within 3 %.
const ENOUGH_TICKS: f64 = 100.0;
/// A share of the time for which other work had a processor: above it the results have a remark.
const DISTURBED: f64 = 0.05;

/// One server's results in one round; times are in seconds.
#[derive(Clone, Default, Debug)]
struct Sample {
    /// Round trips, megabytes or connections.
    done: f64,
    elapsed: f64,
    /// The server's processor time, and its clock ticks in user code and in the kernel.
    cpu: f64,
    ticks: [f64; 2],
    /// Time for which load or server, whichever longer, was ready to run but did not.
    waited: f64,
    /// Peak memory of the server in KiB.
    memory: f64,
    /// Of an open loop.
    latencies: Vec<Duration>,
}

impl Sample {
    /// Microseconds of processor time for a unit of work.
    fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.done
    }

    fn rate(&self) -> f64 {
        self.done / self.elapsed
    }

    /// The latency in microseconds that this share of the answers did not exceed; `latencies` are
    /// sorted.
    fn quantile(&self, share: f64) -> f64 {
        quantile(&self.latencies, share).as_secs_f64() * 1e6
    }
}

/// The least value that is not exceeded by this share of the sorted values.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

/// A server and its clients, ready to be timed.
struct Running {
    kind: Kind,
    server: Server,
    clients: Playing,
    /// Requests a second in an open loop.
    pace: f64,
    so_far: Sample,
}

impl Running {
    fn start(bench: &Bench, scenario: Scenario, kind: Kind) -> Result<Running> {
        let behind = scenario.load.behind()?;
        let at = behind.as_ref().map(TcpListener::local_addr).transpose()?;
        let role = scenario.load.role(at);
        let manner = Manner { role, cpu: bench.server_cpu, meek: false };
        let server = server::start(bench, kind, manner, &[])?;
        let spin = bench.load_cpu.is_some();
        let folder = bench.folder.path();
        let mut clients = scenario.load.connect(server.address, spin, behind, folder)?;
        if scenario.pace != Pace::Closed {
            scenario.load.run(&mut clients, bench.time / 5, MOST_SHORT / 5)?;
        }
        let start = Instant::now();
        let done = scenario.load.run(&mut clients, bench.time / 5, MOST_SHORT / 5)?;
        let best = done / scenario.load.work() / start.elapsed().as_secs_f64();
        let pace = match scenario.pace {
            Pace::Closed => best,
            Pace::Share(percent) => best * f64::from(percent) / 100.0,
        };
        Ok(Running { kind, server, clients, pace, so_far: Sample::default() })
    }

    /// Loads the server for a slice of its time, and adds the results.
    fn slice(&mut self, bench: &Bench, scenario: Scenario) -> Result<()> {
        let Running { server, clients, so_far, .. } = self;
        server.settle()?;
        let before = (server.schedule()?, server.ticks()?, Schedule::own()?);
        let start = Instant::now();
        let time = bench.time / SLICES;
        so_far.done += match scenario.pace {
            Pace::Closed => {
                let most = if scenario.load.is_short() { MOST_SHORT } else { u64::MAX };
                scenario.load.run(clients, time, most / u64::from(SLICES))?
            }
            Pace::Share(_) => {
                let before = so_far.latencies.len();
                open_loop(clients.clients(), self.pace, time, &mut so_far.latencies)?;
                (so_far.latencies.len() - before) as f64 * scenario.load.work()
            }
        };
        so_far.elapsed += start.elapsed().as_secs_f64();
        server.settle()?;
        let after = (server.schedule()?, server.ticks()?, Schedule::own()?);
        so_far.cpu += after.0.ran.saturating_sub(before.0.ran).as_secs_f64();
        for which in [0, 1] {
            so_far.ticks[which] += (after.1[which] - before.1[which]) as f64;
        }
        // The count of a thread that has ended is lost.
        let server_waited = after.0.waited.saturating_sub(before.0.waited);
        so_far.waited += server_waited.max(after.2.waited - before.2.waited).as_secs_f64();
        so_far.memory = server.memory()? as f64;
        Ok(interrupt::check()?)
    }
}

/// A server that failed in a round.
type Failed = (Kind, Box<dyn Error>);

/// Runs one round; returns each server's results, in order.
fn round(bench: &Bench, scenario: Scenario, kinds: &[Kind]) -> Result<Vec<Sample>, Failed> {
    let failed = |kind| move |error| (kind, error);
    let start = |&kind: &Kind| Running::start(bench, scenario, kind).map_err(failed(kind));
    let mut running = kinds.iter().map(start).collect::<Result<Vec<Running>, Failed>>()?;
    for _ in 0..SLICES {
        for it in &mut running {
            it.slice(bench, scenario).map_err(failed(it.kind))?;
        }
        running.reverse();
    }
    Ok(running
        .into_iter()
        .map(|mut it| {
            it.so_far.latencies.sort_unstable();
            it.so_far
        })
        .collect())
}

/// Runs a scenario with these servers. A server of others that fails is left out, and reported.
pub(crate) fn run(
    bench: &Bench,
    what: Selected,
    scenario: Scenario,
    mut kinds: Vec<Kind>,
) -> Result<(Outcome, Vec<Missing>)> {
    if let Some(cpu) = bench.load_cpu {
        pin(cpu)?;
    }
    allow_descriptors()?;
    let mut samples = vec![Vec::new(); kinds.len()];
    let mut missing = Vec::new();
    let mut count = 1;
    while count <= bench.rounds {
        eprintln!("{}: round {count} of {}", what.name(), bench.rounds);
        match round(bench, scenario, &kinds) {
            Ok(results) => {
                samples.iter_mut().zip(results).for_each(|(own, result)| own.push(result));
                count += 1;
            }
            Err((kind, error)) if kind.is_foreign() && interrupt::signal().is_none() => {
                let reason = format!("{}: {error}", what.name());
                eprintln!("left out: {kind}: {reason}");
                missing.push(Missing { server: kind.to_string(), reason });
                let at = kinds.iter().position(|&it| it == kind).unwrap_or(0);
                kinds.remove(at);
                samples.remove(at);
            }
            Err((kind, error)) => return Err(in_context(kind.to_string())(error)),
        }
    }
    Ok((outcome(bench, what, scenario, &kinds, &samples), missing))
}

fn outcome(
    bench: &Bench,
    what: Selected,
    scenario: Scenario,
    kinds: &[Kind],
    samples: &[Vec<Sample>],
) -> Outcome {
    let waited = median(samples.iter().flatten().map(|it| it.waited / it.elapsed));
    // On a single processor, load and server always wait for each other.
    let note = (waited > DISTURBED && bench.load_cpu.is_some()).then(|| {
        let share = 100.0 * waited;
        format!("Disturbed: other work kept load or server from running for {share:.0} % of it.")
    });
    let (lead, columns) = columns(scenario);
    let figures = figures(scenario.pace);
    let row = |(kind, own): (&Kind, &Vec<Sample>)| {
        let values = |samples: &[Sample]| samples.iter().map(figures.0).collect::<Vec<f64>>();
        let mut cells: Vec<Option<f64>> =
            figures.1.iter().map(|figure| Some(median(own.iter().map(figure)))).collect();
        cells.push(share_of_user(own));
        cells.push(Some(median(own.iter().map(|it| 100.0 * it.cpu / it.elapsed))));
        cells.push(Some(median(own.iter().map(|it| it.memory / 1024.0))));
        Row::new(kind.to_string(), &values(own), &values(&samples[0]), cells)
    };
    let rows = kinds.iter().zip(samples).map(row).collect();
    Outcome { name: what.name().into(), title: what.title().into(), lead, columns, rows, note }
}

type Figure = fn(&Sample) -> f64;

/// The leading figure, and the next ones.
fn figures(pace: Pace) -> (Figure, &'static [Figure]) {
    match pace {
        Pace::Closed => (Sample::cost, &[Sample::rate]),
        Pace::Share(_) => (
            |it| it.quantile(0.99),
            &[|it| it.quantile(0.5), |it| it.quantile(0.999), |it| it.quantile(1.0), Sample::rate],
        ),
    }
}

/// The names of all figures.
fn columns(scenario: Scenario) -> (String, Vec<String>) {
    let unit = scenario.load.unit();
    let (lead, own): (String, &[&str]) = match scenario.pace {
        Pace::Closed => (format!("CPU us/{unit}"), &[]),
        Pace::Share(_) => ("p99 us".into(), &["p50 us", "p99.9 us", "max us"]),
    };
    let columns = own.iter().map(|&name| name.to_owned());
    let rate = format!("{unit}s/s").replace("MBs/s", "MB/s").replace("ys/s", "ies/s");
    let rest = [rate, "user %".into(), "busy %".into(), "MiB".into()];
    (lead, columns.chain(rest).collect())
}

/// The share of user code in percent, by the clock ticks of all rounds; a short run has too few
/// ticks.
fn share_of_user(samples: &[Sample]) -> Option<f64> {
    let [user, system] = [0, 1].map(|of| samples.iter().map(|it| it.ticks[of]).sum::<f64>());
    (user + system >= ENOUGH_TICKS).then(|| 100.0 * user / (user + system))
}

/// Raises the limit on descriptors, because the clients of all servers are open at the same time.
fn allow_descriptors() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_least_value_that_its_share_does_not_exceed() {
        let values: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        let at = |share| quantile(&values, share).as_micros();
        assert_eq!([0.0, 0.5, 0.99, 0.999, 1.0].map(at), [1, 100, 198, 200, 200]);
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
