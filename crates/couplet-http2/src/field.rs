//! Names and values of fields: which are allowed, and their meaning for the protocol. RFC 9113, 8.2
//! and 8.3.

/// The role of a field, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A field without a meaning here.
    Plain,
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    Host,
    ContentLength,
    Te,
    /// An invalid name, another pseudo-header, or a field of connections: RFC 9113, 8.2.2.
    Malformed,
}

/// Returns the role of a name.
pub(crate) const fn kind(name: &[u8]) -> Kind {
    match name {
        b":method" => Kind::Method,
        b":scheme" => Kind::Scheme,
        b":authority" => Kind::Authority,
        b":path" => Kind::Path,
        b":protocol" => Kind::Protocol,
        b":status" => Kind::Status,
        b"host" => Kind::Host,
        b"content-length" => Kind::ContentLength,
        b"te" => Kind::Te,
        b"" => Kind::Malformed,
        _ if is_of_connection(name) => Kind::Malformed,
        _ => {
            let mut at = 0;
            while at < name.len() {
                if CLASSES[name[at] as usize] & NAME == 0 {
                    return Kind::Malformed;
                }
                at += 1;
            }
            Kind::Plain
        }
    }
}

/// Whether HTTP/2 forbids the field, because it describes a connection of HTTP/1.1: RFC 9113,
/// 8.2.2.
pub(crate) const fn is_of_connection(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade"
    )
}

/// Whether a client leaves a field out, because the request line replaces it, or because only
/// `trailers` is allowed: RFC 9113, 8.2.2 and 8.3.1.
pub(crate) fn is_of_line(name: &[u8], value: &[u8]) -> bool {
    let is_te = name.eq_ignore_ascii_case(b"te");
    name.eq_ignore_ascii_case(b"host") || (is_te && !is_valid(Kind::Te, value))
}

/// The bit of bytes in names: tokens without upper case.
const NAME: u8 = 1;
/// The bit of bytes in methods: tokens.
const TOKEN: u8 = 2;
/// The bit of bytes in schemes: RFC 3986, 3.1.
const SCHEME: u8 = 4;
/// The bit of bytes in paths: visible ones, and those beyond ASCII.
const PATH: u8 = 8;
/// The bit of bytes in hosts and their ports: RFC 3986, 3.2.2.
const AUTHORITY: u8 = 16;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < classes.len() {
        let byte = at as u8;
        let is_token = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        if is_token {
            classes[at] |= TOKEN;
            if !byte.is_ascii_uppercase() {
                classes[at] |= NAME;
            }
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.') {
            classes[at] |= SCHEME;
        }
        if byte > b' ' && byte != b'#' && byte != 0x7f {
            classes[at] |= PATH;
        }
        let is_delimiter = matches!(byte, b'(' | b')' | b',' | b':' | b';' | b'=' | b'[' | b']');
        let is_unsafe = matches!(byte, b'#' | b'^' | b'`' | b'|');
        if (is_token && !is_unsafe) || is_delimiter {
            classes[at] |= AUTHORITY;
        }
        at += 1;
    }
    classes
};

fn all(bytes: &[u8], class: u8) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| CLASSES[usize::from(byte)] & class != 0)
}

/// Whether a value is allowed for a name of this kind.
pub(crate) fn is_valid(kind: Kind, value: &[u8]) -> bool {
    match kind {
        Kind::Plain => is_value(value),
        Kind::Method | Kind::Protocol => all(value, TOKEN),
        Kind::Scheme => value.first().is_some_and(u8::is_ascii_alphabetic) && all(value, SCHEME),
        Kind::Authority => all(value, AUTHORITY),
        Kind::Path => all(value, PATH) && (value.starts_with(b"/") || value == b"*"),
        Kind::Status => status(value).is_some(),
        Kind::Host => value.is_empty() || all(value, AUTHORITY),
        Kind::ContentLength => length(value).is_some(),
        Kind::Te => value.eq_ignore_ascii_case(b"trailers"),
        Kind::Malformed => false,
    }
}

/// Reads a status: RFC 9110, 15.
pub(crate) fn status(value: &[u8]) -> Option<u16> {
    let status = length(value).filter(|status| (100..=999).contains(status) && value.len() == 3);
    status.and_then(|status| u16::try_from(status).ok())
}

/// Reads a Content-Length.
pub(crate) fn length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a host is the one of an authority, apart from case and the scheme's port: RFC 9113,
/// 8.3.1.
pub(crate) fn is_same_host(host: &[u8], authority: &[u8], scheme: &[u8]) -> bool {
    let port: &[u8] = if scheme == b"https" { b":443" } else { b":80" };
    let [host, authority] =
        [host, authority].map(|whole| whole.strip_suffix(port).unwrap_or(whole));
    host.eq_ignore_ascii_case(authority)
}

/// Whether an authority ends with a port: CONNECT needs one. RFC 9113, 8.5.
pub(crate) fn has_port(authority: &[u8]) -> bool {
    let digits = authority.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = authority.get(..authority.len() - digits);
    digits > 0 && rest.is_some_and(|host| host.len() > 1 && host.ends_with(b":"))
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Whether a value is free of control bytes and of space around it: RFC 9113, 8.2.1.
fn is_value(value: &[u8]) -> bool {
    let has_space = |end: Option<&u8>| end.is_some_and(|&byte| is_space(byte));
    !has_space(value.first()) && !has_space(value.last()) && is_text(value)
}

/// Whether no byte could end a line: without a branch for each byte.
fn is_text(value: &[u8]) -> bool {
    !value
        .iter()
        .fold(false, |found, &byte| found | (byte == 0) | (byte == b'\n') | (byte == b'\r'))
}

/// Puts a name into `lower` in lower case, and returns whether it is valid.
pub(crate) fn lower_case(name: &[u8], lower: &mut Vec<u8>) -> bool {
    lower.clear();
    lower.extend_from_slice(name);
    lower.make_ascii_lowercase();
    all(lower, NAME)
}

/// Removes the space around a value; `None` for an invalid one.
pub(crate) fn trimmed(value: &[u8]) -> Option<&[u8]> {
    let begin = value.iter().position(|&byte| !is_space(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|&byte| !is_space(byte)).map_or(begin, |last| last + 1);
    value.get(begin..end).filter(|value| is_text(value))
}
