//! The wait graph of a loop with an inspector, also in words: tasks, Deferreds and locks.
//!
//! Contract: 180a.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::address::Address;
use crate::internals::{self, ChainResult, FiredBy, HeldLock, Holder, Waiter, Waiting};
use crate::reactor::control::SNAPSHOT;
use crate::reactor::inspect::EndedDeferreds;
use crate::reactor::snapshot::{
    ConnectionSnapshot, DeferredSnapshot, LockSnapshot, PendingSnapshot, WaitRef,
};
use crate::recorder::Source;
use crate::sorted::SortedMap;
use crate::transport::ConnectionId;
use crate::why::Why;

/// The most Deferreds in a snapshot, the oldest ones.
const MOST: usize = 1000;

/// The most steps of a chain in words.
const STEPS: usize = 6;

/// Tasks, Deferreds and locks, and their relations.
pub(super) struct Waits<'a> {
    pending: BTreeMap<WaitRef, &'a PendingSnapshot>,
    deferreds: SortedMap<u64, Waiting>,
    locks: SortedMap<u64, HeldLock>,
    /// The Deferreds for which a task or a Deferred waits.
    awaited: BTreeMap<WaitRef, Vec<u64>>,
    /// The connections whose bytes tasks wait for, and their peers.
    reading: BTreeMap<u64, (ConnectionId, Option<&'a Address>)>,
}

impl Waits<'_> {
    /// The graph of this thread, with the oldest `most` Deferreds; empty unless the thread is observed.
    pub(super) fn of<'a>(
        pending: &'a [PendingSnapshot],
        readers: BTreeMap<u64, ConnectionId>,
        connections: &'a [ConnectionSnapshot],
        most: usize,
    ) -> Waits<'a> {
        let deferreds: SortedMap<_, _> = internals::waiting(most)
            .into_iter()
            .filter(|it| it.fired_by.kind != SNAPSHOT)
            .map(|it| (it.id, it))
            .collect();
        let mut awaited: BTreeMap<WaitRef, Vec<u64>> = BTreeMap::new();
        for (id, deferred) in deferreds.iter().filter(|(_, it)| it.fired.is_none()) {
            if let Some(waiter) = consumer(deferred.waiter) {
                awaited.entry(waiter).or_default().push(*id);
            }
        }
        let locks = internals::held_locks().into_iter().map(|lock| (lock.id, lock)).collect();
        let pending = pending.iter().map(|it| (WaitRef { kind: it.kind, id: it.id }, it)).collect();
        let peers: BTreeMap<_, _> =
            connections.iter().map(|it| (it.id.key.number(), &it.peer)).collect();
        let peer = |of: ConnectionId| (of, peers.get(&of.key.number()).copied());
        let reading = readers.into_iter().map(|(task, of)| (task, peer(of))).collect();
        Waits { pending, deferreds, locks, awaited, reading }
    }

    /// The objects that an object waits for.
    pub(super) fn next(&self, of: WaitRef) -> Vec<WaitRef> {
        let awaited = self.awaited.get(&of).map_or(&[][..], Vec::as_slice);
        let mut next: Vec<_> = awaited.iter().map(|id| deferred(*id)).collect();
        match of.kind {
            "task" => next.extend(self.reading.get(&of.id).map(|(of, _)| connection(*of))),
            "deferred" if next.is_empty() => {
                let unfired = self.deferreds.get(&of.id).filter(|it| it.fired.is_none());
                next.extend(unfired.and_then(|it| by(it.fired_by)));
            }
            "lock" => {
                let holders = self.locks.get(&of.id).map_or(&[][..], |lock| &lock.holders);
                next.extend(holders.iter().filter_map(|it| consumer(it.waiter)));
            }
            _ => {}
        }
        next
    }

    /// The tasks and locks that wait for themselves, and are stuck.
    pub(super) fn cycles(&self) -> BTreeSet<WaitRef> {
        let (mut cycles, mut done) = (BTreeSet::new(), BTreeSet::new());
        let tasks = self.awaited.keys().filter(|it| it.kind == "task");
        for task in tasks {
            // The path to the present object, each with the objects that are left to visit.
            let mut path = vec![(*task, self.next(*task))];
            while let Some((of, left)) = path.last_mut() {
                let Some(next) = left.pop() else {
                    done.insert(*of);
                    path.pop();
                    continue;
                };
                if let Some(begin) = path.iter().position(|(of, _)| *of == next) {
                    cycles.extend(path[begin..].iter().map(|(of, _)| *of));
                } else if !done.contains(&next) {
                    path.push((next, self.next(next)));
                }
            }
        }
        self.stuck(cycles)
    }

    /// The members of cycles that are stuck: one holder of a semaphore is enough to free it.
    fn stuck(&self, mut cyclic: BTreeSet<WaitRef>) -> BTreeSet<WaitRef> {
        loop {
            let is_cyclic = |of: Option<WaitRef>| of.is_some_and(|of| cyclic.contains(&of));
            let is_stuck = |of: &&WaitRef| match self.locks.get(&of.id) {
                Some(lock) if of.kind == "lock" => {
                    lock.holders.iter().all(|it| is_cyclic(consumer(it.waiter)))
                }
                _ => self.next(**of).into_iter().any(|next| is_cyclic(Some(next))),
            };
            let stuck: BTreeSet<_> = cyclic.iter().filter(is_stuck).copied().collect();
            if stuck.len() == cyclic.len() {
                return stuck;
            }
            cyclic = stuck;
        }
    }

    /// The reason why a task waits, if it waits for a Deferred.
    pub(super) fn of_task(&self, task: WaitRef) -> Option<Why> {
        if !self.is_explained(task) {
            return None;
        }
        let mut why = Why::default();
        self.awaits(task, &mut why, &mut vec![task]);
        Some(why)
    }

    /// Whether a Deferred or a connection is known for which a task waits.
    fn is_explained(&self, task: WaitRef) -> bool {
        self.awaited.contains_key(&task) || self.reading.contains_key(&task.id)
    }

    /// "waits for …, and for 2 others".
    fn awaits(&self, of: WaitRef, why: &mut Why, path: &mut Vec<WaitRef>) {
        let Some([first, others @ ..]) = self.awaited.get(&of).map(Vec::as_slice) else {
            match self.reading.get(&of.id).filter(|_| of.kind == "task") {
                Some((id, Some(peer))) => {
                    why.text(format!("waits for bytes from {peer} (connection {id})"))
                }
                Some((id, None)) => why.text(format!("waits for bytes of connection {id}")),
                None => why.text("waits to be woken"),
            };
            return;
        };
        why.text("waits for ");
        self.deferred(*first, why, path);
        if !others.is_empty() {
            why.text(format!(", and for {} more", others.len()));
        }
    }

    fn deferred(&self, id: u64, why: &mut Why, path: &mut Vec<WaitRef>) {
        let Some(waiting) = self.deferreds.get(&id) else { return };
        let of = deferred(id);
        if path.contains(&of) || path.len() > STEPS {
            why.text("…");
            return;
        }
        path.push(of);
        if self.awaited.contains_key(&of) {
            why.text(format!("a Deferred made at {}, which ", waiting.place));
            self.awaits(of, why, path);
        } else {
            self.source(waiting, why, path);
        }
        path.pop();
    }

    /// The object that will fire a Deferred.
    fn source(&self, waiting: &Waiting, why: &mut Why, path: &mut Vec<WaitRef>) {
        let FiredBy { kind, .. } = waiting.fired_by;
        let Some(of) = by(waiting.fired_by) else {
            let what = if kind.is_empty() { "a Deferred" } else { kind };
            let made = if kind.is_empty() { "made" } else { "requested" };
            why.text(format!("{what} {made} at {}", waiting.place));
            if let Some(since) = waiting.since {
                why.text(", pending for ").since(since);
            }
            return;
        };
        if path.contains(&of) {
            why.text(format!("the {kind}: a cycle, in which each waits for the other"));
            return;
        }
        path.push(of);
        match kind {
            "lock" => self.lock(of.id, why, path),
            "task" => {
                why.text(self.task_name(of));
                why.text(", which ");
                match self.pending.get(&of) {
                    Some(task) if !self.is_explained(of) => {
                        why.extend(&task.why);
                    }
                    _ => self.awaits(of, why, path),
                }
            }
            _ => {
                why.text(format!("a {kind} requested at {}", waiting.place));
                if let Some(pending) = self.pending.get(&of) {
                    why.text(if kind == "job" { ", which " } else { ", " });
                    why.extend(&pending.why);
                }
            }
        }
        path.pop();
    }

    fn lock(&self, id: u64, why: &mut Why, path: &mut Vec<WaitRef>) {
        let Some(lock) = self.locks.get(&id) else {
            why.text("a lock");
            return;
        };
        why.text(format!("the {} made at {}, ", lock_name(lock), lock.place));
        self.holders(lock, why, path);
    }

    /// "held for 3 s by …".
    fn holders(&self, lock: &HeldLock, why: &mut Why, path: &mut Vec<WaitRef>) {
        let Some(first) = lock.holders.first() else { return };
        let place = first.place;
        match (first.untaken, first.since) {
            (Some(granted), _) => {
                why.text(format!(
                    "granted to the request at {place}, which has not been polled for "
                ));
                why.since(granted);
            }
            (None, Some(since)) => {
                why.text(format!("held by the request at {place} for ")).since(since);
            }
            (None, None) => {
                why.text(format!("held by the request at {place}"));
            }
        }
        if let Some(holder) = consumer(first.waiter) {
            let is_task = holder.kind == "task";
            why.text(format!(
                " of {}",
                if is_task { self.task_name(holder) } else { "a Deferred".into() }
            ));
            if path.contains(&holder) {
                why.text(": a cycle, in which each waits for the other");
            } else if is_task && self.is_explained(holder) {
                path.push(holder);
                why.text(", which ");
                self.awaits(holder, why, path);
                path.pop();
            }
        }
        if lock.holders.len() > 1 {
            why.text(format!(", and by {} more", lock.holders.len() - 1));
        }
    }

    fn task_name(&self, of: WaitRef) -> String {
        match self.pending.get(&of) {
            Some(PendingSnapshot { name: Some(name), place, .. }) => {
                format!("the task {name:?} spawned at {place}")
            }
            Some(task) => format!("the task spawned at {}", task.place),
            None => "a task".to_owned(),
        }
    }

    /// The Deferreds, oldest first: those that wait, then the last that have ended.
    pub(super) fn deferreds(&self, ended: &EndedDeferreds) -> Vec<DeferredSnapshot> {
        let oldest = self.deferreds.values().take(MOST);
        let waiting = oldest.map(|waiting| self.waiting(waiting));
        let ended = ended.list().into_iter().map(|(at, deferred)| self.ended(&deferred, at));
        waiting.chain(ended).collect()
    }

    fn waiting(&self, waiting: &Waiting) -> DeferredSnapshot {
        let of = deferred(waiting.id);
        let mut why = Why::default();
        let state = match (waiting.fired, waiting.waiter) {
            (Some(since), _) => {
                why.text("has a result, which its consumer has not taken for ").since(since);
                "fired"
            }
            (None, _) if self.awaited.contains_key(&of) => {
                self.awaits(of, &mut why, &mut vec![of]);
                "chained"
            }
            (None, _) => {
                why.text("waits for ");
                self.source(waiting, &mut why, &mut vec![of]);
                "pending"
            }
        };
        let waits_for = self.next(of);
        DeferredSnapshot { state, why, waits_for, ..self.row(waiting) }
    }

    fn ended(&self, deferred: &Waiting, at: Option<Instant>) -> DeferredSnapshot {
        let mut why = Why::default();
        why.text("ended ");
        if let Some(at) = at {
            why.since(at).text(" ago ");
        }
        // The failure's text comes from the user's code, which is not called here.
        why.text(match internals::chain(&deferred.history).outcome() {
            Some(ChainResult { failure: None, .. }) => "with a value",
            Some(ChainResult { failure: Some(_), .. }) => "with a failure",
            None => "without a result",
        });
        DeferredSnapshot { state: "ended", why, ..self.row(deferred) }
    }

    /// A row without a reason.
    fn row(&self, deferred: &Waiting) -> DeferredSnapshot {
        DeferredSnapshot {
            id: deferred.id,
            place: deferred.place,
            since: deferred.since,
            state: "",
            consumer: self.consumer_name(deferred),
            callbacks: deferred.callbacks,
            is_program: deferred.fired_by == FiredBy::default() && !is_library(deferred.place),
            is_awaited: !matches!(deferred.waiter, Waiter::Nothing | Waiter::Detached),
            history: deferred.history.clone(),
            waits_for: Vec::new(),
            why: Why::default(),
        }
    }

    fn consumer_name(&self, waiting: &Waiting) -> String {
        match waiting.waiter {
            Waiter::Nothing if waiting.callbacks > 0 => {
                "callbacks, whose Deferred is held".to_owned()
            }
            Waiter::Nothing => "nothing: it is held, and was not polled".to_owned(),
            Waiter::Detached if waiting.callbacks > 0 => "its callbacks".to_owned(),
            Waiter::Detached => "nothing: it is detached".to_owned(),
            Waiter::Polled(Some(id)) => self.task_name(WaitRef { kind: "task", id }),
            Waiter::Polled(None) => "a future outside of the loop's tasks".to_owned(),
            Waiter::Deferred(id) => match self.deferreds.get(&id) {
                Some(outer) => format!("the Deferred made at {}", outer.place),
                None => "a Deferred".to_owned(),
            },
        }
    }

    /// The locks that are held.
    pub(super) fn locks(&self) -> Vec<LockSnapshot> {
        self.locks.values().map(|lock| self.lock_snapshot(lock)).collect()
    }

    fn lock_snapshot(&self, lock: &HeldLock) -> LockSnapshot {
        let of = WaitRef { kind: "lock", id: lock.id };
        let mut why = Why::default();
        self.holders(lock, &mut why, &mut vec![of]);
        let earliest = |of: fn(&Holder) -> Option<_>| lock.holders.iter().filter_map(of).min();
        LockSnapshot {
            id: lock.id,
            kind: lock_name(lock),
            place: lock.place,
            tokens: lock.tokens,
            held: lock.holders.len(),
            waiting: lock.waiting,
            since: earliest(|holder| holder.since),
            untaken: earliest(|holder| holder.untaken),
            waits_for: self.next(of),
            why,
        }
    }
}

fn deferred(id: u64) -> WaitRef {
    WaitRef { kind: "deferred", id }
}

fn connection(id: ConnectionId) -> WaitRef {
    WaitRef { kind: "connection", id: id.key.number() }
}

fn by(fired_by: FiredBy) -> Option<WaitRef> {
    Some(WaitRef { kind: fired_by.kind, id: fired_by.id? })
}

/// The task or the Deferred that waits.
fn consumer(waiter: Waiter) -> Option<WaitRef> {
    match waiter {
        Waiter::Polled(Some(id)) => Some(WaitRef { kind: "task", id }),
        Waiter::Deferred(id) => Some(deferred(id)),
        Waiter::Polled(None) | Waiter::Nothing | Waiter::Detached => None,
    }
}

fn lock_name(lock: &HeldLock) -> &'static str {
    if lock.tokens == 1 { "lock" } else { "semaphore" }
}

/// Whether a place is in the sources of the library's crates.
fn is_library(place: Source) -> bool {
    let ours = file!().split_once("couplet-core").map_or("", |(before, _)| before);
    let file = place.file().strip_prefix(ours).and_then(|rest| rest.strip_prefix("couplet-"));
    file.is_some_and(|file| file.contains("src"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::defer::{Deferred, DeferredLock, DeferredSemaphore};
    use crate::reactor::inspect::Observing;
    use crate::reactor::snapshot::Snapshot;
    use crate::task::yield_now;
    use crate::{Loop, Reactor};

    /// The snapshot of an observed loop after some turns.
    fn seen(set_up: impl FnOnce(&Reactor)) -> Snapshot {
        let mut l = Loop::new().expect("a poll descriptor");
        let reactor = l.reactor();
        let _observing = Observing::begin(&reactor, 8);
        set_up(&reactor);
        for _ in 0..5 {
            l.turn(Some(Duration::ZERO)).expect("a turn");
        }
        l.snapshot()
    }

    #[test]
    fn c180a_each_of_several_cycles_is_found_and_no_task_beside_them() {
        let snapshot = seen(|reactor| {
            let locks: Vec<DeferredLock> = (0..5).map(|_| DeferredLock::new()).collect();
            // The first task waits for the members of a cycle.
            for (name, first, second) in
                [("beside", 4, 0), ("a", 0, 1), ("b", 1, 0), ("c", 2, 3), ("d", 3, 2)]
            {
                let (first, second) = (locks[first].clone(), locks[second].clone());
                let task = async move {
                    let one = first.acquire().await?;
                    yield_now().await;
                    let other = second.acquire().await?;
                    drop((one, other));
                    Ok(())
                };
                reactor.spawn_named(name, task).detach();
            }
        });
        let tasks = snapshot.pending.iter();
        let cyclic: Vec<_> = tasks.map(|it| (it.name.as_deref(), it.is_cyclic)).collect();
        let expected = [("beside", false), ("a", true), ("b", true), ("c", true), ("d", true)];
        assert_eq!(cyclic, expected.map(|(name, is_cyclic)| (Some(name), is_cyclic)));
    }

    #[test]
    fn c180a_a_semaphore_names_its_first_holder_and_counts_the_others() {
        let times: Rc<RefCell<Vec<Instant>>> = Rc::default();
        let noted = times.clone();
        let snapshot = seen(|reactor| {
            let semaphore = DeferredSemaphore::new(3);
            // The holders come one turn after the other.
            for turns in 0..4 {
                let (semaphore, own, noted) = (semaphore.clone(), reactor.clone(), noted.clone());
                let task = async move {
                    for _ in 0..turns {
                        yield_now().await;
                    }
                    let _permit = semaphore.acquire().await?;
                    noted.borrow_mut().push(own.now());
                    std::future::pending::<crate::Result<()>>().await
                };
                reactor.spawn_named(format!("task {turns}"), task).detach();
            }
        });
        let [lock] = &snapshot.locks[..] else { panic!("one: {:?}", snapshot.locks) };
        assert_eq!((lock.kind, lock.tokens, lock.held, lock.waiting), ("semaphore", 3, 3, 1));
        assert_eq!((lock.waits_for.len(), lock.since), (3, Some(times.borrow()[0])));
        let words = |why: &Why| why.at(times.borrow()[0]).to_string();
        let why = words(&lock.why);
        assert!(why.contains("\"task 0\"") && why.ends_with(", and by 2 more"), "{why}");
        let why = words(&snapshot.pending[3].why);
        assert!(why.starts_with("waits for the semaphore made at "), "{why}");
        assert!(why.contains("\"task 0\"") && why.ends_with(", and by 2 more"), "{why}");
    }

    #[test]
    fn c180a_a_semaphore_has_the_earliest_of_its_permits_that_are_not_taken() {
        for untaken_first in [false, true] {
            let kept: Rc<RefCell<Vec<Deferred<_>>>> = Rc::default();
            let untaken = kept.clone();
            let snapshot = seen(move |reactor| {
                let (semaphore, own) = (DeferredSemaphore::new(2), reactor.clone());
                let task = async move {
                    if untaken_first {
                        untaken.borrow_mut().push(semaphore.acquire());
                    }
                    let _permit = semaphore.acquire().await?;
                    yield_now().await;
                    if !untaken_first {
                        untaken.borrow_mut().push(semaphore.acquire());
                    }
                    std::future::pending::<crate::Result<()>>().await
                };
                own.spawn(task).detach();
            });
            let [lock] = &snapshot.locks[..] else { panic!("one: {:?}", snapshot.locks) };
            assert_eq!((lock.held, lock.untaken.is_some()), (2, true), "{untaken_first}");
            assert_eq!(kept.borrow().len(), 1);
        }
    }

    #[test]
    fn a_snapshot_has_the_oldest_1000_deferreds_that_wait() {
        let mut kept = Vec::new();
        let snapshot = seen(|_| kept.extend((0..MOST + 3).map(|_| Deferred::<u8>::new())));
        let ids: Vec<u64> = snapshot.deferreds.iter().map(|it| it.id).collect();
        assert_eq!(ids.len(), 1000);
        assert_eq!(ids, (ids[0]..ids[0] + 1000).collect::<Vec<_>>());
        let pending = |it: &DeferredSnapshot| it.state == "pending";
        assert!(snapshot.deferreds.iter().all(pending));
    }
}
