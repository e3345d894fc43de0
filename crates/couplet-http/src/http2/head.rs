//! [`HeadBuilder`]: the field block of a request, or its trailers. RFC 9113, 8.1 to 8.3.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use hyper::ext::Protocol;

use super::hpack::{Field, Pseudo};

/// Why a request is malformed; its stream is reset with PROTOCOL_ERROR.
pub(super) type Malformed = &'static str;

/// Collects the fields of a block.
#[derive(Default)]
pub(super) struct HeadBuilder {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    protocol: Option<Bytes>,
    headers: HeaderMap,
    /// The declared length of the body.
    length: Option<u64>,
    /// Length of the list, in bytes: RFC 9113, 6.5.2.
    size: usize,
    malformed: Option<Malformed>,
}

/// A complete head of a request.
pub(super) struct RequestHead {
    pub(super) request: Request<()>,
    /// The declared length of the body.
    pub(super) length: Option<u64>,
}

impl HeadBuilder {
    /// Length of the list, in bytes: RFC 9113, 6.5.2.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Adds a field, unless the list exceeds `max_size` with it.
    pub(super) fn add(&mut self, field: &Field, max_size: usize) {
        self.size += field.size();
        if self.size > max_size || self.malformed.is_some() {
            return;
        }
        let added = match field {
            Field::Pseudo(name, value) => self.add_pseudo(*name, value),
            Field::Regular(name, value) => self.add_header(name, value),
            Field::Invalid { .. } => Err("an invalid field"),
        };
        self.malformed = added.err();
    }

    fn add_pseudo(&mut self, name: Pseudo, value: &Bytes) -> Result<(), Malformed> {
        if !self.headers.is_empty() {
            return Err("a pseudo-header after a header");
        }
        let place = match name {
            Pseudo::Method => &mut self.method,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Path => &mut self.path,
            Pseudo::Protocol => &mut self.protocol,
            Pseudo::Status => return Err("a status in a request"),
        };
        match place.replace(value.clone()) {
            None => Ok(()),
            Some(_) => Err("a pseudo-header that occurs twice"),
        }
    }

    fn add_header(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
        if is_of_connection(name) {
            return Err("a header of the connection");
        }
        if name == header::TE && value != "trailers" {
            return Err("a TE other than trailers");
        }
        if name == header::CONTENT_LENGTH {
            let length = parse_length(value).ok_or("an invalid Content-Length")?;
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err("Content-Lengths that differ");
            }
        }
        self.headers.append(name, value.clone());
        Ok(())
    }

    /// Creates the request.
    pub(super) fn into_request(self) -> Result<RequestHead, Malformed> {
        if let Some(why) = self.malformed {
            return Err(why);
        }
        let method = self.method.ok_or("a request without a method")?;
        let method = Method::from_bytes(&method).map_err(|_| "an invalid method")?;
        let is_tunnel = method == Method::CONNECT && self.protocol.is_none();
        if self.protocol.is_some() && method != Method::CONNECT {
            return Err("a protocol without CONNECT");
        }
        // RFC 8441, 4.
        if self.protocol.is_some() && self.authority.is_none() {
            return Err("a protocol without an authority");
        }
        if is_tunnel && (self.scheme.is_some() || self.path.is_some()) {
            return Err("a CONNECT with a scheme or a path");
        }
        if !is_tunnel && (self.scheme.is_none() || self.path.is_none()) {
            return Err("a request without a scheme or a path");
        }
        let mut request = Request::new(());
        *request.uri_mut() = uri(self.scheme, self.authority, self.path)?;
        if let Some(protocol) = &self.protocol {
            let name = std::str::from_utf8(protocol).map_err(|_| "an invalid protocol")?;
            request.extensions_mut().insert(Protocol::from(name));
        }
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        Ok(RequestHead { request, length: self.length })
    }

    /// Returns the trailers.
    pub(super) fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        let HeadBuilder { method, scheme, authority, path, protocol, .. } = &self;
        if [method, scheme, authority, path, protocol].into_iter().any(Option::is_some) {
            return Err("a pseudo-header in trailers");
        }
        self.malformed.map_or(Ok(self.headers), Err)
    }
}

fn uri(
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
) -> Result<Uri, Malformed> {
    let mut parts = http::uri::Parts::default();
    if let Some(authority) = authority {
        let authority = Authority::from_maybe_shared(authority);
        parts.authority = Some(authority.map_err(|_| "an invalid authority")?);
    }
    if let Some(scheme) = scheme {
        let scheme = match &scheme[..] {
            b"http" => Scheme::HTTP,
            b"https" => Scheme::HTTPS,
            other => Scheme::try_from(other).map_err(|_| "an invalid scheme")?,
        };
        // A URI has a scheme only with an authority.
        parts.scheme = parts.authority.is_some().then_some(scheme);
    }
    if let Some(path) = path {
        if path.is_empty() {
            return Err("an empty path");
        }
        // A parser of URIs would drop the rest. RFC 9113, 8.3.1.
        if path.contains(&b'#') {
            return Err("a path with a fragment");
        }
        let path = PathAndQuery::from_maybe_shared(path);
        parts.path_and_query = Some(path.map_err(|_| "an invalid path")?);
    }
    Uri::from_parts(parts).map_err(|_| "an invalid target")
}

/// Whether HTTP/2 forbids the field, because it describes a connection of HTTP/1.1: RFC 9113,
/// 8.2.2.
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    match name.as_str().len() {
        7 => name == header::UPGRADE,
        10 => name == header::CONNECTION || name == "keep-alive",
        16 => name == "proxy-connection",
        17 => name == header::TRANSFER_ENCODING,
        _ => false,
    }
}

fn parse_length(value: &HeaderValue) -> Option<u64> {
    let text = value.to_str().ok()?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pseudo(name: Pseudo, value: &'static str) -> Field {
        Field::Pseudo(name, Bytes::from_static(value.as_bytes()))
    }

    fn regular(name: &'static str, value: &'static str) -> Field {
        Field::Regular(HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    fn built(fields: &[Field]) -> HeadBuilder {
        let mut builder = HeadBuilder::default();
        fields.iter().for_each(|field| builder.add(field, 10_000));
        builder
    }

    const GET: fn() -> Vec<Field> = || {
        vec![
            pseudo(Pseudo::Method, "GET"),
            pseudo(Pseudo::Scheme, "https"),
            pseudo(Pseudo::Authority, "a:1"),
            pseudo(Pseudo::Path, "/b?c"),
        ]
    };

    #[test]
    fn fields_make_a_request() {
        let head = built(&[GET(), vec![regular("content-length", "12")]].concat());
        let head = head.into_request().expect("it is well-formed");
        assert_eq!(head.request.uri(), "https://a:1/b?c");
        assert_eq!((head.request.method(), head.length), (&Method::GET, Some(12)));
        assert_eq!(head.request.version(), Version::HTTP_2);
    }

    #[test]
    fn each_fault_makes_a_request_malformed() {
        let with = |field| [GET(), vec![field]].concat();
        let mut after = GET();
        after.insert(3, regular("a", "b"));
        for fields in [
            GET()[1..].to_vec(),
            GET()[..3].to_vec(),
            after,
            with(pseudo(Pseudo::Path, "/")),
            with(pseudo(Pseudo::Status, "200")),
            with(pseudo(Pseudo::Protocol, "websocket")),
            with(regular("connection", "close")),
            with(regular("keep-alive", "1")),
            with(regular("proxy-connection", "close")),
            with(regular("transfer-encoding", "chunked")),
            with(regular("upgrade", "a")),
            with(regular("te", "gzip")),
            with(regular("content-length", "+1")),
            with(regular("content-length", "")),
            with(Field::Invalid { name_length: 1, value_length: 1 }),
        ] {
            assert!(built(&fields).into_request().is_err(), "{fields:?}");
        }
        for path in ["/a#b", "/#", "#", "/a?b#c", "/a%23#b"] {
            let mut fields = GET();
            fields[3] = pseudo(Pseudo::Path, path);
            assert!(built(&fields).into_request().is_err(), "{path}");
        }
        let mut connect = GET();
        connect[0] = pseudo(Pseudo::Method, "CONNECT");
        connect.push(pseudo(Pseudo::Protocol, "websocket"));
        assert!(built(&connect).into_request().is_ok());
        connect.remove(2);
        connect.push(regular("host", "a:1"));
        assert!(built(&connect).into_request().is_err(), "an extended CONNECT needs :authority");
        let lengths = [regular("content-length", "1"), regular("content-length", "2")];
        assert!(built(&[GET(), lengths.to_vec()].concat()).into_request().is_err());
        assert!(built(&GET()).into_trailers().is_err());
        assert_eq!(built(&[regular("a", "b")]).into_trailers().map(|it| it.len()), Ok(1));
    }

    #[test]
    fn a_list_beyond_its_size_is_counted_and_not_kept() {
        let mut builder = HeadBuilder::default();
        for _ in 0..10 {
            builder.add(&regular("a", "b"), 100);
        }
        assert_eq!((builder.size(), builder.headers.len()), (340, 2));
    }
}
