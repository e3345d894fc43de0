//! The program as its users run it: short runs with the built-in servers. Results must be complete;
//! times are not asserted.

#[macro_use]
extern crate couplet_testkit;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// An empty folder for the files of a run, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("bench-it-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a new folder");
        Folder(path)
    }

    fn bench(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_couplet-bench"));
        command.args(words.split(' ')).current_dir(&self.0).env("TMPDIR", &self.0);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, words: &str) -> Output {
        self.bench(words).output().expect("it runs")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).expect("it was written")
    }

    /// The results that a run has written as JSON.
    fn results(&self) -> Value {
        serde_json::from_str(&self.read("it.json")).expect("JSON")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("an entry"))).collect();
        names.sort();
        names
    }

    /// Processes whose command line names this folder.
    fn processes(&self) -> usize {
        let folder = self.0.display().to_string();
        let all = fs::read_dir("/proc").expect("the processes");
        let lines = all.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&folder)).count()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Ignored: a failing test should fail for its own reason.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_short_run_has_every_figure_of_each_server() {
    let folder = Folder::new("run");
    let words = "--servers couplet,raw --scenarios fan-out --time 100 --rounds 3";
    let output = folder.run(&format!("{words} --json it.json --html it.html --write it.md"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(folder.names(), ["it.html", "it.json", "it.md"]);

    let results = folder.results();
    let said = format!("couplet bench {words} --json it.json --html it.html --write it.md");
    assert_eq!(results["about"]["command"], said);
    assert_eq!(results["missing"].as_array().map(Vec::len), Some(0));
    let outcome = &results["outcomes"][0];
    assert_eq!(
        (outcome["name"].as_str(), outcome["lead"].as_str()),
        (Some("fan-out"), Some("CPU us/message"))
    );
    assert_eq!(texts(&outcome["columns"]), ["messages/s", "user %", "busy %", "MiB"]);
    let rows = outcome["rows"].as_array().expect("rows");
    assert_eq!(rows.iter().map(|row| &row["server"]).collect::<Vec<_>>(), ["couplet", "raw-16k"]);
    for row in rows {
        for spread in [&row["lead"], &row["ratio"]] {
            let [least, median, most] =
                ["least", "median", "most"].map(|name| spread[name].as_f64().expect("a number"));
            assert!(0.0 < least && least <= median && median <= most, "{spread}");
        }
        assert_eq!(row["cells"].as_array().map(Vec::len), Some(4));
        assert!(row["cells"][0].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!(rows[0]["ratio"]["median"], 1.0);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\nfan-out: ") && !text.contains('\x1b'), "{text}");
    assert!(folder.read("it.md").contains("\n## fan-out\n"));
    assert!(folder.read("it.html").contains("<h2>fan-out: "));
}

#[test]
fn http_and_latencies_are_measured_in_an_open_and_a_closed_loop() {
    let folder = Folder::new("http");
    let scenarios = "http-pipelined,http2-10x100,files-100k,latency-http2";
    let words = format!("--servers couplet,hyper --scenarios {scenarios}");
    let output = folder.run(&format!("{words} --time 50 --rounds 1 --json it.json"));
    assert!(output.status.success(), "{output:?}");
    let results = folder.results();
    let outcomes = results["outcomes"].as_array().expect("outcomes");
    let names: Vec<&Value> = outcomes.iter().map(|outcome| &outcome["name"]).collect();
    assert_eq!(names, scenarios.split(',').collect::<Vec<_>>());
    let latency = &outcomes[3];
    assert_eq!(latency["lead"], "p99 us");
    let columns = ["p50 us", "p99.9 us", "max us", "requests/s", "user %", "busy %", "MiB"];
    assert_eq!(texts(&latency["columns"]), columns);
    for row in latency["rows"].as_array().expect("rows") {
        let (p50, p999, max) = (&row["cells"][0], &row["cells"][1], &row["cells"][2]);
        let all = [p50, &row["lead"]["median"], p999, max].map(|it| it.as_f64().expect("a number"));
        assert!(all.is_sorted() && all[0] > 0.0, "{row}");
    }
}

#[test]
fn an_interrupt_leaves_no_process_and_no_file() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let folder = Folder::new(&format!("interrupt-{code}"));
        let words = "--servers couplet,raw,tokio --scenarios fan-out --time 60000";
        let mut child = folder.bench(words).stderr(Stdio::piped()).spawn().expect("it runs");
        let mut said = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        assert_eq!(
            said.next().transpose().expect("text").as_deref(),
            Some("fan-out: round 1 of 5")
        );
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(code));
        assert_eq!((folder.processes(), folder.names()), (0, Vec::new()));
    }
}

#[test]
fn an_interrupted_run_keeps_the_scenarios_that_it_has_finished() {
    let folder = Folder::new("finished");
    // Long enough for the signal to come before the end of the second one.
    let words = "--servers raw --scenarios ping-1,fan-out --time 2000 --rounds 1 --json it.json";
    let mut child = folder.bench(words).stderr(Stdio::piped()).spawn().expect("it runs");
    let mut said = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
    let next = |line: &String| line == "scenario 2 of 2: fan-out";
    assert!(said.by_ref().map(|line| line.expect("text")).any(|line| next(&line)));
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(130));
    let results = folder.results();
    let outcomes = results["outcomes"].as_array().expect("outcomes");
    assert_eq!(outcomes.iter().map(|it| &it["name"]).collect::<Vec<_>>(), ["ping-1"]);
}

#[test]
fn the_server_in_c_echoes_all_bytes() {
    let folder = Folder::new("c");
    let words = "--servers raw,raw-uring --scenarios ping-50,bulk,slow-readers,short-client";
    let output = folder.run(&format!("{words} --time 50 --rounds 1 --json it.json"));
    assert!(output.status.success(), "{output:?}");
    let results = folder.results();
    if let Some(missing) = results["missing"].as_array().and_then(|all| all.first()) {
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
        return;
    }
    for outcome in results["outcomes"].as_array().expect("outcomes") {
        let rows = outcome["rows"].as_array().expect("rows");
        let servers: Vec<&Value> = rows.iter().map(|row| &row["server"]).collect();
        assert_eq!(servers, ["raw-16k", "raw-uring"]);
    }
}

#[test]
fn a_wrong_argument_or_file_fails_before_anything_is_measured() {
    let folder = Folder::new("wrong");
    for (words, code, said) in [
        ("--servers apache", 2, "error: invalid value 'apache'"),
        ("--write no/such/folder.md", 1, "couplet bench: cannot write no/such/folder.md: "),
        ("--json no/such/folder.json", 1, "couplet bench: cannot write no/such/folder.json: "),
        ("--guard --assert none.txt", 1, "couplet bench: cannot read none.txt: "),
        ("--guard --servers raw,mio", 1, "couplet bench: --guard counts one server"),
    ] {
        let output = folder.run(words);
        assert_eq!(output.status.code(), Some(code), "{words}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.starts_with(said), "{text}");
        assert_eq!(folder.names(), Vec::<String>::new(), "{words}");
    }
}
