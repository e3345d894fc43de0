//! Couplet as a server, written against the public API as a user would. This is the only file of
//! the benchmark that names the library. Echoes and files are served by the program itself,
//! `couplet echo` and `couplet serve`.

use std::cell::RefCell;
use std::fmt::Display;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use couplet::factory::Layered;
use couplet::http::{HttpExt, HttpOptions};
use couplet::layers::PassThrough;
use couplet::protocols::{LineProtocol, LineReceiver, LineTransport, Relay};
use couplet::rooms::{Member, RoomOptions, Rooms};
use couplet::stream::copy_bidirectional;
use couplet::transport::Timeout;
use couplet::{
    Answers, DriverChoice, Factory, Failure, IntoFactory, Loop, LoopOptions, ProducerKind,
    Protocol, Reactor, Reason, Stream, Transport,
};
use couplet_core::driver::Uring;

use super::hyper::answer;
use crate::kind::{BACKLOG, Kind, Role};

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

/// Sends each connection's bytes to all members of a room.
struct InRoom {
    rooms: Rooms<()>,
    member: Option<Member<(), ()>>,
}

impl Protocol for InRoom {
    fn connection_made(&mut self, transport: &Transport) {
        set_limits(transport);
        match self.rooms.join(&(), transport, ()) {
            Ok(member) => self.member = Some(member),
            Err(error) => transport.fail(error),
        }
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        let published = self.member.as_ref().map(|member| member.publish(data.to_vec()));
        if let Some(Err(error)) = published {
            transport.fail(error);
        }
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
    transport.set_timeout(Timeout::Idle, Some(Duration::from_secs(180)));
}

/// The arguments of the program `couplet` for a role.
pub(super) fn arguments(role: Role, folder: &Path) -> Vec<String> {
    let folder = folder.display();
    let place = format!("0:interface=127.0.0.1:backlog={BACKLOG}");
    let tls = format!("tls:{place}:cert={folder}/localhost.pem:key={folder}/localhost.key");
    let tcp = format!("tcp:{place}");
    let site = format!("{folder}/site");
    let words = match role {
        Role::Files => ["serve", &site, "--listen", &tcp].to_vec(),
        Role::Tls => ["echo", "--idle-timeout", "180", "--listen", &tls].to_vec(),
        _ => ["echo", "--idle-timeout", "180", "--listen", &tcp].to_vec(),
    };
    words.into_iter().map(String::from).collect()
}

/// Set for servers whose instructions are counted: their answers leave immediately, because the
/// loop's own measurements depend on the machine.
pub(crate) const COUNTED: &str = "COUPLET_BENCH_COUNTED";

/// Whether the system offers io_uring.
pub(crate) fn has_uring() -> bool {
    Uring::new(4096).is_ok()
}

/// Whether the benchmark counts calls or instructions.
fn is_counted() -> bool {
    std::env::var_os(COUNTED).is_some()
}

/// Runs a loop until the process ends.
fn run(
    driver: DriverChoice,
    setup: impl FnOnce(&Reactor) -> couplet::Result<()>,
) -> couplet::Result<()> {
    let answers = if is_counted() { Answers::AtOnce } else { Answers::default() };
    let options =
        LoopOptions::default().driver(driver).signals(true).tune(|it| it.answers(answers));
    Loop::with_options(options)?.run(setup)
}

/// Plays the roles that the program does not, until the process ends; `ready` gets the address.
pub(super) fn serve(kind: Kind, role: Role, ready: fn(&dyn Display)) -> couplet::Result<()> {
    let driver = match kind {
        Kind::CoupletUring => DriverChoice::Uring,
        _ => DriverChoice::Auto,
    };
    match (kind, role) {
        (Kind::CoupletStream, _) => serve_stream(role, ready),
        (Kind::CoupletLayer, _) => {
            listen(driver, |_| Layered::new(|| Echo, |_, _| PassThrough::default()), ready)
        }
        (_, Role::EchoOne) => listen(driver, |_| || EchoOne, ready),
        (_, Role::Lines) => listen(driver, |_| || LineReceiver::new(EchoLines), ready),
        (Kind::CoupletRooms, _) => {
            let room = |reactor: &Reactor| {
                let rooms = Rooms::new(reactor, |()| RoomOptions::default());
                move || InRoom { rooms: rooms.clone(), member: None }
            };
            listen(driver, room, ready)
        }
        (_, Role::FanOut) => {
            let all = Rc::default();
            listen(driver, |_| move || FanOut { all: Rc::clone(&all) }, ready)
        }
        (_, Role::Relay(server)) => {
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
        (_, Role::Hello1 | Role::Hello2) => run(driver, |reactor| {
            let options = HttpOptions::default();
            // Under valgrind two rounds lie so far apart that connections would free their buffers.
            let options = match is_counted() {
                true => options.free_idle_after(Duration::from_secs(3600)),
                false => options,
            };
            let service = tower::service_fn(answer);
            let port = reactor.serve_http_with(endpoint(), service, options)?;
            ready(&port.host());
            Ok(())
        }),
        _ => Err(Failure::msg(format!("{kind} does not play {role}"))),
    }
}

fn endpoint() -> String {
    format!("tcp:0:interface=127.0.0.1:backlog={BACKLOG}")
}

/// Echoes or relays in async style.
fn serve_stream(role: Role, ready: fn(&dyn Display)) -> couplet::Result<()> {
    run(DriverChoice::Auto, |reactor| {
        let port = match role {
            Role::Relay(server) => {
                let connecting = reactor.clone();
                reactor.serve(endpoint(), async move |near| {
                    let far = connecting.connect_stream(format!("tcp:{server}")).await?;
                    copy_bidirectional(near, far).await?;
                    Ok(())
                })?
            }
            _ => reactor.serve(endpoint(), echo_stream)?,
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
    ready: fn(&dyn Display),
) -> couplet::Result<()>
where
    <F::Factory as Factory>::Protocol: Protocol,
{
    run(driver, |reactor| {
        let port = reactor.listen(endpoint(), factory(reactor))?;
        ready(&port.host());
        Ok(())
    })
}
