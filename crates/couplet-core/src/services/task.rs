//! [`TaskService`]: a service from a task.

use std::fmt;
use std::future::Future;

use super::service::Service;
use crate::defer::{Canceller, Deferred};
use crate::{Reactor, Result};

/// Runs a task while it is started. When the task returns, the service has ended: with success, or
/// failed. To stop it drops the task.
///
/// ```
/// use std::time::Duration;
///
/// use couplet::services::TaskService;
///
/// let sweeper = TaskService::new("sweeper", |reactor| async move {
///     loop {
///         reactor.sleep(Duration::from_secs(60)).await?;
///         // …
///     }
/// });
/// # drop(sweeper);
/// ```
pub struct TaskService {
    name: String,
    spawn: Spawn,
    run: Option<Run>,
}

type Spawn = Box<dyn FnMut(&Reactor, &str) -> Deferred<()>>;

/// A task that was spawned.
struct Run {
    task: Canceller,
    /// Its outcome, until it is taken.
    end: Option<Deferred<()>>,
    /// Fires when the task has been dropped.
    dropped: Deferred<()>,
}

impl TaskService {
    /// A service that runs the future that `task` returns, a new one for each start.
    pub fn new<F: Future<Output = Result<()>> + 'static>(
        name: impl Into<String>,
        mut task: impl FnMut(Reactor) -> F + 'static,
    ) -> Self {
        let spawn =
            move |reactor: &Reactor, name: &str| reactor.spawn_named(name, task(reactor.clone()));
        TaskService { name: name.into(), spawn: Box::new(spawn), run: None }
    }
}

impl Service for TaskService {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let work = (self.spawn)(reactor, &self.name);
        let task = work.canceller();
        let ((end, ended), (dropped, is_dropped)) = (Deferred::new(), Deferred::new());
        let work = work.add_both(move |outcome| {
            ended.resolve(outcome);
            is_dropped.callback(());
            Ok(())
        });
        work.detach();
        self.run = Some(Run { task, end: Some(end), dropped });
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        let Some(run) = self.run.take() else { return Deferred::succeed(()) };
        run.task.cancel();
        if let Some(end) = run.end {
            // Not awaited, so that its failure is expected.
            end.add_errback(|_| Ok(())).detach();
        }
        run.dropped
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.run.as_mut().and_then(|run| run.end.take())
    }
}

impl fmt::Debug for TaskService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskService").field("name", &self.name).finish_non_exhaustive()
    }
}
