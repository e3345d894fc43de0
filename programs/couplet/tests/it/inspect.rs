//! `--inspect` and `couplet inspect`.

use rustix::process::Signal;

use crate::kit::{Server, TempFile, open_page, run, wait_until};
use crate::needed::{Folder, has};

/// The URL that a server has printed on stderr.
pub(crate) fn url(server: &Server) -> String {
    server.wait_told("inspector: ");
    let told = server.running.told();
    let line = told.lines().find_map(|line| line.strip_prefix("inspector: "));
    line.expect("a whole line").to_owned()
}

/// The text of `couplet inspect`, once it has this line.
fn shown_with(url: &str, text: &str) -> String {
    let shown = || run(&["inspect", url]).text().to_owned();
    wait_until(text, || shown().contains(text));
    shown()
}

/// The output of a command, which must be JSON.
pub(crate) fn json(args: &[&str]) -> serde_json::Value {
    let ended = run(args);
    ended.quietly(0);
    serde_json::from_slice(&ended.stdout).expect("JSON")
}

#[test]
fn a_server_prints_the_url_of_its_inspector_which_shows_its_connections() {
    let server = Server::start(&["echo", "--inspect", "0"]);
    let url = url(&server);
    assert!(url.starts_with("http://127.0.0.1:") && url.contains("/?token="), "{url}");
    let mut client = server.connect();
    client.echoes(b"hello");
    let shown = shown_with(&url, "connections (1)");
    for text in [
        "couplet 0.1.0, pid ",
        "no red flags\n",
        "loop 0 (main) running, ",
        "connections (1)\n  ID ",
        "EchoServer  tcp:127.0.0.1:",
        "waits for the peer, last heard ",
        "ports (1)\n",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    server.stop(Signal::TERM);
}

#[test]
fn every_loop_of_a_server_is_shown() {
    let server = Server::start(&["echo", "--inspect", "0", "--threads", "3"]);
    let shown = shown_with(&url(&server), "loop 2 ");
    assert!(shown.contains("loop 0 ") && shown.contains("loop 1 "), "{shown}");
}

#[test]
fn the_state_is_json_for_scripts() {
    let server = Server::start(&["echo", "--inspect=0"]);
    let state = json(&["inspect", &url(&server), "--json"]);
    assert_eq!(state["program"]["name"], "couplet");
    assert_eq!(state["program"]["pid"], server.running.pid());
    assert_eq!(state["views"]["ports"][0]["host"], format!("tcp:{}", server.address()));
}

#[test]
fn a_check_finds_connections_that_are_turned_away() {
    // Three standard streams, the loop's own, the inspector's, and a few connections.
    let server = Server::start_limited(24, &["echo", "--inspect=0"]);
    let url = url(&server);
    let clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    // Room for the connection that asks.
    let mut clients = clients.into_iter();
    let check = || run(&["inspect", "--check", &url]);
    let mut ended = check();
    for client in clients.by_ref() {
        if ended.code == Some(3) {
            break;
        }
        drop(client);
        ended = check();
    }
    ended.quietly(3);
    let text = ended.text();
    assert!(text.contains("RED Connections are turned away for want of descriptors: "), "{text}");
    assert!(text.contains("Raise the limit (`ulimit -n`"), "{text}");
}

#[test]
fn a_unix_socket_needs_no_token() {
    let folder = Folder::new();
    let at = format!("unix:{}", folder.path("socket"));
    let server = Server::start(&["echo", "--inspect", &at]);
    assert_eq!(url(&server), at);
    let ended = run(&["inspect", &at]);
    ended.quietly(0);
    assert!(ended.text().contains("ports (1)"), "{}", ended.text());
    server.stop(Signal::TERM);
    assert_eq!(folder.names(), [""; 0], "the socket is gone with the server");
}

#[test]
fn a_target_that_cannot_be_inspected_is_an_error() {
    let server = Server::start(&["echo", "--inspect=0"]);
    let url = url(&server);
    let quiet = run(&["inspect", "--check", &url]);
    assert_eq!((quiet.code, quiet.text()), (Some(0), "no red flags\n"));
    let (base, _) = url.split_once('?').expect("a token");
    let (port, file) = (server.address(), TempFile::named("other.rec", b"something else"));
    let no_answer = "the inspector does not answer: ";
    let recorded = "cannot record slow.rec: it is a recording already; ";
    let refused = format!("{no_answer}the token is missing or wrong: ");
    for (args, code, wanted) in [
        (&["inspect", base][..], 1, &*refused),
        (&["inspect", "https://127.0.0.1:1/"], 2, "expected the URL of an inspector"),
        (&["inspect", "http://127.0.0.1:1/?token=a"], 1, no_answer),
        (&["echo", "--inspect", &port], 1, "cannot start the loop: cannot open the inspector: "),
        (&["echo", "--inspect", "tcp:0"], 1, "accepts connections from other machines"),
        (&["inspect", "slow.rec", "--record", "other.rec"], 2, recorded),
        (&["inspect", "slow.rec", "--record", "other.rec", "--json"], 2, "cannot be used with"),
        (&["inspect", file.path(), "--trace"], 1, "this is no recording of couplet: "),
        (&["inspect", "./missing.rec"], 1, "cannot read ./missing.rec: "),
        (&["inspect", &url, "--open"], 2, "--open needs the file of a recording"),
    ] {
        let ended = run(args);
        let is_right = ended.code == Some(code) && ended.text().is_empty();
        assert!(is_right && ended.stderr.contains(wanted), "{args:?}: {wanted:?} for {ended:?}");
    }
}

#[test]
fn a_recording_is_saved_shown_and_printed_as_a_trace() {
    let server = Server::start(&["echo", "--inspect=0"]);
    let url = url(&server);
    let mut client = server.connect();
    for _ in 0..10 {
        client.echoes(b"hello");
    }
    let file = TempFile::named("echo.rec", b"");
    let ended = run(&["inspect", &url, "--record", file.path()]);
    assert_eq!(ended.text(), "");
    ended.says(0, ": a recording of ");
    server.stop(Signal::TERM);
    let ended = run(&["inspect", file.path()]);
    ended.quietly(0);
    assert!(ended.text().starts_with("a recording of "), "{}", ended.text());
    assert!(ended.text().contains("connections (1)"), "{}", ended.text());
    let state = json(&["inspect", file.path(), "--json"]);
    assert_eq!(state["loops"][0]["connections"], 1);
    let trace = json(&["inspect", file.path(), "--trace"]);
    let events = trace["traceEvents"].as_array().expect("events").iter();
    let received = events.filter(|event| event["args"]["bytes"] == 5);
    let names: Vec<_> = received.map(|event| event["name"].clone()).collect();
    assert_eq!(names, ["EchoServer"; 10]);
}

#[test]
fn a_recording_is_printed_as_lines_and_opened_as_a_page() {
    let server = Server::start(&["echo", "--inspect=0"]);
    let url = url(&server);
    let mut client = server.connect();
    client.echoes(b"hello");
    let file = TempFile::named("echo.rec", b"");
    run(&["inspect", &url, "--record", file.path()]);
    let ended = run(&["inspect", file.path(), "--jsonl"]);
    ended.quietly(0);
    let lines: Vec<serde_json::Value> =
        ended.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let received = lines.iter().find(|line| line["kind"] == "received").expect("hello");
    assert_eq!(["bytes", "in", "out"].map(|name| &received[name]), [5, 5, 0]);
    let within = received["within"].as_str().expect("a callback");
    assert!(within.starts_with("a callback of EchoServer (connection "), "{within}");

    let code = open_page(&["inspect", file.path(), "--open"], |page| {
        assert!(page.ends_with("&recording"), "{page}");
        let shown = run(&["inspect", page]);
        assert!(shown.text().contains("connections (1)"), "{}", shown.text());
    });
    assert_eq!(code, Some(0));
}

/// Wireshark's output for a file and these arguments; `None` without Wireshark, which fails in CI.
fn tshark(file: &str, arguments: &[&str]) -> Option<String> {
    if !has("tshark") {
        return None;
    }
    let mut command = std::process::Command::new("tshark");
    let ended = command.args(["-n", "-r", file]).args(arguments).output().expect("it is there");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    Some(String::from_utf8(ended.stdout).expect("text"))
}

#[test]
fn c184e_wireshark_follows_a_conversation_of_a_recording() {
    let server = Server::start(&["echo", "--inspect=0", "--inspect-contents", "1000"]);
    let url = url(&server);
    let mut client = server.connect();
    for message in [&b"first"[..], b"second and last"] {
        client.echoes(message);
    }
    let file = TempFile::named("echo.pcapng", b"");
    run(&["inspect", &url, "--pcap", file.path()]).quietly(0);
    let Some(text) = tshark(file.path(), &["-q", "-z", "follow,tcp,raw,0"]) else { return };
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    // The client's bytes, and the server's behind a tab.
    let (first, second) = (hex("first"), hex("second and last"));
    let stream = format!("{first}\n\t{first}\n{second}\n\t{second}\n");
    assert!(text.contains(&stream), "{text}");
    let wrong = "tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0";
    let checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE", "-Y", wrong];
    assert_eq!(tshark(file.path(), &checks).as_deref(), Some(""));
    let fields = ["-Y", "frame.number == 1", "-T", "fields", "-e", "frame.interface_name"];
    let names = tshark(file.path(), &[&fields[..], &["-e", "frame.comment"]].concat());
    let names = names.expect("it is there");
    assert!(names.starts_with("loop 0 (") && names.contains("\tconnection "), "{names}");
}

#[test]
fn wireshark_counts_the_bytes_that_a_recording_left_out() {
    let file = TempFile::named("echo.pcapng", b"");
    let server = Server::start(&["echo", "--inspect=0", "--inspect-contents=4"]);
    let mut client = server.connect();
    client.echoes(b"hello");
    run(&["inspect", &url(&server), "--pcap", file.path()]).quietly(0);
    let fields = ["-Y", "tcp.len > 0", "-T", "fields", "-e", "tcp.len", "-e", "frame.cap_len"];
    let Some(text) = tshark(file.path(), &fields) else { return };
    assert_eq!(text, "5\t44\n5\t44\n");
}

#[test]
fn c184e_packets_need_contents() {
    let server = Server::start(&["echo", "--inspect=0"]);
    let file = TempFile::named("echo.pcapng", b"");
    let told = "the recording has no contents: start the program with --inspect-contents BYTES";
    run(&["inspect", &url(&server), "--pcap", file.path()]).says(1, told);
    let told = "--inspect-contents needs --inspect, --inspect-record or --record";
    run(&["echo", "--inspect-contents", "10"]).says(2, told);
}

#[test]
fn c184e_a_simulated_world_is_written_as_packets_in_its_time() {
    let (recording, file) =
        (TempFile::named("world.rec", b""), TempFile::named("world.pcapng", b""));
    let contents = ["--inspect-contents", "64"];
    let sim = ["sim", "naive", "--record", recording.path()];
    assert_eq!(run(&[&sim[..], &contents].concat()).code, Some(1));
    run(&["inspect", recording.path(), "--pcap", file.path()]).quietly(0);
    let fields = ["-Y", "tcp.len > 0", "-T", "fields", "-e", "frame.time_epoch"];
    let Some(text) = tshark(file.path(), &fields) else { return };
    let times: Vec<f64> = text.lines().map(|time| time.parse().expect("seconds")).collect();
    let first_day = couplet::sim::FIRST_DAY.as_secs_f64();
    assert!(times.len() > 10, "{text}");
    assert!(times.iter().all(|time| (0.0..86_400.0).contains(&(time - first_day))), "{times:?}");
}

#[test]
fn a_red_flag_is_recorded_without_a_reader() {
    let folder = Folder::new();
    // Three standard streams, the loops' own, the recording, and a few connections.
    let path = folder.path(".");
    let kept = ["--inspect-contents", "3"];
    let server =
        Server::start_limited(24, &[&["echo", "--inspect-record", &path], &kept[..]].concat());
    let mut first = server.connect();
    first.echoes(b"hello");
    let mut clients: Vec<_> = (0..30).map(|_| server.connect()).collect();
    let recorded = || {
        let entries = std::fs::read_dir(&*folder).expect("our own");
        let mut paths = entries.map(|entry| entry.expect("our own").path().display().to_string());
        paths.find(|path| path.ends_with("-descriptors.rec"))
    };
    // A recording needs a descriptor too. If it got none, connections come again after a pause.
    clients.truncate(5);
    wait_until("a recording", || recorded().is_some());
    let recorded = recorded().expect("it is there");
    let ended = run(&["inspect", "--check", &recorded]);
    ended.quietly(3);
    assert!(ended.text().contains("turned away for want of descriptors"), "{}", ended.text());
    let lines = run(&["inspect", &recorded, "--jsonl"]);
    assert_eq!(lines.text().matches("\"contents\":\"hel\"").count(), 2, "{}", lines.text());
}
