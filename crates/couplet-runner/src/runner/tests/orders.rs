//! Orders of the control socket and their answers.

use super::*;

/// The bytes of a client, whether its stream ends behind them, and the beginning of the answer; an empty
/// one is the end of the connection without an answer.
const ORDERS: &[(&str, bool, &str)] = &[
    ("\0\u{fffd}\u{1b}\r\n", false, "error: unknown order "),
    ("\n", false, "error: unknown order \"\"; known are status"),
    ("status please\n", false, "error: unknown order \"status please\""),
    ("STATUS\n", false, "error: unknown order"),
    ("GET / HTTP/1.1\r\n\r\n", false, "error: unknown order"),
    ("«999»\n", false, "error: unknown order \"xxx"),
    ("«2000»\n", false, ""),
    ("no line", true, ""),
    ("", true, ""),
    ("status\n", true, "ok\nx, generation 1 (process "),
    ("status\r\n", true, "ok\nx, generation 1 (process "),
    ("status\nstop\nstop\n", true, "ok\nx, generation 1 (process "),
    // A reload takes longer than the client's end of stream.
    ("reload\n", true, "ok\n0 services changed, 0 added, 0 removed\n"),
    ("inspect\n", false, "error: the program has no inspector\n"),
    ("record\n", false, "error: the program has no inspector: start it with"),
    ("close\n", false, "error: unknown order \"close\""),
    ("close 0.999.1\n", false, "error: there is no connection 0.999.1\n"),
    ("close none\n", false, "error: there is no connection none\n"),
    ("close 1 2\n", false, "error: there is no connection 1 2\n"),
    ("log\n", false, "error: unknown order \"log\""),
    ("log loud\n", false, "error: \"loud\" is not a level"),
    ("log a b\n", false, "error: ' ' is not allowed in a filter; examples are warn"),
    ("log couplet=loud\n", false, "error: "),
    ("log warn\n", false, "ok\n"),
];

#[test]
fn orders_and_nonsense_are_answered_or_closed_and_harm_nothing() {
    run(&(echo("a", 8001, "") + &process("")), &[], async |site: Site| {
        let client = site.connect(8001).await?;
        for &(sent, ends, wanted) in ORDERS {
            let long = |text: &str| "x".repeat(text.parse().expect("a length"));
            let bytes = match sent.strip_prefix('«').and_then(|rest| rest.split_once('»')) {
                Some((length, end)) => long(length) + end,
                None => sent.to_owned(),
            };
            let mut asking = site.reactor.connect_stream("unix:/ctl").await?;
            asking.write_all(bytes).await?;
            if ends {
                asking.shutdown().await?;
            }
            let answer = read_answer(asking).await;
            let is_right = answer.starts_with(wanted) && answer.is_empty() == wanted.is_empty();
            assert!(is_right, "{sent:?}: {wanted:?} for {answer:?}");
        }
        assert!(client.is_served().await);
        Ok(())
    });
}

#[test]
fn a_hundred_orders_at_once_are_answered() {
    run(&(echo("a", 8001, "") + &process("")), &[], async |site: Site| {
        let orders = ["status\n", "status json\n", "reload\n", "log warn\n"];
        let asked = orders.into_iter().cycle().take(100).map(|order| {
            let reactor = site.reactor.clone();
            site.reactor.spawn(async move {
                let mut client = reactor.connect_stream("unix:/ctl").await?;
                client.write_all(order).await?;
                Ok(read_answer(client).await)
            })
        });
        for answer in couplet::defer::gather(asked.collect::<Vec<_>>()).await? {
            assert!(answer.starts_with("ok\n"), "{answer}");
        }
        Ok(())
    });
}

#[test]
fn status_shows_the_program_and_hundreds_of_connections() {
    run(&(echo("a", 8001, "") + &process("")), &[], async |site: Site| {
        let first = site.connect(8001).await?;
        let mut clients = Vec::new();
        for _ in 1..600 {
            clients.push(site.connect(8001).await?);
        }
        site.sleep(30).await?;
        assert!(first.is_served().await);
        site.sleep(7).await?;
        let pid = std::process::id();
        let text = site.order("status").await?;
        let begins = format!("x, generation 1 (process {pid}) for 38 s: ready");
        assert!(text.starts_with(&begins), "{text}");
        assert!(text.contains("port        tcp:127.0.0.1:8001"), "{text}");
        let status: serde_json::Value = serde_json::from_str(&site.order("status json").await?)?;
        let of_program = ["program", "version", "pid", "is_ready", "generation"];
        let wanted = serde_json::json!(["x", "1", pid, true, 1]);
        assert_eq!(serde_json::json!(of_program.map(|name| &status[name])), wanted);
        assert_eq!(status["services"].as_array().map(Vec::len), Some(1));
        let service = ["name", "state", "restarts"].map(|name| &status["services"][0][name]);
        assert_eq!(serde_json::json!(service), serde_json::json!(["a", "running", 0]));
        let connections = status["connections"].as_array().expect("a list");
        assert_eq!(connections.len(), 602, "and both ends of the one that asks");
        let has_spoken =
            |one: &&serde_json::Value| one["bytes_in"] == 5 && one["host"] == "tcp:127.0.0.1:8001";
        let spoken = connections.iter().find(has_spoken).expect("it has spoken");
        assert_eq!(spoken["bytes_out"], 5);
        let times = ["age", "idle"].map(|name| spoken[name].as_f64().expect("seconds").round());
        assert_eq!(times, [38.0, 7.0]);
        Ok(())
    });
}

#[test]
fn status_has_the_figures_of_each_connection_port_and_service() {
    let text = poet(8002, 0) + &echo("a", 8001, "") + &task("glass", "failures = 1");
    run(&(text + &process("")), &[], async |site: Site| {
        let (reader, client) = (site.connect(8002).await?, site.connect(8001).await?);
        drop(site.connect(8001).await?);
        assert!(client.is_served().await);
        // Two lines of the poem.
        site.sleep(12).await?;
        let status: serde_json::Value = serde_json::from_str(&site.order("status json").await?)?;
        let of = |list: &str, name: &str, value: &str, fields: &[&str]| {
            let rows = status[list].as_array().expect("a list");
            let row = rows.iter().find(|row| row[name] == value);
            let row = row.unwrap_or_else(|| panic!("{value}: {status:#}"));
            fields.iter().map(|field| row[*field].clone()).collect::<Vec<_>>()
        };
        for (wire, host, counts) in [
            (&reader.wire, "tcp:127.0.0.1:8002", [0, 8]),
            (&client.wire, "tcp:127.0.0.1:8001", [5, 5]),
        ] {
            let fields = ["host", "state", "bytes_in", "bytes_out", "buffered"];
            let seen = of("connections", "peer", &wire.address().to_string(), &fields);
            let wanted = serde_json::json!([host, "open", counts[0], counts[1], 0]);
            assert_eq!(serde_json::json!(seen), wanted);
        }
        for (host, accepted) in [("tcp:127.0.0.1:8002", 1), ("tcp:127.0.0.1:8001", 2)] {
            let seen = of("ports", "host", host, &["accepted", "turned_away", "is_paused"]);
            assert_eq!(serde_json::json!(seen), serde_json::json!([accepted, 0, false]));
        }
        for (name, restarts) in [("poet", 0), ("a", 0), ("glass", 1)] {
            let seen = of("services", "name", name, &["restarts", "state"]);
            assert_eq!(serde_json::json!(seen), serde_json::json!([restarts, "running"]));
        }
        Ok(())
    });
}

#[test]
fn log_changes_the_events_that_are_logged() {
    run(&(echo("a", 8001, "") + &process("")), &[], async |site: Site| {
        let mut before = 0;
        for (filter, is_logged) in
            [("warn", false), ("debug", true), ("info", false), ("couplet_core=debug,off", true)]
        {
            assert_eq!(site.order(&format!("log {filter}")).await?, "");
            before = site.log().matches("connection made").count().max(before);
            drop(site.connect(8001).await?);
            let logged = site.log().matches("connection made").count();
            assert_eq!(logged > before, is_logged, "{filter}: {}", site.log());
        }
        // A reload that changes other things keeps the filter.
        site.order("log info").await?;
        site.reload(&(echo("a", 8001, "") + &task("b", "") + &process(""))).await?;
        assert!(site.log().contains("reloaded: 0 services changed, 1 added"), "{}", site.log());
        Ok(())
    });
}

#[test]
fn close_ends_one_connection_and_resets_it_if_that_takes_five_seconds() {
    run(&(echo("a", 8001, "") + &process("")), &[], async |site: Site| {
        let clients =
            [site.connect(8001).await?, site.connect(8001).await?, site.connect(8001).await?];
        for (number, answers) in [(1, true), (0, false)] {
            let peer = format!("{}", clients[number].wire.address());
            let status = site.order("status").await?;
            let line = status.lines().find(|line| line.contains(&peer)).expect("it is open");
            let id = line.strip_prefix("connection  ").and_then(|rest| rest.split(' ').next());
            let order = format!("close {}", id.expect("an id"));
            assert_eq!(site.order(&order).await?, "");
            site.tick().await?;
            let closed = &clients[number].wire;
            assert!(closed.saw_fin() && !closed.saw_reset());
            if answers {
                closed.fin();
            } else {
                site.sleep(4).await?;
                assert!(!closed.saw_reset());
            }
            site.sleep(1).await?;
            assert_eq!(closed.saw_reset(), !answers);
            assert!(!site.order("status").await?.contains(&peer));
            let again = site.answer(format!("{order}\n")).await?;
            assert!(again.starts_with("error: there is no connection"), "{again}");
            assert!(clients[2].is_served().await);
        }
        Ok(())
    });
}

#[test]
fn an_order_may_take_longer_than_its_client_to_send_it() {
    let text = task("slow", "stops-in = 300") + &process("");
    run(&text, &[], async |site: Site| {
        let began = site.reactor.now();
        let answer = site.reload(&process("")).await?;
        assert_eq!(answer, "ok\n0 services changed, 0 added, 1 removed\n");
        assert_eq!((site.reactor.now() - began).as_secs(), 300);
        Ok(())
    });
}
