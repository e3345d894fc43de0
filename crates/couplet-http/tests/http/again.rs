//! Each cycle of a client's connections twice, with one and with several.

use couplet::defer::gather;
use couplet::http::{Client, ClientOptions, HttpOptions};
use couplet::{Reactor, Result, Stream};

use crate::client::{connections, secs, text};
use crate::hostile::{WHOLE, request};
use crate::kit::{beside, scripted};

const URL: &str = "http://127.0.0.1:8000";

/// Sends `count` requests for the path together.
async fn asked(
    reactor: &Reactor,
    client: &Client,
    path: &str,
    count: usize,
) -> Result<Vec<String>> {
    let ask = |_| {
        let (client, url) = (client.clone(), format!("{URL}{path}"));
        reactor.spawn(async move { text(client.get(url).await?.into_body()).await })
    };
    gather((0..count).map(ask)).await
}

#[test]
fn idle_connections_are_closed_after_their_keep_alive_each_time() {
    beside(HttpOptions::default(), async |reactor| {
        let client = Client::with_options(&reactor, ClientOptions::default().keep_alive(secs(20)));
        for round in 1..=3 {
            for count in [1, 3] {
                asked(&reactor, &client, "/slow", count).await?;
                assert_eq!(connections(&reactor).await?, count, "{round}");
                reactor.sleep(secs(19)).await?;
                assert_eq!(connections(&reactor).await?, count, "{round}");
                reactor.sleep(secs(2)).await?;
                assert_eq!(connections(&reactor).await?, 0, "{round}: {count}");
            }
        }
        Ok(())
    });
}

#[test]
fn connections_to_two_servers_have_their_own_times() {
    let server = async |mut stream: Stream| {
        while request(&mut stream).await? {
            stream.write_all(WHOLE).await?;
        }
        Ok(())
    };
    scripted(server, async |reactor| {
        let calls = reactor.snapshot().await?.pending_calls;
        let client = Client::with_options(&reactor, ClientOptions::default().keep_alive(secs(20)));
        for round in 1..=3 {
            for host in ["127.0.0.1", "127.0.0.2"] {
                let body = client.get(format!("http://{host}:8000/")).await?.into_body();
                assert_eq!(text(body).await?, "done");
                reactor.sleep(secs(5)).await?;
            }
            if round == 3 {
                break;
            }
            // Their times end after 20 s and 25 s.
            for (pause, left) in [(9, 2), (2, 1), (3, 1), (2, 0)] {
                reactor.sleep(secs(pause)).await?;
                assert_eq!(connections(&reactor).await?, left, "{round}");
            }
        }
        drop(client);
        assert_eq!(connections(&reactor).await?, 0);
        assert_eq!(reactor.snapshot().await?.pending_calls, calls, "no timer is left");
        Ok(())
    });
}
