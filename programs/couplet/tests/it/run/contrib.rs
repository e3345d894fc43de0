//! The configurations in `contrib/`: each is started, or checked by the software that reads it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use super::restart::Restarted;
use super::{FILE, Program};
use crate::kit::{
    Client, Member, Running, couplet, haproxy, kept_until, lines_until, pause, renamed,
    unused_port, wait_until,
};
use crate::needed::{Folder, Venv, missing};
use crate::servers;

const HAPROXY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/haproxy/haproxy.cfg");
const NODE: &str = include_str!("../../../../../contrib/haproxy/couplet.toml");
const NATS: &str = include_str!("../../../../../contrib/nats/nats-server.conf");
const REDIS: &str = include_str!("../../../../../contrib/redis/redis.conf");
const KUBERNETES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../contrib/kubernetes/chat.yaml");

/// A text with other values; fails if it has lost one of the old ones.
#[track_caller]
fn with(text: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(text.to_owned(), |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not in: {text}");
        text.replace(old, new)
    })
}

/// The NATS server of `contrib/nats`, and the folder of its streams.
fn bus() -> Option<(servers::Server, Folder)> {
    let folder = Folder::new();
    let streams = folder.path("streams");
    // The kit waits for the routes of a cluster, which a comment has.
    let text: String = NATS.split_inclusive('\n').filter(|line| !line.starts_with('#')).collect();
    let text = with(&text, &[("$CHAT_PASSWORD", "s3cret"), ("/var/lib/nats", &streams)]);
    Some((servers::Server::start_with(&text, &["-a", "127.0.0.1"])?, folder))
}

/// A DNS server that answers every question for an address with the nodes' addresses.
struct Dns {
    address: SocketAddr,
    nodes: Arc<Mutex<Vec<Ipv4Addr>>>,
}

impl Dns {
    fn start() -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let dns = Dns { address: socket.local_addr().unwrap(), nodes: Arc::default() };
        let nodes = dns.nodes.clone();
        std::thread::spawn(move || {
            let mut question = [0; 8192];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                let answer = answer(&question[..length], &nodes.lock().unwrap());
                socket.send_to(&answer, from).unwrap();
            }
        });
        dns
    }

    fn set(&self, numbers: &[u8]) {
        *self.nodes.lock().unwrap() = numbers.iter().map(|n| address(*n)).collect();
    }
}

/// An answer: RFC 1035, 4.1.
fn answer(question: &[u8], nodes: &[Ipv4Addr]) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0).unwrap();
    let asked = &question[12..12 + name + 5];
    // The question's type: A is 1.
    let nodes = if asked[name + 1..name + 3] == [0, 1] { nodes } else { &[] };
    let count = nodes.len() as u8;
    let head = [question[0], question[1], 0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0];
    let record =
        |node: &Ipv4Addr| [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4][..], &node.octets()].concat();
    [&head[..], asked, &nodes.iter().flat_map(record).collect::<Vec<_>>()].concat()
}

/// The address of a node: each has the same ports.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, number)
}

/// HAProxy by `contrib/haproxy` in front of nodes that share a bus.
struct Site {
    front: SocketAddr,
    dns: Dns,
    chat: u16,
    health: u16,
    bus: servers::Server,
    folder: Folder,
    _streams: Folder,
    haproxy: Running,
}

impl Site {
    fn start() -> Option<Site> {
        let (bus, streams) = bus()?;
        let ([chat, health], dns, folder) =
            ([unused_port().0.port(), unused_port().0.port()], Dns::start(), Folder::new());
        let (haproxy, front) = haproxy(
            HAPROXY,
            &[
                ("CHAT_LISTEN", "fd@0"),
                ("CHAT_NODES", &format!("chat.test:{chat}")),
                ("CHAT_HEALTH_PORT", &health.to_string()),
                ("CHAT_DNS", &dns.address.to_string()),
                ("HAPROXY_SOCKET", &folder.path("admin")),
            ],
        );
        Some(Site { front, dns, chat, health, bus, folder, _streams: streams, haproxy })
    }

    fn node(&self, number: u8) -> Restarted {
        let host = address(number);
        let (chat, health) = (self.chat, self.health);
        let text = with(
            NODE,
            &[
                ("tcp:9000", &format!("tcp:{health}:interface={host}")),
                ("haproxy:tcp:7778", &format!("haproxy:tcp:{chat}:interface={host}")),
                (
                    "chat:CHANGE-ME@nats.internal:4222",
                    &format!("chat:s3cret@127.0.0.1:{}", self.bus.port),
                ),
                ("couplet.sock", "ctl"),
                ("log-level", "pid-file = \"pid\"\nlog-level"),
                ("drain = 60", "drain = 1"),
                ("not-ready-for = 4", "not-ready-for = 3"),
            ],
        );
        let node = Restarted::start(&text);
        node.wait_told("connected to the bus");
        node
    }

    /// Waits until HAProxy gives clients to `count` nodes.
    fn wait_up(&self, count: usize) {
        wait_until(&format!("{count} nodes"), || {
            assert_eq!(
                self.haproxy.told().matches("[ALERT]").count(),
                0,
                "{}",
                self.haproxy.told()
            );
            self.state().lines().filter(|line| is_up(line)).count() == count
        });
    }

    fn state(&self) -> String {
        let Ok(mut admin) = std::os::unix::net::UnixStream::connect(self.folder.path("admin"))
        else {
            return String::new();
        };
        std::io::Write::write_all(&mut admin, b"show servers state chat\n").unwrap();
        std::io::read_to_string(&mut admin).unwrap()
    }

    fn join(&self) -> Member {
        Member::greeted(Client::connect(self.front))
    }
}

/// A line of `show servers state`: the fifth word is 2 if the server runs, the sixth has the bits of
/// its maintenance.
fn is_up(line: &str) -> bool {
    let words: Vec<&str> = line.split(' ').collect();
    words.len() > 6 && words[1] == "chat" && words[5] == "2" && words[6] == "0"
}

/// People who join, list the members, and leave, repeatedly. Each step must succeed.
struct Visits {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<usize>>,
}

impl Visits {
    fn start(front: SocketAddr) -> Visits {
        let over = Arc::<AtomicBool>::default();
        let visit = move |over: Arc<AtomicBool>| {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let mut guest = Member::greeted(Client::connect(front));
                guest.say("/who");
                while !guest.line().contains(" here: ") {}
                guest.say("/quit");
                guest.0.read_to_end().expect("an orderly end");
                count += 1;
                pause();
            }
            count
        };
        let threads =
            (0..3).map(|_| over.clone()).map(|over| std::thread::spawn(move || visit(over)));
        Visits { threads: threads.collect(), over }
    }

    fn end(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("no visit fails")).sum()
    }
}

/// Whether the member was still connected: the chat answers, and says goodbye.
fn is_served(mut member: Member) -> bool {
    member.0.send(b"/who\n/quit\n");
    let heard = member.0.read_to_end();
    heard.is_ok_and(|heard| String::from_utf8_lossy(&heard).contains(" here: "))
}

#[test]
fn behind_haproxy_no_visit_fails_and_no_idle_connection_is_lost_when_a_node_restarts() {
    needs!("haproxy");
    let Some(site) = Site::start() else { return };
    let nodes = [1, 2, 3].map(|number| site.node(number));
    site.dns.set(&[1, 2, 3]);
    site.wait_up(3);
    let idle: Vec<Member> = (0..30).map(|_| site.join()).collect();
    for node in &nodes {
        let status = node.ctl(&["status", "--json"]);
        assert!(status.text().contains("\"peer\":\"tcp:127.0.0.1:"), "people are on each node");
    }
    let visits = Visits::start(site.front);
    for _ in 0..2 {
        nodes[0].restart();
        std::thread::park_timeout(Duration::from_millis(500));
    }
    assert!(visits.end() > 10);
    assert!(idle.into_iter().all(is_served));
    assert_eq!(nodes[0].generations().0, 3);
    nodes.into_iter().for_each(Restarted::stop);
}

#[test]
fn behind_haproxy_no_visit_fails_while_nodes_come_and_leave() {
    needs!("haproxy");
    let Some(site) = Site::start() else { return };
    let first = [1, 2].map(|number| site.node(number));
    site.dns.set(&[1, 2]);
    site.wait_up(2);
    let idle: Vec<Member> = (0..10).map(|_| site.join()).collect();
    let visits = Visits::start(site.front);
    let more = [3, 4].map(|number| site.node(number));
    site.dns.set(&[1, 2, 3, 4]);
    site.wait_up(4);
    let late: Vec<Member> = (0..20).map(|_| site.join()).collect();
    for node in &more {
        let status = node.ctl(&["status", "--json"]);
        assert!(status.text().contains("\"peer\":\"tcp:127.0.0.1:"), "people are on each node");
    }
    for mut node in more {
        node.signal(Signal::TERM);
        wait_until("the end of the node", || !node.is_running());
    }
    site.dns.set(&[1, 2]);
    site.wait_up(2);
    assert!(visits.end() > 10);
    assert!(idle.into_iter().all(is_served));
    let lost = late.into_iter().map(is_served).filter(|is_served| !is_served).count();
    assert!((1..20).contains(&lost), "those of the nodes that left, after their drain: {lost}");
    assert!(is_served(site.join()), "who comes back is served");
    first.into_iter().for_each(Restarted::stop);
}

/// A server of a chat that keeps its lines in Redis, and its port.
fn keeping_node(redis: &servers::Server) -> (Program, SocketAddr) {
    let node = Program::start(&format!(
        "[services.chat]\nkind = \"chat\"\nlisten = \"0\"\nhistory = 100\n\
         bus = \"redis://:s3cret@127.0.0.1:{}\"\n[runner]\nlog-level = \"info\"\n",
        redis.port
    ));
    node.wait_told("connected to the bus");
    let port = node.port("chat");
    (node, port)
}

#[test]
fn c228_on_redis_the_lines_outlive_its_crash_and_a_returning_member_gets_exactly_the_missed_ones() {
    let replaced = [("CHANGE-ME", "s3cret"), ("port 6379\n", ""), ("dir /var/lib/redis\n", "")];
    let configuration = with(REDIS, &replaced);
    let Some(mut redis) = servers::Server::start_redis_with(&configuration, &[]) else { return };
    let ((_first, first), (_second, second)) = (keeping_node(&redis), keeping_node(&redis));
    let join = |port, name| renamed(Member::greeted(Client::connect(port)), name);
    let (mut ada, mut bob) = (join(first, "ada"), join(second, "bob"));
    ada.say("one");
    lines_until(&mut bob, "[1] <ada> one");
    bob.say("two");
    lines_until(&mut ada, "[2] <bob> two");
    drop(ada);
    lines_until(&mut bob, "* ada has left");
    bob.say("three");
    lines_until(&mut bob, "[3] <bob> three");
    redis.kill();
    lines_until(&mut bob, "* The other servers are out of reach.");
    redis.start_again();
    lines_until(&mut bob, "* The other servers are back.");
    bob.say("four");
    let heard = lines_until(&mut bob, "[4] <bob> four");
    assert!(!heard.concat().contains("anew"), "{heard:?}");
    // A new server has the lines from the disk, and the others have not forgotten theirs.
    let (_third, third) = keeping_node(&redis);
    let all = ["[1] <ada> one", "[2] <bob> two", "[3] <bob> three", "[4] <bob> four"];
    for port in [third, first, second] {
        let mut ada = Member(Client::connect(port));
        assert_eq!(kept_until(&mut ada, all[3]), all);
        ada.say("/from 2");
        assert_eq!(kept_until(&mut ada, all[3]), all[2..]);
        ada.say("/from 4");
        lines_until(&mut ada, "* You have missed nothing.");
    }
}

#[test]
fn the_node_of_haproxy_is_a_valid_configuration() {
    let folder = Folder::new();
    folder.write(FILE, NODE);
    let mut command = couplet(&["run", FILE, "--check"]);
    let ended = Running::start(command.current_dir(&*folder)).ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn kubernetes_takes_the_manifests() {
    const VENV: Venv = Venv {
        name: "kubernetes",
        modules: "kubernetes_validate",
        packages: &["kubernetes-validate"],
    };
    let python = match VENV.python() {
        Ok(python) => python,
        Err(why) => return missing(format!("kubernetes-validate: {why}")),
    };
    let validate = python.with_file_name("kubernetes-validate");
    let check = |file: &str| {
        let ended = Command::new(&validate).args(["--strict", file]).output().unwrap();
        (ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (is_valid, told) = check(KUBERNETES);
    assert!(is_valid, "{told}");
    let text = std::fs::read_to_string(KUBERNETES).unwrap();
    let folder = Folder::new();
    let wrong = folder.write("wrong.yaml", with(&text, &[("maxSurge", "maxSurges")]));
    assert!(!check(&wrong).0, "the check finds mistakes");
}

#[test]
fn the_configuration_in_the_manifests_starts_a_chat_on_its_bus() {
    let text = std::fs::read_to_string(KUBERNETES).unwrap();
    let within = |from: &str, to: &str| {
        let text = text.split_once(from).unwrap().1.split_once(to).unwrap().0;
        text.lines().map(|line| line.trim_start().to_owned() + "\n").collect::<String>()
    };
    let folder = Folder::new();
    let streams = folder.path("streams");
    let server = within("nats-server.conf: |\n", "---");
    let server = with(&server, &[("$CHAT_PASSWORD", "s3cret"), ("/data", &streams)]);
    let Some(bus) = servers::Server::start_with(&server, &["-a", "127.0.0.1"]) else { return };
    let node = within("couplet.toml: |\n", "  nats-server.conf");
    let node = with(
        &node,
        &[
            ("tcp:9000", "tcp:0:interface=127.0.0.1"),
            ("tcp:7777", "tcp:0:interface=127.0.0.1"),
            ("CHANGE-ME@nats:4222", &format!("s3cret@127.0.0.1:{}", bus.port)),
        ],
    );
    let program = Program::start(&node);
    program.wait_told("connected to the bus");
}
