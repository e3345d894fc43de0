//! The JSON of INFO and CONNECT.
//!
//! Contract: 208.

use couplet_core::Result;
use serde::{Deserialize, Serialize};

#[cfg(any(feature = "tls", feature = "ring"))]
use super::nkey::NkeyError;
use super::options::{Auth, Options};

/// A server's description of itself. Absent fields have their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Info {
    /// The server's name.
    pub server_name: String,
    /// The server's version.
    pub version: String,
    /// The maximum size of headers and payload, in bytes; 0 if the server does not say it.
    pub max_payload: usize,
    /// Whether clients must use TLS.
    pub tls_required: bool,
    /// Whether clients may use TLS.
    pub tls_available: bool,
    /// Whether clients must authenticate.
    pub auth_required: bool,
    /// Whether the server accepts headers.
    pub headers: bool,
    /// A random text for the client to sign.
    pub nonce: Option<String>,
    /// The other servers of the cluster: `host:port`.
    pub connect_urls: Vec<String>,
    /// Whether the server is about to stop: it is in its lame duck mode.
    #[serde(rename = "ldm")]
    pub lame_duck: bool,
}

/// The options of a client.
#[derive(Debug, Serialize)]
pub(super) struct Connect<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    lang: &'static str,
    version: &'static str,
    /// 1 for INFO whenever the cluster changes.
    protocol: u8,
    echo: bool,
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl<'a> Connect<'a> {
    pub(super) fn new(
        info: &Info,
        options: &'a Options,
        is_encrypted: bool,
    ) -> Result<Connect<'a>> {
        let mut connect = Connect {
            verbose: false,
            pedantic: false,
            tls_required: is_encrypted,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            echo: options.echo,
            headers: info.headers,
            no_responders: info.headers,
            name: options.name.as_deref(),
            auth_token: None,
            user: None,
            pass: None,
            nkey: None,
            sig: None,
        };
        match &options.auth {
            Auth::None => {}
            Auth::Token(token) => connect.auth_token = Some(token),
            Auth::Password { user, password } => {
                (connect.user, connect.pass) = (Some(user.as_str()), Some(password.as_str()));
            }
            #[cfg(any(feature = "tls", feature = "ring"))]
            Auth::Nkey(key) => {
                let nonce = info.nonce.as_deref().ok_or(NkeyError::NoNonce)?;
                connect.nkey = Some(key.public().to_owned());
                connect.sig = Some(key.sign(nonce.as_bytes()));
            }
        }
        Ok(connect)
    }

    pub(super) fn line(&self) -> String {
        let json = serde_json::to_string(self).expect("texts and flags are JSON");
        format!("CONNECT {json}\r\n")
    }
}
