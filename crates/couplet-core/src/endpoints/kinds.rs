//! The kinds of endpoints by prefix: programs may register more than the built-in ones. Also
//! suggests corrections for strings with errors.
//!
//! Contract: 145, 145f.

use std::sync::{Arc, PoisonError, RwLock};

use super::grammar::{Part, Parts};
use super::{ClientEndpoint, EndpointError, ServerEndpoint};
use crate::defer::Result;
use crate::driver::ListenOptions;

/// Parses the parts after a kind's prefix.
pub(super) type KindParser<E> =
    Arc<dyn Fn(&mut Parts) -> Result<Arc<E>, EndpointError> + Send + Sync>;

/// The parser of a built-in kind.
type BuiltInParser<E> = fn(&mut Parts) -> Result<Arc<E>, EndpointError>;

/// Further words that are not hosts: a host with such a name needs `tcp:`, as in `tcp:udp:80`.
const RESERVED: [&str; 7] = ["tcp4", "udp", "stdio", "process", "serial", "ssl", "tls"];

/// Maximum length of a prefix, in characters.
const LONGEST: usize = 32;

/// The kinds of endpoints for one direction.
pub(super) struct Kinds<E: ?Sized> {
    rows: RwLock<Vec<(String, KindParser<E>)>>,
}

impl<E: ?Sized> Kinds<E> {
    pub(super) fn new(rows: &[(&str, BuiltInParser<E>)]) -> Kinds<E>
    where
        E: 'static,
    {
        let row = |(name, read): &(&str, BuiltInParser<E>)| {
            let read: KindParser<E> = Arc::new(*read);
            ((*name).to_owned(), read)
        };
        Kinds { rows: RwLock::new(rows.iter().map(row).collect()) }
    }

    /// The parser of the kind with this prefix.
    pub(super) fn find(&self, name: &str) -> Option<KindParser<E>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter().find(|(known, _)| known == name).map(|(_, read)| read.clone())
    }

    pub(super) fn names(&self) -> Vec<String> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter().map(|(name, _)| name.clone()).collect()
    }

    fn add(&self, name: &str, read: KindParser<E>) -> Result<(), RegisterError> {
        let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_+".contains(c);
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !begins || !name.chars().all(is_word) || name.len() > LONGEST {
            return Err(RegisterError::Invalid(name.to_owned()));
        }
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if rows.iter().any(|(known, _)| known == name) {
            return Err(RegisterError::Taken(name.to_owned()));
        }
        rows.push((name.to_owned(), read));
        Ok(())
    }
}

/// The reason why a prefix was not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The prefix is already in use.
    #[error("the endpoint prefix {0}: is already registered")]
    Taken(String),
    /// The prefix is malformed.
    #[error(
        "{0:?} is not a prefix: a prefix has 1 to 32 lower-case ASCII letters, digits, and -, _ or +, \
         beginning with a letter"
    )]
    Invalid(String),
}

/// Registers a kind of endpoint to listen on, for the whole process. Strings that begin with
/// `prefix` and a colon are parsed by `read` wherever an endpoint is expected, also inside
/// wrappers such as `tls:`. Parts that `read` leaves are an error.
///
/// A host with this name then needs the prefix `tcp:`. Twisted's
/// `IStreamServerEndpointStringParser`.
///
/// ```
/// use couplet::endpoints::{Parts, TcpServer, register_server, server_from_string};
///
/// // `web:` is a port of the user's choice: 8080, or the one given by `port=`.
/// register_server("web", |parts: &mut Parts| {
///     let port = match parts.keyword("port") {
///         Some(port) => port.number("a port number", 0, 65_535)? as u16,
///         None => 8080,
///     };
///     Ok(TcpServer::new(([127, 0, 0, 1], port).into()))
/// })?;
/// assert_eq!(server_from_string("web")?.to_string(), "tcp:8080:interface=127.0.0.1");
/// assert!(server_from_string("tls:web:port=8443:cert=site.pem").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// If the prefix is in use, or does not consist of 1 to 32 lower-case ASCII letters, digits, `-`,
/// `_` or `+`, the first a letter.
pub fn register_server<E: ServerEndpoint>(
    prefix: &str,
    read: impl Fn(&mut Parts) -> Result<E, EndpointError> + Send + Sync + 'static,
) -> Result<(), RegisterError> {
    let read = move |parts: &mut Parts| {
        read(parts).map(|endpoint| Arc::new(endpoint) as Arc<dyn ServerEndpoint>)
    };
    <dyn ServerEndpoint>::kinds().add(prefix, Arc::new(read))
}

/// Registers a kind of endpoint to connect to, like [`register_server`]. Twisted's
/// `IStreamClientEndpointStringParserWithReactor`.
///
/// # Errors
///
/// If the prefix is in use, or malformed as for [`register_server`].
pub fn register_client<E: ClientEndpoint>(
    prefix: &str,
    read: impl Fn(&mut Parts) -> Result<E, EndpointError> + Send + Sync + 'static,
) -> Result<(), RegisterError> {
    let read = move |parts: &mut Parts| {
        read(parts).map(|endpoint| Arc::new(endpoint) as Arc<dyn ClientEndpoint>)
    };
    <dyn ClientEndpoint>::kinds().add(prefix, Arc::new(read))
}

/// A direction: the kinds of its endpoints, and its wording in errors.
pub(super) trait Side: 'static {
    /// The verb, as in "an endpoint to listen".
    const VERB: &'static str;
    /// Whether a name may be a host: yes to connect to, no to listen on.
    const CONNECTS: bool;

    /// The other direction, whose kinds are no hosts either.
    type Other: Side + ?Sized;

    fn kinds() -> &'static Kinds<Self>;

    /// Reads an endpoint that begins with no kind.
    fn tcp(parts: &mut Parts) -> Result<Arc<Self>, EndpointError>;

    fn expected_start() -> String {
        let names: Vec<String> = Self::kinds().names().iter().map(|n| format!("{n}:")).collect();
        format!("an endpoint to {} starts with {} or a host", Self::VERB, names.join(", "))
    }

    /// Whether a word cannot be a host without `tcp:`.
    fn is_reserved(word: &str) -> bool {
        let lower = word.to_ascii_lowercase();
        let is_kind = |name: &str| {
            Self::kinds().find(name).is_some() || Self::Other::kinds().find(name).is_some()
        };
        RESERVED.contains(&&*lower) || is_kind(&lower)
    }
}

/// Parses an endpoint string. An error includes the likely correction.
pub(super) fn parse<E: Side + ?Sized>(
    text: &str,
    options: &ListenOptions,
) -> Result<Arc<E>, EndpointError> {
    let mut parts = Parts::new(text, options)?;
    let error = match read(&mut parts) {
        Ok(endpoint) => return Ok(endpoint),
        Err(error) => error,
    };
    if let Some((word, meant)) = parts.with_near_kind::<E>() {
        let may_be_host = E::CONNECTS && !E::is_reserved(&word.text);
        match parse::<E>(&meant, options) {
            Ok(_) => return Err(not_a_kind::<E>(word).with_hint(Some(meant))),
            Err(other) if other.at() > error.at() && !may_be_host => {
                let hint = other.hint().map_or(meant, str::to_owned);
                return Err(not_a_kind::<E>(word).with_hint(Some(hint)));
            }
            Err(_) => {}
        }
    }
    let likely = [
        parts.with_near_keywords(),
        suggest_brackets(text),
        suggest_unix(text),
        suggest_host_of_url(text),
        suggest_localhost(text),
    ];
    let again = |text: &str| read::<E>(&mut Parts::new(text, options)?);
    let hint = likely.into_iter().flatten().find(|hint| again(hint).is_ok());
    Err(error.with_hint(hint))
}

/// Parses a string of the kind `udp:`, which is in neither table because it has no streams.
pub(super) fn parse_datagrams<T>(
    text: &str,
    read: impl Fn(&mut Parts) -> Result<T, EndpointError>,
) -> Result<T, EndpointError> {
    let whole = |parts: &mut Parts| {
        parts.take_only_kind("udp")?;
        let found = read(parts)?;
        parts.finish().map(|()| found)
    };
    let options = ListenOptions::default();
    let mut parts = Parts::new(text, &options)?;
    whole(&mut parts).map_err(|error| {
        let likely = [parts.with_near_keywords(), suggest_brackets(text)];
        let reads =
            |hint: &String| Parts::new(hint, &options).and_then(|mut it| whole(&mut it)).is_ok();
        error.with_hint(likely.into_iter().flatten().find(reads))
    })
}

fn read<E: Side + ?Sized>(parts: &mut Parts) -> Result<Arc<E>, EndpointError> {
    let endpoint = parts.endpoint::<E>()?;
    parts.finish()?;
    Ok(endpoint)
}

fn not_a_kind<E: Side + ?Sized>(word: &Part) -> EndpointError {
    let shown = word.text.replace(char::is_control, "?");
    word.error(format!("there is no {shown}: to {}; {}", E::VERB, E::expected_start()))
}

/// The most similar of the known words, if it is within one edit (two for words of five or more
/// letters): a letter missing, added, changed or swapped with its neighbour. Ignores case.
pub(super) fn nearest_word(word: &str, known: impl IntoIterator<Item = String>) -> Option<String> {
    let most = if word.chars().count() < 5 { 1 } else { 2 };
    let word = word.to_ascii_lowercase();
    let distances =
        known.into_iter().map(|known| (distance(&word, &known.to_ascii_lowercase()), known));
    let nearest = distances.min_by_key(|(distance, _)| *distance)?;
    (nearest.0 <= most).then_some(nearest.1)
}

/// The optimal string alignment distance: insertions, deletions, changes and swaps of neighbours.
/// `usize::MAX` if the lengths differ by more than 2.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Suggests brackets for an IPv6 address: `::1:8000`, `tcp:8000:interface=::1`.
fn suggest_brackets(text: &str) -> Option<String> {
    let is_ip = |ip: &str| ip.contains("::") || ip.matches(':').count() == 7;
    if let Some((before, ip)) = text.rsplit_once('=') {
        return is_ip(ip).then(|| format!("{before}=[{ip}]"));
    }
    let kind = ["tcp:", "udp:"].into_iter().find(|kind| text.starts_with(kind)).unwrap_or("");
    let rest = &text[kind.len()..];
    let (ip, port) = rest.rsplit_once(':')?;
    is_ip(ip).then(|| format!("{kind}[{ip}]:{port}"))
}

/// Suggests `unix:` for a path.
fn suggest_unix(text: &str) -> Option<String> {
    text.starts_with(['/', '.']).then(|| format!("unix:{text}"))
}

/// Suggests the host and port of a URL.
fn suggest_host_of_url(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("://")?;
    rest.split('/').next().map(str::to_owned)
}

/// Suggests this machine for a client endpoint without a host.
fn suggest_localhost(text: &str) -> Option<String> {
    let port = text.strip_prefix("tcp").unwrap_or(text).trim_start_matches(':');
    text.contains(':').then(|| format!("localhost:{port}"))
}
