//! What the server commands share: listen, print where, run until stopped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use couplet::endpoints::{ServerEndpoint, SharedPort};
use couplet::reactor::{Members, Snapshot};
use couplet::{Cluster, IntoFactory, LoopOptions, Port, Reactor};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cli::{Listen, Threads};
use crate::exit::Exit;
use crate::{endpoint, output, signalled, signalled_loop};

/// Descriptors reserved for what the program has open besides its clients' connections.
const OTHERS: usize = 16;

/// The system's limit on descriptors, less [`OTHERS`].
pub(crate) fn most_descriptors() -> usize {
    let allowed = getrlimit(Resource::Nofile).current;
    let allowed = allowed.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    allowed.saturating_sub(OTHERS).max(1)
}

/// The most sessions at once, of `each` so many descriptors: as many as asked, as far as those last.
/// Raises their limit to the highest that the user may have.
pub(crate) fn most_sessions(asked: Option<usize>, each: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit on descriptors stays as it is");
    }
    let affordable = most_descriptors() / each;
    asked.map_or(affordable, |most| most.min(affordable)).max(1)
}

/// Counts one more as open, unless `most` are.
pub(crate) fn one_more(open: &AtomicUsize, most: usize) -> bool {
    let more = |open: usize| (open < most).then_some(open + 1);
    open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

/// Serves what `factory` makes in each loop on each endpoint: see [`run_with`].
pub(crate) fn run<K, F: IntoFactory<K> + Clone>(
    listen: Listen,
    threads: Threads,
    factory: impl Fn() -> F + Send + Sync,
) -> Result<(), Exit> {
    run_with(LoopOptions::default(), listen, threads, |_| {
        let factory = factory();
        move |reactor: &Reactor, endpoint| reactor.listen(endpoint, factory.clone())
    })
}

/// Has each loop prepare, and listen by what that gives on each endpoint, or on a free local port if none
/// is given. `prepare` is told of the other loops, if there are any. On SIGTERM connections are asked to
/// finish.
pub(crate) fn run_with<S: Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port>>(
    options: LoopOptions,
    listen: Listen,
    threads: Threads,
    prepare: impl Fn(Option<&Members>) -> S + Send + Sync,
) -> Result<(), Exit> {
    match threads.number {
        1 => run_alone(options, listen, prepare(None)),
        _ => run_many(options, listen, threads, prepare),
    }
}

/// Listens by `start` on each endpoint, in one loop.
fn run_alone(
    options: LoopOptions,
    listen: Listen,
    start: impl Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port>,
) -> Result<(), Exit> {
    let l = signalled_loop(options_of(&listen, options), output::tell)?;
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

/// The same in several threads.
fn run_many<S: Fn(&Reactor, Arc<dyn ServerEndpoint>) -> couplet::Result<Port>>(
    options: LoopOptions,
    listen: Listen,
    threads: Threads,
    prepare: impl Fn(Option<&Members>) -> S + Send + Sync,
) -> Result<(), Exit> {
    let cluster = cluster(threads, options_of(&listen, options));
    let ports = endpoint::or_any(listen.endpoints);
    let ports = ports.iter().map(|endpoint| cluster.bind(endpoint));
    let ports = ports.collect::<couplet::Result<Vec<_>>>()?;
    let members = cluster.members();
    let (listening_loops, told) = (AtomicUsize::new(0), OnceLock::new());
    cluster.run(|reactor| {
        let start = prepare(Some(&members));
        let start = |port: &SharedPort| start(reactor, Arc::new(port.clone()));
        let listening = ports.iter().map(start).collect::<couplet::Result<Vec<_>>>()?;
        // All loops or none, as with the ports of one.
        if listening_loops.fetch_add(1, Ordering::SeqCst) + 1 == members.count() {
            let told = told.get_or_init(|| listening.iter().try_for_each(output::listening));
            if told.is_err() {
                reactor.stop();
            }
        }
        Ok(())
    })?;
    told.into_inner().unwrap_or(Ok(()))
}

/// Loops that handle signals as one does.
pub(crate) fn cluster(threads: Threads, options: LoopOptions) -> Cluster {
    let show = |snapshot: &Snapshot| output::tell(snapshot.to_string().trim_end());
    Cluster::new(threads.number).options(signalled(options)).on_snapshot(show)
}

fn options_of(listen: &Listen, options: LoopOptions) -> LoopOptions {
    options.drain(listen.drain.time).answers(listen.answers)
}
