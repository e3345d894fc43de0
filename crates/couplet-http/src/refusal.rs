//! [`Refusal`]: requests that are framed well, but that RFC 9112 or RFC 9113 forbids a server to
//! process.
//!
//! Contract: 172, 173.

use std::net::Ipv6Addr;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Uri};
use http::{Method, Request, StatusCode, Version};
use hyper::ext::Protocol;

/// Why a request is refused, and the status of the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: &'static str,
}

const fn bad_request(why: &'static str) -> Option<Refusal> {
    Some(Refusal { status: StatusCode::BAD_REQUEST, why })
}

impl Refusal {
    pub(super) fn check<B>(
        request: &Request<B>,
        fields: &Fields,
        max_headers: usize,
    ) -> Option<Refusal> {
        let refusal = check_host(fields, request.version() == Version::HTTP_11);
        if refusal.is_some() {
            return refusal;
        }
        // RFC 8441, 4: CONNECT with a protocol has an ordinary target.
        let is_tunnel =
            request.method() == Method::CONNECT && request.extensions().get::<Protocol>().is_none();
        let check_target = if is_tunnel { check_tunnel } else { check_target };
        check_target(request.method(), request.uri()).or_else(|| match request.version() {
            Version::HTTP_2 => check_fields(fields, request.headers(), request.uri())
                .or_else(|| check_header_count(fields, request.headers(), max_headers)),
            _ if fields.has_coding => check_coding(request.headers()),
            _ => None,
        })
    }
}

/// Header facts that every request is checked for.
#[derive(Default)]
pub(super) struct Fields {
    host: HostHeader,
    /// A Transfer-Encoding is present.
    pub(super) has_coding: bool,
    /// Number of Cookie headers.
    cookies: usize,
}

#[derive(Default, PartialEq, Eq)]
enum HostHeader {
    #[default]
    Missing,
    Valid,
    Invalid,
    Several,
}

impl Fields {
    pub(super) fn from_headers(headers: &HeaderMap) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in headers {
            if name == header::HOST {
                fields.host = match fields.host {
                    HostHeader::Missing if is_host(value.as_bytes()) => HostHeader::Valid,
                    HostHeader::Missing => HostHeader::Invalid,
                    _ => HostHeader::Several,
                };
            } else if name == header::TRANSFER_ENCODING {
                fields.has_coding = true;
            } else if name == header::COOKIE {
                fields.cookies += 1;
            }
        }
        fields
    }
}

/// RFC 9112, 3.2: at most one Host, which must be valid; HTTP/1.1 requires exactly one.
fn check_host(fields: &Fields, is_needed: bool) -> Option<Refusal> {
    match fields.host {
        HostHeader::Missing if is_needed => bad_request("the Host header is missing"),
        HostHeader::Missing | HostHeader::Valid => None,
        HostHeader::Invalid => bad_request("the Host header is invalid"),
        HostHeader::Several => bad_request("there are several Host headers"),
    }
}

/// RFC 9112, 3.2.3, and RFC 9113, 8.5: the target is only an authority. RFC 9110, 9.3.6: with a
/// port.
fn check_tunnel(_: &Method, uri: &Uri) -> Option<Refusal> {
    let is_port = |port: http::uri::Port<&str>| port.as_u16() > 0;
    let has_path = uri.path_and_query().is_some();
    match uri.authority() {
        Some(to) if !has_path && is_authority(to) && to.port().is_some_and(is_port) => None,
        _ => bad_request("the target of CONNECT is not a host and a port"),
    }
}

/// RFC 9112, 3.2, and RFC 9113, 8.3.1: a path or an absolute URI; `*` for OPTIONS only. RFC 9110,
/// 4.2.4: no user information.
fn check_target(method: &Method, uri: &Uri) -> Option<Refusal> {
    let scheme = uri.scheme_str().map(str::as_bytes);
    match (uri.authority(), uri.path().as_bytes()) {
        (Some(authority), _) if !is_authority(authority) => {
            bad_request("the target's authority is invalid")
        }
        _ if scheme.is_some_and(|scheme| !scheme.first().is_some_and(u8::is_ascii_alphabetic)) => {
            bad_request("the target's scheme is invalid")
        }
        (_, [b'/', ..]) => None,
        (_, b"*") if method == Method::OPTIONS => None,
        _ => bad_request("the target is not a path"),
    }
}

/// RFC 9113, 8.2.1: no value begins or ends with a space or a tab. 8.3.1: a Host header must equal
/// the authority.
fn check_fields(fields: &Fields, headers: &HeaderMap, uri: &Uri) -> Option<Refusal> {
    let is_spaced =
        |value: &HeaderValue| matches!(value.as_bytes(), [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
    if headers.values().any(is_spaced) {
        return bad_request("a header value begins or ends with a space or a tab");
    }
    if fields.host == HostHeader::Missing {
        return None;
    }
    let (authority, host) = (uri.authority()?, headers.get(header::HOST)?);
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let is_same = |host: Authority| {
        let ports = [&host, authority].map(|of| of.port_u16().unwrap_or(usual));
        host.host().eq_ignore_ascii_case(authority.host()) && ports[0] == ports[1]
    };
    let host = Authority::try_from(host.as_bytes());
    if host.is_ok_and(is_same) {
        None
    } else {
        bad_request("the Host header differs from the authority")
    }
}

/// Applies the header limit of HTTP/1.1. Split cookie headers count as one.
fn check_header_count(fields: &Fields, headers: &HeaderMap, most: usize) -> Option<Refusal> {
    (headers.len() - fields.cookies.saturating_sub(1) > most).then_some(Refusal {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        why: "there are too many headers",
    })
}

/// Whether an authority has a host and no user information.
fn is_authority(authority: &Authority) -> bool {
    let bytes = authority.as_str().as_bytes();
    !matches!(bytes, [] | [b':', ..]) && is_host(bytes)
}

/// RFC 9112, 6.1: `chunked`, once, is the only supported coding.
fn check_coding(headers: &HeaderMap) -> Option<Refusal> {
    (!is_plain_or_chunked(headers)).then_some(Refusal {
        status: StatusCode::NOT_IMPLEMENTED,
        why: "the Transfer-Encoding is not just chunked",
    })
}

/// Whether a message has no transfer coding, or `chunked` once.
pub(crate) fn is_plain_or_chunked(headers: &HeaderMap) -> bool {
    let fields = headers.get_all(header::TRANSFER_ENCODING).iter();
    let codings = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty());
    let is_known = codings.next().is_none_or(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    is_known && codings.next().is_none()
}

/// RFC 9110, 7.2: `uri-host [ ":" port ]`; the host may be empty.
fn is_host(bytes: &[u8]) -> bool {
    let rest = match bytes {
        [b'[', rest @ ..] => match rest.iter().position(|byte| *byte == b']') {
            Some(end) if is_ip_literal(&rest[..end]) => &rest[end + 1..],
            _ => return false,
        },
        _ => skip_name(bytes),
    };
    match rest {
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => rest.is_empty(),
    }
}

/// Skips a `reg-name` or an IPv4 address and returns the remaining bytes: RFC 3986, 3.2.2.
fn skip_name(mut bytes: &[u8]) -> &[u8] {
    loop {
        bytes = match bytes {
            [byte, rest @ ..] if NAME_BYTES[usize::from(*byte)] => rest,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            _ => return bytes,
        }
    }
}

/// Bytes that are `unreserved` or `sub-delims`: RFC 3986, 2.
const NAME_BYTES: [bool; 256] = {
    let mut name = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        name[byte] = matches!(
            byte as u8,
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&'..=b',' | b';' | b'='
        );
        byte += 1;
    }
    name
};

/// Whether this is valid between brackets. Only IPv6 is: no `IPvFuture` has been defined yet.
fn is_ip_literal(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// RFC 9112, 3.2.2: the host of an absolute target replaces the Host header.
pub(super) fn set_host<B>(request: &mut Request<B>) {
    if request.version() >= Version::HTTP_2 || request.method() == Method::CONNECT {
        return;
    }
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// RFC 9113, 8.2.3: joins the cookie headers of HTTP/2 into one for the service.
pub(super) fn join_cookies<B>(request: &mut Request<B>, fields: &Fields) {
    if fields.cookies < 2 || request.version() != Version::HTTP_2 {
        return;
    }
    let cookies = request.headers().get_all(header::COOKIE).iter();
    let cookies: Vec<&[u8]> = cookies.map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        request.headers_mut().insert(header::COOKIE, joined);
    }
}
