//! The server: its options, its ports and its link to other servers.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use couplet::Reactor;
use couplet::endpoints::ServerEndpoint;

use crate::bus::Settings;
use crate::endpoint::to_listen;
use crate::exit::Exit;
use crate::member::ChatServer;
use crate::room::SharedRoom;
use crate::server::{Listen, Server, Threads, listening};
use crate::values::{Secret, or_never, seconds_or_none};

/// Most lines that are kept.
pub(crate) const MOST_KEPT: u16 = 10_000;

pub(crate) const EXAMPLE: &str = listening!(
    "  chat --listen 7777
  couplet connect 7777    or: nc 127.0.0.1 7777

A member's lines are sent to all others, after the member's name. /nick NAME,
/who, /quit and /help are commands. A member that does not read is cut off when
1 MiB is queued for it; one that talks too fast is delayed; neither holds up the
others. A member that is silent for --idle-timeout is disconnected.

Servers on one NATS cluster, or one Redis server, are one chat:
  chat --listen :7777 --bus nats://10.0.0.5:4222,nats://10.0.0.6:4222
  chat --listen :7777 --bus redis://10.0.0.5
Lines go to the people of all servers, /who lists them all, and no two have the
same name. Without its bus a server still serves its own people, notifies them,
and reconnects automatically. An address may have a user and a password before
an @, percent-encoded, or a token of NATS; tls:// and rediss:// encrypt. Other
users of this machine can read a command line: keep passwords in a configuration
of couplet run.

Lines for returning members, and a page for browsers:
  chat --listen :7777 --bus nats://10.0.0.5:4222 --history --web :8080
Each line has a number, and comes to its speaker too. /from 41 sends the lines
after line 41, on any server, or says which are not kept any more, or that there
is no line 41. Lines are kept for 30 days: with NATS in JetStream, which the
server and the user need, with Redis in a stream, which is as safe as its
settings for persistence, and without --bus in memory. Servers of one chat
either all have --history or none.

Everyone who reaches the page's port may join: for HTTPS and passwords, use tls:
or a proxy. Pages of other sites are refused by their names, but not one whose
own name leads to the address of this server (DNS rebinding). So a page that the
web must not reach, even through browsers, needs a proxy that checks the Host."
);

#[derive(Args, Debug)]
#[expect(missing_docs, reason = "it would become the help of the command")]
pub struct Chat {
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    threads: Threads,
    /// Close the connection of a member that has sent nothing for this many seconds; 0 waits
    /// forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "3600",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    idle_timeout: Duration,
    /// Join the chats of other servers over these NATS servers: nats://HOST:PORT, separated by commas;
    /// or over a Redis server, version 6 or later: redis://HOST:PORT
    #[arg(long, value_name = "URL")]
    bus: Option<Secret>,
    /// Keep the last N lines, of at most 512 KiB together, 100 without a number: with --bus in a
    /// stream of JetStream or Redis, else in memory. Each line has a number, and a member who returns
    /// gets those after its last one
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        default_missing_value = "100",
        value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_KEPT))
    )]
    history: Option<u16>,
    /// Serve a page for browsers at this endpoint, with the same people and lines
    #[arg(long, value_name = "ENDPOINT", value_parser = to_listen, requires = "history")]
    web: Option<Arc<dyn ServerEndpoint>>,
}

/// The server with these options.
///
/// # Errors
///
/// If an address of the bus is wrong, or an option needs a feature that the program lacks.
pub fn server(options: Chat) -> Result<Server, Exit> {
    let idle_timeout = or_never(options.idle_timeout);
    let history = usize::from(options.history.unwrap_or(0));
    let link = Settings::new(options.bus.as_ref(), history)?;
    let room = SharedRoom::new(history);
    let shared = room.clone();
    let prepare = move |_| {
        let shared = shared.clone();
        move |reactor: &Reactor, endpoint| {
            let room = shared.attach(reactor);
            reactor.listen(endpoint, move || ChatServer::new(&room, idle_timeout))
        }
    };
    let mut server = Server::new(options.listen, options.threads, prepare);
    if let Some(endpoint) = options.web {
        server = with_page(server, endpoint, &room)?;
    }
    Ok(match link {
        Some(link) => server.with_link(move || link.service(&room)),
        None => server,
    })
}

/// Adds the port of the page.
#[cfg(feature = "web")]
fn with_page(
    server: Server,
    endpoint: Arc<dyn ServerEndpoint>,
    room: &SharedRoom,
) -> Result<Server, Exit> {
    let room = room.clone();
    let open = move |_| {
        let room = room.clone();
        move |reactor: &Reactor, endpoint| {
            crate::web::listen(reactor, endpoint, &room.attach(reactor))
        }
    };
    Ok(server.with_web(endpoint, open))
}

#[cfg(not(feature = "web"))]
fn with_page(_: Server, _: Arc<dyn ServerEndpoint>, _: &SharedRoom) -> Result<Server, Exit> {
    Err(Exit::without_feature("--web", "web"))
}
