//! `couplet ctl`: sends an order to the control socket of a program that runs, and prints the
//! answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use couplet::endpoints::UnixClient;
use couplet::{ConnectError, Failure, Reactor};

use crate::exit::Exit;
use crate::inspect::save_recording;
use crate::output;

const EXAMPLE: &str = "\
Example:
  couplet ctl status
  couplet ctl --control /run/couplet.sock reload
  couplet ctl record slow.rec

Exit codes: 0 if the program has done it, 1 if not or if it can't be reached.";

/// How long an order may take. A reload waits for services that drain.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest answer, in bytes: a recording of 60 loops, or the status of 200 000 connections.
const MOST: usize = 1024 * 1024 * 1024;

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Ctl {
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = "couplet.sock")]
    control: PathBuf,
    #[command(subcommand)]
    order: Order,
}

#[derive(Subcommand, Debug)]
enum Order {
    /// Print the health, the services, the ports and the connections
    Status {
        /// Print a line of JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the URL of the program's inspector, for `couplet inspect` or a browser
    Inspect,
    /// Apply the changes of the configuration
    Reload,
    /// Start the program's file, as it now is, as a new process, which takes over all ports. This one
    /// lets its connections finish
    Restart,
    /// Change the events that are logged
    Log {
        /// The events, as in `info` or `couplet=debug,warn`
        #[arg(value_name = "FILTER")]
        levels: String,
    },
    /// Close a connection, and reset it if that takes longer than 5 s
    Close {
        /// Its ID in the status and in the log
        #[arg(value_name = "ID")]
        connection: String,
    },
    /// Save the last events of all loops, and their state, as a recording for couplet inspect. The
    /// program must have an inspector
    Record {
        /// The file to write
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// End the program: let connections finish within the time that its configuration sets
    Drain,
    /// End the program without waiting for connections, also in the middle of a drain
    Stop,
}

impl Order {
    /// The order as a line of the control socket.
    fn line(&self) -> String {
        match self {
            Order::Status { json: false } => "status".to_owned(),
            Order::Status { json: true } => "status json".to_owned(),
            Order::Inspect => "inspect".to_owned(),
            Order::Reload => "reload".to_owned(),
            Order::Restart => "restart".to_owned(),
            Order::Log { levels } => format!("log {}", one_line(levels)),
            Order::Close { connection } => format!("close {}", one_line(connection)),
            Order::Record { .. } => "record".to_owned(),
            Order::Drain => "drain".to_owned(),
            Order::Stop => "stop".to_owned(),
        }
    }
}

/// A text that can't end a line.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

pub(crate) fn run(options: Ctl) -> Result<(), Exit> {
    let answer = carry_out(&options.control, options.order.line())?;
    match &options.order {
        Order::Record { file } => save_recording(&answer, file),
        _ => output::print(String::from_utf8_lossy(&answer).as_bytes()),
    }
}

/// Has the program at this control socket carry out an order; returns its answer.
///
/// # Errors
///
/// If the program can't be reached, or refuses.
pub(crate) fn carry_out(control: &Path, line: String) -> Result<Vec<u8>, Exit> {
    let endpoint = UnixClient::new(control);
    let at = control.display().to_string();
    let answer = couplet::run_until(|reactor| {
        let (asking, asked) = (reactor.clone(), reactor.clone());
        let answer = asking.spawn(async move { ask(&asked, endpoint, &line).await });
        answer.add_timeout(reactor, PATIENCE)
    });
    let answer = answer.map_err(|failure| {
        let hint = if is_unused(&failure) { UNUSED } else { "" };
        Exit::failed(format!("cannot ask {at}: {failure}{hint}"))
    })?;
    match answer.strip_prefix(b"ok\n") {
        Some(words) => Ok(words.to_vec()),
        None => {
            let text = String::from_utf8_lossy(&answer);
            Err(Exit::failed(text.strip_prefix("error: ").unwrap_or(&text).trim_end()))
        }
    }
}

const UNUSED: &str = " (the program has ended, or has another control socket)";

/// Whether nothing listens on the socket.
fn is_unused(failure: &Failure) -> bool {
    match failure.downcast_ref() {
        Some(ConnectError::Refused(_)) => true,
        Some(ConnectError::System(error)) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Sends a line, and returns the answer, which ends with the connection.
pub(crate) async fn ask(
    reactor: &Reactor,
    endpoint: UnixClient,
    line: &str,
) -> couplet::Result<Vec<u8>> {
    let mut stream = reactor.connect_stream(endpoint).await?;
    stream.write_all(format!("{line}\n")).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer, MOST).await?;
    match answer.is_empty() {
        true => Err(Failure::msg("the program ended the connection without an answer")),
        false => Ok(answer),
    }
}
