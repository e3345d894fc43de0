//! Lists the objects that a program has left open.

use super::core::Core;
use super::table::{ConnectionEntry, Origin, Resource};
use crate::connector::ConnectorState;
use crate::driver::Key;
use crate::reactor::leaks::Leak;
use crate::reactor::snapshot::ConnectionSnapshot;
use crate::recorder::{Source, TimerPurpose};
use crate::transport::connection::Life;

/// How to end a connection.
fn cleanup(life: &Life) -> &'static str {
    match life.state_name() {
        "flushing" => "it is closing, but the other end does not read: abort it, or read",
        "lingering" => "it is closing, but the other end does not close: close that too",
        _ => "`transport.lose_connection()`, on either end, and wait for `connection_lost`",
    }
}

impl Core {
    pub(super) fn note_accepted(&mut self, key: Key, port: Source) {
        let from = self.records.origin(port);
        let mut places = self.records.places.borrow_mut();
        if let Some(places) = &mut *places {
            places.add_accepted(key, from, |key| self.table.contains(*key));
        }
    }

    /// Called when the shutdown begins. If the program requested it and locations are kept, records
    /// the leaks. A connection that is closing already counts as cleaned up.
    pub(super) fn note_cut_off(&self) {
        let records = &self.records;
        if records.run.stopped_by().is_some() || records.places.borrow().is_none() {
            return;
        }
        let left = self.leaks_except(Life::is_closing);
        if let Some(places) = &mut *self.records.places.borrow_mut() {
            places.cut_off = left;
        }
    }

    /// The leaks that the last shutdown cut off, unless a signal caused it, if locations are kept.
    #[cfg(feature = "testing")]
    pub(super) fn take_cut_off(&self) -> Vec<Leak> {
        let mut places = self.records.places.borrow_mut();
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
        let seen = ConnectionSnapshot::of(&entry.life, "");
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
        let places = self.records.places.borrow();
        let port = places.as_ref().and_then(|places| places.accepted_by(key));
        port.map_or_else(String::new, |port| format!("accepted by the port opened at {port}"))
    }

    fn calls_of(&self, key: Key) -> Vec<Source> {
        let records = &self.records;
        let (places, timers) = (records.places.borrow(), records.timers.borrow());
        let logged = places.iter().flat_map(|places| places.timers());
        logged
            .filter(|((timer, purpose), _)| {
                *purpose == TimerPurpose::Connection(key) && timers.contains(*timer)
            })
            .map(|(_, from)| from.place)
            .collect()
    }

    fn leaked_calls(&self) -> Vec<Leak> {
        let records = &self.records;
        let (places, timers) = (records.places.borrow(), records.timers.borrow());
        let logged = places.iter().flat_map(|places| places.timers());
        logged
            .filter(|((_, purpose), _)| !matches!(purpose, TimerPurpose::Connection(_)))
            .filter_map(|((timer, purpose), from)| {
                let due = timers.deadline(*timer)?.saturating_duration_since(self.reactor.now());
                let (what, cleanup) = purpose.description();
                let what = format!("{what}, due in {due:?}");
                Some(Leak { what, from: format!("requested at {}", from.place), cleanup })
            })
            .collect()
    }

    fn leaked_tasks(&self) -> Vec<Leak> {
        let records = &self.records;
        let (places, tasks) = (records.places.borrow(), records.tasks.borrow());
        let logged = places.iter().flat_map(|places| places.tasks());
        logged
            .filter(|(task, _)| tasks.contains(*task))
            .map(|(task, from)| Leak {
                what: match tasks.name(*task) {
                    Some(name) => format!("the task {name:?}, which has not finished"),
                    None => "a task that has not finished".to_owned(),
                },
                from: format!("spawned at {}", from.place),
                cleanup: "wait for its Deferred, or cancel that",
            })
            .collect()
    }
}
