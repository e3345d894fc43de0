//! `couplet inspect FILE --open`: serves the inspector's page with a recording.

use std::path::Path;

use couplet::LoopOptions;
use couplet::inspect::Inspector;

use super::fetching::read;
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

/// Serves the page on a free port of 127.0.0.1 until a signal ends it, and prints its URL.
pub(super) fn open(path: &Path) -> Result<(), Exit> {
    let file = read(path)?;
    let l = signalled_loop(LoopOptions::default(), output::print_to_stderr)?;
    let url = Inspector::at("0").replay(&l.reactor(), file)?;
    output::print(format!("{url}\n").as_bytes())?;
    Ok(l.run(|_| Ok(()))?)
}
