//! URLs as people and servers write them: beyond ASCII. RFC 3987, 3.1, in the form that curl sends.
//!
//! Contract: 144a, 176c.

use std::str;

use couplet_core::hooks::ascii_host;
use http::Uri;

/// Parses a URL, or a reference to be resolved, which may have any characters: its host is converted
/// as for a lookup (IDNA), the rest is percent-encoded, and the fragment is dropped. `None` if the
/// result is no URL.
///
/// ```
/// use couplet::http::parse_url;
///
/// let url = parse_url("http://localhost/größe?ä b#top").expect("a URL");
/// assert_eq!(url, "http://localhost/gr%c3%b6%c3%9fe?%c3%a4+b");
/// ```
pub fn parse_url(text: impl AsRef<[u8]>) -> Option<Uri> {
    encode(text.as_ref())?.parse().ok()
}

/// Encodes a URL or a reference, without its fragment. `None` if its host is not a name.
pub(crate) fn encode(text: &[u8]) -> Option<String> {
    let text = text.split(|byte| *byte == b'#').next().unwrap_or_default();
    let Some(start) = start_of_authority(text) else { return Some(encoded(text)) };
    let (before, rest) = text.split_at(start);
    let end = rest.iter().position(|byte| b"/?".contains(byte)).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    Some(format!("{}{}{}", encoded(before), ascii_authority(authority)?, encoded(rest)))
}

/// The offset behind `//`, at the beginning or behind a scheme.
fn start_of_authority(text: &[u8]) -> Option<usize> {
    if text.starts_with(b"//") {
        return Some(2);
    }
    let at = text.windows(3).position(|three| three == b"://")?;
    let is_scheme =
        text[..at].iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    is_scheme.then_some(at + 3)
}

/// The authority with a host in ASCII.
fn ascii_authority(authority: &[u8]) -> Option<String> {
    let authority = str::from_utf8(authority).ok()?;
    if authority.is_ascii() {
        return Some(authority.to_owned());
    }
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (encoded(user.as_bytes()) + "@", place),
        None => (String::new(), authority),
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, format!(":{port}")),
        None => (place, String::new()),
    };
    Some(format!("{user}{}{port}", ascii_host(host)?))
}

/// Encodes all but visible ASCII. A space is `%20`, and `+` in the query.
fn encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_query = false;
    for byte in text {
        is_query |= *byte == b'?';
        match byte {
            b' ' if is_query => out.push('+'),
            0x21..=0x7E => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// Returns the port of a URL, or `usual` if the URL names none; `None` if the port is not a number
/// from 1 to 65535. The `http` crate ignores such a port.
pub(crate) fn port_of(uri: &Uri, usual: u16) -> Option<u16> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let rest = host_and_port.rsplit_once(']').map_or(host_and_port, |(_, rest)| rest);
    match rest.split_once(':') {
        None | Some((_, "")) => Some(usual),
        Some((_, port)) if port.starts_with('+') => None,
        Some((_, port)) => port.parse().ok().filter(|&port| port > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_beyond_ascii_is_encoded_as_curl_does() {
        for (text, meant) in [
            ("http://a/b?c", "http://a/b?c"),
            ("http://a/ä", "http://a/%c3%a4"),
            ("http://a/%41ä%", "http://a/%41%c3%a4%"),
            ("http://a/ü x?q=ö y", "http://a/%c3%bc%20x?q=%c3%b6+y"),
            ("http://a/b#ä", "http://a/b"),
            ("http://a?ä", "http://a?%c3%a4"),
            ("//a/ä", "//a/%c3%a4"),
            ("ä/b", "%c3%a4/b"),
            ("?u=http://ä/", "?u=http://%c3%a4/"),
            ("http://u:p@[::1]:80/ä", "http://u:p@[::1]:80/%c3%a4"),
            ("http://a/\r\n\0\x7f", "http://a/%0d%0a%00%7f"),
        ] {
            assert_eq!(encode(text.as_bytes()).as_deref(), Some(meant), "{text:?}");
        }
        // Bytes that are no text.
        assert_eq!(encode(b"/\xe9\xff").as_deref(), Some("/%e9%ff"));
        assert_eq!(encode(b"http://\xff/"), None);
    }

    #[test]
    #[cfg(feature = "idna")]
    fn a_host_beyond_ascii_is_converted() {
        for (text, meant) in [
            ("http://bücher.test:80/ä", "http://xn--bcher-kva.test:80/%c3%a4"),
            ("http://BÜCHER.test", "http://xn--bcher-kva.test"),
            ("//ö@straße.test", "//%c3%b6@xn--strae-oqa.test"),
            ("http://例え。テスト/", "http://xn--r8jz45g.xn--zckzah/"),
        ] {
            assert_eq!(encode(text.as_bytes()).as_deref(), Some(meant), "{text}");
        }
        assert_eq!(encode("http://\u{fffd}/".as_bytes()), None);
    }
}
