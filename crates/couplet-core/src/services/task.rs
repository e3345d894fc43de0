//! [`TaskService`]: a service from a task.
//!
//! Contract: 139k.

use std::fmt;
use std::future::Future;

use super::running::Running;
use super::service::Service;
use crate::defer::Deferred;
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
    run: Option<Running>,
}

type Spawn = Box<dyn FnMut(&Reactor, &str) -> Deferred<()>>;

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
        self.run = Some(Running::new((self.spawn)(reactor, &self.name)));
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        let Some(run) = self.run.take() else { return Deferred::succeed(()) };
        run.cancel();
        run.over()
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.run.as_mut()?.take_end()
    }
}

impl fmt::Debug for TaskService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskService").field("name", &self.name).finish_non_exhaustive()
    }
}
