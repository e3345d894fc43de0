//! What the server commands have in common: listen, say so, run until asked to stop.

use couplet::IntoFactory;

use crate::cli::Listen;
use crate::exit::Exit;
use crate::{endpoint, output, signalled_loop};

/// Serves `factory` on each endpoint, or on a free port of this machine where none is given.
pub(crate) fn run<K>(listen: Listen, factory: impl IntoFactory<K> + Clone) -> Result<(), Exit> {
    let mut l = signalled_loop(output::tell)?;
    let mut told = Ok(());
    l.run(|reactor| {
        // All or none: nobody is told of a port that closes at once because another failed.
        let listening = endpoint::or_any(listen.endpoints)
            .into_iter()
            .map(|endpoint| reactor.listen(endpoint, factory.clone()))
            .collect::<couplet::Result<Vec<_>>>()?;
        told = listening.iter().try_for_each(output::listening);
        if told.is_err() {
            reactor.stop();
        }
        Ok(())
    })?;
    told
}
