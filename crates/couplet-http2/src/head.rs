//! [`Head`] and [`Fields`]: a decoded field block, in one allocation; [`RequestLine`]: one to
//! encode. RFC 9113, 8.1 to 8.3.

use std::fmt;

use crate::field::{Kind, has_port, is_same_host, is_valid, length, status};
use crate::hpack::{ENTRY, Encoder};

/// Header fields or trailers, in the order of the block.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// The values of pseudo-headers, then for each field its two lengths, its name and its value.
    text: Box<[u8]>,
    /// Position of the first field.
    begin: usize,
}

impl Fields {
    /// Returns the names, in lower case, and the values.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: self.text.get(self.begin..).unwrap_or_default() }
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Fields {
        let mut text = Vec::new();
        for (name, value) in fields {
            push_field(&mut text, name.as_ref(), value.as_ref());
        }
        Fields { text: text.into(), begin: 0 }
    }
}

fn push_field(text: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    text.extend_from_slice(&(name.len() as u32).to_ne_bytes());
    text.extend_from_slice(&(value.len() as u32).to_ne_bytes());
    text.extend_from_slice(name);
    text.extend_from_slice(value);
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.iter().map(|(name, value)| (Escaped(name), Escaped(value)));
        f.debug_map().entries(texts).finish()
    }
}

/// Bytes that are shown as text.
struct Escaped<'a>(&'a [u8]);

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// The fields of a [`Fields`]: names and values.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.rest.split_first_chunk()?;
        let (value, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u32::from_ne_bytes(*name) as usize)?;
        let (value, rest) = rest.split_at_checked(u32::from_ne_bytes(*value) as usize)?;
        self.rest = rest;
        Some((name, value))
    }
}

/// Position and length of a value in the text.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place(u32, u32);

/// The head of a request: RFC 9113, 8.3.1.
///
/// Every head is valid: it has a method and, unless it is a plain CONNECT, a scheme and a path;
/// names are lower-case tokens, values have no NUL, CR or LF, and no field is about connections.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    fields: Fields,
    method: Place,
    scheme: Option<Place>,
    authority: Option<Place>,
    path: Option<Place>,
    protocol: Option<Place>,
    content_length: Option<u64>,
}

impl Head {
    fn text(&self, place: Place) -> &[u8] {
        part(&self.fields.text, place)
    }

    /// Returns `:method`.
    pub fn method(&self) -> &[u8] {
        self.text(self.method)
    }

    /// Returns `:scheme`; a plain CONNECT has none.
    pub fn scheme(&self) -> Option<&[u8]> {
        self.scheme.map(|place| self.text(place))
    }

    /// Returns `:authority`, or else the `host` field.
    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.map(|place| self.text(place))
    }

    /// Returns `:path`, with its query; a plain CONNECT has none.
    pub fn path(&self) -> Option<&[u8]> {
        self.path.map(|place| self.text(place))
    }

    /// Returns `:protocol` of an extended CONNECT: RFC 8441, 4.
    pub fn protocol(&self) -> Option<&[u8]> {
        self.protocol.map(|place| self.text(place))
    }

    /// Returns the Content-Length of the request.
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// Returns the other fields. Those named `cookie` are not joined: RFC 9113, 8.2.3.
    pub fn fields(&self) -> Iter<'_> {
        self.fields.iter()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head")
            .field("method", &Escaped(self.method()))
            .field("scheme", &self.scheme().map(Escaped))
            .field("authority", &self.authority().map(Escaped))
            .field("path", &self.path().map(Escaped))
            .field("protocol", &self.protocol().map(Escaped))
            .field("fields", &self.fields)
            .finish()
    }
}

/// The method and the target of a request to send: RFC 9113, 8.3.1.
///
/// A CONNECT has neither a scheme nor a path, and its authority has a port: RFC 9113, 8.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine<'a> {
    /// `:method`.
    pub method: &'a [u8],
    /// `:scheme`, such as `https`.
    pub scheme: Option<&'a [u8]>,
    /// `:authority`: the host, and the port unless it is the scheme's.
    pub authority: Option<&'a [u8]>,
    /// `:path`, with the query; `*` for OPTIONS of the whole server.
    pub path: Option<&'a [u8]>,
}

impl RequestLine<'_> {
    /// The line of a GET by https.
    pub fn get<'a>(authority: &'a str, path: &'a str) -> RequestLine<'a> {
        RequestLine {
            method: b"GET",
            scheme: Some(b"https"),
            authority: Some(authority.as_bytes()),
            path: Some(path.as_bytes()),
        }
    }

    fn parts(&self) -> impl Iterator<Item = (&'static [u8], Kind, &[u8])> {
        let parts = [
            (&b":method"[..], Kind::Method, Some(self.method)),
            (b":scheme", Kind::Scheme, self.scheme),
            (b":authority", Kind::Authority, self.authority),
            (b":path", Kind::Path, self.path),
        ];
        parts.into_iter().filter_map(|(name, kind, value)| Some((name, kind, value?)))
    }

    /// Whether the parts are there that the method needs, and no others: RFC 9113, 8.3.1 and 8.5,
    /// and RFC 8441, 4.
    fn is_complete(&self, has_protocol: bool) -> bool {
        let (has_scheme, has_path) = (self.scheme.is_some(), self.path.is_some());
        match (self.method == b"CONNECT", has_protocol) {
            (true, false) => !has_scheme && !has_path && self.authority.is_some_and(has_port),
            (true, true) => has_scheme && has_path && self.authority.is_some(),
            // RFC 9110, 7.1: an asterisk is for OPTIONS.
            (false, false) => {
                has_scheme && has_path && (self.path != Some(b"*") || self.method == b"OPTIONS")
            }
            (false, true) => false,
        }
    }

    pub(crate) fn is_valid(&self) -> bool {
        self.is_complete(false) && self.parts().all(|(_, kind, value)| is_valid(kind, value))
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        for (name, _, value) in self.parts() {
            encoder.pseudo(out, name, value);
        }
    }
}

fn part(text: &[u8], Place(begin, length): Place) -> &[u8] {
    let part = text.get(begin as usize..).and_then(|text| text.get(..length as usize));
    part.unwrap_or_default()
}

/// Why a block is not a valid head or valid trailers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Malformed,
    /// The list exceeds `Options::max_head`.
    TooLarge,
}

/// A decoded field, with the kind `Malformed` if its value is invalid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) kind: Kind,
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

/// Times by which a list may exceed its maximum before the connection fails.
const MAX_FACTOR: usize = 4;

/// Memory that is kept for the next block, in bytes.
const SCRATCH: usize = 4096;

/// Collects the fields of one block after another, in the same memory.
#[derive(Debug)]
pub(crate) struct Builder {
    /// As in [`Fields`].
    text: Vec<u8>,
    /// Position of the first regular field, once there is one.
    begin: Option<usize>,
    pseudo: [Option<Place>; 6],
    host: Option<Place>,
    content_length: Option<u64>,
    /// Size of the list: RFC 9113, 6.5.2.
    size: usize,
    max_size: usize,
    is_malformed: bool,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.0, self.1)
    }
}

impl Builder {
    pub(crate) fn new(max_size: usize) -> Builder {
        Builder {
            text: Vec::new(),
            begin: None,
            pseudo: [None; 6],
            host: None,
            content_length: None,
            size: 0,
            max_size,
            is_malformed: false,
        }
    }

    /// Begins a block.
    pub(crate) fn clear(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        // A long head is rare.
        text.shrink_to(SCRATCH);
        *self = Builder { text, ..Builder::new(self.max_size) };
    }

    /// Adds a field. If the list is too large with it, it is counted only.
    #[inline]
    pub(crate) fn add(&mut self, field: Field<'_>) {
        self.size += field.name.len() + field.value.len() + ENTRY;
        if self.size > self.max_size || self.is_malformed {
            return;
        }
        match field.kind {
            Kind::Plain | Kind::Te => {
                self.push(field);
            }
            Kind::Method => self.add_pseudo(0, field.value),
            Kind::Scheme => self.add_pseudo(1, field.value),
            Kind::Authority => self.add_pseudo(2, field.value),
            Kind::Path => self.add_pseudo(3, field.value),
            Kind::Protocol => self.add_pseudo(4, field.value),
            Kind::Status => self.add_pseudo(5, field.value),
            Kind::Host => {
                let host = self.push(field);
                self.is_malformed |= self.host.replace(host).is_some();
            }
            Kind::ContentLength => {
                self.push(field);
                let length = length(field.value);
                self.is_malformed |= self.content_length.is_some() && self.content_length != length;
                self.content_length = length;
            }
            Kind::Malformed => self.is_malformed = true,
        }
    }

    fn push(&mut self, field: Field<'_>) -> Place {
        self.begin.get_or_insert(self.text.len());
        push_field(&mut self.text, field.name, field.value);
        let length = field.value.len();
        Place((self.text.len() - length) as u32, length as u32)
    }

    /// Adds a pseudo-header, which may occur once, before all other fields.
    fn add_pseudo(&mut self, which: usize, value: &[u8]) {
        let place = Place(self.text.len() as u32, value.len() as u32);
        self.text.extend_from_slice(value);
        let before = self.pseudo.get_mut(which).and_then(|pseudo| pseudo.replace(place));
        self.is_malformed |= before.is_some() || self.begin.is_some();
    }

    /// Whether the list is too large for an answer.
    pub(crate) fn is_abusive(&self) -> bool {
        self.size / MAX_FACTOR > self.max_size
    }

    fn check(&self) -> Result<(), Fault> {
        if self.size > self.max_size {
            return Err(Fault::TooLarge);
        }
        if self.is_malformed { Err(Fault::Malformed) } else { Ok(()) }
    }

    fn fields(&self) -> Fields {
        Fields { text: self.text[..].into(), begin: self.begin.unwrap_or(self.text.len()) }
    }

    /// Returns the head of a request: RFC 9113, 8.3.1 and 8.5, and RFC 8441, 4.
    pub(crate) fn request(&self, allows_protocol: bool) -> Result<Head, Fault> {
        self.check()?;
        let [Some(method), scheme, authority, path, protocol, None] = self.pseudo else {
            return Err(Fault::Malformed);
        };
        let text = |place: Option<Place>| place.map(|place| part(&self.text, place));
        let line = RequestLine {
            method: part(&self.text, method),
            scheme: text(scheme),
            authority: text(authority),
            path: text(path),
        };
        let is_valid =
            (protocol.is_none() || allows_protocol) && line.is_complete(protocol.is_some());
        let differs =
            |(host, authority)| !is_same_host(host, authority, text(scheme).unwrap_or_default());
        if !is_valid || text(self.host).zip(text(authority)).is_some_and(differs) {
            return Err(Fault::Malformed);
        }
        Ok(Head {
            fields: self.fields(),
            method,
            scheme,
            authority: authority.or(self.host),
            path,
            protocol,
            content_length: self.content_length,
        })
    }

    /// Returns the status of a response, its fields and its Content-Length: RFC 9113, 8.3.2.
    pub(crate) fn response(&self) -> Result<(u16, Fields, Option<u64>), Fault> {
        self.check()?;
        let [None, None, None, None, None, Some(place)] = self.pseudo else {
            return Err(Fault::Malformed);
        };
        let status = status(part(&self.text, place)).ok_or(Fault::Malformed)?;
        Ok((status, self.fields(), self.content_length))
    }

    /// Returns trailers, which have no pseudo-headers: RFC 9113, 8.1.
    pub(crate) fn trailers(&self) -> Result<Fields, Fault> {
        self.check()?;
        let has_pseudo = self.pseudo.iter().any(Option::is_some);
        if has_pseudo { Err(Fault::Malformed) } else { Ok(self.fields()) }
    }
}
