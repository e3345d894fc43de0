//! Plans: services by kind and of the whole file.

use couplet::services::{Child, TimerService};
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Tick {
    every: Seconds,
}

fn services() -> Services {
    let mut services = Services::default();
    services.add_kind("tick", |name: &str, tick: Tick, _: &Reactor| match tick.every.0.is_zero() {
        true => Err(Failure::msg("every is 0")),
        false => Ok(Child::new(TimerService::new(name, tick.every.0, || ()))),
    });
    services
}

fn plan(text: &str) -> Result<Plan, ConfigError> {
    services().plan(&Source::parse("a.toml", text)?)
}

fn error(text: &str) -> String {
    plan(text).err().expect(text).to_string()
}

#[test]
fn a_supervisor_without_settings_has_the_defaults_of_the_manual() {
    let table = "restarts = 1\nwithin = 5\nback-off = 0.1\nmost-back-off = 30\nnot-ready-for = 0\n\
                 drain = 5\ndrain-groups = 1\ndrain-over = 0\nread-within = 10\nrestart-within = 60\n\
                 restart-drain = 600\ngenerations = 4\n";
    let set = plan(&format!("[supervisor]\n{table}")).unwrap().supervisor;
    assert!(set == SupervisorTable::default(), "{set:?}");
    let other = plan("[supervisor]\nback-off = 0.101").unwrap().supervisor;
    assert!(other != SupervisorTable::default());
}

#[test]
fn a_drain_has_as_many_groups_as_are_set_and_at_least_one() {
    for (groups, wanted) in [(0, 1), (1, 1), (2, 2)] {
        let text = format!("[supervisor]\ndrain-groups = {groups}\ndrain-over = 3");
        let table = plan(&text).unwrap().supervisor;
        let paced = |seconds: u64| {
            let drain = Drain::within(std::time::Duration::from_secs(seconds));
            drain.paced(wanted, std::time::Duration::from_secs(3))
        };
        assert_eq!(table.drain(), paced(5), "{groups}");
        assert_eq!(table.drain_after_restart(), paced(600), "{groups}");
    }
}

#[test]
fn each_table_of_services_is_a_service() {
    let text = "[services.a]\nkind = \"tick\"\nevery = 1\n[services.b]\nkind = \"tick\"\nrestart = \"temporary\"\nevery = 2";
    let plan = plan(text).unwrap();
    let l = couplet::Loop::new().unwrap();
    let children: Vec<Child> = plan
        .services
        .into_iter()
        .map(|it| (it.build)(&Loops::new(&l.reactor(), [])).unwrap())
        .collect();
    let shown = format!("{children:?}");
    assert!(shown.contains("\"a\", restart: Permanent"), "{shown}");
    assert!(shown.contains("\"b\", restart: Temporary"), "{shown}");
}

#[test]
fn wrong_services_and_tables_are_errors_with_their_place() {
    for (text, wanted) in [
        (
            "[services.a]\nkind = \"tik\"\nevery = 1",
            "a.toml:2:8: unknown kind tik; did you mean tick?",
        ),
        ("[services.a]\nevery = 1", "missing field kind"),
        (
            "[services.a]\nkind = \"tick\"\nevry = 1",
            "a.toml:3:1: unknown key evry; did you mean every?",
        ),
        ("[services.a]\nkind = \"tick\"\nevery = -1", "a.toml:3:9: invalid value: integer -1"),
        ("[service.a]\nkind = \"tick\"", "a.toml:1:2: unknown key service; did you mean services?"),
        ("[supervisor]\nrestart = 1", "a.toml:2:1: unknown key restart; did you mean restarts?"),
        ("[runner]\nlogfile = \"x\"", "a.toml:2:1: unknown key logfile; did you mean log-file?"),
        ("[services]\na = 1", "a.toml:2:5: a has to be a table"),
    ] {
        let error = error(text);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_service_that_cannot_be_built_shows_its_table() {
    let mut plan = plan("[services.a]\nkind = \"tick\"\nevery = 0").unwrap();
    let l = couplet::Loop::new().unwrap();
    let built = (plan.services.remove(0).build)(&Loops::new(&l.reactor(), []));
    assert!(built.unwrap_err().to_string().starts_with("a.toml:1:1: every is 0"));
}

#[test]
fn services_are_the_same_if_their_tables_are() {
    let first = plan("[services.a]\nkind = \"tick\"\nevery = 1").unwrap();
    for (text, is_same) in [
        ("# words\nservices.a = { every = 1, kind = \"tick\" }", true),
        ("[services.a]\nkind = \"tick\"\nevery = 2", false),
        ("[services.a]\nkind = \"tick\"\nevery = 1\nrestart = \"transient\"", false),
        ("[services.b]\nkind = \"tick\"\nevery = 1", false),
    ] {
        let second = plan(text).unwrap();
        assert_eq!(first.services[0].key.is_same(&second.services[0].key), is_same, "{text}");
    }
}

#[test]
fn the_tables_of_the_runner_leave_a_service_of_the_whole_file_unchanged() {
    let mut services = Services::default();
    services.add(|tick: Tick, _: &Reactor| {
        Ok(Child::new(TimerService::new("tick", tick.every.0, || ())))
    });
    let plan = |text: &str| services.plan(&Source::parse("a.toml", text).unwrap()).unwrap();
    let first = plan("every = 1");
    for (text, is_same) in [
        ("every = 1\n[runner]\nlog-level = \"debug\"\n[supervisor]\nrestarts = 9", true),
        ("every = 2", false),
    ] {
        assert_eq!(first.services[0].key.is_same(&plan(text).services[0].key), is_same, "{text}");
    }
}

#[test]
fn the_supervisor_follows_its_table() {
    let table = plan("[supervisor]\nstrategy = \"rest-for-one\"\nrestarts = 3\nwithin = 7.5\nback-off = 0\nmost-back-off = 1").unwrap();
    let shown = format!("{:?}", table.supervisor.supervisor("x"));
    for part in ["RestForOne", "3", "7.5s", "0ns", "1s"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(plan("").unwrap().supervisor, SupervisorTable::default());
}

#[test]
fn two_services_of_one_name_are_refused_before_any_starts() {
    let mut services = Services::default();
    for _ in 0..2 {
        services.add(|tick: Tick, _: &Reactor| {
            Ok(Child::new(TimerService::new("tick", tick.every.0, || ())))
        });
    }
    let l = couplet::Loop::new().unwrap();
    let build_all = |taken: &[&str], most| {
        let plan = services.plan(&Source::parse("a.toml", "every = 1").unwrap()).unwrap();
        let planned = plan.services.into_iter().take(most);
        build(planned, taken.iter().copied(), &Loops::new(&l.reactor(), []))
            .map(|built| built.len())
    };
    assert_eq!(build_all(&["tock"], 1).unwrap(), 1);
    for (taken, most) in [(&[][..], 2), (&["tick"], 1)] {
        let error = build_all(taken, most).unwrap_err().to_string();
        assert_eq!(error, "a.toml: there are two services of the name tick");
    }
}

#[test]
fn each_word_of_the_key_restart_has_its_policy() {
    for (word, wanted) in [
        ("permanent", Restart::Permanent),
        ("transient", Restart::Transient),
        ("temporary", Restart::Temporary),
    ] {
        let common: Common =
            toml::from_str(&format!("kind = \"echo\"\nrestart = \"{word}\"")).expect(word);
        assert_eq!(Restart::from(common.restart), wanted);
    }
    let common: Common = toml::from_str("kind = \"echo\"").expect("a default");
    assert_eq!(Restart::from(common.restart), Restart::Permanent);
}
