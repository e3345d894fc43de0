//! The timed scenarios. In a round each server is started and warmed up; then they take turns for a
//! short slice of time each, A B C C B A A B C, until each has had its time. A server's figures are
//! set against the raw server's of the same round, so that what slows the machine for a while, and
//! whatever follows from who came before, weighs on all alike.

use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::kind::{Kind, Manner, pin};
use crate::load::{Closer, Load, PARALLEL};
use crate::options::Bench;
use crate::server::{self, Schedule, Server};
use crate::table::{Table, median};
use crate::{Result, in_context};

/// A timed scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Ping(usize),
    Bulk,
    Short(Closer),
}

/// How many connections stream in bulk: so many that the server nearly always finds bytes on one.
const STREAMS: usize = 8;
/// The slices of a server's time in a round: an even number, so that each server comes as often
/// before the others as behind them.
const SLICES: u32 = 10;
/// The most short connections of one server: each leaves a port in TIME_WAIT, of 28 000.
const MOST_SHORT: u64 = 20_000;
const MEGABYTE: f64 = 1e6;
/// A second's worth: so many samples tell a share of 10 % to within 3 %.
const ENOUGH_TICKS: f64 = 100.0;

/// What one server did in one round, with times in seconds.
#[derive(Clone, Copy, Default, Debug)]
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

/// A server and its clients, ready to be timed.
struct Running {
    kind: Kind,
    server: Server,
    load: Load,
    so_far: Sample,
}

impl Running {
    fn start(bench: &Bench, scenario: Scenario, kind: Kind) -> Result<Running> {
        let close_first = scenario == Scenario::Short(Closer::Server);
        let manner = Manner { close_first, cpu: bench.server_cpu, meek: false };
        let server = server::start(kind, manner, &[], &bench.python)?;
        let mut load =
            Load::new(server.address, bench.load_cpu.is_some(), kind == Kind::CoupletLines)?;
        match scenario {
            Scenario::Ping(count) => load.connect(count)?,
            Scenario::Bulk => load.connect(STREAMS)?,
            Scenario::Short(_) => {}
        }
        scenario.run(&mut load, bench.time / 5, MOST_SHORT / 5)?;
        Ok(Running { kind, server, load, so_far: Sample::default() })
    }

    /// Loads the server for a slice of its time, and adds what that took.
    fn slice(&mut self, bench: &Bench, scenario: Scenario) -> Result<()> {
        let Running { server, load, so_far, .. } = self;
        server.settle()?;
        let before = (server.schedule()?, server.ticks()?, Schedule::own()?);
        let start = Instant::now();
        so_far.done += scenario.run(load, bench.time / SLICES, MOST_SHORT / u64::from(SLICES))?;
        so_far.elapsed += start.elapsed().as_secs_f64();
        server.settle()?;
        let after = (server.schedule()?, server.ticks()?, Schedule::own()?);
        so_far.cpu += after.0.ran.saturating_sub(before.0.ran).as_secs_f64();
        for which in [0, 1] {
            so_far.ticks[which] += (after.1[which] - before.1[which]) as f64;
        }
        // A thread that has ended took its share of the count with it.
        let server_waited = after.0.waited.saturating_sub(before.0.waited);
        so_far.waited += server_waited.max(after.2.waited - before.2.waited).as_secs_f64();
        Ok(())
    }
}

/// One round: what each of the servers did, in their order.
fn round(bench: &Bench, scenario: Scenario, kinds: &[Kind]) -> Result<Vec<Sample>> {
    let start =
        |&kind: &Kind| Running::start(bench, scenario, kind).map_err(in_context(kind.to_string()));
    let mut running = kinds.iter().map(start).collect::<Result<Vec<Running>>>()?;
    for _ in 0..SLICES {
        for it in &mut running {
            it.slice(bench, scenario).map_err(in_context(it.kind.to_string()))?;
        }
        running.reverse();
    }
    Ok(running.into_iter().map(|it| it.so_far).collect())
}

/// Runs a scenario over all its servers and prints its table.
pub(crate) fn run(bench: &Bench, scenario: Scenario) -> Result<()> {
    if let Some(cpu) = bench.load_cpu {
        pin(cpu)?;
    }
    allow_descriptors()?;
    let kinds = bench.kinds(scenario == Scenario::Bulk);
    let mut samples = vec![Vec::new(); kinds.len()];
    for count in 1..=bench.rounds {
        eprintln!("{}: round {count} of {}", scenario.title(), bench.rounds);
        for (sample, own) in round(bench, scenario, &kinds)?.into_iter().zip(&mut samples) {
            own.push(sample);
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

/// The clients of all servers are open at once.
fn allow_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
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
