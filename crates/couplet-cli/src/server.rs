//! What the server commands share: listen, print where, run until stopped.

use std::sync::Arc;

use couplet::endpoints::ServerEndpoint;
use couplet::{IntoFactory, LoopOptions, Port, Reactor};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::Listen;
use crate::exit::Exit;
use crate::{endpoint, output, signalled_loop};

/// Descriptors reserved for what the program has open besides its clients' connections.
const OTHERS: usize = 16;

/// The system's limit on descriptors, less [`OTHERS`].
pub(crate) fn most_descriptors() -> usize {
    let allowed = getrlimit(Resource::Nofile).current;
    let allowed = allowed.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    allowed.saturating_sub(OTHERS).max(1)
}

/// Raises the limit on descriptors to the highest that the user may have.
pub(crate) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit on descriptors stays as it is");
    }
}

/// Serves `factory` on each endpoint: see [`run_with`].
pub(crate) fn run<K>(listen: Listen, factory: impl IntoFactory<K> + Clone) -> Result<(), Exit> {
    let start = |reactor: &Reactor, endpoint| reactor.listen(endpoint, factory.clone());
    run_with(LoopOptions::default(), listen, start)
}

/// Listens by `start` on each endpoint, or on a free local port if none is given. On SIGTERM
/// connections are asked to finish.
pub(crate) fn run_with(
    options: LoopOptions,
    listen: Listen,
    start: impl Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port>,
) -> Result<(), Exit> {
    let options = options.drain(listen.drain.time).answers(listen.answers);
    let l = signalled_loop(options, output::tell)?;
    let mut told = Ok(());
    l.run(|reactor| {
        // All or none: no port is announced that closes immediately because another failed.
        let listening = endpoint::or_any(listen.endpoints)
            .into_iter()
            .map(|endpoint| start(reactor, endpoint))
            .collect::<couplet::Result<Vec<_>>>()?;
        told = listening.iter().try_for_each(output::listening);
        if told.is_err() {
            reactor.stop();
        }
        Ok(())
    })?;
    told
}
