//! Where the time of a loop goes, read from its ring: idle, in callbacks by the protocol's type, in
//! timed calls and tasks by their place, in the driver.
//!
//! Contract: 179.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use couplet_core::hooks::SortedMap;
use couplet_core::hooks::inspector::{Kind, Record, Ring, UserCall, short_type};
use couplet_core::reactor::CallTimes;
use serde::Serialize;

/// How many seconds are kept.
const SECONDS: usize = 60;

/// A call that is made less often for each event of its second does not cause itself.
const CALLS_PER_EVENT: u64 = 4;

/// Sentinel for the number of a name: the driver and the turn itself.
const DRIVER: u32 = u32::MAX;

/// Sentinel for the number of a name: a protocol that was built before the first event.
const UNKNOWN: u32 = u32::MAX - 1;

/// The activity of one loop, from reading each event once.
pub(crate) struct Activity {
    /// The number of the next event.
    next: u64,
    /// The time of the last event, in ticks.
    last: u64,
    /// The callback of a connection that is in progress.
    callback: Option<Callback>,
    /// The calls that are in progress, the outermost first.
    calls: Vec<u32>,
    /// When the outermost call or callback began.
    begun: u64,
    /// The number of the name of each connection's protocol, by its slot.
    protocols: BTreeMap<u32, u32>,
    names: Vec<UserCall>,
    seconds: VecDeque<Second>,
    /// The ticks of a second.
    scale: f64,
}

/// A callback of a connection.
#[derive(Clone, Copy)]
struct Callback {
    /// The number of the protocol's name.
    name: u32,
    /// The slot of the connection.
    slot: u32,
    /// The place of its event in [`CAUSES`].
    cause: usize,
}

/// The events after which a protocol is called, and the names of their callbacks.
const CAUSES: [(Kind, &str); 4] = [
    (Kind::Built, "connection made"),
    (Kind::Received, "data received"),
    (Kind::Room, "room for output"),
    (Kind::Ended, "end of input"),
];

/// One second of a loop.
#[derive(Clone, Default)]
struct Second {
    /// The second since the ring was made.
    number: u64,
    idle: u64,
    busy: u64,
    turns: u64,
    events: u64,
    /// By how many microseconds a timed call was late at most.
    latest: u32,
    /// The ticks of the longest call, and the number of its name.
    slowest: (u64, u32),
    /// Ticks and calls, by the number of the name.
    by_name: SortedMap<u32, (u64, u64)>,
    /// The same for each cause of a protocol's callbacks.
    by_cause: SortedMap<u32, [(u64, u64); CAUSES.len()]>,
    times: CallTimes,
}

/// The time of a loop in the last minute.
#[derive(Serialize)]
pub(crate) struct Time {
    pub(crate) r#loop: usize,
    /// In seconds.
    idle: f64,
    busy: f64,
    kinds: Vec<Share>,
    histogram: Vec<Bucket>,
}

/// The time in the calls of one name.
#[derive(Serialize)]
struct Share {
    kind: &'static str,
    name: String,
    seconds: f64,
    calls: u64,
    /// The callbacks of a protocol, by their causes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
}

/// The time in the callbacks of a protocol that have one cause.
#[derive(Serialize)]
struct Part {
    name: &'static str,
    seconds: f64,
    calls: u64,
}

#[derive(Serialize)]
struct Bucket {
    /// In seconds; `None`: no limit.
    limit: Option<f64>,
    count: u64,
}

/// Rates of the last whole second.
#[derive(Clone, Copy, Default)]
pub(crate) struct Pace {
    /// The part of the time that the loop did not wait, from 0 to 1.
    pub(crate) busy: f64,
    pub(crate) turns: f64,
    pub(crate) events: f64,
}

impl Activity {
    pub(crate) fn new() -> Activity {
        Activity {
            next: 0,
            last: 0,
            callback: None,
            calls: Vec::new(),
            begun: 0,
            protocols: BTreeMap::new(),
            names: Vec::new(),
            seconds: VecDeque::new(),
            scale: 1e9,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_names(names: Vec<UserCall>) -> Activity {
        Activity { names, ..Activity::new() }
    }

    /// Reads the events since the last call.
    pub(crate) fn read(&mut self, ring: &Ring, now: Instant) {
        (self.scale, _) = ring.scale(now);
        self.names.extend(ring.names_from(self.names.len()));
        let first = ring.first();
        let mut has_lost = self.next < first;
        self.next = ring.read(self.next, |record| {
            if std::mem::take(&mut has_lost) {
                self.begin_afresh(record.time);
            }
            self.record(record);
        });
        self.forget_before(Self::seconds_at(ring, now) as u64);
    }

    /// Events were lost before this time.
    fn begin_afresh(&mut self, time: u64) {
        (self.last, self.callback) = (time, None);
        self.calls.clear();
    }

    pub(crate) fn record(&mut self, record: Record) {
        let Record { time, kind, key, value } = record;
        let passed = time.saturating_sub(self.last);
        self.last = self.last.max(time);
        match kind {
            Kind::Waited => {
                let slept = record.slept().min(passed);
                // A callback that wrote nothing ended as the sleep began.
                self.end_callback(passed - slept, time - slept);
                self.wait(time - slept, time);
                self.second(time).turns += 1;
                // Nothing is in progress while the loop waits, even if some events were lost.
                self.calls.clear();
            }
            Kind::Call => {
                self.spend(passed, time);
                if self.calls.is_empty() && self.callback.is_none() {
                    self.begun = time;
                }
                self.calls.push(key);
            }
            Kind::Returned => {
                self.spend(passed, time);
                self.calls.pop();
                self.second(time).by_name.get_or_insert_with(key, Default::default).1 += 1;
                if self.calls.is_empty() && self.callback.is_none() {
                    self.end_call(key, time);
                }
            }
            Kind::Built => {
                self.end_callback(passed, time);
                self.protocols.insert(key, value);
                self.begin_callback(key, kind, time);
            }
            Kind::Received | Kind::Ended | Kind::Room => {
                self.end_callback(passed, time);
                self.begin_callback(key, kind, time);
                self.second(time).events += 1;
            }
            Kind::Accepted | Kind::Connected | Kind::Failed | Kind::Other => {
                self.end_callback(passed, time);
                self.second(time).events += 1;
            }
            Kind::Wrote | Kind::Blocked | Kind::Shut => self.end_callback(passed, time),
            Kind::Closed => {
                self.end_callback(passed, time);
                self.protocols.remove(&key);
            }
            Kind::Late => {
                self.spend(passed, time);
                let second = self.second(time);
                second.latest = second.latest.max(value);
            }
            _ => self.spend(passed, time),
        }
    }

    /// The loop waited in this time: shares it out among its seconds.
    fn wait(&mut self, mut from: u64, until: u64) {
        let last = self.number(until);
        let first = (last + 1).saturating_sub(SECONDS as u64);
        from = from.max((first as f64 * self.scale) as u64);
        for number in self.number(from)..last {
            let end = ((number + 1) as f64 * self.scale) as u64;
            self.numbered(number).idle += end.saturating_sub(from);
            from = end;
        }
        self.numbered(last).idle += until.saturating_sub(from);
    }

    /// Adds the ticks until now to the call in progress, or else to the driver.
    fn spend(&mut self, passed: u64, time: u64) {
        let callback = self.callback.filter(|_| self.calls.is_empty());
        let name = self.calls.last().copied().or(callback.map(|callback| callback.name));
        let second = self.second(time);
        second.busy += passed;
        second.by_name.get_or_insert_with(name.unwrap_or(DRIVER), Default::default).0 += passed;
        if let Some(Callback { name, cause, .. }) = callback {
            second.by_cause.get_or_insert_with(name, Default::default)[cause].0 += passed;
        }
    }

    fn begin_callback(&mut self, slot: u32, by: Kind, time: u64) {
        let name = self.protocols.get(&slot).copied().unwrap_or(UNKNOWN);
        let cause = CAUSES.iter().position(|(kind, _)| *kind == by).unwrap_or(0);
        self.callback = Some(Callback { name, slot, cause });
        if self.calls.is_empty() {
            self.begun = time;
        }
    }

    /// Ends the callback of a connection, if one is in progress: the loop does something else.
    fn end_callback(&mut self, passed: u64, time: u64) {
        self.spend(passed, time);
        if let Some(Callback { name, cause, .. }) = self.callback.take() {
            let second = self.second(time);
            second.by_name.get_or_insert_with(name, Default::default).1 += 1;
            second.by_cause.get_or_insert_with(name, Default::default)[cause].1 += 1;
            if self.calls.is_empty() {
                self.end_call(name, time);
            }
        }
    }

    /// The outermost call has ended.
    fn end_call(&mut self, name: u32, time: u64) {
        let ticks = time.saturating_sub(self.begun);
        let took = self.duration(ticks);
        let second = self.second(time);
        second.times.add(took);
        second.slowest = second.slowest.max((ticks, name));
    }

    fn duration(&self, ticks: u64) -> Duration {
        Duration::try_from_secs_f64(ticks as f64 / self.scale).unwrap_or(Duration::MAX)
    }

    /// The number of the second of a time.
    fn number(&self, time: u64) -> u64 {
        (time as f64 / self.scale) as u64
    }

    /// The second of a time.
    fn second(&mut self, time: u64) -> &mut Second {
        self.numbered(self.number(time))
    }

    /// The second of this number, or the last one if that is later.
    fn numbered(&mut self, number: u64) -> &mut Second {
        if self.seconds.back().is_none_or(|last| last.number < number) {
            self.forget_before(number);
            self.seconds.push_back(Second { number, ..Second::default() });
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }

    /// Forgets the seconds before the minute that ends with this second.
    fn forget_before(&mut self, number: u64) {
        while self.seconds.front().is_some_and(|it| it.number + SECONDS as u64 <= number) {
            self.seconds.pop_front();
        }
    }

    /// The rates of the last second, as of now.
    pub(crate) fn pace(&self, ring: &Ring, now: Instant) -> Pace {
        let (_, origin) = ring.scale(now);
        let number = now.saturating_duration_since(origin).as_secs();
        let whole = self.seconds.iter().rev().find(|second| second.number < number);
        // A loop that sleeps for longer has no event in a second.
        let Some(second) = whole.filter(|second| second.number + 1 == number) else {
            return Pace::default();
        };
        let busy = (second.busy as f64 / self.scale).min(1.0);
        Pace { busy, turns: second.turns as f64, events: second.events as f64 }
    }

    /// Busy fraction of the last `seconds` full seconds; `None` with a shorter history.
    pub(crate) fn busy_of_last(&self, seconds: u64, now: f64) -> Option<f64> {
        let until = now as u64;
        let from = until.checked_sub(seconds)?;
        let whole = self.seconds.iter().filter(|it| (from..until).contains(&it.number));
        let busy: u64 = whole.map(|second| second.busy).sum();
        Some((busy as f64 / self.scale / seconds as f64).min(1.0))
    }

    /// The call with most of the time of the last minute.
    pub(crate) fn most(&self) -> Option<String> {
        let (name, _) = self.sum().by_name.into_iter().max_by_key(|(_, (ticks, _))| *ticks)?;
        Some(self.describe(name))
    }

    /// The slowest call of the last minute, and its time.
    pub(crate) fn slowest(&self) -> Option<(String, Duration)> {
        let (ticks, name) = self.seconds.iter().map(|second| second.slowest).max()?;
        let what = match self.kind(name) {
            ("protocol", name) => format!("a callback of {name}"),
            _ => self.describe(name),
        };
        Some((what, self.duration(ticks)))
    }

    /// By how much a timed call of the last minute was late at most.
    pub(crate) fn latest(&self) -> Duration {
        let latest = self.seconds.iter().map(|second| second.latest).max();
        Duration::from_micros(latest.unwrap_or_default().into())
    }

    /// The calls of one name that were made most often in the last whole second, if they were far more than
    /// its events: the calls that peers cause are about as many.
    pub(crate) fn most_calls(&self, now: f64) -> Option<(String, f64)> {
        let last = (now as u64).checked_sub(1)?;
        let second = self.seconds.iter().find(|second| second.number == last)?;
        let calls = second.by_name.iter().filter(|(name, _)| **name < UNKNOWN);
        // Calls of protocols are made by their peers.
        let own = calls.filter(|(name, _)| self.kind(**name).0 != "protocol");
        let (name, (_, calls)) = own.max_by_key(|(_, (_, calls))| *calls)?;
        if *calls < CALLS_PER_EVENT * second.events {
            return None;
        }
        Some((self.describe(*name), *calls as f64))
    }

    /// The seconds since the ring was made.
    pub(crate) fn seconds_at(ring: &Ring, now: Instant) -> f64 {
        let (_, origin) = ring.scale(now);
        now.saturating_duration_since(origin).as_secs_f64()
    }

    /// The slot of the connection whose callback is in progress.
    pub(crate) fn connection(&self) -> Option<u32> {
        self.callback.map(|callback| callback.slot)
    }

    /// The call that has not returned, and how long it has been running.
    pub(crate) fn doing(
        &self,
        serial: u32,
        ring: &Ring,
        now: Instant,
    ) -> Option<(String, Duration)> {
        let what = match (self.calls.last(), self.callback) {
            (Some(name), _) => self.describe(*name),
            (None, Some(Callback { name, slot, .. })) => {
                format!("a callback of {} (connection {serial}.{slot})", self.describe(name))
            }
            (None, None) => return None,
        };
        let (scale, origin) = ring.scale(now);
        let begun = origin + Duration::try_from_secs_f64(self.begun as f64 / scale).ok()?;
        Some((what, now.saturating_duration_since(begun)))
    }

    /// All seconds that are kept, as one.
    fn sum(&self) -> Second {
        let mut all = Second::default();
        for second in &self.seconds {
            all.idle += second.idle;
            all.busy += second.busy;
            for (name, (ticks, calls)) in second.by_name.iter() {
                let sum = all.by_name.get_or_insert_with(*name, Default::default);
                *sum = (sum.0 + ticks, sum.1 + calls);
            }
            for (name, causes) in second.by_cause.iter() {
                let sums = all.by_cause.get_or_insert_with(*name, Default::default);
                for (sum, (ticks, calls)) in sums.iter_mut().zip(causes) {
                    *sum = (sum.0 + ticks, sum.1 + calls);
                }
            }
            all.times.extend(second.times);
        }
        all
    }

    /// The time of the last minute.
    pub(crate) fn time(&self, number: usize) -> Time {
        let all = self.sum();
        let seconds = |ticks: u64| (ticks as f64 / self.scale * 1e6).round() / 1e6;
        let parts = |name: u32| {
            let causes = all.by_cause.get(&name).into_iter().flatten().zip(CAUSES);
            let parts = causes.map(|((ticks, calls), (_, name))| Part {
                name,
                seconds: seconds(*ticks),
                calls: *calls,
            });
            parts.filter(|part| part.calls > 0 || part.seconds > 0.0).collect()
        };
        let shares = all.by_name.iter().map(|(number, (ticks, calls))| {
            let (kind, name) = self.kind(*number);
            let (seconds, parts) = (seconds(*ticks), parts(*number));
            Share { kind, name, seconds, calls: *calls, parts }
        });
        let mut kinds: Vec<Share> = shares.collect();
        kinds.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let buckets = all.times.buckets().map(|(limit, count)| {
            let limit = Some(limit.as_secs_f64()).filter(|_| limit < Duration::MAX);
            Bucket { limit, count }
        });
        Time {
            r#loop: number,
            idle: seconds(all.idle),
            busy: seconds(all.busy),
            kinds,
            histogram: buckets.collect(),
        }
    }

    fn describe(&self, number: u32) -> String {
        match self.kind(number) {
            ("protocol", name) => name,
            (kind, name) if name.is_empty() => kind.to_owned(),
            (kind, name) => format!("{kind} {name}"),
        }
    }

    /// The kind of a call, and its name.
    fn kind(&self, number: u32) -> (&'static str, String) {
        let known = self.names.get(number as usize);
        match (number, known) {
            (DRIVER, _) => ("driver", "reads, writes and the turn itself".to_owned()),
            (UNKNOWN, _) => ("protocol", "a connection".to_owned()),
            (_, None) => ("other", String::new()),
            (_, Some(call)) => kind_and_name(call),
        }
    }
}

/// The kind of a call, and its known names: of the task, the type, the place.
pub(crate) fn kind_and_name(call: &UserCall) -> (&'static str, String) {
    let name = call.name.as_deref().map(str::to_owned);
    let of = call.of.map(|of| short_type(of).to_string());
    let place = call.place.map(ToString::to_string);
    let words = name.into_iter().chain(of).chain(place).collect::<Vec<_>>();
    (call.kind, words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(records: &[(u64, Kind, u32, u32)]) -> Activity {
        let mut activity = Activity::with_names(vec![
            UserCall { kind: "protocol", name: None, of: Some("a::Chat"), place: None },
            UserCall { kind: "task", name: Some("talk".into()), of: None, place: None },
        ]);
        for &(micros, kind, key, value) in records {
            activity.record(Record { time: micros * 1000, kind, key, value });
        }
        activity
    }

    fn parts(activity: &Activity) -> Vec<(&'static str, f64, u64)> {
        let time = activity.time(0);
        let of = time.kinds.iter().filter(|share| share.kind == "protocol");
        let parts = of.flat_map(|share| &share.parts);
        parts.map(|part| (part.name, (part.seconds * 1e6).round(), part.calls)).collect()
    }

    fn share(activity: &Activity, kind: &str) -> (f64, u64) {
        let time = activity.time(0);
        let found = time.kinds.into_iter().find(|share| share.kind == kind);
        found.map_or((0.0, 0), |share| ((share.seconds * 1e6).round(), share.calls))
    }

    /// The ticks of a unit.
    const TICKS: u64 = 64;

    fn ticks_slept(micros: u64) -> u32 {
        (micros * 1000 / TICKS) as u32
    }

    #[test]
    fn time_belongs_to_the_callback_until_its_write_begins() {
        let activity = activity(&[
            (5, Kind::Built, 7, 0),
            (8, Kind::Waited, 0, ticks_slept(1)),
            (10, Kind::Received, 7, 100),
            (40, Kind::Wrote, 7, 100),
            (45, Kind::Waited, 0, 0),
        ]);
        // 2 µs of `connection_made`, and 30 µs of `data_received`.
        assert_eq!(share(&activity, "protocol"), (32.0, 2));
        let expected = [("connection made", 2.0, 1), ("data received", 30.0, 1)];
        assert_eq!(parts(&activity), expected);
        assert_eq!(share(&activity, "driver").0, 5.0 + 2.0 + 5.0);
        let time = activity.time(0);
        assert_eq!((time.idle * 1e6).round(), 1.0);
        assert_eq!((time.busy * 1e6).round(), 44.0);
    }

    #[test]
    fn a_callback_that_writes_nothing_ends_as_the_loop_goes_to_sleep() {
        let slept = ticks_slept(700_000);
        for kind in [Kind::Built, Kind::Received, Kind::Ended, Kind::Room] {
            let mut records = Vec::new();
            for round in 0..8 {
                let time = round * 800_000;
                records.push((time, kind, 7, 0));
                records.push((time + 700_001, Kind::Waited, 0, slept));
            }
            let activity = activity(&records);
            let (_, took) = activity.slowest().expect("a call");
            assert!(took < Duration::from_millis(1), "{kind:?}: {took:?}");
        }
        // A callback that sleeps holds the loop.
        let records = [(0, Kind::Received, 7, 0), (700_000, Kind::Waited, 0, 0)];
        let (_, took) = activity(&records).slowest().expect("a call");
        assert_eq!(took, Duration::from_millis(700));
    }

    #[test]
    fn a_nested_call_takes_its_time_from_the_outer_one() {
        let activity = activity(&[
            (0, Kind::Built, 7, 0),
            (10, Kind::Call, 1, 0),
            (30, Kind::Returned, 1, 0),
            (35, Kind::Wrote, 7, 1),
        ]);
        assert_eq!(share(&activity, "task"), (20.0, 1));
        assert_eq!(share(&activity, "protocol"), (15.0, 1));
        assert_eq!(parts(&activity), [("connection made", 15.0, 1)]);
        assert_eq!(activity.time(0).histogram.iter().map(|bucket| bucket.count).sum::<u64>(), 1);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_call_that_has_not_returned_is_known() {
        let now = Instant::now();
        let ring = Ring::new(0, 1, (0, now));
        let doing = |records: &[_]| activity(records).doing(1, &ring, now).map(|(what, _)| what);
        assert_eq!(doing(&[(1, Kind::Call, 1, 0)]).as_deref(), Some("task talk"));
        let received = [(0, Kind::Built, 7, 0), (1, Kind::Received, 7, 5)];
        assert_eq!(doing(&received).as_deref(), Some("a callback of Chat (connection 1.7)"));
        assert_eq!(doing(&[(1, Kind::Call, 1, 0), (2, Kind::Returned, 1, 0)]), None);
        assert_eq!(doing(&[(1, Kind::Received, 7, 5), (2, Kind::Waited, 0, 0)]), None);
    }

    const SECOND: u64 = 1_000_000_000;

    /// A wait of `seconds` that ends at `second`.
    fn wait_until(activity: &mut Activity, second: u64, seconds: u64) {
        let slept = seconds * SECOND / TICKS;
        let (time, kind) = (second * SECOND, Kind::Waited);
        activity.record(Record { time, kind, key: (slept >> 32) as u32, value: slept as u32 });
    }

    #[test]
    fn a_minute_is_kept() {
        let mut activity = activity(&[]);
        for second in 0..100 {
            wait_until(&mut activity, second, 0);
        }
        assert_eq!(activity.seconds.len(), SECONDS);
    }

    #[test]
    fn a_loop_with_few_events_keeps_a_minute_too() {
        let mut activity = activity(&[(0, Kind::Built, 7, 0), (400_000, Kind::Wrote, 7, 1)]);
        assert_eq!(activity.slowest().map(|(_, took)| took), Some(Duration::from_millis(400)));
        for second in 1..120 {
            wait_until(&mut activity, 30 * second, 29);
            assert!(activity.seconds.len() <= SECONDS);
            let time = activity.time(0);
            assert!(time.idle + time.busy <= 60.001, "{} and {}", time.idle, time.busy);
        }
        assert_eq!(activity.slowest().map(|(_, took)| took), Some(Duration::ZERO));
        // A wait belongs to all of its seconds, and to no more than a minute.
        wait_until(&mut activity, 9000, 5000);
        assert_eq!(activity.time(0).idle, 59.0);
        assert_eq!(activity.busy_of_last(30, 9000.0), Some(0.0));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn a_loop_that_sleeps_on_forgets_its_last_minute() {
        let now = Instant::now();
        let ring = Ring::in_nanoseconds(1 << 16, 1, Some(now));
        ring.put(1, Kind::Call, 1, 0);
        ring.put(400_000_000, Kind::Returned, 1, 0);
        ring.put(400_000_001, Kind::Late, 0, 7000);
        let mut activity = activity(&[]);
        activity.read(&ring, now + Duration::from_secs(59));
        assert!(activity.slowest().is_some());
        assert_eq!(activity.latest(), Duration::from_millis(7));
        activity.read(&ring, now + Duration::from_secs(60));
        assert!(activity.slowest().is_none() && activity.latest().is_zero());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_time_of_lost_events_is_not_busy() {
        let begun = Instant::now();
        let ring = Ring::in_nanoseconds(1, 1, Some(begun));
        let mut activity = activity(&[]);
        let mut second = 0;
        // Events are lost before the first look, and again before each later one.
        for _ in 0..3 {
            second += 100;
            while ring.first() <= activity.next {
                second += 1;
                ring.put(second * SECOND, Kind::Received, 7, 1);
            }
            activity.read(&ring, begun + Duration::from_secs(second));
            let kept = activity.next - ring.first();
            assert_eq!(activity.time(0).busy, (kept - 1) as f64, "from the first to the last");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn the_pace_counts_the_last_whole_second() {
        let begun = Instant::now();
        let ring = Ring::in_nanoseconds(1 << 16, 1, Some(begun));
        let mut activity = activity(&[]);
        for second in [0, 1, 3] {
            for n in 0..=second {
                let time = second * SECOND + n;
                activity.record(Record { time, kind: Kind::Received, key: 7, value: 1 });
            }
            wait_until(&mut activity, second, 0);
        }
        let pace = |millis| {
            let Pace { turns, events, .. } =
                activity.pace(&ring, begun + Duration::from_millis(millis));
            (turns, events)
        };
        let paces = [500, 1500, 2500, 3500, 4500, 5500].map(pace);
        let none = (0.0, 0.0);
        assert_eq!(paces, [none, (1.0, 1.0), (1.0, 2.0), none, (1.0, 4.0), none]);
    }

    #[test]
    fn calls_that_peers_cause_are_not_the_most() {
        let of = |events: u64| {
            let mut activity = activity(&[]);
            for n in 0..1000 {
                let kind = if n < events { Kind::Received } else { Kind::Woken };
                activity.record(Record { time: 3 * n, kind, key: 7, value: 1 });
                activity.record(Record { time: 3 * n + 1, kind: Kind::Call, key: 1, value: 0 });
                activity.record(Record { time: 3 * n + 2, kind: Kind::Returned, key: 1, value: 0 });
            }
            activity.most_calls(1.5)
        };
        assert_eq!(of(0), Some(("task talk".to_owned(), 1000.0)));
        assert_eq!(of(250).map(|(_, calls)| calls), Some(1000.0));
        assert_eq!(of(251), None);
    }
}
