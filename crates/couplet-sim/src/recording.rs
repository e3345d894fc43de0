//! [`Recorder`]: the last events of a world's loops, as an inspector keeps the events of real loops.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use couplet_core::hooks::inspector::{Contents, Frames, Ring, TableLimits};
use couplet_core::hooks::simulator::{self, Observing};
use couplet_core::{Loop, LoopOptions};

use super::Sim;
use super::driver::SimDriver;

/// Keeps the last events of a world's loops, in virtual time: see [`Sim::record`]. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    ring_size: usize,
    logged_connections: usize,
    most_loops: usize,
    /// The most bytes of each chunk, and the memory for them.
    contents: (usize, usize),
    tables: TableLimits,
    histories: usize,
    loops: Rc<RefCell<Vec<RecordedLoop>>>,
}

/// The loop of a program that was started in a world.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecordedLoop {
    /// The name of the host.
    pub host: String,
    /// The number of the loop in this process, with which the IDs of its connections begin.
    pub serial: u32,
    /// The events of the loop, with ticks in nanoseconds since the world began.
    #[doc(hidden)]
    pub ring: Arc<Ring>,
    /// The tables of the loop as of earlier times.
    #[doc(hidden)]
    pub frames: Arc<Frames>,
}

impl Recorder {
    /// A recorder with 1 MiB, which is 65 536 events, for each of at most 1000 loops, and the addresses
    /// of 10 000 connections for each, and at most 64 times the tables of its other objects.
    pub fn new() -> Recorder {
        Recorder {
            ring_size: 1024 * 1024,
            logged_connections: 10_000,
            most_loops: 1000,
            contents: (0, 1024 * 1024),
            tables: TableLimits::default().interval(Duration::from_millis(100)),
            histories: 16,
            loops: Rc::default(),
        }
    }

    /// Sets the memory for the events of each loop, in bytes.
    #[must_use]
    pub fn ring_size(mut self, bytes: usize) -> Recorder {
        self.ring_size = bytes;
        self
    }

    /// Sets how many connections of each loop keep their addresses: the newest ones, at least 1.
    #[must_use]
    pub fn logged_connections(mut self, count: usize) -> Recorder {
        self.logged_connections = count;
        self
    }

    /// Sets the most loops whose events are kept: the loops of the first programs. A
    /// program that is restarted has another loop.
    #[must_use]
    pub fn most_loops(mut self, most: usize) -> Recorder {
        self.most_loops = most;
        self
    }

    /// Keeps the first bytes of each chunk that a program received or wrote: 0 by default, which keeps
    /// none. Under TLS they are ciphertext.
    #[must_use]
    pub fn contents(mut self, bytes: usize) -> Recorder {
        self.contents.0 = bytes;
        self
    }

    /// Sets the memory for the [contents](Self::contents) of each loop, in bytes: 1 MiB by default.
    /// The newest are kept, each at most a quarter of the memory.
    #[must_use]
    pub fn contents_size(mut self, bytes: usize) -> Recorder {
        self.contents.1 = bytes;
        self
    }

    /// Sets the limits of the tables of each loop, in virtual time. By default they are kept every
    /// 100 ms, with the other limits of [`TableLimits::default`].
    #[must_use]
    pub fn tables(mut self, limits: TableLimits) -> Recorder {
        self.tables = limits;
        self
    }

    /// Sets how many callbacks of each Deferred are kept: 16 by default. With 0, the tables have
    /// neither Deferreds nor locks.
    #[must_use]
    pub fn histories(mut self, most: usize) -> Recorder {
        self.histories = most;
        self
    }

    /// The loops so far, in the order of their start.
    pub fn loops(&self) -> Vec<RecordedLoop> {
        self.loops.borrow().clone()
    }

    /// Creates a loop, which is recorded unless there are enough loops. `clock` gives the nanoseconds
    /// since the world began.
    pub(super) fn new_loop(
        &self,
        host: String,
        driver: SimDriver,
        options: &LoopOptions,
        clock: impl Fn() -> u64 + 'static,
    ) -> Loop {
        if self.loops.borrow().len() >= self.most_loops {
            return Loop::with_driver(driver, options.clone());
        }
        let (each, total) = self.contents;
        let (sizes, contents) =
            ((self.ring_size, self.logged_connections), Contents::new(each, total));
        let limits = self.tables;
        let (l, ring, frames) =
            simulator::recorded_loop(driver, options, sizes, contents, limits, clock);
        let serial = simulator::serial(&l);
        self.loops.borrow_mut().push(RecordedLoop { host, serial, ring, frames });
        l
    }

    /// Observes the Deferreds of a loop while it has the thread.
    pub(super) fn observe(&self, l: &Loop) -> Option<Observing> {
        (self.histories > 0).then(|| simulator::observe_deferreds(l, self.histories))
    }
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder::new()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("loops", &self.loops.borrow().len()).finish()
    }
}

impl Sim {
    /// Records the events of the programs that are started from now on. The world runs as without a
    /// recorder: its [hash](Self::hash) is the same.
    pub fn record(&mut self, recorder: &Recorder) {
        self.recorder = Some(recorder.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use couplet_core::hooks::inspector::Kind;
    use couplet_core::{Protocol, Transport};

    use super::*;
    use crate::{Trial, Weather};

    struct Echo;

    impl Protocol for Echo {
        fn connection_made(&mut self, transport: &Transport) {
            transport.write("hello");
        }

        fn data_received(&mut self, transport: &Transport, data: &[u8]) {
            if transport.peer().to_string().ends_with(":7") {
                transport.lose_connection();
            } else {
                transport.write(data);
            }
        }
    }

    /// A client and a server, recorded or not.
    fn run(recorder: Option<&Recorder>) -> crate::Report {
        Trial::new(7, Weather::Storm).run(&|sim: &mut Sim| {
            if let Some(recorder) = recorder {
                sim.record(recorder);
            }
            sim.host("server", |reactor| reactor.listen("tcp:7", || Echo).map(drop));
            sim.host("client", |reactor| {
                reactor.connect("tcp:server:7", || Echo).detach();
                Ok(())
            });
            sim.draw_faults(Duration::from_secs(10));
            sim.run_for(Duration::from_secs(30))
        })
    }

    #[test]
    fn a_world_that_is_recorded_runs_as_without_a_recorder() {
        let recorder = Recorder::new();
        let (with, without) = (run(Some(&recorder)), run(None));
        assert_eq!((with.hash, with.events), (without.hash, without.events));
        assert_eq!(with.fault_times.len(), with.faults.len());
        let loops = recorder.loops();
        assert!(loops.iter().any(|it| it.host == "server"), "{loops:?}");
        let (mut kinds, mut last) = (Vec::new(), 0);
        for each in &loops {
            each.ring.read(0, |record| {
                kinds.push(record.kind);
                last = last.max(record.time);
            });
        }
        assert!(kinds.contains(&Kind::Received) && kinds.contains(&Kind::Wrote), "{kinds:?}");
        // In the world's time.
        assert!(u128::from(last) <= with.elapsed.as_nanos() && last > 0, "{last}");
        let server = loops.iter().find(|it| it.host == "server").expect("it is there");
        let connections = server.ring.connections_since(0);
        assert!(!connections.is_empty());
    }

    #[test]
    fn the_tables_of_each_loop_are_kept() {
        let recorder = Recorder::new().tables(TableLimits::default().kept(100).rows(10_000));
        let without = Recorder::new().tables(TableLimits::default().kept(0));
        assert_eq!(run(Some(&recorder)).hash, run(Some(&without)).hash);
        assert!(without.loops().iter().all(|it| it.frames.list().is_empty()));
        let loops = recorder.loops();
        let all = |host: &str| {
            let of = loops.iter().filter(|it| it.host == host);
            of.flat_map(|it| it.frames.list()).collect::<Vec<_>>()
        };
        let (server, client) = (all("server"), all("client"));
        assert!(server.iter().any(|it| it.snapshot.ports.len() == 1), "{server:?}");
        assert!(server.iter().all(|it| it.snapshot.connectors.is_empty()), "{server:?}");
        let waits =
            |it: &Arc<couplet_core::hooks::inspector::Frame>| it.snapshot.connectors.len() == 1;
        assert!(client.iter().any(waits), "{client:?}");
        // A loop has nothing once it has ended.
        let last = loops.iter().filter_map(|it| it.frames.list().last().cloned());
        assert!(last.clone().all(|it| it.snapshot.is_empty()), "{:?}", last.collect::<Vec<_>>());
        for each in &loops {
            let ticks: Vec<_> = each.frames.list().iter().map(|it| it.ticks).collect();
            assert!(ticks.is_sorted() && !ticks.is_empty(), "{ticks:?}");
        }
        let few =
            Recorder::new().tables(TableLimits::default().interval(Duration::from_secs(3600)));
        run(Some(&few));
        // One at the first turn, and one at the end.
        assert!(few.loops().iter().all(|it| it.frames.list().len() == 2));
    }

    #[test]
    fn a_deferred_is_only_in_the_tables_of_its_host() {
        let of = |histories: usize| {
            let limits = TableLimits::default();
            let recorder =
                Recorder::new().histories(histories).tables(limits.interval(Duration::ZERO));
            Trial::new(7, Weather::Calm).run(&|sim: &mut Sim| {
                sim.record(&recorder);
                for host in ["poet", "reader"] {
                    sim.host(host, move |reactor| {
                        if host == "poet" {
                            reactor.sleep(Duration::from_secs(5)).detach();
                        }
                        Ok(())
                    });
                }
                sim.run_for(Duration::from_secs(10))
            });
            let most = |host: &str| {
                let own = recorder.loops().into_iter().filter(|it| it.host == host);
                let frames = own.flat_map(|it| it.frames.list());
                frames.map(|it| it.snapshot.deferreds.len()).max()
            };
            [most("poet"), most("reader")]
        };
        assert_eq!(of(16), [Some(1), Some(0)]);
        assert_eq!(of(0), [Some(0), Some(0)]);
    }

    #[test]
    fn contents_are_kept_if_they_are_asked_for_and_change_nothing() {
        let (without, with) = (Recorder::new(), Recorder::new().contents(3).contents_size(4096));
        assert_eq!(run(Some(&without)).hash, run(Some(&with)).hash);
        let contents = |recorder: &Recorder| {
            let mut kept = Vec::new();
            for it in recorder.loops() {
                let contents = it.ring.contents().map(|it| (it.each(), it.size()));
                assert!(contents.is_none_or(|it| it == (3, 4096)));
                let Some(contents) = it.ring.contents() else { continue };
                contents.read(|_, bytes| kept.push(bytes.to_vec()));
            }
            kept
        };
        assert_eq!(contents(&without), Vec::<Vec<u8>>::new());
        let kept = contents(&with);
        assert!(kept.iter().filter(|bytes| bytes[..] == *b"hel").count() >= 2, "{kept:?}");
    }

    #[test]
    fn loops_beyond_the_most_are_not_recorded() {
        let recorder = Recorder::new().most_loops(1).ring_size(4096).logged_connections(1);
        run(Some(&recorder));
        let loops = recorder.loops();
        assert_eq!((loops.len(), loops[0].ring.capacity()), (1, 256));
        assert!(loops[0].ring.connections_since(0).len() <= 1);
    }
}
