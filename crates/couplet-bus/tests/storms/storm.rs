//! Three nodes under load while servers, nodes and links are killed. `COUPLET_KILLS=50` sets the
//! number of kills.

use std::time::Duration;

use couplet::Loop;
use couplet::bus::Position;

use crate::engines::{Engine, JETSTREAM, NATS, REDIS, REDIS_STREAMS};
use crate::ledger::{Line, Story, settle, settle_log};
use crate::link::Link;
use crate::needed::Folder;
use crate::node::Node;
use crate::process::Server;

const KILLS: u64 = 6;
const NODES: usize = 3;

/// A generator of random numbers: SplitMix64.
pub(crate) struct Dice(u64);

impl Dice {
    /// A number below `most`.
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }
}

/// A server, nodes, and the links between them.
struct Cluster<'a> {
    engine: &'a Engine,
    server: Server,
    links: Vec<Link>,
    nodes: Vec<Node>,
    /// The stories of killed nodes.
    stories: Vec<Story>,
    clock: Loop,
    _folder: Folder,
}

impl<'a> Cluster<'a> {
    fn start(engine: &'a Engine) -> Option<Cluster<'a>> {
        let folder = Folder::new();
        let server = (engine.start)(&folder)?;
        let links: Vec<Link> = (0..NODES).map(|_| Link::to(server.port)).collect();
        let clock = Loop::new().expect("a loop");
        let mut cluster = Cluster {
            engine,
            server,
            links,
            nodes: Vec::new(),
            stories: Vec::new(),
            clock,
            _folder: folder,
        };
        cluster.nodes = (0..NODES).map(|at| cluster.node(at, 0, None)).collect();
        Some(cluster)
    }

    fn node(&self, at: usize, life: u64, after: Option<Position>) -> Node {
        Node::start(self.engine, self.links[at].port, &format!("node{at}-{life}"), after)
    }

    fn wait(&mut self, milliseconds: u64) {
        let pause = self.clock.reactor().sleep(Duration::from_millis(milliseconds));
        self.clock.run_until(pause).expect("time passes");
    }

    /// Kills a server, a node or a link, and starts it again.
    fn kill(&mut self, kill: u64, dice: &mut Dice) {
        self.wait(dice.below(300));
        let (at, pause) = (dice.below(NODES as u64) as usize, 1 + dice.below(400));
        match dice.below(3) {
            0 => {
                self.server.kill();
                self.wait(pause);
                self.server.start_again();
            }
            1 => {
                let killed = self.nodes.remove(at).kill();
                let of = |story: &Story| story.name.starts_with(&format!("node{at}-"));
                let before = self.stories.iter().rev().filter(|story| of(story));
                let lives = std::iter::once(&killed).chain(before);
                let after = lives.filter_map(Story::last_position).next();
                self.stories.push(killed);
                self.wait(pause);
                self.nodes.insert(at, self.node(at, kill, after));
            }
            _ => {
                self.links[at].cut();
                self.wait(pause);
                self.links[at].heal();
            }
        }
    }

    /// Waits until the nodes get each other's messages, and stops them.
    fn finish(mut self) -> Vec<Story> {
        for command in ["ready", "finish", "report"] {
            self.nodes.iter_mut().for_each(|node| node.command(command));
            for node in &mut self.nodes {
                node.until(|line| match line {
                    Line::Ready => command == "ready",
                    Line::Finished(_) => command == "finish",
                    Line::Report { .. } => command == "report",
                    _ => false,
                });
            }
            // Messages that are published while all are connected.
            self.wait(100);
        }
        self.stories.extend(self.nodes.into_iter().map(Node::kill));
        self.stories
    }
}

fn kills() -> u64 {
    std::env::var("COUPLET_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"))
}

/// Runs a storm; returns the stories of the nodes.
fn storm(engine: &Engine, seed: u64) -> Option<Vec<Story>> {
    let mut cluster = Cluster::start(engine)?;
    let mut dice = Dice(seed);
    (1..=kills()).for_each(|kill| cluster.kill(kill, &mut dice));
    Some(cluster.finish())
}

/// Runs a storm, and checks that each loss is reported.
fn report_losses(engine: &Engine, seed: u64) {
    let Some(stories) = storm(engine, seed) else { return };
    let totals = settle(&stories).unwrap_or_else(|silent| panic!("{silent}"));
    println!("{}, {} kills: {totals:?}", engine.name, kills());
    let reported = totals.unconfirmed + totals.away;
    assert!(totals.delivered > 500 && reported > 0, "{totals:?}: it was no storm");
}

/// Runs a storm, and checks that the log has everything.
fn lose_nothing(engine: &Engine, seed: u64) {
    let Some(stories) = storm(engine, seed) else { return };
    let stored = settle_log(&stories).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{}, {} kills: {stored} messages stored", engine.name, kills());
    assert!(stored > 100, "{stored} messages: it was no storm");
}

#[test]
fn c230_c233_each_message_of_a_nats_storm_is_delivered_or_its_loss_is_reported() {
    report_losses(&NATS, 1);
}

#[test]
fn c230_each_message_of_a_redis_storm_is_delivered_or_its_loss_is_reported() {
    report_losses(&REDIS, 2);
}

#[test]
fn c230_a_jetstream_storm_loses_nothing_doubles_nothing_and_keeps_one_order() {
    lose_nothing(&JETSTREAM, 3);
}

#[test]
fn c230_a_storm_of_redis_streams_loses_nothing_doubles_nothing_and_keeps_one_order() {
    lose_nothing(&REDIS_STREAMS, 4);
}
