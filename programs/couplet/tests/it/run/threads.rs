//! `threads = N`: services in several loops, which the program runs as if they were in one.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use super::load::{Load, Talk};
use super::metrics::value;
use super::restart::{Restarted, chat, services};
use super::{FILE, POEM, Program, echo, echoes, folder_with_poem, get, poet, port_after, run_in};
use crate::kit::{Client, pause, wait_until};
use crate::needed::Folder;

/// The process's table, with this number of threads.
fn process(threads: &str, more: &str) -> String {
    format!(
        "[runner]\ncontrol = \"ctl\"\npid-file = \"pid\"\nlog-level = \"info\"\nthreads = {threads}\n{more}\n"
    )
}

fn with_threads(threads: &str, text: &str) -> String {
    text.replace("[runner]\n", &format!("[runner]\nthreads = {threads}\n"))
}

/// The ids of the open connections at this port.
fn ids(program: &Program, port: SocketAddr) -> Vec<String> {
    let status = program.ctl(&["status", "--json"]);
    let host = format!("\"host\":\"tcp:{port}\"");
    let connections = status.text().split("\"connections\":").nth(1).expect("a status").to_owned();
    let is_ours = |one: &&str| one.contains(&host) && one.contains("\"state\":\"open\"");
    let ours = connections.split("{\"id\":\"").filter(is_ours);
    ours.map(|one| one.split('"').next().expect("an id").to_owned()).collect()
}

/// The loops that have these connections.
fn loops(ids: &[String]) -> BTreeSet<String> {
    ids.iter().map(|id| id.split('.').next().expect("a number").to_owned()).collect()
}

/// Opens `count` connections, each answered once.
fn connect_all(port: SocketAddr, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| Client::connect(port)).collect();
    clients.iter_mut().for_each(echoes);
    clients
}

#[test]
fn connections_are_spread_over_all_loops_and_counted_together() {
    let metrics = "metrics = \"tcp:0:interface=127.0.0.1\"";
    let text = echo("a", "0", "") + &echo("u", "unix:u", "") + &process("3", metrics);
    let program = Program::start_with(Folder::new(), &text, &[]);
    let metrics = port_after("serving metrics and the health", &program);
    let port = program.port("a");
    assert_eq!(program.server.line(), "u listening on unix:u");
    // Afterwards all loops accept.
    program.wait_told("started");
    assert_eq!(ids(&program, port), [""; 0]);
    let clients = connect_all(port, 30);
    let ids = ids(&program, port);
    assert_eq!((ids.len(), loops(&ids).len()), (30, 3), "{ids:?}");
    for lp in loops(&ids) {
        let own = ids.iter().filter(|id| id.starts_with(&format!("{lp}."))).count();
        assert_eq!(own, 10, "{ids:?}");
    }
    let (_, text) = get(metrics, "/metrics");
    for wanted in [
        format!("couplet_connections{{port=\"tcp:{port}\",state=\"open\"}} 30"),
        format!("couplet_accepted_total{{port=\"tcp:{port}\"}} 30"),
        format!("couplet_port_paused{{port=\"tcp:{port}\"}} 0"),
        "couplet_service_ready{service=\"a\"} 1".to_owned(),
    ] {
        assert!(text.contains(&wanted), "{wanted}: {text}");
    }
    // Two callbacks of each connection: the calls of all loops are timed.
    assert!(value(metrics, "couplet_callback_seconds_count") >= 60, "{text}");
    let status = program.ctl(&["status"]);
    let line = format!("port        tcp:{port} ");
    assert_eq!(status.text().matches(&line).count(), 1, "{}", status.text());
    assert_eq!(get(metrics, "/readyz").0, 200);
    // One connection of each loop.
    for lp in loops(&ids) {
        let id = ids.iter().find(|id| id.starts_with(&format!("{lp}."))).expect("one");
        assert_eq!(program.ctl(&["close", id]).code, Some(0));
        wait_until("the close", || !self::ids(&program, port).contains(id));
    }
    assert_eq!(self::ids(&program, port).len(), 27);
    assert_eq!(program.ctl(&["close", "999.1.1"]).code, Some(1));
    drop(clients);
    let name = program.folder.path("u");
    UnixStream::connect(&name).expect("it listens");
    let folder = program.terminated();
    assert!(!folder.names().contains(&"u".to_owned()), "the file is removed");
}

#[test]
fn each_loop_has_the_driver_that_is_chosen() {
    let text = echo("a", "0", "") + &process("3", "driver = \"uring\"");
    for (options, wanted) in [(&[][..], 3), (&["--driver", "epoll"], 0)] {
        let program = Program::start_with(Folder::new(), &text, options);
        drop(connect_all(program.port("a"), 10));
        let Some(rings) = program.server.rings() else { return };
        assert_eq!(rings, wanted, "{options:?}");
        assert_eq!(program.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn one_thread_per_processor_and_too_many_for_the_connections() {
    for threads in ["0", "auto"] {
        let program =
            Program::start_with(Folder::new(), &echo("a", "0", ""), &["--threads", threads]);
        program.connect("a");
        assert_eq!(program.stop(Signal::TERM).code, Some(0));
    }
    let text = echo("a", "0", "") + &process("3", "max-connections = 2");
    run_in(&Folder::new(), &text, &[]).says(2, "3 threads need a max-connections of 3 at least");
}

#[test]
fn a_reload_changes_a_service_in_all_loops_and_others_notice_nothing() {
    let text = |b: &str| echo("a", "0", "") + &echo("b", b, "") + &process("3", "");
    let mut program = Program::start(&text("0"));
    let (a, before) = (program.port("a"), program.port("b"));
    let mut clients = connect_all(a, 9);
    let mut gone = connect_all(before, 3);
    let changed = text("127.0.0.1:0");
    assert_eq!(program.reload_by_ctl(&changed).code, Some(0), "{}", program.told());
    let after = program.port("b");
    gone.iter_mut().for_each(|client| assert_eq!(client.read_to_end().unwrap(), b""));
    let more = connect_all(after, 9);
    let ids = ids(&program, after);
    assert_eq!((ids.len(), loops(&ids).len()), (9, 3), "{ids:?}");
    clients.iter_mut().for_each(echoes);
    drop(more);
    program.signal(Signal::TERM);
    clients.iter_mut().for_each(|client| assert_eq!(client.read_to_end().unwrap(), b""));
    let (ended, _folder) = program.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn sigterm_lets_connections_of_all_loops_finish() {
    let text = poet(0.1, 9.0) + "[supervisor]\ndrain = 9\n" + &process("3", "");
    let mut program = Program::start_with(folder_with_poem(), &text, &[]);
    let port = program.port("poet");
    program.wait_told("started");
    // The loop that wakes first accepts.
    let mut readers = Vec::new();
    while loops(&ids(&program, port)).len() < 3 {
        assert!(readers.len() < 100, "one loop accepts nothing");
        let mut reader = Client::connect(port);
        assert_eq!(reader.read_exact(5), &POEM[..5]);
        readers.push(reader);
    }
    program.signal(Signal::TERM);
    wait_until("the end of the port", || TcpStream::connect(port).is_err());
    for reader in &mut readers {
        assert_eq!(reader.read_to_end().expect("no reset"), &POEM[5..]);
    }
    drop(readers);
    let (ended, _folder) = program.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_second_signal_ends_all_loops() {
    let text = poet(60.0, 60.0) + "[supervisor]\ndrain = 60\n" + &process("3", "");
    let mut program = Program::start_with(folder_with_poem(), &text, &[]);
    let port = program.port("poet");
    let mut readers: Vec<Client> = (0..3).map(|_| Client::connect(port)).collect();
    readers.iter_mut().for_each(|reader| drop(reader.read_exact(5)));
    program.signal(Signal::TERM);
    wait_until("the end of the port", || TcpStream::connect(port).is_err());
    assert!(program.is_running());
    program.terminated();
}

#[test]
fn max_connections_limits_the_whole_process() {
    for threads in ["3", "4"] {
        let text =
            echo("a", "0", "") + &echo("b", "0", "") + &process(threads, "max-connections = 8");
        let program = Program::start(&text);
        let ports = [program.port("a"), program.port("b")];
        let mut clients: Vec<Client> = (0..20).map(|n| Client::connect(ports[n % 2])).collect();
        clients.iter_mut().for_each(|client| client.send(b"hello"));
        let open = || ports.iter().map(|port| ids(&program, *port).len()).sum::<usize>();
        wait_until("the limit", || open() >= 8);
        for _ in 0..20 {
            pause();
        }
        assert_eq!(open(), 8);
        // Those that wait are served once others have ended.
        let read = |mut client: Client| assert_eq!(client.read_exact(5), b"hello");
        std::thread::scope(|scope| {
            clients.into_iter().for_each(|client| drop(scope.spawn(move || read(client))));
        });
    }
}

#[test]
fn a_service_limit_covers_all_loops() {
    let forward = "[services.f]\nkind = \"forward\"\nlisten = \"0\"\nmax-connections = 4\n\
                   connect = \"unix:echo\"\n";
    let text = forward.to_owned() + &echo("u", "unix:echo", "") + &process("3", "");
    let program = Program::start(&text);
    let port = program.port("f");
    assert_eq!(program.server.line(), "u listening on unix:echo");
    let clients = connect_all(port, 4);
    assert!(Client::connect(port).read_to_end().is_ok_and(|read| read.is_empty()));
    drop(clients);
}

/// Restarts under load, with other numbers of threads each time.
#[test]
fn nothing_is_refused_reset_lost_or_doubled_when_threads_change_in_restarts() {
    let proxied = echo("h", "haproxy:tcp:0:interface=127.0.0.1", "");
    let all = [chat("c"), echo("e", "0", ""), proxied, echo("u", "unix:u", "")];
    let text = |threads: &str| with_threads(threads, &services(&all, "generations = 100"));
    let program = Restarted::start(&text("3"));
    let (chat, port, proxied) = (program.port("c"), program.port("e"), program.wrapped_port());
    program.server.line();
    let mut idle = connect_all(port, 100);
    let mut talk = Talk::start(chat);
    let load = Load::start(port, proxied, program.folder.path("u"));
    for threads in ["1", "3", "3", "2", "1", "4", "3", "3", "3", "1", "3"] {
        program.folder.write(FILE, text(threads));
        program.restart();
        talk.say();
        let mut moved = Vec::new();
        wait_until("the connections in the new process", || {
            moved = ids(&program, port);
            moved.len() >= 100
        });
        assert_eq!(loops(&moved).len().to_string(), threads);
    }
    load.end(&program);
    idle.iter_mut().for_each(echoes);
    assert_eq!(program.generations().0, 12);
    program.stop();
}

#[test]
fn a_restart_that_fails_leaves_all_loops_serving() {
    let good = with_threads("3", &services(&[echo("a", "0", ""), echo("u", "unix:u", "")], ""));
    let program = Restarted::start(&good);
    let port = program.port("a");
    let mut clients = connect_all(port, 6);
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    program.folder.write(FILE, good.clone() + &echo("z", &taken, ""));
    assert_eq!(program.ctl(&["restart"]).code, Some(1));
    clients.iter_mut().for_each(echoes);
    let more = connect_all(port, 6);
    assert_eq!(loops(&ids(&program, port)).len(), 3);
    UnixStream::connect(program.folder.path("u")).expect("its file is there");
    drop(more);
    program.folder.write(FILE, good);
    program.restart();
    clients.iter_mut().for_each(echoes);
    assert_eq!(loops(&ids(&program, port)).len(), 3);
    program.stop();
}

#[test]
fn sigusr1_shows_all_loops() {
    let mut program = Program::start(&(echo("a", "0", "") + &process("2", "")));
    let port = program.port("a");
    let clients = connect_all(port, 9);
    program.signal(Signal::USR1);
    program.wait_told(" 9 connections");
    drop(clients);
    assert_eq!(program.stop(Signal::INT).code, Some(0));
}
