//! PROXY headers as bytes. Received headers are checked strictly: one that another reader might
//! interpret differently is refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::address::Address;

/// First bytes of version 2 (section 2.2).
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// First bytes of version 1.
const WORD: &[u8] = b"PROXY ";
/// Maximum length of a version 1 header, including its line end (section 2.1).
const LONGEST_LINE: usize = 107;
/// Length of the fixed part of version 2.
const FIXED: usize = 16;
/// Maximum length of a version 2 header, read or written. The format allows 64 KiB.
pub(super) const LONGEST: usize = 4096;

/// The TLV types of version 2 (section 2.2).
mod tlv {
    pub(super) const ALPN: u8 = 0x01;
    pub(super) const AUTHORITY: u8 = 0x02;
    pub(super) const CRC32C: u8 = 0x03;
    pub(super) const UNIQUE_ID: u8 = 0x05;
    pub(super) const SSL: u8 = 0x20;
    pub(super) const SSL_VERSION: u8 = 0x21;
    pub(super) const SSL_CN: u8 = 0x22;
    pub(super) const SSL_CIPHER: u8 = 0x23;
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text: TCP addresses only.
    V1,
    /// Binary, with additional values (TLVs).
    V2,
}

/// The contents of a PROXY header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyHeader {
    /// The client. `None` if the proxy made the connection itself, or does not know the client.
    pub peer: Option<Address>,
    /// The address that the client connected to.
    pub host: Option<Address>,
    /// The negotiated application protocol (ALPN).
    pub alpn: Option<Vec<u8>>,
    /// The host name that the client requested (SNI).
    pub authority: Option<String>,
    /// The proxy's id for the connection; at most 128 bytes.
    pub unique_id: Option<Vec<u8>>,
    /// The client's TLS, which the proxy terminated.
    pub tls: Option<ProxyTls>,
}

/// TLS between a client and a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyTls {
    /// The version, such as `TLSv1.3`.
    pub version: Option<String>,
    /// The cipher suite.
    pub cipher: Option<String>,
    /// Whether the client presented a certificate on this connection.
    pub client_certificate: bool,
    /// Whether the client presented a certificate that was verified.
    pub verified: bool,
    /// The common name in the client's certificate.
    pub common_name: Option<String>,
}

/// A PROXY header that was refused or cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// The connection does not begin with a PROXY header.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// The header is not valid.
    #[error("not a valid PROXY header: {0}")]
    Invalid(&'static str),
    /// The header is too long.
    #[error("the PROXY header is longer than {limit} bytes")]
    TooLong {
        /// Maximum length, in bytes.
        limit: usize,
    },
    /// The stream ended before the header did.
    #[error("the stream ended within the PROXY header, after {received} bytes")]
    Truncated {
        /// Number of bytes received.
        received: usize,
    },
    /// The header did not arrive in time.
    #[error("the PROXY header did not arrive in time")]
    TimedOut,
    /// The version cannot express a part of the header.
    #[error("this version of the PROXY header cannot express {0}")]
    Unsupported(&'static str),
}

/// Number of bytes to append to `received` before the next call; 0 if the header is complete.
/// `next` holds the available bytes, which are searched for the line end of version 1.
pub(super) fn bytes_needed(received: &[u8], next: &[u8]) -> Result<usize, ProxyError> {
    let prefix = received.len().min(SIGNATURE.len());
    if received[..prefix] == SIGNATURE[..prefix] && !received.is_empty() {
        let Some(fixed) = received.get(..FIXED) else { return Ok(FIXED - received.len()) };
        let whole = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
        if whole > LONGEST {
            return Err(ProxyError::TooLong { limit: LONGEST });
        }
        return Ok(whole - received.len());
    }
    let prefix = received.len().min(WORD.len());
    if received[..prefix] != WORD[..prefix] {
        return Err(ProxyError::Missing);
    }
    if received.len() < WORD.len() {
        // Byte by byte, while both versions are possible.
        return Ok(if received.is_empty() { 1 } else { WORD.len() - received.len() });
    }
    if received.ends_with(b"\n") {
        return Ok(0);
    }
    let room = LONGEST_LINE - received.len().min(LONGEST_LINE);
    let line = &next[..next.len().min(room)];
    match line.iter().position(|&byte| byte == b'\n') {
        Some(at) => Ok(at + 1),
        None if room == 0 || line.len() == room => Err(ProxyError::TooLong { limit: LONGEST_LINE }),
        None => Ok(line.len().max(1)),
    }
}

/// Parses a complete header.
pub(super) fn parse(header: &[u8]) -> Result<ProxyHeader, ProxyError> {
    if header.starts_with(SIGNATURE) { parse_binary(header) } else { parse_line(header) }
}

fn parse_line(line: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let text = line.strip_prefix(WORD).and_then(|rest| rest.strip_suffix(b"\r\n"));
    let text = text.ok_or(ProxyError::Invalid("the line does not end with CR LF"))?;
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        // The rest must be ignored (section 2.1).
        return Ok(ProxyHeader::default());
    }
    let text = std::str::from_utf8(text).map_err(|_| ProxyError::Invalid("it is not ASCII"))?;
    let words: Vec<&str> = text.splitn(6, ' ').collect();
    let [family, source, destination, from, to] = words[..] else {
        return Err(ProxyError::Invalid("expected a family, two addresses and two ports"));
    };
    let ip = |text: &str| -> Result<IpAddr, ProxyError> {
        let ip = match family {
            "TCP4" => text.parse().map(IpAddr::V4).ok(),
            "TCP6" => text.parse().map(IpAddr::V6).ok(),
            _ => return Err(ProxyError::Invalid("the family is not TCP4, TCP6 or UNKNOWN")),
        };
        ip.ok_or(ProxyError::Invalid("an address does not match its family"))
    };
    let port = |text: &str| -> Result<u16, ProxyError> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let plain = digits && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| plain).ok_or(ProxyError::Invalid("a port is not a number"))
    };
    Ok(ProxyHeader {
        peer: Some(SocketAddr::new(ip(source)?, port(from)?).into()),
        host: Some(SocketAddr::new(ip(destination)?, port(to)?).into()),
        ..ProxyHeader::default()
    })
}

fn parse_binary(header: &[u8]) -> Result<ProxyHeader, ProxyError> {
    let (fixed, rest) =
        header.split_first_chunk::<FIXED>().ok_or(ProxyError::Invalid("it is too short"))?;
    let local = match fixed[12] {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Invalid("unknown version or command")),
    };
    let family = fixed[13];
    let length = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(ProxyError::Invalid("unknown address family or protocol")),
    };
    // The address block of a connection made by the proxy itself must be skipped, valid or not.
    let Some((block, values)) = rest.split_at_checked(length) else {
        return if local {
            Ok(ProxyHeader::default())
        } else {
            Err(ProxyError::Invalid("the addresses are truncated"))
        };
    };
    let mut parsed = ProxyHeader::default();
    match parse_values(values, header, &mut parsed) {
        Err(_) if local => return Ok(ProxyHeader::default()),
        outcome => outcome?,
    }
    // Only streams: a connection carries no datagrams.
    if !local && family & 0x0f == 1 {
        (parsed.peer, parsed.host) = addresses(block);
    }
    Ok(parsed)
}

/// Source and destination address. UNIX addresses are not supported.
fn addresses(block: &[u8]) -> (Option<Address>, Option<Address>) {
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let (a, b): (SocketAddr, SocketAddr) = match block.len() {
        12 => {
            let ip = |at: usize| -> IpAddr {
                let octets: [u8; 4] = block[at..at + 4].try_into().expect("four bytes");
                Ipv4Addr::from(octets).into()
            };
            ((ip(0), port(8)).into(), (ip(4), port(10)).into())
        }
        36 => {
            let ip = |at: usize| -> IpAddr {
                let octets: [u8; 16] = block[at..at + 16].try_into().expect("sixteen bytes");
                Ipv6Addr::from(octets).into()
            };
            ((ip(0), port(32)).into(), (ip(16), port(34)).into())
        }
        _ => return (None, None),
    };
    (Some(a.into()), Some(b.into()))
}

/// The next TLV: its type and its value.
fn next_value<'v>(values: &mut &'v [u8]) -> Result<Option<(u8, &'v [u8])>, ProxyError> {
    let Some((&[kind, high, low], rest)) = values.split_first_chunk::<3>() else {
        let empty = values.is_empty();
        return if empty { Ok(None) } else { Err(ProxyError::Invalid("a value is truncated")) };
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (value, rest) =
        rest.split_at_checked(length).ok_or(ProxyError::Invalid("a value is truncated"))?;
    *values = rest;
    Ok(Some((kind, value)))
}

fn text(bytes: &[u8]) -> Result<String, ProxyError> {
    let text =
        std::str::from_utf8(bytes).map_err(|_| ProxyError::Invalid("a text is not UTF-8"))?;
    Ok(text.to_owned())
}

fn parse_values(
    mut values: &[u8],
    header: &[u8],
    parsed: &mut ProxyHeader,
) -> Result<(), ProxyError> {
    while let Some((kind, value)) = next_value(&mut values)? {
        match kind {
            tlv::ALPN => parsed.alpn = Some(value.to_vec()),
            tlv::AUTHORITY => parsed.authority = Some(text(value)?),
            tlv::UNIQUE_ID if value.len() > 128 => {
                return Err(ProxyError::Invalid("the unique id is longer than 128 bytes"));
            }
            tlv::UNIQUE_ID => parsed.unique_id = Some(value.to_vec()),
            tlv::CRC32C => {
                let at = header.len() - values.len() - value.len();
                verify_checksum(header, at, value)?;
            }
            tlv::SSL => parsed.tls = parse_tls(value)?,
            // Unknown values are ignored (section 2.2).
            _ => {}
        }
    }
    Ok(())
}

fn parse_tls(value: &[u8]) -> Result<Option<ProxyTls>, ProxyError> {
    let (&[client, a, b, c, d], mut values) =
        value.split_first_chunk::<5>().ok_or(ProxyError::Invalid("the TLS value is truncated"))?;
    if client & 1 == 0 {
        return Ok(None);
    }
    // Bit 1: a certificate on this connection; bit 2: one in this session.
    let presented = client & 6 != 0;
    let mut tls = ProxyTls {
        client_certificate: client & 2 != 0,
        verified: presented && [a, b, c, d] == [0; 4],
        ..ProxyTls::default()
    };
    while let Some((kind, value)) = next_value(&mut values)? {
        match kind {
            tlv::SSL_VERSION => tls.version = Some(text(value)?),
            tlv::SSL_CN => tls.common_name = Some(text(value)?),
            tlv::SSL_CIPHER => tls.cipher = Some(text(value)?),
            _ => {}
        }
    }
    Ok(Some(tls))
}

/// Verifies the checksum of the header, computed with its own four bytes as 0.
fn verify_checksum(header: &[u8], at: usize, sum: &[u8]) -> Result<(), ProxyError> {
    let sum: [u8; 4] =
        sum.try_into().map_err(|_| ProxyError::Invalid("the checksum does not have 4 bytes"))?;
    let blank =
        |(number, &byte): (usize, &u8)| if (at..at + 4).contains(&number) { 0 } else { byte };
    match crc32c(header.iter().enumerate().map(blank)) == u32::from_be_bytes(sum) {
        true => Ok(()),
        false => Err(ProxyError::Invalid("the checksum is wrong")),
    }
}

/// The Castagnoli CRC (RFC 3720, B.4).
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

impl ProxyHeader {
    /// A header with the addresses of a client's connection.
    pub fn new(peer: Address, host: Address) -> ProxyHeader {
        ProxyHeader { peer: Some(peer), host: Some(host), ..ProxyHeader::default() }
    }

    /// Decodes a header from [`encode`](Self::encode), without bytes after it.
    pub(crate) fn decode(header: &[u8]) -> Result<ProxyHeader, ProxyError> {
        match bytes_needed(header, &[])? {
            0 => parse(header),
            _ => Err(ProxyError::Truncated { received: header.len() }),
        }
    }

    pub(crate) fn encode(&self, version: ProxyVersion) -> Result<Vec<u8>, ProxyError> {
        match version {
            ProxyVersion::V1 => self.encode_line(),
            ProxyVersion::V2 => self.encode_binary(),
        }
    }

    /// Both TCP addresses. If one is IPv4 and the other IPv6, both become IPv6.
    fn address_pair(&self) -> Option<(SocketAddr, SocketAddr)> {
        let (a, b) = (self.peer.as_ref()?.socket_addr()?, self.host.as_ref()?.socket_addr()?);
        let six = |address: SocketAddr| match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
            v6 => v6,
        };
        Some(if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (six(a), six(b)) })
    }

    fn encode_line(&self) -> Result<Vec<u8>, ProxyError> {
        let bare = ProxyHeader { peer: None, host: None, ..self.clone() };
        if bare != ProxyHeader::default() {
            return Err(ProxyError::Unsupported("anything but addresses"));
        }
        let line = match self.address_pair() {
            None => "PROXY UNKNOWN\r\n".to_owned(),
            Some((a, b)) => {
                let family = if a.is_ipv4() { 4 } else { 6 };
                let (from, to) = (a.port(), b.port());
                format!("PROXY TCP{family} {} {} {from} {to}\r\n", a.ip(), b.ip())
            }
        };
        Ok(line.into_bytes())
    }

    fn encode_binary(&self) -> Result<Vec<u8>, ProxyError> {
        let mut header = SIGNATURE.to_vec();
        // Version 2, with the command LOCAL for the proxy's own connection or PROXY for a client's.
        header.extend([0x20 + u8::from(self.peer.is_some()), 0, 0, 0]);
        match self.address_pair() {
            None => {}
            Some((SocketAddr::V4(a), SocketAddr::V4(b))) => {
                header[13] = 0x11;
                header.extend([a.ip().octets(), b.ip().octets()].concat());
            }
            Some((a, b)) => {
                header[13] = 0x21;
                for ip in [a.ip(), b.ip()] {
                    let IpAddr::V6(ip) = ip else { unreachable!("both are IPv6") };
                    header.extend(ip.octets());
                }
            }
        }
        if let Some((a, b)) = self.address_pair() {
            header.extend([a.port().to_be_bytes(), b.port().to_be_bytes()].concat());
        }
        let mut values = Vec::new();
        self.encode_values(&mut values)?;
        header.extend(values);
        if header.len() > LONGEST {
            return Err(ProxyError::TooLong { limit: LONGEST });
        }
        let length = (header.len() - FIXED) as u16;
        header[14..FIXED].copy_from_slice(&length.to_be_bytes());
        Ok(header)
    }

    fn encode_values(&self, values: &mut Vec<u8>) -> Result<(), ProxyError> {
        push_value(values, tlv::ALPN, self.alpn.as_deref())?;
        push_value(values, tlv::AUTHORITY, self.authority.as_ref().map(String::as_bytes))?;
        if self.unique_id.as_ref().is_some_and(|id| id.len() > 128) {
            return Err(ProxyError::Unsupported("a unique id of more than 128 bytes"));
        }
        push_value(values, tlv::UNIQUE_ID, self.unique_id.as_deref())?;
        let Some(tls) = &self.tls else { return Ok(()) };
        let client = 1 + 2 * u8::from(tls.client_certificate) + 4 * u8::from(tls.verified);
        let mut inner = vec![client, 0, 0, 0, u8::from(!tls.verified)];
        let parts = [
            (tlv::SSL_VERSION, &tls.version),
            (tlv::SSL_CN, &tls.common_name),
            (tlv::SSL_CIPHER, &tls.cipher),
        ];
        for (kind, part) in parts {
            push_value(&mut inner, kind, part.as_ref().map(String::as_bytes))?;
        }
        push_value(values, tlv::SSL, Some(&inner))
    }
}

fn push_value(values: &mut Vec<u8>, kind: u8, value: Option<&[u8]>) -> Result<(), ProxyError> {
    let Some(value) = value else { return Ok(()) };
    let length = u16::try_from(value.len()).map_err(|_| ProxyError::TooLong { limit: LONGEST })?;
    values.push(kind);
    values.extend(length.to_be_bytes());
    values.extend_from_slice(value);
    Ok(())
}
