//! Row 193: the loops of a cluster share rooms, over real sockets.
#![cfg(target_os = "linux")]

#[macro_use]
extern crate couplet_testkit;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use couplet::protocols::{LineProtocol, LineReceiver, LineTransport};
use couplet::rooms::{Member, RoomOptions, Rooms, SharedRooms, Start};
use couplet::{Cluster, LoopOptions};

const LOOPS: usize = 3;
const CLIENTS: usize = 30;
const SPEAKERS: usize = 6;
const MESSAGES: usize = 50;
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(60);

/// Joins with "from POSITION" or "from now", and says each other line.
struct Chat {
    rooms: Rooms<u8>,
    member: Option<Member<u8, ()>>,
}

impl LineProtocol for Chat {
    fn line_received(&mut self, transport: &LineTransport, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        if let Some(start) = line.strip_prefix("from ") {
            let start = start.parse().map_or(Start::Now, Start::After);
            match self.rooms.join_from(&1, transport, (), start) {
                Ok((member, replay)) => {
                    self.member = Some(member);
                    transport.send_line(format!("joined {}", replay.is_complete));
                }
                Err(error) => transport.fail(error),
            }
            return;
        }
        let said =
            self.rooms.publish_encoded(&1, |position| format!("{position} {line}\r\n").into());
        if let Err(error) = said {
            transport.fail(error);
        }
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects and joins.
    fn joins(server: SocketAddr, start: &str) -> Client {
        let stream = TcpStream::connect(server).expect("the cluster listens");
        stream.set_read_timeout(Some(LONG)).expect("an option");
        let mut client = Client(BufReader::new(stream));
        client.say(&format!("from {start}"));
        assert_eq!(client.line(), "joined true");
        client
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("it is served");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn lines(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.line()).collect()
    }
}

fn talk(server: SocketAddr) {
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::joins(server, "now")).collect();
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().take(SPEAKERS).enumerate() {
            scope.spawn(move || {
                (0..MESSAGES).for_each(|message| client.say(&format!("{number} {message}")));
            });
        }
    });
    let all = SPEAKERS * MESSAGES;
    let heard: Vec<Vec<String>> = clients.iter_mut().map(|client| client.lines(all)).collect();
    assert!(heard.iter().all(|lines| *lines == heard[0]), "all clients get the same");
    for (number, line) in (1..).zip(&heard[0]) {
        let position = line.split(' ').next().and_then(|word| word.split('-').nth(1));
        assert_eq!(position, Some(&*number.to_string()), "{line}");
    }
    for speaker in 0..SPEAKERS {
        let said: Vec<usize> = heard[0]
            .iter()
            .filter_map(|line| {
                let mut words = line.split(' ').skip(1);
                (words.next()? == speaker.to_string()).then(|| words.next()?.parse().ok())?
            })
            .collect();
        assert_eq!(said, (0..MESSAGES).collect::<Vec<_>>(), "in the order of each speaker");
    }
    drop(clients);
    // In each loop, probably.
    for _ in 0..2 * LOOPS {
        let position = heard[0][all / 2].split(' ').next().unwrap_or_default();
        let mut client = Client::joins(server, position);
        assert_eq!(client.lines(all / 2 - 1), heard[0][all / 2 + 1..]);
    }
}

#[test]
fn c193_clients_of_all_loops_of_a_cluster_get_the_same_messages_in_order() {
    let cluster = Cluster::new(LOOPS).options(LoopOptions::default());
    let port = cluster.bind("tcp:0:interface=127.0.0.1").expect("a free port");
    let server = port.host().socket_addr().expect("TCP");
    let shared = SharedRooms::new(|_: &u8| RoomOptions::default().history(1000, 1 << 20, LONG));
    let members = cluster.members();
    thread::scope(|scope| {
        let talking = scope.spawn(move || {
            let talked = std::panic::catch_unwind(|| talk(server));
            members.stop();
            talked
        });
        let setup = |reactor: &couplet::Reactor| {
            let rooms = shared.attach(reactor);
            port.listen(reactor, move || {
                LineReceiver::new(Chat { rooms: rooms.clone(), member: None })
            })?;
            Ok(())
        };
        cluster.run(setup).expect("a stop");
        if let Err(panic) = talking.join().expect("its panic is caught") {
            std::panic::resume_unwind(panic);
        }
    });
}
