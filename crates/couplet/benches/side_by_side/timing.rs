//! The timed scenarios: servers in turn, A B C A B C, and each round's figures set against the
//! raw server's of the same round, so that what slows the machine for a while slows all alike.

use std::time::{Duration, Instant};

use crate::kind::{Kind, Manner, pin};
use crate::load::{Closer, Load, PARALLEL};
use crate::options::Bench;
use crate::server::{self, Schedule};
use crate::table::{Table, median};
use crate::{Result, in_context};

/// A timed scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Ping(usize),
    Bulk,
    Short(Closer),
}

/// How many connections stream in bulk.
const STREAMS: usize = 4;
/// The most short connections of one server: each leaves a port in TIME_WAIT, of 28 000.
const MOST_SHORT: u64 = 20_000;
const MEGABYTE: f64 = 1e6;
/// A second's worth: so many samples tell a share of 10 % to within 3 %.
const ENOUGH_TICKS: f64 = 100.0;

/// What one server did in one round, with times in seconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Round trips, megabytes or connections.
    done: f64,
    elapsed: f64,
    /// The server's processor time, and its clock ticks in user code and in the kernel.
    cpu: f64,
    ticks: [f64; 2],
    /// How long load or server, whichever longer, could have run but did not.
    waited: f64,
}

impl Sample {
    fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.done
    }

    fn rate(&self) -> f64 {
        self.done / self.elapsed
    }
}

impl Scenario {
    fn title(self) -> String {
        match self {
            Scenario::Ping(count) => format!("Ping-pong of 64 bytes, connections: {count}"),
            Scenario::Bulk => format!("Bulk, connections: {STREAMS} (1 MB = 1 000 000 bytes)"),
            Scenario::Short(closer) => {
                format!("Short connections, {PARALLEL} at a time, closed first by: {closer:?}")
            }
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Scenario::Ping(_) => "trip",
            Scenario::Bulk => "MB",
            Scenario::Short(_) => "conn",
        }
    }

    /// Loads one server, first to warm it up, then under the clock.
    fn sample(self, bench: &Bench, kind: Kind) -> Result<Sample> {
        let close_first = self == Scenario::Short(Closer::Server);
        let manner = Manner { close_first, cpu: bench.server_cpu, meek: false };
        let server = server::start(kind, manner, &[], &bench.python)?;
        let mut load = Load::new(server.address, bench.load_cpu.is_some())?;
        match self {
            Scenario::Ping(count) => load.connect(count)?,
            Scenario::Bulk => load.connect(STREAMS)?,
            Scenario::Short(_) => {}
        }
        self.run(&mut load, bench.time / 5, MOST_SHORT / 5)?;
        server.settle()?;
        let before = (server.schedule()?, server.ticks()?, Schedule::own()?);
        let start = Instant::now();
        let done = self.run(&mut load, bench.time, MOST_SHORT)?;
        let elapsed = start.elapsed().as_secs_f64();
        server.settle()?;
        let after = (server.schedule()?, server.ticks()?, Schedule::own()?);
        // A thread that has ended took its share of the count with it.
        let server_waited = after.0.waited.saturating_sub(before.0.waited);
        Ok(Sample {
            done,
            elapsed,
            cpu: after.0.ran.saturating_sub(before.0.ran).as_secs_f64(),
            ticks: [0, 1].map(|which| (after.1[which] - before.1[which]) as f64),
            waited: server_waited.max(after.2.waited - before.2.waited).as_secs_f64(),
        })
    }

    fn run(self, load: &mut Load, time: Duration, most: u64) -> Result<f64> {
        let deadline = Instant::now() + time;
        Ok(match self {
            Scenario::Ping(_) => load.ping_pong(deadline)? as f64,
            Scenario::Bulk => load.bulk(deadline)? as f64 / MEGABYTE,
            Scenario::Short(closer) => {
                let enough = |begun| begun >= most || Instant::now() >= deadline;
                load.short(closer, enough)? as f64
            }
        })
    }
}

/// Runs a scenario over all its servers and prints its table.
pub(crate) fn run(bench: &Bench, scenario: Scenario) -> Result<()> {
    if let Some(cpu) = bench.load_cpu {
        pin(cpu)?;
    }
    let kinds = bench.kinds(scenario == Scenario::Bulk);
    let mut samples = vec![Vec::new(); kinds.len()];
    for round in 1..=bench.rounds {
        for (&kind, samples) in kinds.iter().zip(&mut samples) {
            eprintln!("{}: round {round} of {}, {kind}", scenario.title(), bench.rounds);
            samples.push(scenario.sample(bench, kind).map_err(in_context(kind.to_string()))?);
        }
    }
    print(scenario, &kinds, &samples);
    let waited = 100.0 * median(samples.iter().flatten().map(|it| it.waited / it.elapsed));
    // On one processor load and server wait for each other in any case.
    if waited > 5.0 && bench.load_cpu.is_some() {
        println!(
            "  Disturbed: other work kept load or server from running for {waited:.0}% of it."
        );
    }
    Ok(())
}

fn print(scenario: Scenario, kinds: &[Kind], samples: &[Vec<Sample>]) {
    let raw: Vec<usize> =
        (0..kinds.len()).filter(|&at| matches!(kinds[at], Kind::Raw(_))).collect();
    let unit = scenario.unit();
    let mut heads = ["server", "CPU us/", "user", "system"].map(String::from).to_vec();
    heads[1] += unit;
    for &base in &raw {
        heads.extend([format!("/ {}", kinds[base]), "(min-max)".into()]);
    }
    heads.push(format!("{unit}/s"));
    heads.extend(raw.first().map(|&base| format!("/ {}", kinds[base])));
    heads.push("busy".into());
    let mut table = Table::new(&heads);
    for (kind, own) in kinds.iter().zip(samples) {
        let cost = median(own.iter().map(Sample::cost));
        let mut row = vec![format!("{cost:.2}")];
        row.extend(split(cost, own));
        for &base in &raw {
            let pairs = own.iter().zip(&samples[base]);
            let ratios: Vec<f64> = pairs.map(|(own, raw)| own.cost() / raw.cost()).collect();
            let least = ratios.iter().copied().fold(f64::MAX, f64::min);
            let most = ratios.iter().copied().fold(0.0, f64::max);
            row.push(format!("{:.2}", median(ratios.into_iter())));
            row.push(format!("({least:.2}-{most:.2})"));
        }
        row.push(format!("{:.0}", median(own.iter().map(Sample::rate))));
        row.extend(raw.first().map(|&base| {
            let pairs = own.iter().zip(&samples[base]);
            format!("{:.2}", median(pairs.map(|(own, raw)| own.rate() / raw.rate())))
        }));
        row.push(format!("{:.0}%", 100.0 * median(own.iter().map(|it| it.cpu / it.elapsed))));
        table.row(kind, row);
    }
    table.print(&scenario.title());
}

/// The cost in user code and in the kernel, by the clock ticks of all rounds; those of a short run
/// are too few to tell.
fn split(cost: f64, samples: &[Sample]) -> [String; 2] {
    let [user, system] = [0, 1].map(|of| samples.iter().map(|it| it.ticks[of]).sum::<f64>());
    if user + system < ENOUGH_TICKS {
        return ["-", "-"].map(String::from);
    }
    let share = user / (user + system);
    [cost * share, cost * (1.0 - share)].map(|it| format!("{it:.2}"))
}
