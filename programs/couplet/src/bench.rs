//! `couplet bench`: replaces this process by the program `couplet-bench`, if installed next to this
//! one. That program is separate because it contains other projects' servers, to measure them.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::exit::Exit;

const PROGRAM: &str = "couplet-bench";

#[derive(Args, Debug)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub(crate) struct Bench {
    /// Options of the measurements: see --help
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Becomes the other program; returns only with an error.
pub(crate) fn run(bench: Bench) -> Result<(), Exit> {
    let become_it = |program: PathBuf| Command::new(program).args(&bench.words).exec();
    let beside = std::env::current_exe().map(|own| own.with_file_name(PROGRAM));
    let error = match beside.map_or_else(|error| error, become_it) {
        error if error.kind() == ErrorKind::NotFound => become_it(PROGRAM.into()),
        error => error,
    };
    Err(match error.kind() {
        ErrorKind::NotFound => Exit::failed(format!(
            "cannot run {PROGRAM}: it is neither beside this program nor in PATH (get it by `cargo \
             install {PROGRAM}`)"
        )),
        _ => Exit::failed(format!("cannot run {PROGRAM}: {error}")),
    })
}
