//! Conditional requests: RFC 9110, 13. A version of a file has an entity tag and a date.

use std::fs::Metadata;
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use couplet::http::{HeaderMap, HeaderName, HeaderValue, header};

/// A file that was modified within this time may change again with the same timestamp: some file
/// systems store times in steps of two seconds.
const RECENT: Duration = Duration::from_secs(2);

/// The longest step of the system's clock for files, which counts if the file system stores
/// fractions of a second.
const CLOCK_STEP: Duration = Duration::from_millis(20);

/// A year: builds that give the same time to all files choose a moment of 1970.
const CONSTANT: u64 = 365 * 86_400;

/// Distinguishes the versions of a file. No program can set the time of the last change, so that it
/// also moves if a file is overwritten and gets its old time of modification back, as by `cp -p`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds since 1970, and nanoseconds.
    modified: (i64, i64),
    /// The time of the last change of any kind (ctime).
    changed: (i64, i64),
}

impl Version {
    pub(super) fn new(file: &Metadata) -> Version {
        Version {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    /// Whether any further change would be seen in the times, at `now`.
    fn is_settled(&self, now: Duration) -> bool {
        let is_past = |time, step| age(time, now).is_some_and(|age| age > step);
        let step = if self.changed.1 == 0 { RECENT } else { CLOCK_STEP };
        is_past(self.modified, RECENT) && is_past(self.changed, step)
    }

    /// Whether the time of modification was not set since the file was written, so that each version
    /// has another one.
    fn is_dated_by_write(&self) -> bool {
        age(self.modified, since_1970(self.changed)).is_some_and(|age| age <= RECENT)
    }
}

/// The time from `time` to `now`; `None` for a later one. Times before 1970 count as 1970.
fn age(time: (i64, i64), now: Duration) -> Option<Duration> {
    now.checked_sub(since_1970(time))
}

fn since_1970((seconds, nanos): (i64, i64)) -> Duration {
    Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0))
}

/// The validators of a representation: RFC 9110, 8.8. A folder's listing has none.
#[derive(Debug, Default)]
pub(super) struct Validators {
    /// The entity tag, with its quotes.
    tag: Option<String>,
    /// Seconds since 1970; `None` without a meaningful date.
    modified: Option<u64>,
    strength: Strength,
    /// A date is weaker than a tag: a program may have set it.
    strength_of_date: Strength,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Strength {
    /// Other bytes may have the same validators.
    #[default]
    Weak,
    Strong,
}

/// The outcome of a request's conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Proceed,
    NotModified,
    Failed,
}

impl Validators {
    /// The validators of a file's version at `now`, the time since 1970.
    pub(super) fn new(version: &Version, now: Duration) -> Validators {
        let Version { inode, size, modified, changed, .. } = version;
        let tag = format!(
            "\"{inode:x}-{size:x}-{:x}.{:x}-{:x}.{:x}\"",
            modified.0, modified.1, changed.0, changed.1
        );
        // No date is before 1970 or in the future (8.8.2.1).
        let seconds = u64::try_from(modified.0).ok().filter(|seconds| *seconds >= CONSTANT);
        let strength = |is_strong| if is_strong { Strength::Strong } else { Strength::Weak };
        let is_settled = version.is_settled(now);
        Validators {
            tag: Some(tag),
            modified: seconds.map(|seconds| seconds.min(now.as_secs())),
            strength: strength(is_settled),
            strength_of_date: strength(is_settled && version.is_dated_by_write()),
        }
    }

    pub(super) fn etag(&self) -> Option<HeaderValue> {
        let tag = self.tag.as_ref()?;
        let text = match self.strength {
            Strength::Strong => tag.clone(),
            Strength::Weak => format!("W/{tag}"),
        };
        HeaderValue::try_from(text).ok()
    }

    pub(super) fn last_modified(&self) -> Option<HeaderValue> {
        let time = UNIX_EPOCH + Duration::from_secs(self.modified?);
        HeaderValue::try_from(httpdate::fmt_http_date(time)).ok()
    }

    /// Whether other bytes have other validators.
    pub(super) fn are_strong(&self) -> bool {
        self.strength == Strength::Strong
    }

    /// Compares weakly: RFC 9110, 8.8.3.2.
    fn matches_weakly(&self, tag: Tag<'_>) -> bool {
        self.tag.as_ref().is_some_and(|own| own.as_bytes() == tag.opaque)
    }

    /// Compares strongly.
    fn matches_strongly(&self, tag: Tag<'_>) -> bool {
        (self.strength, tag.strength) == (Strength::Strong, Strength::Strong)
            && self.matches_weakly(tag)
    }
}

/// Evaluates the conditions of a GET or HEAD in the order of RFC 9110, 13.2.2.
pub(super) fn evaluate(headers: &HeaderMap, validators: &Validators) -> Verdict {
    let modified_after = |name| {
        let (modified, date) = (validators.modified?, date(headers, name)?);
        Some(modified > date)
    };
    let fails = if headers.contains_key(header::IF_MATCH) {
        !any(headers, header::IF_MATCH, |tag| validators.matches_strongly(tag))
    } else {
        modified_after(header::IF_UNMODIFIED_SINCE) == Some(true)
    };
    if fails {
        return Verdict::Failed;
    }
    let is_known = if headers.contains_key(header::IF_NONE_MATCH) {
        any(headers, header::IF_NONE_MATCH, |tag| validators.matches_weakly(tag))
    } else {
        modified_after(header::IF_MODIFIED_SINCE) == Some(false)
    };
    if is_known { Verdict::NotModified } else { Verdict::Proceed }
}

/// Whether the client's partial copy is of this version, so that a range may complete it: RFC 9110,
/// 13.1.5.
pub(super) fn range_applies(headers: &HeaderMap, validators: &Validators) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    let Some(value) = single(headers, header::IF_RANGE) else { return false };
    if let Some((tag, [])) = Tag::split_from(value.as_bytes()) {
        return validators.matches_strongly(tag);
    }
    let date = date(headers, header::IF_RANGE);
    validators.strength_of_date == Strength::Strong && date.is_some() && date == validators.modified
}

/// An entity tag: RFC 9110, 8.8.3.
#[derive(Clone, Copy)]
struct Tag<'a> {
    strength: Strength,
    /// The opaque part, with its quotes.
    opaque: &'a [u8],
}

impl<'a> Tag<'a> {
    /// Splits off the leading tag; returns it and the remainder.
    fn split_from(text: &'a [u8]) -> Option<(Tag<'a>, &'a [u8])> {
        let (strength, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (Strength::Weak, quoted),
            None => (Strength::Strong, text),
        };
        let inside = quoted.strip_prefix(b"\"")?;
        let length = inside.iter().position(|byte| *byte == b'"')?;
        let (opaque, rest) = quoted.split_at_checked(length + 2)?;
        // Spaces and controls are not allowed.
        let is_tag = inside.iter().take(length).all(|byte| matches!(byte, 0x21..=0x7E | 0x80..));
        is_tag.then_some((Tag { strength, opaque }, rest))
    }
}

/// Whether a tag of the list satisfies `is_such`, or the list is `*`.
fn any(headers: &HeaderMap, name: HeaderName, is_such: impl Fn(Tag<'_>) -> bool) -> bool {
    let mut values = headers.get_all(name).iter();
    values.any(|value| value == "*" || tags(value.as_bytes()).any(&is_such))
}

/// The tags of a list, up to the first malformed one.
fn tags(mut list: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    iter::from_fn(move || {
        let start = list.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let (tag, rest) = Tag::split_from(list.get(start..)?)?;
        list = rest.trim_ascii_start();
        list.first().is_none_or(|byte| *byte == b',').then_some(tag)
    })
}

/// The date of a header, in seconds since 1970. `None` if it is malformed or the header is
/// repeated.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    let date = httpdate::parse_http_date(single(headers, name)?.to_str().ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The value of a header that occurs exactly once.
pub(super) fn single(headers: &HeaderMap, name: HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}
