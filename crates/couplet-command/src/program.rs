//! A program on the command line: it parses its arguments, runs with a log and an inspector, and ends
//! with an exit code.
//!
//! Contract: 119c.

use std::process::ExitCode;

use clap::{Args, Parser};

use crate::exit::Exit;
#[cfg(feature = "inspect")]
use crate::inspecting::{self, Inspecting};
use crate::known;
use crate::logging::{self, Logging};

#[derive(Args, Debug)]
#[expect(missing_docs, reason = "it would become the help of the commands")]
pub struct Observed {
    #[command(flatten)]
    logging: Logging,
    #[cfg(feature = "inspect")]
    #[command(flatten)]
    inspecting: Inspecting,
}

impl Observed {
    /// Runs a command of a `program` of this `version`, with the log and the inspector that the
    /// command line asks for.
    ///
    /// # Errors
    ///
    /// A usage error of these options, or the error of the command.
    pub fn run(
        self,
        (program, version): (&str, &str),
        command: impl FnOnce(&Logging) -> Result<(), Exit>,
    ) -> Result<(), Exit> {
        #[cfg(feature = "inspect")]
        self.inspecting.check(false)?;
        let events = logging::start(&self.logging, false);
        #[cfg(feature = "inspect")]
        inspecting::start((program, version), self.inspecting, None, Some(events));
        #[cfg(not(feature = "inspect"))]
        let _ = (program, version, events);
        let outcome = command(&self.logging);
        #[cfg(feature = "inspect")]
        inspecting::end();
        outcome
    }
}

/// Runs a program with the arguments of the process, and reports its error. Wrong arguments, and
/// questions for help or the version, are answered here.
pub fn main<Cli: Parser>(program: &str, run: impl FnOnce(Cli) -> Result<(), Exit>) -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(cli) => run(cli).map(|()| ExitCode::SUCCESS),
        Err(said) => known::explain(said, &Cli::command()),
    };
    let code = outcome.unwrap_or_else(|exit| exit.report(program).code());
    // The threads that write end with the process.
    couplet::backlog::settle_all();
    code
}
