//! Standard output for results only: flushed, and a silent end if its reader closed it. Standard
//! error for messages; it may be closed too, and a failure to write there is ignored.
//!
//! Contract: 119c.

use std::fmt::Display;
use std::io::{self, Write};

use couplet::backlog::Backlog;

use crate::exit::Exit;

/// Prints bytes unchanged.
pub fn print(bytes: &[u8]) -> Result<(), Exit> {
    write(bytes).map_err(|error| cannot_print(&error))
}

/// Writes bytes to stdout.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// The command's outcome after an error on stdout.
pub fn cannot_print(error: &io::Error) -> Exit {
    cannot_write("stdout", error)
}

/// The command's outcome after an error of its output.
pub fn cannot_write(to: &str, error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Exit::closed_pipe(),
        _ => Exit::failed(format!("cannot write to {to}: {}", plain(error))),
    }
}

/// Prints the listening ports, outside the loop. A server whose stdout is closed keeps running.
pub fn listening(ports: &[String]) -> Result<(), Exit> {
    let lines: String = ports.iter().map(|port| format!("listening on {port}\n")).collect();
    match print(lines.as_bytes()) {
        Err(exit) if exit.is_quiet() => Ok(()),
        other => other,
    }
}

/// Prints a port of a service. A service whose stdout is closed, or not read, keeps running.
pub fn served(service: &str, port: &impl Display) {
    Backlog::stdout().push(format!("{service} listening on {port}\n"));
}

/// Prints a line on stderr, without waiting for its reader.
pub fn print_to_stderr(line: &str) {
    Backlog::stderr().push(format!("{line}\n"));
}

/// Formats a system error for users: in lower case, without "(os error 2)".
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    let first = letters.next().map(char::to_lowercase);
    first.into_iter().flatten().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_reads_as_part_of_a_sentence() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(plain(&error), "no such file or directory");
    }
}
