//! Recordings that the program writes.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use couplet::factory::Layered;
use couplet::inspect::{Inspect, Inspector, Recording, TableLimits};
use couplet::layers::tls::{
    ClientTls, ClientTlsOptions, Identity, Roots, ServerTls, ServerTlsOptions,
};
use couplet::{Loop, LoopOptions, Protocol, Reactor, Transport};
use couplet_testkit::needed::{Folder, SelfSigned};
use couplet_testkit_loops::doubles::Echo;
use serde_json::Value;

use crate::kit::{Program, get, get_bytes, pause, text};

/// Opens an echo server.
fn echo(reactor: &Reactor) -> SocketAddr {
    let port = reactor.listen("tcp:0:interface=127.0.0.1", || Echo).expect("a free port");
    port.host().socket_addr().expect("TCP")
}

/// A connection that has exchanged a message.
fn connection(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("it listens");
    stream.write_all(b"hello").expect("it reads");
    stream.read_exact(&mut [0; 5]).expect("it answers");
    stream
}

/// The header of a recording.
fn header(file: &[u8]) -> Value {
    let rest = file.strip_prefix(b"couplet recording 1\n").expect("a recording");
    let (length, rest) = rest.split_first_chunk().expect("a length");
    let length = usize::try_from(u64::from_le_bytes(*length)).expect("a short one");
    serde_json::from_slice(&rest[..length]).expect("JSON")
}

/// Reads a recording, once it is written as a whole.
fn read(file: &Path) -> (Recording, Value) {
    let bytes = fs::read(file).expect("it is written");
    (Recording::parse(&bytes).expect("our own"), header(&bytes))
}

/// The recording of a program that runs, and its bytes.
fn recorded(program: &Program) -> (Vec<u8>, Recording) {
    let bytes = program.inspector.recording().expect("it runs");
    let recording = Recording::parse(&bytes).expect("our own");
    (bytes, recording)
}

/// Blocks a loop for longer than the flag allows.
fn hang(program: &Program) -> mpsc::Sender<()> {
    let (let_go, waits) = mpsc::channel::<()>();
    let hanging = program.remote.call(move |_| {
        // The test may have failed.
        let _ = waits.recv();
    });
    hanging.expect("it runs");
    let_go
}

#[test]
fn c184b_the_events_of_a_program_are_written_at_its_end() {
    let folder = Folder::new();
    let file = folder.join("end.rec");
    let inspector = Inspector::without_page().record_at_end(&file);
    let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
    assert_eq!(program.inspector.url(), None);
    drop(connection(address));
    let open = connection(address);
    let host = address.to_string();
    drop(program);
    let (recording, header) = read(&file);
    assert!(recording.events() >= 6, "{recording:?}");
    assert_eq!(header["state"]["loops"][0]["state"], "ended");
    let connections = header["loops"][0]["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), 2, "{connections:?}");
    for it in connections {
        assert_eq!(text(it, "host"), format!("tcp:{host}"));
        let id = text(it, "id");
        assert!(id.contains(&format!(".{}.", it["slot"])), "{it}");
        assert!(it["ended"].as_f64() >= it["made"].as_f64(), "{it}");
    }
    let peer = open.local_addr().expect("TCP");
    assert_eq!(text(&connections[1], "peer"), format!("tcp:{peer}"));
}

/// The ids of the rows of a view in each of a loop's earlier tables, with the rows that were new.
fn tables(header: &Value, view: &str) -> Vec<(Vec<Value>, usize)> {
    let frames = header["loops"][0]["frames"].as_array().expect("a list");
    let times: Vec<_> = frames.iter().map(|frame| frame["time"].as_f64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let changes = frames.iter().map(|frame| &frame["views"][view]);
    let list = |it: &Value| it.as_array().cloned().unwrap_or_default();
    changes.map(|it| (list(&it["rows"]), list(&it["gone"]).len())).collect()
}

/// A recording of a program whose task has ended while a timed call is pending.
fn of_a_task(inspector: Inspector) -> Value {
    let (ended, task) = mpsc::channel();
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), move |reactor| {
        reactor.call_later(Duration::from_secs(3600), || ());
        let own = reactor.clone();
        let poet = async move {
            own.sleep(Duration::from_millis(1)).await?;
            ended.send(()).expect("the test waits");
            couplet::Result::Ok(())
        };
        reactor.spawn_named("poet", poet).detach();
    });
    task.recv().expect("the task ends");
    // One more turn.
    let (tell, told) = mpsc::channel();
    program.call(move |_| tell.send(()).expect("the test waits"));
    told.recv().expect("the loop runs");
    header(&program.inspector.recording().expect("it runs"))
}

fn every_turn() -> TableLimits {
    TableLimits::default().interval(Duration::ZERO)
}

#[test]
fn tables_are_kept_as_of_earlier_times() {
    let inspector = Inspector::without_page().tables(every_turn().kept(1000));
    let header = of_a_task(inspector);
    let tasks = tables(&header, "tasks");
    let begun = tasks.iter().position(|(rows, _)| rows.iter().any(|row| row["name"] == "poet"));
    let begun = begun.unwrap_or_else(|| panic!("{tasks:?}"));
    assert!(tasks[begun..].iter().any(|(_, gone)| *gone == 1), "{tasks:?}");
    let calls: Vec<_> = tables(&header, "calls").into_iter().flat_map(|(rows, _)| rows).collect();
    let [call] = &calls.iter().filter(|row| row["kind"] == "timed call").collect::<Vec<_>>()[..]
    else {
        panic!("one call: {calls:?}")
    };
    assert!(text(call, "place").contains("recordings.rs:"), "{call}");
    assert!(text(call, "why").starts_with("due in {until:"), "{call}");
    let mut waits = tasks[begun..].iter().flat_map(|(rows, _)| rows);
    let is_asleep = |row: &Value| text(row, "why").starts_with("waits for a sleep requested at ");
    assert!(waits.any(is_asleep), "{tasks:?}");
    let deferreds = tables(&header, "deferreds").into_iter().flat_map(|(rows, _)| rows);
    let ended: Vec<_> = deferreds.filter(|row| row["state"] == "ended").collect();
    assert!(ended.iter().all(|row| row["history"]["state"] == "value"), "{ended:?}");
    assert!(!ended.is_empty(), "the sleep and the task have ended");
}

#[test]
fn the_number_of_tables_and_of_their_rows_is_set() {
    let limits = every_turn();
    let none = Inspector::without_page().tables(limits.kept(0));
    assert_eq!(of_a_task(none)["loops"][0]["frames"], serde_json::json!([]));
    let two = Inspector::without_page().tables(limits.kept(2));
    assert_eq!(tables(&of_a_task(two), "calls").len(), 2);
    let few = Inspector::without_page().tables(limits.rows(4));
    let frames = of_a_task(few)["loops"][0]["frames"].clone();
    let frames = frames.as_array().expect("a list");
    assert!(frames.len() <= 4, "{frames:?}");
    // The call and the sleep are rows of one kind, and a frame has one of each.
    let rows = |frame: &Value| frame["views"]["calls"]["rows"].as_array().map_or(0, Vec::len);
    assert!(frames.iter().all(|frame| rows(frame) <= 1), "{frames:?}");
}

/// The lines of a recording with the bytes of a kind.
fn lines(recording: &Recording, kind: &str) -> Vec<Value> {
    let mut lines = Vec::new();
    recording.write_lines(&mut lines).expect("a vector");
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines = lines.map(|line| serde_json::from_slice::<Value>(line).expect("JSON"));
    lines.filter(|line| line["kind"] == kind).collect()
}

#[test]
fn a_recording_of_more_events_than_its_ring_has_the_newest_with_their_counts() {
    for messages in [1, 50, 2000_u64] {
        let inspector = Inspector::without_page().ring_size(16 * 1024);
        let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
        drop(connection(address));
        let mut open = connection(address);
        for _ in 1..messages {
            open.write_all(b"hello").expect("it reads");
            open.read_exact(&mut [0; 5]).expect("it answers");
        }
        let (_, recording) = recorded(&program);
        for (kind, count) in [("received", "in"), ("wrote", "out")] {
            let mut lines = lines(&recording, kind);
            let newest = lines.last().expect("an event")["connection"].clone();
            lines.retain(|line| line["connection"] == newest);
            let missing = messages - lines.len() as u64;
            assert_eq!(missing > 0, messages == 2000, "{missing} {kind} of {messages}");
            for (nth, line) in (missing + 1..).zip(&lines) {
                assert_eq!(line[count], nth * 5, "{messages}: {line}");
            }
        }
    }
}

#[test]
fn c184d_no_contents_are_kept_unless_they_are_asked_for() {
    let (program, address) =
        Program::start_with(Inspector::without_page(), LoopOptions::default(), echo);
    let _open = connection(address);
    let (bytes, recording) = recorded(&program);
    assert!(!recording.has_contents());
    assert!(!bytes.windows(5).any(|bytes| bytes == b"hello"));
    assert!(lines(&recording, "received").iter().all(|line| line["contents"].is_null()));
}

#[test]
fn the_first_bytes_of_each_chunk_are_kept() {
    let inspector = Inspector::without_page().contents(3);
    let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
    let _open = connection(address);
    let (_, recording) = recorded(&program);
    assert!(recording.has_contents());
    for kind in ["received", "wrote"] {
        let [line] = &lines(&recording, kind)[..] else { panic!("one {kind}") };
        assert_eq!((text(line, "contents"), &line["cut"]), ("hel", &Value::from(2)), "{line}");
    }
    let mut packets = Vec::new();
    recording.write_pcap(&mut packets).expect("a vector");
    assert_eq!(packets.windows(3).filter(|bytes| *bytes == b"hel").count(), 2);
}

/// Sends a text, and reports its echo.
struct Client(mpsc::Sender<()>, usize);

const SECRET: &[u8] = b"a secret in plain text";

impl Protocol for Client {
    fn connection_made(&mut self, transport: &Transport) {
        transport.write(SECRET);
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.1 += data.len();
        if self.1 == SECRET.len() {
            self.0.send(()).expect("the test waits");
        }
    }
}

#[test]
fn contents_under_tls_are_ciphertext() {
    let SelfSigned { certificate, key } = SelfSigned::new("couplet.test");
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("our own");
    let server = ServerTls::new(&ServerTlsOptions::new(identity)).expect("our own");
    let roots = Roots::from_pem(certificate.as_bytes()).expect("our own");
    let client = ClientTls::new(&ClientTlsOptions::default().roots(roots)).expect("our own");
    let inspector = Inspector::without_page().contents(65_536);
    let (tell, told) = mpsc::channel();
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), move |reactor| {
        let servers = Layered::new(|| Echo, move |reactor, _| server.layer(reactor.now()));
        let port = reactor.listen("tcp:0:interface=127.0.0.1", servers).expect("a free port");
        let clients = Layered::new(
            move || Client(tell.clone(), 0),
            move |reactor, _| client.layer("couplet.test", reactor.now()).expect("a name"),
        );
        reactor.connect(("127.0.0.1", port.host().port().expect("TCP")), clients).detach();
    });
    told.recv().expect("it is echoed");
    let (bytes, recording) = recorded(&program);
    let mut packets = Vec::new();
    recording.write_pcap(&mut packets).expect("a vector");
    for written in [&bytes, &packets] {
        assert!(!written.windows(SECRET.len()).any(|some| some == SECRET));
    }
    let wrote = lines(&recording, "wrote");
    let begins = |record: &str| wrote.iter().any(|line| text(line, "contents").starts_with(record));
    assert!(begins(r"\x16\x03") && begins(r"\x17\x03"), "handshakes and data: {wrote:?}");
}

#[test]
fn c184d_the_memory_of_contents_is_a_setting_and_the_newest_are_kept() {
    let inspector = Inspector::without_page().contents(1000).contents_size(512);
    let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
    let mut open = connection(address);
    for _ in 0..50 {
        open.write_all(&[b'x'; 200]).expect("it reads");
        open.read_exact(&mut [0; 200]).expect("it answers");
    }
    let wrote = lines(&recorded(&program).1, "wrote");
    let kept: Vec<_> = wrote.iter().map(|line| line["contents"].as_str().map(str::len)).collect();
    assert_eq!(kept.first(), Some(&None));
    // A quarter of the memory, less the number and the length.
    assert_eq!(kept.last(), Some(&Some(112)));
}

#[test]
fn all_loops_are_in_the_recording_at_the_end() {
    let folder = Folder::new();
    let file = folder.join("end.rec");
    let inspector = Inspector::without_page().record_at_end(&file);
    let start = || Program::start_with(inspector.clone(), LoopOptions::default(), echo);
    let (first, second) = (start(), start());
    drop(connection(second.1));
    drop(first);
    assert!(!file.exists(), "a loop still runs");
    drop(second);
    let (_, header) = read(&file);
    let loops = header["loops"].as_array().expect("a list");
    let counts: Vec<_> = loops.iter().map(|it| it["count"].as_u64()).collect();
    assert!(counts.len() == 2 && counts[1] > counts[0], "{counts:?}");
}

#[test]
fn c184c_each_run_with_one_inspector_records_only_its_own_loops() {
    let folder = Folder::new();
    let file = folder.join("end.rec");
    let inspector = Inspector::without_page().record_at_end(&file);
    let start = || Program::start_with(inspector.clone(), LoopOptions::default(), |_| ()).0;
    let count = |header: &Value| header["loops"].as_array().map(Vec::len);
    for run in 1..=3 {
        let (first, second) = (start(), start());
        let shown = first.inspector.recording().expect("it runs");
        assert_eq!(count(&header(&shown)), Some(2), "run {run}");
        drop((first, second));
        assert_eq!(count(&read(&file).1), Some(2), "the end of run {run}");
        fs::remove_file(&file).expect("it was written");
    }
}

#[test]
fn the_last_sixteen_loops_that_have_ended_are_in_the_recording() {
    let folder = Folder::new();
    let file = folder.join("end.rec");
    // Small rings: each is kept.
    let inspector = Inspector::without_page().record_at_end(&file).ring_size(4096);
    let start = || Program::start_with(inspector.clone(), LoopOptions::default(), |_| ()).0;
    let first = start();
    for _ in 0..20 {
        drop(start());
    }
    let recording = first.inspector.recording().expect("it runs");
    assert_eq!(header(&recording)["loops"].as_array().map(Vec::len), Some(17));
    let serial = header(&recording)["loops"][0]["serial"].clone();
    drop(first);
    let (_, header) = read(&file);
    assert_eq!(header["loops"].as_array().map(Vec::len), Some(16));
    assert_eq!(header["loops"][0]["serial"], serial, "it has ended last");
}

#[test]
fn c184c_a_panic_that_ends_a_loop_leaves_a_recording() {
    let folder = Folder::new();
    let file = folder.join("end.rec");
    let inspector = Inspector::without_page().record_at_end(&file);
    let program = std::thread::spawn(move || {
        let mut l = Loop::with_options(LoopOptions::default().inspect(&inspector)).expect("a loop");
        l.turn(Some(Duration::ZERO)).expect("a turn");
        panic!("a mistake of the program");
    });
    program.join().expect_err("it panics");
    assert!(read(&file).0.events() > 0);
}

#[test]
fn a_loop_that_never_ran_leaves_no_recording() {
    let folder = Folder::new();
    let inspector = Inspector::without_page().record_at_end(folder.join("end.rec"));
    drop(Loop::with_options(LoopOptions::default().inspect(&inspector)).expect("a loop"));
    assert_eq!(folder.names(), [""; 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn c184c_a_full_disk_at_the_end_harms_nothing() {
    for file in ["/dev/full", "/missing/end.rec"] {
        let inspector = Inspector::without_page().record_at_end(file);
        let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
        drop(connection(address));
        drop(program);
    }
}

#[test]
fn a_recording_is_made_on_demand() {
    let inspector = Inspector::without_page();
    inspector.recording().expect_err("no loop is inspected");
    let (program, address) = Program::start_with(inspector, LoopOptions::default(), echo);
    let _open = connection(address);
    let (bytes, recording) = recorded(&program);
    let state = &header(&bytes)["state"];
    assert_eq!(state["views"]["connections"].as_array().map(Vec::len), Some(1));
    assert!(recording.events() > 0);
}

#[test]
fn c184c_a_red_flag_is_recorded_with_a_mark_and_the_oldest_files_are_removed() {
    let folder = Folder::new();
    let old = ["poems-20000101T000000Z-busy.rec", "poems-20010101T000000Z-busy.rec"];
    old.iter().for_each(|name| drop(folder.write(name, b"")));
    let inspector = Inspector::without_page().program("poems", "1");
    let inspector = inspector.record_flags(&*folder).kept_recordings(2);
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), |_| ());
    let let_go = hang(&program);
    while !folder.names().iter().any(|name| name.ends_with("-held.rec")) {
        pause();
    }
    // The oldest is removed after that.
    while folder.names().len() > 2 {
        pause();
    }
    let names = folder.names();
    assert_eq!(names[0], old[1]);
    let (_, header) = read(&folder.join(&names[1]));
    let mark = &header["marks"][0];
    assert_eq!((text(mark, "severity"), &mark["loop"]), ("red", &Value::from(0)));
    assert!(text(mark, "text").starts_with("A call holds the loop: "), "{mark}");
    let_go.send(()).expect("it waits");
}

#[test]
fn c184b_each_time_a_flag_is_raised_is_one_mark() {
    let (program, ()) = Program::start(|_| ());
    let words = |flags: &Value| {
        let held = flags.as_array()?.iter().find(|it| it["id"] == "0.held")?;
        Some(text(held, "words").to_owned())
    };
    for _ in 0..2 {
        let let_go = hang(&program);
        let first = program.until("/flags.json", words);
        // It stays up at the next look.
        program.until("/flags.json", |flags| words(flags).filter(|words| *words != first));
        let_go.send(()).expect("it waits");
        program.until("/flags.json", |flags| words(flags).is_none().then_some(()));
    }
    let (bytes, _) = recorded(&program);
    let header = header(&bytes);
    let marks = header["marks"].as_array().expect("marks").iter();
    let held = marks.filter(|mark| text(mark, "text").starts_with("A call holds the loop: "));
    assert_eq!(held.count(), 2, "{header:#}");
}

#[test]
fn c184c_a_folder_that_cant_be_written_harms_nothing() {
    let folder = Folder::new();
    let missing = folder.join("missing");
    let inspector = Inspector::at("0").record_flags(&missing).recording_pause(Duration::ZERO);
    let (program, ()) = Program::start_with(inspector, LoopOptions::default(), |_| ());
    for _ in 0..2 {
        let let_go = hang(&program);
        let is_up =
            |flags: &Value| flags.as_array()?.iter().find(|it| it["id"] == "0.held").cloned();
        program.until("/flags.json", is_up);
        let_go.send(()).expect("it waits");
        program.until("/flags.json", |flags| is_up(flags).is_none().then_some(()));
    }
    assert!(!missing.exists());
}

#[test]
fn a_recording_is_served_as_the_page_of_the_program() {
    let (program, ()) = Program::start(|_| ());
    let file = get_bytes(&program.url(), "/recording");
    let state = get(&program.url(), "/state.json", "");
    assert!(state.starts_with("HTTP/1.1 200 "), "{state}");
    drop(program);
    let given = file.clone();
    let (server, url) = Program::start(move |reactor| {
        Inspector::at("0").token("other").replay(reactor, given).expect("our own")
    });
    assert!(url.ends_with("/?token=other&recording"), "{url}");
    assert_eq!(get_bytes(&url, "/recording"), file);
    for (path, text) in [
        ("/", "<html"),
        ("/state.json", "{\"program\":{\"name\":\"couplet\""),
        ("/loops.json", "[{\"id\":0,\"name\":\"loop 0\""),
        ("/connections", "[]"),
    ] {
        let answer = get(&url, path, "");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains(text), "{path}: {answer}");
    }
    for path in ["/live", "/unknown.json"] {
        assert!(get(&url, path, "").starts_with("HTTP/1.1 404 "), "{path}");
    }
    let (base, _) = url.split_once('?').expect("a token");
    assert!(get(&format!("{base}?recording"), "/recording", "").starts_with("HTTP/1.1 403 "));
    drop(server);
}

#[test]
fn a_damaged_recording_and_an_endpoint_for_others_are_not_served() {
    let (_program, ()) = Program::start(|reactor| {
        let replay = |endpoint: &str, file: &'static [u8]| {
            Inspector::at(endpoint).replay(reactor, file).expect_err("refused").to_string()
        };
        let damaged = replay("0", b"couplet recording 1\n");
        assert_eq!(
            damaged,
            "cannot read the recording: the header of the recording is damaged: it is cut off"
        );
        let empty = b"couplet recording 1\n\x1f\0\0\0\0\0\0\0{\"made\":1,\"loops\":[],\"state\":1}";
        let open = replay("tcp:0", empty);
        assert!(open.contains("accepts connections from other machines"), "{open}");
    });
}
