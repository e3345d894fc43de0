//! The command line as a whole: the commands and the options that all of them have. Each command's
//! module has its arguments and the end of its help.

use std::path::Path;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::bench::Bench;
use crate::cert::Cert;
use crate::connect::Connect;
use crate::ctl::Ctl;
use crate::echo::Echo;
use crate::forward::Forward;
use crate::http::files::HttpServe;
use crate::http::get::HttpGet;
use crate::inspect::{Inspect, Inspecting};
#[cfg(feature = "completions")]
use crate::known::Shell;
use crate::logging::Logging;
use crate::run::Run;
#[cfg(feature = "sim")]
use crate::sim::Sim;

const ABOUT: &str = "Servers and clients for the network: an echo, a forwarder, files over HTTP";

const EXAMPLE: &str = "\
Example, in two terminals:
  couplet echo --listen 7000
  couplet connect 7000

A program for each connection, from elsewhere too:
  couplet forward :7000 process:/bin/cat

Exit codes: 0 success, 1 failure, 2 usage error, 130 or 143 interrupted.
SIGUSR1 makes a running command print a snapshot of open and pending objects.";

#[cfg(feature = "completions")]
const COMPLETIONS_EXAMPLE: &str = "\
Example:
  couplet completions bash > ~/.local/share/bash-completion/completions/couplet";

#[derive(Parser, Debug)]
#[command(
    name = "couplet",
    version,
    propagate_version = true,
    about = ABOUT,
    styles = couplet_command::STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLE
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(flatten)]
    pub(crate) inspecting: Inspecting,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Send stdin to a server, a program or a serial line, and print the answer
    Connect(Connect),
    /// Send back everything received, over TCP, TLS, UNIX sockets or UDP
    Echo(Echo),
    /// Join each connection to a new one elsewhere, or to a program; or forward UDP
    Forward(Forward),
    /// Serve the files of a folder over HTTP
    Serve(HttpServe),
    /// Fetch a URL and print it
    Get(HttpGet),
    /// Run several of these servers as the services of one process, from a configuration
    Run(Run),
    /// Ask a running process for its status, or to reload, restart or end
    Ctl(Ctl),
    /// Show the connections of a running process that has an inspector, and why they wait
    Inspect(Inspect),
    /// Make certificates for tests of TLS, and an authority that issues them
    Cert(Cert),
    /// Measure these servers beside others, under a load that checks every byte
    Bench(Bench),
    /// Test protocols on simulated networks that fail: hours of bad weather in seconds
    #[cfg(feature = "sim")]
    Sim(Sim),
    /// Print a completion script for a shell
    #[cfg(feature = "completions")]
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The commands with an inspector, and the names of its options that they have.
const INSPECTED: [(&str, &[&str]); 7] = {
    const ALL: &[&str] = &["inspect", "inspect_actions", "inspect_record", "inspect_contents"];
    [
        ("connect", ALL),
        ("echo", ALL),
        ("forward", ALL),
        ("serve", ALL),
        ("get", ALL),
        ("run", ALL),
        // Recordings of `sim` may have contents.
        ("sim", &["inspect_contents"]),
    ]
};

/// The command line. The options of the inspector stand before each command, and in the help of the
/// commands that have one.
pub(crate) fn command() -> clap::Command {
    let options = Inspecting::augment_args(clap::Command::new("options"));
    let mut root = Cli::command();
    for option in options.get_arguments() {
        root = root.mut_arg(option.get_id().clone(), |option| option.hide(true));
        for (name, own) in INSPECTED {
            if root.find_subcommand(name).is_some() && own.contains(&option.get_id().as_str()) {
                let heading = Some("Inspector");
                let option = option.clone().help_heading(heading);
                root = root.mut_subcommand(name, |command| command.arg(option));
            }
        }
    }
    root
}

/// Commands that have become separate programs: the command, the program and its arguments.
const PROGRAMS: [(&str, &str, &str); 3] =
    [("poetry", "poetry", ""), ("demo", "poetry", "demo"), ("chat", "chat", "")];

/// Commands that need a feature of the same name.
const OPTIONAL: [&str; 2] = ["completions", "sim"];

/// Names the program, or the feature, of a command that this program does not have.
pub(crate) fn name_what_is_elsewhere(said: &mut clap::Error) {
    let Some(ContextValue::String(typed)) = said.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    let found = PROGRAMS.iter().find(|(command, ..)| command == typed);
    let tip = if let Some((_, program, arguments)) = found {
        let called = format!("{program} {arguments}");
        format!(
            "it is the program '{program}': '{}', or in the sources 'cargo run -p {program} -- {}'",
            called.trim_end(),
            if arguments.is_empty() { "…" } else { arguments }
        )
    } else if OPTIONAL.contains(&typed.as_str()) {
        format!(
            "this program was built without its feature {typed}: 'cargo install couplet-cli \
             --features {typed}', or with --features full"
        )
    } else {
        return;
    };
    said.remove(ContextKind::SuggestedSubcommand);
    said.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
}

/// Parses the command line.
///
/// # Errors
///
/// The help, the version, or a usage error.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&command().try_get_matches()?)
}

impl Command {
    /// Whether the command has this option of the inspector.
    pub(crate) fn has_inspector_option(&self, option: &str) -> bool {
        let name = match self {
            Command::Connect(_) => "connect",
            Command::Echo(_) => "echo",
            Command::Forward(_) => "forward",
            Command::Serve(_) => "serve",
            Command::Get(_) => "get",
            Command::Run(_) => "run",
            #[cfg(feature = "sim")]
            Command::Sim(_) => "sim",
            Command::Ctl(_) | Command::Inspect(_) | Command::Cert(_) | Command::Bench(_) => {
                return false;
            }
            #[cfg(feature = "completions")]
            Command::Completions { .. } => return false,
        };
        INSPECTED.iter().any(|(known, options)| *known == name && options.contains(&option))
    }

    /// Whether the command runs simulated worlds.
    pub(crate) fn is_simulated(&self) -> bool {
        #[cfg(feature = "sim")]
        return matches!(self, Command::Sim(_));
        #[cfg(not(feature = "sim"))]
        false
    }

    /// Whether the command makes a recording.
    pub(crate) fn records(&self) -> bool {
        match self {
            #[cfg(feature = "sim")]
            Command::Sim(sim) => sim.records(),
            _ => self.recording_at_end().is_some(),
        }
    }

    /// The file of the recording that the command writes at its end.
    pub(crate) fn recording_at_end(&self) -> Option<&Path> {
        match self {
            Command::Run(run) => run.recording_at_end(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        crate::known::assert_consistent(command());
    }

    fn parsed(args: &[&str]) -> Result<Cli, clap::Error> {
        let matches = command().try_get_matches_from(["couplet"].iter().chain(args))?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_options_of_the_inspector_are_in_the_help_of_commands_that_have_one() {
        let options = ["--inspect ", "--inspect-actions", "--inspect-record", "--inspect-contents"];
        let help = |args: &[&str]| {
            let said = parsed(&[args, &["--help"]].concat()).expect_err("help").to_string();
            options.map(|option| said.contains(&format!("  {option}")))
        };
        for args in [&["echo"][..], &["run"], &["get"]] {
            assert_eq!(help(args), [true; 4], "{args:?}");
        }
        for args in [&[][..], &["cert"], &["ctl"], &["completions"]] {
            assert_eq!(help(args), [false; 4], "{args:?}");
        }
        assert_eq!(help(&["sim"]), [false, false, false, true]);
    }

    #[test]
    fn the_options_of_the_inspector_may_stand_before_and_after_a_command_that_has_one() {
        let check = |args: &[&str]| {
            let cli = parsed(args).expect("it is parsed");
            cli.inspecting.check_options(|option| cli.command.has_inspector_option(option)).is_ok()
        };
        for (args, is_accepted) in [
            (&["echo", "--inspect", "0", "--inspect-actions"][..], true),
            (&["--inspect", "0", "echo"], true),
            (&["get", "http://a", "--inspect", "0"], true),
            (&["sim", "--inspect-contents", "9"], true),
            (&["--inspect", "0", "completions", "bash"], false),
            (&["--inspect", "0", "--inspect-actions", "sim"], false),
            (&["completions", "bash"], true),
        ] {
            assert_eq!(check(args), is_accepted, "{args:?}");
        }
        let cli = parsed(&["echo", "--inspect", "0", "--inspect-contents", "7"]).expect("parsed");
        assert_eq!(cli.inspecting.contents(), 7);
    }
}
