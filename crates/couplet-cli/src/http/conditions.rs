//! Conditional requests: RFC 9110, 13. A version of a file has an entity tag and a date.

use std::fs::Metadata;
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, UNIX_EPOCH};

use couplet::http::{HeaderMap, HeaderName, HeaderValue, header};

/// A file that was modified within this time may change again with the same timestamp: some file
/// systems store times in steps of two seconds.
const RECENT: Duration = Duration::from_secs(2);

/// The validators of a representation: RFC 9110, 8.8. A folder's listing has none.
#[derive(Debug, Default)]
pub(super) struct Validators {
    /// The entity tag, with its quotes.
    tag: Option<String>,
    /// Seconds since 1970.
    modified: Option<u64>,
    strength: Strength,
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
    /// The validators of a file at `now`, the time since 1970.
    pub(super) fn from_metadata(file: &Metadata, now: Duration) -> Validators {
        let (inode, size) = (file.ino(), file.size());
        let (seconds, nanos) = (file.mtime(), file.mtime_nsec());
        let tag = format!("\"{inode:x}-{size:x}-{seconds:x}.{nanos:x}\"");
        // No date is before 1970 or in the future (8.8.2.1).
        let modified = u64::try_from(seconds).ok().map(|seconds| seconds.min(now.as_secs()));
        let settled = Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).checked_add(RECENT);
        let is_settled = settled.is_some_and(|settled| settled < now);
        let strength = if is_settled { Strength::Strong } else { Strength::Weak };
        Validators { tag: Some(tag), modified, strength }
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
    validators.strength == Strength::Strong && date.is_some() && date == validators.modified
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
