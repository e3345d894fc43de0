//! Starts, restarts of services, health, metrics, limits, and ends.

use super::*;

/// A request, the status of its answer, and the beginning of the body.
const HEALTH: &[(u16, &str, u16, &str)] = &[
    (7000, "/healthz", 200, "degraded: b: one leg\na"),
    (7000, "/readyz", 200, "degraded: b: one leg\na"),
    (7000, "/readyz?verbose", 200, "degraded: b: one leg\na"),
    (9000, "/readyz", 200, "degraded: b: one leg\na"),
    (7000, "/", 404, "there are /healthz and /readyz\n"),
    (7000, "/ready", 404, "there are /healthz and /readyz\n"),
    (7000, "/readyz/", 404, "there are /healthz and /readyz\n"),
    (7000, "/metrics", 404, "there are /healthz and /readyz\n"),
    (9000, "/", 404, "there are /healthz, /readyz and /metrics\n"),
];

#[test]
fn health_lists_the_services() {
    let services = echo("a", 8001, "") + &task("b", "is-degraded = true\nword = \"one leg\"");
    run(&(services + &process("")), &[], async |site: Site| {
        for &(port, path, status, wanted) in HEALTH {
            let (answered, text) = site.get(port, path).await?;
            let is_right = answered == status && text.starts_with(wanted);
            assert!(is_right, "{port} {path}: {status} {wanted:?} for {answered} {text:?}");
            assert_eq!(text.lines().count(), if status == 200 { 3 } else { 1 }, "{path}: {text}");
        }
        assert!(site.order("status").await?.contains("degraded: b: one leg"));
        Ok(())
    });
}

#[test]
fn a_program_that_leaves_is_not_ready_and_serves() {
    let text = echo("a", 8001, "") + &process("") + "[supervisor]\nnot-ready-for = 2\ndrain = 0\n";
    let (open, ended) = run(&text, &["-v"], async |site: Site| {
        let mut open = vec![site.connect(8001).await?];
        site.reactor.stop();
        site.sleep(1).await?;
        assert_eq!(site.get(7000, "/readyz").await?.0, 503);
        assert_eq!(site.get(7000, "/healthz").await?.0, 200);
        open.push(site.connect(8001).await?);
        for client in &open {
            assert!(client.is_served().await);
        }
        Ok(open)
    });
    assert_eq!(ended.failure, None);
    assert_eq!(ended.took.as_secs(), 2);
    assert!(open.iter().all(|client| client.wire.is_closed()));
}

#[test]
fn a_program_whose_service_fails_too_often_ends_and_says_why() {
    let text = task("glass", "failures = 2");
    let (_, ended) = try_run(program(), &text, &[], async |site: Site| site.sleep(100).await);
    let failure = ended.failure.expect("it gives up");
    assert!(failure.contains("it broke"), "{failure}");
    let restarts = ended.log.matches("restarting a service: it broke service=").count();
    assert_eq!(restarts, 1, "{}", ended.log);
    assert!(ended.log.contains("gave up: more than 1 restarts within 5 s"), "{}", ended.log);
}

#[test]
fn a_restart_is_logged_and_counted_and_the_program_not_ready_before_it() {
    let text = task("glass", "failures = 1") + &process("") + "[supervisor]\nback-off = 20\n";
    let (ready, ended) = run(&text, &["-v"], async |site: Site| {
        let down = site.value("couplet_ready").await?;
        site.sleep(21).await?;
        let restarts = site.value("couplet_service_restarts_total{service=\"glass\"}").await?;
        Ok([down, site.value("couplet_ready").await?, restarts])
    });
    assert_eq!(ready, [0.0, 1.0, 1.0]);
    let restart = ended.log.lines().find(|line| line.contains("restarting a service"));
    let restart = restart.expect("a line");
    assert!(restart.contains("it broke service=") && restart.contains(" delay="), "{restart}");
}

/// The limit of the program's own options, the arguments, and configurations with the number of clients
/// of three that are served at once.
type Limits = (Option<usize>, &'static [&'static str], &'static [(&'static str, usize)]);

const LIMITS: &[(&str, Limits)] = &[
    ("none", (None, &[], &[("", 3), ("max-connections = 2", 2), ("", 3)])),
    ("the program's", (Some(2), &[], &[("", 2), ("max-connections = 3", 3), ("# words", 2)])),
    ("given", (Some(9), &["--max-connections", "2"], &[("", 2), ("max-connections = 3", 2)])),
];

#[test]
fn limits_of_the_process_change_with_a_reload_and_clients_wait() {
    for &(name, (of_program, arguments, configurations)) in LIMITS {
        let limits = LoadLimits::default();
        let limits = of_program.map_or(limits, |most| limits.connections(most));
        let runner = program().loop_options(LoopOptions::default().load_limits(limits));
        let text = |keys: &str| echo("a", 8001, "") + &process(keys);
        let script = async move |site: Site| {
            for (keys, served) in configurations {
                let answer = site.reload(&text(keys)).await?;
                assert!(answer.starts_with("ok\n0 services changed, 0 added, 0 "), "{answer}");
                let clients = [
                    site.connect(8001).await?,
                    site.connect(8001).await?,
                    site.connect(8001).await?,
                ];
                let mut answered = 0;
                for client in &clients {
                    answered += usize::from(client.is_served().await);
                }
                assert_eq!(answered, *served, "{name}, {keys:?}");
                // The last one is served once the others have left.
                let [first, second, last] = clients;
                drop((first, second));
                site.tick().await?;
                assert_eq!(last.wire.take().is_empty(), answered == 3, "{name}, {keys:?}");
                drop(last);
                site.tick().await?;
            }
            Ok(())
        };
        let (done, ended) = try_run(runner, &text(configurations[0].0), arguments, script);
        assert!(done.is_some(), "{name}: {}", ended.log);
    }
}

#[test]
fn a_port_that_lets_clients_wait_is_shown_as_paused() {
    let text = echo("a", 8001, "") + &process("max-connections = 2");
    run(&text, &[], async |site: Site| {
        let paused = "couplet_port_paused{port=\"tcp:127.0.0.1:8001\"}";
        let first = site.connect(8001).await?;
        let (second, third) = (site.connect(8001).await?, site.connect(8001).await?);
        assert!(first.is_served().await && second.is_served().await);
        assert!(!third.is_served().await);
        // The program still answers questions.
        assert_eq!((site.get(7000, "/readyz").await?.0, site.value(paused).await?), (200, 1.0));
        assert!(site.order("status").await?.contains("port        tcp:127.0.0.1:8001"));
        drop(first);
        site.tick().await?;
        assert_eq!(third.wire.take(), b"hello");
        Ok(())
    });
}

#[test]
fn warnings_that_were_left_out_are_counted_after_ten_seconds() {
    let text = |restarts| {
        let services = task("a", "") + &process("log-repeats = 1");
        format!("{services}umask = 0o07{restarts}\n[supervisor]\nrestarts = {restarts}\n")
    };
    run(&text(1), &[], async move |site: Site| {
        // Two tables wait for the next start: two warnings of one place.
        site.reload(&text(2)).await?;
        site.sleep(9).await?;
        assert!(!site.log().contains("left_out="), "{}", site.log());
        site.sleep(2).await?;
        assert!(site.log().contains("left_out=1"), "{}", site.log());
        Ok(())
    });
}

#[test]
fn errors_of_one_place_are_limited_as_the_configuration_says() {
    for (keys, most) in [("", 20), ("log-repeats = 3", 3), ("log-repeats = 0", 30)] {
        run(&(task("a", "") + &process(keys)), &[], async move |site: Site| {
            for _ in 0..30 {
                site.reload("nonsense").await?;
            }
            assert_eq!(site.log().matches("cannot reload").count(), most, "{keys}");
            Ok(())
        });
    }
}

/// Ends of a program whose reader has the first of the poem's four lines: a name, keys of `[supervisor]`,
/// signals or orders with their seconds, how many lines the reader gets, and the second of the end.
type End = (&'static str, &'static str, &'static [(u64, &'static str)], usize, u64);

#[rustfmt::skip]
const ENDS: &[End] = &[
    // The reader does not answer the end of the poem.
    ("an order", "drain = 60", &[(0, "drain")], 4, 41),
    ("SIGTERM", "drain = 60", &[(0, "TERM")], 4, 41),
    ("SIGINT", "drain = 60", &[(0, "INT")], 4, 41),
    ("a poem longer than the drain", "drain = 15", &[(0, "TERM")], 2, 15),
    ("a stop", "drain = 60", &[(0, "stop")], 1, 0),
    ("a stop in a drain", "drain = 60", &[(0, "drain"), (12, "stop")], 2, 12),
    ("two signals", "drain = 60", &[(0, "TERM"), (12, "TERM")], 2, 12),
    ("two signals before the drain", "drain = 60\nnot-ready-for = 60", &[(0, "INT"), (12, "INT")], 2, 12),
];

#[test]
fn c105d_a_program_ends_by_orders_and_signals() {
    let mut wrong = String::new();
    for &(name, keys, given, lines, at) in ENDS {
        let text = poet(8002, 1000) + &process("") + &format!("[supervisor]\n{keys}\n");
        let kept = Rc::<Cell<Option<Client>>>::default();
        let slot = kept.clone();
        let (_, ended) = try_run(program(), &text, &["-v"], async move |site: Site| {
            slot.set(Some(site.connect(8002).await?));
            let mut now = 0;
            for &(second, what) in given {
                site.sleep(second - now).await?;
                now = second;
                match what {
                    "TERM" => site.network.signal(Signal::Terminate),
                    "INT" => site.network.signal(Signal::Interrupt),
                    order => assert_eq!(site.order(order).await?, "", "{name}"),
                }
                if what == "drain" {
                    let status = site.order("status").await?;
                    assert!(status.contains("asked to finish by a drain"), "{name}: {status}");
                }
            }
            // The program ends before.
            site.sleep(1000).await
        });
        let reader = kept.take().expect("it has connected");
        let wire = &reader.wire;
        let got = String::from_utf8(wire.take()).expect("lines").lines().count();
        let seen = (got, wire.is_closed(), ended.took.as_secs(), ended.failure);
        let wanted = (lines, true, at, None);
        if seen != wanted || !ended.log.contains("stopping") {
            wrong += &format!("{name}: {wanted:?} for {seen:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn connections_are_asked_to_finish_in_groups() {
    let text = echo("a", 8001, "") + "[supervisor]\ndrain-groups = 3\ndrain-over = 6\ndrain = 30\n";
    let kept = Rc::<RefCell<Vec<(u64, usize)>>>::default();
    let seen = kept.clone();
    let (_, ended) = try_run(program(), &text, &["-v"], async move |site: Site| {
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(site.connect(8001).await?);
        }
        site.reactor.stop();
        for second in 0.. {
            // A client gets its echoes until its group is asked, and then answers by its own end.
            for client in &clients {
                let is_served = client.is_served().await;
                assert!(is_served || client.wire.saw_fin(), "at {second} s");
            }
            clients.retain(|client| !client.wire.saw_fin());
            seen.borrow_mut().push((second, clients.len()));
            site.sleep(1).await?;
        }
        Ok(())
    });
    let mut left = kept.take();
    left.dedup_by_key(|(_, left)| *left);
    let left: Vec<usize> = left.into_iter().map(|(_, left)| left).collect();
    assert_eq!(left, [4, 2, 0], "{}", ended.log);
    assert!(ended.log.contains("finished=6 closed=0 aborted=0"), "{}", ended.log);
}
