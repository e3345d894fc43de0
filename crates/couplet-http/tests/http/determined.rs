//! A seed determines one trace, with HTTP/1.1, HTTP/2, TLS, WebSockets and tokio in the world. The
//! sources of nondeterminism are controlled, each and all together, in this process and in another.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use couplet::http::HttpExt;
use couplet::http::{Client, ClientOptions, Request};
use couplet::layers::tls::{ClientTlsOptions, Roots};
use couplet::sim::{Fault, Notes, Sim, Trial, Weather, check_determined};
use couplet::{Reactor, Result, hooks};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, SerialNumber};
use tokio::time::sleep;

use crate::kit::any;
use crate::needed::{Folder, SelfSigned};

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The shop's certificate, and the roots that trust it. Each process makes its own, of the same
/// lengths.
fn secured() -> &'static (SelfSigned, Roots) {
    static SECURED: OnceLock<(SelfSigned, Roots)> = OnceLock::new();
    SECURED.get_or_init(|| {
        let mut params = CertificateParams::new(["shop".to_owned()]).expect("a name");
        params.serial_number = Some(SerialNumber::from(1));
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let roots = Roots::from_pem(certificate.as_bytes()).expect("a certificate");
        (SelfSigned { certificate, key: key.serialize_pem() }, roots)
    })
}

/// Handlers that wait, lock and spawn.
fn shop() -> Router {
    let sold = Arc::new(tokio::sync::Mutex::new(0_u32));
    let buy = async |State(sold): State<Arc<tokio::sync::Mutex<u32>>>, Path(what): Path<String>| {
        let mut sold = sold.lock().await;
        *sold += 1;
        let waits = tokio::spawn(sleep(Duration::from_millis(20)));
        let _ = waits.await;
        format!("{what} number {sold}")
    };
    let echo = async |upgrade: axum::extract::ws::WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
        })
    };
    Router::new().route("/buy/{what}", post(buy)).route("/echo", get(echo)).with_state(sold)
}

/// Buys from the shop repeatedly.
async fn buys(reactor: Reactor, to: &'static str) -> Result<()> {
    let tls = ClientTlsOptions::default().roots(secured().1.clone());
    let options = ClientOptions::default().timeout(Some(secs(4))).tls(tls);
    let client = Client::with_options(&reactor, options);
    for n in 0..15 {
        reactor.sleep(Duration::from_millis(hooks::random(&reactor) % 300)).await?;
        let one = async {
            let request = Request::post(format!("{to}/buy/{n}")).body("please")?;
            Ok::<_, couplet::Failure>(client.send(request).await?.into_body().bytes(10_000).await?)
        };
        let _ =
            futures_util::future::join(one, async { client.get(&*format!("{to}/no")).await.ok() })
                .await;
    }
    Ok(())
}

#[cfg(feature = "websocket")]
async fn talks(reactor: Reactor) -> Result<()> {
    loop {
        let talk = async {
            let mut socket = reactor.connect_websocket("ws://shop/echo").await?;
            for n in 0..10 {
                socket.send(format!("message {n}")).await?;
                let Some(Ok(back)) = socket.recv().await else { return Ok(()) };
                assert_eq!(back.as_text(), Some(&*format!("message {n}")));
                reactor.sleep(Duration::from_millis(hooks::random(&reactor) % 200)).await?;
            }
            Ok::<_, couplet::Failure>(())
        };
        let _ = reactor.timeout(secs(8), talk).await;
        reactor.sleep(secs(1)).await?;
    }
}

pub(crate) fn town(sim: &mut Sim) -> Result<()> {
    let folder = Folder::new();
    let certificate = folder.write("shop.pem", secured().0.pem());
    let secure = format!("tls::443:cert={certificate}:alpn=h2,http/1.1");
    let shop = sim.host_with_tokio("shop", move |reactor| {
        reactor.serve_http("tcp:80", any(shop()))?;
        reactor.serve_http(&*secure, any(shop()))?;
        Ok(())
    });
    for (name, to) in [("plain", "http://shop"), ("secure", "https://shop")] {
        sim.host(name, move |reactor| {
            reactor.spawn(buys(reactor.clone(), to)).detach();
            Ok(())
        });
    }
    #[cfg(feature = "websocket")]
    sim.host("talker", |reactor| {
        reactor.spawn(talks(reactor.clone())).add_both(|_: Result<()>| Ok(())).detach();
        Ok(())
    });
    sim.draw_faults_for(secs(15), &[shop]);
    sim.run_for(secs(30))
}

#[test]
fn a_town_with_each_protocol_has_one_trace_a_seed() {
    // Made here, because making it in the first run would draw from that run's entropy.
    secured();
    check_determined(0..6, Weather::Storm, town);
    let met = Trial::new(0, Weather::Calm).whole_trace().run_apart(&town);
    assert_eq!(met.failure, None);
    let heard = met.trace.iter().filter(|line| line.contains("data_received")).count();
    assert!(heard > 200, "{heard} of {} lines", met.trace.len());
}

#[test]
fn the_town_holds_in_every_storm() {
    secured();
    for seed in 6..26 {
        let report = Trial::new(seed, Weather::Storm).run(&town);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}

/// The notes of two runs of the same seed, each in its own thread.
fn said_twice(world: impl Fn(&mut Sim, Notes) -> Result<()> + Sync) -> [Vec<String>; 2] {
    [(), ()].map(|()| {
        let report = Trial::new(3, Weather::Calm).whole_trace().run_apart(&|sim| {
            let notes = sim.notes();
            world(sim, notes)
        });
        assert_eq!(report.failure, None);
        let notes = report.trace.iter().filter_map(|line| line.split_once("note: "));
        notes.map(|(_, note)| note.to_owned()).collect()
    })
}

#[test]
fn the_date_of_an_answer_comes_from_its_host() {
    let [first, second] = said_twice(|sim, notes| {
        let server = sim.host("server", |reactor| {
            reactor.serve_http("tcp:80", any(Router::new()))?;
            Ok(())
        });
        let told = notes.clone();
        sim.host("client", move |reactor| {
            let (client, told) = (Client::new(reactor), told.clone());
            let ask = async move {
                let answer = client.get("http://server/").await?;
                told.note(answer.headers()["date"].to_str()?);
                Ok(())
            };
            reactor.spawn(ask).detach();
            Ok(())
        });
        sim.run_for(Duration::from_millis(3))?;
        notes.note(httpdate::fmt_http_date(sim.wall_clock(server)));
        sim.run_for(secs(100))
    });
    let [told, wall] = &first[..] else { panic!("{first:?}") };
    assert_eq!((told, &first), (wall, &second));
    assert!(told.contains(" Nov 2023 "), "{told}");
}

/// A program that notes a number from its reactor each time it starts.
fn draws(sim: &mut Sim, notes: Notes) -> Result<()> {
    let host = sim.host("draws", move |reactor| {
        notes.note(hooks::random(reactor).to_string());
        reactor.sleep(secs(1000)).detach();
        Ok(())
    });
    sim.fault(secs(1), secs(1), Fault::Crash(host));
    sim.run_for(secs(10))
}

#[test]
fn a_restart_does_not_rewind_the_generator() {
    let [first, second] = said_twice(draws);
    assert_eq!((first.len(), &first), (2, &second));
    assert_ne!(first[0], first[1]);
}

/// Draws at each poll, even if another future caused the wakeup. The note has one digit per poll.
#[test]
fn draws_of_polls_that_make_no_progress_are_the_same_ones() {
    let [first, second] = said_twice(|sim, notes| {
        sim.host_with_tokio("idle", move |reactor| {
            let (notes, inner) = (notes.clone(), reactor.clone());
            let polled = Rc::new(RefCell::new(Vec::new()));
            let kept = polled.clone();
            let never = std::future::poll_fn(move |_| {
                kept.borrow_mut().push(hooks::random(&inner) % 10);
                Poll::<()>::Pending
            });
            let inner = reactor.clone();
            let waits = async move {
                let ticks = async {
                    for _ in 0..5 {
                        inner.sleep(Duration::from_millis(hooks::random(&inner) % 50)).await?;
                        sleep(Duration::from_millis(3)).await;
                    }
                    Ok::<_, couplet::Failure>(())
                };
                futures_util::future::select(Box::pin(ticks), Box::pin(never)).await;
                notes.note(format!("{:?}", polled.borrow()));
                Ok(())
            };
            reactor.spawn(waits).detach();
            Ok(())
        });
        sim.run_for(secs(5))
    });
    assert!(first.len() == 1 && first[0].len() > 20, "{first:?}");
    assert_eq!(first, second);
}
