//! `couplet sim`: its reports, for passing and for failing worlds.

use crate::kit::{Ended, TempFile, Terminal, couplet, open_page, run};

/// The last line of the output, which is the hash of all traces.
fn trace_hash(ended: &Ended) -> String {
    let last = ended.text().lines().last().unwrap_or_default();
    assert!(last.starts_with("trace ") && last.len() == 22, "{}", ended.text());
    last.to_owned()
}

#[test]
fn without_a_scenario_they_are_listed() {
    let ended = run(&["sim"]);
    ended.quietly(0);
    for scenario in ["poetry", "chat", "cluster", "reconnecting", "devices", "meters", "naive"] {
        assert!(ended.text().lines().any(|line| line.starts_with(scenario)), "{scenario}");
    }
}

#[test]
fn c231_each_world_survives_a_few_storms() {
    // Of the cluster, one is over a bus in memory.
    let worlds = [
        ("poetry", "1..2"),
        ("chat", "1..4"),
        ("cluster", "1..8"),
        ("reconnecting", "1..4"),
        ("meters", "1..4"),
    ];
    for (scenario, seeds) in worlds {
        let ended = run(&["sim", scenario, "--seeds", seeds]);
        ended.quietly(0);
        assert!(
            ended.text().contains(&format!("{scenario}: seeds {seeds}, weather storm: all is"))
        );
        assert!(ended.text().contains(" events in "), "{}", ended.text());
    }
}

#[test]
fn devices_run_for_the_time_and_in_the_weather_that_are_chosen() {
    let ended = run(&["sim", "devices", "--time", "10", "--weather", "breezy"]);
    ended.quietly(0);
    assert!(ended.text().contains("devices: seed 1, weather breezy: all is well"));
    assert!(ended.text().contains("events in 10 seconds of virtual time"), "{}", ended.text());
}

#[test]
fn the_same_seeds_give_the_same_traces_in_another_process() {
    let args = ["sim", "chat", "--seeds", "5..9"];
    let (one, two) = (run(&args), run(&args));
    assert_eq!(trace_hash(&one), trace_hash(&two));
    let other = run(&["sim", "chat", "--seeds", "6..9"]);
    assert_ne!(trace_hash(&one), trace_hash(&other));
}

#[test]
fn a_range_runs_each_of_its_seeds_once() {
    let hash = |seeds: &str| {
        let ended = run(&["sim", "reconnecting", "--seeds", seeds]);
        u64::from_str_radix(&trace_hash(&ended)["trace ".len()..], 16).unwrap()
    };
    // The hash of several traces is the sum of theirs.
    let each: Vec<u64> = ["5", "6", "7", "8"].map(hash).to_vec();
    for (seeds, hashes) in [("5..5", &each[..1]), ("5..6", &each[..2]), ("6..=8", &each[1..])] {
        assert_eq!(hash(seeds), hashes.iter().fold(0, |sum: u64, one| sum.wrapping_add(*one)));
    }
}

#[test]
fn a_trace_is_written_for_people_and_is_the_same_each_time() {
    let traces = [0, 1].map(|_| {
        let file = TempFile::new(b"");
        run(&["sim", "chat", "--seeds", "7", "--trace", file.path()]).quietly(0);
        std::fs::read_to_string(file.path()).unwrap()
    });
    assert_eq!(traces[0], traces[1]);
    let lines: Vec<&str> = traces[0].lines().collect();
    assert!(lines.len() > 1000, "{}", lines.len());
    assert_eq!(lines[0], "# seed 7, weather storm");
    assert!(lines[1].starts_with("# fault 0 at "), "{}", lines[1]);
    assert!(lines.iter().any(|line| line.ends_with("server     starts")));
    assert!(lines.iter().any(|line| line.contains("member0#1 connection_made")));
    assert!(lines.iter().any(|line| line.contains("fault 0 begins: ")));
}

#[test]
fn packets_are_written_for_wireshark() {
    let captures = [0, 1].map(|_| {
        let file = TempFile::new(b"");
        run(&["sim", "chat", "--seeds", "7", "--pcap", file.path()]).quietly(0);
        std::fs::read(file.path()).unwrap()
    });
    assert_eq!(captures[0], captures[1]);
    assert_eq!(captures[0][..4], [0x4d, 0x3c, 0xb2, 0xa1], "libpcap's, with nanoseconds");
    assert!(captures[0].len() > 100_000, "{}", captures[0].len());
}

#[test]
fn the_report_of_a_broken_world_has_its_seed_the_fewest_faults_and_its_trace() {
    let ended = run(&["sim", "naive", "--seeds", "1..40"]);
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    let told = &ended.stderr;
    assert!(told.contains("the reader took a cut poem for a whole one (at "), "{told}");
    assert!(told.contains("1 of the ") && told.contains(" faults of the weather is enough"));
    assert!(told.contains(" server is killed, for "), "{told}");
    assert!(told.contains("data_received") && told.contains("BROKEN: the reader took"), "{told}");
    // The report contains the command that replays it; the replay gives the same report.
    let again = told.lines().last().unwrap().strip_prefix("replay it: couplet ").unwrap();
    let again = run(&again.split(' ').collect::<Vec<_>>());
    assert_eq!(again.code, Some(1));
    assert_eq!(again.stderr, ended.stderr);
    let seed = told.split("seed ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    let mut command = couplet(&["sim", "naive"]);
    let replayed = crate::kit::Running::start(command.env("COUPLET_SEED", seed)).ended();
    assert_eq!(replayed.stderr, ended.stderr);
}

#[test]
fn the_trace_of_a_broken_world_is_of_the_seed_that_failed() {
    let file = TempFile::new(b"");
    let ended = run(&["sim", "naive", "--seeds", "1..40", "--trace", file.path()]);
    assert_eq!(ended.code, Some(1));
    let trace = std::fs::read_to_string(file.path()).unwrap();
    assert!(trace.trim_end().ends_with("BROKEN: the reader took a cut poem for a whole one"));
}

#[test]
fn a_trace_that_cannot_be_written_hides_no_failure() {
    let ended = run(&["sim", "naive", "--seeds", "1..40", "--trace", "/no/where"]);
    assert_eq!(ended.code, Some(1));
    for told in ["the reader took a cut poem", "cannot write the trace to /no/where", "replay it: "]
    {
        assert!(ended.stderr.contains(told), "{}", ended.stderr);
    }
}

#[test]
fn the_last_of_all_seeds_is_one_like_the_others() {
    let last = u64::MAX.to_string();
    let ended = run(&["sim", "reconnecting", "--seeds", &last]);
    ended.quietly(0);
    assert!(ended.text().starts_with(&format!("reconnecting: seed {last}, ")), "{}", ended.text());
}

#[test]
fn a_world_that_cannot_run_is_an_error() {
    let full = "cannot write the packets to /dev/full: no space left on device";
    let nowhere = "cannot write the packets to /nowhere/chat.pcap: no such file or directory";
    let cases: [(&[&str], i32, &str); 8] = [
        (&["sim", "chat", "--seeds", "7", "--pcap", "/dev/full"], 1, full),
        (&["sim", "chat", "--seeds", "7", "--pcap", "/nowhere/chat.pcap"], 1, nowhere),
        (&["sim", "naive", "--record", "/missing/naive.rec"], 1, "the recording to /missing/"),
        (&["sim", "war"], 2, "there is no scenario 'war'; known scenarios: poetry, chat, "),
        (&["sim", "chat", "--time", "5"], 2, "the scenario chat has a fixed duration"),
        (
            &["sim", "chat", "--seeds", "3..1"],
            2,
            "the first seed is above the last one: write 1..3",
        ),
        (&["sim", "chat", "--weather", "hail"], 2, "'hail' is not calm, breezy or storm"),
        (&["sim", "chat", "--seeds", "1", "--trace", "/no/where"], 1, "cannot write the trace"),
    ];
    for (args, code, told) in cases {
        let ended = run(args);
        assert_eq!(ended.code, Some(code), "{args:?}");
        let stderr = ended.stderr.to_lowercase();
        assert!(stderr.contains(&told.to_lowercase()), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let mut command = couplet(&["sim", "reconnecting", "--seeds", "1..60"]);
    let ended = Terminal::start(80, 24, &mut command).ended();
    assert_eq!(ended.code, Some(0));
    let shown = ended.text();
    assert!(shown.contains("/60 seeds, "), "{shown}");
    assert!(shown.contains("reconnecting: seeds 1..60"), "{shown}");
}

#[test]
fn a_broken_world_is_opened_as_a_page() {
    let code = open_page(&["sim", "naive", "--open"], |url| {
        let shown = run(&["inspect", url]);
        assert!(shown.text().contains("naive"), "{}", shown.text());
    });
    assert_eq!(code, Some(1));
}

#[test]
fn the_events_of_a_broken_world_are_recorded_with_its_faults() {
    let file = TempFile::named("naive.rec", b"");
    let ended = run(&["sim", "naive", "--record", file.path()]);
    assert_eq!(ended.code, Some(1));
    let shown = run(&["inspect", file.path()]);
    shown.quietly(0);
    assert!(shown.text().starts_with("a recording of "), "{}", shown.text());
    let shown = shown.text();
    assert!(shown.contains("\nnaive, up "), "{shown}");
    assert!(shown.contains("\nFAULT ") && shown.contains(" server is killed, "), "{shown}");
    assert!(shown.contains("\nloop 0 (server) ended\n"), "absent fields are left out: {shown}");
    let trace = run(&["inspect", file.path(), "--trace"]);
    trace.quietly(0);
    let trace: serde_json::Value = serde_json::from_slice(&trace.stdout).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    assert!(events.iter().any(|event| event["args"]["bytes"].as_u64() > Some(0)));
    assert!(events.iter().any(|event| event["ph"] == "i" && event["cat"] == "fault"));
    let lines = run(&["inspect", file.path(), "--jsonl"]);
    lines.quietly(0);
    assert!(lines.text().contains("\"kind\":\"mark\""), "{}", lines.text());
}
