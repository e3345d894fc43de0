//! Checks `couplet serve` against a table of conditional requests and ranges: RFC 9110, 13 and 14.

mod cases;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::Site;
use crate::kit::{Client, noise, wait_for_age};
use cases::{TABLES, Want};

const DIGITS: &[u8] = b"0123456789";
/// 2020-01-01, 00:00:00 UTC.
const MODIFIED: Duration = Duration::from_secs(1_577_836_800);

/// An answer: status, headers with names in lower case, and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads the next answer of a connection; `is_head` if the request was a HEAD.
    pub(crate) fn read(client: &mut Client, is_head: bool) -> Answer {
        let line = client.read_line();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("a status: {line}"));
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = client.read_line().trim_end().split_once(": ") {
            let before = headers.insert(name.to_ascii_lowercase(), value.to_owned());
            assert_eq!(before, None, "{name} comes twice");
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let body = if is_head { Vec::new() } else { client.read_exact(length) };
        Answer { status, headers, body }
    }

    /// The headers that do not depend on the time.
    pub(crate) fn undated(&self) -> BTreeMap<String, String> {
        let mut headers = self.headers.clone();
        headers.retain(|name, _| name != "date" && name != "last-modified");
        headers
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Sends a request with these headers, separated by `|`.
pub(crate) fn ask(client: &mut Client, request: &str, headers: &str) -> Answer {
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}|") };
    let head = format!("{request} HTTP/1.1|Host: a|{headers}|").replace('|', "\r\n");
    client.send(head.as_bytes());
    Answer::read(client, request.starts_with("HEAD "))
}

/// A site with digits in a file with a time of 2020, in one that was just written, and in one that
/// was modified a moment ago, an empty file, and a folder.
fn site() -> Site {
    let files: [(&str, &[u8]); 5] = [
        ("written", DIGITS),
        ("digits", DIGITS),
        ("fresh", DIGITS),
        ("empty", b""),
        ("folder/file", b""),
    ];
    let site = Site::new(&files);
    let set = |name: &str, time: SystemTime| {
        File::options().write(true).open(site.0.join(name)).unwrap().set_modified(time).unwrap();
    };
    set("digits", UNIX_EPOCH + MODIFIED);
    set("empty", UNIX_EPOCH + MODIFIED);
    // A date in the future stays recent for the whole test.
    set("fresh", SystemTime::now() + Duration::from_secs(3600));
    wait_for_age(&site.0.join("digits"), Duration::from_millis(100));
    site
}

/// Fills a file's tag and date into the headers of a row.
fn filled(headers: &str, tag: &str, date: &str) -> String {
    let tag = tag.trim_start_matches("W/");
    let headers = headers
        .replace("\"x, TAG", &format!("\"x, {}", tag.trim_start_matches('"')))
        .replace("TAG", tag);
    headers
        .replace("DATE", date)
        .replace("BEFORE", "Tue, 31 Dec 2019 23:59:59 GMT")
        .replace("AFTER", "Wed, 01 Jan 2020 00:00:01 GMT")
}

/// The multipart body for these ranges of a file.
fn multipart(answer: &Answer, bytes: &[u8], ranges: &[(u64, u64)]) -> Vec<u8> {
    let kind = answer.header("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap_or("?");
    let (mut body, size) = (Vec::new(), bytes.len());
    for (first, last) in ranges {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
        );
        body.extend([head.as_bytes(), &bytes[*first as usize..=*last as usize]].concat());
    }
    body.extend(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

/// Describes how an answer to a GET differs from the wanted one; `whole` is the answer without
/// conditions.
fn fault(answer: &Answer, want: Want, whole: &Answer) -> Option<String> {
    let bytes = &whole.body[..];
    let slice = |first: u64, last: u64| &bytes[first as usize..=last as usize];
    let has = |names: &[&str]| names.iter().all(|name| answer.headers.contains_key(*name));
    let size = bytes.len();
    let (status, is_right) = match want {
        Want::Whole => {
            let is_whole = answer.body == bytes && !has(&["content-range"]);
            (200, is_whole && has(&["etag", "last-modified", "accept-ranges", "content-type"]))
        }
        Want::Part(first, last) => {
            let range = format!("bytes {first}-{last}/{size}");
            let is_part = answer.body == slice(first, last);
            let is_told = answer.header("content-range") == range;
            (206, is_part && is_told && has(&["etag", "last-modified", "content-type"]))
        }
        Want::Parts(ranges) => {
            let body = multipart(answer, bytes, ranges);
            (206, answer.body == body && !has(&["content-range"]) && has(&["etag"]))
        }
        Want::NotModified => {
            let is_bare = answer.body.is_empty() && !has(&["content-type"]);
            (304, is_bare && answer.header("etag") == whole.header("etag"))
        }
        Want::Failed => (412, answer.body == b"precondition failed\n"),
        Want::Unsatisfiable => {
            (416, answer.header("content-range") == format!("bytes */{}", bytes.len()))
        }
        Want::Status(status) => (status, !answer.body.is_empty() && !has(&["etag"])),
    };
    (answer.status != status || !is_right).then(|| format!("{want:?}: {answer:?}"))
}

/// The answer to a HEAD must be equal to the answer to a GET without a range: RFC 9110, 14.2.
fn fault_of_head(head: &Answer, get: &Answer, want: Want, size: usize) -> Option<String> {
    let is_range = matches!(want, Want::Part(..) | Want::Parts(_) | Want::Unsatisfiable);
    let is_right = match is_range {
        true => head.status == 200 && head.header("content-length") == size.to_string(),
        false => head.status == get.status && head.undated() == get.undated(),
    };
    (!is_right).then(|| format!("HEAD, {want:?}: {head:?}"))
}

#[test]
fn conditional_requests_and_ranges_are_answered_as_rfc_9110_says() {
    let site = site();
    // Until then the date of this file is weak.
    wait_for_age(&site.0.join("written"), Duration::from_millis(2100));
    let server = site.serve();
    let mut client = server.connect();
    let mut faults = Vec::new();
    let mut count = 0;
    for table in TABLES {
        let (method, path) = table.request.split_once(' ').unwrap();
        let whole = ask(&mut client, &format!("GET {path}"), "");
        for (section, name, want, headers) in table.rows {
            let headers = filled(headers, whole.header("etag"), whole.header("last-modified"));
            let answer = ask(&mut client, table.request, &headers);
            let case = format!("{section}, {name} [{headers}]");
            faults.extend(fault(&answer, *want, &whole).map(|fault| format!("{case}: {fault}")));
            count += 1;
            if method == "GET" {
                let head = ask(&mut client, &format!("HEAD {path}"), &headers);
                let fault = fault_of_head(&head, &answer, *want, whole.body.len());
                faults.extend(fault.map(|fault| format!("{case}: {fault}")));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn a_tag_changes_with_the_file_and_is_weak_while_it_may_change_again() {
    let site = site();
    let server = site.serve();
    let mut client = server.connect();
    let mut head = |path: &str| ask(&mut client, &format!("HEAD {path}"), "");
    let old = head("/digits");
    assert!(old.header("etag").starts_with('"'), "{old:?}");
    assert_eq!(old.header("last-modified"), "Wed, 01 Jan 2020 00:00:00 GMT");
    let fresh = head("/fresh");
    assert!(fresh.header("etag").starts_with("W/\""), "{fresh:?}");
    // No date is later than the answer's own: RFC 9110, 8.8.2.1.
    let date = |name| httpdate::parse_http_date(fresh.header(name)).unwrap();
    assert!(date("last-modified") <= date("date"), "{fresh:?}");
    let file = || File::options().write(true).open(site.0.join("digits")).unwrap();
    let later = UNIX_EPOCH + MODIFIED + Duration::from_nanos(1);
    file().set_modified(later).unwrap();
    let touched = head("/digits");
    assert_ne!(touched.header("etag"), old.header("etag"));
    assert_eq!(touched.header("last-modified"), old.header("last-modified"));
    std::fs::write(site.0.join("digits"), &DIGITS[1..]).unwrap();
    file().set_modified(later).unwrap();
    assert_ne!(head("/digits").header("etag"), touched.header("etag"));
    file().set_modified(UNIX_EPOCH - Duration::from_secs(1)).unwrap();
    let ancient = head("/digits");
    assert_eq!((ancient.status, ancient.header("last-modified")), (200, ""));
}

/// Contents of each way to send a file: in memory, sealed, and from disk; each with its name.
const SIZES: [(&str, usize); 3] = [("small", 1000), ("sealed", 200_000), ("disk", 300_000)];

#[test]
fn a_file_that_is_overwritten_and_gets_its_old_time_back_is_another_version() {
    for (seconds, has_date) in [(0, false), (1, false), (1_262_304_000, true)] {
        let site = Site::new(&[]);
        let build = |byte: u8| {
            for (name, size) in SIZES {
                let path = site.0.join(name);
                std::fs::write(&path, vec![byte; size]).unwrap();
                let time = UNIX_EPOCH + Duration::from_secs(seconds);
                File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
                wait_for_age(&path, Duration::from_millis(50));
            }
        };
        build(b'1');
        // A quarter of the cache is the longest sealed file.
        let server = site.serve_with(&["--cache-bytes", "1000000"]);
        let mut client = server.connect();
        let mut get = |name: &str, headers: &str| {
            let answer = ask(&mut client, &format!("GET /{name}"), headers);
            assert_eq!(answer.headers.contains_key("last-modified"), has_date, "{answer:?}");
            answer
        };
        for byte in [b'1', b'2', b'3'] {
            let olds = SIZES.map(|(name, _)| [(); 3].map(|()| get(name, "")));
            let date = "Fri, 01 Jan 2010 00:00:00 GMT";
            for ((name, size), old) in SIZES.into_iter().zip(&olds) {
                let [.., last] = old;
                assert!(old.iter().all(|it| it.body == vec![byte; size]), "{name}");
                assert!(last.header("etag").starts_with('"'), "{last:?}");
            }
            build(byte + 1);
            for ((name, size), [.., old]) in SIZES.into_iter().zip(&olds) {
                let is_new =
                    |answer: &Answer| answer.status == 200 && answer.body == vec![byte + 1; size];
                let tag = old.header("etag");
                for condition in [
                    String::new(),
                    format!("If-None-Match: {tag}"),
                    format!("Range: bytes=500-|If-Range: {tag}"),
                    format!("Range: bytes=500-|If-Range: {date}"),
                ] {
                    let answer = get(name, &condition);
                    assert!(is_new(&answer), "{name} {seconds} {condition}");
                    assert_ne!(answer.header("etag"), tag);
                }
            }
        }
    }
}

#[test]
fn ranges_of_a_large_file_are_its_bytes() {
    let much = noise(10 * 1024 * 1024);
    let site = Site::new(&[("much", &much)]);
    let server = site.serve();
    let mut client = server.connect();
    for range in [0..10, 65_535..65_537, 65_536..131_072, 1_000_000..9_000_000, 0..much.len()] {
        let asked = format!("Range: bytes={}-{}", range.start, range.end - 1);
        let answer = ask(&mut client, "GET /much", &asked);
        assert!(answer.status == 206 && answer.body == much[range], "{asked}");
    }
    let parts: Vec<_> = (0..32).map(|n| (n * 300_000, n * 300_000 + 99_999)).collect();
    let asked: Vec<_> = parts.iter().map(|(first, last)| format!("{first}-{last}")).collect();
    let answer = ask(&mut client, "GET /much", &format!("Range: bytes={}", asked.join(",")));
    assert_eq!(answer.status, 206);
    assert!(answer.body == multipart(&answer, &much, &parts));
}
