//! Standard output: for results alone, flushed, and quiet when nobody reads.

use std::io::{self, Write};

use crate::exit::Exit;

/// Prints bytes as they are.
pub(crate) fn print(bytes: &[u8]) -> Result<(), Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Exit::closed_pipe()),
        Err(error) => Err(Exit::failed(format!("cannot write to stdout: {error}"))),
    }
}

/// Tells that a port accepts. A server whose stdout is closed goes on.
pub(crate) fn listening(port: &couplet::Port) -> Result<(), Exit> {
    match print(format!("listening on {}\n", port.host()).as_bytes()) {
        Err(exit) if exit.is_quiet() => Ok(()),
        other => other,
    }
}
