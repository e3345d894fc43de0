//! The command line.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::{
    BoolValueParser, PossibleValuesParser, Styles, TypedValueParser, styling::AnsiColor,
};
use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use couplet::Answers;
use couplet::endpoints::ServerEndpoint;
use couplet::http::{Method, Uri};
use couplet::sim::Weather;
use tracing_subscriber::filter::Targets;

use crate::cert::Name;
use crate::connect::Answer;
use crate::datagrams;
use crate::endpoint::{Peer, to_connect, to_listen};
use crate::http::{DotNames, Links};
use crate::known::Known;
use crate::poetry::{MAX_LINE, transform};
use crate::sim;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

const ABOUT: &str = "Servers and clients for the network: slow poems, an echo, a forwarder, a chat, \
                     files over HTTP";

const EXAMPLE: &str = "\
Example:
  couplet demo

or in two terminals:
  couplet poetry serve --listen 10000
  couplet poetry get 10000

A program for each connection, from elsewhere too:
  couplet forward :7000 process:/bin/cat

Exit codes: 0 success, 1 failure, 2 usage error, 130 or 143 interrupted.
SIGUSR1 makes a running command print what is open and waiting.";

const POETRY_EXAMPLE: &str = "\
Example, in two terminals:
  couplet poetry serve --listen 10000
  couplet poetry get 10000";

const DEMO_EXAMPLE: &str = "\
Example:
  couplet demo

The poems go to stdout, the progress to stderr. It takes about three seconds.";

const COMPLETIONS_EXAMPLE: &str = "\
Example:
  couplet completions bash > ~/.local/share/bash-completion/completions/couplet";

/// An example, followed by the forms of an endpoint to listen on.
macro_rules! listening {
    ($example:literal) => {
        concat!(
            "Example:\n",
            $example,
            "\n
An ENDPOINT is one of:
  10000                           this port, on 127.0.0.1 only
  :10000, tcp:10000               this port, on all interfaces, IPv4 and IPv6
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  192.0.2.7:10000, [::1]:10000    this port, on one address; localhost is 127.0.0.1
  [fe80::1%eth0]:10000            the same, with the interface by name or number
  0                               a free port on 127.0.0.1, printed on stdout
  tls:10000:cert=FILE:key=FILE    TLS; client-ca=FILE requires client certificates
  systemd:NAME, fd:3              a socket of the init system, or an inherited one
  haproxy:10000:trusted=IP/LEN    behind a proxy that writes PROXY headers
  throttle:10000:write=64k        at most so many bytes a second; also read=
  log:10000:file=traffic.pcap     with a log of what passes
The last three and tls: go before any other ENDPOINT, as in haproxy:tls:unix:…"
        )
    };
}

const SERVE_EXAMPLE: &str = listening!(
    "  couplet poetry serve ecstasy.txt --listen 10000 --delay 0.1
  couplet connect 10000

or by name:
  couplet poetry serve ecstasy.txt --by-name --listen 10000
  couplet poetry get 10000 --name ecstasy
  couplet connect 10000    then type ecstasy, or an empty line for the titles"
);

const ECHO_EXAMPLE: &str = listening!(
    "  couplet echo --listen 7000
  couplet connect 7000

A client that reads slowly is read from slowly. Over UDP, with --listen udp:7000 or
udp:7000:interface=127.0.0.1, each datagram goes back to its sender: not to a port below 1024, which
belongs to a service, and to each peer --udp-rate times a second, so that two servers never answer
each other without end."
);

const HTTP_SERVE_EXAMPLE: &str = listening!(
    "  couplet serve --listen 8000                 the folder you are in
  couplet serve site --listen tls:8443:cert=server.pem:key=server.key
  couplet get http://localhost:8000/

HTTP/1.1, and HTTP/2 where the client asks for it. Ranges and conditional requests are answered; a
folder with an index.html is that page, any other one a list of its files. Only files and folders
are served, not devices or pipes; hidden ones and links out of DIR only if asked for. A file that
changes while it is sent ends its connection, since the client would get a mixture of two versions.
-v logs each request."
);

const HTTP_GET_EXAMPLE: &str = "\
Example:
  couplet get https://example.com/
  couplet get -o poem.txt http://localhost:8000/poem.txt

Redirections are followed. Exit codes: 0 success; 1 there is no answer, or its status is 400 or more
(then its body is printed nevertheless); 2 usage error; 130 or 143 interrupted.";

const CONNECT_EXAMPLE: &str = "\
Example:
  couplet connect 7777                      type lines, as in a chat; Ctrl-D ends them
  printf 'hope\\n' | couplet connect 10000   send a request, print the answer
  couplet connect 10000 < /dev/null         send nothing, print what arrives
  couplet connect udp:host:9000             each line is a datagram; print the answers

At the end of stdin the sending side is closed, and what the server still sends is
printed until it closes. If the server closes first, the command ends if stdin is a
terminal; otherwise it sends the rest of stdin, until stdin is silent for a second.
A slow side slows the other down, so nothing is lost or piles up. -v logs the
connection.

An ENDPOINT is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  example.com:10000:timeout=5     the same, with at most 5 seconds to connect
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  process:/bin/cat                a program, on its standard input and output
  serial:/dev/ttyS0:speed=9600    a serial line; also bits=, parity=, stop=, flow=
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log

Exit codes: 0 the connection closed cleanly, or stdout was closed; 1 the connection failed or
was lost, stdin or stdout failed, or the server closed without having sent a byte, though something
was sent to it (unless --no-answer); 2 usage error; 130 or 143 interrupted.";

const FORWARD_EXAMPLE: &str = listening!(
    "  couplet forward :8080 localhost:80             a port, from elsewhere
  couplet forward unix:/run/app.sock 10.0.0.7:80   a UNIX socket, to a port
  couplet forward 8080 unix:/run/app.sock -v       a line for each connection
  couplet forward 7000 'process:/bin/cat -n'       a program for each connection

A program ends with its connection, and its connection with it. When the connection is lost, the
program's input is closed. Its process group gets SIGTERM, after a clean close 5 seconds later, and
SIGKILL another 5 seconds later (kill=SECONDS). It counts as a connection until it has exited.
keep=yes leaves it alone.
haproxy: sends the client's address to the server.

With udp:PORT or udp:HOST:PORT for both, datagrams are forwarded, and the answers; a client that is
silent for the idle timeout, a minute unless set, is forgotten.

Each connection to LISTEN is joined to a new one to CONNECT. What one side sends
reaches the other, and so does its end: a closed sending side leaves the other
direction open, a reset becomes a reset. A slow reader is read for slowly, so
nothing piles up. Nothing is read from a client before CONNECT has answered; if
that fails the client is reset, and a line on stderr says why. Ctrl-C prints the
totals.

CONNECT is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  process:/bin/cat                a program; also kill=, keep=, stderr=, directory=
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log"
);

const TRANSFORM_EXAMPLE: &str = listening!(
    "  couplet poetry transform --listen 11000
  couplet poetry get 10000 --transform 11000 --transform-name pirate
  printf '9:upper.ode,' | couplet connect 11000

The transformations:
  cummingsify    in lower case
  upper          in upper case
  reverse        the last line first
  pirate         as they say it at sea

A client that reads slowly is read from slowly. One that announces a request and
does not send it is cut off after --idle-timeout."
);

const LIST_EXAMPLE: &str = "\
Example, in two terminals:
  couplet poetry serve --by-name --listen 10000
  couplet poetry list 10000

An ADDRESS is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  tcp:example.com:10000           the same, spelt out
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log";

const PROXY_EXAMPLE: &str = listening!(
    "  couplet poetry serve --listen 10000
  couplet poetry proxy --upstream 10000 --listen 10100
  couplet poetry get 10100

Clients that connect during a fetch share it; nothing is sent before the poem is
complete. If no upstream has a poem, waiting clients are closed without data,
and the next client makes the proxy try again. An upstream that failed is
skipped for 30 seconds, unless all did. An empty poem counts as a failure.
With --threads, each of them fetches the poem for itself.

A client may close its sending side and keep waiting; one that has gone is
noticed immediately if it resets, else within a minute and a half."
);

const CHAT_EXAMPLE: &str = listening!(
    "  couplet chat --listen 7777
  couplet connect 7777

What a member types is sent to all others, after the member's name. /nick NAME,
/who, /quit and /help are commands. A member that does not read is cut off when
1 MiB is queued for it; one that talks too fast is delayed; neither holds up the
others. A member that is silent for an hour is disconnected."
);

const CERT_EXAMPLE: &str = "\
Example:
  couplet cert certs localhost 127.0.0.1
  couplet echo --listen tls:7000:cert=certs/localhost.pem:key=certs/localhost.key
  couplet connect tls:localhost:7000:ca=certs/ca.pem

DIR gets ca.pem and ca.key, the authority; NAME.pem and NAME.key for each NAME; and client.pem and
client.key, for servers that require client certificates (client-ca=certs/ca.pem). Only you can
read the keys. In the name of a file, _ stands for a colon or a star.

For tests only: the certificates are valid until 2100, cannot be revoked, and whoever has ca.key can
issue others for any name. Never have a browser or a system trust ca.pem.

Exit codes: 0 success, 1 a file exists or cannot be written, 2 usage error.";

const SIM_EXAMPLE: &str = "\
Example:
  couplet sim poetry --seeds 1..1000
  couplet sim chat --seeds 17 --weather storm --trace chat.txt --pcap chat.pcap
  couplet sim devices --time 86400

A world runs in virtual time, and its seed decides everything in it: the same seed gives the same
trace. A failure comes with its seed, the shortest list of faults that still fails, and the trace
before it. COUPLET_SEED=17 in the environment means --seeds 17.

Exit codes: 0 all is well, 1 a world broke, 2 usage error.";

const GET_EXAMPLE: &str = "\
Example:
  couplet poetry get 10000 10001 localhost:10002 --timeout 30 > poems.txt
  couplet poetry get 10000 --name ozymandias --transform 11000

An ADDRESS is one of:
  10000                           this port, on 127.0.0.1
  localhost:10000, [::1]:10000    a name or an IP address, and a port
  tcp:example.com:10000           the same, spelt out
  unix:/run/app.sock, unix:@app   this UNIX socket, or this abstract name
  tls:example.com:443             with TLS; ca=FILE trusts another authority
  haproxy:…, throttle:…, log:…    before any of these: a PROXY header, a limit, a log

Exit codes: 0 success, 1 a poem is missing or was not transformed, 2 usage error, 130 or 143
interrupted.";

#[derive(Parser, Debug)]
#[command(
    name = "couplet",
    version,
    propagate_version = true,
    about = ABOUT,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLE
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logging: Logging,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Logging")]
pub(crate) struct Logging {
    /// Log more on stderr: -v for important events, -vv for each connection
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    /// Events to log, as in `warn` or `couplet=debug,info`
    #[arg(long, value_name = "FILTER", global = true, value_parser = filter)]
    pub(crate) log: Option<Targets>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Fetch poems from three slow servers at the same time
    #[command(after_help = DEMO_EXAMPLE)]
    Demo,
    /// Poetry servers and clients
    #[command(subcommand, after_help = POETRY_EXAMPLE)]
    Poetry(Poetry),
    /// Send stdin to a server, a program or a serial line, and print the answer
    #[command(after_help = CONNECT_EXAMPLE)]
    Connect(Connect),
    /// Send back everything received, over TCP, TLS, UNIX sockets or UDP
    #[command(after_help = ECHO_EXAMPLE)]
    Echo(Echo),
    /// Join each connection to a new one elsewhere, or to a program; or forward UDP
    #[command(after_help = FORWARD_EXAMPLE)]
    Forward(Forward),
    /// Serve the files of a folder over HTTP
    #[command(after_help = HTTP_SERVE_EXAMPLE)]
    Serve(HttpServe),
    /// Fetch a URL and print it
    #[command(after_help = HTTP_GET_EXAMPLE)]
    Get(HttpGet),
    /// A line chat for people at terminals
    #[command(after_help = CHAT_EXAMPLE)]
    Chat(Chat),
    /// Make certificates for tests of TLS, and an authority that issues them
    #[command(after_help = CERT_EXAMPLE)]
    Cert(Cert),
    /// Test protocols on simulated networks that fail: hours of bad weather in seconds
    #[command(after_help = SIM_EXAMPLE)]
    Sim(Sim),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_EXAMPLE)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum Poetry {
    /// Send a poem to each client, slowly, then close
    #[command(after_help = SERVE_EXAMPLE)]
    Serve(Serve),
    /// Fetch poems from many servers at once
    #[command(after_help = GET_EXAMPLE)]
    Get(Get),
    /// Print the titles of a server that runs with --by-name
    #[command(after_help = LIST_EXAMPLE)]
    List(List),
    /// Transform poems that clients send, as netstrings NAME.POEM
    #[command(after_help = TRANSFORM_EXAMPLE)]
    Transform(Transform),
    /// Fetch a poem once, cache it, and serve it to all clients
    #[command(after_help = PROXY_EXAMPLE)]
    Proxy(Proxy),
}

// Shared by several commands. No doc comments: they would become the commands' help.

#[derive(Args, Debug)]
pub(crate) struct Listen {
    /// Endpoint to listen on; may be repeated [default: a free port on 127.0.0.1]
    #[arg(
        short = 'l',
        long = "listen",
        value_name = "ENDPOINT",
        value_parser = to_listen,
        allow_negative_numbers = true
    )]
    // Bound: the arguments on the command line.
    pub(crate) endpoints: Vec<Arc<dyn ServerEndpoint>>,
    #[command(flatten)]
    pub(crate) drain: Drain,
    /// When to send the answers of one turn: each immediately, all together, or as the loop's
    /// measurements suggest
    #[arg(long, value_name = "WHEN", default_value = "measured", value_parser = answers())]
    pub(crate) answers: Answers,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Threads {
    /// Number of serving threads; auto (or 0) starts one per processor
    #[arg(
        long = "threads",
        value_name = "N",
        default_value = "1",
        value_parser = threads,
        allow_negative_numbers = true
    )]
    pub(crate) number: usize,
}

fn answers() -> impl TypedValueParser<Value = Answers> {
    PossibleValuesParser::new(["at-once", "together", "measured"]).map(|word| match &word[..] {
        "at-once" => Answers::AtOnce,
        "together" => Answers::Together,
        _ => Answers::Measured,
    })
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// On SIGTERM, let connections finish for this many seconds; Ctrl-C or a second signal exits
    /// immediately
    #[arg(
        long = "drain",
        value_name = "SECONDS",
        default_value = "5",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(crate) time: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Limit {
    /// Give up on a poem that is longer than this many bytes [default: 64 MiB]
    #[arg(
        long,
        value_name = "N",
        default_value = "67108864",
        hide_default_value = true,
        value_parser = bytes,
        allow_negative_numbers = true
    )]
    pub(crate) max_bytes: u64,
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Files with one poem each; each client gets the next [default: built-in poems]
    // Bound: the arguments on the command line.
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// Serve poems on request: for each, the client sends a line with its title, which is the
    /// file's name without the extension; case does not matter
    #[arg(long)]
    pub(crate) by_name: bool,
    /// Seconds between the parts of a poem; 0 means full speed
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "0.7",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(crate) delay: Duration,
    /// Bytes in a part
    #[arg(
        long,
        value_name = "N",
        default_value = "10",
        value_parser = one_or_more,
        allow_negative_numbers = true
    )]
    pub(crate) num_bytes: u64,
    /// With --by-name, close a connection that sends nothing for this many seconds while no answer
    /// is in progress; 0 waits forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "300",
        value_parser = seconds_or_none,
        allow_negative_numbers = true,
        requires = "by_name"
    )]
    pub(crate) idle_timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// Servers; one poem is fetched from each
    #[arg(
        value_name = "ADDRESS",
        value_parser = to_connect,
        required = true,
        allow_negative_numbers = true
    )]
    // Bound: the arguments on the command line.
    pub(crate) addresses: Vec<Peer>,
    /// Request the poem with this title; the servers run with --by-name
    #[arg(long, value_name = "TITLE", value_parser = title)]
    pub(crate) name: Option<String>,
    /// Have each poem transformed by this server, a `poetry transform`
    #[arg(long, value_name = "ADDRESS", value_parser = to_connect)]
    pub(crate) transform: Option<Peer>,
    /// The transformation; `poetry transform --list` prints all
    #[arg(
        long,
        value_name = "NAME",
        default_value = "cummingsify",
        value_parser = Known { values: transform::names, read: transformation },
        hide_possible_values = true,
        requires = "transform"
    )]
    pub(crate) transform_name: String,
    /// Give up on a poem that is incomplete after this many seconds, and likewise on its
    /// transformation
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) limit: Limit,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// The server
    #[arg(value_name = "ADDRESS", value_parser = to_connect, allow_negative_numbers = true)]
    pub(crate) address: Peer,
    /// Give up if the titles are incomplete after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Transform {
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// Longest request in bytes, including the name
    #[arg(
        long,
        value_name = "N",
        default_value = "99999",
        value_parser = one_or_more,
        allow_negative_numbers = true
    )]
    pub(crate) max_length: u64,
    /// Close a connection that sends nothing for this many seconds; 0 waits forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "300",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(crate) idle_timeout: Duration,
    /// Print the names of the transformations and exit
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Proxy {
    /// A server to fetch the poem from, as in `poetry get`; given several times, each fetch uses
    /// the next one
    #[arg(
        short,
        long,
        value_name = "ADDRESS",
        value_parser = to_connect,
        required = true,
        allow_negative_numbers = true
    )]
    // Bound: the arguments on the command line.
    pub(crate) upstream: Vec<Peer>,
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// Fetch the poem again after this many seconds; 0 caches nothing [default: never]
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(crate) ttl: Option<Duration>,
    /// Give up on a fetch that is incomplete after this many seconds
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "300",
        value_parser = seconds,
        allow_negative_numbers = true
    )]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) limit: Limit,
}

#[derive(Args, Debug)]
pub(crate) struct Connect {
    /// The endpoint to connect to
    #[arg(value_name = "ENDPOINT", value_parser = datagrams::remote, allow_negative_numbers = true)]
    pub(crate) endpoint: datagrams::Remote,
    /// Expect no answer: it is not an error if the server closes without sending anything
    #[arg(
        long = "no-answer",
        action = ArgAction::SetTrue,
        value_parser = flag(Answer::Unasked, Answer::Unexpected)
    )]
    pub(crate) answer: Answer,
}

#[derive(Args, Debug)]
pub(crate) struct Echo {
    /// Endpoint to listen on, udp:PORT for datagrams; may be repeated [default: a free port on
    /// 127.0.0.1]
    #[arg(
        short = 'l',
        long = "listen",
        value_name = "ENDPOINT",
        value_parser = datagrams::local,
        allow_negative_numbers = true
    )]
    // Bound: one for each `--listen` on the command line.
    pub(crate) endpoints: Vec<datagrams::Local>,
    #[command(flatten)]
    pub(crate) drain: Drain,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// When to send the answers of one turn: each immediately, all together, or as the loop's
    /// measurements suggest
    #[arg(long, value_name = "WHEN", default_value = "measured", value_parser = answers())]
    pub(crate) answers: Answers,
    /// Close a connection that sends nothing for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Send each peer at most this many answers per second; 0 for no limit
    #[arg(long, value_name = "N", default_value = "1000", allow_negative_numbers = true)]
    pub(crate) udp_rate: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Forward {
    /// The endpoint to listen on: an ENDPOINT, as below
    #[arg(value_name = "LISTEN", value_parser = datagrams::local, allow_negative_numbers = true)]
    pub(crate) listen: datagrams::Local,
    /// The endpoint to connect to for each client
    #[arg(value_name = "CONNECT", value_parser = datagrams::remote, allow_negative_numbers = true)]
    pub(crate) connect: datagrams::Remote,
    /// Give up connecting after this many seconds; the timeout= of CONNECT, 30 by default, applies
    /// too
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) connect_timeout: Option<Duration>,
    /// Reset both connections when no bytes have moved in either direction for this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Serve at most this many clients at a time, and turn others away [default: half the limit on
    /// descriptors]
    #[arg(long, value_name = "N", value_parser = clients, allow_negative_numbers = true)]
    pub(crate) max_connections: Option<usize>,
    #[command(flatten)]
    pub(crate) drain: Drain,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(Args, Debug)]
pub(crate) struct HttpServe {
    /// The folder
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) folder: PathBuf,
    /// Also serve files and folders whose names begin with a dot
    #[arg(
        long = "hidden",
        action = ArgAction::SetTrue,
        value_parser = flag(DotNames::Hidden, DotNames::Served)
    )]
    pub(crate) dot_names: DotNames,
    /// Follow all symbolic links; without this option only relative ones that stay inside DIR
    #[arg(
        long = "follow",
        action = ArgAction::SetTrue,
        value_parser = flag(Links::Inside, Links::Anywhere)
    )]
    pub(crate) links: Links,
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) threads: Threads,
}

#[derive(Args, Debug)]
pub(crate) struct HttpGet {
    /// An http: or https: URL; http:// may be omitted
    #[arg(value_name = "URL", value_parser = url)]
    pub(crate) url: Uri,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Also print the head of the response
    #[arg(short, long)]
    pub(crate) include: bool,
    /// Request only the head of the response
    #[arg(
        short = 'I',
        long = "head",
        action = ArgAction::SetTrue,
        value_parser = flag(Method::GET, Method::HEAD)
    )]
    pub(crate) method: Method,
    /// Request a compressed response (zstd, br, gzip or deflate) and decode it, to at most 256 MiB;
    /// a response that cannot be decoded is an error. Without this option the bytes are printed as
    /// the server sends them
    #[arg(long)]
    pub(crate) compressed: bool,
    /// Trust the certificates in this PEM file instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Connect through this proxy
    #[arg(long, value_name = "HOST:PORT", value_parser = host_and_port)]
    pub(crate) proxy: Option<(String, u16)>,
    /// Give up if no response has begun after this many seconds [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
}

/// A flag that selects `on` instead of `off`.
fn flag<T>(off: T, on: T) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
{
    BoolValueParser::new().map(move |is_on| if is_on { on.clone() } else { off.clone() })
}

/// Parses an absolute http: or https: URL.
fn url(text: &str) -> Result<Uri, String> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = whole.parse::<Uri>().map_err(|error| error.to_string())?;
    match url.scheme_str() {
        Some("http" | "https") if url.host().is_some_and(|host| !host.is_empty()) => Ok(url),
        _ => Err("expected a URL, as in https://example.com/".to_owned()),
    }
}

/// Parses a host and a port, such as `proxy.test:3128`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match split.filter(|(host, _)| !host.is_empty()) {
        Some((host, port)) => Ok((host.trim_matches(['[', ']']).to_owned(), port)),
        None => Err("expected a host and a port, as in proxy.test:3128".to_owned()),
    }
}

#[derive(Args, Debug)]
pub(crate) struct Cert {
    /// The folder; it is created if necessary
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// Subjects of the certificates, each a DNS name, *.NAME, or an IP address
    // Bound: the arguments on the command line.
    #[arg(value_name = "NAME", required = true, value_parser = Name::parse)]
    pub(crate) names: Vec<Name>,
    /// Replace existing files
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Sim {
    /// The world to run; without it, the worlds are listed
    #[arg(
        value_name = "SCENARIO",
        value_parser = Known { values: sim::names, read: |name| Ok(name.to_owned()) }
    )]
    pub(crate) scenario: Option<String>,
    /// Seeds, one world each: a number, or FIRST..LAST, both included
    #[arg(long, value_name = "SEEDS", value_parser = seeds)]
    pub(crate) seeds: Option<(u64, u64)>,
    /// calm, breezy or storm [default: the scenario's own]
    #[arg(
        long,
        value_name = "WEATHER",
        value_parser = Known { values: || vec!["calm", "breezy", "storm"], read: weather },
        hide_possible_values = true
    )]
    pub(crate) weather: Option<Weather>,
    /// Write the trace of the failed seed, or else of the first, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Write the packets of the same seed to this capture file, for Wireshark
    #[arg(long, value_name = "FILE")]
    pub(crate) pcap: Option<PathBuf>,
    /// Virtual seconds that the devices world runs [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) time: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Chat {
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) threads: Threads,
    /// Close the connection of a member that has sent nothing for this many seconds; 0 waits
    /// forever
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "3600",
        value_parser = seconds_or_none,
        allow_negative_numbers = true
    )]
    pub(crate) idle_timeout: Duration,
}

/// Maps a timeout of 0 to `None`.
pub(crate) fn or_never(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

fn seconds_or_none(text: &str) -> Result<Duration, String> {
    time(text, "a number of seconds, 0 or more, is expected here")
}

fn seconds(text: &str) -> Result<Duration, String> {
    let expected = "a number of seconds above 0 is expected here";
    time(text, expected)
        .and_then(|time| if time.is_zero() { Err(expected.to_owned()) } else { Ok(time) })
}

fn time(text: &str, expected: &str) -> Result<Duration, String> {
    if let Ok(whole) = text.parse() {
        return Ok(Duration::from_secs(whole));
    }
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
    let seconds = seconds.ok_or_else(|| expected.to_owned())?;
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| format!("at most {} seconds fit here", u64::MAX))
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    match (first.trim().parse(), last.trim_start_matches('=').trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        _ => Err("a number or FIRST..LAST is expected here".to_owned()),
    }
}

fn bytes(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a number of bytes is expected here".to_owned())
}

fn one_or_more(text: &str) -> Result<u64, String> {
    let number = bytes(text).ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a number of bytes, 1 or more, is expected here".to_owned())
}

/// Upper limit of `--threads`: no machine has more processors.
const MOST_THREADS: usize = 1024;

/// 0 stands for one per processor.
fn threads(text: &str) -> Result<usize, String> {
    let number = if text == "auto" { Some(0) } else { text.parse().ok() };
    number.filter(|number| *number <= MOST_THREADS).ok_or_else(|| {
        format!("a number of threads, at most {MOST_THREADS}, or auto is expected here")
    })
}

fn clients(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "a number of connections, 1 or more, is expected here".to_owned())
}

/// Parses a title: one line, and not the request for the list of titles.
fn title(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "?" {
        return Err("a title is expected here; `poetry list` prints those of a server".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("a title has no control characters".to_owned());
    }
    if text.len() > MAX_LINE {
        return Err(format!("a title has at most {MAX_LINE} bytes"));
    }
    Ok(text.to_owned())
}

fn transformation(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('.') {
        return Err("a name without a dot is expected here; `poetry transform --list` prints \
                    them"
            .to_owned());
    }
    Ok(text.to_owned())
}

fn weather(text: &str) -> Result<Weather, String> {
    text.parse::<Weather>().map_err(|error| error.to_string())
}

fn filter(text: &str) -> Result<Targets, String> {
    const EXAMPLES: &str = "examples are warn, or couplet=debug,info";
    let known = |c: char| c.is_ascii_alphanumeric() || "_:=,-".contains(c);
    if let Some(odd) = text.chars().find(|c| !known(*c)) {
        // It would become part of a target that matches nothing.
        return Err(format!("{odd:?} is not allowed in a filter; {EXAMPLES}"));
    }
    Targets::from_str(text).map_err(|error| format!("{error}; {EXAMPLES}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn a_filter_is_levels_and_targets_and_nothing_else() {
        for good in ["warn", "couplet=debug,info", "couplet::reactor=trace"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["bad[[[", "couplet=nonsense", "==", "info debug"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_weather_that_is_completed_is_taken() {
        let command = Cli::command();
        let sim = command.find_subcommand("sim").unwrap();
        let arg = sim.get_arguments().find(|arg| arg.get_id() == "weather").unwrap();
        let known = arg.get_possible_values();
        assert_eq!(known.len(), 3);
        assert!(known.iter().all(|known| weather(known.get_name()).is_ok()));
    }

    #[test]
    fn seconds_are_finite_and_not_negative() {
        assert_eq!(seconds_or_none("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["", "-1", "nan", "inf", "soon"] {
            assert!(seconds_or_none(bad).unwrap_err().contains("is expected here"), "{bad}");
        }
        assert_eq!(seconds("18446744073709551615"), Ok(Duration::from_secs(u64::MAX)));
        for long in ["18446744073709551616", "1e300"] {
            assert!(seconds(long).unwrap_err().contains("at most 18446744073709551615"), "{long}");
        }
        assert!(seconds("0").is_err());
    }

    #[test]
    fn threads_are_a_number_or_as_many_as_processors() {
        assert_eq!(
            ["1", "3", "0", "auto", "1024"].map(threads),
            [Ok(1), Ok(3), Ok(0), Ok(0), Ok(1024)]
        );
        for bad in ["", "-1", "1.5", "many", "1025", "99999999999999999999"] {
            assert!(threads(bad).unwrap_err().contains("or auto is expected here"), "{bad}");
        }
    }

    #[test]
    fn seeds_are_a_number_or_a_range() {
        assert_eq!(seeds("7"), Ok((7, 7)));
        assert_eq!(seeds("1..1000"), Ok((1, 1000)));
        for bad in ["", "..", "3..1", "a..b", "1..", "-1"] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_title_fits_into_a_line() {
        for good in ["ode", "Two Words", "../ode", "\u{e4}", &"x".repeat(1024)] {
            assert_eq!(title(good).as_deref(), Ok(good));
        }
        for bad in ["", "?", "a\nb", "a\r", "\0", &"x".repeat(1025)] {
            assert!(title(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_part_has_at_least_one_byte() {
        assert_eq!(one_or_more("1"), Ok(1));
        for bad in ["0", "-1", "", "ten", "1.5"] {
            assert!(one_or_more(bad).is_err(), "{bad}");
        }
    }
}
