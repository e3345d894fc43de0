//! The name that a client checks a server's certificate against: the URL's, directly, through a
//! proxy and after a redirection. RFC 9110, 4.3.4.

use std::convert::Infallible;

use couplet::http::{
    Body, Client, ClientOptions, HttpError, HttpExt, Request, Response, StatusCode, header,
};
use couplet::layers::tls::{ClientTlsOptions, Roots};
use couplet::stream::copy_bidirectional;
use couplet::{Reactor, Result, Stream};
use tower::service_fn;

use crate::client::text;
use crate::kit::{any, ended, run};
use crate::needed::{Folder, SelfSigned};

/// Three hosts, all of them this one. For each there is a server on all addresses, on ports from
/// [`FIRST`], with a certificate that is valid only for this host.
const HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
const FIRST: u16 = 8441;
const PROXY: u16 = 3128;

/// A host without the brackets that an IPv6 address has in a URL.
fn bare(host: &str) -> &str {
    host.trim_matches(['[', ']'])
}

/// Redirects to the URL after `?`; otherwise answers with the host of the request.
async fn answer(request: Request<Body>) -> Result<Response<String>, Infallible> {
    let uri = request.uri();
    let mut answer = Response::new(uri.host().unwrap_or_default().to_owned());
    if let Some(to) = uri.query() {
        *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        answer.headers_mut().insert(header::LOCATION, to.parse().expect("a location"));
    }
    Ok(answer)
}

/// Connects a client of the proxy to the port that it asks for.
async fn tunnel(reactor: Reactor, mut near: Stream) -> Result<()> {
    let line = near.read_line().await?.unwrap_or_default();
    let line = String::from_utf8(line.to_vec())?;
    while near.read_line().await?.is_some_and(|line| !line.is_empty()) {}
    let to = line.strip_prefix("CONNECT ").and_then(|line| line.strip_suffix(" HTTP/1.1"));
    let far =
        reactor.connect_stream(format!("tcp:{}", to.expect("a request for a tunnel"))).await?;
    near.write_all("HTTP/1.1 200 OK\r\n\r\n").await?;
    copy_bidirectional(near, far).await?;
    Ok(())
}

/// Checks that the host has answered, or that its certificate was rejected for its name.
async fn check(
    answer: Result<Response<Body>, HttpError>,
    host: &str,
    is_valid: bool,
    case: &str,
) -> Result<()> {
    match answer {
        Ok(answer) => {
            assert!(is_valid, "{case}: accepted");
            assert_eq!(text(answer.into_body()).await?, host, "{case}");
        }
        Err(error) => {
            let said = error.to_string();
            assert!(!is_valid && said.contains("certificate not valid for name"), "{case}: {said}");
            assert!(said.contains(&format!("{:?}", bare(host))), "{case}: {said}");
        }
    }
    Ok(())
}

#[test]
fn a_certificate_has_to_be_valid_for_the_host_of_the_url() {
    run(async |reactor| {
        let (folder, mut trusted) = (Folder::new(), String::new());
        let (mut ports, mut servers) = (Vec::new(), Vec::new());
        for (valid_for, port) in HOSTS.into_iter().zip(FIRST..) {
            let pair = SelfSigned::new(bare(valid_for));
            trusted += &pair.certificate;
            let file = folder.write(&format!("{port}.pem"), pair.pem());
            ports.push(
                reactor.serve_http(format!("tls::{port}:cert={file}"), any(service_fn(answer)))?,
            );
            servers.push((valid_for, port));
        }
        let inner = reactor.clone();
        let tunnel = async move |near| tunnel(inner.clone(), near).await;
        ports.push(reactor.serve(format!("tcp:{PROXY}"), tunnel)?);
        let tls = ClientTlsOptions::default().roots(Roots::from_pem(trusted.as_bytes())?);
        let proxies = HOSTS.into_iter().chain(["::1"]).map(|host| Some((host.to_owned(), PROXY)));
        for proxy in [None].into_iter().chain(proxies) {
            let options = ClientOptions::default().tls(tls.clone()).proxy(proxy.clone());
            let client = Client::with_options(&reactor, options);
            for before in ["", "https://localhost:8441/?"] {
                for host in HOSTS {
                    for (valid_for, port) in &servers {
                        let url = format!("{before}https://{host}:{port}/");
                        let case = format!("{url}, valid for {valid_for}, proxy: {proxy:?}");
                        check(client.get(&*url).await, host, host == *valid_for, &case).await?;
                    }
                }
            }
        }
        for port in ports {
            ended(port, ()).await?;
        }
        Ok(())
    });
}
