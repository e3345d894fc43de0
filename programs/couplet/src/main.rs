//! The program `couplet`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    couplet_cli::main()
}
