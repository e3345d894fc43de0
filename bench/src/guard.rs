//! The counts that continuous integration checks against limits: counts of one server, which do not
//! depend on the machine's speed or load.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::counting::{Tool, count};
use crate::kind::Kind;
use crate::load::bytes::Closer;
use crate::options::Bench;
use crate::peers::{has_uring, succeeds};
use crate::scenario::Shape;
use crate::{Result, in_context};

/// A name and a value: a measurement, or its limit.
pub(crate) type Figure = (String, f64);

/// Prints `name=value` lines for one server; the error lists every exceeded limit.
pub(crate) fn run(bench: &Bench, kind: Kind, limits: &[Figure]) -> Result<()> {
    let has_uring = has_uring();
    let measured = measure(bench, kind, has_uring)?;
    let asked = limits.iter().filter(|(name, _)| has_uring || !name.ends_with("_uring"));
    let broken: Vec<String> = asked.filter_map(|limit| check(limit, &measured)).collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(format!("{kind} breaks its limits:\n  {}", broken.join("\n  ")).into())
}

fn measure(bench: &Bench, kind: Kind, has_uring: bool) -> Result<Vec<Figure>> {
    let mut measured = Vec::new();
    let mut tell = |name: &str, value: f64| {
        println!("{name}={value:.3}");
        measured.push((name.to_string(), value));
    };
    if Tool::Strace.is_installed() {
        let [trip, epoll_ctl] = count(bench, kind, Tool::Strace, Shape::Ping(50))?;
        tell("syscalls_per_trip_50", trip);
        tell("epoll_ctl_per_trip", epoll_ctl);
        let [client, _] = count(bench, kind, Tool::Strace, Shape::Short(Closer::Client))?;
        tell("syscalls_per_short_connection", client);
        let [server, _] = count(bench, kind, Tool::Strace, Shape::Short(Closer::Server))?;
        tell("syscalls_per_short_connection_server_first", server);
        if !has_uring {
            println!("# skipped: system calls over io_uring, which the system refuses");
        } else if kind == Kind::Couplet {
            let over_uring = [
                ("syscalls_per_trip_50_uring", Shape::Ping(50)),
                ("syscalls_per_trip_500_uring", Shape::Ping(500)),
                ("syscalls_per_short_connection_uring", Shape::Short(Closer::Client)),
            ];
            for (name, what) in over_uring {
                let [calls, _] = count(bench, Kind::CoupletUring, Tool::Strace, what)?;
                tell(name, calls);
            }
        }
    } else {
        println!("# skipped: system calls, as strace is not installed");
    }
    if Tool::Valgrind.is_installed() {
        let short = Shape::Short(Closer::Client);
        let own = [
            ("instructions_per_trip_1", kind, Shape::Ping(1)),
            ("instructions_per_trip_50", kind, Shape::Ping(50)),
            ("instructions_per_short_connection", kind, short),
        ];
        let others = [
            ("instructions_per_line_1", kind, Shape::Lines(1)),
            ("instructions_per_line_50", kind, Shape::Lines(50)),
            ("instructions_per_trip_50_over_a_layer", Kind::CoupletLayer, Shape::Ping(50)),
            ("instructions_per_trip_50_of_a_stream", Kind::CoupletStream, Shape::Ping(50)),
            ("instructions_per_request_http1_50", kind, Shape::Http1(50, 1)),
            ("instructions_per_request_http2_50x1", kind, Shape::Http2(50, 1)),
            ("instructions_per_request_http2_10x100", kind, Shape::Http2(10, 100)),
            ("instructions_per_trip_1_inspected", Kind::CoupletInspected, Shape::Ping(1)),
            ("instructions_per_trip_50_inspected", Kind::CoupletInspected, Shape::Ping(50)),
        ];
        let others = others.into_iter().filter(|_| kind == Kind::Couplet);
        for (name, kind, what) in own.into_iter().chain(others) {
            let [instructions, _] = count(bench, kind, Tool::Valgrind, what)?;
            tell(name, instructions);
        }
    } else {
        println!("# skipped: instructions, as valgrind is not installed");
    }
    if kind == Kind::Couplet {
        match system_calls_of_the_turn(bench.programs.couplet())? {
            Some(found) => tell("syscalls_outside_the_turn", 3.0 - found as f64),
            None => println!("# skipped: the turn's system calls, as objdump is not installed"),
        }
    }
    Ok(measured)
}

/// Counts the system calls in the machine code of a turn on mio: wait, read and send must be
/// inlined there. That affects time, but no count of instructions.
fn system_calls_of_the_turn(program: &Path) -> Result<Option<usize>> {
    if !succeeds("objdump", &["--version"]) {
        return Ok(None);
    }
    let mut objdump = Command::new("objdump");
    let output = objdump.args(["-d", "-C", "--no-show-raw-insn"]).arg(program).output()?;
    let code = String::from_utf8_lossy(&output.stdout);
    // The turn is compiled for each driver; on the memory driver it makes no system call.
    let turns = code.split("\n\n").filter(|function| {
        function.lines().next().is_some_and(|name| name.ends_with("::Engine>::turn>:"))
    });
    let counts = turns.map(|turn| turn.lines().filter(|line| line.ends_with("syscall")).count());
    counts.max().map(Some).ok_or_else(|| "the program has no turn".into())
}

/// Describes an exceeded limit. A limit without a measurement counts as exceeded: a guard that lost
/// its tools must not look like a passing one.
fn check((name, most): &Figure, measured: &[Figure]) -> Option<String> {
    match measured.iter().find(|(known, _)| known == name) {
        Some((_, value)) if value <= most => None,
        Some((_, value)) => Some(format!("{name} is {value:.3}, and its limit is {most}")),
        None => Some(format!("{name} was not measured, and its limit is {most}")),
    }
}

pub(crate) fn read_limits(path: &Path) -> Result<Vec<Figure>> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(in_context(format!("cannot read {name}")))?;
    parse_limits(&text, &name.to_string())
}

fn parse_limits(text: &str, path: &str) -> Result<Vec<Figure>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim());
    let mut limits = Vec::new();
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let parts = line.split_once("<=");
        let limit = parts.and_then(|(name, most)| Some((name.trim(), most.trim().parse().ok()?)));
        let (name, most) = limit
            .ok_or_else(|| format!("{path}:{number}: expected `name <= value`, found `{line}`"))?;
        limits.push((name.to_string(), most));
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_compared() {
        let limits = parse_limits("# all\na <= 2 # two\n\nb<=3\n", "f").expect("valid");
        assert_eq!(limits, [("a".into(), 2.0), ("b".into(), 3.0)]);
        let measured = [("a".into(), 2.0), ("b".into(), 3.1)];
        assert_eq!(check(&limits[0], &measured), None);
        assert_eq!(check(&limits[1], &measured).as_deref(), Some("b is 3.100, and its limit is 3"));
        assert!(check(&("c".into(), 1.0), &measured).is_some_and(|it| it.contains("not measured")));
    }

    #[test]
    fn a_wrong_limit_is_reported_with_its_place() {
        let error = parse_limits("a <= 2\nb = 3\n", "f").expect_err("wrong").to_string();
        assert_eq!(error, "f:2: expected `name <= value`, found `b = 3`");
    }
}
