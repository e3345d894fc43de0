//! A service that runs in all loops of the program: for its supervisor, one service; in each loop, a
//! part. The parts start, stop and end together.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use couplet::defer::Cancelled;
use couplet::services::{Child, Health, Service};
use couplet::{Deferred, Failure, Reactor, Resolver};

use crate::asking::Question;
use crate::loops::{Loops, all};
use crate::parts::{self, MakePart, SharedHealth};

/// The number of the next run of any service.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The child that runs in all loops; with one loop, the part itself.
pub(crate) fn child(
    loops: &Loops,
    make: impl Fn(&Reactor) -> couplet::Result<Child> + Send + Sync + 'static,
) -> couplet::Result<Child> {
    let first = make(loops.reactor())?;
    if loops.count() == 1 {
        return Ok(first);
    }
    let healths = std::iter::repeat_with(SharedHealth::default).take(loops.count()).collect();
    let cell = Rc::new(ServiceCell {
        name: first.name().to_owned(),
        loops: loops.clone(),
        make: Arc::new(make),
        healths,
        run: Cell::default(),
        stage: RefCell::new(InLoopsStage::Stopped),
        start_over: RefCell::default(),
        end: RefCell::default(),
    });
    Ok(first.replaced_by(InLoops(cell)))
}

/// A service in all loops.
struct InLoops(Rc<ServiceCell>);

struct ServiceCell {
    name: String,
    loops: Loops,
    make: Arc<MakePart>,
    healths: Vec<SharedHealth>,
    /// The number of the latest run.
    run: Cell<u64>,
    stage: RefCell<InLoopsStage>,
    /// Fires when the latest start has ended, or was undone.
    start_over: RefCell<Option<Deferred<()>>>,
    /// The Deferred of `take_end`.
    end: RefCell<Option<Deferred<()>>>,
}

enum InLoopsStage {
    Stopped,
    Starting,
    Running,
    Stopping { questions: Vec<Question>, waiting: Vec<Resolver<()>> },
}

/// A start of all parts: the questions to the loops. `None` once the start is cancelled; parts that
/// still start are stopped.
struct Start(RefCell<Option<Vec<Question>>>);

impl Start {
    fn new() -> Rc<Start> {
        Rc::new(Start(RefCell::new(Some(Vec::new()))))
    }

    fn cancel(&self) {
        self.cancel_parts();
        self.0.take();
    }

    fn cancel_parts(&self) {
        self.0.borrow().iter().flatten().for_each(Question::cancel);
    }

    fn is_cancelled(&self) -> bool {
        self.0.borrow().is_none()
    }
}

impl Service for InLoops {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn start(&mut self, reactor: &Reactor) -> Deferred<()> {
        let (cell, start) = (self.0.clone(), Start::new());
        let asked = start.clone();
        let (deferred, resolver) = Deferred::with_canceller(move |_| asked.cancel());
        let (before, ends) = self.0.await_start();
        let name = format!("start of {} in all loops", cell.name);
        let task = reactor.spawn_named(name, async move {
            // If the task was dropped, so was the start.
            let _ = before.await;
            let outcome = cell.start_parts(&start).await;
            ends.callback(());
            resolver.resolve(outcome);
            Ok(())
        });
        task.detach();
        deferred
    }

    fn stop(&mut self) -> Deferred<()> {
        let cell = Rc::downgrade(&self.0);
        let (deferred, resolver) = Deferred::with_canceller(move |_| {
            if let Some(cell) = cell.upgrade() {
                cell.hasten();
            }
        });
        let (cell, (before, ends)) = (self.0.clone(), self.0.await_start());
        let stopped = before.add_both(move |_| {
            ends.callback(());
            let stopped = cell.stop_parts().add_both(move |outcome| {
                resolver.resolve(outcome);
                Ok(())
            });
            stopped.detach();
            Ok(())
        });
        stopped.detach();
        deferred
    }

    fn health(&self) -> Health {
        match &*self.0.stage.borrow() {
            InLoopsStage::Running => {}
            InLoopsStage::Stopped | InLoopsStage::Starting => return Health::Starting,
            InLoopsStage::Stopping { .. } => {
                return Health::Failed("a part of it has ended".to_owned());
            }
        }
        Health::worst(self.0.healths.iter().map(SharedHealth::read))
    }

    fn take_end(&mut self) -> Option<Deferred<()>> {
        self.0.end.take()
    }
}

impl ServiceCell {
    /// Fires when the latest start has ended. The resolver is for the next call, which waits as well.
    fn await_start(&self) -> (Deferred<()>, Resolver<()>) {
        let (over, ends) = Deferred::new();
        let before = self.start_over.replace(Some(over));
        (before.unwrap_or_else(|| Deferred::succeed(())), ends)
    }

    /// Starts the part of each loop. If one fails, the others are stopped.
    async fn start_parts(self: Rc<Self>, start: &Rc<Start>) -> couplet::Result<()> {
        let is_stopping = matches!(*self.stage.borrow(), InLoopsStage::Stopping { .. });
        if is_stopping {
            let _ = self.stop_parts().await;
        }
        let cancelled = || Cancelled::of(format!("the start of {}", self.name)).into();
        if start.is_cancelled() {
            return Err(cancelled());
        }
        let run = NEXT.fetch_add(1, Ordering::Relaxed);
        self.run.set(run);
        let started = self.loops.ask_all(|number| {
            let (make, health) = (self.make.clone(), self.healths[number].clone());
            move |reactor: &Reactor| parts::start(reactor, run, &*make, health)
        });
        let (answers, questions): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        start.0.replace(Some(questions));
        self.stage.replace(InLoopsStage::Starting);
        let failure = Rc::new(RefCell::new(None::<Failure>));
        let answers = answers.into_iter().map(|answer| {
            let (first, start) = (failure.clone(), start.clone());
            answer.add_errback(move |failure| {
                first.borrow_mut().get_or_insert(failure);
                start.cancel_parts();
                Ok(())
            })
        });
        all(answers).await?;
        let failure = failure.take().or_else(|| start.is_cancelled().then(cancelled));
        match failure {
            None => {
                self.begin_run(run);
                Ok(())
            }
            Some(failure) => {
                // The first failure matters.
                let _ = self.stop_parts().await;
                Err(failure)
            }
        }
    }

    /// All parts have started. The first that ends, ends the others.
    fn begin_run(self: &Rc<Self>, run: u64) {
        let (end, ended) = Deferred::new();
        drop(self.end.replace(Some(end)));
        self.stage.replace(InLoopsStage::Running);
        let ended = Rc::new(RefCell::new(Some(ended)));
        for (end, _) in self.loops.ask_all(|_| move |_: &Reactor| parts::end(run)) {
            let (cell, ended) = (self.clone(), ended.clone());
            let end = end.add_both(move |outcome| {
                let is_running = matches!(*cell.stage.borrow(), InLoopsStage::Running);
                let resolver = ended.take().filter(|_| is_running && cell.run.get() == run);
                let Some(resolver) = resolver else { return Ok(()) };
                let stopped = cell.stop_parts().add_both(move |_| {
                    resolver.resolve(outcome);
                    Ok(())
                });
                stopped.detach();
                Ok(())
            });
            end.detach();
        }
    }

    /// Stops all parts, unless that has begun. The Deferred fires when they have stopped.
    fn stop_parts(self: &Rc<Self>) -> Deferred<()> {
        let (deferred, resolver) = Deferred::new();
        match &mut *self.stage.borrow_mut() {
            InLoopsStage::Stopping { waiting, .. } => {
                waiting.push(resolver);
                return deferred;
            }
            InLoopsStage::Stopped => return Deferred::succeed(()),
            InLoopsStage::Starting | InLoopsStage::Running => {}
        }
        let run = self.run.get();
        let stopped = self.loops.ask_all(|_| move |_: &Reactor| parts::stop(run));
        let (answers, questions): (Vec<_>, Vec<_>) = stopped.into_iter().unzip();
        self.stage.replace(InLoopsStage::Stopping { questions, waiting: vec![resolver] });
        let cell = self.clone();
        let stopped = all(answers).add_both(move |outcome| {
            if let InLoopsStage::Stopping { waiting, .. } =
                cell.stage.replace(InLoopsStage::Stopped)
            {
                let mut outcome = Some(outcome);
                for resolver in waiting {
                    resolver.resolve(outcome.take().unwrap_or(Ok(())));
                }
            }
            Ok(())
        });
        stopped.detach();
        deferred
    }

    /// Cancels the stops of the parts.
    fn hasten(&self) {
        if let InLoopsStage::Stopping { questions, .. } = &*self.stage.borrow() {
            questions.iter().for_each(Question::cancel);
        }
    }
}

#[cfg(test)]
mod tests;
