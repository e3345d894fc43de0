//! A server over TLS offers the versions that it speaks.

use std::convert::Infallible;

use couplet::endpoints::{ServerEndpoint, server_from_string};
use couplet::http::HttpExt;
use couplet::http::{Body, HttpOptions, Request, Response};
use couplet::{Reactor, Result};
use tower::service_fn;

use crate::kit::{any, ended, run};
use crate::needed::{Folder, SelfSigned};

async fn hello(_: Request<Body>) -> Result<Response<String>, Infallible> {
    Ok(Response::new("hello".to_owned()))
}

/// Connects with these offers, and returns the negotiated protocol.
async fn agreed(reactor: &Reactor, port: u16, offers: &str, ca: &str) -> Result<Option<String>> {
    let alpn = if offers.is_empty() { String::new() } else { format!(":alpn={offers}") };
    let to = format!("tls:127.0.0.1:{port}:ca={ca}:servername=localhost{alpn}");
    let stream = reactor.connect_stream(to).await?;
    let tls = stream.tls().expect("it is TLS");
    let agreed = tls.alpn.as_deref().map(|name| String::from_utf8_lossy(name).into_owned());
    stream.close().await?;
    Ok(agreed)
}

/// Checks the protocols that a server with these options negotiates for each client's offers.
fn offered(endpoint: &str, options: HttpOptions, wanted: &'static [(&str, Option<&str>)]) {
    let folder = Folder::new();
    let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
    let endpoint = endpoint.replace("FILE", &file);
    run(async move |reactor| {
        let port = reactor.serve_http_with(&*endpoint, any(service_fn(hello)), options)?;
        let number = port.host().port().expect("a TCP port");
        for (offers, chosen) in wanted {
            let agreed = agreed(&reactor, number, offers, &file).await?;
            assert_eq!(agreed.as_deref(), *chosen, "{endpoint}: {offers}");
        }
        ended(port, ()).await
    });
}

const BOTH: &[(&str, Option<&str>)] = &[
    ("h2,http/1.1", Some("h2")),
    ("http/1.1,h2", Some("h2")),
    ("http/1.1", Some("http/1.1")),
    ("", None),
];

#[test]
fn c178a_a_server_over_tls_offers_its_versions() {
    let tls = "tls:0:interface=127.0.0.1:cert=FILE";
    let options = HttpOptions::default;
    offered(tls, options(), BOTH);
    offered(tls, options().http2(false), &[("h2,http/1.1", Some("http/1.1")), ("", None)]);
    offered(tls, options().http1(false), &[("h2,http/1.1", Some("h2"))]);
    // An `alpn` in the endpoint overrides the options.
    offered(&format!("{tls}:alpn=http/1.1"), options(), &[("h2,http/1.1", Some("http/1.1"))]);
}

#[test]
fn c178a_wrapped_endpoints_offer_the_versions_too() {
    for tls in [
        "throttle:tls:0:interface=127.0.0.1:cert=FILE:read=1M",
        "log:tls:0:interface=127.0.0.1:cert=FILE",
        "tls:throttle:0:interface=127.0.0.1:cert=FILE:read=1M",
    ] {
        offered(tls, HttpOptions::default(), BOTH);
    }
}

#[test]
fn c178a_each_port_offers_its_versions_after_each_reload_of_its_certificate() {
    run(async |reactor| {
        let folder = Folder::new();
        let file = folder.write("server.pem", SelfSigned::new("localhost").pem());
        let endpoint = server_from_string(&format!("tls:0:interface=127.0.0.1:cert={file}"))?;
        let mut ports = Vec::new();
        for (has_http2, chosen) in [(true, "h2"), (false, "http/1.1")] {
            let options = HttpOptions::default().http2(has_http2);
            let service = any(service_fn(hello));
            ports.push((reactor.serve_http_with(endpoint.clone(), service, options)?, chosen));
        }
        for round in 0..3 {
            for (port, chosen) in &ports {
                let number = port.host().port().expect("a TCP port");
                // Only the certificate of this round is accepted.
                let agreed = agreed(&reactor, number, "h2,http/1.1", &file).await?;
                assert_eq!(agreed.as_deref(), Some(*chosen), "after {round} reloads");
            }
            folder.write("server.pem", SelfSigned::new("localhost").pem());
            endpoint.reload()?.apply();
        }
        for (port, _) in ports {
            ended(port, ()).await?;
        }
        Ok(())
    });
}
