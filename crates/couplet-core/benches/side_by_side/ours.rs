//! Couplet as a server, written against the public API as a user would. This is the only file of
//! the benchmark that names the library. An echo is measured with the program itself,
//! `couplet echo`, if that can play the role.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

pub(crate) use couplet::DriverChoice;
use couplet::factory::Layered;
use couplet::layers::PassThrough;
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport, Relay};
use couplet::stream::copy_bidirectional;
use couplet::{
    Answers, Factory, Failure, IntoFactory, ListenOptions, Loop, LoopOptions, ProducerKind,
    Protocol, Reactor, Reason, Stream, Transport,
};

use crate::kind::{BACKLOG, Role};

/// Echoes the first message of each connection, then closes it; `couplet echo` does not.
struct EchoOne;

impl Protocol for EchoOne {
    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
        transport.lose_connection();
    }
}

/// Echoes with the limits of a public server.
struct Echo;

impl Protocol for Echo {
    fn connection_made(&mut self, transport: &Transport) {
        equip(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        transport.write(data);
    }
}

/// Echoes lines with the limits of a public server.
struct EchoLines;

impl LineProtocol for EchoLines {
    fn connection_made(&mut self, transport: &LineTransport) {
        equip(transport);
    }

    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        transport.send_line(line);
    }
}

/// Sends each connection's bytes to all connections.
struct FanOut {
    all: Rc<RefCell<Vec<Transport>>>,
}

impl Protocol for FanOut {
    fn connection_made(&mut self, transport: &Transport) {
        set_limits(transport);
        self.all.borrow_mut().push(transport.clone());
    }

    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        self.all.borrow().iter().for_each(|transport| transport.write(data));
    }

    fn connection_lost(&mut self, transport: &Transport, _: &Reason) {
        self.all.borrow_mut().retain(|other| other.id() != transport.id());
    }
}

/// Gives a new connection the limits and the backpressure of a public server.
fn equip(transport: &Transport) {
    set_limits(transport);
    let registered = transport.register_producer(transport.clone(), ProducerKind::Push);
    assert!(registered.is_ok(), "a new connection has no producer");
}

fn set_limits(transport: &Transport) {
    transport.set_write_cap(Some(1024 * 1024));
    transport.set_idle_timeout(Some(Duration::from_secs(180)));
}

/// The default read buffer of a loop in KiB, for all servers here and for `couplet echo`.
pub(crate) const READ_BUFFER: usize = 256;

/// The arguments of `couplet echo`.
pub(crate) fn echo_arguments() -> [String; 5] {
    let endpoint = format!("tcp:0:interface=127.0.0.1:backlog={BACKLOG}");
    ["echo", "--listen", &endpoint, "--idle-timeout", "180"].map(String::from)
}

/// Set for servers whose instructions are counted: their answers leave immediately, because the
/// loop's own measurements depend on the machine.
pub(crate) const COUNTED: &str = "SIDE_BY_SIDE_COUNTED";

/// Runs a loop until the process ends.
fn run(
    driver: DriverChoice,
    setup: impl FnOnce(&Reactor) -> couplet::Result<()>,
) -> couplet::Result<()> {
    let is_counted = std::env::var_os(COUNTED).is_some();
    let answers = if is_counted { Answers::AtOnce } else { Answers::default() };
    let options = LoopOptions::default().driver(driver).signals(true).answers(answers);
    Loop::with_options(options)?.run(setup)
}

/// Plays the roles that `couplet echo` does not, until the process ends; `ready` gets the address.
pub(crate) fn serve(
    driver: DriverChoice,
    role: Role,
    ready: impl FnOnce(&dyn Display),
) -> couplet::Result<()> {
    match role {
        Role::Echo => Err(Failure::msg("the program echoes, by `couplet echo`")),
        Role::EchoOne => listen(driver, |_| || EchoOne, ready),
        Role::FanOut => {
            let all = Rc::default();
            listen(driver, |_| move || FanOut { all: Rc::clone(&all) }, ready)
        }
        Role::Relay(server) => {
            let relay = |reactor: &Reactor| {
                let (reactor, server) = (reactor.clone(), format!("tcp:{server}"));
                move || {
                    let (near, far) = Relay::pair();
                    reactor.connect_protocol(&server, far).detach();
                    near
                }
            };
            listen(driver, relay, ready)
        }
    }
}

/// Echoes lines until the process ends; `ready` gets the address.
pub(crate) fn serve_lines(ready: impl FnOnce(&dyn Display)) -> couplet::Result<()> {
    listen(DriverChoice::Auto, |_| || LineReceiver::new(EchoLines), ready)
}

/// Echoes over a layer that passes bytes unchanged.
pub(crate) fn serve_layer(ready: impl FnOnce(&dyn Display)) -> couplet::Result<()> {
    listen(DriverChoice::Auto, |_| Layered::new(|| Echo, |_, _| PassThrough::default()), ready)
}

/// Echoes or relays in async style.
pub(crate) fn serve_stream(role: Role, ready: impl FnOnce(&dyn Display)) -> couplet::Result<()> {
    run(DriverChoice::Auto, |reactor| {
        let endpoint = format!("tcp:0:interface=127.0.0.1:backlog={BACKLOG}");
        let port = match role {
            Role::Relay(server) => {
                let connecting = reactor.clone();
                reactor.serve(&endpoint, async move |near| {
                    let far = connecting.connect_stream(format!("tcp:{server}")).await?;
                    copy_bidirectional(near, far).await?;
                    Ok(())
                })?
            }
            _ => reactor.serve(&endpoint, echo_stream)?,
        };
        ready(&port.host());
        Ok(())
    })
}

async fn echo_stream(mut stream: Stream) -> couplet::Result<()> {
    set_limits(stream.transport());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n]).await?,
        }
    }
}

fn listen<K, F: IntoFactory<K>>(
    driver: DriverChoice,
    factory: impl FnOnce(&Reactor) -> F,
    ready: impl FnOnce(&dyn Display),
) -> couplet::Result<()>
where
    <F::Factory as Factory>::Protocol: Protocol,
{
    run(driver, |reactor| {
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("a literal address");
        let options = ListenOptions::default().backlog(BACKLOG.into());
        let port = reactor.listen_at(any, options, factory(reactor))?;
        ready(&port.host());
        Ok(())
    })
}
