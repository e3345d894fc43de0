//! The command `poetry transform`.

use std::time::Duration;

use clap::Args;

use crate::exit::Exit;
use crate::output;
use crate::server::{Listen, Server, Threads, listening};
use crate::transform_server::factory;
use crate::transformations::TRANSFORMATIONS;
use crate::values::{one_or_more, or_never, seconds_or_none};

/// The names of the transformations.
pub(crate) fn names() -> Vec<&'static str> {
    TRANSFORMATIONS.iter().map(|(name, _)| *name).collect()
}

/// Parses the name of a transformation; the server knows which there are.
pub(crate) fn transformation(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('.') {
        return Err("a name without a dot is expected here; `poetry transform --list` prints \
                    them"
            .to_owned());
    }
    Ok(text.to_owned())
}

const EXAMPLE: &str = listening!(
    "  poetry transform --listen 11000
  poetry get 10000 --transform 11000 --transform-name pirate
  printf '9:upper.ode,' | couplet connect 11000

The transformations:
  cummingsify    in lower case
  upper          in upper case
  reverse        the last line first
  pirate         as they say it at sea

A client that reads slowly is read from slowly. One that announces a request and
does not send it, or has finished and reads nothing of its answer, is cut off after
--idle-timeout."
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
#[expect(missing_docs, reason = "it would become the help of the command")]
pub struct Transform {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    threads: Threads,
    /// Longest request in bytes, including the name
    #[arg(
        long,
        value_name = "N",
        default_value = "99999",
        value_parser = one_or_more,
        allow_negative_numbers = true
    )]
    max_length: u64,
    /// Close a connection that sends nothing for this many seconds; 0 waits forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "300",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    idle_timeout: Duration,
    /// Print the names of the transformations and exit
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(options: Transform) -> Result<(), Exit> {
    if options.list {
        let names: String = names().into_iter().map(|name| format!("{name}\n")).collect();
        return output::print(names.as_bytes());
    }
    server(options).run()
}

/// The server with these options.
pub fn server(options: Transform) -> Server {
    let max_length = usize::try_from(options.max_length).unwrap_or(usize::MAX);
    let idle_timeout = or_never(options.idle_timeout);
    let factory = move || factory(max_length, idle_timeout);
    Server::of_factory(options.listen, options.threads, factory).read_buffer(READ)
}

/// The most bytes of one read: a client that reads nothing holds an answer, and the beginning of a
/// request that came with the end of the one before.
const READ: usize = 4 * 1024;
