//! Takes orders, one at a time. A client that has to wait gets a note of that. The fault: the note
//! needs the lock, too, while the request that waits for it is put aside.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;

use couplet::defer::DeferredLock;
use couplet::{Reactor, Result, Stream};

use super::Version;

async fn order(mut client: Stream, lock: &DeferredLock, version: Version) -> Result<()> {
    let mut turn = lock.acquire();
    let permit = match poll_once(&mut turn).await {
        Some(permit) => permit?,
        None => {
            client.write_all("others are served first\n").await?;
            match version {
                Version::Faulty => {
                    note(lock).await?;
                    turn.await?
                }
                Version::Mended => {
                    drop(turn);
                    note(lock).await?;
                    lock.acquire().await?
                }
            }
        }
    };
    let _order = client.read_line().await?;
    drop(permit);
    Ok(client.write_all("done\n").await?)
}

/// Notes that a client had to wait.
async fn note(lock: &DeferredLock) -> Result<()> {
    let _permit = lock.acquire().await?;
    Ok(())
}

async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

pub(crate) fn start(reactor: &Reactor, version: Version) -> Result<SocketAddr> {
    let lock = DeferredLock::new();
    let serve = async move |client| order(client, &lock, version).await;
    Ok(super::address(&reactor.serve(super::FREE, serve)?))
}
