//! Random changes to the cases: nothing panics or hangs, no framing is ambiguous, and strictly valid
//! requests reach the service as a strict parser reads them.

use std::sync::LazyLock;
use std::time::Duration;

use couplet::http::HttpOptions;
use proptest::prelude::*;
use tracing::Level;

use crate::cases::{TABLES, bytes_of};
use crate::kit::{TO, beside_service, heard};
use crate::logged::logged_at;
use crate::rfc9112::{NEXT, Outcome, Seen, note, outcome_of};

/// Pieces to insert into the bytes of a case.
const WORDS: &[&str] = &[
    "|",
    "||",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "-",
    "+",
    "0",
    "5",
    "\u{ff}",
    "0x",
    "HTTP/1.1",
    "HTTP/1.0",
    "HEAD ",
    "Host: a|",
    "Content-Length: 5|",
    "Content-Length: 0|",
    "Transfer-Encoding: chunked|",
    "transfer-encoding:\tchunked |",
    "Connection: close|",
    "Connection: keep-alive|",
    "Expect: 100-continue|",
    "Upgrade: x|",
    "5|hello|",
    "0||",
    "GET /other HTTP/1.1|Host: b||",
    "POST /other HTTP/1.1|Host: b|Content-Length: 3||abc",
];

#[derive(Clone, Debug)]
enum Change {
    Insert(usize, usize),
    Remove(usize, usize),
    Repeat(usize, usize),
    Flip(usize, u8),
    Splice(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = || any::<usize>();
    prop_oneof![
        6 => (at(), 0..WORDS.len()).prop_map(|(at, word)| Change::Insert(at, word)),
        2 => (at(), 1..20_usize).prop_map(|(at, n)| Change::Remove(at, n)),
        1 => (at(), 1..50_usize).prop_map(|(at, n)| Change::Repeat(at, n)),
        1 => (at(), any::<u8>()).prop_map(|(at, mask)| Change::Flip(at, mask)),
        1 => (at(), at()).prop_map(|(at, case)| Change::Splice(at, case)),
    ]
}

/// The bytes of all short cases.
static CASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let texts = TABLES
        .iter()
        .flat_map(|table| table.rows.iter().map(|row| table.template.replace("{}", row.3)));
    texts.filter(|text| !text.contains('«')).map(|text| bytes_of(&text)).collect()
});

fn case(number: usize) -> &'static [u8] {
    &CASES[number % CASES.len()]
}

fn changed(number: usize, changes: &[Change]) -> Vec<u8> {
    let mut bytes = case(number).to_vec();
    for change in changes {
        let place = |at: usize| at % (bytes.len() + 1);
        match *change {
            Change::Insert(at, word) => {
                let at = place(at);
                bytes.splice(at..at, bytes_of(WORDS[word]));
            }
            Change::Remove(at, n) => {
                let at = place(at);
                bytes.drain(at..(at + n).min(bytes.len()));
            }
            Change::Repeat(at, n) => {
                let at = place(at);
                let piece = bytes[at..(at + n).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            Change::Flip(at, mask) => {
                let at = place(at);
                bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= mask);
            }
            Change::Splice(at, other) => {
                let at = place(at);
                bytes.truncate(at);
                bytes.extend(case(other));
            }
        }
    }
    bytes.extend(bytes_of(NEXT));
    bytes
}

/// The leading requests that are strictly valid, in the notation of the service.
fn strict(mut bytes: &[u8]) -> Vec<String> {
    let mut requests = Vec::new();
    while let Some((request, rest)) = strict_request(bytes) {
        requests.push(request);
        bytes = rest;
    }
    requests
}

fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let is_plain = text.chars().all(|letter| letter == ' ' || letter.is_ascii_graphic());
    is_plain.then_some((text, &bytes[end + 2..]))
}

fn strict_request(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (first, mut rest) = line(bytes)?;
    let (method, target) = first.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let is_right = target.strip_prefix('/').is_some_and(is_plain);
    if method.is_empty() || method == "CONNECT" || !is_plain(method) || !is_right {
        return None;
    }
    let (mut host, mut length, mut is_chunked) = (None, None, false);
    loop {
        let (field, after) = line(rest)?;
        rest = after;
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(": ")?;
        let is_new = match &*name.to_ascii_lowercase() {
            "host" if is_plain(value) => host.replace(value.to_owned()).is_none(),
            "content-length" if value.len() == 1 => length.replace(value.parse().ok()?).is_none(),
            "transfer-encoding" if value == "chunked" => !std::mem::replace(&mut is_chunked, true),
            "x" => true,
            _ => false,
        };
        if !is_new {
            return None;
        }
    }
    let body = match (length, is_chunked) {
        (None, true) => strict_chunks(&mut rest)?,
        (Some(_), true) => return None,
        (length, false) => take(&mut rest, length.unwrap_or(0))?,
    };
    let host = host?;
    let mut note = format!("{method} {target}");
    for part in [(target == "/host").then_some(host), (!body.is_empty()).then_some(body)] {
        note = part.map_or(note.clone(), |part| format!("{note} {part}"));
    }
    Some((note, rest))
}

fn take(rest: &mut &[u8], n: usize) -> Option<String> {
    let (body, after) = rest.split_at_checked(n)?;
    *rest = after;
    Some(String::from_utf8_lossy(body).into_owned())
}

fn strict_chunks(rest: &mut &[u8]) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = line(rest)?;
        *rest = after;
        let size =
            if size.len() == 1 { usize::from_str_radix(size, 16).ok()? } else { return None };
        body += &take(rest, size)?;
        *rest = rest.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some(body);
        }
    }
}

/// Sends bytes whole and in pieces, and returns both outcomes. The server must close in the end.
fn outcomes(bytes: &[u8], piece: usize) -> Vec<Outcome> {
    let seen = Seen::default();
    let (noted, bytes) = (seen.clone(), bytes.to_vec());
    let answer = move |_, request| note(noted.clone(), request);
    beside_service(HttpOptions::default(), answer, async move |reactor| {
        let mut outcomes = Vec::new();
        for size in [bytes.len(), piece] {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            let mut stream = reactor.connect_stream(TO).await?;
            outcomes.push(outcome_of(&reactor, &mut stream, &seen, &pieces).await?);
            let rest = heard(&mut stream, &reactor, Duration::from_secs(300)).await?;
            assert!(rest.is_closed, "the server waits for ever");
        }
        Ok(outcomes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn changed_cases_are_answered_or_closed_and_never_read_in_two_ways(
        number in any::<usize>(),
        changes in prop::collection::vec(change(), 1..5),
        piece in 1..30_usize,
    ) {
        let bytes = changed(number, &changes);
        // The HTTP/2 preface is answered in frames.
        prop_assume!(!bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (outcomes, lines) = logged_at(Level::WARN, || outcomes(&bytes, piece));
        prop_assert!(lines.is_empty(), "{text:?}: {lines:?}");
        prop_assert_eq!(&outcomes[0], &outcomes[1], "{:?}", text);
        let seen = &outcomes[0].seen;
        prop_assert!(!seen.iter().any(|request| request.contains("framed twice")), "{text:?}: {seen:?}");
        let strict = strict(&bytes);
        prop_assert!(seen.starts_with(&strict), "{text:?}: {seen:?} is not {strict:?}");
    }
}
