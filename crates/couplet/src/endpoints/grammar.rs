//! The grammar of endpoint strings, whatever they lead to: the kind, parts, keywords, escapes, and
//! errors that show the place.

use std::fmt;
use std::time::Duration;

use crate::defer::Result;

/// A string that is no endpoint. It displays the string with a caret under the error and, if there
/// is one, the likely correction.
///
/// ```
/// use couplet::endpoints::ClientEndpoint;
///
/// let error = "localhost:http".parse::<ClientEndpoint>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "a port, a number from 1 to 65535, is expected here\n\
///      \x20   localhost:http\n\
///      \x20             ^"
/// );
/// let error = "::1:8000".parse::<ClientEndpoint>().unwrap_err();
/// assert_eq!(error.hint(), Some("[::1]:8000"));
/// assert!(error.to_string().ends_with("\n  perhaps [::1]:8000 is meant"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    problem: String,
    text: String,
    /// Byte offset of the place.
    at: usize,
    hint: Option<String>,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndpointError { problem, text, at, hint } = self;
        let indent = text[..*at].chars().count();
        write!(f, "{problem}\n    {text}\n    {:indent$}^", "")?;
        hint.iter().try_for_each(|hint| write!(f, "\n  perhaps {hint} is meant"))
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

    /// Adds the likely correction of `text`: the first candidate that `reads`.
    pub(super) fn with_hint(mut self, text: &str, reads: impl Fn(&str) -> bool) -> EndpointError {
        let likely = [bracketed(text), lower_case(text), of_url(text), local(text)];
        let mut likely = likely.into_iter().flatten();
        self.hint = likely.find(|hint| !hint.contains(char::is_control) && reads(hint));
        self
    }

    /// What is wrong, in one line.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Where it is wrong: a byte offset into the string, at most its length.
    ///
    /// ```
    /// let error = "tcp:localhost:http".parse::<couplet::endpoints::ClientEndpoint>().unwrap_err();
    /// assert_eq!(error.at(), 14);
    /// ```
    pub fn at(&self) -> usize {
        self.at
    }

    /// The likely correction, if there is one.
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

/// A kind in capital letters.
fn lower_case(text: &str) -> Option<String> {
    let (kind, rest) = text.split_once(':')?;
    kind.eq_ignore_ascii_case("tcp").then(|| format!("tcp:{rest}"))
}

/// The host and the port of an URL.
fn of_url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    rest.split('/').next().map(str::to_owned)
}

/// A port of any host, to connect to: that of this machine.
fn local(text: &str) -> Option<String> {
    let port = text.strip_prefix("tcp").unwrap_or(text).trim_start_matches(':');
    text.contains(':').then(|| format!("localhost:{port}"))
}

/// Escapes `:` and `\`, so that the text is one value of an endpoint string. Twisted's
/// `quoteStringArgument`.
///
/// ```
/// assert_eq!(couplet::endpoints::quote(r"C:\poems"), r"C\:\\poems");
/// ```
#[must_use]
pub fn quote(value: &str) -> String {
    value.replace('\\', r"\\").replace(':', r"\:")
}

/// One value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Part {
    key: Option<String>,
    pub(super) text: String,
    pub(super) bracketed: bool,
    /// Where the part begins, with its key.
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
            _ => Err(self.error(format!("{what} from {least} to {most}, is expected here"))),
        }
    }

    /// A time, above 0.
    pub(super) fn seconds(&self) -> Result<Duration, EndpointError> {
        let time = Seconds::read(&self.text).filter(|time| !time.is_zero());
        time.ok_or_else(|| {
            let most = u64::MAX;
            let range = format!("a number of seconds from 0.000000001 to {most}");
            self.error(format!("a time, {range}, is expected here"))
        })
    }

    /// True if it was written as `key=value`.
    pub(super) fn is_named(&self) -> bool {
        self.key.is_some()
    }

    fn yes_or_no(&self) -> Result<bool, EndpointError> {
        match self.text.as_str() {
            "yes" | "true" | "1" => Ok(true),
            "no" | "false" | "0" => Ok(false),
            _ => Err(self.error("yes or no is expected here")),
        }
    }
}

/// What an endpoint leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    /// No kind: TCP as well, where a port alone is local.
    Short,
}

/// Kinds that are reserved. A host of such a name needs `tcp:` before it: `tcp:tls:443`.
const OTHER_KINDS: [&str; 9] =
    ["tcp4", "tcp6", "udp", "tls", "ssl", "unix", "fd", "stdio", "systemd"];

impl Kind {
    /// The form of an endpoint of this kind, for error messages.
    pub(super) fn form(self, rest: &str) -> String {
        match self {
            Kind::Tcp => format!("tcp:{rest}"),
            Kind::Short => rest.to_owned(),
        }
    }
}

/// The parts of an endpoint string that have not been looked at yet.
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
                        return Err(EndpointError::new(
                            text,
                            at,
                            "a backslash escapes nothing here",
                        ));
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
            Some(part) if depth == 1 => {
                Err(part.error("a bracket is opened here and never closed"))
            }
            _ => Ok(Parts { text: text.to_owned(), parts }),
        }
    }

    /// Takes the kind, which is the first part unless that is a host or a port.
    pub(super) fn take_kind(&mut self, to: &str) -> Result<Kind, EndpointError> {
        let first = &self.parts[0];
        if first.is_named() || first.bracketed {
            return Ok(Kind::Short);
        }
        if first.text == "tcp" {
            self.parts.remove(0);
            return Ok(Kind::Tcp);
        }
        let kind = first.text.to_ascii_lowercase();
        let what = match &*kind {
            "tcp" => "tcp: in small letters",
            kind if OTHER_KINDS.contains(&kind) => "tcp: or with a host",
            _ => return Ok(Kind::Short),
        };
        Err(first.error(format!("an endpoint to {to} begins with {what}")))
    }

    /// The host, if given, and the port: by keyword, else by position.
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
    fn unnamed(&mut self) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.is_none())?;
        Some(self.parts.remove(at))
    }

    /// The error for a part that `form` requires.
    pub(super) fn missing(&self, what: &str, form: &str) -> EndpointError {
        let problem = format!("the {what} is missing here: {form}");
        EndpointError::new(&self.text, self.text.len(), problem)
    }

    /// Reads `key=yes|no` into `on`, if given.
    pub(super) fn set(&mut self, key: &str, on: &mut bool) -> Result<(), EndpointError> {
        if let Some(part) = self.keyword(key) {
            *on = part.yes_or_no()?;
        }
        Ok(())
    }

    /// The value of `key`, if it is given.
    pub(super) fn keyword(&mut self, key: &str) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.as_deref() == Some(key))?;
        Some(self.parts.remove(at))
    }

    /// Nothing else may stand there.
    pub(super) fn expect_end(&self, known: &str) -> Result<(), EndpointError> {
        match self.parts.first() {
            None => Ok(()),
            Some(part) => Err(match &part.key {
                Some(key) => EndpointError::new(
                    &self.text,
                    part.start,
                    format!(
                        "{}= is not known here, or stands twice; known are {known}",
                        key.replace(char::is_control, "?")
                    ),
                ),
                None => part.error("nothing more is expected here"),
            }),
        }
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
