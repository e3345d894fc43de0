//! Reloads: which services change, files that are refused, and reloads that meet.

use super::*;

/// Tasks: their names, with a word behind an equals sign. Other texts are configurations themselves.
fn services(text: &str, keys: &str) -> String {
    if text.contains(['[', '\n']) {
        return format!("{text}\n");
    }
    let one = |service: &str| {
        let (name, word) = service.split_once('=').unwrap_or((service, ""));
        task(name, &format!("word = \"{word}\"\n{keys}"))
    };
    text.split_whitespace().map(one).collect()
}

/// The services that run.
async fn running(site: &Site) -> Result<String> {
    let status: serde_json::Value = serde_json::from_str(&site.order("status json").await?)?;
    let services = status["services"].as_array().expect("a list").iter();
    let mut names: Vec<&str> = services
        .filter(|service| service["state"] == "running")
        .map(|service| service["name"].as_str().expect("a name"))
        .collect();
    names.sort_unstable();
    Ok(names.join(" "))
}

/// Reloads of one program with the services `a b c`: a name, the configuration (see [`services`]), further
/// tables, a part of the answer, and the services that run afterwards.
#[rustfmt::skip]
const RELOADS: &[(&str, &str, &str, &str, &str)] = &[
    ("the same", "a b c", "", "ok\n0 services changed, 0 added, 0 removed\n", "a b c"),
    ("another order", "c a b", "", "ok\n0 services changed, 0 added, 0 removed\n", "a b c"),
    ("another word", "a=one b c", "", "ok\n1 services changed, 0 added, 0 removed\n", "a b c"),
    ("all at once", "a=two c d", "", "ok\n1 services changed, 1 added, 1 removed\n", "a c d"),
    ("and again", "b a c", "", "ok\n1 services changed, 1 added, 1 removed\n", "a b c"),
    (
        "an unknown key",
        "[services.d]\nkind = \"task\"\ncolour = 3\n[services.e]\nkind = \"task\"",
        "",
        "a.toml:3:1: unknown key colour",
        "a b c",
    ),
    ("an unknown kind", "[services.d]\nkind = \"eco\"", "", "a.toml:2:8: unknown kind eco; did you mean echo?\n  | kind", "a b c"),
    ("no TOML", "services = \n", "", "a.toml:1:12: ", "a b c"),
    ("a value of another type", "[services.d]\nkind = \"echo\"\nport = true", "", "a.toml:3:8: ", "a b c"),
    (
        "unbuildable",
        "[services.d]\nkind = \"task\"\nis-broken = true\n[services.e]\nkind = \"task\"",
        "",
        "a.toml:1:1: it cannot be built",
        "a b c",
    ),
    ("a table of the runner", "a b c", "threads = 2", "; changes of runner wait for the next start\n", "a b c"),
    ("a table of the supervisor", "a b c", "[supervisor]\nrestarts = 7", "; changes of supervisor wait for", "a b c"),
    ("both tables", "a b c", "threads = 2\n[supervisor]\nrestarts = 8", "changes of supervisor and runner wait", "a b c"),
    ("none", "# words\n", "", "ok\n0 services changed, 0 added, 3 removed\n", ""),
];

#[test]
fn only_changed_services_are_touched_and_a_wrong_file_changes_nothing() {
    // A stop that fails makes no difference.
    for keys in ["", "cannot-stop = true"] {
        let text = services("a b c", keys) + &process("");
        let (_, ended) = run(&text, &["-v"], async move |site: Site| {
            for &(name, text, tables, wanted, names) in RELOADS {
                let answer = site.reload(&(services(text, keys) + &process(tables))).await?;
                assert!(answer.contains(wanted), "{name}: {wanted:?} for {answer:?}");
                assert_eq!(
                    answer.starts_with("error: "),
                    wanted.starts_with("a.toml"),
                    "{name}: {answer}"
                );
                assert_eq!(running(&site).await?, names, "{name}");
                assert_eq!(site.get(7000, "/readyz").await?.0, 200, "{name}");
            }
            fs::remove_file(site.folder.join("a.toml"))?;
            let answer = site.answer("reload\n").await?;
            assert!(answer.starts_with("error: cannot read "), "{answer}");
            assert!(answer.contains("a.toml: no such file or directory"), "{answer}");
            Ok(())
        });
        let count = |words: &str| ended.log.matches(words).count();
        let refused = RELOADS.iter().filter(|row| row.3.starts_with("a.toml")).count() + 1;
        let wanted = [refused, RELOADS.len() + 1 - refused, refused, 2, 2];
        let waits = "changes take effect when the program is started again table=";
        let seen = [
            count("cannot reload: "),
            count("reloaded: "),
            count("ERROR"),
            count(&format!("{waits}\"runner\"")),
            count(&format!("{waits}\"supervisor\"")),
        ];
        assert_eq!(seen, wanted, "{}", ended.log);
    }
}

#[test]
fn a_reload_while_another_is_in_progress_follows_it() {
    let text = poet(8002, 15) + &process("");
    let (_, ended) = run(&text, &["-v"], async |site: Site| {
        let reader = site.connect(8002).await?;
        site.write(&(task("b", "") + &process("")));
        // The first reload waits until the reader of the poem is closed.
        let asked = site.reactor.clone();
        let first = site.reactor.spawn(async move {
            let mut client = asked.connect_stream("unix:/ctl").await?;
            client.write_all("reload\n").await?;
            Ok(read_answer(client).await)
        });
        site.sleep(1).await?;
        assert!(site.log().contains("draining connections=1"), "{}", site.log());
        let second = site.reload(&(task("c", "") + &process(""))).await?;
        assert_eq!(second, "ok\na reload is in progress; another follows\n");
        // A third one is part of the second.
        assert_eq!(site.reload(&(task("d", "") + &process(""))).await?, second);
        assert_eq!(first.await?, "ok\n0 services changed, 1 added, 1 removed\n");
        site.sleep(1).await?;
        assert_eq!(running(&site).await?, "d");
        let last = site.reload(&(task("e", "") + &process(""))).await?;
        assert_eq!(last, "ok\n0 services changed, 1 added, 1 removed\n", "none is in progress");
        drop(reader);
        Ok(())
    });
    assert_eq!(ended.log.matches("reloaded: ").count(), 3, "{}", ended.log);
}

#[test]
fn a_reload_follows_one_that_fails() {
    // The stop of the service takes longer than the next two orders.
    let text = task("a", "stops-in = 100") + &process("");
    let (_, ended) = run(&text, &["-v"], async |site: Site| {
        for round in 1..=2 {
            let asked = site.reactor.clone();
            let refused = site.reload("nonsense").await?;
            assert!(refused.starts_with("error: "), "{refused}");
            assert_eq!(running(&site).await?, "a", "{round}");
            site.write(&(task("b", "") + &process("")));
            let first = site.reactor.spawn(async move {
                let mut client = asked.connect_stream("unix:/ctl").await?;
                client.write_all("reload\n").await?;
                Ok(read_answer(client).await)
            });
            site.sleep(1).await?;
            let next = task("a", "stops-in = 100") + &task("c", "is-broken = true") + &process("");
            let second = site.reload(&next).await?;
            assert_eq!(second, "ok\na reload is in progress; another follows\n");
            assert_eq!(first.await?, "ok\n0 services changed, 1 added, 1 removed\n");
            site.sleep(1).await?;
            // The one that followed has failed, and is over.
            assert_eq!(running(&site).await?, "b", "{round}");
            let text = task("a", "stops-in = 100") + &process("");
            let last = site.reload(&text).await?;
            assert_eq!(last, "ok\n0 services changed, 1 added, 1 removed\n");
        }
        Ok(())
    });
    assert_eq!(ended.log.matches("cannot reload: ").count(), 4, "{}", ended.log);
}

#[test]
fn a_program_may_end_during_a_reload() {
    let text = poet(8002, 900) + &process("") + "[supervisor]\ndrain = 900\n";
    let (_, ended) = try_run(program(), &text, &["-v"], async |site: Site| {
        let _reader = site.connect(8002).await?;
        site.write(&(task("b", "") + &process("")));
        let asked = site.reactor.clone();
        let reload = async move {
            asked.connect_stream("unix:/ctl").await?.write_all("reload\n").await?;
            asked.sleep(secs(1000)).await
        };
        site.reactor.spawn(reload).detach();
        site.sleep(1).await?;
        site.network.signal(Signal::Terminate);
        site.sleep(1).await?;
        let refused = site.answer("reload\n").await?;
        assert_eq!(refused, "error: cannot reload: the program ends\n");
        site.network.signal(Signal::Terminate);
        site.sleep(1000).await
    });
    assert_eq!((ended.took.as_secs(), ended.failure), (2, None), "{}", ended.log);
    assert!(ended.log.contains("cannot reload: the program ends"), "{}", ended.log);
    assert!(!ended.log.contains("unhandled"), "{}", ended.log);
}

/// Levels of the configuration at the start and in each reload, whether that is refused, and whether it
/// is logged with important events.
const LEVELS: &[(&str, bool, bool)] = &[
    ("log-level = \"info\"", false, true),
    ("log-level = \"error\"", false, false),
    ("log-level = \"debug\"", false, true),
    ("log-level = \"warn\"", false, false),
    // Only when its services are built.
    ("log-level = \"info\"", true, false),
    ("log-level = \"info\"", false, true),
    // The program's own level is warn.
    ("", false, false),
    ("", false, false),
    ("log-level = \"info\"", false, true),
];

#[test]
fn levels_of_the_file_apply_unless_the_command_line_sets_them() {
    for (arguments, logs) in
        [(&[][..], None), (&["-v"], Some(true)), (&["--log-level", "warn"], Some(false))]
    {
        run(
            &(task("a", "") + &process("log-level = \"error\"")),
            arguments,
            async move |site: Site| {
                for &(level, is_refused, is_logged) in LEVELS {
                    let before = site.log().matches("reloaded: ").count();
                    let services =
                        if is_refused { task("b", "is-broken = true") } else { task("a", "") };
                    let answer = site.reload(&(services + &process(level))).await?;
                    assert_eq!(answer.starts_with("error: "), is_refused, "{level}: {answer}");
                    let logged = site.log().matches("reloaded: ").count() > before;
                    let wanted = logs.unwrap_or(is_logged) && !is_refused;
                    assert_eq!(logged, wanted, "{arguments:?} {level:?}: {}", site.log());
                }
                Ok(())
            },
        );
    }
}
