//! Part 20, Erlang: processes share nothing and send each other messages. A process is a task with
//! a mailbox; a socket sends received bytes to its owner, and the main process gets the poems and a
//! message for every process that goes down.
//!
//! `cargo run --example styles -- actors 127.0.0.1:10000 127.0.0.1:10001`

use std::net::SocketAddr;

use couplet::defer::DeferredQueue as Mailbox; // unbounded, as in Erlang
use couplet::{ConnectionLost, Protocol, Reactor, Reason, Result, Transport};

type Packet = Result<Vec<u8>, Reason>;

struct Socket {
    owner: Mailbox<Packet>,
}

impl Protocol for Socket {
    fn data_received(&mut self, _: &Transport, data: &[u8]) {
        let _ = self.owner.put(Ok(data.to_vec()));
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        let _ = self.owner.put(Err(reason.clone()));
    }
}

enum Letter {
    Poem(String),
    Down(usize, Result<()>),
}

async fn poet(n: usize, at: SocketAddr, reactor: Reactor, main: Mailbox<Letter>) -> Result<()> {
    let mailbox = Mailbox::new();
    let owner = mailbox.clone();
    reactor.connect(format!("tcp:{at}"), move || Socket { owner: owner.clone() }).await?;
    let mut poem = Vec::new();
    loop {
        match mailbox.get().await? {
            Ok(data) => {
                println!("task {n}: a piece of {} from {at}", data.len());
                poem.extend(data);
            }
            Err(reason) if reason.is_clean() => break,
            Err(reason) => return Err(ConnectionLost(reason).into()),
        }
    }
    let _ = main.put(Letter::Poem(String::from_utf8(poem)?));
    Ok(())
}

async fn collect(mut running: usize, mailbox: Mailbox<Letter>) -> Result<()> {
    let mut poems = String::new();
    while running > 0 {
        match mailbox.get().await? {
            Letter::Poem(poem) => poems += &poem,
            Letter::Down(_, Ok(())) => running -= 1,
            Letter::Down(n, Err(failure)) => {
                println!("task {n} went down: {failure}");
                running -= 1;
            }
        }
    }
    print!("{poems}");
    Ok(())
}

pub(crate) fn main(servers: Vec<SocketAddr>) -> Result<()> {
    couplet::run_until(|reactor| {
        let main = Mailbox::new();
        for (n, server) in (1..).zip(&servers) {
            let monitor = main.clone();
            let process = reactor.spawn(poet(n, *server, reactor.clone(), main.clone()));
            process.add_both(move |end| Ok(monitor.put(Letter::Down(n, end)).is_ok())).detach();
        }
        reactor.spawn(collect(servers.len(), main))
    })
}
