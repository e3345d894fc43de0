//! Messages to systemd, and sockets from it.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;

use rustix::process::Signal;

use super::restart::Restarted;
use super::{POEM, Program, behind, echo, folder_with_poem, poet};
use crate::inherited::{PARENT, echoes};
use crate::kit::{Client, PATIENCE};
use crate::needed::Folder;

const PROCESS: &str = "[runner]\ncontrol = \"ctl\"\npid-file = \"pid\"\n";

/// The service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn new(folder: &Folder) -> Manager {
        let socket = UnixDatagram::bind(folder.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    /// Starts a program that notifies this socket.
    fn start(folder: Folder, text: &str) -> (Program, Manager) {
        let manager = Manager::new(&folder);
        let path = folder.path("notify");
        let program = Program::start_changed(folder, text, &["-v"], |mut command| {
            command.env("NOTIFY_SOCKET", path);
            command
        });
        (program, manager)
    }

    /// The next message.
    fn message(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn expect_ready(&self) {
        let message = self.message();
        let status = message.strip_prefix("READY=1\nSTATUS=").expect(&message);
        assert!(status.contains("services ready"), "{status}");
    }

    fn expect_reloading(&self) {
        let message = self.message();
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&message);
        assert!(time.trim_end().parse::<u64>().is_ok_and(|time| time > 0), "{message}");
    }

    fn expect_stopping(&self) {
        let message = self.message();
        assert!(message.starts_with("STOPPING=1\n"), "{message}");
    }

    /// Asserts that no message is queued.
    fn is_silent(&self) {
        self.0.set_nonblocking(true).unwrap();
        self.0.recv(&mut [0; 100]).expect_err("no message");
        self.0.set_nonblocking(false).unwrap();
    }
}

#[test]
fn it_is_ready_once_all_services_listen() {
    let (a, b) = (echo("a", "unix:a", ""), echo("b", "unix:b", ""));
    let (program, manager) = Manager::start(Folder::new(), &(a + &b));
    manager.expect_ready();
    for name in ["a", "b"] {
        UnixStream::connect(program.folder.path(name)).unwrap();
    }
    let Program { server, folder } = program;
    assert_eq!(server.stop(Signal::TERM).code, Some(0));
    manager.expect_stopping();
    manager.is_silent();
    drop(folder);
}

#[test]
fn a_start_that_fails_is_never_ready() {
    let text = echo("a", "unix:a", "") + &echo("b", "unix:no/where", "");
    let (program, manager) = Manager::start(Folder::new(), &text);
    let (ended, _folder) = program.ended();
    assert_eq!(ended.code, Some(1));
    manager.expect_stopping();
    manager.is_silent();
}

#[test]
fn a_reload_is_reported_even_if_the_file_is_wrong() {
    let text = echo("a", "0", "");
    let (mut program, manager) = Manager::start(Folder::new(), &text);
    manager.expect_ready();
    for (text, wanted) in [(&*text, "reloaded: "), ("nonsense", "cannot reload: ")] {
        program.reload(text);
        manager.expect_reloading();
        manager.expect_ready();
        program.wait_told(wanted);
    }
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
    manager.expect_stopping();
}

/// A program in the middle of a reload, which drains a reader for a second.
fn draining_reload() -> (Program, Manager, Client) {
    let (mut program, manager) = Manager::start(folder_with_poem(), &poet(30.0, 1.0));
    manager.expect_ready();
    let mut reader = Client::connect(program.port("poet"));
    reader.read_exact(5);
    program.reload(&echo("b", "0", ""));
    manager.expect_reloading();
    program.wait_told("draining connections=1");
    (program, manager, reader)
}

#[test]
fn two_reloads_are_ready_after_the_second() {
    let (mut program, manager, _reader) = draining_reload();
    program.reload(&echo("c", "0", ""));
    program.port("b");
    program.port("c");
    manager.expect_reloading();
    manager.expect_ready();
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
    manager.expect_stopping();
}

#[test]
fn a_program_that_ends_during_a_reload_is_not_ready_again() {
    let (mut program, manager, _reader) = draining_reload();
    program.signal(Signal::TERM);
    manager.expect_stopping();
    assert_eq!(program.ended().0.code, Some(0));
    manager.is_silent();
}

#[test]
fn it_reports_the_stop_before_connections_are_drained() {
    let text = poet(0.5, 60.0) + "[supervisor]\ndrain = 60\n";
    let (mut program, manager) = Manager::start(folder_with_poem(), &text);
    manager.expect_ready();
    let mut reader = Client::connect(program.port("poet"));
    reader.read_exact(5);
    program.signal(Signal::TERM);
    manager.expect_stopping();
    assert!(program.is_running());
    assert_eq!(reader.read_to_end().unwrap(), &POEM[5..]);
    reader.finish();
    let (ended, _folder) = program.ended();
    assert_eq!(ended.code, Some(0));
    manager.is_silent();
}

#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let folder = Folder::new();
    let manager = Manager::new(&folder);
    let path = folder.path("notify");
    let text = echo("a", "0", "") + "[supervisor]\nnot-ready-for = 0.2\n";
    let program = Program::start_changed(folder, &text, &[], |mut command| {
        command.env("NOTIFY_SOCKET", path);
        command.env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
        command
    });
    manager.expect_ready();
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
    manager.expect_stopping();
    manager.is_silent();
}

#[test]
fn a_restart_names_the_new_main_process_which_feeds_the_watchdog() {
    let folder = Folder::new();
    let manager = Manager::new(&folder);
    let path = folder.path("notify");
    let text = echo("a", "0", "") + PROCESS;
    let program = Restarted(Program::start_changed(folder, &text, &[], |program| {
        let mut command = behind(&["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"], &program);
        command.env("NOTIFY_SOCKET", path).env("WATCHDOG_USEC", "2000000");
        command
    }));
    manager.expect_ready();
    let pid = program.restart();
    let without_watchdog = || loop {
        let message = manager.message();
        if message.trim_end() != "WATCHDOG=1" {
            return message;
        }
    };
    assert_eq!(without_watchdog().trim_end(), format!("MAINPID={}", pid.as_raw_nonzero()));
    assert!(without_watchdog().starts_with("READY=1\n"));
    assert_eq!(manager.message().trim_end(), "WATCHDOG=1", "of the new process");
    program.stop();
    assert!(without_watchdog().starts_with("STOPPING=1\n"), "of the new process, and no other");
}

#[test]
fn a_socket_of_systemd_activates_a_service_and_goes_along_in_a_restart() {
    const ACTIVATE: &str = "systemd-socket-activate";
    needs!(ACTIVATE);
    let folder = Folder::new();
    let path = folder.path("socket");
    let text = echo("a", "systemd:web", "") + PROCESS;
    let change = |program| behind(&[ACTIVATE, "--listen", &path, "--fdname=web"], &program);
    let program = Restarted(Program::start_changed(folder, &text, &[], change));
    program.wait_told("Listening on");
    // The program starts with the first connection.
    let client = UnixStream::connect(&path).unwrap();
    echoes(&client);
    assert_eq!(program.server.line(), format!("a listening on unix:{path}"));
    program.restart();
    echoes(&client);
    echoes(UnixStream::connect(&path).expect("it listens"));
    program.stop();
}

#[test]
fn the_file_of_an_inherited_socket_stays_in_restarts_and_stops() {
    needs!("python3");
    for listen in ["systemd:local", "fd:4", "throttle:systemd:local:write=1M"] {
        let folder = Folder::new();
        let path = folder.path("socket");
        let text = echo("a", listen, "") + PROCESS;
        let change = |program| behind(&["python3", "-c", PARENT, &path, ""], &program);
        let mut program = Restarted(Program::start_changed(folder, &text, &[], change));
        program.server.line();
        for _ in 0..2 {
            program.restart();
            echoes(UnixStream::connect(&path).expect(listen));
        }
        program.stop_newest();
        assert!(program.folder.names().contains(&"socket".to_owned()), "{listen}");
    }
}

#[test]
fn the_unit_file_is_right_and_locked_up() {
    needs!("systemd-analyze");
    let unit = include_str!("../../../../../contrib/couplet.service");
    // What systemd before 253 does not know, as the file says, and a program that is installed.
    let program = format!("ExecStart={}", env!("CARGO_BIN_EXE_couplet"));
    let unit = unit
        .replace("Type=notify-reload", "Type=notify\nExecReload=/bin/kill -HUP $MAINPID")
        .replace("ExecStart=/usr/bin/couplet", &program);
    assert!(unit.contains(&program) && unit.contains("ExecReload"));
    let folder = Folder::new();
    let file = folder.write("couplet.service", unit);
    let analyze = |words: &[&str]| {
        let said = Command::new("systemd-analyze").args(words).arg(&file).output().unwrap();
        let text = [said.stdout, said.stderr].concat();
        assert!(said.status.success(), "{words:?}: {}", String::from_utf8_lossy(&text));
        text
    };
    assert_eq!(String::from_utf8_lossy(&analyze(&["verify"])), "");
    // An exposure of at most 2.0 of 10.
    analyze(&["security", "--offline=true", "--threshold=20"]);
}
