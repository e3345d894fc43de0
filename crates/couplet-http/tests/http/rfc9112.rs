//! HTTP/1.1 by the tables of cases, each sent in one write and byte by byte.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Reactor, Result, Stream};
use http_body_util::{BodyExt, Full};

use crate::cases::{LENIENT, TABLES, Want, bytes_of};
use crate::kit::{Answer, TO, beside_service, heard, twice};

pub(crate) const NEXT: &str = "GET /next HTTP/1.1|Host: a||";

/// The outcome of a case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The requests that the service got.
    pub(crate) seen: Vec<String>,
    statuses: Vec<u16>,
    is_closed: bool,
}

impl Outcome {
    fn is(&self, want: Want) -> bool {
        match want {
            Want::Serve(requests) => {
                let expected = requests.iter().copied().chain(["GET /next"]);
                self.has_seen(expected) && self.statuses.len() == self.seen.len() && !self.is_closed
            }
            Want::Last(requests) => {
                let rest = &self.statuses[requests.len().min(self.statuses.len())..];
                let is_refused = matches!(rest, [] | [400]);
                self.has_seen(requests.iter().copied()) && is_refused && self.is_closed
            }
            Want::May(requests) => self.is(Want::Serve(requests)) || self.is(Want::Refuse(&[400])),
            Want::Close(requests) => self.is(Want::Last(requests)) || self.is(Want::Refuse(&[400])),
            Want::Refuse(statuses) => {
                let is_refused = matches!(&*self.statuses, [one] if statuses.contains(one));
                self.seen.is_empty() && is_refused && self.is_closed
            }
            Want::Break => {
                self.has_seen(["POST /a !"].into_iter()) && self.statuses == [400] && self.is_closed
            }
        }
    }

    fn has_seen<'a>(&self, requests: impl Iterator<Item = &'a str>) -> bool {
        let requests: Vec<Vec<u8>> = requests.map(bytes_of).collect();
        let seen = self.seen.iter().map(|request| request.as_bytes());
        let mut answered = self.statuses.iter().zip(&self.seen);
        seen.eq(requests.iter().map(Vec::as_slice))
            && self.statuses.len() >= self.seen.len()
            && answered.all(|(status, request)| *status == status_of(request))
    }
}

/// The service's status for a request.
fn status_of(request: &str) -> u16 {
    match request {
        _ if request.ends_with('!') => 400,
        _ if request.starts_with("CONNECT ") => 501,
        _ => 200,
    }
}

pub(crate) type Seen = Rc<RefCell<Vec<String>>>;

/// Notes each request, and answers with the note.
pub(crate) async fn note(seen: Seen, request: Request<Body>) -> Answer {
    let (head, mut body) = request.into_parts();
    let target = match head.uri.path_and_query() {
        Some(path) => path.to_string(),
        None => head.uri.to_string(),
    };
    let mut line = format!("{} {target}", head.method);
    let framing = ["content-length", "transfer-encoding"];
    if framing.iter().all(|name| head.headers.contains_key(*name)) {
        line += " framed twice";
    }
    if target == "/host" {
        let hosts = head.headers.get_all("host").iter();
        hosts
            .for_each(|host| line = format!("{line} {}", String::from_utf8_lossy(host.as_bytes())));
    }
    let (begun, mut data, mut trailers) = (line.clone(), Vec::new(), String::new());
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data().map_err(|frame| frame.into_trailers())) {
            Ok(Ok(piece)) => data.extend(piece),
            Ok(Err(Ok(fields))) => {
                trailers = fields.iter().map(|(name, _)| format!(" +{name}")).collect()
            }
            Ok(Err(Err(_))) => unreachable!("a frame is data or trailers"),
            Err(_) => {
                seen.borrow_mut().push(format!("{begun} !"));
                let mut answer = Response::new(Full::from("broken"));
                *answer.status_mut() = hyper::StatusCode::BAD_REQUEST;
                return Ok(answer);
            }
        }
    }
    if !data.is_empty() {
        line = format!("{line} {}", String::from_utf8_lossy(&data));
    }
    line += &trailers;
    seen.borrow_mut().push(line.clone());
    let mut answer = Response::new(Full::from(line.clone()));
    *answer.status_mut() = hyper::StatusCode::from_u16(status_of(&line)).expect("a status");
    Ok(answer)
}

/// The statuses of the final answers in these bytes, whose framing must be valid.
fn statuses_of(mut bytes: &[u8], seen: &[String], is_closed: bool) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&bytes[..end]).expect("ASCII").to_ascii_lowercase();
        bytes = &bytes[end + 4..];
        let status: u16 = head["http/1.1 ".len()..][..3].parse().expect("a status");
        if status == 100 {
            continue;
        }
        let is_head = seen.get(statuses.len()).is_some_and(|request| request.starts_with("HEAD "));
        statuses.push(status);
        let fields = |name: &str| head.lines().filter_map(|line| line.strip_prefix(name)).collect();
        let (lengths, codings): (Vec<_>, Vec<_>) =
            (fields("content-length: "), fields("transfer-encoding: "));
        // The answer to a refused HEAD may lack a length.
        let is_last = is_closed && bytes.is_empty();
        assert!(lengths.len() == 1 || (lengths.is_empty() && is_last), "{head}");
        assert!(codings.is_empty(), "{head}");
        if !is_head && !is_last {
            bytes = &bytes[lengths[0].parse().expect("a length")..];
        }
        let says_keep = head.contains("\r\nconnection: keep-alive");
        let is_old = head.starts_with("http/1.0") && !says_keep;
        let says_close = is_old || head.contains("\r\nconnection: close");
        assert_eq!(says_close, is_closed && bytes.is_empty(), "{head}");
    }
    statuses
}

/// Sends the pieces, each in its own turn, and returns the outcome after ten quiet seconds.
pub(crate) async fn outcome_of(
    reactor: &Reactor,
    stream: &mut Stream,
    seen: &Seen,
    pieces: &[&[u8]],
) -> Result<Outcome> {
    seen.borrow_mut().clear();
    for piece in pieces {
        // A server that refused the beginning does not wait for the rest.
        if stream.write_all(piece).await.is_err() {
            break;
        }
        reactor.sleep(Duration::ZERO).await?;
    }
    let got = heard(stream, reactor, Duration::from_secs(10)).await?;
    let seen = seen.take();
    let statuses = statuses_of(&got.bytes, &seen, got.is_closed);
    Ok(Outcome { seen, statuses, is_closed: got.is_closed })
}

/// Cuts a case into its bytes. The inside of a long repetition, where a parser stays in one state,
/// goes in larger pieces.
fn byte_by_byte(bytes: &[u8]) -> Vec<&[u8]> {
    const SINGLE: usize = 1500;
    let end = bytes.len().saturating_sub(SINGLE).max(SINGLE.min(bytes.len()));
    let (begin, inside) = bytes[..end].split_at(SINGLE.min(end));
    begin.chunks(1).chain(inside.chunks(997)).chain(bytes[end..].chunks(1)).collect()
}

/// A complaint about the outcomes of a case, if they are wrong.
fn wrong(name: &str, want: Want, outcomes: &[Outcome]) -> Option<String> {
    let lenient = LENIENT.iter().find(|(_, other, ..)| *other == name);
    let accepted = lenient.map_or(want, |(_, _, accepted, _)| *accepted);
    let complaint = match outcomes {
        [whole, bytes] if whole != bytes => "differs byte by byte",
        [outcome, ..] if !outcome.is(accepted) => "is wrong",
        [outcome, ..] if lenient.is_some() && outcome.is(want) => "needs no leniency",
        _ => return None,
    };
    let text = format!("{name} {complaint}: {want:?}: {outcomes:?}");
    Some(text.chars().take(500).collect())
}

#[test]
fn c173_every_case_ends_as_the_rfc_wants_however_it_is_cut() {
    let (seen, noted) = twice(Seen::default());
    let answer = move |_, request| note(noted.clone(), request);
    let found = beside_service(HttpOptions::default(), answer, async move |reactor| {
        let mut found = Vec::new();
        for table in TABLES {
            for (_, name, want, row) in table.rows {
                let bytes = bytes_of(&(table.template.replace("{}", row) + NEXT));
                let mut outcomes = Vec::new();
                for pieces in [vec![&bytes[..]], byte_by_byte(&bytes)] {
                    let mut stream = reactor.connect_stream(TO).await?;
                    outcomes.push(outcome_of(&reactor, &mut stream, &seen, &pieces).await?);
                }
                found.extend(wrong(name, *want, &outcomes));
            }
        }
        Ok(found)
    });
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn each_case_has_a_name_and_each_leniency_a_case() {
    let names: Vec<&str> = TABLES.iter().flat_map(|table| table.rows).map(|row| row.1).collect();
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len(), "two cases have the same name");
    for (section, name, _, why) in LENIENT {
        assert!(unique.contains(name) && !section.is_empty() && !why.is_empty(), "{name}");
    }
}
