//! Range requests: RFC 9110, 14.

use std::ops::Range;

use couplet::http::{HeaderMap, header};

use super::conditions::single;

/// A request for more ranges gets the whole file: many small parts cost more than they save.
pub(super) const MOST_RANGES: usize = 32;

/// The requested bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No range was requested, the header must be ignored, or its ranges overlap.
    Whole,
    /// At least one range, in the order of the request; none is empty, and they do not overlap.
    Parts(Vec<Range<u64>>),
    /// All ranges are beyond the end.
    Unsatisfiable,
}

/// Evaluates the header for a file of this size.
pub(super) fn requested_ranges(headers: &HeaderMap, size: u64) -> Wanted {
    let specifier = single(headers, header::RANGE).and_then(|value| value.to_str().ok());
    let parts = specifier.and_then(|specifier| parts(specifier, size));
    match parts {
        Some(parts) if parts.is_empty() => Wanted::Unsatisfiable,
        Some(parts) if !overlap(&parts) => Wanted::Parts(parts),
        _ => Wanted::Whole,
    }
}

/// The satisfiable ranges. `None` if the header must be ignored: RFC 9110, 14.2.
fn parts(specifier: &str, size: u64) -> Option<Vec<Range<u64>>> {
    let (unit, set) = specifier.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t']));
    let mut specs = specs.filter(|spec| !spec.is_empty()).peekable();
    specs.peek()?;
    let (mut parts, mut count) = (Vec::new(), 0);
    for spec in specs {
        let range = range(spec, size)?;
        count += 1;
        if count > MOST_RANGES {
            return None;
        }
        if !range.is_empty() {
            parts.push(range);
        }
    }
    Some(parts)
}

/// One range; empty if it can't be satisfied, `None` if it is malformed.
fn range(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let length = position(last)?;
        // A suffix range of an empty file is satisfiable, but it has no bytes: the file is sent
        // whole.
        return (size > 0 || length == 0).then(|| size.saturating_sub(length)..size);
    }
    let first = position(first)?;
    let end = match last {
        "" => size,
        last => position(last).filter(|last| first <= *last)?.saturating_add(1),
    };
    Some(first..end.min(size))
}

/// A number of any length; numbers too large for a file saturate.
fn position(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn overlap(parts: &[Range<u64>]) -> bool {
    let mut sorted: Vec<_> = parts.iter().collect();
    sorted.sort_unstable_by_key(|part| part.start);
    sorted.windows(2).any(|pair| matches!(pair, [a, b] if a.end > b.start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use couplet::http::HeaderValue;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_inside_the_file_and_no_byte_comes_twice(
            header in "bytes=([0-9]{0,2}-[0-9]{0,2}[, ]{0,2}){1,6}",
            size in 0..100_u64,
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(header::RANGE, HeaderValue::try_from(&header).unwrap());
            if let Wanted::Parts(parts) = requested_ranges(&headers, size) {
                prop_assert!(!parts.is_empty() && parts.len() <= MOST_RANGES);
                for (n, part) in parts.iter().enumerate() {
                    prop_assert!(part.start < part.end && part.end <= size);
                    for other in parts.iter().skip(n + 1) {
                        prop_assert!(part.end <= other.start || other.end <= part.start);
                    }
                }
            }
        }
    }
}
