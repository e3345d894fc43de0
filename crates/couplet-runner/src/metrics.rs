//! Metrics, in the text of OpenMetrics: the figures of a snapshot, and times that are measured around
//! the waits of the loop. Nothing is measured unless a program serves its metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::reactor::{CallTimes, ConnectionSnapshot, PortCounters, PortSnapshot, Snapshot};
use couplet::services::{Health, Service, Supervisor};
use couplet::{Loop, LoopingCall, Reactor};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::logging::count_of_events;

/// Histograms that the loops fill between scrapes.
#[derive(Clone)]
pub(crate) struct Metrics {
    /// The times from the end of a wait to the next wait, in seconds.
    busy: Histogram,
    /// How late a timer is, in seconds.
    lateness: Histogram,
}

/// Functions that encode metrics of the program.
pub(crate) type OwnMetrics = Vec<Rc<dyn Fn() -> String>>;

/// The line at the end of a text of OpenMetrics.
const END: &str = "# EOF\n";

/// The text of a scrape with the program's own metrics before its end.
pub(crate) fn with_own(text: String, own: &OwnMetrics) -> String {
    if own.is_empty() {
        return text;
    }
    let mut all = text.strip_suffix(END).unwrap_or(&text).to_owned();
    for encode in own {
        let own = encode();
        let own = own.trim_end();
        let own = own.strip_suffix(END.trim_end()).unwrap_or(own).trim_end();
        if !own.is_empty() {
            all.push_str(own);
            all.push('\n');
        }
    }
    all + END
}

/// How often a timer is measured.
const PROBE: Duration = Duration::from_secs(1);

type Labels = Vec<(&'static str, String)>;

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let histogram = || Histogram::new(exponential_buckets(16e-6, 4.0, 10));
        Metrics { busy: histogram(), lateness: histogram() }
    }

    /// Measures a loop from now on.
    #[expect(clippy::disallowed_methods, reason = "a loop's time stands still while it is busy")]
    pub(crate) fn measure(&self, l: &mut Loop) {
        let observed = self.busy.clone();
        let mut woke: Option<Instant> = None;
        l.around_wait(move |wait| {
            if let Some(woke) = woke {
                observed.observe((Instant::now() - woke).as_secs_f64());
            }
            wait();
            woke = Some(Instant::now());
        });
    }

    /// Starts the measurement of timers, in a run.
    pub(crate) fn start(&self, reactor: &Reactor) {
        probe(reactor, self.lateness.clone()).start(PROBE).detach();
    }

    /// The text of a scrape.
    pub(crate) fn encode(&self, snapshot: &Snapshot, supervisor: &Supervisor) -> String {
        let mut registry = Registry::with_prefix("couplet");
        self.register_loop(&mut registry, snapshot);
        register_connections(&mut registry, snapshot);
        register_datagrams(&mut registry, snapshot);
        register_buses(&mut registry, snapshot);
        register_services(&mut registry, supervisor);
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes all");
        text
    }

    fn register_loop(&self, registry: &mut Registry, snapshot: &Snapshot) {
        for (name, help, value) in [
            ("pending_calls", "Timed calls that are pending", snapshot.pending_calls),
            ("tasks", "Unfinished tasks", snapshot.tasks),
            ("jobs", "Jobs in threads that are pending", snapshot.jobs),
            ("connectors", "Outgoing connections and attempts", snapshot.connectors.len()),
        ] {
            registry.register(name, help, gauge(value as u64));
        }
        let help = "Time from a wait of the loop to its next wait";
        registry.register_with_unit("busy", help, Unit::Seconds, self.busy.clone());
        let (help, calls) = ("Time of a call into the program", CallHistogram(snapshot.calls));
        registry.register_with_unit("callback", help, Unit::Seconds, calls);
        let help = "Time by which a timer was late";
        registry.register_with_unit("lateness", help, Unit::Seconds, self.lateness.clone());
        let logged = Family::<Labels, Counter>::default();
        for (level, count) in count_of_events() {
            logged.get_or_create(&vec![("level", level.to_owned())]).inc_by(count);
        }
        registry.register("events", "Events at the levels error and warn", logged);
        let lost = Family::<Labels, Counter>::default();
        for log in couplet::backlog::all() {
            lost.get_or_create(&vec![("log", log.name)]).inc_by(log.lost);
        }
        registry.register("log_lines_lost", "Lines lost to a slow reader of a log", lost);
        for (name, help, count) in snapshot.counters.iter() {
            let counter = Counter::<u64>::default();
            counter.inc_by(count);
            registry.register(name, help, counter);
        }
    }
}

/// The times of calls, which the loop has measured.
#[derive(Debug)]
struct CallHistogram(CallTimes);

impl EncodeMetric for CallHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let seconds = |limit: Duration| match limit {
            Duration::MAX => f64::INFINITY,
            limit => limit.as_secs_f64(),
        };
        let buckets: Vec<_> =
            self.0.buckets().map(|(limit, count)| (seconds(limit), count)).collect();
        let (total, count) = (self.0.total().as_secs_f64(), self.0.count());
        encoder.encode_histogram::<NoLabelSet>(total, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A call each second whose lateness is observed.
fn probe(reactor: &Reactor, lateness: Histogram) -> LoopingCall {
    let (clock, mut due) = (reactor.clone(), None::<Instant>);
    LoopingCall::with_count(reactor, move |count| {
        lateness.observe(late(&mut due, clock.now(), count).as_secs_f64());
    })
}

/// How late a call of [`probe`] is that stands for `count` periods. The first is punctual.
fn late(due: &mut Option<Instant>, now: Instant, count: u64) -> Duration {
    let expected = due.map_or(now, |due| due + PROBE * u32::try_from(count).unwrap_or(1));
    *due = Some(expected);
    now.saturating_duration_since(expected)
}

fn register_connections(registry: &mut Registry, snapshot: &Snapshot) {
    let mut open: BTreeMap<(String, &'static str), i64> = BTreeMap::new();
    let (mut bytes, mut buffered) = ([snapshot.ended.bytes_in, snapshot.ended.bytes_out], 0);
    for connection in &snapshot.connections {
        *open.entry((port_of(connection, &snapshot.ports), connection.state)).or_default() += 1;
        bytes[0] += connection.bytes_in;
        bytes[1] += connection.bytes_out;
        buffered += connection.buffered as u64;
    }
    let connections = Family::<Labels, Gauge>::default();
    for ((port, state), count) in open {
        let labels = vec![("port", port), ("state", state.to_owned())];
        connections.get_or_create(&labels).set(count);
    }
    registry.register("connections", "Connections that are open", connections);
    registry.register("buffered_bytes", "Bytes written but not sent", gauge(buffered));
    let total = Family::<Labels, Counter>::default();
    for (direction, bytes) in ["in", "out"].into_iter().zip(bytes) {
        total.get_or_create(&vec![("direction", direction.to_owned())]).inc_by(bytes);
    }
    registry.register("connection_bytes", "Bytes of all connections", total);
    let ended = Family::<Labels, Counter>::default();
    for (reason, count) in snapshot.ended.reasons() {
        ended.get_or_create(&vec![("reason", reason.to_owned())]).inc_by(count);
    }
    registry.register("connections_ended", "Connections that have ended", ended);
    let counted = PortCounters::default()
        .iter()
        .map(|(name, help, _)| (name, help, Family::<Labels, Counter>::default()))
        .collect::<Vec<_>>();
    let paused = Family::<Labels, Gauge>::default();
    for port in &snapshot.ports {
        let labels = vec![("port", port.host.to_string())];
        for ((.., family), (.., count)) in counted.iter().zip(port.counters.iter()) {
            family.get_or_create(&labels).inc_by(count);
        }
        paused.get_or_create(&labels).set(i64::from(port.paused));
    }
    for (name, help, family) in counted {
        registry.register(name, help, family);
    }
    registry.register("port_paused", "1 while a port accepts nothing", paused);
}

/// The port that accepted a connection; `outgoing` for the others, whose own ports vary.
fn port_of(connection: &ConnectionSnapshot, ports: &[PortSnapshot]) -> String {
    let host = &connection.host;
    let is_wildcard = |port: &&PortSnapshot| port.host.ip().is_some_and(|ip| ip.is_unspecified());
    let exactly = ports.iter().find(|port| port.host == *host);
    let port = exactly
        .or_else(|| ports.iter().filter(is_wildcard).find(|port| port.host.port() == host.port()));
    port.map_or_else(|| "outgoing".to_owned(), |port| port.host.to_string())
}

fn register_datagrams(registry: &mut Registry, snapshot: &Snapshot) {
    let datagrams = Family::<Labels, Counter>::default();
    for port in &snapshot.datagrams {
        for (outcome, _, count) in port.counters.iter() {
            let labels = vec![("port", port.host.to_string()), ("outcome", outcome.to_owned())];
            datagrams.get_or_create(&labels).inc_by(count);
        }
    }
    registry.register("datagrams", "Datagrams of a port", datagrams);
}

/// The counters of the rows that buses add to snapshots, by the kind of bus.
fn register_buses(registry: &mut Registry, snapshot: &Snapshot) {
    let (buses, events) =
        (Family::<Labels, Gauge>::default(), Family::<Labels, Counter>::default());
    for row in snapshot.rows.iter().filter(|row| row.view == "buses") {
        let Some(((_, kind), fields)) = row.fields.split_first() else { continue };
        let labels = |name, value: &str| vec![("bus", kind.clone()), (name, value.to_owned())];
        for (name, value) in fields {
            match (*name, value.parse()) {
                ("health", _) => {
                    let is_up = *value == Health::Ready.to_string();
                    for (state, is_it) in [("up", is_up), ("down", !is_up)] {
                        buses.get_or_create(&labels("state", state)).inc_by(i64::from(is_it));
                    }
                }
                (event, Ok(count)) => {
                    events.get_or_create(&labels("event", event)).inc_by(count);
                }
                _ => {}
            }
        }
    }
    registry.register("buses", "Buses with a connection, and without", buses);
    let help = "Messages of buses by their fate, and connections that were made";
    registry.register("bus_events", help, events);
}

fn register_services(registry: &mut Registry, supervisor: &Supervisor) {
    let ready = Family::<Labels, Gauge>::default();
    let restarts = Family::<Labels, Counter>::default();
    for child in supervisor.children() {
        let labels = vec![("service", child.name)];
        ready.get_or_create(&labels).set(i64::from(child.health.is_ready()));
        restarts.get_or_create(&labels).inc_by(child.restarts);
    }
    registry.register("service_ready", "1 while a service can serve", ready);
    registry.register("service_restarts", "Restarts of a service", restarts);
    let is_ready = supervisor.health().is_ready();
    registry.register("ready", "1 while the program can serve", gauge(u64::from(is_ready)));
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    gauge
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use couplet::hooks::NoteRow;
    use couplet::services::{Child, FunctionService};
    use couplet::testing::{Manner, Memory, MemoryReactor};
    use couplet::{
        Address, Datagram, DatagramTransport, Deferred, Failure, LoopOptions, Protocol, Transport,
        hooks,
    };

    use super::*;

    fn measured(l: &mut Loop) -> Metrics {
        let metrics = Metrics::new();
        metrics.measure(l);
        metrics
    }

    struct Echo;

    impl Protocol for Echo {
        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            transport.write(data);
            transport.lose_connection();
        }
    }

    /// The value of a metric with these labels.
    fn value(text: &str, metric: &str) -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{metric} is not in {text}")).parse().expect("a number")
    }

    #[test]
    fn a_programs_own_metrics_come_before_the_only_end() {
        let own =
            |text: &'static str| -> Rc<dyn Fn() -> String> { Rc::new(move || text.to_owned()) };
        for (all, wanted) in [
            (vec![], "a 1\n# EOF\n"),
            (vec![own("")], "a 1\n# EOF\n"),
            (vec![own("b 2")], "a 1\nb 2\n# EOF\n"),
            (vec![own("b 2\n# EOF\n"), own("c 3\n\n")], "a 1\nb 2\nc 3\n# EOF\n"),
        ] {
            for _ in 0..2 {
                assert_eq!(with_own("a 1\n# EOF\n".to_owned(), &all), wanted);
            }
        }
    }

    #[test]
    fn metrics_count_connections_failures_and_calls() {
        let mut l =
            Loop::with_options(LoopOptions::default().tune(|it| it.time_calls(true))).unwrap();
        let metrics = measured(&mut l);
        let reactor = l.reactor();
        metrics.start(&reactor);
        let port = reactor.listen("localhost:0", || Echo).unwrap();
        let host = port.host();
        let supervisor = Supervisor::new("program");
        let (asked, at) = (reactor.clone(), host.clone());
        let full = reactor.listen("localhost:0", |_: &Address| None::<Echo>).unwrap();
        let (refusing, before) = (full.host(), couplet::defer::set_reporter(|_| {}));
        let talk = reactor.spawn(async move {
            drop(Deferred::<()>::fail(Failure::msg("unhandled")));
            let mut refused = asked.connect_stream(refusing.to_string()).await?;
            refused.read_to_end(&mut Vec::new(), 1).await?;
            let mut first = asked.connect_stream(at.to_string()).await?;
            first.write_all("hello").await?;
            let mut answer = Vec::new();
            first.read_to_end(&mut answer, 10).await?;
            drop(first);
            let second = asked.connect_stream(at.to_string()).await?;
            asked.sleep(Duration::from_millis(5)).await?;
            let snapshot = asked.snapshot().await?;
            drop(second);
            Ok(snapshot)
        });
        let snapshot = l.run_until(talk).unwrap();
        before.set();
        let text = metrics.encode(&snapshot, &supervisor);
        for (metric, wanted) in [
            (format!("couplet_connections{{port=\"{host}\",state=\"open\"}}"), 1.0),
            ("couplet_connections{port=\"outgoing\",state=\"open\"}".to_owned(), 1.0),
            ("couplet_connections_ended_total{reason=\"done\"}".to_owned(), 2.0),
            ("couplet_connections_ended_total{reason=\"lost\"}".to_owned(), 0.0),
            ("couplet_connection_bytes_total{direction=\"in\"}".to_owned(), 10.0),
            ("couplet_connection_bytes_total{direction=\"out\"}".to_owned(), 10.0),
            (format!("couplet_accepted_total{{port=\"{host}\"}}"), 2.0),
            (format!("couplet_rejected_total{{port=\"{host}\"}}"), 0.0),
            (format!("couplet_rejected_total{{port=\"{}\"}}", full.host()), 1.0),
            (format!("couplet_turned_away_total{{port=\"{host}\"}}"), 0.0),
            ("couplet_unhandled_failures_total".to_owned(), 1.0),
            ("couplet_lateness_seconds_count".to_owned(), 1.0),
            ("couplet_tasks".to_owned(), 1.0),
            ("couplet_ready".to_owned(), 0.0),
        ] {
            assert_eq!(value(&text, &metric), wanted, "{metric}: {text}");
        }
        assert!(value(&text, "couplet_busy_seconds_count") > 2.0, "{text}");
        let calls = value(&text, "couplet_callback_seconds_count");
        assert!(calls > 10.0, "{text}");
        assert_eq!(value(&text, "couplet_callback_seconds_bucket{le=\"+Inf\"}"), calls);
        assert!(value(&text, "couplet_callback_seconds_sum") > 0.0, "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn connections_of_ports_with_one_number_count_at_their_own_address() {
        let (driver, _network) = Memory::new(Manner::Completion, 0);
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let reactor = l.reactor();
        let at = |ip: [u8; 4]| SocketAddr::from((ip, 7000));
        let hosts = [[127, 0, 0, 1], [127, 0, 0, 2], [0, 0, 0, 0]].map(at);
        for host in hosts {
            reactor.listen(host, || Echo).unwrap();
        }
        let asked = reactor.clone();
        let talk = reactor.spawn(async move {
            let mut open = Vec::new();
            for ip in [[127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 1], [127, 0, 0, 3]] {
                open.push(asked.connect_stream(at(ip).to_string()).await?);
            }
            asked.sleep(Duration::from_millis(5)).await?;
            asked.snapshot().await
        });
        let snapshot = l.run_until(talk).unwrap();
        let text = Metrics::new().encode(&snapshot, &Supervisor::new("program"));
        for (host, count) in hosts.into_iter().zip([1.0, 2.0, 1.0]) {
            let metric = format!("couplet_connections{{port=\"tcp:{host}\",state=\"open\"}}");
            assert_eq!(value(&text, &metric), count, "{text}");
        }
    }

    #[test]
    fn each_figure_of_a_snapshot_has_its_metric() {
        let mut l = Loop::new().unwrap();
        let metrics = measured(&mut l);
        let reactor = l.reactor();
        let port = reactor.listen("localhost:0", || Echo).unwrap();
        let (host, ignore) = (port.host(), |_: &DatagramTransport, _: &Datagram<'_>| {});
        let udp =
            reactor.listen_datagrams(SocketAddr::from(([127, 0, 0, 1], 0)), ignore).unwrap().host();
        let (asked, at) = (reactor.clone(), host.to_string());
        let talk = reactor.spawn(async move {
            let _open = asked.connect_stream(at).await?;
            asked.snapshot().await
        });
        let mut snapshot = l.run_until(talk).unwrap();
        (snapshot.ended.bytes_in, snapshot.ended.bytes_out) = (100, 200);
        (snapshot.counters.shed, snapshot.jobs, snapshot.pending_calls) = (21, 22, 23);
        snapshot.tasks = 24;
        snapshot.connections.truncate(1);
        let again = snapshot.connections[0].clone();
        snapshot.connections.push(again);
        for (connection, factor) in snapshot.connections.iter_mut().zip([1, 10]) {
            (connection.bytes_in, connection.bytes_out) = (factor, 2 * factor);
            connection.buffered = 3 * usize::try_from(factor).unwrap();
        }
        snapshot.ports[0].paused = true;
        let counted = &mut snapshot.ports[0].counters;
        (counted.accepted, counted.not_opened) = (11, 12);
        (counted.rejected, counted.turned_away) = (13, 14);
        let datagrams = &mut snapshot.datagrams[0].counters;
        (datagrams.received, datagrams.sent, datagrams.dropped) = (15, 16, 17);
        let supervisor = Supervisor::new("program");
        let child = FunctionService::new("a", |_| Deferred::succeed(()));
        supervisor.add(Child::new(child)).detach();
        let text = metrics.encode(&snapshot, &supervisor);
        let of = |name: &str| format!("couplet_{name}{{port=\"{host}\"}}");
        let outcome =
            |word: &str| format!("couplet_datagrams_total{{port=\"{udp}\",outcome=\"{word}\"}}");
        for (metric, wanted) in [
            ("couplet_connection_bytes_total{direction=\"in\"}".to_owned(), 111.0),
            ("couplet_connection_bytes_total{direction=\"out\"}".to_owned(), 222.0),
            ("couplet_buffered_bytes".to_owned(), 33.0),
            (of("accepted_total"), 11.0),
            (of("not_opened_total"), 12.0),
            (of("rejected_total"), 13.0),
            (of("turned_away_total"), 14.0),
            (of("port_paused"), 1.0),
            (outcome("received"), 15.0),
            (outcome("sent"), 16.0),
            (outcome("dropped"), 17.0),
            ("couplet_shed_total".to_owned(), 21.0),
            ("couplet_jobs".to_owned(), 22.0),
            ("couplet_pending_calls".to_owned(), 23.0),
            ("couplet_tasks".to_owned(), 24.0),
            ("couplet_connectors".to_owned(), 1.0),
            ("couplet_service_ready{service=\"a\"}".to_owned(), 0.0),
            ("couplet_service_restarts_total{service=\"a\"}".to_owned(), 0.0),
            ("couplet_events_total{level=\"error\"}".to_owned(), 0.0),
        ] {
            assert_eq!(value(&text, &metric), wanted, "{metric}: {text}");
        }
        // The limits of a histogram, up to 4.2 seconds, and infinity.
        for name in ["busy", "lateness"] {
            let buckets = text.matches(&format!("couplet_{name}_seconds_bucket{{")).count();
            assert_eq!(buckets, 11, "{text}");
        }
    }

    #[test]
    fn buses_of_a_kind_are_added() {
        let mut l = Loop::new().unwrap();
        let metrics = measured(&mut l);
        let row = |bus: &str, health: &str, counts: [u64; 2]| {
            let [lost, missed] = counts.map(|count| count.to_string());
            let words = [("bus", bus.to_owned()), ("health", health.to_owned())];
            let counts = [("lost", lost), ("missed", missed)];
            NoteRow::new("buses", words.into_iter().chain(counts))
        };
        let rows = vec![
            row("NATS", "ready", [3, 10]),
            row("Redis", "degraded: not connected", [100, 200]),
            row("NATS", "degraded: not connected", [4, 20]),
            row("NATS", "ready", [0, 0]),
        ];
        let _note = hooks::note_rows(&l.reactor(), move || rows.clone());
        let asked = l.reactor().snapshot();
        let snapshot = l.run_until(asked).unwrap();
        let text = metrics.encode(&snapshot, &Supervisor::new("program"));
        for (metric, wanted) in [
            ("couplet_buses{bus=\"NATS\",state=\"up\"}", 2.0),
            ("couplet_buses{bus=\"NATS\",state=\"down\"}", 1.0),
            ("couplet_bus_events_total{bus=\"NATS\",event=\"lost\"}", 7.0),
            ("couplet_bus_events_total{bus=\"NATS\",event=\"missed\"}", 30.0),
            ("couplet_buses{bus=\"Redis\",state=\"up\"}", 0.0),
            ("couplet_buses{bus=\"Redis\",state=\"down\"}", 1.0),
            ("couplet_bus_events_total{bus=\"Redis\",event=\"lost\"}", 100.0),
            ("couplet_bus_events_total{bus=\"Redis\",event=\"missed\"}", 200.0),
        ] {
            assert_eq!(value(&text, metric), wanted, "{metric}: {text}");
        }
    }

    #[test]
    fn a_late_timer_is_compared_with_its_plan() {
        let start = MemoryReactor::new().reactor().now();
        let mut due = None;
        // The times of calls, and the periods since the call before.
        for (at, count, wanted) in [(500, 1, 0), (1600, 1, 100), (4700, 3, 200), (5500, 1, 0)] {
            let late = late(&mut due, start + Duration::from_millis(at), count);
            assert_eq!(late, Duration::from_millis(wanted), "at {at} ms");
        }
    }

    #[test]
    fn an_idle_loop_is_not_busy() {
        let (driver, _network) = Memory::new(Manner::Readiness, 0);
        let mut l = Loop::with_driver(driver, LoopOptions::default());
        let metrics = measured(&mut l);
        let reactor = l.reactor();
        let talk = reactor.clone().spawn(async move {
            reactor.sleep(Duration::from_secs(2)).await?;
            reactor.snapshot().await
        });
        let snapshot = l.run_until(talk).unwrap();
        let text = metrics.encode(&snapshot, &Supervisor::new("program"));
        assert!(value(&text, "couplet_busy_seconds_sum") < 1.0, "{text}");
    }

    #[test]
    fn connections_count_at_their_own_port_even_if_ports_have_no_number() {
        let mut l = Loop::new().unwrap();
        let metrics = measured(&mut l);
        let reactor = l.reactor();
        let names = ["a", "b"].map(|name| format!("unix:@couplet-{}-{name}", std::process::id()));
        for name in &names {
            reactor.listen(&**name, || Echo).unwrap();
        }
        let (asked, second) = (reactor.clone(), names[1].clone());
        let talk = reactor.spawn(async move {
            let open = asked.connect_stream(second).await?;
            asked.sleep(Duration::from_millis(5)).await?;
            let snapshot = asked.snapshot().await?;
            drop(open);
            Ok(snapshot)
        });
        let snapshot = l.run_until(talk).unwrap();
        let text = metrics.encode(&snapshot, &Supervisor::new("program"));
        let open = |name: &str| format!("couplet_connections{{port=\"{name}\",state=\"open\"}}");
        assert_eq!(value(&text, &open(&names[1])), 1.0, "{text}");
        assert!(!text.contains(&open(&names[0])), "{text}");
    }
}
