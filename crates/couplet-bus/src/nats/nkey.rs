//! Nkeys: Ed25519 keys in base32 with a prefix and a checksum, as in
//! <https://github.com/nats-io/nkeys>.
//!
//! Contract: 208.

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "tls")]
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
#[cfg(not(feature = "tls"))]
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The first byte of a seed, `S`, which shares its low bits with the kind.
const SEED: u8 = 18 << 3;
/// The kind of a user's key, `U`.
const USER: u8 = 20 << 3;

/// An nkey is not usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NkeyError {
    /// Not the seed of a user, which is base32 and begins with `SU`.
    #[error("cannot use the nkey: it is not a user's seed, which begins with SU")]
    NotASeed,
    /// The checksum is wrong.
    #[error("cannot use the nkey: its checksum is wrong")]
    BadChecksum,
    /// The server has sent nothing to sign.
    #[error("cannot log in with an nkey: the server sent no nonce")]
    NoNonce,
}

/// The private key of a user.
#[derive(Clone)]
pub struct Nkey {
    pair: Arc<Ed25519KeyPair>,
    public: String,
}

impl Nkey {
    /// Reads a seed, such as `nk -gen user` makes: `SU…`.
    ///
    /// # Errors
    ///
    /// If it is not the seed of a user, or its checksum is wrong.
    pub fn from_seed(seed: &str) -> Result<Nkey, NkeyError> {
        let bytes = BASE32_NOPAD.decode(seed.trim().as_bytes()).map_err(|_| NkeyError::NotASeed)?;
        let (body, checksum) = bytes.split_last_chunk::<2>().ok_or(NkeyError::NotASeed)?;
        if crc16(body) != u16::from_le_bytes(*checksum) {
            return Err(NkeyError::BadChecksum);
        }
        // The kind is spread over the low bits of the first byte and the high ones of the second.
        let prefix = [SEED | (USER >> 5), USER << 3];
        let raw = body.strip_prefix(&prefix).ok_or(NkeyError::NotASeed)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(raw).map_err(|_| NkeyError::NotASeed)?;
        let mut key = vec![USER];
        key.extend_from_slice(pair.public_key().as_ref());
        key.extend_from_slice(&crc16(&key).to_le_bytes());
        Ok(Nkey { public: BASE32_NOPAD.encode(&key), pair: Arc::new(pair) })
    }

    /// The public key, `U…`, which the server knows.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The signature of a text, in base64 for URLs.
    pub(super) fn sign(&self, text: &[u8]) -> String {
        BASE64URL_NOPAD.encode(self.pair.sign(text).as_ref())
    }
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => (crc << 1) ^ 0x1021,
        })
    })
}

/// Without the secret.
impl fmt::Debug for Nkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nkey({})", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seed and public key of the documentation's example.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn c208_the_public_key_of_a_seed() {
        let key = Nkey::from_seed(SEED).expect("it is valid");
        assert_eq!(key.public(), PUBLIC);
        // RFC 4648 without padding: 64 bytes.
        assert_eq!(key.sign(b"nonce").len(), 86);
    }

    #[test]
    fn c208_bad_seeds_are_errors() {
        let swapped = SEED.replace("SSL3", "SSL4");
        for (seed, error) in [
            ("", NkeyError::NotASeed),
            ("su", NkeyError::NotASeed),
            (PUBLIC, NkeyError::NotASeed),
            (&SEED[..40], NkeyError::BadChecksum),
            (&swapped, NkeyError::BadChecksum),
        ] {
            assert_eq!(Nkey::from_seed(seed).unwrap_err(), error, "{seed}");
        }
    }

    #[test]
    fn c208_a_seed_is_not_printed() {
        let key = Nkey::from_seed(SEED).expect("it is valid");
        assert_eq!(format!("{key:?}"), format!("Nkey({PUBLIC})"));
    }
}
