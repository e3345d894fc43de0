//! Leaks of a run, with the source locations of the requests; for
//! [`testing::run`](crate::testing::run) and the simulator.
//!
//! The source locations of timers, tasks and accepted connections are kept in a separate table,
//! which exists only in a loop under test; the few ports and connectors keep their own.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use super::connector::ConnectorState;
use super::table::{ConnectionEntry, Origin, Resource};
use super::tasks::TaskId;
use super::timers::TimerKey;
use super::turn::Core;
use super::{ConnectionSnapshot, DelayedCall, Reactor, Records, TimerAction};
use crate::driver::{Key, UserCall};
use crate::transport::connection::Life;

/// A location in user source code.
pub(crate) type Source = &'static Location<'static>;

/// An object that a run left open, active or pending.
pub(crate) struct Leak {
    /// A description of the object.
    pub(crate) what: String,
    /// Its origin.
    pub(crate) from: String,
    /// How to clean it up.
    pub(crate) cleanup: &'static str,
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Leak { what, from, cleanup } = self;
        write!(f, "{what}\n   {from}\n   to clean up: {cleanup}")
    }
}

/// Formats the leaks as a numbered list, with at least one line each.
#[cfg(feature = "testing")]
pub(crate) fn numbered(all: &[Leak]) -> String {
    (1..).zip(all).fold(String::new(), |mut text, (number, left)| {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("\n{number}. {left}"));
        text
    })
}

/// The purpose of a timer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerPurpose {
    Call,
    Sleep,
    Timeout,
    LoopingCall,
    Cooperator,
    Interval,
    /// A timed call of a connection, cancelled with it.
    Connection(Key),
}

impl TimerPurpose {
    fn kind(self) -> &'static str {
        match self {
            TimerPurpose::Call | TimerPurpose::Connection(_) => "timed call",
            TimerPurpose::Sleep => "sleep",
            TimerPurpose::Timeout => "timeout",
            TimerPurpose::LoopingCall => "looping call",
            TimerPurpose::Cooperator => "cooperator",
            TimerPurpose::Interval => "interval",
        }
    }

    fn description(self) -> (&'static str, &'static str) {
        match self {
            TimerPurpose::Call | TimerPurpose::Connection(_) => {
                ("a timed call", "keep its `DelayedCall`, and `cancel()` it")
            }
            TimerPurpose::Sleep => ("a sleep", "wait for it, or cancel its Deferred"),
            TimerPurpose::Timeout => {
                ("a timeout", "let the Deferred that it guards fire, or cancel it")
            }
            TimerPurpose::LoopingCall => ("a looping call", "`stop()` it"),
            TimerPurpose::Cooperator => {
                ("a cooperator with work to do", "`stop()` it or its tasks")
            }
            TimerPurpose::Interval => ("an interval", "drop it, or cancel the task that awaits it"),
        }
    }
}

/// Source locations of requests, in the order of the requests.
#[derive(Default)]
pub(super) struct Places {
    timers: PlaceLog<(TimerKey, TimerPurpose)>,
    tasks: PlaceLog<TaskId>,
    accepted: PlaceLog<Key>,
    /// Leaks that the last shutdown cut off, unless a signal caused it.
    // Bound: one line for each thing that a program left when it ended itself.
    cut_off: Vec<Leak>,
}

struct PlaceLog<K> {
    // Bound: twice the number of live entries plus 64, then the dead ones are dropped; only under
    // `testing::run` and in the simulator.
    list: Vec<(K, Source)>,
    /// The length at which finished entries are pruned: at most twice the live ones plus 64.
    /// (Law 9.)
    limit: usize,
}

impl<K> Default for PlaceLog<K> {
    fn default() -> Self {
        PlaceLog { list: Vec::new(), limit: 64 }
    }
}

impl<K> PlaceLog<K> {
    fn add(&mut self, what: K, place: Source, is_left: impl Fn(&K) -> bool) {
        if self.list.len() >= self.limit {
            self.list.retain(|(what, _)| is_left(what));
            self.limit = 2 * self.list.len() + 64;
        }
        self.list.push((what, place));
    }
}

impl Records {
    pub(super) fn note_timer(&self, timer: TimerKey, purpose: TimerPurpose, place: Source) {
        if let Some(places) = &mut *self.places.borrow_mut() {
            let timers = self.timers.borrow();
            places.timers.add((timer, purpose), place, |(timer, _)| timers.contains(*timer));
        }
    }

    pub(super) fn note_task(&self, task: TaskId, place: Source) {
        if let Some(places) = &mut *self.places.borrow_mut() {
            let tasks = self.tasks.borrow();
            places.tasks.add(task, place, |task| tasks.contains(*task));
        }
    }
}

impl Core {
    /// Records source locations of requests from now on.
    #[cfg(feature = "testing")]
    pub(super) fn record_places(&mut self) {
        self.reactor.records.places.replace(Some(Box::default()));
    }

    pub(super) fn note_accepted(&mut self, key: Key, port: Source) {
        let mut places = self.reactor.records.places.borrow_mut();
        if let Some(places) = &mut *places {
            places.accepted.add(key, port, |key| self.table.contains(*key));
        }
    }

    /// Called when the shutdown begins. If the program requested it and locations are kept, records
    /// the leaks. A connection that is closing already counts as cleaned up.
    pub(super) fn note_cut_off(&self) {
        let records = &self.reactor.records;
        if records.run.stopped_by().is_some() || records.places.borrow().is_none() {
            return;
        }
        let left = self.leaks_except(Life::is_closing);
        if let Some(places) = &mut *self.reactor.records.places.borrow_mut() {
            places.cut_off = left;
        }
    }

    /// The leaks that the last shutdown cut off, unless a signal caused it, if locations are kept.
    #[cfg(feature = "testing")]
    pub(super) fn take_cut_off(&self) -> Vec<Leak> {
        let mut places = self.reactor.records.places.borrow_mut();
        places.as_mut().map(|places| std::mem::take(&mut places.cut_off)).unwrap_or_default()
    }

    /// Everything open, active or pending, except for the loop's own timers.
    #[cfg(feature = "testing")]
    pub(super) fn leaks(&self) -> Vec<Leak> {
        self.leaks_except(|_| false)
    }

    fn leaks_except(&self, spared: impl Fn(&Life) -> bool) -> Vec<Leak> {
        let ports = self.table.iter().filter_map(|(_, place)| match place {
            Resource::Port(port) => Some(Leak {
                what: format!("a port that listens on {}", port.host()),
                from: format!("opened at {}", port.place.get()),
                cleanup: "`port.stop_listening()`",
            }),
            Resource::Datagrams(port) => Some(Leak {
                what: format!("a datagram port at {}", port.host),
                from: format!("opened at {}", port.place),
                cleanup: "`port.stop_listening()`",
            }),
            _ => None,
        });
        let connecting =
            self.connecting.connectors().filter(|c| c.state() == ConnectorState::Connecting);
        let connectors = connecting.map(|connector| Leak {
            what: format!("a connect to {connector} ({})", connector.state_name()),
            from: format!("requested at {}", connector.place),
            cleanup: "`connector.stop_connecting()`, or cancel the Deferred of the connect",
        });
        let connections = self.table.iter().filter_map(|(key, place)| match place {
            Resource::Connection(entry) if !spared(&entry.life) => {
                Some(self.connection_leak(key, entry))
            }
            _ => None,
        });
        let mut left: Vec<Leak> = ports.chain(connectors).chain(connections).collect();
        left.extend(self.leaked_calls());
        left.extend(self.leaked_tasks());
        left
    }

    fn connection_leak(&self, key: Key, entry: &ConnectionEntry) -> Leak {
        let seen = ConnectionSnapshot::of(&entry.life, self.reactor.now());
        let (towards, mut from) = match &entry.origin {
            Origin::Connector(connector) => {
                ("to", format!("by the connect requested at {}", connector.place))
            }
            _ => ("from", self.accepted_by(key)),
        };
        for place in self.calls_of(key) {
            from += &format!("\n   with its own timed call, requested at {place}");
        }
        Leak {
            what: format!(
                "a connection {towards} {} ({}, bytes in {} out {} buffered {})",
                seen.peer, seen.state, seen.bytes_in, seen.bytes_out, seen.buffered
            ),
            from,
            cleanup: cleanup(&entry.life),
        }
    }

    fn accepted_by(&self, key: Key) -> String {
        let places = self.reactor.records.places.borrow();
        let accepted = places.iter().flat_map(|places| &places.accepted.list);
        let port =
            accepted.filter(|(accepted, _)| *accepted == key).map(|(_, port)| port).next_back();
        port.map_or_else(String::new, |port| format!("accepted by the port opened at {port}"))
    }

    fn calls_of(&self, key: Key) -> Vec<Source> {
        let records = &self.reactor.records;
        let (places, timers) = (records.places.borrow(), records.timers.borrow());
        let logged = places.iter().flat_map(|places| &places.timers.list);
        logged
            .filter(|((timer, purpose), _)| {
                *purpose == TimerPurpose::Connection(key) && timers.contains(*timer)
            })
            .map(|(_, place)| *place)
            .collect()
    }

    fn leaked_calls(&self) -> Vec<Leak> {
        let records = &self.reactor.records;
        let (places, timers) = (records.places.borrow(), records.timers.borrow());
        let logged = places.iter().flat_map(|places| &places.timers.list);
        logged
            .filter(|((_, purpose), _)| !matches!(purpose, TimerPurpose::Connection(_)))
            .filter_map(|((timer, purpose), place)| {
                let due = timers.deadline(*timer)?.saturating_duration_since(self.reactor.now());
                let (what, cleanup) = purpose.description();
                let what = format!("{what}, due in {due:?}");
                Some(Leak { what, from: format!("requested at {place}"), cleanup })
            })
            .collect()
    }

    fn leaked_tasks(&self) -> Vec<Leak> {
        let records = &self.reactor.records;
        let (places, tasks) = (records.places.borrow(), records.tasks.borrow());
        let logged = places.iter().flat_map(|places| &places.tasks.list);
        logged
            .filter(|(task, _)| tasks.contains(*task))
            .map(|(task, place)| Leak {
                what: match tasks.name(*task) {
                    Some(name) => format!("the task {name:?}, which has not finished"),
                    None => "a task that has not finished".to_owned(),
                },
                from: format!("spawned at {place}"),
                cleanup: "wait for its Deferred, or cancel that",
            })
            .collect()
    }
}

/// How to end a connection.
fn cleanup(life: &Life) -> &'static str {
    match life.state_name() {
        "flushing" => "it is closing, but the other end does not read: abort it, or read",
        "draining" => "it is closing, but the other end does not close: close that too",
        _ => "`transport.lose_connection()`, on either end, and wait for `connection_lost`",
    }
}

impl Reactor {
    /// [`call_later`](Self::call_later), attributed to the request at `place`.
    pub(crate) fn call_for(
        &self,
        (purpose, place): (TimerPurpose, Source),
        delay: Duration,
        f: impl FnOnce() + 'static,
    ) -> DelayedCall {
        let f = self.records.monitor_call(|| UserCall::at(purpose.kind(), place), f);
        let call = DelayedCall::new(self, delay, TimerAction::Call(f));
        if let Some(timer) = call.timer() {
            self.records.note_timer(timer, purpose, place);
        }
        call
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_things_were_asked_for_is_forgotten_of_as_many_as_are_left() {
        let mut logged = PlaceLog::default();
        let mut add = |n: u32, least: u32| {
            logged.add(n, Location::caller(), |n| *n >= least);
            logged.list.len()
        };
        // Each entry is finished when the next one is added.
        assert_eq!((0..65).map(|n| add(n, n)).max(), Some(64));
        assert_eq!(add(65, 0), 2);
        assert_eq!((66..129).map(|n| add(n, 0)).last(), Some(65), "all are left");
        // The list is pruned again at twice its live entries plus 64.
        assert_eq!((129..256).map(|n| add(n, n)).max(), Some(192));
        assert_eq!(add(256, 256), 1);
    }
}
