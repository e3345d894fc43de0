//! The process: its pid file, and its user.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;

use super::{Program, echo, echoes, run_in};
use crate::kit::{Client, couplet, missing, wait_until};
use crate::needed::Folder;

const LOCKED: &str = "[runner]\npid-file = \"pid\"\n";

#[test]
fn the_pid_file_has_the_number_until_the_end_and_a_stale_one_prevents_no_start() {
    let text = echo("a", "0", "") + LOCKED + "control = \"ctl\"\n";
    let mut folder = Folder::new();
    for left in ["", "of the process before", "999999999999 is a long number and no process\n"] {
        if !left.starts_with("of") {
            folder.write("pid", left);
        }
        let mut program = Program::start_with(folder, &text, &[]);
        program.port("a");
        assert_eq!(program.read("pid"), format!("{}\n", program.server.running.pid()));
        program.ctl(&["status"]).quietly(0);
        let is_last = left.starts_with('9');
        program.signal(if is_last { Signal::TERM } else { Signal::KILL });
        let ended;
        (ended, folder) = program.ended();
        assert_eq!(ended.code, is_last.then_some(0));
        let pid = std::fs::read_to_string(folder.path("pid")).unwrap();
        assert_eq!(pid.is_empty(), is_last, "{left:?}: {pid}");
    }
}

#[test]
fn a_second_start_is_1_and_names_the_process() {
    let program = Program::start(&(echo("a", "0", "") + LOCKED));
    program.port("a");
    let pid = program.server.running.pid();
    let ended = run_in(&program.folder, &(echo("a", "0", "") + LOCKED), &[]);
    assert_eq!((ended.code, ended.text()), (Some(1), ""));
    let wanted = format!("couplet: process {pid} is running: it has locked the pid file pid\n");
    assert_eq!(ended.stderr, wanted);
    assert_eq!(program.read("pid"), format!("{pid}\n"));
    program.stop(Signal::TERM).quietly(0);
}

/// A port below 1024 that is free; `None` if only root may listen there and we are not.
fn low_port() -> Option<u16> {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = rustix::process::geteuid().is_root().then(|| (600..1024).rev().find(is_free));
    if port.flatten().is_none() {
        missing("root's right to listen below 1024");
    }
    port.flatten()
}

/// The numbers of a user, its group, and its other groups, by the command `id`.
fn numbers_of(user: &str) -> Option<(String, String, Vec<String>)> {
    let id = |option| {
        let output = Command::new("id").args([option, user]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let (uid, gid) = (id("-u")?, id("-g")?);
    let others = id("-G")?.split(' ').filter(|it| **it != gid).map(str::to_owned).collect();
    Some((uid, gid, others))
}

/// The sorted values of a field in the status of each thread of a process.
fn fields(pid: u32, field: &str) -> Vec<Vec<String>> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")));
    let line = |status: std::io::Result<String>| {
        let status = status.unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let mut values: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        values.sort();
        values
    };
    statuses.map(line).collect()
}

#[test]
fn the_user_changes_in_all_threads_once_the_ports_are_open() {
    let (Some(port), Some((uid, gid, others))) = (low_port(), numbers_of("nobody")) else {
        return;
    };
    let listen = format!("127.0.0.1:{port}");
    let (others, none) = (&others[..], &[][..]);
    for (key, args, uid, gid, others) in [
        ("user = \"nobody\"", &[][..], &*uid, &*gid, others),
        ("", &["--user", "nobody"], &*uid, &*gid, others),
        ("user = \"nobody\"", &["--group", "12345"], &*uid, "12345", others),
        ("", &["--user", "23456"], "23456", "23456", none),
        ("", &["--group", "12345"], "0", "12345", none),
    ] {
        let text = echo("a", &listen, "[runner]\npid-file = \"pid\"") + key;
        let args = [args, &["-v"]].concat();
        let program = Program::start_with(Folder::new(), &text, &args);
        assert_eq!(program.port("a").port(), port);
        program.wait_told("started");
        let groups = [&[gid.to_owned()], others].concat();
        for (field, mut wanted) in [
            ("Uid:", vec![uid.to_owned(); 4]),
            ("Gid:", vec![gid.to_owned(); 4]),
            ("Groups:", groups),
        ] {
            wanted.sort();
            for found in fields(program.server.running.pid(), field) {
                assert_eq!(found, wanted, "{field} {key} {args:?}");
            }
        }
        echoes(&mut Client::connect(([127, 0, 0, 1], port).into()));
        let folder = program.terminated();
        assert_eq!(std::fs::read_to_string(folder.path("pid")).unwrap(), "");
        wait_until("the port", || TcpListener::bind(("127.0.0.1", port)).is_ok());
    }
}

#[test]
fn the_control_socket_belongs_to_the_user() {
    let (true, Some((uid, ..))) = (rustix::process::geteuid().is_root(), numbers_of("nobody"))
    else {
        return missing("root");
    };
    let text = echo("a", "0", "[runner]\ncontrol = \"ctl\"\nuser = \"nobody\"");
    let program = Program::start_with(Folder::new(), &text, &["-v"]);
    program.port("a");
    program.wait_told("started");
    let socket = std::fs::metadata(program.folder.path("ctl")).unwrap();
    assert_eq!(socket.uid().to_string(), uid);
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    program.ctl(&["status"]).quietly(0);
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_log_file_of_root_is_opened_again_by_the_user() {
    if !rustix::process::geteuid().is_root() {
        return missing("the user root");
    }
    let folder = Folder::new();
    std::fs::set_permissions(&*folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let text = echo("a", "0", "[runner]\nlog-file = \"log\"\nuser = \"nobody\"");
    let mut program = Program::start_with(folder, &text, &["-v"]);
    program.wait_read("log", "started");
    // In place, and after a rename.
    program.signal(Signal::HUP);
    program.wait_read("log", "reloaded");
    std::fs::rename(program.folder.path("log"), program.folder.path("old")).unwrap();
    program.signal(Signal::HUP);
    program.wait_read("log", "reloaded");
    for name in ["log", "old"] {
        assert!(!program.read(name).contains("cannot open"), "{}", program.read(name));
    }
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn a_log_file_that_the_user_cannot_open_again_is_reported_at_the_start() {
    if !rustix::process::geteuid().is_root() {
        return missing("the user root");
    }
    // The modes of the folders of the log, from the outside, and the warning.
    for (modes, wanted) in [
        ([0o755, 0o777], None),
        ([0o755, 0o755], Some("SIGHUP cannot make a new log file: ")),
        ([0o700, 0o777], Some("SIGHUP and restarts cannot open the log file again: ")),
    ] {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.path("outer/inner")).unwrap();
        for (name, mode) in ["outer", "outer/inner"].into_iter().zip(modes) {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path(name), mode).unwrap();
        }
        let keys = "[runner]\nlog-file = \"outer/inner/log\"\nuser = \"nobody\"";
        let program = Program::start_with(folder, &echo("a", "0", keys), &["-v"]);
        program.port("a");
        program.wait_read("outer/inner/log", "started");
        let log = program.read("outer/inner/log");
        let line = log.lines().find(|line| line.contains(" WARN "));
        match wanted {
            None => assert_eq!(line, None),
            Some(words) => assert!(line.is_some_and(|line| line.contains(words)), "{log}"),
        }
        program.stop(Signal::TERM).quietly(0);
    }
}

#[test]
fn a_user_that_one_may_not_become_is_1() {
    let (true, Some((uid, gid, _))) = (rustix::process::geteuid().is_root(), numbers_of("nobody"))
    else {
        return missing("root");
    };
    let folder = Folder::new();
    let file = folder.write("a.toml", echo("a", "0", ""));
    for (path, mode) in [(folder.path(""), 0o755), (file.clone(), 0o644)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // The target folder may be root's. A process copies, so that no child of another test inherits
    // the descriptor, which would prevent the start.
    let program = folder.path("couplet");
    let mut copy = Command::new("cp");
    assert!(copy.args([env!("CARGO_BIN_EXE_couplet"), &program]).status().unwrap().success());
    let ours = couplet(&[]);
    let mut command = Command::new(&program);
    command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args(["run", &file, "--user", "root"]);
    command.uid(uid.parse().unwrap()).gid(gid.parse().unwrap());
    let ended = crate::kit::Running::start(&mut command).ended();
    ended.says(1, "couplet: cannot change the user or group: ");
}
