//! The control socket: a line with an order, answered with lines, or after `record` with the bytes of
//! a recording. The first line is `ok`, or `error: ` and the reason. The connection ends after the
//! answer.
//!
//! Contract: 48a, 105d.

use std::path::Path;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet::endpoints::UnixServer;
use couplet::protocols::{LineOnlyReceiver, LineProtocol, LineTransport};
use couplet::reactor::{ConnectionSnapshot, DatagramSnapshot, Snapshot};
use couplet::transport::Timeout;
use couplet::{Deferred, Failure, ListenOptions, Port};
use serde::{Serialize, Serializer};

use crate::log_levels;
use crate::loops::merge;
use crate::places::Placed;
use crate::running::Running;

/// Answers orders on a UNIX socket that only the process's own user may use. The port stays open until
/// the program ends, so that an order can cut a drain short.
pub(crate) fn serve(running: &Rc<Running>, path: &Path) -> Result<Port, Failure> {
    let program = Rc::downgrade(running);
    let listening = running.reactor.listen(endpoint(path), move || {
        let orders = Orders { running: program.clone(), state: OrdersState::Waiting };
        LineOnlyReceiver::new(orders).with_delimiter(b"\n").with_max_length(MOST)
    });
    let port = listening
        .map_err(|failure| Failure::msg(format!("cannot open the control socket: {failure}")))?;
    port.accept_under_load(true);
    port.accept_while_draining(true);
    Ok(port)
}

/// The endpoint of a control socket.
pub(crate) fn endpoint(path: &Path) -> Placed {
    let endpoint = UnixServer::new(path).options(ListenOptions::default().mode(0o600));
    Placed::new(Arc::new(endpoint), "[runner] control")
}

/// The longest order, in bytes.
const MOST: usize = 1000;

/// How long a client may take to send its order.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the control socket.
struct Orders {
    running: Weak<Running>,
    state: OrdersState,
}

#[derive(PartialEq)]
enum OrdersState {
    /// The connection waits for an order.
    Waiting,
    /// The order is carried out; the answer ends the connection.
    Answering,
}

impl LineProtocol for Orders {
    fn connection_made(&mut self, transport: &LineTransport) {
        transport.set_timeout(Timeout::Idle, Some(PATIENCE));
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let running = self.running.upgrade().filter(|_| self.state == OrdersState::Waiting);
        let Some(running) = running else { return };
        self.state = OrdersState::Answering;
        // A reload may take longer.
        transport.set_timeout(Timeout::Idle, None);
        let order = String::from_utf8_lossy(line);
        let answer = match order.trim() {
            "record" => record(&running),
            order => carry_out(&running, order).map(|text| match text.trim_end() {
                "" => Vec::new(),
                text => format!("{text}\n").into_bytes(),
            }),
        };
        let transport = transport.clone();
        let answered = answer.add_both(move |outcome| {
            match outcome {
                Ok(bytes) => {
                    transport.write("ok\n");
                    transport.write(bytes);
                }
                Err(failure) => transport.write(format!("error: {failure}\n")),
            }
            transport.lose_connection();
            Ok(())
        });
        answered.detach();
    }

    /// Clients such as `nc -N` close their side after the order.
    fn read_closed(&mut self, transport: &LineTransport) {
        if self.state == OrdersState::Waiting {
            transport.lose_connection();
        }
    }
}

/// The bytes of a recording, made outside the loop, which has to answer the inspector.
fn record(running: &Running) -> Deferred<Vec<u8>> {
    let options = running.program.loop_options.clone();
    running.reactor.defer_to_thread(move || match options.inspector_recording() {
        Some(recording) => Ok(recording?),
        None => {
            let missing = "the program has no inspector: start it with --inspect or --record";
            Err(Failure::msg(missing))
        }
    })
}

fn carry_out(running: &Rc<Running>, order: &str) -> Deferred<String> {
    let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
    match (verb, rest) {
        ("status", "" | "json") => {
            let (asked, is_json) = (running.clone(), rest == "json");
            running.loops.snapshots().map(move |snapshots| {
                let silent = silent(&snapshots);
                let snapshot = merge(snapshots);
                match is_json {
                    true => Status::of(&asked, &snapshot, silent).json(),
                    false => text(&asked, &snapshot, &silent),
                }
            })
        }
        ("inspect", "") => match running.program.loop_options.inspector_url() {
            Some(url) => Deferred::succeed(url),
            None => Deferred::fail(Failure::msg("the program has no inspector")),
        },
        ("reload", "") => running.reload(),
        ("restart", "") => running.restart(),
        ("close", id) if !id.is_empty() => running.loops.close(id.to_owned()),
        ("drain", "") => ended(running, false),
        ("stop", "") => ended(running, true),
        ("log", levels) if !levels.is_empty() => match log_levels(levels) {
            Ok(levels) => {
                running.program.log.set_levels(levels);
                Deferred::succeed(String::new())
            }
            Err(problem) => Deferred::fail(Failure::msg(problem)),
        },
        _ => Deferred::fail(Failure::msg(format!(
            "unknown order {order:?}; known are status, status json, inspect, reload, restart, close ID, log FILTER, record, drain, stop"
        ))),
    }
}

/// The numbers of the loops that did not answer.
fn silent(snapshots: &[Option<Snapshot>]) -> Vec<usize> {
    let silent = snapshots.iter().enumerate().filter(|(_, snapshot)| snapshot.is_none());
    silent.map(|(number, _)| number).collect()
}

/// Ends the program. The answer comes first.
fn ended(running: &Rc<Running>, is_hurried: bool) -> Deferred<String> {
    let ending = running.clone();
    running.reactor.call_soon(move || ending.stop(is_hurried));
    Deferred::succeed(String::new())
}

/// The answer to `status json`.
#[derive(Serialize)]
struct Status {
    program: &'static str,
    version: &'static str,
    pid: u32,
    generation: u32,
    /// Processes that other generations have replaced, and whose connections finish.
    older: Vec<OlderStatus>,
    uptime: f64,
    health: String,
    is_ready: bool,
    threads: usize,
    /// The loops that did not answer.
    silent: Vec<usize>,
    services: Vec<ServiceStatus>,
    ports: Vec<PortStatus>,
    datagrams: Vec<DatagramStatus>,
    connections: Vec<ConnectionStatus>,
}

#[derive(Serialize)]
struct OlderStatus {
    generation: u32,
    pid: u32,
}

#[derive(Serialize)]
struct ConnectionStatus {
    id: String,
    peer: String,
    host: String,
    state: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    buffered: usize,
    idle: f64,
    age: f64,
}

#[derive(Serialize)]
struct ServiceStatus {
    name: String,
    state: String,
    health: String,
    restarts: u64,
}

#[derive(Serialize)]
struct PortStatus {
    host: String,
    #[serde(flatten)]
    counters: Counted,
    is_paused: bool,
}

/// Counters as fields, in their order.
struct Counted(Vec<(&'static str, u64)>);

impl Counted {
    fn new(counters: impl Iterator<Item = (&'static str, &'static str, u64)>) -> Counted {
        Counted(counters.map(|(name, _, value)| (name, value)).collect())
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[derive(Serialize)]
struct DatagramStatus {
    host: String,
    peer: Option<String>,
    #[serde(flatten)]
    counters: Counted,
    is_paused: bool,
}

impl DatagramStatus {
    fn of(port: &DatagramSnapshot) -> DatagramStatus {
        DatagramStatus {
            host: port.host.to_string(),
            peer: port.peer.as_ref().map(ToString::to_string),
            counters: Counted::new(port.counters.iter()),
            is_paused: port.paused,
        }
    }
}

impl ConnectionStatus {
    fn of(connection: &ConnectionSnapshot, now: Option<Instant>) -> ConnectionStatus {
        let passed =
            |then| now.map_or(0.0, |now| now.saturating_duration_since(then).as_secs_f64());
        ConnectionStatus {
            id: connection.id.to_string(),
            peer: connection.peer.to_string(),
            host: connection.host.to_string(),
            state: connection.state,
            bytes_in: connection.bytes_in,
            bytes_out: connection.bytes_out,
            buffered: connection.buffered,
            idle: passed(connection.received_at),
            age: passed(connection.made_at),
        }
    }
}

impl Status {
    fn of(running: &Running, snapshot: &Snapshot, silent: Vec<usize>) -> Status {
        let children = running.supervisor.children().into_iter();
        let ports = snapshot.ports.iter();
        let health = running.health();
        let older = running.generations.older().into_iter();
        Status {
            generation: running.generations.number,
            older: older.map(|(generation, pid)| OlderStatus { generation, pid }).collect(),
            program: running.program.name,
            version: running.program.version,
            pid: std::process::id(),
            uptime: running.uptime().as_secs_f64(),
            is_ready: health.is_ready(),
            health: health.to_string(),
            threads: running.loops.count(),
            silent,
            services: children
                .map(|child| ServiceStatus {
                    name: child.name,
                    state: child.state.to_string(),
                    health: child.health.to_string(),
                    restarts: child.restarts,
                })
                .collect(),
            ports: ports
                .map(|port| PortStatus {
                    host: port.host.to_string(),
                    counters: Counted::new(port.counters.iter()),
                    is_paused: port.paused,
                })
                .collect(),
            datagrams: snapshot.datagrams.iter().map(DatagramStatus::of).collect(),
            connections: snapshot
                .connections
                .iter()
                .map(|it| ConnectionStatus::of(it, snapshot.at))
                .collect(),
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("it has only texts and numbers")
    }
}

/// The answer to `status`.
fn text(running: &Running, snapshot: &Snapshot, silent: &[usize]) -> String {
    let (name, pid) = (running.program.name, std::process::id());
    let (uptime, health) = (running.uptime().as_secs_f64(), running.health());
    let older = running.generations.older().into_iter().map(|(number, pid)| {
        format!("generation {number} (process {pid}): its connections finish\n")
    });
    let (number, older) = (running.generations.number, older.collect::<String>());
    let silent = silent.iter().map(|number| format!("loop {number} does not answer\n"));
    let silent = silent.collect::<String>();
    format!(
        "{name}, generation {number} (process {pid}) for {uptime:.0} s: {health}\n{older}{silent}{snapshot}"
    )
}

#[cfg(test)]
mod tests {
    use couplet::testing::{Held, hold};

    use super::*;

    /// A client of the control socket of a program that has ended.
    fn client(state: OrdersState) -> Held<LineOnlyReceiver<Orders>> {
        let orders = Orders { running: Weak::new(), state };
        hold(LineOnlyReceiver::new(orders).with_delimiter(b"\n").with_max_length(MOST))
    }

    #[test]
    fn a_client_has_ten_seconds_for_its_order() {
        let mut client = client(OrdersState::Waiting);
        client.push(b"stat");
        client.advance(PATIENCE - Duration::from_millis(1));
        assert!(client.with(|_, _| ()).is_some());
        client.advance(Duration::from_millis(1));
        assert!(client.with(|_, _| ()).is_none());
    }

    #[test]
    fn a_client_that_closes_its_side_is_closed_unless_it_waits_for_an_answer() {
        for (state, is_open) in [(OrdersState::Waiting, false), (OrdersState::Answering, true)] {
            let mut client = client(state);
            client.wire.fin();
            client.settle();
            assert_eq!(client.with(|_, _| ()).is_some(), is_open);
        }
    }

    #[test]
    fn loops_without_a_snapshot_are_silent() {
        let answered = || Some(Snapshot::default());
        assert_eq!(silent(&[answered(), None, answered(), None]), [1, 3]);
        assert_eq!(silent(&[answered()]), [0; 0]);
    }
}
