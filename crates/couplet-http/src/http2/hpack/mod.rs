//! HPACK for a server: RFC 7541.
//!
//! The [`Decoder`] has the dynamic table of requests. Responses are encoded without state: no
//! dynamic table, which the client learns from the first block, and no Huffman codes. Their heads
//! are small, and a table would cost each connection memory. The static table and the Huffman codes
//! come from `couplet-http2`.

mod decoder;
mod encoder;
mod tables;
#[cfg(test)]
mod tests;

use bytes::Bytes;
pub(super) use couplet_http2::hpack::CompressionError;
use http::{HeaderName, HeaderValue};

pub(super) use decoder::Decoder;
pub(super) use encoder::{encode_field, encode_length, encode_no_table, encode_status};

/// A name that begins with a colon: RFC 9113, 8.3, and RFC 8441, 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pseudo {
    Authority,
    Method,
    Path,
    Protocol,
    Scheme,
    Status,
}

impl Pseudo {
    const ALL: [(&'static str, Pseudo); 6] = [
        (":authority", Pseudo::Authority),
        (":method", Pseudo::Method),
        (":path", Pseudo::Path),
        (":protocol", Pseudo::Protocol),
        (":scheme", Pseudo::Scheme),
        (":status", Pseudo::Status),
    ];

    fn length(self) -> usize {
        match self {
            Pseudo::Path => 5,
            Pseudo::Method | Pseudo::Scheme | Pseudo::Status => 7,
            Pseudo::Protocol => 9,
            Pseudo::Authority => 10,
        }
    }
}

/// A field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Pseudo(Pseudo, Bytes),
    Regular(HeaderName, HeaderValue),
    /// The name is not lower-case or unknown, or the value contains control characters.
    Invalid {
        name_length: usize,
        value_length: usize,
    },
}

impl Field {
    /// The size of an entry of the table, in bytes: RFC 7541, 4.1.
    pub(super) fn size(&self) -> usize {
        32 + match self {
            Field::Pseudo(name, value) => name.length() + value.len(),
            Field::Regular(name, value) => name.as_str().len() + value.len(),
            Field::Invalid { name_length, value_length } => name_length + value_length,
        }
    }
}
