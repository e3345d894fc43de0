//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{Styles, styling::AnsiColor};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use couplet::endpoints::ServerEndpoint;
use tracing_subscriber::filter::Targets;

use crate::endpoint::{Peer, to_connect, to_listen};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const ABOUT: &str = "Poetry over the network: servers that give out poems slowly, and a client \
                     that gets many at once";

const EXAMPLE: &str = "\
Example:
  couplet demo

or in two terminals:
  couplet poetry serve --listen 10000
  couplet poetry get 10000

Exit codes: 0 done, 1 it failed, 2 bad usage, 130 or 143 interrupted.
SIGUSR1 makes a running command print what is open and waiting.";

const POETRY_EXAMPLE: &str = "\
Example, in two terminals:
  couplet poetry serve --listen 10000
  couplet poetry get 10000";

const DEMO_EXAMPLE: &str = "\
Example:
  couplet demo

The poems come on stdout, the progress on stderr. It takes about four seconds.";

const COMPLETIONS_EXAMPLE: &str = "\
Example:
  couplet completions bash > ~/.local/share/bash-completion/completions/couplet";

/// An example, and how to say where to listen.
macro_rules! listening {
    ($example:literal) => {
        concat!(
            "Example:\n",
            $example,
            "\n
An ENDPOINT is one of:
  10000                           this port, on 127.0.0.1 alone
  tcp:10000                       this port, on all interfaces, IPv4 and IPv6
  tcp:10000:interface=192.0.2.7   this port, on one interface; [::1] for IPv6
  0                               a free port on 127.0.0.1; stdout tells which"
        )
    };
}

const SERVE_EXAMPLE: &str = listening!(
    "  couplet poetry serve ecstasy.txt --listen 10000 --delay 0.1
  nc 127.0.0.1 10000"
);

const ECHO_EXAMPLE: &str = listening!(
    "  couplet echo --listen 7000
  nc 127.0.0.1 7000

A client that reads slowly is read from slowly."
);

const GET_EXAMPLE: &str = "\
Example:
  couplet poetry get 10000 10001 localhost:10002 --timeout 30 > poems.txt

An ADDRESS is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  tcp:example.com:10000           the same, spelt out

Exit codes: 0 all poems came, 1 some did not, 2 bad usage, 130 or 143 interrupted.";

#[derive(Parser, Debug)]
#[command(
    name = "couplet",
    version,
    propagate_version = true,
    about = ABOUT,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLE
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Tell more on stderr: -v what happens, -vv each connection
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Which events to log, as in `warn` or `couplet=debug,info`
    #[arg(long, value_name = "FILTER", global = true, value_parser = filter)]
    pub(crate) log: Option<Targets>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Three servers give out a poem each, one client gets all three at once
    #[command(after_help = DEMO_EXAMPLE)]
    Demo,
    /// Poetry servers and clients
    #[command(subcommand, after_help = POETRY_EXAMPLE)]
    Poetry(Poetry),
    /// Send back whatever comes
    #[command(after_help = ECHO_EXAMPLE)]
    Echo(Echo),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Poetry {
    /// Give a poem to each client, slowly, then close
    #[command(after_help = SERVE_EXAMPLE)]
    Serve(Serve),
    /// Get poems from many servers at once
    #[command(after_help = GET_EXAMPLE)]
    Get(Get),
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Files with a poem each; every client gets the next one. Without a file: built-in poems
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Where to listen; can be given several times [default: a free port on 127.0.0.1]
    #[arg(short, long, value_name = "ENDPOINT", value_parser = to_listen)]
    pub(crate) listen: Vec<ServerEndpoint>,
    /// Seconds between the parts of a poem; 0 is full speed
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0.7",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(crate) delay: Duration,
    /// Bytes in a part
    #[arg(
        long,
        value_name = "N",
        default_value = "10",
        value_parser = one_or_more,
        allow_negative_numbers = true
    )]
    pub(crate) num_bytes: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// Servers to get a poem from, one each
    #[arg(value_name = "ADDRESS", required = true, value_parser = to_connect)]
    pub(crate) addresses: Vec<Peer>,
    /// Give up on a poem that is not whole after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
    /// Give up on a poem that is longer than this many bytes [default: 64 MiB]
    #[arg(
        long,
        value_name = "N",
        default_value = "67108864",
        hide_default_value = true,
        value_parser = bytes,
        allow_negative_numbers = true
    )]
    pub(crate) max_bytes: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Echo {
    /// Where to listen; can be given several times [default: a free port on 127.0.0.1]
    #[arg(short, long, value_name = "ENDPOINT", value_parser = to_listen)]
    pub(crate) listen: Vec<ServerEndpoint>,
    /// Close a connection on which nothing was received for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) idle_timeout: Option<Duration>,
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "a number of seconds, 0 or more, is expected here".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    seconds_or_none(text)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "a number of seconds above 0 is expected here".to_owned())
}

fn bytes(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a number of bytes is expected here".to_owned())
}

fn one_or_more(text: &str) -> Result<u64, String> {
    let number = bytes(text).ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a number of bytes, 1 or more, is expected here".to_owned())
}

fn filter(text: &str) -> Result<Targets, String> {
    const EXAMPLES: &str = "examples are warn, or couplet=debug,info";
    let known = |c: char| c.is_ascii_alphanumeric() || "_:=,-".contains(c);
    if let Some(odd) = text.chars().find(|c| !known(*c)) {
        // It would be taken for a part of a name that nothing has.
        return Err(format!("{odd:?} stands in no filter; {EXAMPLES}"));
    }
    Targets::from_str(text).map_err(|error| format!("{error}; {EXAMPLES}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_filter_is_levels_and_targets_and_nothing_else() {
        for good in ["warn", "couplet=debug,info", "couplet::reactor=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["bad[[[", "couplet=nonsense", "==", "info debug"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "nan", "inf", "1e300", "soon"] {
            assert!(seconds_or_none(bad).is_err(), "{bad}");
        }
        assert!(seconds("0").is_err());
    }

    #[test]
    fn a_part_has_at_least_one_byte() {
        assert_eq!(one_or_more("1"), Ok(1));
        for bad in ["0", "-1", "", "ten", "1.5"] {
            assert!(one_or_more(bad).is_err(), "{bad}");
        }
    }
}
