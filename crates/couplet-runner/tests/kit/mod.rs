//! Programs as processes.

use std::io::{BufRead, BufReader};
use std::process::Child;

/// A process that is killed with its test.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The log of a process, and the first port in it. The log has to be a pipe.
pub(crate) fn lines_and_host(
    process: &mut Child,
) -> (impl Iterator<Item = String> + use<>, String) {
    let log = BufReader::new(process.stderr.take().expect("a pipe"));
    let mut lines = log.lines().map_while(Result::ok);
    let host = lines.find_map(|line| Some(line.split_once("host=tcp:")?.1.to_owned()));
    (lines, host.expect("a port"))
}
