//! HPACK, the compression of header fields: RFC 7541.

mod decoder;
mod encoder;
mod huffman;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use decoder::{Decoder, INITIAL_TABLE};
pub(crate) use encoder::Encoder;
pub use encoder::{integer, status};
pub use huffman::{decode as decode_huffman, encode as encode_huffman};
pub use table::STATIC;

/// A block of fields that is not HPACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressionError;

/// Length of an entry beyond its name and value, in tables and lists: RFC 7541, 4.1.
pub(crate) const ENTRY: usize = 32;
