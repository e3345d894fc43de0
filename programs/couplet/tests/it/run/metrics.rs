//! Metrics over HTTP, read by Prometheus' own parser.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustix::process::Signal;

use super::{Program, echo, echoes, folder_with_poem, get, output_of, poet, port_after};
use crate::kit::{Client, noise, wait_until};
use crate::needed::{Folder, Venv, missing};

const PROMETHEUS: Venv = Venv {
    name: "prometheus",
    modules: "prometheus_client",
    packages: &["prometheus_client>=0.20"],
};

/// Prints each sample as its name, labels and value.
const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        labels = ','.join(sorted(sample.labels.values()))
        print(f'{sample.name}|{labels}|{float(sample.value)}')
";

#[test]
fn metrics_are_what_prometheus_reads() {
    let python = match PROMETHEUS.python() {
        Ok(python) => python,
        Err(reason) => return missing(reason),
    };
    let forward = "[services.b]\nkind = \"forward\"\nlisten = \"0\"\nmax-connections = 1\n\
                   connect = \"unix:echo\"\n";
    let text = echo("a", "0", "")
        + forward
        + &echo("c", "unix:echo", "")
        + "[runner]\nlog-level = \"info\"\nmetrics = \"tcp:0:interface=127.0.0.1\"\n";
    let program = Program::start_with(Folder::new(), &text, &[]);
    let metrics = port_after("serving metrics and the health", &program);
    let (port, limited) = (program.port("a"), program.port("b"));
    let mut only = Client::connect(limited);
    echoes(&mut only);
    assert!(Client::connect(limited).read_to_end().is_ok_and(|read| read.is_empty()));
    let mut open = Client::connect(port);
    echoes(&mut open);
    let mut ended = Client::connect(port);
    echoes(&mut ended);
    ended.finish();
    drop(ended);
    let read = || -> BTreeMap<String, f64> {
        let (status, text) = get(metrics, "/metrics");
        assert_eq!(status, 200, "{text}");
        let samples = output_of(&python, &["-c", PARSE], &text);
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once('|').unwrap();
            (name.to_owned(), value.parse().unwrap())
        };
        samples.lines().map(sample).collect()
    };
    let done = "couplet_connections_ended_total|done";
    wait_until("the end of a connection", || read()[done] >= 1.0);
    let samples = read();
    for (name, wanted) in [
        (format!("couplet_connections|open,tcp:{port}"), 1.0),
        (format!("couplet_accepted_total|tcp:{port}"), 2.0),
        (format!("couplet_port_paused|tcp:{port}"), 0.0),
        (format!("couplet_rejected_total|tcp:{port}"), 0.0),
        (format!("couplet_rejected_total|tcp:{limited}"), 1.0),
        (format!("couplet_turned_away_total|tcp:{port}"), 0.0),
        ("couplet_unhandled_failures_total|".to_owned(), 0.0),
        ("couplet_service_ready|a".to_owned(), 1.0),
        ("couplet_service_restarts_total|a".to_owned(), 0.0),
        ("couplet_ready|".to_owned(), 1.0),
        ("couplet_events_total|error".to_owned(), 0.0),
    ] {
        assert_eq!(samples.get(&name), Some(&wanted), "{name}: {samples:?}");
    }
    assert!(samples["couplet_connection_bytes_total|in"] >= 10.0, "{samples:?}");
    assert!(samples["couplet_busy_seconds_count|"] >= 1.0, "{samples:?}");
    assert!(samples["couplet_callback_seconds_count|"] >= 4.0, "{samples:?}");
    assert!(samples["couplet_callback_seconds_sum|"] > 0.0, "{samples:?}");
    assert_eq!(get(metrics, "/readyz").0, 200);
    assert_eq!(get(metrics, "/"), (404, "there are /healthz, /readyz and /metrics\n".to_owned()));
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

/// The value of a metric with these labels.
pub(super) fn value(metrics: SocketAddr, name: &str) -> u64 {
    let (_, text) = get(metrics, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().expect("a number")
}

#[test]
fn pending_work_is_counted() {
    let forward = "[services.a]\nkind = \"forward\"\nlisten = \"0\"\nconnect = \"unix:echo\"\n";
    let text = [
        forward,
        &echo("e", "unix:echo", ""),
        &poet(60.0, 0.1),
        "[runner]\nlog-level = \"info\"\nmetrics = \"tcp:0:interface=127.0.0.1\"\n",
    ]
    .concat();
    let program = Program::start_with(folder_with_poem(), &text, &[]);
    let metrics = port_after("serving metrics and the health", &program);
    let port = program.port("a");
    program.server.line();
    let poet = program.port("poet");
    let wait = |name: &str, wanted: u64| wait_until(name, || value(metrics, name) == wanted);
    // The forwarder's connection to its server, for as long as its client stays.
    wait("couplet_connectors", 0);
    let mut client = Client::connect(port);
    echoes(&mut client);
    assert_eq!(value(metrics, "couplet_connectors"), 1);
    assert_eq!(value(metrics, "couplet_buffered_bytes"), 0);
    let (bytes, mut sender) = (noise(30_000_000), client.another());
    let sent = sender.push(&bytes);
    assert!(sent < bytes.len(), "nobody reads");
    assert!(value(metrics, "couplet_buffered_bytes") > 0);
    assert!(client.read_exact(sent) == bytes[..sent]);
    wait("couplet_buffered_bytes", 0);
    drop((client, sender));
    wait("couplet_connectors", 0);
    // Each reader of a slow poem has a timed call for its next part.
    let before = value(metrics, "couplet_pending_calls");
    let readers = [0; 3].map(|_| Client::connect(poet));
    wait("couplet_pending_calls", before + 3);
    readers.into_iter().for_each(Client::reset);
    wait("couplet_pending_calls", before);
    assert_eq!(value(metrics, "couplet_jobs"), 0);
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn connections_whose_layers_do_not_open_are_counted_at_their_port() {
    let text = echo("a", "haproxy:tcp:0:interface=127.0.0.1", "")
        + &echo("b", "0", "")
        + "[runner]\nlog-level = \"info\"\nmetrics = \"tcp:0:interface=127.0.0.1\"\n";
    let program = Program::start_with(Folder::new(), &text, &[]);
    let metrics = port_after("serving metrics and the health", &program);
    let (proxied, plain) = (program.wrapped_port(), program.port("b"));
    let not_opened = |port: SocketAddr| {
        value(metrics, &format!("couplet_not_opened_total{{port=\"tcp:{port}\"}}"))
    };
    assert_eq!([not_opened(proxied), not_opened(plain)], [0, 0]);
    let mut nonsense = Client::connect(proxied);
    nonsense.send(b"this is no PROXY header\r\n");
    assert!(nonsense.read_to_end().unwrap_or_default().is_empty());
    let mut good = Client::connect(proxied);
    good.send(b"PROXY UNKNOWN\r\n");
    echoes(&mut good);
    echoes(&mut Client::connect(plain));
    wait_until("the failure", || not_opened(proxied) == 1);
    assert_eq!(not_opened(plain), 0);
    let accepted = format!("couplet_accepted_total{{port=\"tcp:{proxied}\"}}");
    assert_eq!(value(metrics, &accepted), 2);
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}
