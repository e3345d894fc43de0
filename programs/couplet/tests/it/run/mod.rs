//! `couplet run` and `couplet ctl`: services from a configuration, as one process. Here: a program
//! with its folder, which is its working directory.

mod config;
mod contrib;
#[cfg(target_os = "linux")]
mod crash;
mod ctl;
mod health;
mod heir;
mod kinds;
mod life;
mod limits;
mod load;
mod log;
mod metrics;
mod process;
mod reload;
mod restart;
mod restart_http;
mod restart_tls;
mod restart_udp;
mod successor;
mod systemd;
mod threads;

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;

use crate::kit::{Client, Ended, Running, Server, couplet, wait_until};
use crate::needed::Folder;

/// The configuration's name in the program's folder.
const FILE: &str = "a.toml";

/// An echo server, with further keys.
fn echo(name: &str, listen: &str, more: &str) -> String {
    format!("[services.{name}]\nkind = \"echo\"\nlisten = \"{listen}\"\n{more}\n")
}

/// A server of a poem of 25 bytes, 5 at a time.
fn poet(delay: f64, drain: f64) -> String {
    format!(
        "[services.poet]\nkind = \"poetry\"\nfiles = [\"poem\"]\nlisten = \"0\"\nnum-bytes = 5\n\
         delay = {delay}\ndrain = {drain}\n"
    )
}

const POEM: &[u8] = b"1234567890123456789012345";

/// A folder with the poem of [`poet`].
fn folder_with_poem() -> Folder {
    let folder = Folder::new();
    folder.write("poem", POEM);
    folder
}

/// A program that runs, with its folder.
struct Program {
    server: Server,
    folder: Folder,
}

impl Program {
    /// Starts the program with this configuration.
    fn start(text: &str) -> Program {
        Program::start_with(Folder::new(), text, &[])
    }

    fn start_with(folder: Folder, text: &str, args: &[&str]) -> Program {
        Program::start_changed(folder, text, args, |command| command)
    }

    /// Starts the program by its command, changed by `change`.
    fn start_changed(
        folder: Folder,
        text: &str,
        args: &[&str],
        change: impl FnOnce(Command) -> Command,
    ) -> Program {
        folder.write(FILE, text);
        let mut command = change(couplet(&[&["run", FILE], args].concat()));
        command.current_dir(&*folder);
        Program { server: Server::start_command(command, 0), folder }
    }

    /// The port that is printed next, which is this service's.
    fn port(&self, name: &str) -> SocketAddr {
        let line = self.server.line();
        line.strip_prefix(&format!("{name} listening on tcp:"))
            .and_then(|host| host.parse().ok())
            .unwrap_or_else(|| panic!("{line:?} is no port of {name}: {}", self.told()))
    }

    /// The port that is printed next, of an endpoint in another, such as `haproxy:tcp:0`.
    fn wrapped_port(&self) -> SocketAddr {
        let line = self.server.line();
        let host = line.rsplit(' ').next().expect("a word");
        let address = host.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        address.parse().unwrap_or_else(|_| panic!("{line:?} has no port: {}", self.told()))
    }

    /// A connection to an echo server that has answered.
    fn connect(&self, name: &str) -> Client {
        let mut client = Client::connect(self.port(name));
        echoes(&mut client);
        client
    }

    fn told(&self) -> String {
        self.server.running.told()
    }

    fn wait_told(&self, text: &str) {
        self.server.wait_told(text);
    }

    fn signal(&mut self, signal: Signal) {
        self.server.running.signal(signal);
    }

    /// Changes the configuration, and sends SIGHUP.
    fn reload(&mut self, text: &str) {
        self.folder.write(FILE, text);
        self.signal(Signal::HUP);
    }

    /// The outcome of `couplet ctl` with the control socket `ctl`.
    fn ctl(&self, args: &[&str]) -> Ended {
        let mut command = couplet(&[&["ctl", "--control", "ctl"], args].concat());
        Running::start(command.current_dir(&*self.folder)).ended()
    }

    /// Changes the configuration, and waits for the end of the reload; returns its answer.
    fn reload_by_ctl(&self, text: &str) -> Ended {
        self.folder.write(FILE, text);
        self.ctl(&["reload"])
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path(name)).unwrap_or_default()
    }

    fn wait_read(&self, name: &str, text: &str) {
        wait_until(text, || self.read(name).contains(text));
    }

    fn is_running(&mut self) -> bool {
        self.server.running.is_running()
    }

    /// Waits for the end of the process, which leaves the folder.
    fn ended(self) -> (Ended, Folder) {
        (self.server.running.ended(), self.folder)
    }

    /// Ends the process by SIGTERM, with code 0; it leaves the folder.
    #[track_caller]
    fn terminated(mut self) -> Folder {
        self.signal(Signal::TERM);
        let (ended, folder) = self.ended();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        folder
    }

    fn stop(self, signal: Signal) -> Ended {
        self.server.stop(signal)
    }
}

fn echoes(client: &mut Client) {
    client.echoes(b"hello");
}

fn is_refused(port: SocketAddr) -> bool {
    std::net::TcpStream::connect(port).is_err()
}

/// Runs `couplet run` with this configuration to its end.
fn run_in(folder: &Folder, text: &str, args: &[&str]) -> Ended {
    folder.write(FILE, text);
    let mut command = couplet(&[&["run", FILE], args].concat());
    Running::start(command.current_dir(&**folder)).ended()
}

/// A command that runs another one, with its environment, behind these words.
pub(crate) fn behind(words: &[&str], program: &Command) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The status and the body of an answer.
fn get(port: SocketAddr, path: &str) -> (u16, String) {
    let mut client = Client::connect(port);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    client.send(request.as_bytes());
    let answer = String::from_utf8(client.read_to_end().unwrap()).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A port that the log names after these words.
fn port_after(words: &str, program: &Program) -> SocketAddr {
    let said = format!("{words} host=tcp:");
    program.wait_told(&said);
    let told = program.told();
    let host = told.split(&said).nth(1).and_then(|rest| rest.split_whitespace().next());
    host.unwrap().parse().unwrap()
}

/// The output of a Python program for this input, which fails the test if the program fails.
fn python(program: &str, input: &str) -> String {
    output_of("python3", &["-c", program], input)
}

/// The output of a program for this input, which fails the test if the program fails.
fn output_of(program: impl AsRef<OsStr>, args: &[&str], input: &str) -> String {
    let folder = Folder::new();
    let file = std::fs::File::open(folder.write("input", input)).unwrap();
    let mut command = Command::new(program);
    command.args(args).stdin(file).stdout(std::process::Stdio::piped());
    let ended = Running::start_with_stdout(&mut command).ended();
    ended.quietly(0);
    ended.text().to_owned()
}
