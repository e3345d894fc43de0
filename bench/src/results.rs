//! The results of a run, in the form of their file; tables and pages are drawn from them.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use couplet_testkit::bench::spread::Spread;

/// The longest bar, as a ratio. A longer one is truncated, and ends in a mark.
pub(crate) const LONGEST: f64 = 4.0;

/// The results of a run.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Results {
    pub(crate) about: About,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) missing: Vec<Missing>,
}

/// The place, time and conditions of the measurements.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct About {
    pub(crate) command: String,
    pub(crate) version: String,
    pub(crate) machine: String,
    pub(crate) kernel: String,
    pub(crate) date: String,
    /// False if load and servers shared a processor: then the rates mean little.
    pub(crate) load_apart: bool,
}

/// A server or a scenario that was not measured.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Missing {
    pub(crate) server: String,
    pub(crate) reason: String,
}

/// One scenario's results.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Outcome {
    /// The name on the command line.
    pub(crate) name: String,
    pub(crate) title: String,
    /// The first column: the quantity whose ratios are drawn. Less is better.
    pub(crate) lead: String,
    /// The further columns.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// A remark on this measurement.
    pub(crate) note: Option<String>,
}

/// One server's results.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Row {
    pub(crate) server: String,
    /// The leading quantity, over the rounds.
    #[serde(with = "Written")]
    pub(crate) lead: Spread,
    /// The ratio of `lead` to the first row's, within each round.
    #[serde(with = "Written")]
    pub(crate) ratio: Spread,
    /// Medians of the further columns; none if there were too few samples.
    pub(crate) cells: Vec<Option<f64>>,
}

impl Results {
    /// Without outcomes so far.
    pub(crate) fn new(load_apart: bool) -> Results {
        Results { about: About::new(load_apart), outcomes: Vec::new(), missing: Vec::new() }
    }
}

impl Row {
    /// Computes the ratios to `base`, round by round.
    pub(crate) fn new(server: String, lead: &[f64], base: &[f64], cells: Vec<Option<f64>>) -> Row {
        let ratio = Spread::of(lead.iter().zip(base).map(|(own, base)| own / base));
        Row { server, lead: Spread::of(lead.iter().copied()), ratio, cells }
    }
}

impl About {
    fn new(load_apart: bool) -> About {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let models: Vec<&str> =
            processors.lines().filter_map(|line| line.strip_prefix("model name")).collect();
        let model =
            models.first().map_or("unknown", |model| model.trim_start_matches(['\t', ' ', ':']));
        let words: Vec<String> = std::env::args().skip(1).collect();
        let release = read("/proc/sys/kernel/osrelease");
        About {
            command: format!("couplet bench {}", words.join(" ")).trim_end().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            machine: format!("{model}, processors: {}", models.len().max(1)),
            kernel: format!("{} {}", std::env::consts::OS, release.trim()),
            date: date(),
            load_apart,
        }
    }
}

fn date() -> String {
    let output = Command::new("date").args(["-u", "+%F %T UTC"]).output();
    let text = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    text.map_or_else(|| "unknown".into(), |text| text.trim().into())
}

/// A spread in a file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Spread")]
struct Written {
    median: f64,
    least: f64,
    most: f64,
}

/// A number with about three digits.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => grouped(value),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number, with thin groups of three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digits.len() > 4 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// A further column's value.
pub(crate) fn cell(value: Option<f64>) -> String {
    value.map_or("-".into(), figure)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A scenario in which raw beats Couplet, and Twisted does not.
    pub(crate) fn fixed() -> Results {
        serde_json::from_str(FIXED).expect("the fixed results")
    }

    const FIXED: &str = r#"{
        "about": { "command": "couplet bench --quick", "version": "0.1.0",
            "machine": "A <machine>, processors: 2", "kernel": "linux 6.1",
            "date": "2026-01-02 03:04:05 UTC", "load_apart": true },
        "outcomes": [ { "name": "ping-50", "title": "Ping-pong, connections: 50",
            "lead": "CPU us/trip", "columns": ["trips/s", "user %"],
            "rows": [
                { "server": "couplet", "cells": [123456.0, 20.0],
                  "lead": { "median": 4.0, "least": 3.9, "most": 4.2 },
                  "ratio": { "median": 1.0, "least": 1.0, "most": 1.0 } },
                { "server": "raw-16k", "cells": [130000.0, null],
                  "lead": { "median": 3.6, "least": 3.5, "most": 3.7 },
                  "ratio": { "median": 0.9, "least": 0.88, "most": 0.92 } },
                { "server": "twisted", "cells": [10000.0, 80.0],
                  "lead": { "median": 40.0, "least": 39.0, "most": 42.0 },
                  "ratio": { "median": 10.0, "least": 9.5, "most": 10.5 } } ],
            "note": "Disturbed." } ],
        "missing": [ { "server": "go", "reason": "go is not installed" } ] }"#;

    #[test]
    fn results_survive_a_file() {
        let text = serde_json::to_string(&fixed()).expect("valid");
        let again: Results = serde_json::from_str(&text).expect("valid");
        assert_eq!(serde_json::to_string(&again).expect("valid"), text);
        assert!(text.contains(r#""lead":{"median":4.0,"least":3.9,"most":4.2}"#), "{text}");
    }

    #[test]
    fn a_ratio_is_taken_within_a_round() {
        let row = Row::new("other".into(), &[2.0, 40.0, 6.0], &[1.0, 10.0, 3.0], Vec::new());
        assert_eq!((row.lead.median, row.lead.least, row.lead.most), (6.0, 2.0, 40.0));
        assert_eq!((row.ratio.median, row.ratio.least, row.ratio.most), (2.0, 2.0, 4.0));
    }

    #[test]
    fn figures_have_about_three_digits() {
        let values = [0.123, 9.99, 12.34, 999.4, 1234.5, 123456.0];
        assert_eq!(values.map(figure), ["0.12", "9.99", "12.3", "999", "1234", "123 456"]);
    }
}
