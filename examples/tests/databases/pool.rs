//! The pool of connections to PostgreSQL.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::pending;
use std::rc::Rc;

use couplet::defer::{TimedOut, gather};
use couplet::layers::tls::{ClientTls, ClientTlsOptions, Roots};
use couplet::{Deferred, Reactor, Result};
use tokio_postgres::{Client, Config, NoTls};

use crate::example::pool::Pool;
use crate::needed::SelfSigned;
use crate::run;
use couplet_testkit::postgres::Server;

fn pool(reactor: &Reactor, server: &Server, size: usize) -> Rc<Pool> {
    Pool::new(reactor, server.url().parse().expect("a URL"), size)
}

/// The id of the process that serves a connection.
async fn process(client: &Client) -> Result<i32> {
    Ok(client.query_one("select pg_backend_pid()", &[]).await?.get(0))
}

#[test]
fn queries_go_over_tcp_and_unix_sockets_and_so_do_a_million_bytes() {
    for start in [Server::start, Server::start_on_tcp] {
        let Some(server) = start() else { return };
        run(async move |reactor| {
            let pool = pool(&reactor, &server, 2);
            let mut client = pool.get().await?;
            let row = client.query_one("select $1::bigint + 1, $2::text", &[&41_i64, &"ä"]).await?;
            assert_eq!((row.get(0), row.get(1)), (42_i64, "ä"));
            client.batch_execute("create table long (bytes bytea)").await?;
            let long: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
            let transaction = client.transaction().await?;
            transaction.execute("insert into long values ($1)", &[&long]).await?;
            transaction.commit().await?;
            let back: Vec<u8> = client.query_one("select bytes from long", &[]).await?.get(0);
            assert!(back == long);
            let error = client.query("select no_such_column", &[]).await.expect_err("an error");
            assert!(error.as_db_error().is_some_and(|error| error.code().code() == "42703"));
            // The connection works after an error.
            assert!(process(&client).await? > 0);
            Ok(())
        });
    }
}

#[test]
fn the_transaction_of_a_cancelled_task_is_rolled_back() {
    let Some(server) = Server::start() else { return };
    run(async move |reactor| {
        let pool = pool(&reactor, &server, 1);
        let first = pool.get().await?;
        first.batch_execute("create table poems (title text)").await?;
        let before = process(&first).await?;
        drop(first);
        let (inserted, has_inserted) = Deferred::new();
        let own = pool.clone();
        let task = reactor.spawn(async move {
            let mut client = own.get().await?;
            let transaction = client.transaction().await?;
            has_inserted
                .callback(transaction.execute("insert into poems values ('x')", &[]).await?);
            let () = pending().await;
            transaction.commit().await?;
            Ok(())
        });
        assert_eq!(inserted.await?, 1);
        task.cancel();
        assert!(task.await.is_err_and(|failure| failure.is_cancelled()));
        let next = pool.get().await?;
        assert_eq!(process(&next).await?, before, "the same connection");
        let count: i64 = next.query_one("select count(*) from poems", &[]).await?.get(0);
        assert_eq!(count, 0);
        Ok(())
    });
}

/// Runs twenty tasks with a pool; returns the order in which they were served, the connections that
/// served them, and the server's maximum number of connections.
async fn twenty(reactor: &Reactor, pool: &Rc<Pool>) -> Result<(Vec<usize>, BTreeSet<i32>, i64)> {
    let served = Rc::<RefCell<Vec<_>>>::default();
    let tasks = (0..20).map(|n| {
        let (pool, served) = (pool.clone(), served.clone());
        reactor.spawn(async move {
            let client = pool.get().await?;
            served.borrow_mut().push(n);
            let open =
                "select count(*) from pg_stat_activity where backend_type = 'client backend'";
            let open: i64 = client.query_one(open, &[]).await?.get(0);
            client.batch_execute("select pg_sleep(0.01)").await?;
            Ok((process(&client).await?, open))
        })
    });
    let seen = gather(tasks.collect::<Vec<_>>()).await?;
    let most = seen.iter().map(|(_, open)| *open).max().unwrap_or_default();
    let processes = seen.into_iter().map(|(process, _)| process).collect();
    Ok((served.take(), processes, most))
}

#[test]
fn twenty_tasks_share_the_connections_of_a_pool_in_the_order_they_came() {
    for size in [1, 3] {
        let Some(server) = Server::start() else { return };
        run(async move |reactor| {
            let (mut served, processes, most) =
                twenty(&reactor, &pool(&reactor, &server, size)).await?;
            assert_eq!((processes.len(), most), (size, size as i64), "no connection more");
            if size > 1 {
                // The order of the connections' health checks is not specified.
                served.sort();
            }
            assert_eq!(served, (0..20).collect::<Vec<_>>());
            Ok(())
        });
    }
}

#[test]
fn a_waiter_that_times_out_leaves_the_queue() {
    let Some(server) = Server::start() else { return };
    run(async move |reactor| {
        let pool = pool(&reactor, &server, 1);
        let held = pool.get().await?;
        let late = pool.get().await.err().expect("it is held");
        assert!(late.is::<TimedOut>(), "{late}");
        let before = process(&held).await?;
        drop(held);
        assert_eq!(process(&*pool.get().await?).await?, before);
        Ok(())
    });
}

#[test]
fn connections_that_the_server_ended_are_replaced() {
    let Some(mut server) = Server::start_on_tcp() else { return };
    run(async move |reactor| {
        let pool = pool(&reactor, &server, 2);
        let (one, other) = (pool.get().await?, pool.get().await?);
        let killed = process(&one).await?;
        drop(one);
        let end = other.query_one("select pg_terminate_backend($1)", &[&killed]).await?;
        assert!(end.get::<_, bool>(0));
        assert_ne!(process(&*pool.get().await?).await?, killed);

        server.stop();
        assert!(process(&other).await.is_err(), "it is gone");
        drop(other);
        let said = pool.get().await.err().expect("nobody listens").to_string();
        assert!(said.contains("refused"), "{said}");

        server.start_again();
        let (one, other) = (pool.get().await?, pool.get().await?);
        assert_ne!(process(&one).await?, process(&other).await?);
        Ok(())
    });
}

#[test]
fn a_connection_is_encrypted_before_it_is_given_to_the_library() {
    let made = SelfSigned::new("localhost");
    let Some(server) = Server::start_with_tls(&made.pem()) else { return };
    run(async move |reactor| {
        let config: Config = server.url().parse()?;
        let roots = Roots::from_pem(made.certificate.as_bytes())?;
        let tls = ClientTls::new(&ClientTlsOptions::default().roots(roots))?;
        let port = config.get_ports()[0];
        let mut stream = reactor.connect_stream(format!("tcp:127.0.0.1:{port}")).await?;
        // SSLRequest, and its answer.
        stream.write_all([0, 0, 0, 8, 4, 210, 22, 47]).await?;
        let mut answer = [0];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"S");
        stream.start_tls((&tls, "localhost")).await?;
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        let life = reactor.spawn(async { Ok(connection.await?) });
        let what = "select version from pg_stat_ssl where pid = pg_backend_pid()";
        let version: Option<String> = client.query_one(what, &[]).await?.get(0);
        assert_eq!(version.as_deref(), Some("TLSv1.3"));
        drop(client);
        life.await
    });
}
