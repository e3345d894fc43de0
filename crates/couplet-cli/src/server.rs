//! What the server commands have in common: listen, say so, run until asked to stop.

use couplet::endpoints::ServerEndpoint;
use couplet::{IntoFactory, Loop, LoopOptions};

use crate::exit::Exit;
use crate::{endpoint, output};

/// Serves `factory` on each endpoint, or on a free port of this machine where none is given.
pub(crate) fn run<K>(
    listen: Vec<ServerEndpoint>,
    factory: impl IntoFactory<K> + Clone,
) -> Result<(), Exit> {
    let mut l = Loop::with_options(LoopOptions::default().signals(true)).map_err(Exit::failed)?;
    let mut printed = Ok(());
    l.run(|reactor| {
        for endpoint in endpoint::or_any(listen) {
            let port = reactor.listen(endpoint, factory.clone())?;
            printed = output::listening(&port);
            if printed.is_err() {
                reactor.stop();
                break;
            }
        }
        Ok(())
    })?;
    printed
}
