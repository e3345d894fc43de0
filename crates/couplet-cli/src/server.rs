//! What the server commands share: listen, print where, run until stopped.

use couplet::IntoFactory;

use crate::cli::Listen;
use crate::exit::Exit;
use crate::{endpoint, output, signalled_loop};

/// Serves `factory` on each endpoint, or on a free local port if none is given.
pub(crate) fn run<K>(listen: Listen, factory: impl IntoFactory<K> + Clone) -> Result<(), Exit> {
    let mut l = signalled_loop(output::tell)?;
    let mut told = Ok(());
    l.run(|reactor| {
        // All or none: no port is announced that closes immediately because another failed.
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
