//! Connections that move to the new process. All of a loop leave within one turn, so that protocols
//! that know each other leave together, and the new process serves them once it has all.

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use couplet::hooks::SortedMap;
use couplet::reactor::HandedOver;
use couplet::{Address, Deferred, Failure, Protocol, Reactor};

use crate::loops::Loops;

/// Builds the protocol of a connection that another process has handed over.
type Build = dyn Fn(&[u8], &Address) -> couplet::Result<Box<dyn Protocol>>;
type BuildAnywhere = dyn Fn(&[u8], &Address) -> couplet::Result<Box<dyn Protocol>> + Send + Sync;

/// How the connections of a kind continue.
enum Taker {
    InMainLoop(Box<Build>),
    InAnyLoop(Arc<BuildAnywhere>),
}

/// The kinds of connections that a program takes over.
#[derive(Clone, Default)]
pub(crate) struct Takers(Rc<SortedMap<&'static str, Taker>>);

impl Takers {
    /// Adds a kind for the main loop, before the program runs.
    pub(crate) fn add<P: Protocol>(
        &mut self,
        kind: &'static str,
        build: impl Fn(&[u8], &Address) -> couplet::Result<P> + 'static,
    ) {
        let build: Box<Build> = Box::new(move |state, peer| Ok(Box::new(build(state, peer)?)));
        self.insert(kind, Taker::InMainLoop(build));
    }

    /// Adds a kind for all loops, before the program runs.
    pub(crate) fn add_in_loops<P: Protocol>(
        &mut self,
        kind: &'static str,
        build: impl Fn(&[u8], &Address) -> couplet::Result<P> + Send + Sync + 'static,
    ) {
        let build: Arc<BuildAnywhere> =
            Arc::new(move |state, peer| Ok(Box::new(build(state, peer)?)));
        self.insert(kind, Taker::InAnyLoop(build));
    }

    fn insert(&mut self, kind: &'static str, taker: Taker) {
        Rc::get_mut(&mut self.0).expect("the program does not run").insert(kind, taker);
    }

    pub(super) fn kinds(&self) -> Vec<String> {
        self.0.keys().map(|kind| (*kind).to_owned()).collect()
    }

    /// Continues a connection in a loop for its kind. One that can't be continued is logged and closed.
    pub(crate) fn take_over(&self, loops: &Loops, handed: HandedOver) {
        let kind = handed.kind().to_owned();
        match self.0.get(&*kind) {
            None => log_failed(&kind, &Failure::msg("the kind is unknown")),
            Some(Taker::InMainLoop(build)) => continue_in(loops.reactor(), handed, build),
            Some(Taker::InAnyLoop(build)) => match Leaving::of(handed) {
                Ok(leaving) => {
                    let build = build.clone();
                    loops.call_next(move |reactor| match leaving.into_handed() {
                        Ok(handed) => continue_in(reactor, handed, &*build),
                        Err(error) => log_failed(&kind, &error.into()),
                    });
                }
                Err(error) => log_failed(&kind, &error.into()),
            },
        }
    }
}

fn continue_in(reactor: &Reactor, handed: HandedOver, build: &Build) {
    let kind = handed.kind().to_owned();
    if let Err(failure) = try_continue_in(reactor, handed, build) {
        log_failed(&kind, &failure);
    }
}

fn try_continue_in(reactor: &Reactor, handed: HandedOver, build: &Build) -> couplet::Result<()> {
    let Some(peer) = handed.peer() else {
        tracing::debug!("a connection that was handed over is lost");
        return Ok(());
    };
    let protocol = build(handed.state(), &peer)?;
    reactor.take_over(handed, protocol)?.add_errback(failed).detach();
    Ok(())
}

fn log_failed(kind: &str, failure: &Failure) {
    tracing::error!(kind, "cannot take a connection over: {failure}");
}

fn failed(failure: Failure) -> couplet::Result<couplet::Transport> {
    tracing::debug!("a connection that was taken over has ended: {failure}");
    Err(failure)
}

/// A connection that has left its loop, for another process or another loop.
pub(super) struct Leaving {
    kind: String,
    socket: OwnedFd,
    pub(super) record: Vec<u8>,
}

impl Leaving {
    fn of(handed: HandedOver) -> std::io::Result<Leaving> {
        let kind = handed.kind().to_owned();
        let (socket, record) = handed.into_parts()?;
        Ok(Leaving { kind, socket, record })
    }

    /// A second descriptor, for the other process.
    pub(super) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    fn into_handed(self) -> std::io::Result<HandedOver> {
        HandedOver::from_parts(self.socket, &self.record)
    }
}

/// Most connections in a message: a connection to a process carries 64 descriptors at once.
const TOGETHER: usize = 32;
/// The size of records from which a message has no more.
const LARGE: usize = 1 << 20;

/// Connections that are sent together.
pub(super) fn batches(mut leaving: &[Leaving]) -> impl Iterator<Item = &[Leaving]> {
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |one: &&Leaving| {
            let fits = size < LARGE;
            size += one.record.len();
            fits
        };
        let count = leaving.iter().take(TOGETHER).take_while(fits).count();
        let batch = leaving.split_off(..count)?;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Has all connections of these kinds leave their loops, each loop within one turn.
pub(super) async fn leave(
    loops: &Loops,
    takers: &Takers,
    kinds: &[String],
) -> couplet::Result<Vec<Leaving>> {
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let others = loops.ask_others(|_| leave_loop);
    let mut parts = vec![leave_loop(loops.reactor()).await];
    for (other, _) in others {
        parts.push(other.await);
    }
    let (mut all, mut failure) = (Vec::new(), None);
    for part in parts {
        match part {
            Ok(leaving) => all.extend(leaving),
            Err(error) => drop(failure.get_or_insert(error)),
        }
    }
    let goes = |one: &mut Leaving| failure.is_none() && kinds.contains(&one.kind);
    let going = all.extract_if(.., goes).collect();
    stay(loops, takers, all);
    failure.map_or(Ok(going), Err)
}

/// Has all connections that can move leave a loop, within one turn.
fn leave_loop(reactor: &Reactor) -> Deferred<Vec<Leaving>> {
    let asked = reactor.clone();
    reactor.spawn_named("leave", async move {
        let connections = asked.snapshot().await?.connections;
        let leaving: Vec<_> = connections.iter().map(|one| asked.hand_over(one.id)).collect();
        let mut all = Vec::new();
        for deferred in leaving {
            if let Some(handed) = deferred.await? {
                all.push(Leaving::of(handed)?);
            }
        }
        Ok(all)
    })
}

/// Continues connections in this process: the new one does not have them.
pub(super) fn stay(loops: &Loops, takers: &Takers, leaving: impl IntoIterator<Item = Leaving>) {
    for one in leaving {
        match one.into_handed() {
            Ok(handed) => takers.take_over(loops, handed),
            Err(error) => tracing::error!(%error, "cannot continue a connection"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use couplet::{HandOver, Loop, LoopOptions, ProtocolExtension, Transport};

    use super::*;
    use crate::asking::ask;
    use crate::workers::Workers;

    /// Answers with its number, which grows when it moves.
    struct Counted(u8);

    impl Protocol for Counted {
        fn data_received(&mut self, transport: &Transport, _: &[u8]) {
            transport.write([self.0]);
        }

        fn extension(&mut self) -> Option<&mut dyn ProtocolExtension> {
            Some(self)
        }
    }

    impl ProtocolExtension for Counted {
        fn hand_over(&mut self) -> Option<HandOver> {
            HandOver::new("counted", [self.0 + 1])
        }
    }

    #[test]
    fn a_message_has_at_most_32_connections_and_none_behind_a_mebibyte() {
        let leaving = |size: usize| {
            let file = std::fs::File::open("/dev/null").expect("every system has it");
            Leaving { kind: String::new(), socket: file.into(), record: vec![0; size] }
        };
        for (sizes, wanted) in [
            (vec![], &[][..]),
            (vec![1; 32], &[32]),
            (vec![1; 70], &[32, 32, 6]),
            (vec![LARGE; 3], &[1, 1, 1]),
            (vec![LARGE - 1, 1, 1], &[2, 1]),
            (vec![LARGE / 2 + 1; 5], &[2, 2, 1]),
            (vec![1, 3 * LARGE, 1], &[2, 1]),
        ] {
            let all: Vec<_> = sizes.iter().map(|&size| leaving(size)).collect();
            let counts: Vec<_> = batches(&all).map(<[Leaving]>::len).collect();
            assert_eq!(counts, wanted);
        }
    }

    #[test]
    fn a_connection_of_a_kind_that_the_new_process_does_not_know_stays() {
        let mut takers = Takers::default();
        takers.add("counted", |state, _| Ok(Counted(state[0])));
        for (kinds, leaves, answer) in
            [(&["other", "counted"][..], 1, None), (&["other"], 0, Some(2)), (&[], 0, Some(1))]
        {
            let port = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(port.local_addr().unwrap()).unwrap();
            client.set_nonblocking(true).unwrap();
            let (ours, _) = port.accept().unwrap();
            let mut l = Loop::new().unwrap();
            let (reactor, takers) = (l.reactor(), takers.clone());
            let loops = Loops::new(&reactor, []);
            let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
            let talk = reactor.clone().spawn(async move {
                reactor.adopt(ours, || Counted(1))?.await?;
                let leaving = leave(&loops, &takers, &kinds).await?;
                assert_eq!(leaving.len(), leaves, "{kinds:?}");
                client.write_all(b"x")?;
                reactor.sleep(std::time::Duration::from_millis(20)).await?;
                let mut said = [0];
                let read = client.read(&mut said).ok();
                assert_eq!(read.map(|_| said[0]), answer, "{kinds:?}");
                Ok(())
            });
            l.run_until(talk).unwrap();
        }
    }

    #[test]
    fn if_a_loop_ends_the_connections_of_the_others_stay() {
        let mut takers = Takers::default();
        takers.add("counted", |state, _| Ok(Counted(state[0])));
        for ended in 0..2 {
            let mut l = Loop::new().unwrap();
            let reactor = l.reactor();
            let mut workers = vec![Workers::default(), Workers::default()];
            for worker in &mut workers {
                worker.start(LoopOptions::default(), reactor.remote(), |_| ()).unwrap();
            }
            let remotes: Vec<_> = workers.iter().flat_map(Workers::remotes).collect();
            let (loops, takers) = (Loops::new(&reactor, remotes.clone()), takers.clone());
            let mut clients = Vec::new();
            for of in [reactor.remote(), remotes[1 - ended].clone()] {
                let port = TcpListener::bind("127.0.0.1:0").unwrap();
                clients.push(TcpStream::connect(port.local_addr().unwrap()).unwrap());
                let (ours, _) = port.accept().unwrap();
                let adopt = |reactor: &Reactor| {
                    let adopted = reactor.adopt(ours, || Counted(1)).expect("a socket");
                    adopted.map(drop)
                };
                l.run_until(ask(&reactor, &of, adopt).0).unwrap();
            }
            drop(workers.remove(ended));
            let kinds = ["counted".to_owned()];
            let left =
                reactor.spawn(async move { Ok(leave(&loops, &takers, &kinds).await.is_err()) });
            assert!(l.run_until(left).unwrap());
            let said = move |mut client: TcpStream| {
                client.set_read_timeout(Some(std::time::Duration::from_secs(60)))?;
                client.write_all(b"x")?;
                let mut said = [0];
                client.read_exact(&mut said).map(|()| said[0])
            };
            let talk = reactor
                .defer_to_thread(move || Ok(clients.into_iter().map(said).collect::<Vec<_>>()));
            for said in l.run_until(talk).unwrap() {
                assert_eq!(said.unwrap(), 2, "it has moved, and stayed");
            }
        }
    }
}
