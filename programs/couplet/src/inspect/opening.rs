//! `couplet inspect FILE --open` and `couplet sim SCENARIO --open`: serve the inspector's page with a
//! recording.

use couplet::LoopOptions;
use couplet::inspect::Inspector;

use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;

/// Serves the page on a free port of 127.0.0.1 until a signal ends it, and prints its URL.
pub(crate) fn open(recording: Vec<u8>) -> Result<(), Exit> {
    let l = signalled_loop(LoopOptions::default(), output::print_to_stderr)?;
    let url = Inspector::at("0").replay(&l.reactor(), recording)?;
    output::print(format!("{url}\n").as_bytes())?;
    Ok(l.run(|_| Ok(()))?)
}
