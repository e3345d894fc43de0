//! Encodes responses, without state.

use couplet_http2::hpack;
use http::{HeaderName, HeaderValue, StatusCode};

/// Index of `content-length` in the static table.
const CONTENT_LENGTH: usize = 28;

/// Number of digits of the longest length.
const MAX_DIGITS: usize = 20;

/// Appends the change of the dynamic table's size to 0, with which a connection's first block must
/// begin: RFC 7541, 4.2.
pub(in crate::http2) fn encode_no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

/// Appends the status of a response.
pub(in crate::http2) fn encode_status(out: &mut Vec<u8>, status: StatusCode) {
    hpack::status(out, status.as_u16());
}

/// Appends a field, as a literal that no table keeps: RFC 7541, 6.2.2, or 6.2.3 for a sensitive one.
pub(in crate::http2) fn encode_field(out: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let kind = if value.is_sensitive() { 0x10 } else { 0 };
    let name = name.as_str();
    match static_index(name) {
        Some(index) => hpack::integer(out, kind, 4, index),
        None => {
            out.push(kind);
            encode_string(out, name.as_bytes());
        }
    }
    encode_string(out, value.as_bytes());
}

/// Appends a Content-Length.
pub(in crate::http2) fn encode_length(out: &mut Vec<u8>, length: u64) {
    let mut digits = [0; MAX_DIGITS];
    let (mut begin, mut rest) = (MAX_DIGITS, length);
    loop {
        begin -= 1;
        digits[begin] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    hpack::integer(out, 0, 4, CONTENT_LENGTH);
    encode_string(out, &digits[begin..]);
}

fn encode_string(out: &mut Vec<u8>, bytes: &[u8]) {
    hpack::integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// Returns the index of a name in the static table: RFC 7541, Appendix A. Names that only requests
/// have are left out.
fn static_index(name: &str) -> Option<usize> {
    Some(match name {
        "accept-ranges" => 18,
        "access-control-allow-origin" => 20,
        "age" => 21,
        "allow" => 22,
        "cache-control" => 24,
        "content-disposition" => 25,
        "content-encoding" => 26,
        "content-language" => 27,
        "content-length" => CONTENT_LENGTH,
        "content-location" => 29,
        "content-range" => 30,
        "content-type" => 31,
        "date" => 33,
        "etag" => 34,
        "expires" => 36,
        "last-modified" => 44,
        "link" => 45,
        "location" => 46,
        "proxy-authenticate" => 48,
        "refresh" => 52,
        "retry-after" => 53,
        "server" => 54,
        "set-cookie" => 55,
        "strict-transport-security" => 56,
        "vary" => 59,
        "via" => 60,
        "www-authenticate" => 61,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use couplet_http2::hpack::STATIC;

    use super::*;

    #[test]
    fn a_length_is_encoded_like_its_header() {
        for length in [0, 9, 10, 12_345, u64::MAX] {
            let (mut short, mut long) = (Vec::new(), Vec::new());
            encode_length(&mut short, length);
            encode_field(&mut long, &http::header::CONTENT_LENGTH, &length.into());
            assert_eq!(short, long);
        }
    }

    #[test]
    fn indexes_match_the_static_table() {
        for (n, (name, value)) in STATIC.iter().enumerate() {
            assert!(static_index(name).is_none_or(|index| index == n + 1), "{name}");
            if *name == ":status" {
                let mut out = Vec::new();
                encode_status(&mut out, value.parse().expect("a status"));
                assert_eq!(out, [0x80 | (n as u8 + 1)]);
            }
        }
        let known = STATIC.iter().filter(|(name, _)| static_index(name).is_some()).count();
        assert_eq!(known, 27);
    }
}
