//! The grammar common to all endpoint strings: parts, keywords and escapes.
//!
//! Contract: 71c, 144, 145, 145f.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::EndpointError;
use super::kinds::{Side, nearest_word};
use super::{ClientEndpoint, ServerEndpoint};
use crate::defer::Result;
use crate::driver::ListenOptions;
use crate::switches::{Switch, Switches};

/// Escapes `:` and `\` so that the text is a single value in an endpoint string. Twisted's
/// `quoteStringArgument`.
///
/// ```
/// assert_eq!(couplet::endpoints::quote(r"C:\poems"), r"C\:\\poems");
/// ```
#[must_use]
pub fn quote(value: &str) -> String {
    value.replace('\\', r"\\").replace(':', r"\:")
}

/// Like [`quote`], but also escapes the other characters with a meaning in the grammar.
pub(super) fn escaped(text: &str) -> String {
    quote(text).replace('=', r"\=").replace('[', r"\[")
}

/// A value in an endpoint string, with its position.
#[derive(Clone)]
pub struct Part {
    key: Option<String>,
    pub(super) text: String,
    pub(super) bracketed: bool,
    /// Position of the part, including its key.
    pub(super) start: usize,
    /// Position of the value.
    at: usize,
    whole: Arc<str>,
}

impl Part {
    fn empty(whole: &Arc<str>, at: usize) -> Part {
        let whole = whole.clone();
        Part { key: None, text: String::new(), bracketed: false, start: at, at, whole }
    }

    /// A value that is not part of a string.
    pub(super) fn standalone(text: String) -> Part {
        Part { text: text.clone(), ..Part::empty(&text.into(), 0) }
    }

    /// The same position with a normalized value.
    pub(super) fn with_value(self, value: impl fmt::Display) -> Part {
        Part { text: value.to_string(), ..self }
    }

    /// The value, without its key and with escapes resolved.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// An error located at this value.
    pub fn error(&self, problem: impl Into<String>) -> EndpointError {
        EndpointError::new(&self.whole, self.at, problem)
    }

    /// Parses a number.
    ///
    /// # Errors
    ///
    /// If the value is not a number, or out of bounds: `expected {what} from {least} to {most}`.
    pub fn number(&self, what: &str, least: u64, most: u64) -> Result<u64, EndpointError> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|b| b.is_ascii_digit());
        match self.text.parse::<u64>() {
            Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
            _ => Err(self.error(format!("expected {what} from {least} to {most}"))),
        }
    }

    /// The accept backlog, as a number of connections.
    pub(super) fn backlog(&self) -> Result<u32, EndpointError> {
        Ok(self.number("a number of connections", 0, u32::MAX.into())? as u32)
    }

    /// The most connections of a port.
    pub(super) fn connections(&self) -> Result<u32, EndpointError> {
        Ok(self.number("a number of connections", 1, u32::MAX.into())? as u32)
    }

    /// A number of bytes, at least 1, also in thousands, millions or billions of them.
    pub(super) fn bytes(&self, what: &str) -> Result<u64, EndpointError> {
        let (digits, factor) = match self.text.char_indices().last() {
            Some((at, 'k')) => (&self.text[..at], 1000),
            Some((at, 'M')) => (&self.text[..at], 1_000_000),
            Some((at, 'G')) => (&self.text[..at], 1_000_000_000),
            _ => (&*self.text, 1),
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse::<u64>().ok().filter(|number| is_number && *number > 0);
        number.and_then(|number| number.checked_mul(factor)).ok_or_else(|| {
            self.error(format!(
                "expected {what}, at least 1: a number, optionally followed by k, M or G"
            ))
        })
    }

    /// The number of a user or a group. To the system, the last number means "leave unchanged".
    pub(super) fn system_id(&self) -> Result<u32, EndpointError> {
        Ok(self.number("a number", 0, u64::from(u32::MAX) - 1)? as u32)
    }

    /// Parses a time in seconds, greater than 0.
    ///
    /// # Errors
    ///
    /// If the value is not a positive number.
    pub fn seconds(&self) -> Result<Duration, EndpointError> {
        let time = Seconds::read(&self.text).filter(|time| !time.is_zero());
        time.ok_or_else(|| {
            let most = u64::MAX;
            self.error(format!("expected a number of seconds from 0.000000001 to {most}"))
        })
    }

    /// Parses `yes`, `true` or `1`; `no`, `false` or `0`.
    ///
    /// # Errors
    ///
    /// If the value is anything else.
    pub fn yes_or_no(&self) -> Result<bool, EndpointError> {
        match self.text.as_str() {
            "yes" | "true" | "1" => Ok(true),
            "no" | "false" | "0" => Ok(false),
            _ => Err(self.error("expected yes or no")),
        }
    }

    /// Whether the part was written as `key=value`.
    pub(super) fn is_named(&self) -> bool {
        self.key.is_some()
    }

    /// Whether the part may be a kind.
    fn is_word(&self) -> bool {
        self.key.is_none() && !self.bracketed
    }
}

/// Shows only the value: equal endpoints look equal, wherever their parts were.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

/// The remaining parts of an endpoint string. Readers of [registered](super::register_server) kinds
/// take the parts that they know.
///
/// A keyword belongs to the outermost kind in the string that requests it. Leftover parts are an
/// error, which lists the requested keywords.
pub struct Parts {
    whole: Arc<str>,
    parts: Vec<Part>,
    /// The kinds taken so far, the outermost first.
    kinds: Vec<String>,
    /// The keywords requested so far, and whether errors list them.
    known_keywords: Vec<(&'static str, bool)>,
    /// A part that resembles a kind, and was taken as a host.
    suspected_kind: Option<Part>,
    /// Default options of ports, which the string may override.
    pub(super) options: ListenOptions,
}

impl Parts {
    pub(super) fn new(text: &str, options: &ListenOptions) -> Result<Parts, EndpointError> {
        let whole: Arc<str> = text.into();
        let mut parts = vec![Part::empty(&whole, 0)];
        let mut letters = text.char_indices();
        let mut depth = 0usize;
        while let Some((at, letter)) = letters.next() {
            let part = parts.last_mut().expect("there is always one");
            match letter {
                '\\' => match letters.next() {
                    Some((_, escaped)) => part.text.push(escaped),
                    None => {
                        return Err(EndpointError::new(text, at, "nothing follows this backslash"));
                    }
                },
                ':' if depth == 0 => parts.push(Part::empty(&whole, at + 1)),
                '=' if depth == 0 && part.key.is_none() => {
                    part.key = Some(std::mem::take(&mut part.text));
                    part.at = at + 1;
                }
                '[' if part.text.is_empty() && depth == 0 => {
                    depth = 1;
                    part.bracketed = true;
                }
                ']' if depth == 1 => depth = 0,
                other => part.text.push(other),
            }
        }
        match parts.last() {
            Some(part) if depth == 1 => Err(part.error("unclosed bracket")),
            _ => Ok(Parts {
                whole,
                parts,
                kinds: Vec::new(),
                known_keywords: Vec::new(),
                suspected_kind: None,
                options: options.clone(),
            }),
        }
    }

    /// Takes the value of `key=`, if given; if repeated, the first one.
    pub fn keyword(&mut self, key: &'static str) -> Option<Part> {
        self.take(key, true)
    }

    /// Takes the value of the first of these alternative keywords. Errors list only the first name.
    pub(super) fn one_of(&mut self, keys: &[&'static str]) -> Option<Part> {
        let mut first = true;
        let mut found = None;
        for key in keys {
            let part = match found {
                None => self.take(key, first),
                Some(_) => {
                    self.record_keyword(key, first);
                    None
                }
            };
            found = found.or(part);
            first = false;
        }
        found
    }

    fn take(&mut self, key: &'static str, listed: bool) -> Option<Part> {
        self.record_keyword(key, listed);
        let at = self.parts.iter().position(|part| part.key.as_deref() == Some(key))?;
        Some(self.parts.remove(at))
    }

    /// Records that this keyword is known, and whether errors list it.
    pub(super) fn record_keyword(&mut self, key: &'static str, listed: bool) {
        if !self.is_known_keyword(key) {
            self.known_keywords.push((key, listed));
        }
    }

    fn is_known_keyword(&self, key: &str) -> bool {
        self.known_keywords.iter().any(|(asked, _)| *asked == key)
    }

    /// Takes the next part without a key.
    pub fn positional(&mut self) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.is_none())?;
        Some(self.parts.remove(at))
    }

    /// Reads the rest as an endpoint to listen on: TCP unless it begins with another kind, or the
    /// value of `endpoint=`, which has its own keywords. For kinds that wrap another endpoint.
    ///
    /// # Errors
    ///
    /// If the rest is not a valid endpoint.
    pub fn server(&mut self) -> Result<Arc<dyn ServerEndpoint>, EndpointError> {
        self.inner::<dyn ServerEndpoint>()
    }

    /// Reads the rest as an endpoint to connect to, like [`server`](Self::server).
    ///
    /// # Errors
    ///
    /// If the rest is not a valid endpoint.
    pub fn client(&mut self) -> Result<Arc<dyn ClientEndpoint>, EndpointError> {
        self.inner::<dyn ClientEndpoint>()
    }

    fn inner<E: Side + ?Sized>(&mut self) -> Result<Arc<E>, EndpointError> {
        match self.keyword("endpoint") {
            Some(part) => super::kinds::parse::<E>(&part.text, &self.options)
                .map_err(|error| part.error(error.problem())),
            None => self.endpoint::<E>(),
        }
    }

    pub(super) fn endpoint<E: Side + ?Sized>(&mut self) -> Result<Arc<E>, EndpointError> {
        match self.take_kind::<E>()? {
            Some(read) => read(self),
            None => E::tcp(self),
        }
    }

    /// Takes the kind: the next part without a key, unless it is a host or a port.
    fn take_kind<E: Side + ?Sized>(
        &mut self,
    ) -> Result<Option<super::kinds::KindParser<E>>, EndpointError> {
        let Some(at) = self.parts.iter().position(|part| part.key.is_none()) else {
            return Ok(None);
        };
        let first = &self.parts[at];
        if !first.is_word() {
            return Ok(None);
        }
        let Some(read) = E::kinds().find(&first.text) else {
            if nearest_word(&first.text, E::kinds().names()).is_some() {
                self.suspected_kind = Some(first.clone());
            }
            if first.text == "udp" {
                let others = E::expected_start();
                return Err(first.error(format!("udp: has datagrams but no streams: {others}")));
            }
            if ["ssl", "tls"].contains(&&*first.text) {
                let problem = "this program was built without TLS (feature `tls`)";
                return Err(first.error(problem));
            }
            return match E::is_reserved(&first.text) {
                true => Err(first.error(E::expected_start())),
                false => Ok(None),
            };
        };
        if self.kinds.contains(&first.text) {
            let kind = &first.text;
            return Err(first.error(format!(
                "a second {kind}: needs a separate string for its keywords: {kind}:endpoint=…"
            )));
        }
        self.kinds.push(self.parts.remove(at).text);
        Ok(Some(read))
    }

    /// Takes this kind, with which the string must begin.
    pub(super) fn take_only_kind(&mut self, kind: &str) -> Result<(), EndpointError> {
        match self.parts.first() {
            Some(first) if first.is_word() && first.text == kind => {
                self.kinds.push(self.parts.remove(0).text);
                Ok(())
            }
            first => {
                let at = first.map_or(0, |first| first.start);
                Err(self.whole_error(at, format!("a datagram address starts with {kind}:")))
            }
        }
    }

    /// The form of an endpoint for error messages: its kinds, then `rest`.
    pub(super) fn form(&self, rest: &str) -> String {
        self.kinds.iter().map(|kind| format!("{kind}:")).chain([rest.to_owned()]).collect()
    }

    /// The host, if given, and the port: by keyword, otherwise by position.
    pub(super) fn host_and_port(
        &mut self,
        form: &str,
    ) -> Result<(Option<Part>, Part), EndpointError> {
        let (host, port) = (self.keyword("host"), self.keyword("port"));
        if let Some(port) = port {
            return Ok((host.or_else(|| self.positional()), port));
        }
        let first = self.positional().ok_or_else(|| self.missing("port", form))?;
        if host.is_some() {
            return Ok((host, first));
        }
        Ok(match self.positional() {
            Some(port) => (Some(first), port),
            None => (None, first),
        })
    }

    /// The error for a missing part that `form` requires.
    pub fn missing(&self, what: &str, form: &str) -> EndpointError {
        self.whole_error(self.whole.len(), format!("missing {what}: expected {form}"))
    }

    fn whole_error(&self, at: usize, problem: impl Into<String>) -> EndpointError {
        EndpointError::new(&self.whole, at, problem)
    }

    /// Takes the value of `key=yes|no`, if given.
    pub(super) fn flag(&mut self, key: &'static str) -> Result<Option<bool>, EndpointError> {
        self.keyword(key).map(|part| part.yes_or_no()).transpose()
    }

    /// Takes the values of these switches, if given.
    /// Reads the limits of a port.
    pub(super) fn read_limits(
        &mut self,
        mut options: ListenOptions,
    ) -> Result<ListenOptions, EndpointError> {
        if let Some(backlog) = self.keyword("backlog") {
            options = options.backlog(backlog.backlog()?);
        }
        if let Some(most) = self.keyword("connections") {
            options = options.max_connections(most.connections()?);
        }
        let bytes = |part: Part| Ok(usize::try_from(part.bytes("bytes")?).unwrap_or(usize::MAX));
        if let Some(most) = self.keyword("buffered") {
            options = options.max_buffered(bytes(most)?);
        }
        if let Some(most) = self.keyword("buffered_by_peer") {
            options = options.max_buffered_by_peer(bytes(most)?);
        }
        Ok(options)
    }

    pub(super) fn read_switches(
        &mut self,
        known: &[(&'static str, Switch)],
        switches: &mut Switches,
    ) -> Result<(), EndpointError> {
        for (key, switch) in known {
            if let Some(on) = self.flag(key)? {
                switches.set(*switch, on);
            }
        }
        Ok(())
    }

    /// Returns an error if any part is left.
    pub(super) fn finish(&self) -> Result<(), EndpointError> {
        let Some(part) = self.parts.first() else { return Ok(()) };
        let Some(key) = &part.key else { return Err(part.error("expected nothing more")) };
        let shown = key.replace(char::is_control, "?");
        Err(self.whole_error(
            part.start,
            match self.is_known_keyword(key) {
                true => format!("repeated keyword {shown}="),
                false => format!("unknown keyword {shown}=; {}", self.list_keywords()),
            },
        ))
    }

    fn list_keywords(&self) -> String {
        let listed = self.known_keywords.iter().filter(|(_, listed)| *listed);
        let listed: Vec<String> = listed.map(|(key, _)| format!("{key}=")).collect();
        match listed.split_last() {
            Some((last, rest)) if !rest.is_empty() => {
                format!("known keywords are {} and {last}", rest.join(", "))
            }
            _ => format!("known keywords are {}", listed.concat()),
        }
    }

    /// The string with its unknown keywords replaced by similar ones.
    pub(super) fn with_near_keywords(&self) -> Option<String> {
        let mut text = self.whole.to_string();
        let mut changed = false;
        for part in self.parts.iter().rev() {
            let Some(key) = part.key.as_deref().filter(|key| !self.is_known_keyword(key)) else {
                continue;
            };
            if let Some(meant) =
                nearest_word(key, self.known_keywords.iter().map(|(key, _)| (*key).to_owned()))
            {
                text.replace_range(part.start..part.at - 1, &meant);
                changed = true;
            }
        }
        changed.then_some(text)
    }

    /// The part that may be a misspelt kind, and the string with the similar kind in its place.
    pub(super) fn with_near_kind<E: Side + ?Sized>(&self) -> Option<(&Part, String)> {
        let part = self.suspected_kind.as_ref()?;
        let meant = nearest_word(&part.text, E::kinds().names())?;
        let rest = self.whole.get(part.start..)?.strip_prefix(&*part.text)?;
        Some((part, format!("{}{meant}{rest}", &self.whole[..part.start])))
    }
}

/// Support for Twisted's forms of `tls:`.
#[cfg(any(feature = "tls", feature = "ring"))]
impl Parts {
    /// Takes the value of `key=`, one of Twisted's keywords that errors do not list.
    pub(super) fn unlisted(&mut self, key: &'static str) -> Option<Part> {
        self.take(key, false)
    }

    /// Whether `key=` is given.
    pub(super) fn has(&self, key: &str) -> bool {
        self.parts.iter().any(|part| part.key.as_deref() == Some(key))
    }

    /// Takes the next part without a key if `is` returns true for it.
    pub(super) fn positional_if(&mut self, is: impl Fn(&str) -> bool) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.is_none())?;
        is(&self.parts[at].text).then(|| self.parts.remove(at))
    }

    /// Appends a part without a key.
    pub(super) fn add(&mut self, text: &str) {
        let end = self.whole.len();
        self.parts.push(Part { text: text.to_owned(), ..Part::empty(&self.whole, end) });
    }

    pub(super) fn has_positional(&self) -> bool {
        self.parts.iter().any(|part| part.key.is_none())
    }

    /// Whether the next part without a key is a kind.
    pub(super) fn has_kind<E: Side + ?Sized>(&self) -> bool {
        let first = self.parts.iter().find(|part| part.key.is_none());
        first.is_some_and(|first| first.is_word() && E::kinds().find(&first.text).is_some())
    }

    /// The position of the whole string, for errors that concern no single part.
    pub(super) fn whole(&self) -> Part {
        Part::empty(&self.whole, 0)
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("whole", &self.whole).finish_non_exhaustive()
    }
}

/// A time in seconds, displayed with every digit needed to parse it back. Zero, which a string can't
/// give, is displayed as the shortest time that it can.
pub(super) struct Seconds(pub(super) Duration);

impl Seconds {
    /// Exact for plain decimals; anything else is parsed as `f64`.
    fn read(text: &str) -> Option<Duration> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_plain = !whole.is_empty()
            && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        if !is_plain {
            return Duration::try_from_secs_f64(text.parse().ok()?).ok();
        }
        let (weights, mut nanos) =
            ([100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1000, 100, 10, 1], 0);
        for (digit, weight) in fraction.bytes().zip(weights) {
            nanos += u32::from(digit - b'0') * weight;
        }
        Some(Duration::new(whole.parse().ok()?, nanos))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0.max(Duration::from_nanos(1));
        write!(f, "{}", time.as_secs())?;
        match time.subsec_nanos() {
            0 => Ok(()),
            nanos => write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0')),
        }
    }
}

/// Writes a wrapper's kind and its inner endpoint.
pub(super) fn print_over(f: &mut fmt::Formatter<'_>, kind: &str, over: &str) -> fmt::Result {
    match takes_keywords_of(kind, over) {
        true => write!(f, "{kind}:endpoint={}", escaped(over)),
        false => write!(f, "{kind}:{over}"),
    }
}

/// Whether a wrapper would take keywords of the endpoint after it: that endpoint has an inner one of the
/// wrapper's kind, or the keyword `endpoint=`, which belongs to the outermost wrapper.
fn takes_keywords_of(kind: &str, over: &str) -> bool {
    let Ok(parts) = Parts::new(over, &ListenOptions::default()) else { return false };
    let has_inner = parts.parts.iter().any(|part| part.key.as_deref() == Some("endpoint"));
    has_inner || kinds_of(over).iter().any(|inner| inner == kind)
}

/// The kinds at the beginning of an endpoint string, for listening or connecting.
fn kinds_of(text: &str) -> Vec<String> {
    let Ok(parts) = Parts::new(text, &ListenOptions::default()) else { return Vec::new() };
    let words = parts.parts.into_iter().filter(|part| part.key.is_none());
    let is_kind = |word: &Part| word.is_word() && <dyn ServerEndpoint>::is_reserved(&word.text);
    words.take_while(is_kind).map(|word| word.text).collect()
}

/// Whether the rest of a `tcp:` endpoint means another endpoint without the prefix: it would parse as
/// another kind, or it is only a port, which would be on this machine.
#[cfg(any(feature = "tls", feature = "ring"))]
pub(super) fn needs_tcp(rest: &str) -> bool {
    let is_port_alone = Parts::new(rest, &ListenOptions::default()).is_ok_and(|parts| {
        let words = parts.parts.iter().filter(|part| part.key.is_none());
        words.count() == 1 && !parts.has("interface")
    });
    is_port_alone || !kinds_of(rest).is_empty()
}

/// Prints the limits of a port that are not the default.
pub(super) fn print_limits(f: &mut fmt::Formatter<'_>, options: &ListenOptions) -> fmt::Result {
    let ListenOptions { backlog, connections, buffered, buffered_by_peer, .. } = options;
    let backlog = Some(*backlog).filter(|backlog| *backlog != ListenOptions::default().backlog);
    let limits = [
        ("backlog", backlog.map(u64::from)),
        ("connections", connections.map(|most| most.get().into())),
        ("buffered", buffered.map(|most| most as u64)),
        ("buffered_by_peer", buffered_by_peer.map(|most| most as u64)),
    ];
    let mut set = limits.into_iter().filter_map(|(key, limit)| Some((key, limit?)));
    set.try_for_each(|(key, limit)| write!(f, ":{key}={limit}"))
}

/// Writes `:key=yes|no` for each switch that differs from the default.
pub(super) fn print_switches(
    f: &mut fmt::Formatter<'_>,
    known: &[(&'static str, Switch)],
    switches: Switches,
    default: Switches,
) -> fmt::Result {
    for (key, switch) in known {
        let on = switches.has(*switch);
        if on != default.has(*switch) {
            write!(f, ":{key}={}", if on { "yes" } else { "no" })?;
        }
    }
    Ok(())
}

/// Writes `:key=value`, if a value is given.
pub(super) fn print_part(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    part: Option<&Part>,
) -> fmt::Result {
    part.iter().try_for_each(|part| write!(f, ":{key}={}", escaped(&part.text)))
}
