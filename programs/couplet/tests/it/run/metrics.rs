//! Metrics over HTTP, read by Prometheus' own parser.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustix::process::Signal;

use super::{Program, echo, echoes, get, output_of, port_after};
use crate::kit::{Client, wait_until};
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
    wait_until("the end of a connection", || {
        value(metrics, "couplet_connections_ended_total{reason=\"done\"}") >= 1
    });
    let (status, text) = get(metrics, "/metrics");
    assert_eq!(status, 200, "{text}");
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once('|').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    let samples = output_of(&python, &["-c", PARSE], &text);
    let samples: BTreeMap<String, f64> = samples.lines().map(sample).collect();
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
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

/// The value of a metric with these labels.
pub(super) fn value(metrics: SocketAddr, name: &str) -> u64 {
    let (_, text) = get(metrics, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().expect("a number")
}
