//! Health over HTTP.

use rustix::process::Signal;

use super::metrics::value;
use super::{Program, get, port_after};
use crate::kit::wait_until;
use crate::needed::Folder;
use crate::servers;

const LOCAL: &str = "tcp:0:interface=127.0.0.1";

#[test]
fn a_chat_without_its_bus_is_degraded_and_ready() {
    let Some(mut bus) = servers::Server::start(&["--user", "ada", "--pass", "s3cret"]) else {
        return;
    };
    let url = format!("nats://ada:s3cret@127.0.0.1:{}", bus.port);
    let configuration = format!(
        "[services.chat]\nkind = \"chat\"\nlisten = \"0\"\nbus = \"{url}\"\n\
         [runner]\nmetrics = \"{LOCAL}\"\ncontrol = \"ctl\"\n"
    );
    let program = Program::start_with(Folder::new(), &configuration, &["-v"]);
    let health = port_after("serving metrics and the health", &program);
    program.port("chat");
    wait_until("the bus", || get(health, "/readyz").1.starts_with("ready\n"));
    let buses =
        |state: &str| value(health, &format!("couplet_buses{{bus=\"NATS\",state=\"{state}\"}}"));
    let events = |event: &str| {
        value(health, &format!("couplet_bus_events_total{{bus=\"NATS\",event=\"{event}\"}}"))
    };
    assert_eq!([buses("up"), buses("down"), events("connects")], [1, 0, 1]);
    wait_until("an announcement", || events("published") > 0);
    bus.kill();
    let degraded = format!("not connected to NATS at 127.0.0.1:{}: ", bus.port);
    wait_until(&degraded, || get(health, "/readyz").1.contains(&degraded));
    let (status, text) = get(health, "/readyz");
    assert_eq!(status, 200, "{text}");
    assert_eq!([buses("up"), buses("down")], [0, 1]);
    let listed = program.ctl(&["status"]);
    assert!(listed.text().contains("degraded: "), "{}", listed.text());
    bus.start_again();
    wait_until("the bus", || get(health, "/readyz").1.starts_with("ready\n"));
    assert_eq!([buses("up"), buses("down"), events("connects")], [1, 0, 2]);
    // The service that replaces it joins the bus too.
    let changed = configuration.replace("[runner]", "idle-timeout = 60\n[runner]");
    assert_eq!(program.reload_by_ctl(&changed).code, Some(0));
    wait_until("the bus", || program.told().matches("connected to the bus").count() == 3);
    wait_until("health", || get(health, "/readyz").1.starts_with("ready\n"));
    assert!(!(text + &program.told() + listed.text()).contains("s3cret"));
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}

#[test]
fn c220_a_proxy_without_its_cache_is_degraded_and_ready() {
    let Some(mut cache) = servers::Server::start_redis(&["--requirepass", "s3cret"]) else {
        return;
    };
    let url = format!("redis://:s3cret@127.0.0.1:{}", cache.port);
    let configuration = format!(
        "[services.poem]\nkind = \"proxy\"\nupstream = [\"1\"]\nlisten = \"0\"\ncache = \"{url}\"\n\
         [runner]\nhealth = \"{LOCAL}\"\n"
    );
    let program = Program::start_with(Folder::new(), &configuration, &["-v"]);
    let health = port_after("serving the health", &program);
    program.port("poem");
    wait_until("the cache", || get(health, "/readyz").1.starts_with("ready\n"));
    cache.kill();
    let degraded = format!("the shared cache can't be used: 127.0.0.1:{}: ", cache.port);
    wait_until(&degraded, || get(health, "/readyz").1.contains(&degraded));
    let (status, text) = get(health, "/readyz");
    assert_eq!(status, 200, "{text}");
    cache.start_again();
    wait_until("the cache", || get(health, "/readyz").1.starts_with("ready\n"));
    assert!(!(text + &program.told()).contains("s3cret"));
    assert_eq!(program.stop(Signal::TERM).code, Some(0));
}
