//! The shop's pages, requested by customers, with all three servers behind it.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::rc::Rc;

use couplet::http::HttpExt;
use couplet::http::{Body, Client, ClientOptions, Request, Response, StatusCode};
use couplet::layers::tls::{ClientTlsOptions, Roots};
use couplet::{Port, Reactor, Result};
use couplet_testkit::processes::Killed;
use tower::service_fn;

use crate::example::shop::router;
use crate::example::{Places, open};
use crate::needed::{Folder, SelfSigned, missing};
use crate::{example, run};
use couplet_testkit::{postgres, servers as redis};

const SCHEMA: &str = include_str!("../../src/bin/databases/schema.sql");

/// A certificate for this machine and its key, as a file, and options of clients that trust it.
struct Certificate {
    file: String,
    client: ClientOptions,
    folder: Folder,
}

impl Certificate {
    fn new() -> Certificate {
        let (folder, made) = (Folder::new(), SelfSigned::new("localhost"));
        let roots = Roots::from_pem(made.certificate.as_bytes()).expect("a certificate");
        let client = ClientOptions::default().tls(ClientTlsOptions::default().roots(roots));
        Certificate { file: folder.write("site.pem", made.pem()), client, folder }
    }
}

/// An HTTPS server with a configurable answer.
struct Rates {
    certificate: Certificate,
    answer: Rc<RefCell<(StatusCode, String)>>,
    asked: Rc<Cell<usize>>,
    port: Port,
}

impl Rates {
    fn start(reactor: &Reactor) -> Result<Rates> {
        let certificate = Certificate::new();
        let answer = Rc::new(RefCell::new((StatusCode::OK, "1.2\n".to_owned())));
        let asked = Rc::<Cell<usize>>::default();
        let (told, counted) = (answer.clone(), asked.clone());
        let service = service_fn(move |_: Request<Body>| {
            counted.set(counted.get() + 1);
            let (status, text) = told.borrow().clone();
            let answer = Response::builder().status(status).body(text).expect("an answer");
            async move { Ok::<_, Infallible>(answer) }
        });
        let at = format!("tls:0:interface=127.0.0.1:cert={}", certificate.file);
        let port = reactor.serve_http(at, service)?;
        Ok(Rates { certificate, answer, asked, port })
    }

    fn url(&self) -> String {
        let port = self.port.host().socket_addr().expect("a TCP port").port();
        format!("https://localhost:{port}/usd")
    }
}

/// An open shop and a customer.
struct Visit {
    customer: Client,
    base: String,
}

impl Visit {
    /// Opens a shop with its goods in stock.
    async fn new(
        reactor: &Reactor,
        (postgres, redis): (&postgres::Server, &redis::Server),
        (rates, client): (&str, ClientOptions),
    ) -> Result<Visit> {
        let places = Places { postgres: &postgres.url(), redis: &redis.url(), rates };
        let shop = open(reactor, &places, client)?;
        shop.goods.get().await?.batch_execute(SCHEMA).await?;
        let port = reactor.serve_http("tcp:0:interface=127.0.0.1", router(reactor, shop))?;
        let base = format!("http://{}", port.host().socket_addr().expect("a TCP port"));
        Ok(Visit { customer: Client::new(reactor), base })
    }

    async fn asks(&self, method: &str, path: &str) -> Result<(u16, String)> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let answer = self.customer.send(request.body("")?).await?;
        let status = answer.status().as_u16();
        let text = String::from_utf8(answer.into_body().bytes(1000).await?.to_vec())?;
        Ok((status, text))
    }

    async fn sees(&self, path: &str, status: u16, text: &str) -> Result<()> {
        assert_eq!(self.asks("GET", path).await?, (status, format!("{text}\n")), "{path}");
        Ok(())
    }

    async fn orders(&self, good: &str, status: u16, text: &str) -> Result<()> {
        let path = format!("/goods/{good}/orders");
        assert_eq!(self.asks("POST", &path).await?, (status, format!("{text}\n")), "{path}");
        Ok(())
    }
}

const LAMP: &str = "lamp: 12.50 EUR, 15.00 USD";

#[test]
fn the_shop_shows_prices_and_sells_its_stock() {
    let Some(postgres) = postgres::Server::start_on_tcp() else { return };
    let Some(redis) = redis::Server::start_redis(&[]) else { return };
    run(async move |reactor| {
        let rates = Rates::start(&reactor)?;
        let client = rates.certificate.client.clone();
        let visit = Visit::new(&reactor, (&postgres, &redis), (&rates.url(), client)).await?;
        for _ in 0..3 {
            visit.sees("/goods/lamp", 200, LAMP).await?;
        }
        assert_eq!(rates.asked.get(), 1, "Redis keeps the rate");
        for unknown in ["/goods/moon", "/goods/%FF"] {
            visit.sees(unknown, 404, "there is no such good").await?;
        }
        visit.orders("lamp", 201, "lamp: ordered, 1 left").await?;
        visit.orders("lamp", 201, "lamp: ordered, 0 left").await?;
        visit.orders("lamp", 409, "it is sold out").await?;
        let all = (0..20).map(|_| visit.asks("POST", "/goods/poem/orders"));
        let all = futures_util::future::join_all(all).await;
        let left = all.into_iter().map(|answer| answer.map(|(_, text)| text));
        let mut left = left.collect::<Result<Vec<_>>>()?;
        left.sort();
        let expected = (980..1000).map(|left| format!("poem: ordered, {left} left\n"));
        assert_eq!(left, expected.collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn a_failing_server_is_named_and_used_again_once_it_is_back() {
    let Some(mut postgres) = postgres::Server::start() else { return };
    let Some(mut redis) = redis::Server::start_redis_at_path() else { return };
    run(async move |reactor| {
        let rates = Rates::start(&reactor)?;
        let client = rates.certificate.client.clone();
        let visit = Visit::new(&reactor, (&postgres, &redis), (&rates.url(), client)).await?;
        for (status, text) in [(500, "1.2"), (200, "much"), (200, &*"1".repeat(2000))] {
            *rates.answer.borrow_mut() = (StatusCode::from_u16(status)?, text.to_owned());
            visit.sees("/goods/lamp", 502, "there is no exchange rate").await?;
        }
        *rates.answer.borrow_mut() = (StatusCode::OK, "1.2".to_owned());
        visit.sees("/goods/lamp", 200, LAMP).await?;
        let asked = rates.asked.get();

        postgres.stop();
        visit.sees("/goods/lamp", 503, "the database is not available").await?;
        visit.orders("lamp", 503, "the database is not available").await?;
        postgres.start_again();
        visit.sees("/goods/lamp", 200, LAMP).await?;
        visit.orders("lamp", 201, "lamp: ordered, 1 left").await?;
        assert_eq!(rates.asked.get(), asked);

        redis.kill();
        visit.sees("/goods/lamp", 503, "the cache is not available").await?;
        visit.orders("lamp", 201, "lamp: ordered, 0 left").await?;
        redis.start_again();
        visit.sees("/goods/lamp", 200, LAMP).await?;
        assert_eq!(rates.asked.get(), asked + 1, "a new Redis knows no rate");

        rates.port.stop_listening().expect("it listens").await?;
        reactor.drain(std::time::Duration::ZERO).detach();
        Ok(())
    });
}

#[test]
fn the_order_of_a_customer_who_hangs_up_is_rolled_back() {
    let Some(postgres) = postgres::Server::start() else { return };
    let Some(redis) = redis::Server::start_redis_at_path() else { return };
    run(async move |reactor| {
        let none = ("https://localhost:1/", ClientOptions::default());
        let visit = Visit::new(&reactor, (&postgres, &redis), none).await?;
        let admin = example::pool::Pool::new(&reactor, postgres.url().parse()?, 1);
        let admin = admin.get().await?;
        // An order takes one of the good, then waits for this lock.
        admin.batch_execute("begin; lock table orders in exclusive mode").await?;
        let customer = Client::new(&reactor);
        let request = Request::post(format!("{}/goods/lamp/orders", visit.base)).body("")?;
        let ordering = reactor.spawn(async move { Ok(customer.send(request).await?) });
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        let waiting = async |n: i64| loop {
            // Within a transaction PostgreSQL lists the sessions that it listed the first time.
            admin.batch_execute("select pg_stat_clear_snapshot()").await?;
            if admin.query_one(waiting, &[]).await?.get::<_, i64>(0) == n {
                return Ok::<_, couplet::Failure>(());
            }
        };
        waiting(1).await?;
        ordering.cancel();
        ordering.await.expect_err("it is cancelled");
        // The connection is busy with the order, so the next request takes another one.
        visit.sees("/goods/moon", 404, "there is no such good").await?;
        // The server cancels the order, though the table is still locked.
        waiting(0).await?;
        admin.batch_execute("commit").await?;
        visit.orders("lamp", 201, "lamp: ordered, 1 left").await?;
        let orders = admin.query_one("select count(*) from orders", &[]).await?;
        assert_eq!(orders.get::<_, i64>(0), 1, "that of the other customer alone");
        Ok(())
    });
}

/// `openssl s_server` that serves the files of a folder, or, with `-www`, a page about itself.
struct OpenSsl {
    _child: Killed,
    port: u16,
}

impl OpenSsl {
    fn start(certificate: &Certificate, mode: &str) -> Option<OpenSsl> {
        use std::io::{BufRead, BufReader};
        let mut command = Command::new("openssl");
        command.args(["s_server", "-accept", "127.0.0.1:0", "-cert", "site.pem", mode]);
        command.current_dir(&*certificate.folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let Ok(mut child) = command.arg("-key").arg("site.pem").stderr(Stdio::null()).spawn()
        else {
            missing("openssl");
            return None;
        };
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut ports = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:")?.parse().ok());
        let port = ports.next().expect("it says where it listens");
        std::thread::spawn(move || ports.for_each(drop));
        Some(OpenSsl { _child: Killed(child), port })
    }
}

#[test]
fn the_rate_may_come_from_openssl() {
    let Some(postgres) = postgres::Server::start() else { return };
    let Some(redis) = redis::Server::start_redis_at_path() else { return };
    let certificate = Certificate::new();
    let mut long = String::new();
    (0..100_000).for_each(|n| writeln!(long, "line {n:04}").expect("in memory"));
    for (name, text) in [("usd", "1.2"), ("long", &long)] {
        certificate.folder.write(name, text);
    }
    let Some(files) = OpenSsl::start(&certificate, "-WWW") else { return };
    let Some(about) = OpenSsl::start(&certificate, "-www") else { return };
    run(async move |reactor| {
        let url = |server: &OpenSsl, path: &str| format!("https://localhost:{}{path}", server.port);
        let trusting = certificate.client.clone();
        let rates = (&*url(&files, "/usd"), trusting.clone());
        let visit = Visit::new(&reactor, (&postgres, &redis), rates).await?;
        visit.sees("/goods/lamp", 200, LAMP).await?;
        let client = Client::with_options(&reactor, trusting);
        let body = client.get(url(&files, "/long")).await?.into_body().bytes(2_000_000).await?;
        assert!(long.len() > 1_000_000 && body == long, "{} bytes", body.len());
        let page = client.get(url(&about, "/")).await?.into_body().bytes(100_000).await?;
        let page = String::from_utf8_lossy(&page).into_owned();
        assert!(page.contains("s_server") && page.contains("TLSv1.3"), "{page}");
        let strict = Client::new(&reactor).get(url(&files, "/usd")).await;
        strict.expect_err("the system does not trust it");
        Ok(())
    });
}
