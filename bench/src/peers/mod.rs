//! The servers that are measured, and how each is started: on the library, in this program, and
//! foreign ones.

mod foreign;
mod hyper;
mod mio;
mod ours;
mod raw;
mod tokio;

use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, set_parent_process_death_signal};

use self::tokio::Sharing;
use crate::Result;
use crate::folder::Folder;
use crate::kind::{BACKLOG, Kind, Role, USUAL};
pub(crate) use ours::{COUNTED, has_uring};

/// A server's command.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) words: Vec<String>,
    /// The port on which it will listen, if it does not print one.
    pub(crate) port: Option<u16>,
}

/// The programs of the servers.
#[derive(Debug)]
pub(crate) struct Programs {
    own: PathBuf,
    couplet: PathBuf,
    /// An interpreter that may have Twisted and uvloop.
    python: String,
    /// The servers that this program has compiled.
    compiled: Vec<(Kind, PathBuf)>,
}

impl Programs {
    /// Finds the program `couplet`: in this program's folder, or else in PATH.
    pub(crate) fn find(python: String) -> io::Result<Programs> {
        let own = std::env::current_exe()?;
        let beside = own.with_file_name("couplet");
        let couplet = if beside.exists() { beside } else { "couplet".into() };
        Ok(Programs { own, couplet, python, compiled: Vec::new() })
    }

    /// The program `couplet`.
    pub(crate) fn couplet(&self) -> &Path {
        &self.couplet
    }

    /// Why a kind can't be measured here in these roles. Compiles it if it is a source text.
    pub(crate) fn missing(
        &mut self,
        kind: Kind,
        roles: &[Role],
        folder: &Folder,
    ) -> Result<Option<String>> {
        let has = |module: &str| succeeds(&self.python, &["-c", &format!("import {module}")]);
        let program = match kind {
            Kind::Twisted | Kind::CoupletTwisted | Kind::Uvloop => {
                let module = match kind {
                    Kind::Twisted => "twisted.internet",
                    Kind::CoupletTwisted => "couplet_twisted",
                    _ => "uvloop",
                };
                let lacks = || format!("{} does not have it (see --python)", self.python);
                return Ok((!has(module)).then(lacks));
            }
            Kind::Couplet | Kind::CoupletUring | Kind::CoupletSendfile | Kind::CoupletInspected => {
                let runs = !roles.iter().any(|&role| by_program(role))
                    || succeeds(&self.couplet, &["--version"]);
                return Ok((!runs).then(|| "the program couplet is not installed".into()));
            }
            Kind::Go => ("go", "version"),
            Kind::RawUring => ("cc", "--version"),
            Kind::Nginx | Kind::NginxCopies => ("nginx", "-v"),
            Kind::Haproxy => ("haproxy", "-v"),
            Kind::H2o => ("h2o", "--version"),
            Kind::Nghttpd => ("nghttpd", "--version"),
            Kind::Node => ("node", "--version"),
            _ => return Ok(None),
        };
        if !succeeds(program.0, &[program.1]) {
            return Ok(Some(format!("{} is not installed", program.0)));
        }
        match foreign::compile(kind, folder) {
            None => {}
            Some(Ok(program)) => self.compiled.push((kind, program)),
            Some(Err(error)) => return Ok(Some(format!("cannot compile it: {error}"))),
        }
        Ok(None)
    }

    /// The command of a server. `is_counted` if a tool counts its instructions or system calls.
    pub(crate) fn launch(
        &self,
        kind: Kind,
        role: Role,
        folder: &Folder,
        is_counted: bool,
    ) -> io::Result<Launch> {
        let text = |path: &Path| path.display().to_string();
        let launch = |words| Ok(Launch { words, port: None });
        match kind {
            Kind::Couplet | Kind::CoupletUring | Kind::CoupletSendfile | Kind::CoupletInspected
                if by_program(role) =>
            {
                let mut words = vec![text(&self.couplet)];
                words.extend(ours::arguments(role, folder.path()));
                words.extend((kind == Kind::CoupletInspected).then(|| "--inspect=0".into()));
                words.extend((kind == Kind::CoupletUring).then(|| "--driver=uring".into()));
                words.extend((kind == Kind::CoupletSendfile).then(|| "--sendfile".into()));
                words.extend(is_counted.then(|| "--answers=at-once".into()));
                launch(words)
            }
            Kind::Twisted | Kind::CoupletTwisted => {
                let script = match kind {
                    Kind::Twisted => foreign::TWISTED.into(),
                    _ => format!(
                        "import couplet_twisted; couplet_twisted.install()\n{}",
                        foreign::TWISTED
                    ),
                };
                let words = [self.python.clone(), "-c".into(), script, "--backlog".into()];
                let rest = [BACKLOG.to_string(), "--role".into(), role.to_string()];
                launch(words.into_iter().chain(rest).collect())
            }
            Kind::Uvloop => {
                let script = foreign::UVLOOP.into();
                launch(vec![self.python.clone(), "-c".into(), script, role.to_string()])
            }
            Kind::Node => {
                let script = foreign::NODE.into();
                launch(vec!["node".into(), "-e".into(), script, role.to_string()])
            }
            Kind::Go | Kind::RawUring => {
                let compiled = self.compiled.iter().find(|(it, _)| *it == kind);
                let (_, program) = compiled.ok_or(io::ErrorKind::NotFound)?;
                launch(vec![text(program), role.to_string()])
            }
            Kind::Nginx | Kind::NginxCopies | Kind::Haproxy | Kind::H2o | Kind::Nghttpd => {
                foreign::configure(kind, role, folder)
            }
            _ => {
                let (kind, role) = (kind.to_string(), role.to_string());
                let folder = text(folder.path());
                launch(vec![text(&self.own), SERVE.into(), kind, role, folder])
            }
        }
    }
}

/// True if Couplet's server of that role is the program `couplet`.
fn by_program(role: Role) -> bool {
    matches!(role, Role::Echo | Role::Tls | Role::Files)
}

/// The first argument of this program as a server; kind, role and the run's folder follow.
pub(crate) const SERVE: &str = "@serve";

/// True if the command runs and succeeds.
pub(crate) fn succeeds(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Becomes a server of that kind; returns only with an error.
pub(crate) fn serve(kind: Kind, role: Role, folder: &Path) -> Result<()> {
    // The parent ends this process; the signal is for a parent that was killed.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match kind {
        Kind::Raw(size) => raw::serve(listen()?, size << 10, role, false)?,
        Kind::RawAfter => raw::serve(listen()?, USUAL << 10, role, true)?,
        Kind::Tokio(size) => tokio::serve(listen()?, size << 10, role, folder, Sharing::Broadcast)?,
        Kind::TokioChannels => {
            tokio::serve(listen()?, USUAL << 10, role, folder, Sharing::Channels)?
        }
        Kind::Mio(size) => mio::serve(listen()?, size << 10, role)?,
        Kind::Hyper => hyper::serve(listen()?, role, folder)?,
        _ => ours::serve(kind, role, ready).map_err(|error| error.to_string())?,
    }
    Ok(())
}

/// Creates the listener for peers without their own, and prints its address.
fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Listens a second time to change the backlog.
    rustix::net::listen(&listener, BACKLOG.into())?;
    listener.set_nonblocking(true)?;
    ready(&listener.local_addr()?);
    Ok(listener)
}

fn ready(address: &dyn Display) {
    println!("listening on {address}");
}
