//! The grammar common to all endpoint strings: kind, parts, keywords, escapes, and errors that show
//! their position.

use std::fmt;
use std::time::Duration;

use crate::defer::Result;

/// An invalid endpoint string. It displays the string with a caret under the error and, if there is
/// one, a suggested correction.
///
/// ```
/// use couplet::endpoints::ClientEndpoint;
///
/// let error = "localhost:http".parse::<ClientEndpoint>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "expected a port number from 1 to 65535\n\
///      \x20   localhost:http\n\
///      \x20             ^"
/// );
/// let error = "::1:8000".parse::<ClientEndpoint>().unwrap_err();
/// assert_eq!(error.hint(), Some("[::1]:8000"));
/// assert!(error.to_string().ends_with("\n  did you mean [::1]:8000?"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    problem: String,
    text: String,
    /// Byte offset of the error.
    at: usize,
    hint: Option<String>,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndpointError { problem, text, at, hint } = self;
        let indent = text[..*at].chars().count();
        write!(f, "{problem}\n    {text}\n    {:indent$}^", "")?;
        hint.iter().try_for_each(|hint| write!(f, "\n  did you mean {hint}?"))
    }
}

impl std::error::Error for EndpointError {}

impl EndpointError {
    fn new(text: &str, at: usize, problem: impl Into<String>) -> EndpointError {
        // Control characters would move the caret, or worse.
        let shown = text.replace(char::is_control, "?");
        let same = shown.len() == text.len() && text.is_char_boundary(at);
        EndpointError {
            problem: problem.into(),
            text: shown,
            at: if same { at } else { 0 },
            hint: None,
        }
    }

    /// Adds a suggested correction of `text`: the first candidate that `parses`.
    pub(super) fn with_hint(mut self, text: &str, parses: impl Fn(&str) -> bool) -> EndpointError {
        let likely = [bracketed(text), lower_case(text), file(text), of_url(text), local(text)];
        let mut likely = likely.into_iter().flatten();
        self.hint = likely.find(|hint| !hint.contains(char::is_control) && parses(hint));
        self
    }

    /// A one-line description of the problem.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// The position of the error: a byte offset into the string, at most its length.
    ///
    /// ```
    /// let error = "tcp:localhost:http".parse::<couplet::endpoints::ClientEndpoint>().unwrap_err();
    /// assert_eq!(error.at(), 14);
    /// ```
    pub fn at(&self) -> usize {
        self.at
    }

    /// The suggested correction, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// An IPv6 address without brackets: `::1:8000`, `tcp:8000:interface=::1`.
fn bracketed(text: &str) -> Option<String> {
    let is_ip = |ip: &str| ip.contains("::") || ip.matches(':').count() == 7;
    if let Some((before, ip)) = text.rsplit_once('=') {
        return is_ip(ip).then(|| format!("{before}=[{ip}]"));
    }
    let (kind, rest) = match text.strip_prefix("tcp:") {
        Some(rest) => ("tcp:", rest),
        None => ("", text),
    };
    let (ip, port) = rest.rsplit_once(':')?;
    is_ip(ip).then(|| format!("{kind}[{ip}]:{port}"))
}

/// A kind in upper case.
fn lower_case(text: &str) -> Option<String> {
    let (kind, rest) = text.split_once(':')?;
    let (kind, _) = KINDS.iter().find(|(known, _)| kind.eq_ignore_ascii_case(known))?;
    Some(format!("{kind}:{rest}"))
}

/// The path of a UNIX socket.
fn file(text: &str) -> Option<String> {
    text.starts_with(['/', '.']).then(|| format!("unix:{text}"))
}

/// The host and port of a URL.
fn of_url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    rest.split('/').next().map(str::to_owned)
}

/// A client endpoint without a host: the port on this machine.
fn local(text: &str) -> Option<String> {
    let port = text.strip_prefix("tcp").unwrap_or(text).trim_start_matches(':');
    text.contains(':').then(|| format!("localhost:{port}"))
}

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

/// One value and its position.
#[derive(Clone)]
pub(super) struct Part {
    key: Option<String>,
    pub(super) text: String,
    pub(super) bracketed: bool,
    /// Where the part begins, including its key.
    start: usize,
    /// Where its value begins.
    at: usize,
    whole: String,
}

impl Part {
    pub(super) fn error(&self, problem: impl Into<String>) -> EndpointError {
        EndpointError::new(&self.whole, self.at, problem)
    }

    pub(super) fn number(&self, what: &str, least: u64, most: u64) -> Result<u64, EndpointError> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|b| b.is_ascii_digit());
        match self.text.parse::<u64>() {
            Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
            _ => Err(self.error(format!("expected {what} from {least} to {most}"))),
        }
    }

    /// How many connections may wait to be accepted.
    pub(super) fn backlog(&self) -> Result<u32, EndpointError> {
        Ok(self.number("a number of connections", 1, u32::MAX.into())? as u32)
    }

    /// A time greater than 0.
    pub(super) fn seconds(&self) -> Result<Duration, EndpointError> {
        let time = Seconds::read(&self.text).filter(|time| !time.is_zero());
        time.ok_or_else(|| {
            let most = u64::MAX;
            self.error(format!("expected a number of seconds from 0.000000001 to {most}"))
        })
    }

    /// Whether it was written as `key=value`.
    pub(super) fn is_named(&self) -> bool {
        self.key.is_some()
    }

    fn yes_or_no(&self) -> Result<bool, EndpointError> {
        match self.text.as_str() {
            "yes" | "true" | "1" => Ok(true),
            "no" | "false" | "0" => Ok(false),
            _ => Err(self.error("expected yes or no")),
        }
    }
}

/// The kind of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Unix,
    /// TLS over another endpoint, over TCP if it has no kind.
    #[cfg(any(feature = "tls", feature = "ring"))]
    Tls,
    /// No kind given: TCP, but a port alone is local.
    Short,
}

const KINDS: &[(&str, Kind)] = &[
    ("tcp", Kind::Tcp),
    ("unix", Kind::Unix),
    #[cfg(any(feature = "tls", feature = "ring"))]
    ("tls", Kind::Tls),
    #[cfg(any(feature = "tls", feature = "ring"))]
    ("ssl", Kind::Tls),
];

/// Reserved kinds. A host with such a name must be preceded by `tcp:`, as in `tcp:tls:443`.
const OTHER_KINDS: [&str; 8] = ["tcp4", "tcp6", "udp", "tls", "ssl", "fd", "stdio", "systemd"];

impl Kind {
    /// The form of an endpoint of this kind, for error messages.
    pub(super) fn form(self, rest: &str) -> String {
        match self {
            Kind::Tcp => format!("tcp:{rest}"),
            Kind::Unix => format!("unix:{rest}"),
            #[cfg(any(feature = "tls", feature = "ring"))]
            Kind::Tls => format!("tls:{rest}"),
            Kind::Short => rest.to_owned(),
        }
    }
}

/// The parts of an endpoint string that have not been consumed yet.
pub(super) struct Parts {
    text: String,
    parts: Vec<Part>,
}

impl Parts {
    pub(super) fn new(text: &str) -> Result<Parts, EndpointError> {
        let mut parts = vec![Part::empty(text, 0)];
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
                ':' if depth == 0 => parts.push(Part::empty(text, at + 1)),
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
            _ => Ok(Parts { text: text.to_owned(), parts }),
        }
    }

    /// The place of the whole string, for errors about no part of it.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) fn whole(&self) -> Part {
        Part::empty(&self.text, 0)
    }

    /// Whether the next part is the kind of another endpoint.
    #[cfg(any(feature = "tls", feature = "ring"))]
    pub(super) fn has_kind(&self) -> bool {
        let first = self.parts.first().filter(|first| !first.is_named() && !first.bracketed);
        first.is_some_and(|first| KINDS.iter().any(|(name, _)| *name == first.text))
    }

    /// Takes the kind: the first part, unless that is a host or a port.
    pub(super) fn take_kind(&mut self, to: &str) -> Result<Kind, EndpointError> {
        let Some(first) = self.parts.first() else { return Ok(Kind::Short) };
        if first.is_named() || first.bracketed {
            return Ok(Kind::Short);
        }
        if let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == first.text) {
            self.parts.remove(0);
            return Ok(*kind);
        }
        let kind = first.text.to_ascii_lowercase();
        let what = match &*kind {
            kind if KINDS.iter().any(|(known, _)| *known == kind) => {
                "tcp:, unix: or tls:, in lower case"
            }
            kind if OTHER_KINDS.contains(&kind) => "tcp:, unix:, tls: or a host",
            _ => return Ok(Kind::Short),
        };
        Err(first.error(format!("an endpoint to {to} starts with {what}")))
    }

    /// The host, if given, and the port: by keyword, otherwise by position.
    pub(super) fn host_and_port(
        &mut self,
        form: &str,
    ) -> Result<(Option<Part>, Part), EndpointError> {
        let (host, port) = (self.keyword("host"), self.keyword("port"));
        if let Some(port) = port {
            return Ok((host.or_else(|| self.unnamed()), port));
        }
        let first = self.unnamed().ok_or_else(|| self.missing("port", form))?;
        if host.is_some() {
            return Ok((host, first));
        }
        Ok(match self.unnamed() {
            Some(port) => (Some(first), port),
            None => (None, first),
        })
    }

    /// Takes the next part without a key.
    pub(super) fn unnamed(&mut self) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.is_none())?;
        Some(self.parts.remove(at))
    }

    /// The error for a part that `form` requires.
    pub(super) fn missing(&self, what: &str, form: &str) -> EndpointError {
        let problem = format!("missing {what}: expected {form}");
        EndpointError::new(&self.text, self.text.len(), problem)
    }

    /// Reads `key=yes|no` into `on`, if given.
    pub(super) fn set(&mut self, key: &str, on: &mut bool) -> Result<(), EndpointError> {
        if let Some(part) = self.keyword(key) {
            *on = part.yes_or_no()?;
        }
        Ok(())
    }

    /// Takes the value of `key`, if given.
    pub(super) fn keyword(&mut self, key: &str) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.as_deref() == Some(key))?;
        Some(self.parts.remove(at))
    }

    /// Checks that no parts are left.
    pub(super) fn expect_end(&self, known: &str) -> Result<(), EndpointError> {
        match self.parts.first() {
            None => Ok(()),
            Some(part) => Err(match &part.key {
                Some(key) => EndpointError::new(
                    &self.text,
                    part.start,
                    format!(
                        "unknown or repeated keyword {}=; known keywords are {known}",
                        key.replace(char::is_control, "?")
                    ),
                ),
                None => part.error("expected nothing more"),
            }),
        }
    }
}

/// Only its value: equal endpoints look equal, wherever their parts were.
impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl Part {
    fn empty(whole: &str, at: usize) -> Part {
        let whole = whole.to_owned();
        Part { key: None, text: String::new(), bracketed: false, start: at, at, whole }
    }
}

/// A time in seconds, printed with every digit needed to read it back.
pub(super) struct Seconds(pub(super) Duration);

impl Seconds {
    /// Exact for plain decimals; anything else goes through `f64`.
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
        write!(f, "{}", self.0.as_secs())?;
        match self.0.subsec_nanos() {
            0 => Ok(()),
            nanos => write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0')),
        }
    }
}
