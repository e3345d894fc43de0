//! [`TimerService`]: calls a function periodically. Twisted's class of the same name.
//!
//! Contract: 139k.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::running::Running;
use super::service::Service;
use crate::Reactor;
use crate::defer::Deferred;
use crate::task::{LoopResult, LoopingCall};

/// Calls a function when it is started and then every interval, as a [`LoopingCall`] does: never
/// two calls at a time. The service fails when the function fails. A stop waits for the call in
/// progress; cancelled, it cancels that call. Twisted's class of the same name.
///
/// ```
/// use std::time::Duration;
///
/// use couplet::services::TimerService;
///
/// let tick = TimerService::new("tick", Duration::from_secs(1), || println!("tick"));
/// # drop(tick);
/// ```
pub struct TimerService {
    name: String,
    begin: Begin,
    run: Option<(LoopingCall, Running)>,
}

type Begin = Box<dyn Fn(&Reactor) -> (LoopingCall, Deferred<()>)>;

impl TimerService {
    /// A service that calls `f` every `interval`. `f` may return nothing, a result or a Deferred.
    pub fn new<R: LoopResult>(
        name: impl Into<String>,
        interval: Duration,
        f: impl FnMut() -> R + 'static,
    ) -> Self {
        let f = Rc::new(RefCell::new(f));
        let begin = move |reactor: &Reactor| {
            let f = f.clone();
            let calls = LoopingCall::new(reactor, move || (f.borrow_mut())());
            let running = calls.start(interval).map(drop);
            (calls, running)
        };
        TimerService { name: name.into(), begin: Box::new(begin), run: None }
    }
}

impl Service for TimerService {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let (calls, work) = (self.begin)(reactor);
        self.run = Some((calls, Running::new(work)));
        Deferred::succeed(())
    }

    fn stop(&mut self) -> Deferred<()> {
        let Some((calls, run)) = self.run.take() else { return Deferred::succeed(()) };
        calls.stop();
        run.over()
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.run.as_mut()?.1.take_end()
    }
}

impl fmt::Debug for TimerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerService").field("name", &self.name).finish_non_exhaustive()
    }
}
