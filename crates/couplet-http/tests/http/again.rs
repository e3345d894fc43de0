//! Each cycle of a client's connections twice, with one and with several.

use couplet::defer::gather;
use couplet::http::{Client, ClientOptions, HttpOptions};
use couplet::{Reactor, Result};

use crate::client::{connections, secs, text};
use crate::kit::beside;

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
