//! The program `chat`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    chat::main()
}
