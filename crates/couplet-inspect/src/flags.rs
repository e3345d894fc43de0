//! Red flags: states of a loop that usually mean trouble, each with its threshold and its remedy.
//!
//! Contract: 185.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use couplet_core::backlog::BacklogState;
use couplet_core::hooks::SortedMap;
use couplet_core::hooks::inspector::{LockSnapshot, PendingSnapshot, Why, WhyPart};
use couplet_core::hooks::inspector::{size, time};
use couplet_core::reactor::{ConnectionSnapshot, PortCounters, Snapshot};
use serde::Serialize;

use crate::activity::Activity;
use crate::clock::Clock;
use crate::recording::Mark;
use crate::view::row_id;

/// A loop that was busy for more than this part of the last seconds.
const BUSY: f64 = 0.8;
/// A call that holds its loop for longer.
const HELD: Duration = Duration::from_secs(1);
/// A call that has held its loop for longer, in the last minute.
const SLOW: Duration = Duration::from_millis(250);
/// Timed calls that are late by more.
const LATE: Duration = Duration::from_millis(100);
/// How often an outbox must have grown, one measurement after the other, and to how many bytes.
const GROWING: (u32, usize) = (5, 64 * 1024);
/// A peer that has taken none of its output for longer.
const STUCK: Duration = Duration::from_secs(10);
/// Reading that has been paused for longer.
const PAUSED: Duration = Duration::from_secs(30);
/// Layers that have been opening for longer.
const OPENING: Duration = Duration::from_secs(5);
/// A close that has taken longer.
const CLOSING: Duration = Duration::from_secs(10);
/// A side that has been closed for longer, with a silent peer.
const HALF_CLOSED: Duration = Duration::from_secs(60);
/// A job that has waited for a thread for longer.
const WAITING: Duration = Duration::from_secs(1);
/// A name whose calls are made more often in a second, in a loop that hardly sleeps.
const SPINNING: f64 = 20_000.0;
/// A lock that was granted to a future that nothing polls for longer.
const UNTAKEN: Duration = Duration::from_secs(1);
/// A lock that is held for longer while others wait for it.
const LOCKED: Duration = Duration::from_secs(30);
/// A Deferred of the program that has been pending for longer, and nothing awaits.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// A child that has exited, while its pipes have been open for longer.
const PIPES: Duration = Duration::from_secs(10);
/// Events of the last minute count.
const RECENT: Duration = Duration::from_secs(60);

/// How bad the state is; the worst is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    Red,
    Yellow,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Severity::Red => "red",
            Severity::Yellow => "yellow",
        }
    }
}

/// A flag of one loop.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Flag {
    id: String,
    r#loop: usize,
    severity: Severity,
    title: &'static str,
    words: String,
    threshold: String,
    remedy: &'static str,
    /// Seconds since 1970.
    since: f64,
    view: Option<&'static str>,
    row: Option<String>,
}

impl Flag {
    /// The number of the loop and the name of the rule.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The name of the rule.
    pub(crate) fn rule(&self) -> &str {
        self.id.split_once('.').map_or("", |(_, rule)| rule)
    }

    #[cfg(test)]
    pub(crate) fn of_test(id: &str, severity: Severity) -> Flag {
        Flag {
            id: id.to_owned(),
            r#loop: 0,
            severity,
            title: "",
            words: String::new(),
            threshold: String::new(),
            remedy: "",
            since: 0.0,
            view: None,
            row: None,
        }
    }

    /// The flag as a mark of a recording.
    pub(crate) fn mark(&self) -> Mark {
        let text = format!("{}: {}", self.title, self.words);
        Mark { time: self.since, r#loop: self.r#loop, text, severity: self.severity.name().into() }
    }

    pub(crate) fn severity(&self) -> Severity {
        self.severity
    }
}

/// A rule, and the loops that break it.
struct Rule {
    id: &'static str,
    severity: Severity,
    title: &'static str,
    threshold: fn() -> String,
    remedy: &'static str,
    view: Option<&'static str>,
    find: fn(&Facts<'_>, &History) -> Option<Found>,
}

/// The words about a state that breaks a rule, and the row that shows it.
struct Found {
    words: String,
    row: Option<String>,
}

/// The present state of a loop.
pub(crate) struct Facts<'a> {
    pub(crate) number: usize,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) activity: &'a Activity,
    /// A call that has not returned, while the loop does not answer.
    pub(crate) held: Option<(&'a str, Duration)>,
    pub(crate) now: Instant,
    /// The same in seconds since the ring was made.
    pub(crate) second: f64,
    /// The program's logs, which count as the main loop's.
    pub(crate) logs: &'a [BacklogState],
}

/// The memory from one measurement to the next.
#[derive(Default)]
pub(crate) struct History {
    /// When each flag was raised.
    raised: SortedMap<&'static str, f64>,
    /// The unsent bytes of connections, and how often they grew.
    outboxes: BTreeMap<String, (usize, u32)>,
    /// The children that have exited, by their process ids, and when this was first seen.
    exited: BTreeMap<String, Instant>,
    /// Counters, and when each has grown last.
    counters: SortedMap<&'static str, Counter>,
}

#[derive(Clone, Copy, Default)]
struct Counter {
    count: u64,
    /// By how much it has grown, and when.
    grown: Option<(u64, Instant)>,
}

impl History {
    fn update(&mut self, snapshot: &Snapshot, logs: &[BacklogState], now: Instant) {
        let before = std::mem::take(&mut self.outboxes);
        for connection in snapshot.connections.iter().filter(|it| it.buffered > 0) {
            let id = connection.id.to_string();
            let grown = match before.get(&id) {
                Some((bytes, times)) if connection.buffered > *bytes => times + 1,
                Some((bytes, times)) if connection.buffered == *bytes => *times,
                _ => 0,
            };
            self.outboxes.insert(id, (connection.buffered, grown));
        }
        let before = std::mem::take(&mut self.exited);
        for child in snapshot.rows.iter().filter(|row| row.view == "children") {
            let field = |wanted| child.fields.iter().find(|(name, _)| *name == wanted);
            let has_exited = field("state").is_some_and(|(_, state)| state == "exited");
            if let Some((_, pid)) = field("pid").filter(|_| has_exited) {
                self.exited.insert(pid.clone(), before.get(pid).copied().unwrap_or(now));
            }
        }
        let overflows = snapshot.ended.reasons().find(|(name, _)| *name == "overflow");
        let restarts = snapshot.rows.iter().flat_map(|row| &row.fields);
        let restarts = restarts.filter(|(name, _)| *name == "restarts");
        let of_ports = snapshot.ports.iter().fold(PortCounters::default(), |mut all, port| {
            all += port.counters;
            all
        });
        let counted = snapshot.counters.iter().chain(of_ports.iter());
        let others = [
            ("overflow", overflows.map_or(0, |(_, count)| count)),
            ("log", logs.iter().map(|log| log.lost).sum()),
            ("restarts", restarts.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()),
        ];
        for (name, count) in counted.map(|(name, _, count)| (name, count)).chain(others) {
            // The first measurement is compared with a loop that has just begun.
            let counter = self.counters.get_or_insert_with(name, Default::default);
            if count > counter.count {
                let recent =
                    counter.grown.filter(|(_, at)| now.saturating_duration_since(*at) < RECENT);
                counter.grown = Some((recent.map_or(0, |(by, _)| by) + count - counter.count, now));
            }
            counter.count = count;
        }
    }

    /// By how much a counter has grown in the last minute.
    fn growth(&self, name: &str, now: Instant) -> Option<u64> {
        let (by, at) = self.counters.get(name)?.grown?;
        (now.saturating_duration_since(at) < RECENT).then_some(by)
    }
}

/// The flags of a loop.
pub(crate) fn flags(facts: &Facts<'_>, history: &mut History, clock: Clock) -> Vec<Flag> {
    let (number, now) = (facts.number, facts.now);
    history.update(facts.snapshot, facts.logs, now);
    let seen = &*history;
    let found: Vec<_> = RULES.iter().map(|rule| (rule, (rule.find)(facts, seen))).collect();
    let mut flags = Vec::new();
    for (rule, found) in found {
        let Some(Found { words, row }) = found else {
            history.raised.remove(rule.id);
            continue;
        };
        let since = *history.raised.get_or_insert_with(rule.id, || clock.unix(now));
        let Rule { id, severity, title, threshold, remedy, view, .. } = *rule;
        let (id, threshold) = (format!("{number}.{id}"), threshold());
        flags.push(Flag {
            id,
            r#loop: number,
            severity,
            title,
            words,
            threshold,
            remedy,
            since,
            view,
            row,
        });
    }
    flags
}

const RULES: [Rule; 22] = [
    Rule {
        id: "held",
        severity: Severity::Red,
        title: "A call holds the loop",
        threshold: || format!("longer than {}", time(HELD)),
        remedy: "No other connection of the loop gets a turn. The backtrace shows where the call waits: \
                 move blocking work to `defer_to_thread`, and split long work with a `Cooperator`.",
        view: None,
        find: |facts, _| {
            let (what, held) = facts.held.filter(|(_, held)| *held > HELD)?;
            Found::words(format!("{what} has held loop {} for {}", facts.number, time(held)))
        },
    },
    Rule {
        id: "busy",
        severity: Severity::Red,
        title: "The loop is busy",
        threshold: || format!("more than {:.0} % of the last 5 s", 100.0 * BUSY),
        remedy: "The tab Time shows where the time goes. Move long work to a thread, or spread the \
                 connections over several loops (`Cluster`, `--threads`).",
        view: None,
        find: |facts, _| {
            let busy = facts.activity.busy_of_last(5, facts.second).filter(|busy| *busy > BUSY)?;
            let most = facts.activity.most().map(|what| format!(", most of it in {what}"));
            let most = most.unwrap_or_default();
            Found::words(format!(
                "loop {} works {:.0} % of the time{most}",
                facts.number,
                100.0 * busy
            ))
        },
    },
    Rule {
        id: "slow",
        severity: Severity::Yellow,
        title: "A call was slow",
        threshold: || format!("longer than {}, in the last minute", time(SLOW)),
        remedy: "While it ran, nothing else did. The tab Time has a histogram; `LoopOptions::stall_after` \
                 logs such calls with a backtrace.",
        view: None,
        find: |facts, _| {
            let (what, took) = facts.activity.slowest().filter(|(_, took)| *took > SLOW)?;
            Found::words(format!("{what} held loop {} for {}", facts.number, time(took)))
        },
    },
    Rule {
        id: "late",
        severity: Severity::Yellow,
        title: "Timed calls are late",
        threshold: || format!("by more than {}, in the last minute", time(LATE)),
        remedy: "A turn does all its work before the next timed call: see which calls take long in the \
                 tab Time, or whether too many events come at once. If none do, the process was stopped, \
                 or the machine has too little processor time for it.",
        view: None,
        find: |facts, _| {
            let late = Some(facts.activity.latest()).filter(|late| *late > LATE)?;
            let number = facts.number;
            Found::words(format!("a timed call of loop {number} was late by {}", time(late)))
        },
    },
    Rule {
        id: "growing",
        severity: Severity::Red,
        title: "Unsent output only grows",
        threshold: || format!("{} measurements in a row, above {}", GROWING.0, size(GROWING.1)),
        remedy: "The program writes faster than the peer reads. Register a producer, await `writable()`, \
                 or set a write cap.",
        view: Some("connections"),
        find: |_, history| {
            let grows = |(bytes, times): &(usize, u32)| *times >= GROWING.0 && *bytes > GROWING.1;
            let outboxes = history.outboxes.iter().filter(|(_, outbox)| grows(outbox));
            let worst = outboxes.clone().max_by_key(|(_, (bytes, _))| *bytes);
            let (id, (bytes, _)) = worst?;
            let words = match outboxes.count() {
                1 => format!("1 connection holds more and more: {}", size(*bytes)),
                many => {
                    format!("{many} connections hold more and more, one of them {}", size(*bytes))
                }
            };
            Some(Found { words, row: Some(id.clone()) })
        },
    },
    Rule {
        id: "stuck",
        severity: Severity::Yellow,
        title: "A peer takes nothing",
        threshold: || format!("for longer than {}, with output for it", time(STUCK)),
        remedy: "The peer does not read, or the network has lost it. An idle timeout, a TCP keepalive or \
                 a write cap ends such connections.",
        view: Some("connections"),
        find: |facts, _| {
            facts.connections(
                [
                    "has output that its peer does not take",
                    "have output that their peer does not take",
                ],
                STUCK,
                |it| (it.buffered > 0).then(|| since(&it.why, "the peer has taken nothing"))?,
            )
        },
    },
    Rule {
        id: "paused",
        severity: Severity::Yellow,
        title: "Reading is paused for long",
        threshold: || format!("longer than {}", time(PAUSED)),
        remedy: "Something called `pause_producing` and has not resumed: a producer whose consumer is \
                 stuck, or a forgotten resume. The column why names the protocol. A stream, of `StreamProtocol`, \
                 is paused while its task does not read: the tab Tasks says why.",
        view: Some("connections"),
        find: |facts, _| {
            facts.connections(["is not read", "are not read"], PAUSED, |it| {
                (it.state == "paused").then(|| since(&it.why, "reading paused by")).flatten()
            })
        },
    },
    Rule {
        id: "opening",
        severity: Severity::Yellow,
        title: "Handshakes do not finish",
        threshold: || format!("longer than {}", time(OPENING)),
        remedy: "The peers connect and send nothing: scanners, a wrong protocol, or a load balancer that \
                 checks the port. A shorter `timeout=` of the endpoint ends them earlier.",
        view: Some("connections"),
        find: |facts, _| {
            facts.connections(["is opening", "are opening"], OPENING, |it| {
                (it.state == "opening").then(|| since(&it.why, "")).flatten()
            })
        },
    },
    Rule {
        id: "closing",
        severity: Severity::Yellow,
        title: "Closes take long",
        threshold: || format!("longer than {}", time(CLOSING)),
        remedy: "The peers neither read nor close. `Timeout::Close` limits how long a close may take.",
        view: Some("connections"),
        find: |facts, _| {
            facts.connections(["is closing", "are closing"], CLOSING, |it| {
                matches!(it.state, "flushing" | "lingering").then(|| since(&it.why, "")).flatten()
            })
        },
    },
    Rule {
        id: "half-closed",
        severity: Severity::Yellow,
        title: "Connections are half closed",
        threshold: || format!("for longer than {}, with a silent peer", time(HALF_CLOSED)),
        remedy: "One side has ended its stream and the other has not. If the protocol needs no half-close, \
                 call `lose_connection` in `read_closed`; else set an idle timeout.",
        view: Some("connections"),
        find: |facts, _| {
            facts.connections(["is half closed", "are half closed"], HALF_CLOSED, |it| {
                (it.state == "half-closed").then_some(it.received_at)
            })
        },
    },
    Rule {
        id: "descriptors",
        severity: Severity::Red,
        title: "Connections are turned away for want of descriptors",
        threshold: || "one in the last minute".to_owned(),
        remedy: "Raise the limit (`ulimit -n`, `LimitNOFILE=`), look for a leak among the connections, or \
                 limit them (`LoadLimits::connections`), so that clients wait in the queue.",
        view: Some("ports"),
        find: |facts, history| facts.grown(history, "turned_away", "connection", "turned away"),
    },
    Rule {
        id: "jobs",
        severity: Severity::Red,
        title: "Jobs wait for a thread",
        threshold: || format!("longer than {}", time(WAITING)),
        remedy: "All ten threads of the pool are busy. The tab Jobs shows where the running ones come \
                 from: limit them with a `DeferredSemaphore`, or give long ones their own threads.",
        view: Some("jobs"),
        find: |facts, _| {
            let waits =
                |it: &&PendingSnapshot| it.kind == "job" && has(&it.why, "waits for a thread");
            let waiting = facts.snapshot.pending.iter().filter(waits).map(|it| (it, it.since));
            let longest = facts.longest(waiting, WAITING)?;
            let row = Some(row_id(facts.number, longest.of.id));
            Some(Found { words: longest.words("job", ["waiting for a thread"; 2]), row })
        },
    },
    Rule {
        id: "futurelock",
        severity: Severity::Red,
        title: "A lock was granted to a future that nothing polls",
        threshold: || format!("longer than {}, while others wait for it", time(UNTAKEN)),
        remedy: "The future waited for the lock, was put aside (in a `select!`, a stream of futures or a \
                 variable), and holds the lock as long as it exists. Drop it, poll it, or run it as a \
                 separate task.",
        view: Some("locks"),
        find: |facts, _| facts.locks("not taken", UNTAKEN, |it| it.untaken),
    },
    Rule {
        id: "cycle",
        severity: Severity::Red,
        title: "Tasks wait for one another",
        threshold: || "one cycle".to_owned(),
        remedy: "None of them can continue. Acquire locks in the same order everywhere, don't hold one across \
                 an await, and don't await a task that waits for this one.",
        view: Some("tasks"),
        find: |facts, _| {
            let cyclic = facts.snapshot.pending.iter().filter(|it| it.is_cyclic);
            let first = cyclic.clone().min_by_key(|it| it.since)?;
            let words = format!(
                "{} in a cycle: one spawned at {}",
                count(cyclic.count(), "task"),
                first.place
            );
            Some(Found { words, row: Some(row_id(facts.number, first.id)) })
        },
    },
    Rule {
        id: "lock",
        severity: Severity::Yellow,
        title: "A lock is held for long",
        threshold: || format!("longer than {}, while others wait for it", time(LOCKED)),
        remedy: "The holder awaits something else. The row names the holder and the reason why it \
                 waits: hold the lock for less, or set a timeout.",
        view: Some("locks"),
        find: |facts, _| {
            facts.locks("held", LOCKED, |it| it.since.filter(|_| it.untaken.is_none()))
        },
    },
    Rule {
        id: "forgotten",
        severity: Severity::Yellow,
        title: "Deferreds are pending that nothing awaits",
        threshold: || format!("for longer than {}", time(FORGOTTEN)),
        remedy: "The program keeps a `Resolver` and does not fire it: a map of requests whose answers never \
                 came, for example. Add a timeout (`add_timeout`), or drop the resolver, which fails the \
                 Deferred.",
        view: Some("deferreds"),
        find: |facts, _| {
            let pending = facts.snapshot.deferreds.iter();
            let pending =
                pending.filter(|it| it.is_program && !it.is_awaited && it.state == "pending");
            let longest =
                facts.longest(pending.filter_map(|it| Some((it, it.since?))), FORGOTTEN)?;
            let words = format!(
                "{}: one made at {}",
                longest.words("Deferred", ["pending"; 2]),
                longest.of.place
            );
            Some(Found { words, row: Some(row_id(facts.number, longest.of.id)) })
        },
    },
    Rule {
        id: "unhandled",
        severity: Severity::Red,
        title: "Failures that nothing handles",
        threshold: || "one in the last minute".to_owned(),
        remedy: "A Deferred failed and had no errback. The log has each failure with the place where its \
                 Deferred was created.",
        view: None,
        find: |facts, history| facts.grown(history, "unhandled_failures", "failure", "not handled"),
    },
    Rule {
        id: "pipes",
        severity: Severity::Yellow,
        title: "Children have exited, and their pipes are open",
        threshold: || format!("for longer than {}", time(PIPES)),
        remedy: "A process that the child has started has inherited them, and `process_ended` waits for \
                 it: `lsof` finds it. Redirect its output (`>/dev/null 2>&1 &` in a shell), or act in \
                 `process_exited`, when only the child has ended.",
        view: Some("children"),
        find: |facts, history| {
            let exited = history.exited.iter().map(|(pid, since)| (pid, *since));
            let longest = facts.longest(exited, PIPES)?;
            let passed = time(longest.passed);
            let words = match longest.count {
                1 => format!("1 child has open pipes, for {passed}"),
                many => format!("{many} children have open pipes, one for {passed}"),
            };
            Some(Found { words, row: Some(format!("{}.{}", facts.number, longest.of)) })
        },
    },
    Rule {
        id: "log",
        severity: Severity::Red,
        title: "The log is full",
        threshold: || "one lost line in the last minute".to_owned(),
        remedy: "The reader is stuck or too slow: a stopped terminal, a collector that hangs, a full disk. \
                 The program waits for none of them, but lines are lost.",
        view: None,
        find: |facts, history| {
            let lost = history.growth("log", facts.now)?;
            let full = facts
                .logs
                .iter()
                .filter(|log| log.lost > 0)
                .map(|log| format!("{} ({} queued)", log.name, size(log.bytes)));
            let full: Vec<_> = full.collect();
            let lost = count(usize::try_from(lost).unwrap_or(usize::MAX), "line");
            Found::words(format!("{}: {lost} lost in the last minute", full.join(", ")))
        },
    },
    Rule {
        id: "restarts",
        severity: Severity::Red,
        title: "Services are restarted",
        threshold: || "one in the last minute".to_owned(),
        remedy: "A service has failed, and its supervisor has started it again. The log has the reason.",
        view: Some("services"),
        find: |facts, history| facts.grown(history, "restarts", "restart", "needed"),
    },
    Rule {
        id: "overflow",
        severity: Severity::Yellow,
        title: "Slow readers are cut",
        threshold: || "one in the last minute".to_owned(),
        remedy: "These connections exceeded their write cap, or the loop its limit on unsent output. That \
                 is the purpose of a cap; if honest clients are hit, raise it or send less.",
        view: None,
        find: |facts, history| {
            facts.grown(history, "overflow", "connection", "reset because of unsent output")
        },
    },
    Rule {
        id: "spinning",
        severity: Severity::Red,
        title: "Something spins",
        threshold: || {
            format!("more than {SPINNING} calls a second, four times the events, in a busy loop")
        },
        remedy: "The call wakes or schedules itself again immediately, like a future that wakes its own task \
                 whenever it is polled. The loop never sleeps, and burns a core.",
        view: None,
        find: |facts, _| {
            facts.activity.busy_of_last(2, facts.second).filter(|busy| *busy > 0.5)?;
            let (what, rate) =
                facts.activity.most_calls(facts.second).filter(|(_, n)| *n > SPINNING)?;
            Found::words(format!("{what} runs {rate:.0} times a second"))
        },
    },
];

impl Found {
    fn words(words: String) -> Option<Found> {
        Some(Found { words, row: None })
    }
}

impl Facts<'_> {
    /// The connections that have been in a state for longer than a limit; `verb` is for one and for
    /// several, `since` returns the time at which a connection began to be in the state.
    fn connections(
        &self,
        verb: [&str; 2],
        limit: Duration,
        since: impl Fn(&ConnectionSnapshot) -> Option<Instant>,
    ) -> Option<Found> {
        let all = self.snapshot.connections.iter().filter_map(|it| Some((it, since(it)?)));
        let longest = self.longest(all, limit)?;
        Some(Found {
            words: longest.words("connection", verb),
            row: Some(longest.of.id.to_string()),
        })
    }

    /// The locks that others wait for, and that have been in a state for longer than a limit; `since`
    /// returns the time at which a lock began to be in the state.
    fn locks(
        &self,
        state: &str,
        limit: Duration,
        since: impl Fn(&LockSnapshot) -> Option<Instant>,
    ) -> Option<Found> {
        let waited_for = self.snapshot.locks.iter().filter(|it| it.waiting > 0);
        let longest = self.longest(waited_for.filter_map(|it| Some((it, since(it)?))), limit)?;
        let words = longest.words("lock", [state; 2]);
        let words = format!("{words}: the one made at {}", longest.of.place);
        Some(Found { words, row: Some(row_id(self.number, longest.of.id)) })
    }

    /// The object that has been in a state for the longest time, of those that have been in it for
    /// longer than a limit.
    fn longest<'a, T>(
        &self,
        all: impl Iterator<Item = (&'a T, Instant)>,
        limit: Duration,
    ) -> Option<Longest<'a, T>> {
        let passed = |since| self.now.saturating_duration_since(since);
        let longer: Vec<_> = all.filter(|(_, since)| passed(*since) > limit).collect();
        let (of, since) = *longer.iter().min_by_key(|(_, since)| *since)?;
        Some(Longest { of, passed: passed(since), count: longer.len() })
    }

    /// A counter that has grown in the last minute.
    fn grown(&self, history: &History, counter: &str, unit: &str, outcome: &str) -> Option<Found> {
        let by = history.growth(counter, self.now)?;
        let by = count(usize::try_from(by).unwrap_or(usize::MAX), unit);
        Found::words(format!("{by} {outcome} in the last minute"))
    }
}

/// The object that has been in a state for the longest time.
struct Longest<'a, T> {
    of: &'a T,
    passed: Duration,
    /// How many are in the state.
    count: usize,
}

impl<T> Longest<'_, T> {
    /// "2 connections are opening, one for 10 s"; the state of one and of several.
    fn words(&self, unit: &str, state: [&str; 2]) -> String {
        let passed = time(self.passed);
        match self.count {
            1 => format!("1 {unit} {}, for {passed}", state[0]),
            number => format!("{} {}, one for {passed}", count(number, unit), state[1]),
        }
    }
}

/// `1 connection`, `2 connections`.
fn count(number: usize, unit: &str) -> String {
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

fn has(why: &Why, words: &str) -> bool {
    why.parts().iter().any(|part| says(part, words))
}

fn says(part: &WhyPart, words: &str) -> bool {
    matches!(part, WhyPart::Text(text) if text.contains(words))
}

/// The first time after these words in a reason.
fn since(why: &Why, words: &str) -> Option<Instant> {
    let mut parts = why.parts().iter().skip_while(|part| !says(part, words));
    parts.find_map(|part| match part {
        WhyPart::Since(then) => Some(*then),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
