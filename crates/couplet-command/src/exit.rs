//! A command's exit code and message.

use std::process::ExitCode;

use couplet::{Failure, Signal};

use crate::output;

/// Why a command failed or ended early.
#[derive(Debug)]
pub struct Exit {
    code: u8,
    message: Option<String>,
}

impl Exit {
    /// A failure: exit code 1.
    pub fn failed(message: impl ToString) -> Exit {
        Exit { code: 1, message: Some(message.to_string()) }
    }

    /// A usage error: exit code 2.
    pub fn bad_usage(message: impl ToString) -> Exit {
        Exit { code: 2, message: Some(message.to_string()) }
    }

    /// A usage error: the option needs a feature that the program was built without.
    pub fn without_feature(option: &str, feature: &str) -> Exit {
        let built = "this program was built without its feature";
        Exit::bad_usage(format_args!("{option}: {built} {feature}"))
    }

    /// A failure that has been reported already: exit code 1.
    pub fn failed_quietly() -> Exit {
        Exit { code: 1, message: None }
    }

    /// Prints the message to stderr, after the name of the `program`; the rest has none.
    pub fn report(self, program: &str) -> Exit {
        if let Some(message) = self.message {
            output::print_to_stderr(&format!("{program}: {message}"));
        }
        Exit { message: None, code: self.code }
    }

    /// A check has found something, which is printed: exit code 3.
    pub fn found() -> Exit {
        Exit { code: 3, message: None }
    }

    /// The reader of stdout closed it: a silent end, not a failure.
    pub fn closed_pipe() -> Exit {
        Exit { code: 0, message: None }
    }

    /// A client command was interrupted: exit code 128 plus the signal's number.
    pub fn interrupted(signal: Signal) -> Exit {
        Exit { code: 128 + signal.number() as u8, message: None }
    }

    /// True for a silent end with exit code 0.
    pub fn is_quiet(&self) -> bool {
        self.code == 0
    }

    /// The exit code.
    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    /// The message for stderr, unless the end is silent.
    pub fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        Exit::failed(failure)
    }
}
