//! The timed scenarios. In each round every server is started and warmed up; then they run
//! alternately for short slices, A B C C B A A B C, until each has used its time. A server's
//! figures are divided by the first server's of the same round, so a temporary slowdown of the
//! machine, and effects of the preceding server, affect all equally.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::kind::{Kind, Manner, Role};
use crate::load::{Closer, Load, PARALLEL};
use crate::options::{Bench, LARGE, USUAL};
use crate::program::pin;
use crate::report::Chart;
use crate::server::{self, Schedule, Server};
use crate::spread::{Spread, median};
use crate::table::Table;
use crate::{Result, in_context};

/// A timed scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Ping(usize),
    Bulk,
    Relay,
    SlowReaders,
    FanOut,
    Short(Closer),
}

/// Streaming connections in bulk: enough that the server nearly always finds one readable.
const STREAMS: usize = 8;
/// Pinging connections beside slow readers, and the number of slow readers.
const BESIDE_SLOW: usize = 50;
const SLOW: usize = 4;
/// Connections that receive each message of a fan-out.
const AUDIENCE: usize = 100;
/// Slices of a server's time in a round: an even number, so that each server runs before the others
/// as often as after them.
const SLICES: u32 = 10;
/// Most short connections to one server: each leaves a port in TIME_WAIT, of 28 000.
const MOST_SHORT: u64 = 20_000;
const MEGABYTE: f64 = 1e6;
/// Ticks of a second: enough samples to measure a share of 10 % to within 3 %.
const ENOUGH_TICKS: f64 = 100.0;

/// One server's results in one round; times are in seconds.
#[derive(Clone, Copy, Default, Debug)]
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
            Scenario::Relay => format!("Relay, connections: {STREAMS}, half of them each way"),
            Scenario::SlowReaders => {
                format!("Ping-pong of 64 bytes, connections: {BESIDE_SLOW}, slow readers: {SLOW}")
            }
            Scenario::FanOut => {
                format!("Fan-out of 64 bytes, connections that hear each message: {AUDIENCE}")
            }
            Scenario::Short(closer) => {
                format!("Short connections, {PARALLEL} at a time, closed first by: {closer:?}")
            }
        }
    }

    /// The server's role; `behind` is the address to relay to.
    fn role(self, behind: SocketAddr) -> Role {
        match self {
            Scenario::Ping(_) | Scenario::Bulk | Scenario::SlowReaders => Role::Echo,
            Scenario::Relay => Role::Relay(behind),
            Scenario::FanOut => Role::FanOut,
            Scenario::Short(Closer::Client) => Role::Echo,
            Scenario::Short(Closer::Server) => Role::EchoOne,
        }
    }

    /// Buffer sizes matter only if many bytes arrive at a time.
    pub(crate) fn kinds(self, bench: &Bench) -> Vec<Kind> {
        let usual = match self {
            Scenario::Bulk | Scenario::Relay => LARGE,
            _ => USUAL,
        };
        let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
        bench.kinds(usual, self.role(anywhere))
    }

    fn connect(self, load: &mut Load) -> Result<()> {
        match self {
            Scenario::Ping(count) => load.connect(count)?,
            Scenario::Bulk | Scenario::Relay => load.connect(STREAMS)?,
            Scenario::SlowReaders => {
                load.connect(BESIDE_SLOW + SLOW)?;
                load.slow_down(SLOW)?;
            }
            Scenario::FanOut => load.gather(AUDIENCE)?,
            Scenario::Short(_) => {}
        }
        Ok(())
    }

    fn unit(self) -> &'static str {
        match self {
            Scenario::Ping(_) | Scenario::SlowReaders => "trip",
            Scenario::Bulk | Scenario::Relay => "MB",
            Scenario::FanOut => "message",
            Scenario::Short(_) => "conn",
        }
    }

    fn run(self, load: &mut Load, time: Duration, most: u64) -> Result<f64> {
        let deadline = Instant::now() + time;
        Ok(match self {
            Scenario::Ping(_) | Scenario::SlowReaders => load.ping_pong(deadline)? as f64,
            Scenario::Bulk | Scenario::Relay => load.bulk(deadline)? as f64 / MEGABYTE,
            Scenario::FanOut => load.fan_out(deadline)? as f64,
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
        let behind = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let role = scenario.role(behind.local_addr()?);
        let manner = Manner { role, cpu: bench.server_cpu, meek: false };
        let server = server::start(kind, manner, &[], &bench.python)?;
        let mut load =
            Load::new(server.address, bench.load_cpu.is_some(), kind == Kind::CoupletLines)?;
        if matches!(role, Role::Relay(_)) {
            load = load.behind(behind)?;
        }
        scenario.connect(&mut load)?;
        scenario.run(&mut load, bench.time / 5, MOST_SHORT / 5)?;
        Ok(Running { kind, server, load, so_far: Sample::default() })
    }

    /// Loads the server for a slice of its time, and adds the results.
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
        // The count of a thread that has ended is lost.
        let server_waited = after.0.waited.saturating_sub(before.0.waited);
        so_far.waited += server_waited.max(after.2.waited - before.2.waited).as_secs_f64();
        so_far.memory = server.memory()? as f64;
        Ok(())
    }
}

/// Runs one round; returns each server's results, in order.
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

/// Runs a scenario with all its servers.
pub(crate) fn run(bench: &Bench, scenario: Scenario) -> Result<Chart> {
    if let Some(cpu) = bench.load_cpu {
        pin(cpu)?;
    }
    allow_descriptors()?;
    let kinds = scenario.kinds(bench);
    let mut samples = vec![Vec::new(); kinds.len()];
    for count in 1..=bench.rounds {
        eprintln!("{}: round {count} of {}", scenario.title(), bench.rounds);
        for (sample, own) in round(bench, scenario, &kinds)?.into_iter().zip(&mut samples) {
            own.push(sample);
        }
    }
    let waited = 100.0 * median(samples.iter().flatten().map(|it| it.waited / it.elapsed));
    // On a single processor, load and server always wait for each other.
    let note = (waited > 5.0 && bench.load_cpu.is_some()).then(|| {
        format!("Disturbed: other work kept load or server from running for {waited:.0}% of it.")
    });
    let table = table(scenario, &kinds, &samples);
    let ratios: Vec<Spread> =
        samples.iter().map(|own| ratio(own, &samples[0], Sample::cost)).collect();
    let bars = format!("CPU time per {}", scenario.unit());
    Ok(Chart { title: scenario.title(), bars, table, ratios, note })
}

/// Raises the limit on descriptors, because the clients of all servers are open at the same time.
fn allow_descriptors() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

/// One server's figure divided by another's, within each round.
fn ratio(own: &[Sample], base: &[Sample], figure: fn(&Sample) -> f64) -> Spread {
    Spread::of(own.iter().zip(base).map(|(own, base)| figure(own) / figure(base)))
}

fn table(scenario: Scenario, kinds: &[Kind], samples: &[Vec<Sample>]) -> Table {
    let is_base = |&at: &usize| at == 0 || matches!(kinds[at], Kind::Raw(_));
    let bases: Vec<usize> = (0..kinds.len()).filter(is_base).collect();
    let unit = scenario.unit();
    let mut heads = ["server", "CPU us/", "user", "system"].map(String::from).to_vec();
    heads[1] += unit;
    for &base in &bases {
        heads.extend([format!("/ {}", kinds[base].label()), "(min-max)".into()]);
    }
    heads.push(format!("{unit}/s"));
    heads.extend(bases.first().map(|&base| format!("/ {}", kinds[base].label())));
    heads.extend(["busy", "MiB"].map(String::from));
    let mut table = Table::new(&heads);
    for (kind, own) in kinds.iter().zip(samples) {
        let cost = median(own.iter().map(Sample::cost));
        let mut row = vec![format!("{cost:.2}")];
        row.extend(split(cost, own));
        for &base in &bases {
            let Spread { least, median, most } = ratio(own, &samples[base], Sample::cost);
            row.extend([format!("{median:.2}"), format!("({least:.2}-{most:.2})")]);
        }
        row.push(format!("{:.0}", median(own.iter().map(Sample::rate))));
        let rates = bases.first().map(|&base| ratio(own, &samples[base], Sample::rate));
        row.extend(rates.map(|rates| format!("{:.2}", rates.median)));
        row.push(format!("{:.0}%", 100.0 * median(own.iter().map(|it| it.cpu / it.elapsed))));
        row.push(format!("{:.1}", median(own.iter().map(|it| it.memory)) / 1024.0));
        table.row(&kind.label(), row);
    }
    table
}

/// The cost in user code and in the kernel, by the clock ticks of all rounds; a short run has too
/// few ticks.
fn split(cost: f64, samples: &[Sample]) -> [String; 2] {
    let [user, system] = [0, 1].map(|of| samples.iter().map(|it| it.ticks[of]).sum::<f64>());
    if user + system < ENOUGH_TICKS {
        return ["-", "-"].map(String::from);
    }
    let share = user / (user + system);
    [cost * share, cost * (1.0 - share)].map(|it| format!("{it:.2}"))
}
