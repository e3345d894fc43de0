//! Wrong configurations: the message with its place, before anything opens.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::process::Signal;

use super::{FILE, Program, echo, run_in};
use crate::kit::{Running, couplet, run, unused_port, wait_until};
use crate::needed::Folder;
use crate::tls::certificate;

#[test]
fn a_closed_stderr_does_not_change_the_exit_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = couplet(&["run", "/nonexistent.toml"]);
    let status = command.stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn a_wrong_configuration_is_2_with_the_place_and_opens_no_port() {
    // Three lines of a service that could start.
    let good = "[services.a]\nkind = \"echo\"\nlisten = \"unix:socket\"\n";
    #[rustfmt::skip]
    let cases = [
        ("[runer]", "4:2: unknown key runer; did you mean runner?\n  | [runer]\n  |  ^^^^^"),
        ("[runner]\nlogfile = \"x\"", "5:1: unknown key logfile; did you mean log-file?"),
        ("[runner]\nthreads = \"1025\"", "5:11: a number of threads, at most 1024, or auto is"),
        ("[runner]\nthreads = -1", "5:11: a number of threads, at most 1024, or auto is"),
        ("[runner]\nlog = \"xml\"", "5:7: unknown variant xml, expected text or json"),
        ("[runner]\nlog-level = \"couplet=loud\"", "5:13: "),
        ("[runner]\nlog-file = 3", "5:12: invalid type: integer 3"),
        ("[runner]\numask = 0o1000", "5:9: a number up to 0o777 is expected here"),
        ("[runner]\nhealth = \"tcp:x\"", "5:10: cannot listen on tcp:x: "),
        ("runner = 1", "1:10: runner has to be a table"),
        ("servces = 1", "1:1: unknown key servces; did you mean services?"),
        ("colour = 1", "1:1: unknown key colour; known are services, runner, supervisor"),
        ("[supervisor]\nrestart = 1", "5:1: unknown key restart; did you mean restarts?"),
        ("[supervisor]\ndrain = \"long\"", "5:9: invalid type: string \"long\""),
        ("[supervisor]\ndrain = -1", "5:9: invalid value: integer -1"),
        ("[supervisor]\nstrategy = \"none\"", "5:12: unknown variant none"),
        ("[services]\nb = 1", "5:5: b has to be a table"),
        ("[services.b]\nkind = \"echo\"\nidle-timeot = 3", "6:1: unknown key idle-timeot; did you mean idle-timeout?"),
        ("[services.b]\nkind = \"echo\"\nthreads = 3", "6:1: unknown key threads; known are "),
        ("[services.b]\nkind = \"echo\"\ndriver = \"uring\"", "6:1: unknown key driver; known are "),
        ("[runner]\ndriver = \"fast\"", "5:10: auto, epoll or uring is expected here"),
        ("[services.b]\nkind = \"echo\"\nidle-timeout = 0", "6:16: "),
        ("[services.b]\nkind = \"echo\"\nidle-timeout = \"soon\"", "6:16: "),
        ("[services.b]\nkind = \"echo\"\nidle-timeout = [3]", "6:16: expected one value"),
        ("[services.b]\nkind = \"echo\"\nidle-timeout = { s = 3 }", "6:16: invalid type: map"),
        ("[services.b]\nkind = \"echo\"\nlisten = \"tcp:99999\"", "6:10: "),
        ("[services.b]\nkind = \"echo\"\nlisten = [\"0\", \"tcp:x\"]", "6:16: "),
        ("[services.b]\nkind = \"echo\"\nlisten = true", "6:10: "),
        ("[services.b]\nkind = \"echo\"\nrestart = \"never\"", "6:11: unknown variant never"),
        ("[services.b]\nkind = \"poetry\"\nby-name = 1", "6:11: expected true or false"),
        ("[services.b]\nkind = \"forward\"\nlisten = \"0\"", "4:1: missing field connect"),
        ("[services.b]\nkind = \"eco\"", "5:8: unknown kind eco; did you mean echo?"),
        ("[services.b]\nkind = 5", "5:8: invalid type: integer 5"),
        ("[services.b]\nlisten = \"0\"", "4:1: missing field kind"),
        ("[services.a]\nkind = \"echo\"", "4:11: duplicate key"),
        ("listen = ", "4:10: "),
        ("[services.b]\nkind = \"poetry\"\nfiles = [\"none\"]", "4:1: "),
    ];
    // By a start and by a check alternately.
    let arguments = [&[][..], &["--check"]].into_iter().cycle();
    for ((text, wanted), args) in cases.into_iter().zip(arguments) {
        // Keys of the whole file stand above its tables.
        let whole = match text.split_once(" = ") {
            Some((key, _)) if !text.starts_with('[') && key != "listen" => {
                format!("{text}\n{good}")
            }
            _ => format!("{good}{text}\n"),
        };
        let folder = Folder::new();
        let ended = run_in(&folder, &whole, args);
        let stderr = &ended.stderr;
        assert_eq!((ended.code, ended.text()), (Some(2), ""), "{text}: {stderr}");
        assert!(stderr.starts_with(&format!("couplet: {FILE}:{wanted}")), "{text}: {stderr}");
        assert_eq!(folder.names(), [FILE], "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_2() {
    let folder = Folder::new();
    folder.write("binary", b"\xff\xfe");
    for (name, wanted) in [
        ("none.toml", "couplet: cannot read none.toml: no such file or directory\n"),
        (".", "couplet: cannot read .: is a directory\n"),
        ("binary", "couplet: cannot read binary: "),
    ] {
        let ended = Running::start(couplet(&["run", name]).current_dir(&*folder)).ended();
        assert_eq!((ended.code, ended.text()), (Some(2), ""), "{}", ended.stderr);
        assert!(ended.stderr.starts_with(wanted), "{}", ended.stderr);
    }
}

#[test]
fn a_file_without_permission_is_2() {
    let folder = Folder::new();
    folder.write("secret.toml", echo("a", "unix:socket", ""));
    let nobody_reads = Permissions::from_mode(0o000);
    std::fs::set_permissions(folder.path("secret.toml"), nobody_reads).unwrap();
    let program = couplet(&["run", "secret.toml"]);
    let mut command = Command::new(program.get_program());
    if rustix::process::geteuid().is_root() {
        // The capabilities of root read any file.
        command = Command::new("setpriv");
        command.arg("--bounding-set=-dac_override,-dac_read_search").arg(program.get_program());
    }
    let ended = Running::start(command.args(program.get_args()).current_dir(&*folder)).ended();
    assert_eq!((ended.code, ended.text()), (Some(2), ""), "{}", ended.stderr);
    assert_eq!(ended.stderr, "couplet: cannot read secret.toml: permission denied\n");
    assert_eq!(folder.names(), ["secret.toml"]);
}

#[test]
fn a_missing_argument_is_2() {
    let ended = run(&["run"]);
    assert_eq!((ended.code, ended.text()), (Some(2), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("<FILE>"), "{}", ended.stderr);
}

#[test]
fn a_check_prints_the_number_of_services_and_opens_nothing() {
    let folder = Folder::new();
    let more = "[runner]\ncontrol = \"ctl\"\npid-file = \"pid\"\nlog-file = \"log\"";
    run_in(&folder, &echo("a", "unix:socket", more), &["--check"])
        .prints("a.toml: ok, 1 service\n");
    assert_eq!(folder.names(), [FILE]);
}

/// A configuration that a start refuses once it opens things, and a part of the message.
fn unopenable(folder: &Folder, port: u16) -> Vec<(String, String)> {
    let good = format!("cert={0}/a.pem", folder.display());
    let lines = |list: &[&str]| list.join("\n");
    let two = |one: &str, other: &str| echo("a", one, "") + &echo("b", other, "");
    let (at, any) = (format!("127.0.0.1:{port}"), format!("tcp:{port}"));
    let udp = format!("udp:{port}:interface=127.0.0.1");
    let unix = "unix:none/socket";
    let in_use = "in use";
    let missing = "no such file";
    let with = |more: &str| echo("a", "unix:socket", &lines(&["[runner]", more]));
    let mut cases = vec![
        (echo("a", "tls:0:cert=misspelt.pem", ""), missing),
        (echo("a", "haproxy:tls:unix:socket:cert=misspelt.pem", ""), missing),
        (echo("a", &format!("tls:0:{good}:key=b.pem"), ""), "key"),
        (echo("a", &format!("tls:0:{good}:client-ca=misspelt.pem"), ""), missing),
        (echo("a", unix, ""), missing),
        (echo("a", "log:unix:socket:file=none/traffic", ""), missing),
        (with("log-file = \"none/log\""), missing),
        (with("pid-file = \"none/pid\""), missing),
        (with("control = \"none/ctl\""), missing),
        (with("health = \"unix:none/health\""), missing),
        (with("metrics = \"tls:0:cert=misspelt.pem\""), missing),
        (two(&at, &at), in_use),
        (two(&at, &any), in_use),
        (two(&any, &at), in_use),
        (two(&udp, &udp), in_use),
        (two("unix:socket", "unix:socket"), in_use),
        (echo("a", &at, &format!("[runner]\nhealth = \"{at}\"")), in_use),
        (echo("a", "unix:socket", "[runner]\ncontrol = \"socket\""), in_use),
    ];
    let several = format!(
        "[services.a]\nkind = \"echo\"\nlisten = [\"{at}\", \"unix:socket\"]\n{}",
        echo("b", &any, "")
    );
    cases.push((several, in_use));
    cases.into_iter().map(|(text, words)| (text, words.to_owned())).collect()
}

#[test]
fn a_check_rejects_files_that_a_start_cannot_open_and_creates_none() {
    needs!("openssl");
    let certificates = [certificate(), certificate()];
    let prepare = |folder: &Folder| {
        for (name, file) in ["a.pem", "b.pem"].into_iter().zip(&certificates) {
            folder.write(name, std::fs::read(file.path()).unwrap());
        }
    };
    let count = unopenable(&Folder::new(), 1).len();
    for number in 0..count {
        for args in [&["--check"][..], &["--check", "--threads", "2"], &[]] {
            let folder = Folder::new();
            prepare(&folder);
            let (free, _reserved) = unused_port();
            let (text, words) = unopenable(&folder, free.port()).swap_remove(number);
            let ended = run_in(&folder, &text, args);
            let stderr = &ended.stderr;
            assert!(matches!(ended.code, Some(1 | 2)), "{args:?} {text}: {ended:?}");
            assert!(stderr.starts_with("couplet: "), "{args:?} {text}: {stderr}");
            assert!(stderr.to_lowercase().contains(&words), "{args:?} {text}: {stderr}");
            if !args.is_empty() {
                assert_eq!(folder.names(), ["a.pem", FILE, "b.pem"], "{text}");
            }
        }
    }
}

#[test]
fn a_check_accepts_endpoints_that_do_not_meet() {
    let folder = Folder::new();
    let (free, _reserved) = unused_port();
    let port = free.port();
    let tcp = format!("127.0.0.1:{port}");
    let text = [
        echo("a", &tcp, ""),
        echo("b", &format!("udp:{port}:interface=127.0.0.1"), ""),
        echo("c", &format!("127.0.0.2:{port}"), ""),
        echo("d", "0", ""),
        echo("e", "0", ""),
        echo("f", "unix:one", ""),
        echo("g", "log:unix:two:file=traffic", ""),
        echo("h", &format!("127.0.0.3:{port}:reuse_port=yes"), ""),
        echo("i", &format!("127.0.0.3:{port}:reuse_port=yes"), ""),
    ];
    run_in(&folder, &text.concat(), &["--check"]).prints("a.toml: ok, 9 services\n");
    assert_eq!(folder.names(), [FILE]);
}

#[test]
fn a_check_does_not_mind_the_program_that_runs() {
    let text = echo(
        "a",
        "unix:socket",
        "[runner]\ncontrol = \"ctl\"\npid-file = \"pid\"\nlog-file = \"log\"",
    );
    let program = Program::start(&text);
    program.server.line();
    let before = program.read("pid");
    for _ in 0..2 {
        let mut check = couplet(&["run", FILE, "--check"]);
        let checked = Running::start(check.current_dir(&*program.folder)).ended();
        checked.quietly(0);
    }
    assert_eq!(program.read("pid"), before);
    program.stop(Signal::TERM).quietly(0);
}

#[test]
fn the_example_is_accepted_and_runs() {
    let ended = run(&["run", "--example"]);
    ended.quietly(0);
    let example = ended.text();
    let checked = run_in(&Folder::new(), example, &["--check"]);
    checked.quietly(0);
    assert!(checked.text().starts_with("a.toml: ok, 4 services"), "{}", checked.text());

    let lines = example.lines().map(|line| match line.strip_prefix("listen = ") {
        Some(_) => "listen = \"0\"\n".to_owned(),
        None => format!("{line}\n"),
    });
    let program = Program::start(&lines.collect::<String>());
    for name in ["echo", "files", "front", "transform"] {
        program.port(name);
    }
    wait_until("the socket", || program.folder.names().contains(&"couplet.sock".to_owned()));
    program.stop(Signal::TERM).quietly(0);
}
