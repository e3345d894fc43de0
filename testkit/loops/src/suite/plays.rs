//! Facts as scripts: the interpreter of their text.
//!
//! A script is a list of steps, separated by `;` or by lines. A step begins with its subject: `a` is
//! the end under test and `b` its peer; the second connection has `a2` and `b2`. Other steps act on
//! the loop. `Play::step`, `Play::end` and `Play::peer` list the steps, `Cast::act` the acts of A,
//! which `, ` separates (or ` & ` within an act). An act may name another end first: `a2 abort`.
//!
//! Before the connection is made, `on data: ACTS` and `once made: ACTS` write A's script, `aware`
//! keeps it open after the peer's end, `client` makes it a client, and `arriving` lets a port accept it
//! later. `next` begins another connection. First of all, `read 4096` sets the size of the reads, and
//! `errors 1` expects one line in the log.
//!
//! `dials open` makes a client by a factory that logs to `a`; its port is `open`, `refusing` or `silent`,
//! and it builds one protocol, `many` or `none`. `listens many max 2` opens a port with such a factory.
//! `factory lost: ACTS` acts in the factory's callback once. `c` is the connector, `port` the port.
//!
//! `protocol` begins another protocol, `p`, to which `upgrade 1 DATA` leads, and `connection` the first
//! connection behind it. A step `in data: STEP` is played only there: in the callback that `callback`
//! names, or where the kit has `sockets`, `tcp` or `unix`, or is `sealed`; `in !data: STEP` elsewhere.
//!
//! `{x|y}` plays the script with each of the choices; groups with the same digit, `{1:x|y}`, choose
//! together. `<3:x>` repeats a text. In data, `BIG` is the kit's and `#4096` its first bytes, `+` joins.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use couplet::reactor::Drain;
use couplet::transport::{Timeout, Upgrade};
use couplet::{
    Bytes, Connector, Deferred, ListenOptions, Port, ProducerKind, SocketOption, Transport, hooks,
};
use couplet_core::driver::CloseMode;

use super::endings::{Ending, call_everything};
use super::kit::{Kit, Rig, Role, tcp_options};
use super::peer::{B, PeerPort, Saw};
use super::recorder::{A, Broken, Call, Log, Maker, On, Script};
use couplet_testkit::logged::logged;

/// Defines facts by their scripts.
#[macro_export]
macro_rules! scripts {
    ($($(#[$doc:meta])* fn $fact:ident() $($script:literal),+;)*) => {
        $(
            $(#[$doc])*
            pub(crate) fn $fact(kit: $crate::suite::kit::Kit) {
                $crate::suite::plays::play(kit, &[$($script),+]);
            }
        )*
    };
}
pub use crate::scripts;

/// Plays each variant of each script.
pub fn play(kit: Kit, scripts: &[impl AsRef<str>]) {
    for text in scripts.iter().flat_map(|script| variants(&repeat(script.as_ref()))) {
        let prompt = Prompt { text: &text, step: RefCell::default(), cast: Cell::default() };
        let mut steps = text.split([';', '\n']).map(str::trim).filter(|step| !step.is_empty());
        let (mut kit, mut errors) = (kit, None);
        let mut first = steps.next();
        while let Some((setting, n)) = first.map(word) {
            match setting {
                "read" => kit = kit.read_buffer(number(n)),
                "errors" => errors = Some(number(n)),
                _ => break,
            }
            first = steps.next();
        }
        let mut perform = || {
            let mut play = Play::new(kit);
            prompt.cast.set(Some(play.cast.clone()));
            for step in first.into_iter().chain(steps.by_ref()) {
                prompt.step.replace(step.to_owned());
                if !play.step(step) {
                    break;
                }
            }
        };
        match errors {
            None => perform(),
            Some(wanted) => {
                let ((), lines) = logged(perform);
                assert_eq!(lines.len(), wanted, "the errors of the log: {lines:?}");
            }
        }
    }
}

/// Writes the repetitions out.
fn repeat(script: &str) -> String {
    let Some((before, rest)) = script.split_once('<') else { return script.to_owned() };
    let (group, after) = rest.split_once('>').expect("the repetition ends");
    let (times, text) = group.split_once(':').expect("a number of times");
    format!("{before}{}{}", text.repeat(number(times)), repeat(after))
}

/// The script with each of its choices.
fn variants(script: &str) -> Vec<String> {
    let Some((before, rest)) = script.split_once('{') else { return vec![script.to_owned()] };
    let (group, after) = rest.split_once('}').expect("the group ends");
    let is_labelled =
        group.starts_with(|c: char| c.is_ascii_digit()) && group[1..].starts_with(':');
    let (label, choices) = group.split_at(if is_labelled { 2 } else { 0 });
    let choices = choices.split('|').enumerate();
    choices
        .flat_map(|(n, choice)| variants(&format!("{before}{choice}{}", choose(after, label, n))))
        .collect()
}

/// Takes the choice `n` of all groups with this label.
fn choose(text: &str, label: &str, n: usize) -> String {
    let mut pieces = text.split('{');
    let mut chosen = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let group = piece.strip_prefix(label).filter(|_| !label.is_empty());
        if let Some((choices, after)) = group.and_then(|group| group.split_once('}')) {
            chosen += choices.split('|').nth(n).expect("as many choices");
            chosen += after;
        } else {
            chosen.push('{');
            chosen += piece;
        }
    }
    chosen
}

/// Prints the script and the step that failed.
struct Prompt<'a> {
    text: &'a str,
    step: RefCell<String>,
    cast: Cell<Option<Rc<Cast>>>,
}

impl Drop for Prompt<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self
                .cast
                .take()
                .map(|cast| cast.ends.borrow().iter().map(|a| a.log.entries()).collect::<Vec<_>>());
            eprintln!("the step `{}` failed in {}\nlogs: {logs:?}", self.step.borrow(), self.text);
        }
    }
}

/// The first word, and the rest.
fn word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// A number of bytes, turns or calls: `5`, `64K`.
fn number(text: &str) -> usize {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    digits.parse::<usize>().unwrap_or_else(|_| panic!("`{text}` is no number")) * unit
}

/// A time: `30`, `200ms`, `30-1ms`.
fn time(text: &str) -> Duration {
    if let Some((time_, less)) = text.split_once('-') {
        return time(time_) - time(less);
    }
    match text.strip_suffix("ms") {
        Some(ms) => Duration::from_millis(number(ms) as u64),
        None => Duration::from_secs(number(text) as u64),
    }
}

/// A limit: a time, or `off`.
fn limit(text: &str) -> Option<Duration> {
    (text != "off").then(|| time(text))
}

/// Names and errors of the tests are static.
fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// Whether the log has these entries; `..` stands for any others in front or behind.
#[track_caller]
fn assert_log(entries: &[String], wanted: &str) {
    let wanted: Vec<&str> = wanted.split(", ").filter(|entry| !entry.is_empty()).collect();
    let len = entries.len();
    let (seen, wanted) = match wanted[..] {
        ["..", ref tail @ ..] => (&entries[len.saturating_sub(tail.len())..], tail),
        [ref head @ .., ".."] => (&entries[..len.min(head.len())], head),
        ref all => (entries, all),
    };
    assert_eq!(seen, wanted, "of {entries:?}");
}

fn on_of(name: &str) -> On {
    [On::Made, On::Data, On::Resumed, On::ReadClosed, On::WriteClosed, On::Draining, On::Lost]
        .into_iter()
        .find(|on| on.entry() == name)
        .unwrap_or_else(|| panic!("`{name}` is no callback"))
}

fn producer_kind(name: &str) -> ProducerKind {
    if name == "push" { ProducerKind::Push } else { ProducerKind::Pull }
}

/// Writes BIG in 1000 pieces of both kinds.
fn write_in_pieces(transport: &Transport, big: &'static [u8]) {
    for (n, piece) in big.chunks(big.len() / 1000).enumerate() {
        match n % 2 {
            0 => transport.write(piece),
            _ => transport.write_bytes(Bytes::from_static(piece)),
        }
    }
}

/// The acts of a producer in its calls: the call, the number of the call or any, and the acts.
type Cue = (Call, Option<usize>, String);

/// A protocol for an upgrade.
#[derive(Default)]
struct Next {
    a: A,
    script: Option<Script>,
    /// Dies with the protocol.
    life: std::rc::Weak<()>,
}

/// The index of the first protocol among the ends.
const PROTOCOLS: usize = 100;

/// The ends under test.
pub(super) struct Cast {
    ends: RefCell<Vec<A>>,
    protocols: RefCell<Vec<Next>>,
    kit: Kit,
    source: RefCell<Vec<Cue>>,
    /// The results of drains, as `finished/closed/aborted`.
    drained: Log,
    /// The reading end of a pipe whose writing end was sent.
    #[cfg(unix)]
    pipe: RefCell<Option<std::io::PipeReader>>,
}

impl Cast {
    fn new(kit: Kit) -> Cast {
        Cast {
            ends: RefCell::default(),
            protocols: RefCell::default(),
            kit,
            source: RefCell::default(),
            drained: Log::default(),
            #[cfg(unix)]
            pipe: RefCell::default(),
        }
    }

    fn data(&self, text: &str) -> Vec<u8> {
        let big = self.kit.big();
        let part = |part: &str| match part.strip_prefix('#').map(number) {
            Some(n) if n <= big.len() => big[..n].to_vec(),
            Some(n) => big.repeat(n / big.len() + 1)[..n].to_vec(),
            None if part == "BIG" => big.to_vec(),
            None => part.as_bytes().to_vec(),
        };
        text.split('+').map(part).collect::<Vec<_>>().concat()
    }

    fn a(&self, n: usize) -> A {
        match n.checked_sub(PROTOCOLS) {
            Some(n) => self.protocols.borrow()[n].a.clone(),
            None => self.ends.borrow()[n].clone(),
        }
    }

    /// Plays acts of an end.
    fn acts(self: &Rc<Cast>, n: usize, transport: &Transport, acts: &str, separator: &str) {
        acts.split(separator).for_each(|act| match subject(act) {
            Some(('a' | 'p', other, act)) => self.act(other, &self.a(other).transport(), act),
            _ => self.act(n, transport, act),
        });
    }

    /// The acts as a closure.
    fn later(
        self: &Rc<Cast>,
        n: usize,
        acts: &str,
        separator: &'static str,
    ) -> impl Fn(&Transport) + use<> {
        let (cast, acts) = (self.clone(), acts.to_owned());
        move |transport| cast.acts(n, transport, &acts, separator)
    }

    fn act(self: &Rc<Cast>, n: usize, t: &Transport, act: &str) {
        let (verb, rest) = word(act);
        let is_on = rest != "off";
        match verb {
            "write" => t.write(self.data(rest)),
            "bytes" if rest == "BIG" => t.write_bytes(Bytes::from_static(self.kit.big())),
            "bytes" => t.write_bytes(self.data(rest)),
            "sequence" => rest.split('|').for_each(|piece| t.write(piece)),
            "pieces" => write_in_pieces(t, self.kit.big()),
            "lose" => t.lose_connection(),
            "half" => t.lose_write_connection(),
            "abort" => t.abort_connection(),
            "fail" => t.fail(Broken(leak(rest))),
            "panic" => panic!("{rest}"),
            "pause" => t.pause_producing(),
            "resume" => t.resume_producing(),
            "push" | "pull" => self.register(n, t, verb),
            "upgrade" => {
                let (number, unread) = word(rest);
                let n: usize = number.parse().expect("the number of a protocol");
                let next = &mut self.protocols.borrow_mut()[n - 1];
                let protocol = next.a.plays(next.script.take().expect("it is not used yet"));
                match unread {
                    "" => t.upgrade(protocol),
                    unread => t.upgrade(Upgrade::with_unread(protocol, self.data(unread))),
                }
            }
            "unmade" => assert!(!self.a(PROTOCOLS).is_made() && !t.wants_data()),
            "start-layer" => {
                let layer = super::sealed::tls(false, t.reactor().now());
                self.asked(n, t.start_layer(layer).is_ok());
            }
            "start-tls" => self.asked(n, t.start_tls(super::sealed::server()).is_ok()),
            #[cfg(unix)]
            "send-pipe" => {
                let (reader, writer) = std::io::pipe().expect("the system has pipes");
                rustix::io::ioctl_fionbio(&reader, true).expect("it is open");
                self.pipe.replace(Some(reader));
                self.asked(n, t.send_descriptor(writer.into()).is_ok());
            }
            "with-socket" => {
                let log = self.a(n).log;
                t.with_socket(move |_| {
                    log.note("asked: ok");
                    Ok(())
                });
            }
            "no-delay" => t.set_option(SocketOption::NoDelay(is_on)),
            "keep-alive" => t.set_option(SocketOption::KeepAlive(limit(rest))),
            "pause_for" => t.pause_for(time(rest)),
            "drains" => t.reactor().drain(time(rest)).detach(),
            "refused" => self.refused(n, t, rest),
            "unregister" => t.unregister_producer(),
            "everything" => assert!(!call_everything(t), "it wants data"),
            "cap" => t.set_write_cap(Some(number(rest))),
            "marks" => {
                let (low, high) = word(rest);
                t.set_write_marks(number(low), number(high));
            }
            "until-end" => hooks::set_write_until_end(t, is_on),
            "at-once" => t.set_close_at_once(is_on),
            "resetting" => t.set_option(SocketOption::ResetUnlessClosed(is_on)),
            "idle" => t.set_timeout(Timeout::Idle, limit(rest)),
            "close-deadline" => t.set_timeout(Timeout::Close, limit(rest)),
            "fin-timeout" => t.set_timeout(Timeout::Fin, limit(rest)),
            "write-timeout" => t.set_timeout(Timeout::Write, limit(rest)),
            "shares-progress" => hooks::share_progress(t, &self.a(number(rest) - 1).transport()),
            "half-close-timeout" => t.set_timeout(Timeout::HalfClose, limit(rest)),
            "writes-while-wanted" => {
                while t.wants_data() && !t.is_full() {
                    t.write([1; 1000]);
                }
            }
            "note" => self.a(n).log.note(rest),
            "note-buffered" => self.a(n).log.note(format!("buffered: {}", t.buffered())),
            "note-full" => self.a(n).log.note(format!("full: {}", t.is_full())),
            "tell" => assert!(self.a(n).tell(self.later(n, rest, " & "))),
            "ask" => self.a(n).log.watch(leak(rest), self.a(n).ask(|_| ())),
            "after" => {
                let (delay, acts) = word(rest);
                drop(self.a(n).call_later(time(delay), self.later(n, acts, " & ")));
            }
            // Logs how a Deferred fires: `watch writable NAME`.
            "watch" => self.watch(n, t, rest, false),
            "loss" => self.watch(n, t, rest, true),
            "cancelled" => {
                let cancelled = Self::deferred(t, rest);
                cancelled.cancel();
                drop(cancelled.add_errback(|_| Ok(())));
            }
            "" => {}
            _ => panic!("`{act}` is no act"),
        }
    }

    fn asked(&self, n: usize, is_ok: bool) {
        self.a(n).log.note(if is_ok { "asked: ok" } else { "asked: refused" });
    }

    fn deferred(t: &Transport, kind: &str) -> Deferred<()> {
        match kind {
            "writable" => t.writable(),
            "flushed" => t.flushed(),
            "ended" => t.peer_ended(),
            _ => panic!("`{kind}` is no Deferred"),
        }
    }

    fn watch(&self, n: usize, t: &Transport, rest: &str, with_reason: bool) {
        let ((kind, name), log) = (word(rest), self.a(n).log);
        match with_reason {
            true => log.watch_loss(leak(name), Self::deferred(t, kind)),
            false => log.watch(leak(name), Self::deferred(t, kind)),
        }
    }

    /// A second producer is dropped without any call.
    fn refused(&self, n: usize, t: &Transport, kind: &str) {
        let (held, kind) = (Rc::new(()), producer_kind(kind));
        let inside = held.clone();
        let source = self.a(n).source(t, move |_, _| drop(inside.clone()));
        assert!(t.register_producer(source, kind).is_err());
        assert_eq!(Rc::strong_count(&held), 1, "the refused producer is dropped");
    }

    /// Registers a producer that plays its cues.
    fn register(self: &Rc<Cast>, n: usize, t: &Transport, kind: &str) {
        let kind = producer_kind(kind);
        let (cast, cues) = (self.clone(), self.source.borrow().clone());
        let mut calls = Vec::new();
        let source = self.a(n).source(t, move |call, transport| {
            calls.push(call);
            let so_far = calls.iter().filter(|made| **made == call).count();
            for (when, number, acts) in &cues {
                if *when == call && number.is_none_or(|number| number == so_far) {
                    cast.acts(n, transport, acts, ", ");
                }
            }
        });
        t.register_producer(source, kind).expect("the first producer");
    }
}

/// The script of an end that plays elsewhere: `aware; once made: ACTS`, and `at 5: ACTS` when it has
/// received this number of bytes.
pub fn script(a: &A, text: &str) -> Script {
    let cast = Rc::new(Cast::new(Kit::sim()));
    cast.ends.borrow_mut().push(a.clone());
    let steps = text.split(';').map(str::trim).filter(|step| !step.is_empty());
    steps.fold(Script::new(), |script, step| {
        let (when, acts) = step.split_once(": ").unwrap_or((step, ""));
        let acts = cast.later(0, acts, ", ");
        match word(when) {
            ("aware", _) => script.aware(),
            ("on", on) => script.on(on_of(on), acts),
            ("once", on) => script.once(on_of(on), acts),
            ("at", n) => {
                let (n, mut acts) = (number(n), Some(acts));
                script.on_a(On::Data, move |a, transport| {
                    if a.received_len() >= n
                        && let Some(acts) = acts.take()
                    {
                        acts(transport);
                    }
                })
            }
            ("echo", _) => {
                let mut echoed = 0;
                script.on_a(On::Data, move |a, transport| {
                    transport.write(&a.received()[echoed..]);
                    echoed = a.received_len();
                })
            }
            _ => panic!("`{step}` is no line of a script"),
        }
    })
}

/// The end or the peer that a step begins with, its index, and the rest.
fn subject(step: &str) -> Option<(char, usize, &str)> {
    let (who, rest) = word(step);
    let kind = who.chars().next().filter(|kind| "abp".contains(*kind))?;
    let n = if who.len() == 1 { 1 } else { who[1..].parse().ok()? };
    Some((kind, n - 1 + if kind == 'p' { PROTOCOLS } else { 0 }, rest))
}

/// The connection that is to be made.
#[derive(Default)]
struct Setup {
    script: Script,
    is_client: bool,
    is_arriving: bool,
    is_protocol: bool,
    /// The words of `dials` and `listens`, and the acts of their factory.
    dials: Option<String>,
    listens: Option<String>,
    factory: Vec<(String, String)>,
}

struct Play {
    rig: Rig,
    cast: Rc<Cast>,
    peers: Vec<B>,
    setup: Option<Setup>,
    callback: String,
    /// The port that a connector dials.
    dialled: Option<Rc<PeerPort>>,
    connector: Option<Connector>,
    port: Option<Port>,
    /// Cancels the last drain.
    canceller: Option<Box<dyn FnOnce()>>,
}

impl Play {
    fn new(kit: Kit) -> Play {
        Play {
            rig: kit.rig(),
            cast: Rc::new(Cast::new(kit)),
            peers: Vec::new(),
            setup: Some(Setup::default()),
            callback: String::new(),
            dialled: None,
            connector: None,
            port: None,
            canceller: None,
        }
    }

    /// The factory of a connector or a port, which builds one protocol, `many` or `none`.
    fn factory(&self, setup: &mut Setup, a: &A, builds: Option<&str>) -> Maker {
        let mut maker = match builds {
            Some("none") => Maker::new(&a.log, |_| None),
            Some("many") => a.makes_many(),
            _ => a.maker(std::mem::take(&mut setup.script)),
        };
        for (when, acts) in setup.factory.drain(..) {
            let (mut acts, log, port) = (Some(acts), a.log.clone(), self.dialled.clone());
            let act = move |connector: &Connector| {
                for act in acts.take().iter().flat_map(|acts| acts.split(", ")) {
                    match word(act) {
                        ("stop", _) => {
                            log.note(format!("stopped: {}", connector.stop_connecting()))
                        }
                        ("connect", _) => assert_eq!(connector.connect(), Ok(())),
                        ("listen", _) => port.as_ref().expect("it dials").listen(),
                        (_, entry) => log.note(entry),
                    }
                }
            };
            maker = match &*when {
                "started" => maker.on_started(act),
                "failed" => maker.on_failed(act),
                _ => maker.on_lost(act),
            };
        }
        maker
    }

    /// A step of the connector.
    fn connector(&self, step: &str) {
        let connector = self.connector.as_ref().expect("it dials");
        match word(step) {
            ("stop", result) => assert_eq!(connector.stop_connecting().to_string(), result),
            ("connect", result) => assert_eq!(connector.connect().is_ok(), result == "Ok"),
            ("disconnect", _) => connector.disconnect(),
            ("connected", _) => {
                assert_eq!(connector.transport(), Some(self.cast.a(0).transport()));
            }
            ("unconnected", _) => assert_eq!(connector.transport(), None),
            _ => panic!("`{step}` is no step of a connector"),
        }
    }

    /// A step of the port.
    fn port(&mut self, step: &str) {
        let port = self.port.as_ref().expect("it listens");
        let is_held = |rig: &mut Rig| rig.l.snapshot().ports[0].paused;
        match word(step) {
            ("stop", name) => {
                let stopped = port.stop_listening().expect("the port listens");
                assert!(!stopped.has_fired() && !port.is_listening());
                self.cast.a(0).log.watch(leak(name), stopped);
            }
            ("stopped", _) => assert!(port.stop_listening().is_none()),
            ("start", _) => port.start_listening().expect("a free port"),
            ("pause", _) => port.pause_producing(),
            ("resume", _) => port.resume_producing(),
            ("refuses", _) => assert!(self.rig.try_peer(port.host()).is_err()),
            ("held", _) => assert!(is_held(&mut self.rig)),
            ("until-free", _) => {
                while is_held(&mut self.rig) {
                    self.rig.turn();
                }
            }
            _ => panic!("`{step}` is no step of a port"),
        }
    }

    /// Ends the script of a protocol.
    fn end_protocol(&mut self) {
        let mut protocols = self.cast.protocols.borrow_mut();
        if let (Some(setup), Some(next)) = (&mut self.setup, protocols.last_mut()) {
            let held = Rc::new(());
            next.life = Rc::downgrade(&held);
            let script = std::mem::take(&mut setup.script);
            next.script = Some(script.on(On::Lost, move |_| drop(held.clone())));
        }
    }

    fn is_in(&self, place: &str) -> bool {
        let kit = self.rig.kit;
        match place {
            "sockets" => kit.has_sockets(),
            "tcp" => kit.has_sockets() && !kit.is_unix(),
            "unix" => kit.is_unix(),
            "sealed" => kit.is_sealed(),
            _ => self.callback == place,
        }
    }

    /// Makes the connection of the current setup.
    fn connect(&mut self) {
        if let Some(mut setup) = self.setup.take() {
            let a = self.rig.end();
            self.cast.ends.borrow_mut().push(a.clone());
            if let Some(dials) = setup.dials.take() {
                let (target, builds) = word(&dials);
                let port = Rc::new(match target {
                    "open" => self.rig.peer_port(),
                    "refusing" => self.rig.refusing_port(),
                    _ => self.rig.silent_port(),
                });
                self.dialled = Some(port.clone());
                let factory = self.factory(&mut setup, &a, Some(builds));
                self.connector = Some(self.rig.connect_with(port.address(), factory));
                return;
            }
            if let Some(listens) = setup.listens.take() {
                let (builds, most) = word(&listens);
                let options = match most.strip_prefix("max ") {
                    Some(most) => ListenOptions::default().max_connections(number(most) as u32),
                    None => ListenOptions::default(),
                };
                let factory = self.factory(&mut setup, &a, Some(builds));
                self.port = Some(self.rig.listen_at(options, factory));
                return;
            }
            let role = if setup.is_client { Role::Client } else { Role::Server };
            let b = match setup.is_arriving {
                true => self.rig.peer_of(&a, setup.script),
                false => self.rig.pair_as(&a, role, setup.script),
            };
            self.peers.push(b);
        }
    }

    /// A line of A's script.
    fn cue(&mut self, is_once: bool, rest: &str) {
        let (when, acts) = rest.split_once(':').expect("a callback and its acts");
        let acts = acts.trim();
        let setup = self.setup.as_ref().expect("it is not connected yet");
        let protocols = self.cast.protocols.borrow().len();
        let n = if setup.is_protocol { PROTOCOLS + protocols - 1 } else { self.peers.len() };
        let acts = self.cast.later(n, acts, ", ");
        let setup = self.setup.as_mut().expect("it is not connected yet");
        let script = std::mem::take(&mut setup.script);
        setup.script = match is_once {
            true => script.once(on_of(when), acts),
            false => script.on(on_of(when), acts),
        };
    }

    /// Plays a step; false ends the script.
    fn step(&mut self, step: &str) -> bool {
        let (verb, rest) = word(step);
        match (verb, &mut self.setup) {
            ("on" | "once", _) => self.cue(verb == "once", rest),
            ("aware", Some(setup)) => setup.script = std::mem::take(&mut setup.script).aware(),
            ("client", Some(setup)) => setup.is_client = true,
            ("server" | "plain", _) => {}
            ("dials", Some(setup)) => setup.dials = Some(rest.to_owned()),
            ("listens", Some(setup)) => setup.listens = Some(rest.to_owned()),
            ("factory", Some(setup)) => {
                let (when, acts) = rest.split_once(": ").expect("a callback and its acts");
                setup.factory.push((when.to_owned(), acts.to_owned()));
            }
            ("arriving", Some(setup)) => setup.is_arriving = true,
            // The acts of the producers registered from now on: `source resume = ACTS`.
            ("source", _) => {
                let (call, acts) = rest.split_once(" =").expect("a call and its acts");
                let (call, n) = word(call);
                let calls =
                    [("resume", Call::Resume), ("pause", Call::Pause), ("stop", Call::Stop)];
                let call = calls.iter().find(|(name, _)| *name == call).expect("a call").1;
                let n = (!n.is_empty()).then(|| number(n));
                self.cast.source.borrow_mut().push((call, n, acts.trim().to_owned()));
            }
            ("callback", _) => rest.clone_into(&mut self.callback),
            ("in", _) => {
                let (place, step) = rest.split_once(": ").expect("a place and a step");
                let (is_not, place) = (place.starts_with('!'), place.trim_start_matches('!'));
                return self.is_in(place) == is_not || self.step(step);
            }
            ("protocol" | "connection", Some(setup)) => {
                let is_protocol = verb == "protocol";
                if std::mem::replace(&mut setup.is_protocol, is_protocol) {
                    self.end_protocol();
                }
                if is_protocol {
                    let a = self.rig.end();
                    self.cast.protocols.borrow_mut().push(Next { a, ..Next::default() });
                }
            }
            // The capacity of the in-memory network.
            ("capacity", _) => {
                let network = self.rig.network.as_ref();
                network.into_iter().for_each(|network| network.set_capacity(number(rest)));
            }
            ("next", _) => {
                self.connect();
                self.setup = Some(Setup::default());
            }
            _ => {
                self.connect();
                match verb {
                    "c" => return (self.connector(rest), true).1,
                    "port" => return (self.port(rest), true).1,
                    _ => {}
                }
                match subject(step) {
                    Some(('a' | 'p', n, step)) => self.end(n, step),
                    Some((_, n, step)) => self.peer(n, step),
                    None => return self.on_loop(verb, rest),
                }
            }
        }
        true
    }

    /// A step of the loop.
    fn on_loop(&mut self, verb: &str, rest: &str) -> bool {
        let rig = &mut self.rig;
        match verb {
            "turn" => rig.turn(),
            "turns" => rig.turns(number(rest)),
            "tick" => rig.tick(),
            "pass" => rig.pass(time(rest)),
            // Goes to this time since the start, and turns.
            "at" => {
                rig.pass(time(rest) - rig.passed());
                rig.turn();
            }
            "any" => {
                let ends = self.cast.ends.borrow().clone();
                rig.until(verb, || ends.iter().any(|a| a.log.has(rest)));
            }
            "sum" => {
                let ((n, entry), ends) = (word(rest), self.cast.ends.borrow());
                assert_eq!(ends.iter().map(|a| a.log.count(entry)).sum::<usize>(), number(n));
            }
            // Drains the loop: `drain 10 close 5 patience 20 paced 3/30`.
            "drain" => {
                let words: Vec<&str> = rest.split(' ').collect();
                let drain =
                    words[1..].chunks(2).fold(Drain::within(time(words[0])), |drain, option| {
                        match option[0] {
                            "close" => drain.close(time(option[1])),
                            "paced" => {
                                let (groups, over) = option[1].split_once('/').expect("a time");
                                drain.paced(number(groups) as u32, time(over))
                            }
                            _ => drain.patience(time(option[1])),
                        }
                    });
                let log = self.cast.drained.clone();
                let drained = rig.reactor.drain(drain);
                let canceller = drained.canceller();
                self.canceller = Some(Box::new(move || canceller.cancel()));
                let noted = drained.add_both(move |drained| {
                    log.note(match drained {
                        Ok(it) => format!("{}/{}/{}", it.finished, it.closed, it.aborted),
                        Err(_) => "failed".to_owned(),
                    });
                    Ok(())
                });
                noted.detach();
            }
            "cancel-drain" => self.canceller.take().expect("it drains")(),
            #[cfg(unix)]
            "pipe-closed" => {
                let mut pipe = self.cast.pipe.borrow_mut();
                let pipe = pipe.as_mut().expect("a pipe was sent");
                assert!(std::io::Read::read(pipe, &mut [0]).is_ok(), "the other end is open");
            }
            "results" => assert_log(&self.cast.drained.entries(), rest),
            "end" => return false,
            "no-timer" => {
                let soon = rig.reactor.now() + time("50");
                assert!(rig.l.next_turn().is_none_or(|due| due < soon), "a timer is left");
            }
            // Runs the loop, which stops at once, after these acts.
            "run" => rig.run(|reactor| {
                reactor.stop();
                self.cast.acts(0, &self.cast.a(0).transport(), rest, ", ");
                Ok(())
            }),
            "time" => assert_eq!(rig.passed(), time(rest)),
            // Stops the loop; each of its waits takes this time.
            "stop" => rig.stop(time(rest)),
            "echoes" => rig.still_echoes(),
            // The peer's port accepts; a peer connects to the port.
            "accepts" => {
                let port = self.dialled.as_ref().expect("it dials");
                self.peers.push(rig.accepted(port));
            }
            "peer" => self.peers.push(rig.peer(self.port.as_ref().expect("it listens"))),
            // The dialled port has no connection, or one that ends.
            "unheard" => {
                if let Some(b) = self.dialled.as_ref().and_then(|port| port.accept()) {
                    assert_ne!(rig.take_to_the_end(&b), Saw::Open);
                }
            }
            "untried" => assert!(rig.tapped.connects.borrow().is_empty()),
            // Ends the script where the number of bytes in flight is unknown, or where bytes stay in flight.
            "in-memory" => return !rig.kit.has_a_system(),
            "at-hand" => return !rig.kit.in_flight(),
            // Brings one of the endings.
            "ends" => Ending::named(rest).bring(rig, &self.cast.a(0), &self.peers[0]),
            _ => panic!("`{verb} {rest}` is no step"),
        }
        true
    }

    /// A step of an end: an expectation, or acts from outside the turn.
    #[track_caller]
    fn end(&mut self, n: usize, step: &str) {
        let (a, rig) = (self.cast.a(n), &mut self.rig);
        let (verb, rest) = word(step);
        match verb {
            "log" => {
                let peer = self.dialled.as_ref().map(|port| port.address());
                let listens = self.port.as_ref().and_then(|_| self.peers.first());
                let peer = peer.or_else(|| listens.map(B::address));
                let peer = peer.map_or_else(|| "peer".to_owned(), |peer| peer.to_string());
                let entries = a.log.entries().into_iter().map(|entry| entry.replace(&peer, "peer"));
                assert_log(&entries.collect::<Vec<_>>(), rest);
            }
            "at-peer" => {
                let dialled = self.dialled.as_ref().map(|port| port.address());
                let peer = dialled.unwrap_or_else(|| self.peers[0].address());
                assert_eq!(*a.transport().peer(), peer);
            }
            "entries" => assert_eq!(a.log.len(), number(rest)),
            "ordered" => {
                assert!(rest.split(' ').map(|entry| a.log.position(entry)).is_sorted());
            }
            "unkept" => {
                let life = &self.cast.protocols.borrow()[n - PROTOCOLS].life;
                assert!(life.upgrade().is_none(), "the unused protocol is kept");
            }
            "same" => assert_eq!(a.transport(), self.cast.a(0).transport()),
            // The options of TCP: whether it does not delay, and keeps alive.
            "tcp" => {
                let (no_delay, keep_alive) = tcp_options(&a.transport());
                assert_eq!(format!("{no_delay:?} {keep_alive:?}"), rest);
            }
            "starting-layer" => assert!(hooks::is_starting_layer(&a.transport())),
            "lost-tls" => {
                let why = rig.lost(&a);
                assert!(why.starts_with("Tls") || why == "Lost", "{why}");
            }
            "asks" => {
                let (name, acts) = word(rest);
                a.log.watch(leak(name), a.ask(self.cast.later(n, acts, ", ")));
            }
            "adjacent" => {
                let (first, second) = word(rest);
                assert_eq!(a.log.position(first) + 1, a.log.position(second));
            }
            "has" => assert!(a.log.has(rest), "no such entry"),
            "lacks" => assert!(!a.log.has(rest), "an unexpected entry"),
            "count" => {
                let (n, entry) = word(rest);
                assert_eq!(a.log.count(entry), number(n), "entries");
            }
            "at-most" => {
                let (n, entry) = word(rest);
                assert!(a.log.count(entry) <= number(n));
            }
            // Turns until the log has such an entry.
            "until" => rig.until(step, || a.log.has(rest)),
            "until-count" => {
                let (n, entry) = word(rest);
                rig.until(step, || a.log.count(entry) == number(n));
            }
            "gets" => {
                let data = self.cast.data(rest);
                rig.until(step, || a.received_len() >= data.len());
                assert!(a.received() == data, "other data: {} bytes", a.received_len());
            }
            "received" => assert!(a.received() == self.cast.data(rest), "{}", a.received_len()),
            // For a reason, or for any.
            "lost" => {
                let why = rig.lost(&a);
                assert!(why.starts_with(rest), "lost for {why}");
            }
            "gone" => assert!(a.is_lost()),
            "open" => assert!(!a.is_lost()),
            "full" => assert!(a.transport().is_full()),
            "roomy" => assert!(!a.transport().is_full()),
            "empties" => rig.until(step, || a.transport().buffered() == 0),
            // Fills the in-memory network up to B, so that further writes stay in A's buffer.
            "fill" => {
                a.transport().write([0; 64 * 1024]);
                rig.until(step, || a.transport().buffered() == 0);
            }
            // Writes until the connection is lost.
            "writes-on" => rig.until(step, || {
                a.transport().write("x");
                a.is_lost()
            }),
            // Turns until this number of bytes has arrived at the driver.
            "hears" => {
                while rig.counts(&a).received < number(rest) {
                    rig.turn();
                }
            }
            // The received bytes of a peer that has sent this number and reset: the memory driver loses half.
            "survives" => {
                let n = number(rest);
                let loses = !rig.kit.has_a_system() && !rig.kit.is_unix();
                let wanted = self.cast.data(&format!("#{}", if loses { n / 2 } else { n }));
                assert!(a.received() == wanted, "{} bytes", a.received_len());
            }
            // The reason is one of these errors of the system.
            "error" => {
                let reason = a.reason();
                let error = reason.downcast_ref::<std::io::Error>().expect("an io::Error");
                assert!(rest.contains(&format!("{:?}", error.kind())), "{error:?}");
            }
            "broke" => assert_eq!(a.reason().downcast_ref(), Some(&Broken(leak(rest)))),
            "buffers" => assert_eq!(a.transport().buffered(), number(rest)),
            "buffers-some" => assert!(a.transport().buffered() > 0),
            "dropped" => assert_eq!(hooks::dropped(&a.transport()), number(rest) as u64),
            "closes-once" => {
                let counts = rig.counts(&a);
                assert_eq!((counts.closes.len(), counts.late), (1, 0));
            }
            "closes" => {
                let modes = rest.split_whitespace().map(|mode| match mode {
                    "Normal" => CloseMode::Normal,
                    "Reset" => CloseMode::Reset,
                    _ => panic!("`{mode}` is no way to close"),
                });
                let counts = rig.counts(&a);
                assert_eq!((counts.closes, counts.late), (modes.collect(), 0));
            }
            "writes" => assert_eq!(rig.counts(&a).writes, number(rest)),
            "written-some" => assert!(rig.counts(&a).written > 0),
            "shuts" => assert_eq!(rig.counts(&a).shut_writes, number(rest)),
            // Acts as a callback of A, in the turn.
            "tells" => assert!(a.tell(self.cast.later(n, rest, ", "))),
            "in" => {
                let (delay, acts) = word(rest);
                drop(a.call_later(time(delay), self.cast.later(n, acts, ", ")));
            }
            _ => self.cast.acts(n, &a.transport(), step, ", "),
        }
    }

    /// A step of a peer.
    #[track_caller]
    fn peer(&mut self, n: usize, step: &str) {
        // Later peers of a connector or a port meet its only recorder.
        let last = self.cast.ends.borrow().len() - 1;
        let (a, b, rig) = (self.cast.a(n.min(last)), &self.peers[n], &mut self.rig);
        let (verb, rest) = word(step);
        match verb {
            "send" => b.send(&self.cast.data(rest)),
            "refused" => assert_eq!(b.try_send(&self.cast.data(rest)), 0, "it is sent"),
            "try" => drop(b.try_send(&self.cast.data(rest))),
            "fin" => b.fin(),
            "reset" => b.reset(),
            "close" => b.close(),
            "take" => drop(b.take(number(rest))),
            "takes" => drop(b.take_all()),
            // B sends, and A gets some of it.
            "sends" => rig.sends(&a, b, &self.cast.data(rest)),
            // B ends its stream, and A gets `read_closed`.
            "fins" => rig.fin(&a, b),
            "gets" => rig.gets(b, &self.cast.data(rest)),
            "got" => {
                let (got, wanted) = (b.got(), self.cast.data(rest));
                assert!(got == wanted, "{} bytes, not {}", got.len(), wanted.len());
            }
            // A part of BIG.
            "got-part" => {
                assert!(self.cast.kit.big().starts_with(&b.got()), "other data");
                assert!(b.got_len() < self.cast.kit.big().len(), "all of it");
            }
            "got-some" => assert!(b.got_len() > 0),
            // Reads to an end: this one, or any.
            "sees" => {
                let saw = format!("{:?}", rig.take_to_the_end(b));
                assert!(saw.starts_with(rest), "{saw}");
            }
            // Reads until it has bytes that begin so, in hexadecimal.
            "reads" => rig.until(step, || {
                b.take_all();
                let hex: String =
                    b.got().iter().take(3).map(|byte| format!("{byte:02x}")).collect();
                hex == rest
            }),
            // Sends everything, as fast as A takes it.
            "pours" => {
                let (data, mut sent) = (self.cast.data(rest), 0);
                rig.until(step, || {
                    sent += b.try_send(&data[sent..data.len().min(sent + 256 * 1024)]);
                    sent == data.len()
                });
            }
            // Gets exactly this in addition.
            "more" => {
                let (before, data) = (b.got_len(), self.cast.data(rest));
                rig.until(step, || {
                    b.take_all();
                    b.got_len() >= before + data.len()
                });
                assert!(b.got()[before..] == data, "other data");
            }
            // Reads this number of bytes, by which A's buffer shrinks.
            "drain" => {
                let left = a.transport().buffered() - number(rest);
                assert_eq!(b.take(number(rest)), number(rest));
                rig.until(step, || a.transport().buffered() == left);
                rig.turns(3);
            }
            // Reads until A's buffer is empty.
            "empties" => rig.until(step, || {
                b.take_all();
                a.transport().buffered() == 0
            }),
            // Reads until A's log has this number of these entries.
            "reads-until" => {
                let (n, entry) = word(rest);
                rig.until(step, || {
                    b.take(256 * 1024);
                    a.log.count(entry) >= number(n)
                });
            }
            "saw" => assert_eq!(format!("{:?}", b.saw()), rest),
            // Reads this number of bytes per turn, to an end.
            "sips" => {
                let (n, saw) = word(rest);
                rig.until(step, || {
                    b.take(number(n));
                    b.saw() != Saw::Open
                });
                assert_eq!(format!("{:?}", b.saw()), saw);
            }
            // Reads this number of bytes per turn, up to this length.
            "sips-to" => {
                let (n, len) = word(rest);
                rig.until(step, || {
                    b.take(number(n));
                    b.got_len() == number(len)
                });
            }
            // Reads our FIN, answers it, and A is lost for this reason.
            "ends" => rig.ends(&a, b, rest),
            "broken" => assert!(b.is_broken()),
            "sound" => assert!(!b.is_broken(), "no reset came after the FIN"),
            _ => panic!("`{step}` is no step of a peer"),
        }
    }
}
