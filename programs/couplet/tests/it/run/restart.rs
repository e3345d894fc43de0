//! `ctl restart` and SIGUSR2: a new process takes over the ports, and no connect is refused.

use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::load::{Load, Talk};
use super::{
    FILE, POEM, Program, echo, echoes, folder_with_poem, get, is_refused, poet, port_after,
};
use crate::kit::{Client, Server, couplet, few_or_many, noise, wait_until};
use crate::needed::Folder;
use crate::servers;

const PROCESS: &str =
    "[runner]\ncontrol = \"ctl\"\npid-file = \"pid\"\nlog-level = \"info\"\n[supervisor]\n";

/// A configuration of these services, with further keys of the supervisor.
pub(super) fn services(services: &[String], more: &str) -> String {
    format!("{}{PROCESS}{more}\n", services.concat())
}

pub(super) fn chat(name: &str) -> String {
    format!("[services.{name}]\nkind = \"chat\"\nlisten = \"0\"\n")
}

/// A program whose newest process ends with the test.
pub(super) struct Restarted(pub(super) Program);

impl Restarted {
    pub(super) fn start(text: &str) -> Restarted {
        Restarted(Program::start(text))
    }

    pub(super) fn start_poet(text: &str) -> Restarted {
        Restarted(Program::start_with(folder_with_poem(), text, &[]))
    }

    /// The process that serves.
    pub(super) fn newest(&self) -> Option<Pid> {
        Pid::from_raw(self.read("pid").trim().parse().ok()?)
    }

    /// Restarts, and returns the new process.
    pub(super) fn restart(&self) -> Pid {
        let answer = self.ctl(&["restart"]);
        let words = answer.text();
        let pid = words.strip_prefix("process ").and_then(|rest| rest.split(' ').next());
        let pid = pid.and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let pid = pid.unwrap_or_else(|| panic!("{words:?} {}", answer.stderr));
        assert_eq!(self.newest(), Some(pid));
        pid
    }

    /// The number of the newest process, and how many older ones run.
    pub(super) fn generations(&self) -> (u32, usize) {
        let status = self.ctl(&["status", "--json"]);
        let rest = status.text().split_once("\"generation\":").expect("a status").1;
        let (number, rest) = rest.split_once(",\"older\":[").expect("a list");
        (number.parse().expect("a number"), rest.split(']').next().unwrap().matches("pid").count())
    }

    /// A connection to the poem of [`poet`], which has begun.
    fn reader(&self) -> Client {
        let mut reader = Client::connect(self.port("poet"));
        reader.read_exact(5);
        reader
    }

    /// Waits for the end of the first process.
    fn wait_first(&mut self) {
        wait_until("the end of the first", || !self.is_running());
    }

    /// Ends the newest process.
    pub(super) fn stop(mut self) {
        self.stop_newest();
    }

    pub(super) fn stop_newest(&mut self) {
        let pid = self.newest().expect("a pid file");
        assert_eq!(self.ctl(&["stop"]).code, Some(0));
        wait_until("the end of the process", || !self.is_running() && has_ended(pid));
    }
}

/// Whether a process has ended; the parent, which may be process 1, may notice that later.
fn has_ended(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
        || test_kill_process(pid).is_err()
}

impl Deref for Restarted {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl DerefMut for Restarted {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}

impl Drop for Restarted {
    fn drop(&mut self) {
        if let Some(pid) = self.newest() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[test]
fn a_new_process_has_the_same_ports_each_at_its_service() {
    let (a, b) = (echo("a", "0", ""), echo("b", "0", ""));
    let unix = "[services.u]\nkind = \"echo\"\nlisten = [\"unix:u.sock\", \"unix:v.sock\"]\n";
    let text = services(&[a.clone(), b.clone(), unix.to_owned()], "");
    let mut program = Restarted::start(&text);
    let ports = [program.port("a"), program.port("b")];
    let first = program.newest().expect("a pid file");
    // In the other order, and with a comment.
    program.folder.write(FILE, format!("# words\n{}", services(&[b, unix.to_owned(), a], "")));
    let second = program.restart();
    assert_ne!(first, second);
    for _ in 0..2 {
        program.server.line();
    }
    assert_eq!([program.port("a"), program.port("b")], ports);
    ports.into_iter().for_each(|port| echoes(&mut Client::connect(port)));
    program.wait_first();
    // The first has left the files of the sockets.
    let names = program.folder.names();
    for name in ["ctl", "ctl.lock", "u.sock", "u.sock.lock", "v.sock", "v.sock.lock"] {
        assert!(names.contains(&name.to_owned()), "{name} of {names:?}");
    }
    UnixStream::connect(program.folder.path("u.sock")).expect("it listens");
    assert_eq!(program.newest(), Some(second));
    assert_eq!(program.ctl(&["stop"]).code, Some(0));
    wait_until("the end of the second", || program.read("pid").is_empty());
    assert_eq!(program.folder.names(), [FILE, "pid"], "the second removes them");
}

#[test]
fn a_new_process_writes_the_pid_file_that_is_at_the_path() {
    let program = Restarted::start(&services(&[echo("a", "0", "")], ""));
    program.port("a");
    std::fs::rename(program.folder.path("pid"), program.folder.path("moved")).unwrap();
    // `restart` compares the number of the new process with the file's.
    let new = program.restart();
    assert_ne!(new.as_raw_pid(), i32::try_from(program.server.running.pid()).unwrap());
    assert_eq!(program.ctl(&["stop"]).code, Some(0));
    wait_until("the end of the new process", || program.read("pid").is_empty());
}

#[test]
fn health_and_metrics_stay_at_their_ports() {
    let local = "tcp:0:interface=127.0.0.1";
    let ports = format!("[runner]\nhealth = \"{local}\"\nmetrics = \"{local}\"");
    let config = |all: &[String]| services(all, "").replace("[runner]", &ports);
    let mut program = Restarted::start(&config(&[echo("a", "0", "")]));
    let health = port_after("serving the health", &program);
    let metrics = port_after("serving metrics and the health", &program);
    program.connect("a");
    assert!(!get(health, "/readyz").1.contains("\nb"));
    program.folder.write(FILE, config(&[echo("a", "0", ""), echo("b", "0", "")]));
    program.restart();
    program.wait_first();
    // The new process answers: only that process has the second service.
    for port in [health, metrics] {
        let (status, text) = get(port, "/readyz");
        assert!(status == 200 && text.contains("\nb"), "{text}");
    }
    let (status, text) = get(metrics, "/metrics");
    assert!(status == 200 && text.contains("couplet_service_ready{service=\"b\"} 1"), "{text}");
    assert_eq!(get(health, "/metrics").0, 404);
    program.stop();
}

#[test]
fn c105d_the_status_shows_the_older_process_while_its_connections_finish() {
    let text = services(&[poet(30.0, 900.0)], "restart-drain = 900");
    let mut program = Restarted::start_poet(&text);
    let first = program.server.running.pid();
    let reader = program.reader();
    let second = program.restart();
    let status = || program.ctl(&["status"]).text().to_owned();
    let shown = status();
    let newest = format!("couplet, generation 2 (process {}) for ", second.as_raw_nonzero());
    let older = format!("generation 1 (process {first}): its connections finish");
    let lines: Vec<&str> = shown.lines().take(2).collect();
    assert!(lines[0].starts_with(&newest) && lines[1] == older, "{shown}");
    reader.reset();
    wait_until("the end of the first", || !status().contains("generation 1"));
    wait_until("its process", || !program.is_running());
    program.stop();
}

#[test]
fn connections_of_the_old_process_finish() {
    let text = services(&[poet(0.2, 9.0), echo("a", "0", "")], "drain = 0.1\nrestart-drain = 20");
    let mut program = Restarted::start_poet(&text);
    let (_, port) = (program.port("a"), program.port("poet"));
    let mut reader = Client::connect(port);
    assert_eq!(reader.read_exact(5), &POEM[..5]);
    program.restart();
    assert_eq!(program.generations(), (2, 1));
    assert_eq!(reader.read_to_end().unwrap(), &POEM[5..]);
    program.wait_first();
    assert_eq!(program.generations(), (2, 0));
    assert_eq!(Client::connect(port).read_to_end().unwrap(), POEM);
    program.stop();
}

#[test]
fn a_wrong_configuration_leaves_the_old_process_serving_and_says_where() {
    let good = services(&[echo("a", "0", ""), echo("u", "unix:u", "")], "");
    let program = Restarted::start(&good);
    let port = program.port("a");
    let mut open = Client::connect(port);
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for (wrong, wanted) in [
        (echo("a", "0", "colour = 3"), "a.toml:4:1: unknown key colour".to_owned()),
        (echo("u", "unix:u", "") + &echo("z", &taken, ""), format!("cannot listen on tcp:{taken}")),
    ] {
        program.folder.write(FILE, services(&[wrong], ""));
        program.ctl(&["restart"]).says(1, &wanted);
        program.wait_told("cannot restart: the new process, ");
        assert_eq!(program.read("pid").trim(), program.server.running.pid().to_string());
        echoes(&mut open);
        echoes(&mut Client::connect(port));
        UnixStream::connect(program.folder.path("u")).expect("its file is there");
    }
    assert_eq!(program.generations(), (1, 0));
    // A restart can be tried again.
    program.folder.write(FILE, good);
    program.restart();
    echoes(&mut Client::connect(port));
    program.stop();
}

/// A program that runs by a link to its file, which can be replaced.
pub(super) fn start_linked(text: &str) -> Restarted {
    start_made(Folder::new(), text, &["ln", "-s"])
}

/// A program whose file another process has made in the folder by this command: a child that another
/// test starts could hold a file of ours open for writing.
fn start_made(folder: Folder, text: &str, make: &[&str]) -> Restarted {
    let file = folder.path("program");
    let mut command = Command::new(make[0]);
    command.args(&make[1..]).arg(couplet(&[]).get_program()).arg(&file);
    assert!(command.status().unwrap().success());
    let change = |command: Command| {
        let mut own = Command::new(&file);
        let envs = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        own.args(command.get_args()).envs(envs);
        own
    };
    Restarted(Program::start_changed(folder, text, &[], change))
}

/// Replaces the program's file by a script, as an installation does: not in place. Another process
/// writes it, because a child that another test starts could hold the file open for writing.
pub(super) fn replace(program: &Restarted, script: &str) {
    let write = "printf '#!/bin/sh\\n%s\\n' \"$0\" > new && chmod +x new && mv new program";
    let mut command = Command::new("sh");
    command.args(["-c", write, script]).current_dir(&*program.folder);
    assert!(command.status().unwrap().success());
}

#[test]
fn the_program_s_file_is_the_one_at_its_path_now() {
    let program = start_linked(&services(&[echo("a", "0", "")], ""));
    let (port, real) = (program.port("a"), couplet(&[]).get_program().to_owned());
    replace(&program, &format!("exec {} \"$@\"", real.display()));
    program.restart();
    echoes(&mut Client::connect(port));
    program.stop();
}

#[test]
fn a_new_process_that_ends_or_hangs_is_given_up() {
    let program = start_linked(&services(&[echo("a", "0", "")], "restart-within = 0.3"));
    let port = program.port("a");
    for (script, wanted) in [
        ("exit 3", "has ended: the process exited with code 3"),
        ("echo $$ > new-pid; exec sleep 1000", "has failed: "),
        ("kill -9 $$", "has ended: the process was ended by SIGKILL"),
    ] {
        replace(&program, script);
        program.ctl(&["restart"]).says(1, wanted);
        echoes(&mut Client::connect(port));
    }
    let hangs: i32 = program.read("new-pid").trim().parse().unwrap();
    let hangs = Pid::from_raw(hangs).unwrap();
    wait_until("the end of the one that hangs", || has_ended(hangs));
    assert_eq!(program.generations(), (1, 0));
    program.stop();
}

#[test]
fn a_program_whose_file_cannot_be_read_in_time_is_not_restarted() {
    let program = start_linked(&services(&[echo("a", "0", "")], "read-within = 0.3"));
    let port = program.port("a");
    // The file of a mount that does not answer: a FIFO without a writer. The first read keeps
    // waiting.
    let fifo = program.folder.path("program");
    std::fs::remove_file(&fifo).unwrap();
    assert!(Command::new("mkfifo").args(["-m", "755", &fifo]).status().unwrap().success());
    for wanted in ["cannot read the program: ", "an earlier read has not ended"] {
        program.ctl(&["restart"]).says(1, wanted);
        echoes(&mut Client::connect(port));
    }
    // The mount answers again.
    drop(std::fs::File::options().write(true).open(&fifo).unwrap());
    replace(&program, &format!("exec {} \"$@\"", couplet(&[]).get_program().display()));
    wait_until("the end of the read", || {
        let answer = program.ctl(&["restart"]);
        assert!(answer.code == Some(0) || answer.stderr.contains("earlier read"), "{answer:?}");
        answer.code == Some(0)
    });
    echoes(&mut Client::connect(port));
    program.stop();
}

#[test]
fn moved_connections_keep_their_limits_and_delays() {
    let chat = chat("c");
    let text = services(&[echo("e", "0", "idle-timeout = 2"), chat], "");
    let program = Restarted::start(&text);
    let mut talk = Talk::start(program.port("c"));
    let mut idle = program.connect("e");
    // Far more than its rate allows: ada is read from after a delay.
    let line = [&[b'x'; 400][..], b"\n"].concat();
    let lines = 300;
    let mut ada = talk.ada.another();
    let sending = std::thread::spawn(move || (0..lines).for_each(|_| ada.send(&line)));
    assert!(talk.other.read_line().ends_with('x'));
    program.restart();
    for _ in 1..lines {
        assert!(talk.other.read_line().ends_with('x'));
    }
    sending.join().unwrap();
    talk.say();
    assert!(idle.read_to_end().is_err(), "it is reset for its silence");
    program.stop();
}

#[test]
fn a_program_that_a_restarted_one_starts_is_no_heir() {
    let text = echo("a", "0", "");
    // The variable is inherited from the program that was restarted.
    let program = Program::start_changed(Folder::new(), &text, &[], |mut command| {
        command.env("COUPLET_RESTARTED_BY", "1");
        command
    });
    program.connect("a");
}

#[test]
fn restarts_may_follow_one_another_at_once() {
    let program = Restarted::start(&services(&[echo("a", "0", "")], ""));
    let port = program.port("a");
    // More than `generations`.
    for _ in 0..6 {
        program.restart();
        echoes(&mut Client::connect(port));
    }
    wait_until("the ends of the older", || program.generations() == (7, 0));
    program.stop();
}

/// A release: a folder with a configuration of a site, and the site.
fn release(folder: &Folder, name: &str, more: &str) {
    let at = std::path::PathBuf::from(folder.path(name));
    std::fs::create_dir_all(at.join("www")).unwrap();
    std::fs::write(at.join("www/name"), name).unwrap();
    let top = folder.display();
    let text = format!(
        "[services.a]\nkind = \"serve\"\nfolder = \"www\"\nlisten = \"0\"\n{more}\n\
         [runner]\ndirectory = \"{top}/current\"\ncontrol = \"{top}/ctl\"\npid-file = \"{top}/pid\"\n"
    );
    std::fs::write(at.join(FILE), text).unwrap();
}

#[test]
fn reloads_and_restarts_enter_the_release_to_which_the_link_leads() {
    let folder = Folder::new();
    for name in ["1", "2", "3", "4", "5"] {
        release(&folder, name, "");
    }
    let lead_to = |folder: &Folder, name: &str| {
        let (new, current) = (folder.path("new"), folder.path("current"));
        std::os::unix::fs::symlink(name, &new).unwrap();
        std::fs::rename(new, current).unwrap();
    };
    lead_to(&folder, "1");
    let mut command = couplet(&["run", FILE]);
    command.current_dir(folder.path("current"));
    let program = Restarted(Program { server: Server::start_command(command, 0), folder });
    let port = program.port("a");
    assert_eq!(get(port, "/name"), (200, "1".to_owned()));
    for (order, name) in [("reload", "2"), ("restart", "3"), ("reload", "4"), ("restart", "5")] {
        lead_to(&program.folder, name);
        assert_eq!(get(port, "/name").1.len(), 1);
        let answer = program.ctl(&[order]);
        assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        assert_eq!(get(port, "/name"), (200, name.to_owned()), "{order}");
    }
    // A release that is wrong changes nothing.
    release(&program.folder, "6", "colour = 1");
    lead_to(&program.folder, "6");
    for order in ["reload", "restart"] {
        assert_eq!(program.ctl(&[order]).code, Some(1), "{order}");
        assert_eq!(get(port, "/name"), (200, "5".to_owned()), "{order}");
    }
    // Once it is right, it is entered, although the link has not moved since.
    release(&program.folder, "6", "");
    let answer = program.ctl(&["reload"]);
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    assert_eq!(get(port, "/name"), (200, "6".to_owned()));
    program.stop();
}

#[test]
fn old_processes_do_not_pile_up() {
    let poem = poet(2.0, 900.0);
    let text = services(&[poem], "restart-drain = 900\ngenerations = 3");
    let program = Restarted::start_poet(&text);
    let port = program.port("poet");
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = Client::connect(port);
        reader.read_exact(5);
        readers.push(reader);
        program.restart();
    }
    assert_eq!(program.generations(), (3, 2));
    let wanted =
        "3 processes of the program run, of which 2 have not finished their connections yet";
    program.ctl(&["restart"]).says(1, wanted);
    drop(readers);
    wait_until("the ends of the older", || program.generations() == (3, 0));
    program.restart();
    program.stop();
}

#[test]
fn sigterm_ends_a_replaced_process_and_a_stop_during_the_start_ends_both() {
    let text = services(&[poet(30.0, 900.0)], "restart-drain = 900");
    let mut program = Restarted::start_poet(&text);
    let _reader = program.reader();
    program.restart();
    assert!(program.is_running());
    program.signal(Signal::TERM);
    program.wait_first();
    assert_eq!(program.generations(), (2, 0));
    program.stop();
    // The new process hangs before it serves.
    let mut program = start_linked(&services(&[echo("a", "0", "")], ""));
    program.port("a");
    replace(&program, "echo $$ > new-pid; exec sleep 1000");
    program.signal(Signal::USR2);
    program.wait_read("new-pid", "\n");
    let new: i32 = program.read("new-pid").trim().parse().unwrap();
    program.signal(Signal::TERM);
    program.wait_first();
    let new = Pid::from_raw(new).unwrap();
    wait_until("the end of the second", || has_ended(new));
}

#[test]
fn changed_options_of_an_endpoint_keep_its_socket() {
    let free = std::net::TcpListener::bind("127.0.76.1:0").unwrap().local_addr().unwrap();
    let config = |options: &str| {
        let unix = echo("u", &format!("unix:u{options}"), "");
        services(&[echo("a", &format!("{free}{options}"), ""), unix], "")
    };
    let program = Restarted::start(&config(""));
    let next = |program: &Restarted| {
        assert_eq!(program.port("a"), free);
        program.server.line();
        echoes(&mut Client::connect(free));
        UnixStream::connect(program.folder.path("u")).expect("it listens");
    };
    next(&program);
    assert_eq!(program.reload_by_ctl(&config(":backlog=60")).code, Some(0));
    next(&program);
    program.folder.write(FILE, config(":connections=50"));
    program.restart();
    next(&program);
    program.stop();
}

#[test]
fn nothing_is_refused_reset_lost_or_doubled_in_a_hundred_restarts() {
    let chat = chat("c");
    let proxied = echo("h", "haproxy:tcp:0:interface=127.0.0.1", "");
    let all = [chat, echo("e", "0", ""), proxied, echo("u", "unix:u", ""), poet(0.001, 9.0)];
    let text = services(&all, "generations = 100");
    let program = Restarted::start_poet(&text);
    let (chat, port, proxied) = (program.port("c"), program.port("e"), program.wrapped_port());
    program.port("poet");
    program.server.line();
    let mut idle: Vec<Client> =
        (0..few_or_many(200, 5000)).map(|_| Client::connect(port)).collect();
    let mut talk = Talk::start(chat);
    let load = Load::start(port, proxied, program.folder.path("u"));
    for _ in 0..100 {
        program.restart();
        talk.say();
    }
    let status = program.ctl(&["status"]);
    assert!(status.text().contains("192.0.2.1:1001"), "the client's address: {}", status.text());
    load.end(&program);
    idle.iter_mut().for_each(echoes);
    assert_eq!(program.generations().0, 101);
    program.stop();
}

#[test]
fn a_member_of_a_chat_on_a_bus_keeps_its_name_in_the_new_process() {
    let Some(bus) = servers::Server::start(&[]) else { return };
    let chat = format!("{}bus = \"{}\"\n", chat("c"), bus.url());
    let chat = services(&[chat], "generations = 20");
    let program = Restarted::start(&chat);
    let mut ada = Client::connect(program.port("c"));
    ada.send(b"/nick ada\n");
    while ada.read_line() != "* guest-1 is now ada" {}
    let other = Restarted::start(&chat);
    let mut bob = Client::connect(other.port("c"));
    bob.send(b"/nick bob\n");
    let mut heard = Vec::new();
    for round in 0..10 {
        wait_until("both to be listed", || {
            bob.send(b"/who\n");
            while heard.last().is_none_or(|line: &String| !line.contains(" here: ")) {
                heard.push(bob.read_line());
            }
            heard.pop().unwrap() == "* 2 here: ada, bob (you)"
        });
        program.restart();
        ada.send(format!("{round}\n").as_bytes());
    }
    while heard.last().is_none_or(|line| line != "<ada> 9") {
        heard.push(bob.read_line());
    }
    heard.retain(|line| line.contains("ada") && !line.contains(" is here "));
    assert_eq!(heard, (0..10).map(|round| format!("<ada> {round}")).collect::<Vec<_>>());
    wait_until("the end of the old processes", || program.generations().1 == 0);
    program.stop();
}

#[test]
fn a_slow_reader_gets_the_rest_from_the_new_process() {
    let mut program = Restarted::start(&services(&[echo("e", "0", "idle-timeout = 60")], ""));
    let mut client = program.connect("e");
    let bytes = noise(20_000_000);
    let sent = client.push(&bytes);
    assert!(sent < bytes.len(), "the server reads no faster than its client");
    program.restart();
    program.wait_first();
    program.wait_told("took connections over connections=1");
    let status = program.ctl(&["status"]);
    let is_unsent = |line: &str| line.contains("buffered") && !line.contains("buffered 0");
    assert!(status.text().lines().any(is_unsent), "{}", status.text());
    assert!(client.read_exact(sent) == bytes[..sent], "other bytes came back");
    let status = program.ctl(&["status"]);
    let counters = format!("in {0} out {0} buffered 0", sent + 5);
    assert!(status.text().contains(&counters), "{}", status.text());
    program.stop();
}

#[test]
fn connections_stay_if_the_new_process_does_not_know_their_kind() {
    // Two chats: the new process can't distinguish their members.
    let mut program = Restarted::start(&services(&[chat("a"), chat("b")], ""));
    let mut member = Client::connect(program.port("a"));
    assert!(member.read_line().contains("Welcome"));
    program.restart();
    let rest = String::from_utf8(member.read_to_end().unwrap()).unwrap();
    assert!(rest.ends_with("* The server is stopping. Goodbye.\n"), "{rest:?}");
    program.wait_first();
    program.stop();
}

#[test]
fn hundreds_of_sockets_go_along() {
    let listen = vec!["\"0\""; 300].join(", ");
    let many = format!("[services.many]\nkind = \"echo\"\nlisten = [{listen}]\n");
    let program = Restarted::start(&services(&[many], ""));
    let line = |program: &Restarted| program.server.line();
    let before: Vec<String> = (0..300).map(|_| line(&program)).collect();
    program.restart();
    let after: Vec<String> = (0..300).map(|_| line(&program)).collect();
    assert_eq!(before, after);
    program.stop();
}

#[test]
fn an_endpoint_that_has_changed_is_opened_anew_and_one_whose_table_has_another_name_is_kept() {
    let unix = |name: &str| echo(name, "unix:b", "");
    let mut program = Restarted::start(&services(&[echo("a", "0", ""), unix("b")], ""));
    let a = program.port("a");
    program.server.line();
    program.folder.write(FILE, services(&[echo("a", "127.0.75.1:0", ""), unix("c")], ""));
    program.restart();
    assert_eq!(program.port("a").ip().to_string(), "127.0.75.1");
    program.server.line();
    program.wait_first();
    assert!(is_refused(a));
    UnixStream::connect(program.folder.path("b")).expect("it listens");
    program.stop();
}

#[test]
fn a_program_that_has_become_another_user_keeps_its_low_port() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = Folder::new();
    std::os::unix::fs::chown(&*folder, Some(65534), None).unwrap();
    // Only root may bind it, and no other test uses the address.
    let low = "127.0.77.1:799";
    let text =
        services(&[echo("a", low, "")], "").replace("[runner]", "[runner]\nuser = \"65534\"");
    // The other user may not see the folder that the program was built in.
    let program = start_made(folder, &text, &["cp"]);
    let port = program.port("a");
    let mut open = Client::connect(port);
    echoes(&mut open);
    let pid = program.restart();
    let status = format!("/proc/{}/status", pid.as_raw_nonzero());
    assert!(std::fs::read_to_string(status).unwrap().contains("Uid:\t65534"));
    echoes(&mut open);
    echoes(&mut Client::connect(port));
    // A reload keeps the port too.
    let changed = text.replace("[runner]", "idle-timeout = 9\n[runner]");
    assert_eq!(program.reload_by_ctl(&changed).code, Some(0));
    echoes(&mut Client::connect(port));
    program.stop();
}
