//! Tasks, in the turn.
//!
//! Contract: 125a.

use super::core::Core;
use crate::reactor::records::pending;
use crate::reactor::tasks::TaskId;

impl Core {
    /// Step 5: polls the woken tasks, including tasks woken by these polls, each once.
    pub(super) fn run_tasks(&mut self) {
        if !self.records.take_pending(pending::TASKS) && !self.records.queue.inbox.has_items() {
            return;
        }
        self.records.tasks.borrow_mut().begin_polls();
        self.drop_cancelled_tasks();
        loop {
            let mut ready = self.records.tasks.borrow_mut().take_ready();
            if ready.is_empty() {
                break;
            }
            if let Some(pick) = &mut self.order {
                for left in (2..=ready.len()).rev() {
                    ready.swap(left - 1, pick(left));
                }
            }
            for id in ready.drain(..) {
                self.run_task(id);
            }
            self.records.tasks.borrow_mut().recycle(ready);
            self.drop_cancelled_tasks();
        }
        if self.records.tasks.borrow().has_pending() {
            self.records.add_pending(pending::TASKS);
        }
    }

    fn run_task(&mut self, id: TaskId) {
        let task = self.records.tasks.borrow_mut().task_to_poll(id);
        if let Some(task) = task {
            self.records.tasks.poll(&task);
        }
    }

    pub(super) fn drop_cancelled_tasks(&mut self) {
        let tasks = &self.records.tasks;
        let cancelled = tasks.borrow_mut().take_cancelled();
        for id in cancelled {
            let task = tasks.borrow_mut().remove(id);
            if let Some(task) = task {
                task.task.cancel();
            }
        }
    }

    /// Ends a run: cancels the present tasks, but not tasks that they spawn in response.
    pub(super) fn drop_all_tasks(&mut self) {
        let tasks = &self.records.tasks;
        let ids = tasks.borrow().ids();
        for id in ids {
            // One at a time: a drop may cancel or spawn other tasks.
            let task = tasks.borrow_mut().remove(id);
            if let Some(task) = task {
                task.task.cancel();
            }
        }
        tasks.borrow_mut().forget_if_empty();
    }
}
