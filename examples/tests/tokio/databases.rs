//! Connection pools by `sqlx` in tasks of a loop with a runtime around it: to PostgreSQL, whose
//! driver has tokio's sockets. A connection that returns to its pool, as from a dropped future,
//! spawns a tokio task. Skipped where PostgreSQL is missing.

use std::future::pending;

use couplet::defer::gather;
use couplet::{Deferred, Loop, Reactor, Result};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool, Postgres, query, query_as, query_scalar};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::around::{self, with_tokio};
use couplet_testkit::postgres::Server;

/// Runs a task on the loop, for at most [`PATIENCE`].
fn run(l: &mut Loop, task: impl AsyncFnOnce(Reactor) -> Result<()> + 'static) {
    around::run(l, async |reactor| timeout(PATIENCE, task(reactor)).await?);
}

/// A pool of three connections to a database with a table of poems.
async fn library(url: String) -> Result<PgPool> {
    let pool = PgPoolOptions::new().max_connections(3).connect(&url).await?;
    let table = "create table if not exists poems (n bigint primary key, title text not null)";
    pool.execute(table).await?;
    Ok(pool)
}

async fn insert(to: impl Executor<'_, Database = Postgres>, n: i64) -> Result<()> {
    let inserting = query("insert into poems values ($1, $2)").bind(n).bind(format!("poem {n}"));
    assert_eq!(inserting.execute(to).await?.rows_affected(), 1);
    Ok(())
}

async fn count(of: impl Executor<'_, Database = Postgres>) -> Result<i64> {
    Ok(query_scalar("select count(*) from poems").fetch_one(of).await?)
}

/// Spawns a task with a transaction that has inserted a poem and stays open. Returns after the
/// insert.
async fn open_transaction(reactor: &Reactor, pool: &PgPool, n: i64) -> Result<Deferred<()>> {
    let (inserted, has_inserted) = Deferred::new();
    let begins = pool.clone();
    let task = reactor.spawn(async move {
        let mut transaction = begins.begin().await?;
        insert(&mut *transaction, n).await?;
        has_inserted.callback(count(&mut *transaction).await?);
        let () = pending().await;
        transaction.commit().await?;
        Ok(())
    });
    let within = inserted.await?;
    assert_eq!(within, count(pool).await? + 1, "seen within the transaction alone");
    Ok(task)
}

#[test]
fn tasks_that_share_a_pool_wait_for_its_connections() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    run(&mut with_tokio(), async |reactor| {
        let pool = library(url).await?;
        let all = (0..20).map(|n| {
            let pool = pool.clone();
            reactor.spawn(async move { insert(&pool, n).await })
        });
        gather(all).await?;
        assert!((1..=3).contains(&pool.size()), "{pool:?}");
        let poems: Vec<(i64, String)> =
            query_as("select n, title from poems order by n").fetch_all(&pool).await?;
        let expected: Vec<_> = (0..20).map(|n| (n, format!("poem {n}"))).collect();
        assert_eq!(poems, expected);
        pool.close().await;
        assert_eq!(pool.size(), 0);
        let refused = count(&pool).await.expect_err("it is closed");
        assert!(matches!(refused.downcast_ref(), Some(sqlx::Error::PoolClosed)), "{refused}");
        Ok(())
    });
}

#[test]
fn the_transaction_of_a_cancelled_task_is_rolled_back() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    run(&mut with_tokio(), async |reactor| {
        let pool = library(url).await?;
        insert(&pool, 1).await?;
        let task = open_transaction(&reactor, &pool, 2).await?;
        task.cancel();
        assert!(task.await.is_err_and(|failure| failure.is_cancelled()));
        // The insert would wait for a transaction that is still open.
        insert(&pool, 2).await?;
        assert_eq!(count(&pool).await?, 2);
        // Waits until all connections are returned.
        pool.close().await;
        Ok(())
    });
}

#[test]
fn the_transaction_of_a_task_is_rolled_back_when_its_loop_is_dropped() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    let mut l = with_tokio();
    let first = url.clone();
    run(&mut l, async |reactor| {
        let pool = library(first).await?;
        open_transaction(&reactor, &pool, 1).await?.detach();
        Ok(())
    });
    drop(l);
    run(&mut with_tokio(), async |_| {
        let pool = library(url).await?;
        insert(&pool, 1).await?;
        assert_eq!(count(&pool).await?, 1);
        pool.close().await;
        Ok(())
    });
}
