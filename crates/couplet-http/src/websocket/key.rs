//! The keys of handshakes: a client sends a random one, and the server proves that it understands it
//! (RFC 6455, sections 4.1 and 4.2.2).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use couplet_core::{Reactor, hooks};
use sha1_smol::Sha1;

/// 16 random bytes, in Base64.
pub(super) fn random(reactor: &Reactor) -> String {
    let [a, b] = [hooks::random(reactor), hooks::random(reactor)];
    STANDARD.encode((u128::from(a) << 64 | u128::from(b)).to_be_bytes())
}

/// Whether a key is 16 bytes in Base64.
pub(super) fn is_valid(key: &[u8]) -> bool {
    // Room for what 24 digits stand for.
    STANDARD.decode_slice(key, &mut [0; 18]) == Ok(16)
}

/// The answer to a key: the hash of it and of a constant, in Base64.
pub(super) fn answer(key: &[u8]) -> String {
    let mut hash = Sha1::from(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.digest().bytes())
}

#[cfg(test)]
mod tests {
    use super::{answer, is_valid};

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        for (key, expected) in [
            ("dGhlIHNhbXBsZSBub25jZQ==", true),
            ("AAAAAAAAAAAAAAAAAAAAAA==", true),
            ("", false),
            ("dGhlIHNhbXBsZSBub25jZQ=", false),
            ("dGhlIHNhbXBsZSBub25jZQ", false),
            ("dGhlIHNhbXBsZSBub25jZR==", false),
            ("dGhlIHNhbXBsZSBub25jZXM=", false),
            ("dGhlIHNhbXBsZSBub25jZXMh", false),
            ("dGhlIHNhbXBsZSBub25j", false),
            ("dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ==", false),
            ("-_hlIHNhbXBsZSBub25jZQ==", false),
            (" dGhlIHNhbXBsZSBub25jZQ=", false),
        ] {
            assert_eq!(is_valid(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn the_answer_to_the_key_of_the_rfc_is_the_one_of_the_rfc() {
        assert_eq!(answer(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
