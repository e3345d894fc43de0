//! TLS in a simulated network: the same seed gives the same trace, and no storm loses or changes a
//! byte of the plaintext.

use std::sync::OnceLock;

use couplet::factory::Layered;
use couplet::layers::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};
use couplet::sim::{Sim, Trial, Weather};
use couplet::{Protocol, Reason, Result, Transport};
use couplet_testkit_loops::doubles::Echo;

use couplet_testkit_loops::authority::Authority;

use super::kit::{ms, s};

pub(crate) const NAME: &str = "couplet.test";

/// Made once: all signatures with a key of this kind have the same length.
pub(crate) fn both() -> &'static (ServerTls, ClientTls) {
    static BOTH: OnceLock<(ServerTls, ClientTls)> = OnceLock::new();
    BOTH.get_or_init(|| {
        let authority = Authority::new();
        let server = ServerTlsOptions::new(authority.identity(NAME));
        let client = ClientTlsOptions::default().roots(authority.roots());
        let server = ServerTls::new(&server.resumption(false)).expect("it works");
        (server, ClientTls::new(&client.resumption(false)).expect("it works"))
    })
}

/// Counts up, one number per line, and checks that the numbers come back in order.
#[derive(Default)]
struct Counts {
    sent: u32,
    back: Vec<u8>,
}

impl Counts {
    fn count(&mut self, transport: &Transport) {
        self.sent += 1;
        transport.write(format!("{}\n", self.sent));
        let pause = ms(20 + transport.reactor().random() % 200);
        transport.connection::<Self>().call_later(pause, Self::count);
    }
}

impl Protocol for Counts {
    fn connection_made(&mut self, transport: &Transport) {
        transport.set_idle_timeout(Some(s(3)));
        self.count(transport);
    }

    fn data_received(&mut self, transport: &Transport, data: &[u8]) {
        self.back.extend_from_slice(data);
        let expected: String = (1..=self.sent).map(|n| format!("{n}\n")).collect();
        assert!(expected.as_bytes().starts_with(&self.back), "{:?}", self.back);
        if self.sent > 30 {
            transport.lose_connection();
        }
    }

    fn connection_lost(&mut self, _: &Transport, reason: &Reason) {
        // TCP repairs the damage of the network: nothing looks like an attack.
        assert!(!matches!(reason, Reason::Tls(_)), "{reason}");
    }
}

fn talk(sim: &mut Sim) -> Result<()> {
    sim.host("server", |reactor| {
        let tls = both().0.clone();
        let echo = Layered::new(|| Echo, move |reactor, _| tls.layer(reactor.now()));
        reactor.listen("tcp:443", echo).map(drop)
    });
    for name in ["one", "two"] {
        sim.host(name, |reactor| {
            let inner = reactor.clone();
            let task = reactor.spawn(async move {
                loop {
                    let tls = both().1.clone();
                    let counts = Layered::new(Counts::default, move |reactor, _| {
                        tls.layer(NAME, reactor.now()).expect("a DNS name")
                    });
                    if let Ok(talk) = inner.connect("tcp:server:443", counts).await {
                        inner.sleep(s(4)).await?;
                        talk.transport().lose_connection();
                    }
                    inner.sleep(ms(inner.random() % 1000)).await?;
                }
            });
            task.add_both(|_: Result<()>| Ok(())).detach();
            Ok(())
        });
    }
    sim.draw_faults(s(40));
    sim.run_for(s(60))
}

#[test]
fn tls_in_a_storm_gives_the_same_trace_for_the_same_seed() {
    let trace = |seed| {
        let report = Trial::new(seed, Weather::Storm).whole_trace().run(&talk);
        assert_eq!(report.failure, None);
        (report.hash, report.trace)
    };
    let first = trace(1);
    assert!(first.1.iter().filter(|line| line.contains("data")).count() > 20, "{:?}", first.1);
    assert!(trace(1) == first, "the same seed");
    assert_ne!(trace(2).0, first.0);
}

#[test]
fn tls_holds_in_every_storm() {
    for seed in 3..50 {
        let report = Trial::new(seed, Weather::Storm).run(&talk);
        assert_eq!(report.failure, None, "seed {seed}");
    }
}
