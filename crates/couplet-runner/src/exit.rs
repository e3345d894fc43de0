//! Ends of a program: exit codes and messages.

use std::process::ExitCode;

use couplet::Failure;
use couplet::backlog::Backlog;

use crate::config::ConfigError;

/// Why a program failed.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    /// A failure: exit code 1.
    pub(crate) fn failed(message: impl ToString) -> Exit {
        Exit { code: 1, message: message.to_string() }
    }

    /// A wrong configuration or command line: exit code 2.
    pub(crate) fn bad_usage(message: impl ToString) -> Exit {
        Exit { code: 2, message: message.to_string() }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the message on stderr, which may be closed, or not be read.
    pub(crate) fn report(&self, name: &str) -> ExitCode {
        Backlog::stderr().push(format!("{name}: {}\n", self.message));
        ExitCode::from(self.code)
    }
}

/// An error of the system in lower case, without "(os error 2)".
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

impl From<ConfigError> for Exit {
    fn from(error: ConfigError) -> Exit {
        Exit::bad_usage(error)
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        Exit::failed(failure)
    }
}
