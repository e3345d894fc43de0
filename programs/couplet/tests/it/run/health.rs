//! Health over HTTP.

use std::net::SocketAddr;

use rustix::process::Signal;

use super::metrics::value;
use super::{Program, echo, echoes, get, is_refused, port_after};
use crate::kit::{Client, wait_until};
use crate::needed::Folder;
use crate::servers;

fn health_port(program: &Program) -> SocketAddr {
    port_after("serving the health", program)
}

const LOCAL: &str = "tcp:0:interface=127.0.0.1";

#[test]
fn health_lists_the_services() {
    let services = echo("a", "0", "") + &echo("b", "0", "");
    let file = format!("{services}[runner]\nlog-level = \"info\"\nhealth = \"{LOCAL}\"\n");
    let by_file = Program::start(&file);
    let by_option = Program::start_with(Folder::new(), &services, &["-v", "--health", LOCAL]);
    for program in [by_file, by_option] {
        let health = health_port(&program);
        program.port("a");
        program.port("b");
        program.wait_told("started");
        for path in ["/healthz", "/readyz", "/readyz?verbose"] {
            let (status, text) = get(health, path);
            assert_eq!(status, 200, "{text}");
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines[1].starts_with("a") && lines[2].starts_with("b"), "{text}");
        }
        for path in ["/", "/ready", "/readyz/"] {
            let (status, text) = get(health, path);
            assert_eq!((status, &*text), (404, "there are /healthz and /readyz\n"), "{path}");
        }
        assert_eq!(program.stop(Signal::TERM).code, Some(0));
    }
}

#[test]
fn a_program_that_leaves_is_not_ready_and_serves() {
    let text = echo("a", "0", "")
        + &format!("[runner]\nhealth = \"{LOCAL}\"\n[supervisor]\nnot-ready-for = 2\n");
    let mut program = Program::start_with(Folder::new(), &text, &["-v"]);
    let health = health_port(&program);
    let port = program.port("a");
    let mut open = Client::connect(port);
    echoes(&mut open);
    program.signal(Signal::TERM);
    wait_until("the program to leave", || get(health, "/readyz").0 == 503);
    assert_eq!(get(health, "/healthz").0, 200);
    echoes(&mut open);
    echoes(&mut Client::connect(port));
    let (ended, _) = program.ended();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.took.as_secs() >= 2, "{:?}", ended.took);
    assert!(open.read_to_end().unwrap().is_empty());
    assert!(is_refused(port) && is_refused(health));
}

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
    let health = health_port(&program);
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
