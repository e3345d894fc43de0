//! [`BusOptions`]: the NATS or Redis servers of a bus on the command line, perhaps with a password,
//! which no error and no log shows.

use couplet::bus::nats::{Auth, Options};
use couplet::bus::redis;
#[cfg(feature = "tls")]
use couplet::layers::tls::{ClientTls, ClientTlsOptions};
use percent_encoding::percent_decode_str;

use crate::exit::Exit;
use crate::values::Secret;

/// The form of an address, for errors.
const FORM: &str = "nats://HOST:PORT, nats://USER:PASSWORD@HOST:PORT or nats://TOKEN@HOST:PORT, \
                    or with tls:// for TLS; further servers follow after commas; or one server of \
                    Redis, redis://USER:PASSWORD@HOST:PORT or rediss:// for TLS";

/// The settings of a client of one kind of servers.
#[derive(Clone, Debug)]
pub(crate) enum BusOptions {
    Nats(Options),
    Redis(redis::Options),
}

/// One server of the list.
#[derive(PartialEq, Eq)]
struct Server<'a> {
    host: &'a str,
    credentials: Option<&'a str>,
    is_encrypted: bool,
}

impl<'a> Server<'a> {
    fn parse(text: &'a str) -> Option<Server<'a>> {
        let (scheme, rest) = text.trim().split_once("://").unwrap_or(("nats", text.trim()));
        let is_encrypted = match scheme {
            "nats" => false,
            "tls" => true,
            _ => return None,
        };
        let (credentials, host) = match rest.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, rest),
        };
        Options::new([host]).ok()?;
        Some(Server { host, credentials, is_encrypted })
    }
}

impl BusOptions {
    /// The settings of a client of the servers at these addresses.
    pub(crate) fn new(addresses: &Secret) -> Result<BusOptions, Exit> {
        let Secret(text) = addresses;
        match text.trim_start().split_once("://") {
            Some(("redis" | "rediss", _)) => match redis::Options::new(text) {
                Ok(options) => Ok(BusOptions::Redis(options)),
                Err(error) => Err(Exit::bad_usage(format!("--bus: {error}"))),
            },
            _ => nats_options(text).map(BusOptions::Nats),
        }
    }
}

fn nats_options(addresses: &str) -> Result<Options, Exit> {
    let mut servers = Vec::new();
    for (number, text) in addresses.split(',').enumerate() {
        let server = Server::parse(text).ok_or_else(|| {
            Exit::bad_usage(format!("address {} of --bus is invalid: write {FORM}", number + 1))
        })?;
        servers.push(server);
    }
    let Some(first) = servers.first() else {
        return Err(Exit::bad_usage("--bus names no server"));
    };
    let is_like_first = |other: &Server<'_>| Server { host: first.host, ..*other } == *first;
    if !servers.iter().all(is_like_first) {
        let why = "the addresses of --bus differ in their scheme, user or password: the servers of \
                   a cluster have the same";
        return Err(Exit::bad_usage(why));
    }
    let options =
        Options::new(servers.iter().map(|server| server.host)).map_err(Exit::bad_usage)?;
    let options = options.auth(first.credentials.map_or(Ok(Auth::None), auth)?);
    if first.is_encrypted { encrypted(options) } else { Ok(options) }
}

#[cfg(feature = "tls")]
fn encrypted(options: Options) -> Result<Options, Exit> {
    let tls = ClientTls::new(&ClientTlsOptions::default());
    let tls = tls.map_err(|error| Exit::failed(format!("cannot use TLS for --bus: {error}")))?;
    Ok(options.tls(tls))
}

#[cfg(not(feature = "tls"))]
fn encrypted(_: Options) -> Result<Options, Exit> {
    Err(Exit::without_feature("--bus tls://", "tls"))
}

/// The credentials before the host, which are percent-encoded.
fn auth(credentials: &str) -> Result<Auth, Exit> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        text.map_err(|_| Exit::bad_usage("the user or the password of --bus is not UTF-8"))
    };
    match credentials.split_once(':') {
        Some((user, password)) => {
            Ok(Auth::Password { user: decode(user)?, password: decode(password)? })
        }
        None => Ok(Auth::Token(decode(credentials)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<BusOptions, Exit> {
        BusOptions::new(&Secret(text.to_owned()))
    }

    #[test]
    fn addresses_of_a_cluster() {
        for text in [
            "localhost",
            "nats://a:4222",
            "nats://a,nats://b:1, c",
            "nats://u:p@a,nats://u:p@b",
            "t0ken@[::1]:4222",
            "redis",
            "redis://u:p@a/1",
        ] {
            assert!(parsed(text).is_ok(), "{text}");
        }
        for text in ["tls://a", "rediss://a"] {
            assert!(parsed(text).is_ok() || cfg!(not(feature = "tls")), "{text}");
        }
        let Ok(Auth::Password { user, password }) = auth("a%40b:c:%25") else {
            panic!("a password")
        };
        assert_eq!((&*user, &*password), ("a@b", "c:%"));
        assert!(matches!(auth("a%20b"), Ok(Auth::Token(token)) if token == "a b"));
    }

    #[test]
    fn no_error_shows_a_secret() {
        for text in [
            "nats://ada:s3cret@",
            "nats://ada:s3cret",
            "nats://ada:s3cret@a b",
            "nats://ada:s3cret@a:99999",
            "http://ada:s3cret@a",
            "nats://ada:s3cret@a,",
            "nats://ada:s3cret@a,b",
            "nats://ada:s3cret@a,tls://ada:s3cret@b",
            "nats://ada:%ff s3cret@a",
            "redis://ada:s3cret@",
            "redis://ada:s3cret@a,redis://b",
            "rediss://ada:s3cret@a/x",
            "",
        ] {
            let exit = parsed(text).expect_err(text);
            let message = exit.message().unwrap_or_default();
            assert!(message.contains("--bus") && !message.contains("s3cret"), "{message}");
        }
        for scheme in ["nats", "redis"] {
            let address = Secret(format!("{scheme}://ada:s3cret@a"));
            assert!(!format!("{address:?} {:?}", BusOptions::new(&address)).contains("s3cret"));
        }
    }
}
