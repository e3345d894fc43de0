//! Times of the loop's clock as seconds since 1970, and in sentences.

use std::fmt;
use std::time::{Duration, Instant};

use couplet_core::Reactor;
use couplet_core::hooks;
use couplet_core::hooks::inspector::time;
use couplet_core::hooks::inspector::{Why, WhyPart};
use serde::{Serialize, Serializer};

/// Translates instants from a fixed origin, so that an instant has one translation.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    pub(crate) fn new(reactor: &Reactor) -> Clock {
        Clock { instant: reactor.now(), unix: hooks::unix_time(reactor) }
    }

    /// A clock that shows a time since 1970 at an instant.
    pub(crate) fn at(instant: Instant, unix: Duration) -> Clock {
        Clock { instant, unix }
    }

    /// Seconds since 1970, in milliseconds' precision.
    pub(crate) fn unix(&self, at: Instant) -> f64 {
        self.since_1970(at).as_millis() as f64 / 1e3
    }

    /// The same in microseconds' precision.
    pub(crate) fn micros(&self, at: Instant) -> f64 {
        self.since_1970(at).as_micros() as f64 / 1e6
    }

    fn since_1970(&self, at: Instant) -> Duration {
        match at.checked_duration_since(self.instant) {
            Some(after) => self.unix + after,
            None => self.unix.saturating_sub(self.instant.saturating_duration_since(at)),
        }
    }

    pub(crate) fn sentence<'a>(&self, why: &'a Why) -> Sentence<'a> {
        Sentence { clock: *self, why }
    }
}

/// A sentence with its times as `{since:1764208800.123}` and `{until:…}`, so that it stays the same
/// while they pass.
pub(crate) struct Sentence<'a> {
    clock: Clock,
    why: &'a Why,
}

impl fmt::Display for Sentence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.parts().iter().try_for_each(|part| match part {
            WhyPart::Text(text) => f.write_str(text),
            WhyPart::Since(at) => write!(f, "{{since:{}}}", self.clock.unix(*at)),
            WhyPart::Until(at) => write!(f, "{{until:{}}}", self.clock.unix(*at)),
            _ => Ok(()),
        })
    }
}

impl Serialize for Sentence<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Replaces the times in sentences of `/live`, `{since:1764208800.123}` and `{until:…}`, by the
/// time that has passed or is left at `now`: all are Unix times, in seconds. For programs that read
/// `/live`, whose sentences stay the same while time passes; `/state.json` has them spelt out.
///
/// ```
/// use couplet::inspect::spell_out;
///
/// let why = "closing for {since:1000.5}, cut in {until:1030.5}";
/// assert_eq!(spell_out(why, 1003.7), "closing for 3.2 s, cut in 26.8 s");
/// ```
pub fn spell_out(text: &str, now: f64) -> String {
    let mut spelt = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        spelt.push_str(before);
        match time_in(from) {
            Some((is_since, then, length)) => {
                let passed = if is_since { now - then } else { then - now };
                let passed = Duration::try_from_secs_f64(passed).unwrap_or_default();
                spelt.push_str(&time(passed).to_string());
                rest = &from[length..];
            }
            None => {
                spelt.push('{');
                rest = &from[1..];
            }
        }
    }
    spelt.push_str(rest);
    spelt
}

/// The time at the beginning of a text, whether it is one that has passed, and its length as text.
fn time_in(text: &str) -> Option<(bool, f64, usize)> {
    /// Longer than any time.
    const LONGEST: usize = 32;
    let is_since = text.starts_with("{since:");
    if !is_since && !text.starts_with("{until:") {
        return None;
    }
    let length = text.bytes().take(LONGEST).position(|byte| byte == b'}')? + 1;
    let then = text["{since:".len()..length - 1].parse().ok()?;
    Some((is_since, then, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_sentences_are_relative_to_now() {
        let text = "closing for {since:1000.5}, cut in {until:1030.5}; {since:x} {until:";
        let spelt = spell_out(text, 1003.7);
        assert_eq!(spelt, "closing for 3.2 s, cut in 26.8 s; {since:x} {until:");
        assert_eq!(spell_out("{since:2000}", 1000.0), "0 ms", "a clock that was set back");
        assert_eq!(spell_out("", 0.0), "");
    }

    /// If each time were looked for in all of the rest, the watchdog would end this.
    #[test]
    fn the_time_for_a_long_text_grows_with_its_length() {
        let text = "{since:1} {\"a\":{}}".repeat(300_000);
        let spelt = spell_out(&text, 2.0);
        assert!(spelt.starts_with("1.0 s {\"a\":{}}1.0 s ") && spelt.ends_with("{\"a\":{}}"));
    }
}
