//! `couplet ctl`, and clients that are not it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use super::{POEM, Program, echo, echoes, folder_with_poem, poet, python};
use crate::kit::{Client, PATIENCE, Running, couplet, has, run, wait_until};
use crate::needed::Folder;

const CONTROL: &str = "[runner]\ncontrol = \"ctl\"\n";

/// A program with an echo server, and a client of it.
fn controlled() -> (Program, Client) {
    let program = Program::start(&(echo("a", "0", "") + CONTROL));
    let client = program.connect("a");
    (program, client)
}

/// A program with a reader of a poem that has begun.
fn reading(delay: f64) -> (Program, Client) {
    let text = poet(delay, 60.0) + "[supervisor]\ndrain = 60\nnot-ready-for = 0.1\n" + CONTROL;
    let program = Program::start_with(folder_with_poem(), &text, &[]);
    let mut reader = Client::connect(program.port("poet"));
    assert_eq!(reader.read_exact(5), &POEM[..5]);
    (program, reader)
}

/// A connection to the control socket.
fn raw(program: &Program) -> UnixStream {
    let stream = UnixStream::connect(program.folder.path("ctl")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The answer to these bytes, up to the end of the connection.
fn ask(program: &Program, bytes: &[u8], is_half_closed: bool) -> String {
    let mut stream = raw(program);
    stream.write_all(bytes).unwrap();
    if is_half_closed {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut answer).map_err(|error| {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    });
    String::from_utf8(answer).unwrap()
}

#[test]
fn status_shows_hundreds_of_connections() {
    let program = Program::start(&(echo("a", "0", "") + CONTROL));
    let port = program.port("a");
    let mut clients: Vec<_> = (0..600).map(|_| Client::connect(port)).collect();
    clients.iter_mut().for_each(echoes);
    let status = program.ctl(&["status", "--json"]);
    assert_eq!(status.code, Some(0), "{}", status.stderr);
    assert!(status.text().len() > 64 * 1024, "{}", status.text().len());
    assert_eq!(status.text().matches("\"peer\"").count(), 601, "and the one that asks");
}

#[test]
fn status_shows_the_program_for_people_and_programs() {
    let (program, mut client) = controlled();
    let pid = program.server.running.pid();
    let status = program.ctl(&["status"]);
    status.quietly(0);
    assert!(
        status.text().starts_with(&format!("couplet, generation 1 (process {pid}) for ")),
        "{status:?}"
    );
    let address = client.address();
    assert!(status.text().contains(&address.port().to_string()), "{}", status.text());

    let status = program.ctl(&["status", "--json"]);
    status.quietly(0);
    if has("python3") {
        let print = "
import json, sys
s = json.load(sys.stdin)
assert 0 < s['uptime'] < 100 and s['version']
a, = s['services']
print(s['program'], s['pid'], s['is_ready'], a['name'], a['state'], a['restarts'])
print(len(s['connections']), [p['accepted'] for p in s['ports'] if 'tcp' in p['host']])
";
        let wanted = format!("couplet {pid} True a running 0\n");
        let shown = python(print, status.text());
        assert_eq!(shown, wanted + "2 [1]\n", "one of the connections asks");
        wait_until("a connection that is older than idle", || {
            echoes(&mut client);
            let print = "
import json, sys
echo, = [c for c in json.load(sys.stdin)['connections'] if 'tcp' in c['host']]
assert echo['bytes_in'] == echo['bytes_out'] > 0
print(echo['age'] - echo['idle'] > 0.1)
";
            python(print, program.ctl(&["status", "--json"]).text()) == "True\n"
        });
    }
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn log_changes_the_events_that_are_logged() {
    let text = echo("a", "0", "") + CONTROL + "log-file = \"log\"\n";
    let program = Program::start(&text);
    program.port("a");
    let logged = || program.read("log").matches("connection made").count();
    for (filter, is_logged) in
        [("warn", false), ("debug", true), ("info", false), ("couplet=debug,off", true)]
    {
        program.ctl(&["log", filter]).quietly(0);
        let before = logged();
        program.ctl(&["status"]).quietly(0);
        assert_eq!(logged() > before, is_logged, "{filter}: {}", program.read("log"));
    }
    // A reload that changes other things leaves it alone.
    program.ctl(&["log", "info"]).quietly(0);
    program.reload_by_ctl(&(text.clone() + "[services.b]\nkind = \"echo\"\n")).quietly(0);
    program.wait_read("log", "reloaded: 0 services changed, 1 added, 0 removed");
    for (filter, wanted) in [
        ("loud", "couplet: \"loud\" is not a level"),
        ("a b", "couplet: ' ' is not allowed in a filter; examples are warn"),
        ("couplet=loud", "couplet: "),
        ("info\nstop", "couplet: ' ' is not allowed in a filter"),
        ("", "couplet: unknown order \"log\""),
    ] {
        let ended = program.ctl(&["log", filter]);
        assert_eq!((ended.code, ended.text()), (Some(1), ""), "{filter}");
        assert!(ended.stderr.starts_with(wanted), "{filter}: {}", ended.stderr);
    }
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn inspect_answers_with_the_url_of_the_inspector() {
    let text = echo("a", "0", "") + CONTROL;
    let program = Program::start_with(Folder::new(), &text, &["--inspect", "0"]);
    let mut client = program.connect("a");
    let ended = program.ctl(&["inspect"]);
    ended.quietly(0);
    program.wait_told(&format!("inspector: {}", ended.text()));
    let shown = run(&["inspect", ended.text().trim_end()]);
    shown.quietly(0);
    assert!(shown.text().contains("connections ("), "{}", shown.text());
    echoes(&mut client);
    drop(client);
    program.stop(Signal::TERM);
}

#[test]
fn inspect_without_an_inspector_is_an_error() {
    let (program, _client) = controlled();
    let ended = program.ctl(&["inspect"]);
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    assert_eq!(ended.stderr, "couplet: the program has no inspector\n");
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn reload_answers_with_the_changes_or_the_error() {
    let (program, mut client) = controlled();
    let ended = program.reload_by_ctl(&(echo("a", "0", "") + &echo("b", "0", "") + CONTROL));
    ended.quietly(0);
    assert_eq!(ended.text(), "0 services changed, 1 added, 0 removed\n");
    program.port("b");
    let ended = program.reload_by_ctl("[services.a]\nkind = \"eco\"\n");
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    let place = "couplet: a.toml:2:8: unknown kind eco; did you mean echo?\n  | kind = \"eco\"\n";
    assert!(ended.stderr.starts_with(place), "{}", ended.stderr);
    echoes(&mut client);
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

/// The id of a client's connection.
fn id_of(program: &Program, client: &Client) -> Option<String> {
    let status = program.ctl(&["status"]);
    let peer = format!(" tcp:{} ", client.address());
    let line = status.text().lines().find(|line| line.contains(&peer))?;
    let id = line.strip_prefix("connection  ").and_then(|rest| rest.split(' ').next());
    Some(id.unwrap_or_else(|| panic!("no id: {line}")).to_owned())
}

#[test]
fn close_ends_one_connection() {
    let forward = "[services.a]\nkind = \"forward\"\nlisten = \"0\"\nconnect = \"unix:echo\"\n";
    let text = [forward, &echo("e", "unix:echo", ""), CONTROL].concat();
    let program = Program::start(&text);
    let port = program.port("a");
    program.server.line();
    let mut clients = [0; 3].map(|_| Client::connect(port));
    clients.iter_mut().for_each(echoes);
    let id = id_of(&program, &clients[1]).expect("it is open");
    let closed = program.ctl(&["close", &id]);
    closed.quietly(0);
    assert_eq!(closed.text(), "");
    let [mut first, mut second, mut third] = clients;
    assert!(second.read_to_end().unwrap().is_empty());
    second.finish();
    wait_until("its end", || id_of(&program, &second).is_none());
    echoes(&mut first);
    echoes(&mut third);
    for unknown in [&*id, "0.999.1", "none", "1 2"] {
        let refused = program.ctl(&["close", unknown]);
        assert_eq!((refused.code, refused.text()), (Some(1), ""), "{unknown}");
        assert_eq!(refused.stderr, format!("couplet: there is no connection {unknown}\n"));
    }
    let refused = program.ctl(&["close", ""]);
    assert_eq!((refused.code, refused.text()), (Some(1), ""));
    assert!(refused.stderr.starts_with("couplet: unknown order \"close\""), "{}", refused.stderr);
    echoes(&mut first);
    echoes(&mut third);
    drop((first, third));
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn close_resets_a_connection_whose_end_takes_long() {
    let program = Program::start(&(echo("a", "0", "") + CONTROL));
    let port = program.port("a");
    let mut clients = [0; 2].map(|_| Client::connect(port));
    clients.iter_mut().for_each(echoes);
    let id = id_of(&program, &clients[0]).expect("it is open");
    // The server is the producer of its own answers, and does not end by itself.
    program.ctl(&["close", &id]).quietly(0);
    assert!(clients[0].read_to_end().is_err(), "it is reset");
    assert_eq!(id_of(&program, &clients[0]), None);
    echoes(&mut clients[1]);
    drop(clients);
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn drain_lets_connections_finish_and_ends_the_program() {
    let (program, mut reader) = reading(0.3);
    program.ctl(&["drain"]).quietly(0);
    assert_eq!(reader.read_to_end().unwrap(), &POEM[5..]);
    reader.finish();
    program.ended().0.quietly(0);
}

#[test]
fn c105d_stop_ends_the_program_although_connections_are_open() {
    for first in [None, Some("drain")] {
        let (program, _reader) = reading(30.0);
        if let Some(first) = first {
            program.ctl(&[first]).quietly(0);
            // The ports are closed, and the order comes in the middle of the drain.
            wait_until("the drain", || {
                program.ctl(&["status"]).text().contains("asked to finish by a drain")
            });
        }
        let asked = crate::kit::now();
        program.ctl(&["stop"]).quietly(0);
        assert_eq!(program.ended().0.code, Some(0));
        assert!(asked.elapsed().as_secs() < 5, "{first:?}: {:?}", asked.elapsed());
    }
}

#[test]
fn a_program_that_does_not_run_is_1() {
    let folder = Folder::new();
    let path = folder.path("none");
    let ended = Running::start(&mut couplet(&["ctl", "--control", &path, "status"])).ended();
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    let wanted = format!("couplet: cannot ask {path}: ");
    assert!(ended.stderr.starts_with(&wanted), "{}", ended.stderr);
    assert!(ended.stderr.to_lowercase().contains("no such file"), "{}", ended.stderr);
    assert!(ended.stderr.contains("(the program has ended, or has another"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn only_the_user_of_the_process_may_use_the_socket() {
    let (program, _client) = controlled();
    let socket = program.folder.path("ctl");
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn nonsense_is_answered_or_closed_and_harms_nothing() {
    let (program, mut client) = controlled();
    let binary = [&[0, 255, 254, 27, 13][..], b"\n"].concat();
    let long = [&[b'x'; 2000][..], b"\n"].concat();
    let most = [&[b'x'; 999][..], b"\n"].concat();
    for (bytes, is_half_closed, wanted) in [
        (&binary[..], false, "error: unknown order "),
        (b"\n", false, "error: unknown order \"\"; known are status"),
        (b"status please\n", false, "error: unknown order \"status please\""),
        (b"STATUS\n", false, "error: unknown order"),
        (&most, false, "error: unknown order \"xxx"),
        (&long, false, ""),
        (b"no line", true, ""),
        (b"", true, ""),
        (b"status\n", true, "ok\ncouplet, generation 1 (process "),
        // A reload takes longer than the client's end of stream.
        (b"reload\n", true, "ok\n"),
        (b"status\r\n", true, "ok\ncouplet, generation 1 (process "),
        (b"status\nstop\nstop\n", true, "ok\ncouplet, generation 1 (process "),
        (b"GET / HTTP/1.1\r\n\r\n", false, "error: unknown order"),
    ] {
        let answer = ask(&program, bytes, is_half_closed);
        let shown = String::from_utf8_lossy(bytes);
        assert!(answer.starts_with(wanted), "{shown}: {answer}");
        assert_eq!(answer.is_empty(), wanted.is_empty(), "{shown}: {answer}");
    }
    echoes(&mut client);
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn a_hundred_orders_at_once_are_answered() {
    let (program, mut client) = controlled();
    let mut asking: Vec<UnixStream> = (0..100).map(|_| raw(&program)).collect();
    for (number, stream) in asking.iter_mut().enumerate() {
        let order = ["status\n", "status json\n", "reload\n", "log warn\n"][number % 4];
        stream.write_all(order.as_bytes()).unwrap();
    }
    for mut stream in asking {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("ok\n"), "{answer}");
    }
    echoes(&mut client);
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn c184c_recordings_are_written_by_order_and_at_the_end() {
    let text = echo("a", "0", "") + CONTROL;
    let kept = ["--record", "end.rec", "--inspect-contents", "4"];
    let program = Program::start_with(Folder::new(), &text, &kept);
    let _client = program.connect("a");
    let recorded = program.ctl(&["record", "now.rec"]);
    assert_eq!((recorded.code, recorded.text()), (Some(0), ""), "{}", recorded.stderr);
    assert!(recorded.stderr.starts_with("now.rec: a recording of "), "{}", recorded.stderr);
    let refused = program.ctl(&["record", "missing/now.rec"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("cannot write missing/now.rec: "), "{}", refused.stderr);
    let Program { server, folder } = program;
    assert!(!folder.join("end.rec").exists());
    server.stop(Signal::TERM);
    let shown = |file: &str, output: &str| {
        let mut command = couplet(&["inspect", file, output]);
        let shown = Running::start(command.current_dir(&*folder)).ended();
        shown.quietly(0);
        shown.text().to_owned()
    };
    let (now, end) = (shown("./now.rec", "--once"), shown("./end.rec", "--once"));
    assert!(now.contains(" running, ") && now.contains("EchoServer"), "{now}");
    assert!(end.starts_with("a recording of ") && end.contains(" ended, "), "{end}");
    for file in ["./now.rec", "./end.rec"] {
        let lines = shown(file, "--jsonl");
        assert_eq!(lines.matches("\"contents\":\"hell\"").count(), 2, "{lines}");
    }
}

#[test]
fn a_recording_needs_an_inspector() {
    let (program, _client) = controlled();
    let refused = program.ctl(&["record", "now.rec"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("the program has no inspector: start it"), "{refused:?}");
    assert!(!program.folder.join("now.rec").exists());
}
