//! Answers that RFC 9110, 13 and 14, requires for conditional requests and for ranges.
//!
//! In the headers, `|` is CRLF. `TAG` is the opaque part of the file's entity tag with its quotes,
//! `DATE` the date of its last modification; `BEFORE` and `AFTER` are a second earlier and later.

/// The answer to a GET.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// 200 with the whole file.
    Whole,
    /// 206 with this range.
    Part(u64, u64),
    /// 206 with these ranges, each as a part.
    Parts(&'static [(u64, u64)]),
    /// 304.
    NotModified,
    /// 412.
    Failed,
    /// 416 with the length.
    Unsatisfiable,
    /// Another status, with a line of text as the body.
    Status(u16),
}

use Want::{Failed, NotModified, Part, Parts, Status, Unsatisfiable, Whole};

/// Cases that share a request line.
pub(crate) struct Table {
    pub(crate) request: &'static str,
    pub(crate) rows: &'static [Row],
}

/// A section of RFC 9110, a name, the wanted answer, and headers.
pub(crate) type Row = (&'static str, &'static str, Want, &'static str);

pub(crate) const TABLES: &[Table] = &[
    Table { request: "GET /digits", rows: CONDITIONS },
    Table { request: "GET /digits", rows: IF_RANGE },
    Table { request: "GET /written", rows: WRITTEN },
    Table { request: "GET /digits", rows: PRECEDENCE },
    Table { request: "GET /digits", rows: RANGES },
    Table { request: "GET /fresh", rows: FRESH },
    Table { request: "GET /empty", rows: EMPTY },
    Table { request: "GET /folder/", rows: LISTS },
    Table { request: "GET /missing", rows: MISSING },
    Table { request: "GET /folder", rows: REDIRECTED },
    Table { request: "POST /digits", rows: METHODS },
];

#[rustfmt::skip]
const CONDITIONS: &[Row] = &[
    ("13", "no condition", Whole, ""),
    ("13.1.1", "the tag", Whole, "If-Match: TAG"),
    ("13.1.1", "another tag", Failed, "If-Match: \"other\""),
    ("13.1.1", "any", Whole, "If-Match: *"),
    ("13.1.1", "a weak tag, compared strongly", Failed, "If-Match: W/TAG"),
    ("13.1.1", "a list with the tag", Whole, "If-Match: \"other\", TAG"),
    ("13.1.1", "a list without it", Failed, "If-Match: \"other\", W/TAG,\"\""),
    ("13.1.1", "the tag in the second of two fields", Whole, "If-Match: \"other\"|If-Match: TAG"),
    ("13.1.1", "a tag with a comma inside", Whole, "If-Match: \"a,b\", TAG"),
    ("13.1.1", "a tag inside a tag's name", Failed, "If-Match: \"x, TAG"),
    ("13.1.1", "no quotes", Failed, "If-Match: other"),
    ("13.1.1", "an empty value", Failed, "If-Match: "),
    ("13.1.2", "the tag", NotModified, "If-None-Match: TAG"),
    ("13.1.2", "another tag", Whole, "If-None-Match: \"other\""),
    ("13.1.2", "any", NotModified, "If-None-Match: *"),
    ("13.1.2", "a weak tag, compared weakly", NotModified, "If-None-Match: W/TAG"),
    ("13.1.2", "a list with the tag", NotModified, "If-None-Match: W/\"other\" ,\tTAG"),
    ("13.1.2", "a list without it", Whole, "If-None-Match: \"other\",W/\"\""),
    ("13.1.2", "the tag in the second of two fields", NotModified, "If-None-Match: \"other\"|If-None-Match: TAG"),
    ("5.6.1", "empty elements in a list", NotModified, "If-None-Match: , ,TAG,"),
    ("13.1.2", "an asterisk in a list", Whole, "If-None-Match: *, \"other\""),
    ("13.1.2", "no quotes", Whole, "If-None-Match: other"),
    ("13.1.2", "a tag that does not end", Whole, "If-None-Match: \"other"),
    ("13.1.2", "a tag with more behind it", Whole, "If-None-Match: TAGx"),
    ("8.8.3", "a lower-case mark of weakness", Whole, "If-None-Match: w/TAG"),
    ("8.8.3", "the name of a tag is exact", Whole, "If-None-Match: \" TAG"),
    ("13.1.3", "the date", NotModified, "If-Modified-Since: DATE"),
    ("13.1.3", "a later date", NotModified, "If-Modified-Since: AFTER"),
    ("13.1.3", "a date in the future", NotModified, "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT"),
    ("13.1.3", "an earlier date", Whole, "If-Modified-Since: BEFORE"),
    ("5.6.7", "a date of RFC 850", NotModified, "If-Modified-Since: Wednesday, 01-Jan-20 00:00:00 GMT"),
    ("5.6.7", "a date of asctime", NotModified, "If-Modified-Since: Wed Jan  1 00:00:00 2020"),
    ("13.1.3", "no date", Whole, "If-Modified-Since: yesterday"),
    ("13.1.3", "two dates", Whole, "If-Modified-Since: DATE|If-Modified-Since: DATE"),
    ("13.1.3", "ignored beside If-None-Match", Whole, "If-Modified-Since: DATE|If-None-Match: \"other\""),
    ("13.1.3", "ignored beside If-None-Match, too early", NotModified, "If-Modified-Since: BEFORE|If-None-Match: TAG"),
    ("13.1.3", "ignored beside a malformed If-None-Match", Whole, "If-Modified-Since: DATE|If-None-Match: x"),
    ("13.1.4", "the date", Whole, "If-Unmodified-Since: DATE"),
    ("13.1.4", "a later date", Whole, "If-Unmodified-Since: AFTER"),
    ("13.1.4", "an earlier date", Failed, "If-Unmodified-Since: BEFORE"),
    ("13.1.4", "no date", Whole, "If-Unmodified-Since: yesterday"),
    ("13.1.4", "two dates", Whole, "If-Unmodified-Since: BEFORE|If-Unmodified-Since: BEFORE"),
    ("13.1.4", "ignored beside If-Match", Whole, "If-Unmodified-Since: BEFORE|If-Match: TAG"),
];

#[rustfmt::skip]
const IF_RANGE: &[Row] = &[
    ("13.1.5", "the tag", Part(2, 4), "Range: bytes=2-4|If-Range: TAG"),
    ("13.1.5", "another tag", Whole, "Range: bytes=2-4|If-Range: \"other\""),
    ("13.1.5", "a weak tag", Whole, "Range: bytes=2-4|If-Range: W/TAG"),
    ("13.1.5", "a date that a program has set: another version may have it", Whole, "Range: bytes=2-4|If-Range: DATE"),
    ("13.1.5", "a later date: it must be the same", Whole, "Range: bytes=2-4|If-Range: AFTER"),
    ("13.1.5", "an earlier date", Whole, "Range: bytes=2-4|If-Range: BEFORE"),
    ("13.1.5", "neither tag nor date", Whole, "Range: bytes=2-4|If-Range: x"),
    ("13.1.5", "an asterisk", Whole, "Range: bytes=2-4|If-Range: *"),
    ("13.1.5", "a list of tags", Whole, "Range: bytes=2-4|If-Range: TAG, TAG"),
    ("13.1.5", "two fields", Whole, "Range: bytes=2-4|If-Range: TAG|If-Range: TAG"),
    ("13.1.5", "without a range", Whole, "If-Range: TAG"),
    ("13.1.5", "without a range, and another tag", Whole, "If-Range: \"other\""),
    ("13.1.5", "a range behind the end of another version", Whole, "Range: bytes=99-|If-Range: \"other\""),
    ("13.1.5", "a range behind the end", Unsatisfiable, "Range: bytes=99-|If-Range: TAG"),
    ("13.1.5", "several ranges", Parts(&[(0, 1), (4, 5)]), "Range: bytes=0-1,4-5|If-Range: TAG"),
];

#[rustfmt::skip]
const WRITTEN: &[Row] = &[
    ("13.1.5", "the date of the write", Part(2, 4), "Range: bytes=2-4|If-Range: DATE"),
    ("13.1.5", "another date", Whole, "Range: bytes=2-4|If-Range: BEFORE"),
    ("13.1.5", "the tag", Part(2, 4), "Range: bytes=2-4|If-Range: TAG"),
    ("13.1.3", "the date of the write", NotModified, "If-Modified-Since: DATE"),
];

#[rustfmt::skip]
const PRECEDENCE: &[Row] = &[
    ("13.2.2", "If-Match before If-None-Match", Failed, "If-Match: \"other\"|If-None-Match: TAG"),
    ("13.2.2", "If-None-Match after If-Match", NotModified, "If-Match: TAG|If-None-Match: TAG"),
    ("13.2.2", "If-Modified-Since after If-Match", NotModified, "If-Match: TAG|If-Modified-Since: DATE"),
    ("13.2.2", "If-Unmodified-Since before If-None-Match", Failed, "If-Unmodified-Since: BEFORE|If-None-Match: TAG"),
    ("13.2.2", "If-None-Match before Range", NotModified, "If-None-Match: TAG|Range: bytes=2-4"),
    ("13.2.2", "If-None-Match before If-Range", NotModified, "If-None-Match: TAG|Range: bytes=2-4|If-Range: TAG"),
    ("13.2.2", "If-Match before Range", Failed, "If-Match: \"other\"|Range: bytes=2-4"),
    ("13.2.2", "If-Match holds, and a range", Part(2, 4), "If-Match: TAG|Range: bytes=2-4"),
    ("13.2.2", "If-Modified-Since before Range", NotModified, "If-Modified-Since: DATE|Range: bytes=2-4"),
    ("13.2.2", "If-Match before a range behind the end", Failed, "If-Match: \"other\"|Range: bytes=99-"),
    ("13.2.2", "all hold", Part(2, 4), "If-Match: TAG|If-None-Match: \"other\"|If-Unmodified-Since: BEFORE|If-Modified-Since: AFTER|If-Range: TAG|Range: bytes=2-4"),
];

#[rustfmt::skip]
const RANGES: &[Row] = &[
    ("14.1.2", "a range", Part(2, 4), "Range: bytes=2-4"),
    ("14.1.2", "one byte", Part(0, 0), "Range: bytes=0-0"),
    ("14.1.2", "the last byte", Part(9, 9), "Range: bytes=9-9"),
    ("14.1.2", "all bytes", Part(0, 9), "Range: bytes=0-"),
    ("14.1.2", "open", Part(7, 9), "Range: bytes=7-"),
    ("14.1.2", "beyond the end", Part(7, 9), "Range: bytes=7-1000"),
    ("14.1.2", "far beyond the end", Part(7, 9), "Range: bytes=7-99999999999999999999999999"),
    ("14.1.2", "a suffix", Part(7, 9), "Range: bytes=-3"),
    ("14.1.2", "a suffix that is all", Part(0, 9), "Range: bytes=-10"),
    ("14.1.2", "a suffix longer than all", Part(0, 9), "Range: bytes=-11"),
    ("14.1.2", "a suffix longer than any file", Part(0, 9), "Range: bytes=-99999999999999999999999999"),
    ("14.1.2", "leading zeros", Part(2, 4), "Range: bytes=0002-000000000000000000000000004"),
    ("14.1.2", "a suffix of nothing", Unsatisfiable, "Range: bytes=-0"),
    ("14.1.2", "from the end", Unsatisfiable, "Range: bytes=10-"),
    ("14.1.2", "behind the end", Unsatisfiable, "Range: bytes=10-11"),
    ("14.1.2", "far behind the end", Unsatisfiable, "Range: bytes=99999999999999999999999999-"),
    ("14.1.2", "several behind the end", Unsatisfiable, "Range: bytes=10-11,20-,-0"),
    ("14.1.2", "several", Parts(&[(0, 1), (4, 5), (9, 9)]), "Range: bytes=0-1,4-5,-1"),
    ("14.1.2", "several, not in order", Parts(&[(4, 5), (0, 1)]), "Range: bytes=4-5,0-1"),
    ("14.1.2", "several that touch", Parts(&[(0, 1), (2, 3)]), "Range: bytes=0-1,2-3"),
    ("14.1.2", "one of several behind the end", Parts(&[(0, 1), (4, 5)]), "Range: bytes=0-1,99-,4-5"),
    ("15.3.7.2", "one left of several", Part(4, 5), "Range: bytes=99-,4-5"),
    ("5.6.1", "spaces and empty elements", Parts(&[(0, 1), (4, 5)]), "Range: bytes=0-1 ,\t, 4-5,"),
    ("14.1", "the unit is case-insensitive", Part(2, 4), "Range: Bytes=2-4"),
    ("14.1", "an unknown unit", Whole, "Range: lines=2-4"),
    ("14.1", "no unit", Whole, "Range: 2-4"),
    ("14.1", "an unknown unit that begins alike", Whole, "Range: bytes2=2-4"),
    ("14.2", "an empty set", Whole, "Range: bytes="),
    ("14.2", "a set of commas", Whole, "Range: bytes=,,"),
    ("14.2", "an empty value", Whole, "Range: "),
    ("14.2", "the end before the start", Whole, "Range: bytes=4-2"),
    ("14.2", "no dash", Whole, "Range: bytes=4"),
    ("14.2", "a dash alone", Whole, "Range: bytes=-"),
    ("14.2", "two dashes", Whole, "Range: bytes=2--4"),
    ("14.2", "a sign", Whole, "Range: bytes=+2-4"),
    ("14.2", "spaces within", Whole, "Range: bytes=2 - 4"),
    ("14.2", "a space before the set's equals sign", Whole, "Range: bytes =2-4"),
    ("14.2", "hexadecimal", Whole, "Range: bytes=0x2-4"),
    ("14.2", "letters", Whole, "Range: bytes=a-b"),
    ("14.2", "one of several malformed", Whole, "Range: bytes=0-1,x"),
    ("14.2", "one of several the wrong way round", Whole, "Range: bytes=0-1,4-2"),
    ("14.2", "a malformed one after one behind the end", Whole, "Range: bytes=99-,x"),
    ("14.2", "two fields", Whole, "Range: bytes=2-4|Range: bytes=2-4"),
    ("14.2", "overlapping", Whole, "Range: bytes=0-4,3-5"),
    ("14.2", "the same twice", Whole, "Range: bytes=2-4,2-4"),
    ("14.2", "a suffix that overlaps", Whole, "Range: bytes=0-4,-8"),
    ("14.2", "more than 32", Whole, "Range: bytes=0-0,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-"),
    ("14.2", "32", Part(0, 0), "Range: bytes=0-0,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-,99-"),
];

/// The file may change again undetected, so its tag is weak.
#[rustfmt::skip]
const FRESH: &[Row] = &[
    ("13.1.1", "the tag of a fresh file", Failed, "If-Match: TAG"),
    ("13.1.1", "the weak tag of a fresh file", Failed, "If-Match: W/TAG"),
    ("13.1.1", "any, of a fresh file", Whole, "If-Match: *"),
    ("13.1.2", "the tag of a fresh file", NotModified, "If-None-Match: TAG"),
    ("13.1.2", "the weak tag of a fresh file", NotModified, "If-None-Match: W/TAG"),
    ("13.1.5", "the tag of a fresh file", Whole, "Range: bytes=2-4|If-Range: TAG"),
    ("13.1.5", "the weak tag of a fresh file", Whole, "Range: bytes=2-4|If-Range: W/TAG"),
    ("8.8.2.2", "the date of a fresh file", Whole, "Range: bytes=2-4|If-Range: DATE"),
    ("14.2", "a range of a fresh file", Part(2, 4), "Range: bytes=2-4"),
];

#[rustfmt::skip]
const EMPTY: &[Row] = &[
    ("13.1.2", "the tag of an empty file", NotModified, "If-None-Match: TAG"),
    ("14.1.2", "all of an empty file", Unsatisfiable, "Range: bytes=0-"),
    ("14.1.2", "the first byte of an empty file", Unsatisfiable, "Range: bytes=0-0"),
    ("14.1.2", "the end of an empty file", Whole, "Range: bytes=-1"),
    ("14.1.2", "a suffix of nothing of an empty file", Unsatisfiable, "Range: bytes=-0"),
];

/// A folder's listing has neither a tag nor a date.
#[rustfmt::skip]
const LISTS: &[Row] = &[
    ("13.1.1", "any list", Status(200), "If-Match: *"),
    ("13.1.1", "a list by a tag", Failed, "If-Match: \"\""),
    ("13.1.2", "any list", NotModified, "If-None-Match: *"),
    ("13.1.2", "a list by a tag", Status(200), "If-None-Match: \"\""),
    ("13.1.3", "a list has no date", Status(200), "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT"),
    ("13.1.4", "a list has no date", Status(200), "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT"),
    ("14.2", "a range of a list", Status(200), "Range: bytes=0-1"),
];

#[rustfmt::skip]
const MISSING: &[Row] = &[
    ("13.2.1", "If-Match", Status(404), "If-Match: *"),
    ("13.2.1", "If-None-Match", Status(404), "If-None-Match: *"),
    ("13.2.1", "If-Modified-Since", Status(404), "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT"),
    ("14.2", "Range", Status(404), "Range: bytes=0-1"),
];

#[rustfmt::skip]
const REDIRECTED: &[Row] = &[
    ("13.2.1", "If-Match, redirected", Status(307), "If-Match: \"other\""),
    ("13.2.1", "If-None-Match, redirected", Status(307), "If-None-Match: *"),
    ("14.2", "Range, redirected", Status(307), "Range: bytes=0-1"),
];

#[rustfmt::skip]
const METHODS: &[Row] = &[
    ("13.2.1", "conditions of a method that is not allowed", Status(405), "Content-Length: 0|If-Match: \"other\""),
    ("14.2", "a range of a method that is not allowed", Status(405), "Content-Length: 0|Range: bytes=0-1"),
];
