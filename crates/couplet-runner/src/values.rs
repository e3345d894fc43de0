//! Values of configurations: endpoints and times, checked where they are read, so that an error
//! shows their place.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use couplet::endpoints::{
    ClientEndpoint, EndpointError, IntoEndpoint, ServerEndpoint, UdpServer, client_from_string,
    server_from_string,
};
use couplet::{DatagramOptions, DatagramPort, DatagramProtocol, Reactor};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use crate::places::{self, Placed};

/// An endpoint to listen on, such as `"tcp:8000"`. Parsed when the configuration is read. The socket
/// stays open while the program is restarted, or the service's configuration changes.
///
/// ```
/// # use couplet_runner::Listen;
/// let listen: Listen = "tcp:8000:interface=127.0.0.1".parse()?;
/// let service = couplet::services::StreamServerService::opening("web", move |reactor| {
///     # struct Web;
///     # impl couplet::Protocol for Web { fn data_received(&mut self, _: &couplet::Transport, _: &[u8]) {} }
///     reactor.listen(&listen, || Web)
/// });
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone, Debug)]
pub struct Listen {
    endpoint: Arc<dyn ServerEndpoint>,
    /// The endpoint at its place, if it is in the configuration of a service.
    placed: Option<Arc<Placed>>,
}

/// A UDP address to receive at, such as `"udp:9000"`. Parsed when the configuration is read. The socket
/// stays open while the program is restarted, or the service's configuration changes.
///
/// ```
/// use couplet::services::DatagramService;
/// use couplet::{Datagram, DatagramOptions, DatagramTransport};
/// use couplet_runner::ListenUdp;
///
/// fn echo(transport: &DatagramTransport, datagram: &Datagram<'_>) {
///     transport.answer(datagram, datagram.data).ok();
/// }
///
/// let listen: ListenUdp = "udp:9000:interface=127.0.0.1".parse()?;
/// let service = DatagramService::opening("echo", move |reactor| {
///     listen.listen(reactor, DatagramOptions::default(), echo)
/// });
/// # drop(service);
/// # Ok::<(), couplet::Failure>(())
/// ```
#[derive(Clone, Debug)]
pub struct ListenUdp {
    endpoint: UdpServer,
    /// The service whose configuration it is in.
    service: Option<Arc<str>>,
}

/// An endpoint to connect to, such as `"tcp:example.org:80"`. Parsed when the configuration is read.
#[derive(Clone, Debug)]
pub struct Connect {
    endpoint: Arc<dyn ClientEndpoint>,
}

/// Equal if their texts are.
impl PartialEq for Listen {
    fn eq(&self, other: &Listen) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Listen {
    /// The same endpoint, as one of the runner's own at this option.
    pub(crate) fn of_runner(&self, option: &'static str) -> Placed {
        Placed::new(self.endpoint.clone(), format!("[runner] {option}"))
    }

    fn new(endpoint: Arc<dyn ServerEndpoint>) -> Listen {
        let placed = places::service_being_read()
            .map(|service| Arc::new(Placed::new(endpoint.clone(), service)));
        Listen { endpoint, placed }
    }

    fn endpoint(&self) -> Arc<dyn ServerEndpoint> {
        match &self.placed {
            Some(placed) => placed.clone(),
            None => self.endpoint.clone(),
        }
    }
}

impl ListenUdp {
    fn new(endpoint: UdpServer) -> ListenUdp {
        let service = places::service_of_udp(&endpoint);
        ListenUdp { endpoint, service }
    }

    /// The address to bind.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }

    /// Opens the port, and passes its datagrams to `protocol`: on the socket that was open at this
    /// place of the configuration, if there is one.
    ///
    /// # Errors
    ///
    /// The address and the system's error.
    pub fn listen<P: DatagramProtocol>(
        &self,
        reactor: &Reactor,
        options: DatagramOptions,
        protocol: P,
    ) -> couplet::Result<DatagramPort<P>> {
        match &self.service {
            Some(service) => {
                places::listen_udp(reactor, (service, &self.endpoint), options, protocol)
            }
            None => Ok(reactor.listen_datagrams((self.address(), options), protocol)?),
        }
    }
}

impl Connect {
    fn new(endpoint: Arc<dyn ClientEndpoint>) -> Connect {
        Connect { endpoint }
    }

    fn endpoint(&self) -> Arc<dyn ClientEndpoint> {
        self.endpoint.clone()
    }
}

macro_rules! parsed {
    ($name:ident, $parse:expr, $for:literal) => {
        impl FromStr for $name {
            type Err = EndpointError;

            fn from_str(text: &str) -> Result<$name, EndpointError> {
                $parse(text).map($name::new)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.endpoint.fmt(f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|error| {
                    D::Error::custom(format_args!(concat!("cannot ", $for, " {}: {}"), text, error))
                })
            }
        }
    };
}

macro_rules! endpoint {
    ($name:ident, $trait:ident) => {
        impl IntoEndpoint<dyn $trait> for $name {
            fn into_endpoint(self) -> Result<Arc<dyn $trait>, EndpointError> {
                Ok(self.endpoint())
            }
        }

        impl IntoEndpoint<dyn $trait> for &$name {
            fn into_endpoint(self) -> Result<Arc<dyn $trait>, EndpointError> {
                Ok(self.endpoint())
            }
        }
    };
}

parsed!(Listen, server_from_string, "listen on");
parsed!(ListenUdp, UdpServer::from_str, "listen on");
parsed!(Connect, client_from_string, "connect to");
endpoint!(Listen, ServerEndpoint);
endpoint!(Connect, ClientEndpoint);

/// A time in a configuration: a number of seconds from 0 on, such as `5` or `0.25`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds from 0 on")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Seconds, E> {
                let seconds = u64::try_from(value).map(Duration::from_secs).map(Seconds);
                seconds.map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Seconds, E> {
                Ok(Seconds(Duration::from_secs(value)))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Seconds, E> {
                let seconds = Duration::try_from_secs_f64(value).map(Seconds);
                seconds.map_err(|_| E::invalid_value(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_any(Number)
    }
}

impl From<Seconds> for Duration {
    fn from(seconds: Seconds) -> Duration {
        seconds.0
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::U64Deserializer;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Times {
        time: Seconds,
    }

    #[test]
    fn seconds_are_numbers_from_0_on() {
        let read =
            |text: &str| toml::from_str::<Times>(text).map(|times| Duration::from(times.time));
        for (text, millis) in [("time = 5", 5000), ("time = 0", 0), ("time = 0.25", 250)] {
            assert_eq!(read(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in
            ["time = -1", "time = -0.5", "time = nan", "time = inf", "time = \"5\"", "time = 1e30"]
        {
            let error = read(text).expect_err(text).to_string();
            assert!(error.contains("a number of seconds from 0 on"), "{error}");
        }
    }

    #[test]
    fn formats_without_negative_numbers_have_seconds_too() {
        let number: U64Deserializer<serde::de::value::Error> = 5_u64.into_deserializer();
        assert_eq!(Seconds::deserialize(number), Ok(Seconds(Duration::from_secs(5))));
    }

    #[test]
    fn endpoints_are_checked_where_they_are_read() {
        assert_eq!("tcp:80".parse::<Listen>().unwrap().to_string(), "tcp:80");
        assert_eq!("tcp:a:80".parse::<Connect>().unwrap().to_string(), "tcp:a:80");
        assert_eq!("udp:80".parse::<ListenUdp>().unwrap().to_string(), "udp:80");
        let [first, same, other] = ["tcp:80", "tcp:80", "tcp:81"].map(str::parse::<Listen>);
        assert!(first.as_ref().unwrap() == same.as_ref().unwrap());
        assert!(first.as_ref().unwrap() != other.as_ref().unwrap());
        assert!("tcp:80".parse::<ListenUdp>().is_err() && "udp:80".parse::<Listen>().is_err());
        #[derive(Debug, serde::Deserialize)]
        struct Ends {
            #[expect(dead_code)]
            listen: Listen,
        }
        let error = toml::from_str::<Ends>("listen = \"tcp:x\"").expect_err("no port");
        assert!(error.message().starts_with("cannot listen on tcp:x: "), "{error}");
        assert_eq!(error.span(), Some(9..16));
    }
}
