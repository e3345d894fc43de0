//! `couplet inspect` on a terminal: the real program in tmux.

use std::process::Command;

use rustix::process::Signal;

use crate::kit::{Client, Server, TempFile, couplet, has, run, wait_until};

/// A terminal of 120 columns and 40 lines with a shell, in a new server of tmux.
struct Tmux {
    socket: TempFile,
}

impl Tmux {
    /// Starts it, unless tmux is missing here.
    fn start() -> Option<Tmux> {
        if !has("tmux") {
            return None;
        }
        let tmux = Tmux { socket: TempFile::named("tmux", b"") };
        std::fs::remove_file(tmux.socket.path()).expect("only its name is needed");
        let words = "-f /dev/null new-session -d -x 120 -y 40".split(' ');
        tmux.order(&words.chain(["PS1='ready>' sh"]).collect::<Vec<_>>());
        tmux.wait_shown("ready>");
        Some(tmux)
    }

    /// The output of a command of tmux.
    fn order(&self, args: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color").env_remove("TMUX");
        let ended = command.args(["-u", "-S", self.socket.path()]).args(args).output().unwrap();
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8(ended.stdout).unwrap()
    }

    /// Ends the view, and its server.
    fn quit(&self, server: Server) {
        self.press(&["q"]);
        self.wait_shown("code 0");
        server.stop(Signal::TERM);
    }

    /// Types this text.
    fn write(&self, text: &str) {
        self.order(&["send-keys", "-l", text]);
    }

    /// Presses keys with names, such as `Enter`.
    fn press(&self, keys: &[&str]) {
        self.order(&[&["send-keys"], keys].concat());
    }

    fn shown(&self) -> String {
        self.order(&["capture-pane", "-p"])
    }

    fn wait_shown(&self, text: &str) -> String {
        wait_until(text, || self.shown().contains(text));
        self.shown()
    }

    /// Starts `couplet inspect` in the shell.
    fn inspect(&self, variables: &str, target: &str) {
        let program = couplet(&[]);
        let program = program.get_program().to_str().unwrap();
        self.write(&format!("{variables} '{program}' inspect '{target}'; echo code $?"));
        self.press(&["Enter"]);
    }

    /// The line that begins with these words.
    fn line(&self, words: &str) -> Option<String> {
        let shown = self.shown();
        shown.lines().find(|line| line.trim_start().starts_with(words)).map(str::to_owned)
    }

    /// The attributes of the terminal's driver, and whether the second screen is in use.
    fn modes(&self) -> (String, String) {
        let screen = self.order(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
        let device = self.order(&["display-message", "-p", "#{pane_tty}"]);
        let stty = Command::new("stty").args(["-F", device.trim(), "-a"]).output().unwrap();
        (screen.trim().to_owned(), String::from_utf8(stty.stdout).unwrap())
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.order(&["kill-server"]);
    }
}

/// A server with an inspector, its URL, and clients whose bytes it has echoed.
fn inspected(clients: usize) -> (Server, String, Vec<Client>) {
    started(&["echo", "--inspect", "0"], clients)
}

fn started(args: &[&str], clients: usize) -> (Server, String, Vec<Client>) {
    let server = Server::start(args);
    let url = super::inspect::url(&server);
    let clients = (1..=clients).map(|number| {
        let mut client = server.connect();
        client.send(&vec![b'x'; number]);
        client.read_exact(number);
        client
    });
    let clients = clients.collect();
    (server, url, clients)
}

#[test]
fn a_view_shows_sorts_filters_and_details_connections_and_restores_the_terminal() {
    let Some(tmux) = Tmux::start() else { return };
    let (server, url, clients) = inspected(3);
    let before = tmux.modes();
    tmux.inspect("", &url);
    let shown = tmux.wait_shown("1 connections 3 ");
    for text in ["couplet 0.1.0  pid ", "no red flags\n", "\nloop 0 (main) running, ", "WHY\n"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    assert_eq!(shown.matches("waits for the peer, last heard ").count(), 3, "{shown}");
    assert_eq!(tmux.modes().0, "1 0", "the second screen, without a cursor");
    // The order of the peers' ports, from the largest.
    let mut ports: Vec<u16> = clients.iter().map(|client| client.address().port()).collect();
    ports.sort_unstable();
    tmux.press(&["s", "s", "s", "r"]);
    tmux.wait_shown("PEER↓");
    let shown = tmux.shown();
    let places = ports.iter().map(|port| shown.find(&format!(":{port} ")).expect("a row"));
    assert!(places.is_sorted_by(|a, b| a > b), "{shown}");
    tmux.write(&format!("/peer::{}", ports[1]));
    tmux.wait_shown("  1 of 3");
    tmux.press(&["Enter", "Down", "Enter"]);
    let shown = tmux.wait_shown("wire out ");
    let peer = format!("\npeer           tcp:127.0.0.1:{}\n", ports[1]);
    assert!(shown.contains(&peer) && shown.contains("\nwaits for the peer, "), "{shown}");
    tmux.press(&["Escape"]);
    tmux.wait_shown("1 of 3");
    tmux.press(&["t"]);
    tmux.wait_shown(" EchoServer\n");
    tmux.press(&["q"]);
    tmux.wait_shown("code 0");
    assert_eq!(tmux.modes(), before);
    server.stop(Signal::TERM);
}

#[test]
fn c183a_a_program_that_goes_away_is_shown_as_such_and_reconnected_to() {
    let Some(tmux) = Tmux::start() else { return };
    let file = TempFile::named("inspect", b"");
    let endpoint = format!("unix:{}.sock", file.path());
    let server = Server::start(&["echo", "--inspect", &endpoint]);
    tmux.inspect("", &endpoint);
    tmux.wait_shown("2 ports 1");
    let first = tmux.line("couplet 0.1.0").expect("a header");
    server.stop(Signal::TERM);
    tmux.wait_shown(" lost: ");
    tmux.wait_shown("; next try in ");
    assert!(tmux.shown().contains("2 ports 1"), "the last state stays");
    let server = Server::start(&["echo", "--inspect", &endpoint]);
    let pid = format!("pid {}, ", server.running.pid());
    let shown = tmux.wait_shown(&pid);
    assert!(!first.contains(&pid) && shown.contains("  live"), "{shown}");
    tmux.press(&["C-c"]);
    tmux.wait_shown("code 0");
    server.stop(Signal::TERM);
}

#[test]
fn a_view_can_be_paused_and_resized() {
    let Some(tmux) = Tmux::start() else { return };
    let (server, url, _clients) = inspected(1);
    tmux.inspect("", &url);
    tmux.wait_shown("1 connections 1 ");
    tmux.press(&["p"]);
    tmux.wait_shown("  paused");
    let client = server.connect();
    let address = client.address().port().to_string();
    // The inspector knows the new connection, and the view stands still.
    wait_until("two connections", || run(&["inspect", &url]).text().contains("connections (2)"));
    assert!(tmux.shown().contains("1 connections 1 "), "{}", tmux.shown());
    tmux.press(&["p"]);
    tmux.wait_shown("1 connections 2 ");
    tmux.wait_shown(&address);
    tmux.order(&["resize-window", "-x", "60", "-y", "12"]);
    wait_until("fewer lines", || tmux.shown().trim_end().lines().count() == 12);
    tmux.wait_shown("\n? help");
    assert!(tmux.shown().contains("waits for "), "{}", tmux.shown());
    tmux.quit(server);
}

#[test]
fn c183a_a_signal_restores_the_terminal_and_no_color_is_obeyed() {
    let Some(tmux) = Tmux::start() else { return };
    let (server, url, _clients) = inspected(1);
    let before = tmux.modes();
    for (variables, has_colours) in [("", true), ("NO_COLOR=1", false)] {
        tmux.write("clear");
        tmux.press(&["Enter"]);
        wait_until("an empty screen", || tmux.shown().trim_end() == "ready>");
        // The shell writes the number of the process that it then becomes.
        let variables = format!("sh -c 'echo $$ > pid; exec \"$@\"' sh env {variables}");
        let folder = TempFile::named("folder", b"");
        let folder = std::path::Path::new(folder.path()).parent().unwrap();
        tmux.write(&format!("cd '{}'", folder.display()));
        tmux.press(&["Enter"]);
        tmux.inspect(&variables, &url);
        tmux.wait_shown("1 connections 1 ");
        let drawn = tmux.order(&["capture-pane", "-p", "-e"]);
        assert_eq!(drawn.contains("\u{1b}[38;5;2m"), has_colours, "green: {drawn:?}");
        let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        tmux.wait_shown("code 143");
        assert_eq!(tmux.modes(), before);
        std::fs::remove_file(folder.join("pid")).unwrap();
    }
    server.stop(Signal::TERM);
}

#[test]
fn an_inspector_that_does_not_answer_is_an_error_on_a_terminal_too() {
    let Some(tmux) = Tmux::start() else { return };
    tmux.inspect("", "http://127.0.0.1:1/?token=a");
    let shown = tmux.wait_shown("code 1");
    assert!(shown.contains("couplet: the inspector does not answer: "), "{shown}");
    let (server, url, _clients) = inspected(1);
    tmux.inspect("", &format!("{url}' '--once"));
    let shown = tmux.wait_shown("code 0");
    assert!(shown.contains("\nconnections (1)\n"), "{shown}");
    server.stop(Signal::TERM);
}

#[test]
fn connections_are_paused_closed_and_reset_after_a_question() {
    let Some(tmux) = Tmux::start() else { return };
    let (server, url, clients) = started(&["echo", "--inspect", "0", "--inspect-actions"], 2);
    let [mut first, mut second] = clients.try_into().expect("two clients");
    tmux.inspect("", &url);
    tmux.wait_shown("1 connections 2 ");
    let select = |client: &Client| {
        tmux.write(&format!("/peer::{}", client.address().port()));
        tmux.press(&["Enter", "Down"]);
        tmux.wait_shown("  1 of ");
    };
    select(&first);
    tmux.press(&["z"]);
    tmux.wait_shown("pause connection ");
    tmux.wait_shown("reading paused by the inspector");
    first.send(b"x");
    tmux.press(&["z"]);
    first.read_exact(1);
    tmux.wait_shown("waits for the peer, ");
    tmux.press(&["c"]);
    tmux.wait_shown("?  y: yes, any other key: no");
    tmux.press(&["n"]);
    tmux.wait_shown("? help");
    first.echoes(b"open");
    tmux.press(&["c"]);
    tmux.wait_shown("?  y: yes, any other key: no");
    tmux.press(&["y"]);
    tmux.wait_shown("close connection ");
    // An echo server is the producer of its answers, and does not end before its client.
    tmux.wait_shown("closing (connection closed by us)");
    tmux.press(&["x", "y"]);
    tmux.wait_shown("reset connection ");
    first.read_to_end().unwrap_err();
    tmux.wait_shown("1 connections 1 ");
    second.echoes(b"open");
    tmux.press(&["l"]);
    tmux.wait_shown("events to log, ");
    tmux.write("couplet=debug");
    tmux.press(&["Enter"]);
    tmux.wait_shown("log couplet=debug: done");
    tmux.press(&["l"]);
    tmux.write("loud");
    tmux.press(&["Enter"]);
    tmux.wait_shown("log loud: \"loud\" is not a level");
    let _client = server.connect();
    server.wait_told("DEBUG");
    tmux.quit(server);
}

#[test]
fn actions_that_a_program_does_not_allow_are_refused() {
    let Some(tmux) = Tmux::start() else { return };
    let (server, url, mut clients) = inspected(1);
    tmux.inspect("", &url);
    tmux.wait_shown("1 connections 1 ");
    tmux.press(&["Down", "x"]);
    tmux.wait_shown("the program does not allow actions: --inspect-actions");
    clients[0].echoes(b"open");
    tmux.quit(server);
}
