//! How a command ends: its exit code, and what it says.

use std::process::ExitCode;

use couplet::{Failure, Signal};

use crate::output;

/// Why a command did not end with 0, or ended before its time.
#[derive(Debug)]
pub(crate) struct Exit {
    code: u8,
    message: Option<String>,
}

impl Exit {
    /// It failed: exit code 1.
    pub(crate) fn failed(message: impl ToString) -> Exit {
        Exit { code: 1, message: Some(message.to_string()) }
    }

    /// The arguments cannot be meant so: exit code 2.
    pub(crate) fn bad_usage(message: impl ToString) -> Exit {
        Exit { code: 2, message: Some(message.to_string()) }
    }

    /// It failed, and everything was said already.
    pub(crate) fn failed_quietly() -> Exit {
        Exit { code: 1, message: None }
    }

    /// Nobody reads what we print: a quiet end, and not our failure.
    pub(crate) fn closed_pipe() -> Exit {
        Exit { code: 0, message: None }
    }

    /// A client command was interrupted.
    pub(crate) fn interrupted(signal: Signal) -> Exit {
        Exit { code: 128 + signal.number() as u8, message: None }
    }

    /// True when nobody needs to hear of it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.code == 0
    }

    pub(crate) fn report(self) -> ExitCode {
        if let Some(message) = self.message {
            output::tell(&format!("couplet: {message}"));
        }
        ExitCode::from(self.code)
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        Exit::failed(failure)
    }
}
