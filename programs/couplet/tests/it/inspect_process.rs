//! `couplet inspect PID`: the inspector, the status or the snapshot of a process.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Signal, geteuid};

use crate::inspect::json;
use crate::kit::{Running, Server, TempFile, couplet, run, wait_until};
use crate::needed::Folder;

fn inspect(pid: u32, more: &[&str]) -> crate::kit::Ended {
    run(&[&["inspect", &pid.to_string()], more].concat())
}

#[track_caller]
fn is_refused(pid: u32, words: &str) {
    let ended = inspect(pid, &[]);
    assert_eq!(ended.text(), "");
    ended.says(1, &format!("couplet: cannot inspect process {pid}: {words}"));
}

#[test]
fn c183b_a_unix_socket_of_an_inspector_is_found() {
    let folder = Folder::new();
    // The path is relative to the folder of the server.
    let mut command = couplet(&["echo", "--inspect", "unix:relative.sock"]);
    command.current_dir(&*folder);
    let server = Server::start_command(command, 1);
    let client = server.connect();
    let pid = server.running.pid();
    wait_until("a connection", || inspect(pid, &[]).text().contains("connections (1)"));
    let state = json(&["inspect", &pid.to_string(), "--json"]);
    assert_eq!(state["program"]["pid"], pid);
    inspect(pid, &["--check"]).quietly(0);
    drop(client);
    server.stop(Signal::TERM);
}

#[test]
fn c183b_a_control_socket_returns_the_url_of_an_inspector_or_the_status() {
    let folder = Folder::new();
    let text = "[services.a]\nkind = \"echo\"\nlisten = \"0\"\n[runner]\ncontrol = \"ctl\"\n";
    folder.write("a.toml", text);
    for args in [&["--inspect", "0"][..], &[]] {
        let mut command = couplet(&[&["run", "a.toml"], args].concat());
        command.current_dir(&*folder);
        let server = Server::start_command(command, 0);
        let line = server.line();
        assert!(line.starts_with("a listening on tcp:"), "{line}");
        let pid = server.running.pid();
        let ended = inspect(pid, &[]);
        if args.is_empty() {
            ended.says(0, &format!("process {pid}: it has no inspector: "));
            let status = format!("couplet, generation 1 (process {pid}) for ");
            assert!(ended.text().starts_with(&status), "{}", ended.text());
            assert_eq!(json(&["inspect", &pid.to_string(), "--json"])["pid"], pid);
            let ended = inspect(pid, &["--check"]);
            assert_eq!(ended.text(), "");
            ended.says(1, "has no inspector, which");
        } else {
            ended.quietly(0);
            assert!(ended.text().contains(&format!(", pid {pid}, ")), "{}", ended.text());
        }
        server.stop(Signal::TERM);
    }
}

#[test]
fn c183b_a_program_without_sockets_prints_a_snapshot() {
    // Into a file, whose new part is shown.
    let log = TempFile::named("log", b"");
    let mut command = couplet(&["echo"]);
    command.stderr(File::create(log.path()).unwrap()).stdin(Stdio::null());
    let mut server = Running::spawn(command.stdout(Stdio::piped()));
    wait_until("its handlers", || inspect(server.pid(), &[]).code == Some(0));
    std::fs::write(log.path(), "an older line\n").unwrap();
    let ended = inspect(server.pid(), &[]);
    ended.quietly(0);
    assert!(ended.text().contains("1 ports, 0 connectors, 0 connections"), "{}", ended.text());
    assert!(!ended.text().contains("older"), "{}", ended.text());
    server.signal(Signal::TERM);
    assert_eq!(server.ended().code, Some(0));
    // Into a pipe, which only its reader can read.
    let server = Server::start(&["echo", "--inspect", "0"]);
    let ended = inspect(server.running.pid(), &[]);
    ended.says(0, "nor a control socket: its log has the URL");
    let told = "a snapshot was printed to its stderr, pipe:[";
    assert!(ended.text().starts_with(told), "{}", ended.text());
    server.wait_told("1 ports, ");
    server.stop(Signal::TERM);
}

#[test]
fn c183b_a_process_that_does_not_catch_the_signal_is_left_alone() {
    let mut other = Running::start(Command::new("sleep").arg("60"));
    is_refused(other.pid(), "it has neither an ");
    assert!(other.is_running());
}

#[test]
fn a_process_that_does_not_exist_has_exited_or_is_another_users_is_an_error() {
    for pid in [0, u32::MAX, i32::MAX as u32] {
        is_refused(pid, "it does not exist\n");
    }
    let mut exited = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", exited.id());
    wait_until("a zombie", || std::fs::read_to_string(&status).unwrap().contains("Z (zombie)"));
    is_refused(exited.id(), "it has exited, ");
    exited.wait().unwrap();
    if !geteuid().is_root() {
        is_refused(1, "it belongs to another user, 0: ");
        return;
    }
    let program = couplet(&["inspect", "1"]);
    let copy = TempFile::named("couplet", &std::fs::read(program.get_program()).unwrap());
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(copy.path(), readable).unwrap();
    let mut command = Command::new(copy.path());
    let told = "couplet: cannot inspect process 1: it belongs to another user, 0: run this as";
    Running::start(command.args(["inspect", "1"]).uid(65534)).ended().says(1, told);
}
