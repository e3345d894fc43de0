//! `couplet inspect FILE --open`: serves the inspector's page with a recording.

use std::path::Path;

use couplet::LoopOptions;
use couplet::inspect::Inspector;

use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

/// Serves the page on a free port of 127.0.0.1 until a signal ends it, and prints its URL.
pub(super) fn open(path: &Path) -> Result<(), Exit> {
    let from = path.display();
    let file = std::fs::read(path)
        .map_err(|error| Exit::failed(format!("cannot read {from}: {}", output::plain(&error))))?;
    let l = signalled_loop(LoopOptions::default(), output::print_to_stderr)?;
    let url = Inspector::at("0").replay(&l.reactor(), file)?;
    output::print(format!("{url}\n").as_bytes())?;
    Ok(l.run(|_| Ok(()))?)
}
