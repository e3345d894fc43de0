//! Servers that others have written, where they are installed: the scripts, and configurations of
//! one process and one thread, without logs and without limits on the requests of a connection.

use std::io::{self, Error};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::Launch;
use crate::folder::Folder;
use crate::kind::{BACKLOG, Kind, Role};
use crate::load::HELLO;

pub(super) const TWISTED: &str = include_str!("twisted.py");
pub(super) const UVLOOP: &str = include_str!("uvloop.py");
pub(super) const NODE: &str = include_str!("node.js");
const GO: &str = include_str!("server.go");
const URING: &str = include_str!("uring.c");

/// Compiles a server that this program has as source text; returns the compiled program. `None` for
/// the other kinds.
pub(super) fn compile(kind: Kind, folder: &Folder) -> Option<io::Result<PathBuf>> {
    let (name, text, compiler, libraries) = match kind {
        Kind::Go => ("server.go", GO, &["go", "build"], &[][..]),
        Kind::RawUring => ("uring.c", URING, &["cc", "-O2"], &["-luring"][..]),
        _ => return None,
    };
    let compiled = |source: PathBuf| {
        let program = source.with_extension("program");
        let [compiler, option] = compiler;
        let mut command = Command::new(compiler);
        command.arg(option).arg("-o").arg(&program).arg(source).args(libraries);
        let output = command.stdin(Stdio::null()).output()?;
        match output.status.success() {
            true => Ok(program),
            false => Err(Error::other(first_error(&String::from_utf8_lossy(&output.stderr)))),
        }
    };
    Some(folder.write(name, text).and_then(compiled))
}

/// The line of a compiler's output that names the error.
fn first_error(said: &str) -> String {
    let line = said.lines().find(|line| line.contains("error")).or(said.lines().last());
    line.unwrap_or("the compiler gives no reason").trim().into()
}

/// Writes a configuration; returns the command that uses it.
pub(super) fn configure(kind: Kind, role: Role, folder: &Folder) -> io::Result<Launch> {
    let port = free_port()?;
    let file = format!("{kind}-{port}.conf");
    let path = folder.path().join(&file).display().to_string();
    let site = folder.path().join("site").display().to_string();
    let words: Vec<String> = match kind {
        Kind::Nginx | Kind::NginxCopies => {
            let folder_path = folder.path().display().to_string();
            folder.write(&file, nginx(port, role, kind == Kind::Nginx, &folder_path))?;
            ["nginx", "-e", "stderr", "-c", &path].map(String::from).to_vec()
        }
        Kind::Haproxy => {
            folder.write(&file, haproxy(port, role))?;
            ["haproxy", "-q", "-db", "-f", &path].map(String::from).to_vec()
        }
        Kind::H2o => {
            folder.write(&file, h2o(port, &site))?;
            ["h2o", "-m", "worker", "-c", &path].map(String::from).to_vec()
        }
        _ => {
            let port = port.to_string();
            ["nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", &site, &port]
                .map(String::from)
                .to_vec()
        }
    };
    Ok(Launch { words, port: Some(port) })
}

/// A port that is free at present: these servers don't print the one that the system chooses.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn hello() -> std::borrow::Cow<'static, str> {
    String::from_utf8_lossy(HELLO)
}

fn nginx(port: u16, role: Role, sends_files: bool, folder: &str) -> String {
    let sendfile = if sends_files { "on" } else { "off" };
    let http2 = if role == Role::Hello2 { " http2" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {folder}/nginx-{name};\n"))
        .concat();
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx-{port}.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type text/plain;
    sendfile {sendfile};
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    open_file_cache max=100;
{temporary}    server {{
        listen 127.0.0.1:{port} backlog={BACKLOG}{http2};
        root {folder}/site;
        location = / {{ return 200 \"{}\"; }}
    }}
}}
",
        hello()
    )
}

fn haproxy(port: u16, role: Role) -> String {
    let (mode, rest) = match role {
        Role::Relay(server) => ("tcp", format!("    server far {server}\n")),
        _ => {
            let answer = "http-request return status 200 content-type text/plain string";
            ("http", format!("    {answer} \"{}\"\n", hello()))
        }
    };
    let proto = if role == Role::Hello2 { " proto h2" } else { "" };
    format!(
        "global
    maxconn 4000
    nbthread 1
defaults
    mode {mode}
    timeout connect 5s
    timeout client 300s
    timeout server 300s
listen all
    bind 127.0.0.1:{port} backlog {BACKLOG}{proto}
{rest}"
    )
}

fn h2o(port: u16, site: &str) -> String {
    let user = if rustix::process::geteuid().is_root() { "user: root\n" } else { "" };
    format!(
        "{user}num-threads: 1
http2-idle-timeout: 300
http1-request-timeout: 300
listen: {{ host: 127.0.0.1, port: {port} }}
hosts:
  default:
    paths:
      /: {{ file.dir: {site} }}
"
    )
}
