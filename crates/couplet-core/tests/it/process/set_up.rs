//! Rows 150, 151 and 153: the environment and the descriptors of a child.

use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::Read;

use couplet::process::{ChildFd, NotWritable, Resource};

use super::{Command, Nursery, sh};

/// Lists the open descriptors of the shell that runs it, except the one that reads the list.
#[cfg(target_os = "linux")]
const LIST: &str = "cd /proc/$$/fd; for fd in *; do [ -e $fd ] && echo $fd; done";

#[test]
fn c150_a_child_inherits_our_environment_by_default() {
    let mut nursery = Nursery::new();
    let ours = std::env::var("PATH").expect("this process has one");
    assert_eq!(nursery.run(sh("echo $PATH")).text(1).trim_end(), ours);
    let command = sh("echo $PATH-$ROSE").env_clear().env("PATH", "/bin").env("ROSE", "red");
    assert_eq!(nursery.run(command).text(1), "/bin-red\n");
}

#[cfg(target_os = "linux")]
#[test]
fn c150c_a_child_does_not_inherit_the_variables_by_which_systemd_addresses_us() {
    const TEST: &str = "process::set_up::c150c_a_child_does_not_inherit_the_variables_by_which_systemd_addresses_us";
    let names = [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDNAMES",
        "FDSTORE",
    ];
    if crate::apart::told().is_none() {
        let mut again = crate::apart::again(TEST, "inside");
        let status = again.envs(names.map(|name| (name, "x"))).env("LISTEN_ROSES", "7").status();
        return assert!(status.expect("it starts").success());
    }
    assert!(names.iter().all(|name| std::env::var(name).is_ok()), "this process has them");
    let mut nursery = Nursery::new();
    let inherited = nursery.run(Command::new("env")).text(1);
    let has =
        |text: &str, name: &str| text.lines().any(|line| line.starts_with(&format!("{name}=")));
    assert!(!names.iter().any(|name| has(&inherited, name)), "{inherited}");
    assert!(has(&inherited, "LISTEN_ROSES") && has(&inherited, "PATH"), "{inherited}");
    // A command may pass them on.
    let passed = nursery.run(Command::new("env").env("NOTIFY_SOCKET", "/rose")).text(1);
    assert!(passed.contains("NOTIFY_SOCKET=/rose\n"), "{passed}");
    // The endpoint starts its programs in the same way.
    let (asks, answer) = couplet_testkit_loops::suite::callbacks::Asks::new("");
    let connecting = nursery.l.reactor().connect_protocol("process:env", asks);
    let answer = nursery.l.run_until(connecting.then(move |_| answer)).expect("it answers");
    let answer = String::from_utf8(answer).expect("text");
    assert!(has(&answer, "PATH") && !names.iter().any(|name| has(&answer, name)), "{answer}");
}

#[test]
fn the_last_change_of_a_variable_is_the_one_that_counts() {
    type Change = fn(Command) -> Command;
    let cases: [(Change, &str); 9] = [
        (|child| child.env("ROSE", "red").env_clear(), ""),
        (|child| child.env("ROSE", "red").env_clear().env("LILY", "white"), "LILY=white\n"),
        (|child| child.env_clear().env("ROSE", "red").env_clear(), ""),
        (|child| child.env("ROSE", "red").env_clear().env("ROSE", "pink"), "ROSE=pink\n"),
        (|child| child.env_clear().env("ROSE", "red").env("ROSE", "pink"), "ROSE=pink\n"),
        (|child| child.env_clear().env("ROSE", "red").env_remove("ROSE"), ""),
        (|child| child.env_clear().env_remove("ROSE").env("ROSE", "red"), "ROSE=red\n"),
        (|child| child.env_clear().env("A", "1").env("B", "2").env_remove("A"), "B=2\n"),
        (|child| child.env_remove("PATH").env_clear().env("A", ""), "A=\n"),
    ];
    let mut nursery = Nursery::new();
    for (change, expected) in cases {
        let command = change(Command::new("/usr/bin/env"));
        assert_eq!(nursery.run(command.clone()).text(1), expected, "{command:?}");
    }
}

#[test]
fn an_inherited_variable_can_be_removed_and_replaced() {
    type Change = fn(Command) -> Command;
    let cases: [(Change, &str); 4] = [
        (|child| child.env_remove("PATH"), ""),
        (|child| child.env("PATH", "/rose"), "/rose"),
        (|child| child.env_remove("PATH").env("PATH", "/rose"), "/rose"),
        (|child| child.env("PATH", "/rose").env_remove("PATH"), ""),
    ];
    let mut nursery = Nursery::new();
    for (change, expected) in cases {
        let command = change(Command::new("/usr/bin/env").env("LILY", "white"));
        let text = nursery.run(command.clone()).text(1);
        let path = text.lines().find_map(|line| line.strip_prefix("PATH="));
        assert_eq!(path.unwrap_or_default(), expected, "{command:?}");
        assert!(text.contains("LILY=white"), "{text}");
    }
}

#[test]
fn c150a_a_command_sets_directory_mask_and_limits_and_the_last_limit_of_a_resource_counts() {
    let mut nursery = Nursery::new();
    let command = sh("pwd; umask; ulimit -n; ulimit -Hn; ulimit -c; ulimit -f")
        .current_dir("/")
        .umask(0o027)
        .limit(Resource::Descriptors, 45, 60)
        .limit(Resource::CoreSize, 0, 0)
        .limit(Resource::Descriptors, 40, 50)
        .limit(Resource::FileSize, 512 * 1024, 1024 * 1024);
    // In blocks of 512 bytes, or of 1024 where the shell is bash.
    let text = nursery.run(command).text(1);
    let blocks = text.strip_prefix("/\n0027\n40\n50\n0\n").expect(&text).trim_end();
    assert!(["1024", "512"].contains(&blocks), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn c150a_a_child_leads_a_group_or_a_session_and_has_a_death_signal() {
    let mut nursery = Nursery::new();
    // In /proc/PID/stat, state, parent, group and session follow the name in parentheses.
    let script = "read stat < /proc/$$/stat; set -- ${stat##*)}; echo $$ $3 $4";
    let numbers = |text: String| -> Vec<u32> {
        text.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    };
    let ours = numbers(nursery.run(sh(script)).text(1));
    assert!(ours[0] != ours[1] && ours[0] != ours[2]);
    let group = numbers(nursery.run(sh(script).process_group(0)).text(1));
    assert!(group[0] == group[1] && group[2] == ours[2], "{group:?}");
    let session = numbers(nursery.run(sh(script).new_session()).text(1));
    assert!(session[0] == session[1] && session[0] == session[2], "{session:?}");
    // The child dies with the thread that started it, as another user too.
    let sleeps = || sh("exec sleep 1000").death_signal(9).inherit_stdio();
    let mut commands = vec![sleeps()];
    if rustix::process::geteuid().is_root() {
        commands.push(sleeps().uid(65_534));
    }
    for command in commands {
        let (ended, on_end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let nursery = Nursery::new();
            let (process, _) = nursery.spawn(command);
            ended.send(process.pid().expect("it runs")).expect("the test waits");
        });
        let pid = on_end.recv().expect("it started");
        nursery.until("the death of the child", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }
}

#[cfg(target_os = "linux")]
#[test]
fn c150b_a_child_runs_as_another_user_where_we_may() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut nursery = Nursery::new();
    let command = sh("id -u; id -g; id -G").uid(65_534).gid(65_533);
    assert_eq!(nursery.run(command).text(1), "65534\n65533\n65533\n");
    let command = sh("id -G").uid(65_534).gid(65_533).groups([65_531, 65_532]);
    assert_eq!(nursery.run(command.clone()).text(1), "65533 65531 65532\n");
    // The last ones count.
    let command = command.groups([65_530]).gid(65_529);
    assert_eq!(nursery.run(command).text(1), "65529 65530\n");
}

#[cfg(target_os = "linux")]
#[test]
fn c150b_another_user_has_none_of_our_supplementary_groups() {
    use rustix::process::{Gid, getgroups};
    use rustix::thread::set_thread_groups;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let before = getgroups().expect("our groups");
    // Only for this thread, which starts the children.
    set_thread_groups(&[Gid::from_raw(65_530)]).expect("we may");
    let mut nursery = Nursery::new();
    assert!(nursery.run(sh("id -G")).text(1).contains("65530"), "a child of ours has them");
    let command = sh("id -G").uid(65_534).gid(65_533);
    assert_eq!(nursery.run(command).text(1), "65533\n");
    set_thread_groups(&before).expect("we may");
}

#[cfg(target_os = "linux")]
#[test]
fn c151_a_child_has_the_requested_descriptors_and_no_others() {
    let mut nursery = Nursery::new();
    // Neither a descriptor of this process, nor one that a library left inheritable.
    let (leaky, _writer) = std::io::pipe().expect("a pipe");
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).expect("a flag");
    let listed = |nursery: &mut Nursery, command: Command| {
        let text = nursery.run(command).text(1);
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(listed(&mut nursery, sh(LIST)), ["0", "1", "2"]);
    let more = sh(LIST).descriptor(5, ChildFd::FromChild).descriptor(7, ChildFd::ToChild);
    assert_eq!(listed(&mut nursery, more), ["0", "1", "2", "5", "7"]);
    assert_eq!(listed(&mut nursery, sh(LIST).closed(0)), ["1", "2"]);
    assert_eq!(listed(&mut nursery, sh(LIST).closed(2).closed(0)), ["1"]);
}

#[cfg(target_os = "linux")]
#[test]
fn c151_signals_that_we_ignore_have_their_defaults_in_the_child() {
    let test = "process::set_up::c151_signals_that_we_ignore_have_their_defaults_in_the_child";
    if !super::is_alone(test) {
        return;
    }
    let mut nursery = Nursery::new();
    let ignored = |status: &str| {
        let line = status.lines().find(|line| line.starts_with("SigIgn:")).expect("Linux says");
        let all = u64::from_str_radix(line["SigIgn:".len()..].trim(), 16).expect("hexadecimal");
        // Signals 32 and 33 belong to the C library, which ignores one of them in children.
        all & !(0b11 << 31)
    };
    let ours = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    // SIGHUP, and SIGPIPE, which Rust's runtime ignores. The parent of the tests may ignore more.
    let both = 1 | 1 << 12;
    assert_eq!(ignored(&ours) & both, both);
    let theirs = nursery.run(Command::new("cat").arg("/proc/self/status")).text(1);
    assert_eq!(ignored(&theirs), 0);
    assert!(theirs.contains("SigBlk:\t0000000000000000"));
}

#[test]
fn c153_a_child_has_pipes_under_any_number() {
    let mut nursery = Nursery::new();
    let command = sh("read line <&7; echo $line >&9; read line <&7; echo $line >&9")
        .descriptor(7, ChildFd::ToChild)
        .descriptor(9, ChildFd::FromChild);
    let (process, log) = nursery.spawn(command);
    // Written before connection_made, and after it.
    process.write_to_child(7, "rose\n").expect("a pipe");
    nursery.until("the first", || log.text(9) == "rose\n");
    process.write_to_child(7, "red\n").expect("a pipe");
    nursery.ended(&log);
    assert_eq!(log.text(9), "rose\nred\n");
}

#[test]
fn c153_writing_to_a_missing_descriptor_is_an_error_and_closing_it_again_is_harmless() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(Command::new("cat"));
    let wrong = |process: &couplet::process::Process| {
        assert_eq!(process.write_to_child(17, "x"), Err(NotWritable(17)));
        process.close_child_fd(17);
    };
    wrong(&process);
    nursery.turn();
    wrong(&process);
    process.close_stdin();
    process.close_stdin();
    nursery.ended(&log);
    assert_eq!(process.write_to_child(0, "x"), Err(NotWritable(0)));
    process.write("dropped");
    process.close_stdin();
    process.lose_connection();
    nursery.turn();
    assert!(log.has("ended 0"));
}

#[test]
fn c153_descriptors_may_be_files_null_or_one_another() {
    let mut nursery = Nursery::new();
    let folder = crate::needed::Folder::new();
    let (from, to) = (folder.join("from"), folder.join("to"));
    std::fs::write(&from, "rose\n").expect("a file");
    let command = sh("cat; echo red >&2; cat <&5 | wc -c")
        .descriptor(0, File::open(&from).expect("it"))
        .descriptor(1, File::create(&to).expect("a file"))
        .descriptor(2, ChildFd::SameAs(1))
        .descriptor(5, ChildFd::Null);
    let log = nursery.run(command);
    assert_eq!(log.entries(), ["made", "exited 0", "ended 0"]);
    let text = std::fs::read_to_string(to).expect("it was written");
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["rose", "red", "0"]);
    // The descriptor it refers to may have a higher number.
    let command = sh("echo rose; echo red >&4")
        .descriptor(1, ChildFd::SameAs(4))
        .descriptor(4, ChildFd::FromChild);
    assert_eq!(nursery.run(command).text(4), "rose\nred\n");
    // Several may be duplicates of one.
    let command = sh("echo rose; echo red >&2; echo pink >&3; echo white >&2")
        .descriptor(2, ChildFd::SameAs(1))
        .descriptor(3, ChildFd::SameAs(1));
    assert_eq!(nursery.run(command).text(1), "rose\nred\npink\nwhite\n");
}

#[test]
fn c153b_a_child_that_does_not_read_exerts_back_pressure() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(sh("read go; cat | wc -c"));
    nursery.until("connection_made", || log.has("made"));
    let stdin = process.pipe(0).expect("a pipe");
    process.write("go\n");
    process.write(vec![b'x'; 1024 * 1024]);
    assert!(stdin.is_full(), "{} bytes wait", stdin.buffered());
    let drained = stdin.writable();
    nursery.until("room", move || drained.has_fired());
    process.close_stdin();
    nursery.ended(&log);
    assert_eq!(log.text(1).trim(), "1048576");
}

#[test]
fn c153b_output_that_is_paused_fills_the_pipe_of_the_child() {
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(sh("yes rose | head -c 1000000; echo done >&2"));
    nursery.until("connection_made", || log.has("made"));
    process.pipe(1).expect("a pipe").pause_producing();
    nursery.turn();
    let before = log.text(1).len();
    (0..20).for_each(|_| nursery.turn());
    assert_eq!(log.text(1).len(), before);
    assert_eq!(log.text(2), "", "it waits for us");
    process.pipe(1).expect("a pipe").resume_producing();
    nursery.ended(&log);
    assert_eq!(log.text(1).len(), 1_000_000);
}

#[cfg(target_os = "linux")]
#[test]
fn c151_no_descriptor_of_a_loop_is_left_open_in_a_child_of_std() {
    let test = "process::set_up::c151_no_descriptor_of_a_loop_is_left_open_in_a_child_of_std";
    if !super::is_alone(test) {
        return;
    }
    let of_a_child = || {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = std::process::Command::new("/bin/sh");
        let mut child = command.args(["-c", LIST]).stdout(writer).spawn().expect("it starts");
        drop(command);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("its end");
        child.wait().expect("ours");
        text
    };
    // Descriptors that this process inherited without the close-on-exec flag.
    let before = of_a_child();
    let mut nursery = Nursery::new();
    let (process, log) = nursery.spawn(Command::new("cat").terminal(Default::default()));
    let (other, _log) = nursery.spawn(Command::new("cat"));
    nursery.until("connection_made", || log.has("made"));
    assert_eq!(of_a_child(), before);
    for process in [process, other] {
        process.signal_process("KILL").expect("it runs");
    }
    nursery.ended(&log);
}

#[test]
fn c149_a_driver_without_processes_refuses_one_and_descriptors_too() {
    use couplet::testing::{Manner, Memory};
    let (driver, _network) = Memory::new(Manner::Readiness, 0);
    let l = couplet::Loop::with_driver(driver, couplet::LoopOptions::default());
    let refused = l.reactor().spawn_process(sh("exit 0"), super::Logged::default());
    let error = refused.expect_err("memory has none");
    assert_eq!(error.error.kind(), std::io::ErrorKind::Unsupported);
    let (reader, _writer) = std::io::pipe().expect("a pipe");
    let refused =
        l.reactor().adopt_pipe(reader, || couplet_testkit_loops::doubles::Quiet).map(drop);
    assert_eq!(refused.expect_err("nor these").kind(), std::io::ErrorKind::Unsupported);
}

#[test]
fn a_descriptor_that_no_child_can_have_is_an_error_of_the_call() {
    let mut nursery = Nursery::new();
    for (number, other, text) in
        [(-1, ChildFd::Null, "invalid input"), (4, ChildFd::SameAs(5), "has no descriptor 5")]
    {
        let command = sh("exit 0").descriptor(number, other);
        let refused = nursery.l.reactor().spawn_process(command, super::Logged::default());
        let refused = refused.map(drop).expect_err("it can't be").to_string();
        assert!(refused.contains(text), "{refused}");
        assert_eq!(Nursery::left(&mut nursery.l), (0, 0, 0));
    }
}

#[test]
fn each_pipe_of_a_child_is_named_after_its_command() {
    let mut nursery = Nursery::new();
    for (command, names) in [
        (sh("read line"), [Some(" (descriptor 0)"), Some(" (descriptor 1)")]),
        (sh("read line").terminal(Default::default()), [Some(" (terminal)"); 2]),
        (sh("read line").closed(1), [Some(" (descriptor 0)"), None]),
    ] {
        let (process, log) = nursery.spawn(command);
        nursery.until("made", || log.has("made"));
        for (number, name) in [0, 1].into_iter().zip(names) {
            let peer = process.pipe(number).map(|pipe| pipe.peer().to_string());
            let expected = name.map(|name| format!("process:/bin/sh -c 'read line'{name}"));
            assert_eq!(peer, expected);
        }
        process.write("\n");
        nursery.ended(&log);
    }
}
