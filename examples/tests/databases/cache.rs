//! The connection to Redis.

use std::collections::BTreeSet;
use std::rc::Rc;

use couplet::defer::{TimedOut, gather};
use couplet::{Reactor, Result};
use redis::{IntoConnectionInfo, pipe};

use crate::example::cache::Cache;
use crate::run;
use couplet_testkit::servers::Server;
use rustix::process::Signal;

const SOCKETS: [fn() -> Option<Server>; 2] =
    [|| Server::start_redis(&[]), Server::start_redis_at_path];

fn cache(reactor: &Reactor, server: &Server) -> Rc<Cache> {
    Rc::new(Cache::new(reactor, server.url().into_connection_info().expect("a URL")))
}

/// The server's id of our connection.
async fn number(cache: &Cache) -> Result<u64> {
    let (number,) = cache.ask(pipe().cmd("CLIENT").arg("ID")).await?;
    Ok(number)
}

/// Number of connections at the server.
async fn connections(cache: &Cache) -> Result<usize> {
    let (list,): (String,) = cache.ask(pipe().cmd("CLIENT").arg("LIST")).await?;
    Ok(list.lines().count())
}

#[test]
fn commands_go_over_tcp_and_unix_sockets_and_so_do_a_million_bytes() {
    for start in SOCKETS {
        let Some(server) = start() else { return };
        run(async move |reactor| {
            let cache = cache(&reactor, &server);
            let mut commands = pipe();
            commands.set("poem", "Hope").ignore().append("poem", " is").get("poem").get("none");
            let answers: (usize, String, Option<String>) = cache.ask(&commands).await?;
            assert_eq!(answers, (7, "Hope is".to_owned(), None));
            let long: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
            let (back,): (Vec<u8>,) =
                cache.ask(pipe().set("long", &long).ignore().get("long")).await?;
            assert!(back == long);
            let wrong: Result<(u64,)> = cache.ask(pipe().incr("poem", 1)).await;
            let said = wrong.expect_err("it is no number").to_string();
            assert!(said.contains("not an integer"), "{said}");
            assert_eq!(connections(&cache).await?, 1, "an error ends no connection");
            Ok(())
        });
    }
}

#[test]
fn the_commands_of_many_tasks_go_over_one_connection() {
    let Some(server) = Server::start_redis_at_path() else { return };
    run(async move |reactor| {
        let cache = cache(&reactor, &server);
        let tasks = (0..100).map(|_| {
            let cache = cache.clone();
            reactor.spawn(async move {
                let (one, other): (u32, u32) = cache.ask(pipe().incr("n", 1).incr("n", 1)).await?;
                Ok([one, other])
            })
        });
        let numbers = gather(tasks.collect::<Vec<_>>()).await?.concat();
        assert_eq!(BTreeSet::from_iter(numbers), (1..=200).collect());
        assert_eq!(connections(&cache).await?, 1);
        Ok(())
    });
}

#[test]
fn a_server_that_was_killed_is_found_again() {
    for start in SOCKETS {
        let Some(mut server) = start() else { return };
        run(async move |reactor| {
            let cache = cache(&reactor, &server);
            let () = cache.ask(pipe().set("poem", "Hope").ignore()).await?;
            server.kill();
            let gone: Result<(String,)> = cache.ask(pipe().get("poem")).await;
            gone.expect_err("it is gone");
            let gone: Result<(String,)> = cache.ask(pipe().get("poem")).await;
            let said = gone.expect_err("nobody listens").to_string();
            assert!(said.contains("refused"), "{said}");
            server.start_again();
            let answer: (Option<String>,) = cache.ask(pipe().get("poem")).await?;
            assert_eq!(answer, (None,), "it has kept nothing");
            Ok(())
        });
    }
}

#[test]
fn a_server_that_is_silent_costs_the_time_limit_and_is_asked_anew() {
    let Some(server) = Server::start_redis(&[]) else { return };
    run(async move |reactor| {
        let cache = cache(&reactor, &server);
        let () = cache.ask(pipe().set("poem", "Hope").ignore()).await?;
        let before = number(&cache).await?;
        server.signal(Signal::STOP);
        let late: Result<(String,)> = cache.ask(pipe().get("poem")).await;
        assert!(late.is_err_and(|failure| failure.is::<TimedOut>()));
        server.signal(Signal::CONT);
        let (answer,): (String,) = cache.ask(pipe().get("poem")).await?;
        assert_eq!(answer, "Hope");
        assert_ne!(number(&cache).await?, before);
        assert_eq!(connections(&cache).await?, 1, "the other one is closed");
        Ok(())
    });
}
