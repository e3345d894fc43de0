//! The services that a program can have, and those in a configuration.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use couplet::hooks::SortedMap;
use couplet::reactor::Drain;
use couplet::services::{Child, Restart, Strategy, Supervisor};
use couplet::{Failure, Reactor};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::{ConfigError, Parsed, Place, Section, Source, unknown};
use crate::loops::Loops;
use crate::options::{LogTable, OF_THE_LOG, Options};
use crate::values::Seconds;
use crate::{in_loops, places};

/// Builds a service whose configuration has been read.
pub(crate) type Build = Box<dyn FnOnce(&Loops) -> couplet::Result<Child>>;

/// Reads the configuration of a service, which has the name of its table.
type Read = Box<dyn Fn(&str, &Section<'_>) -> Result<Build, ConfigError>>;

/// The services that a program can have.
#[derive(Default)]
pub(crate) struct Services {
    /// Each reads the whole configuration.
    whole: Vec<Read>,
    /// Each reads a table that has its kind.
    kinds: SortedMap<&'static str, Read>,
}

/// The contents of a configuration.
pub(crate) struct Plan {
    pub(crate) log: LogTable,
    pub(crate) options: Options,
    pub(crate) supervisor: SupervisorTable,
    pub(crate) services: Vec<Planned>,
}

/// A service in a configuration.
pub(crate) struct Planned {
    pub(crate) key: Rc<Key>,
    pub(crate) build: Build,
}

/// Identifies a service in a configuration, with all that its configuration says.
pub(crate) struct Key {
    pub(crate) which: Which,
    pub(crate) place: Place,
    contents: Option<toml::Table>,
}

/// Which service of a configuration.
#[derive(PartialEq)]
pub(crate) enum Which {
    /// The one with this number of those that read the whole.
    Whole(usize),
    /// The service of the table with this name.
    Table(String),
}

impl Which {
    /// Name used in places: the table's.
    pub(crate) fn service(&self) -> &str {
        match self {
            Which::Whole(_) => "",
            Which::Table(name) => name,
        }
    }
}

impl Key {
    fn of(which: Which, section: &Section<'_>) -> Rc<Key> {
        Rc::new(Key { which, place: section.place(), contents: section.contents() })
    }

    /// Whether it is the same service, and its configuration is the same, however it is written.
    pub(crate) fn is_same(&self, other: &Key) -> bool {
        self.which == other.which && self.contents.is_some() && self.contents == other.contents
    }
}

/// Builds services. A second one of a name, or one of a name that is taken, is an error.
pub(crate) fn build<'a>(
    planned: impl IntoIterator<Item = Planned>,
    taken: impl IntoIterator<Item = &'a str>,
    loops: &Loops,
) -> couplet::Result<Vec<(Rc<Key>, Child)>> {
    let mut names: BTreeSet<String> = taken.into_iter().map(str::to_owned).collect();
    let built = planned.into_iter().map(|Planned { key, build }| {
        let child = build(loops)?;
        let name = child.name();
        if !names.insert(name.to_owned()) {
            let message = format_args!("there are two services of the name {name}");
            return Err(key.place.error(message).into());
        }
        Ok((key, child))
    });
    built.collect()
}

/// The tables that are not the services'.
const OURS: &[&str] = &["runner", "supervisor"];

/// All tables where services are tables.
const ALL: &[&str] = &["services", "runner", "supervisor"];

impl Services {
    pub(crate) fn add<C: DeserializeOwned + 'static>(
        &mut self,
        build: impl Fn(C, &Reactor) -> couplet::Result<Child> + 'static,
    ) {
        let build = move |_: &str, config: C, loops: &Loops| build(config, loops.reactor());
        self.whole.push(reader(build));
    }

    pub(crate) fn add_kind<C: DeserializeOwned + 'static>(
        &mut self,
        kind: &'static str,
        build: impl Fn(&str, C, &Reactor) -> couplet::Result<Child> + 'static,
    ) {
        let build =
            move |name: &str, config: C, loops: &Loops| build(name, config, loops.reactor());
        self.kinds.insert(kind, reader(build));
    }

    /// Like [`add`](Self::add), for a service that runs in all loops.
    pub(crate) fn add_in_loops<C: DeserializeOwned + 'static, M: InEachLoop>(
        &mut self,
        build: impl Fn(C, &Reactor) -> couplet::Result<M> + 'static,
    ) {
        let build = move |_: &str, config: C, reactor: &Reactor| build(config, reactor);
        self.whole.push(reader_in_loops(build));
    }

    /// Like [`add_kind`](Self::add_kind), for services that run in all loops.
    pub(crate) fn add_kind_in_loops<C: DeserializeOwned + 'static, M: InEachLoop>(
        &mut self,
        kind: &'static str,
        build: impl Fn(&str, C, &Reactor) -> couplet::Result<M> + 'static,
    ) {
        self.kinds.insert(kind, reader_in_loops(build));
    }

    /// Reads all of a configuration.
    pub(crate) fn plan(&self, source: &Arc<Source>) -> Result<Plan, ConfigError> {
        let parsed = source.parsed();
        let whole = parsed.whole(&[]);
        let runner = whole.table("runner")?;
        let log = read_or_default(runner.as_ref().map(|table| table.only(OF_THE_LOG)))?;
        let options = read_or_default(runner.map(|table| table.without(OF_THE_LOG)))?;
        let supervisor = read_or_default(whole.table("supervisor")?)?;
        if self.whole.is_empty() && !self.kinds.is_empty() {
            parsed.whole(ALL).read::<Nothing>()?;
        }
        let mut services = Vec::new();
        let rest = parsed.whole(OURS);
        for (number, read) in self.whole.iter().enumerate() {
            let key = Key::of(Which::Whole(number), &rest);
            services.push(Planned { key, build: read("", &rest)? });
        }
        for (name, section) in self.tables(&parsed)? {
            let build = self.read(name, &section)?;
            services.push(Planned { key: Key::of(Which::Table(name.to_owned()), &section), build });
        }
        Ok(Plan { log, options, supervisor, services })
    }

    /// The tables of services by kind.
    fn tables<'a>(
        &self,
        parsed: &'a Parsed<'_>,
    ) -> Result<Vec<(&'a str, Section<'a>)>, ConfigError> {
        let services = parsed.whole(OURS).table("services")?.filter(|_| !self.kinds.is_empty());
        let Some(services) = services else { return Ok(Vec::new()) };
        let table = |name: &'a str| Ok((name, services.table(name)?.expect("it has this key")));
        services.keys().map(table).collect()
    }

    /// Reads the table of a service by its kind.
    fn read(&self, name: &str, section: &Section<'_>) -> Result<Build, ConfigError> {
        let Common { kind, restart } = section.only(COMMON).read()?;
        let Some(read) = self.kinds.get(&*kind) else {
            let kinds: Vec<&str> = self.kinds.keys().copied().collect();
            return Err(section.error_at("kind", unknown("kind", &kind, &kinds)));
        };
        let build = read(name, &section.without(COMMON))?;
        Ok(Box::new(move |loops| Ok(build(loops)?.restart(restart.into()))))
    }

    /// Reads the configuration that a service had once more.
    pub(crate) fn read_again(&self, key: &Key) -> Result<Build, ConfigError> {
        let mut planned = self.plan(key.place.source())?.services.into_iter();
        let build = planned.find(|it| it.key.which == key.which).map(|it| it.build);
        Ok(build.expect("its configuration has it"))
    }
}

fn reader<C: DeserializeOwned + 'static>(
    build: impl Fn(&str, C, &Loops) -> couplet::Result<Child> + 'static,
) -> Read {
    let build = Rc::new(build);
    Box::new(move |name, section| {
        let (build, place, name) = (build.clone(), section.place(), name.to_owned());
        let config: C = places::read_for(&name, || section.read())?;
        Ok(Box::new(move |loops| {
            build(&name, config, loops).map_err(|failure| Failure::from(place.error(failure)))
        }))
    })
}

/// Makes the child of a service in each loop.
pub(crate) trait InEachLoop:
    Fn(&Reactor) -> couplet::Result<Child> + Send + Sync + 'static
{
}

impl<M: Fn(&Reactor) -> couplet::Result<Child> + Send + Sync + 'static> InEachLoop for M {}

fn reader_in_loops<C: DeserializeOwned + 'static, M: InEachLoop>(
    build: impl Fn(&str, C, &Reactor) -> couplet::Result<M> + 'static,
) -> Read {
    let read = reader(move |name: &str, config: C, loops: &Loops| {
        let make = places::in_all_loops(|| build(name, config, loops.reactor()))?;
        in_loops::child(loops, make)
    });
    Box::new(move |name, section| places::in_all_loops(|| read(name, section)))
}

fn read_or_default<T: DeserializeOwned + Default>(
    table: Option<Section<'_>>,
) -> Result<T, ConfigError> {
    table.map_or_else(|| Ok(T::default()), |table| table.read())
}

/// No other key is allowed.
#[derive(Deserialize)]
struct Nothing {}

/// The keys that a service of any kind has.
const COMMON: &[&str] = &["kind", "restart"];

#[derive(Deserialize)]
struct Common {
    kind: String,
    #[serde(default)]
    restart: RestartWord,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RestartWord {
    #[default]
    Permanent,
    Transient,
    Temporary,
}

impl From<RestartWord> for Restart {
    fn from(word: RestartWord) -> Restart {
        match word {
            RestartWord::Permanent => Restart::Permanent,
            RestartWord::Transient => Restart::Transient,
            RestartWord::Temporary => Restart::Temporary,
        }
    }
}

/// The table `[supervisor]`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct SupervisorTable {
    strategy: StrategyWord,
    restarts: u32,
    within: Seconds,
    back_off: Seconds,
    most_back_off: Seconds,
    not_ready_for: Seconds,
    drain: Seconds,
    drain_groups: u32,
    drain_over: Seconds,
    /// How long a reload may wait for the files that it reads.
    pub(crate) read_within: Seconds,
    /// How long a new process of the program may take to start.
    pub(crate) restart_within: Seconds,
    restart_drain: Seconds,
    /// Most processes of the program at the same time.
    pub(crate) generations: u32,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum StrategyWord {
    #[default]
    OneForOne,
    OneForAll,
    RestForOne,
}

impl Default for SupervisorTable {
    fn default() -> Self {
        let seconds = |millis| Seconds(std::time::Duration::from_millis(millis));
        SupervisorTable {
            strategy: StrategyWord::default(),
            restarts: 1,
            within: seconds(5000),
            back_off: seconds(100),
            most_back_off: seconds(30_000),
            not_ready_for: seconds(0),
            drain: seconds(5000),
            drain_groups: 1,
            drain_over: seconds(0),
            read_within: seconds(10_000),
            restart_within: seconds(60_000),
            restart_drain: seconds(600_000),
            generations: 4,
        }
    }
}

impl SupervisorTable {
    /// A supervisor without children.
    pub(crate) fn supervisor(&self, name: &str) -> Supervisor {
        let strategy = match self.strategy {
            StrategyWord::OneForOne => Strategy::OneForOne,
            StrategyWord::OneForAll => Strategy::OneForAll,
            StrategyWord::RestForOne => Strategy::RestForOne,
        };
        Supervisor::new(name)
            .strategy(strategy)
            .intensity(self.restarts, self.within.0)
            .back_off(self.back_off.0, self.most_back_off.0)
            .not_ready_for(self.not_ready_for.0)
    }

    /// The drain at the end of the program.
    pub(crate) fn drain(&self) -> Drain {
        self.drain_within(self.drain)
    }

    /// The drain of a process that another one has replaced.
    pub(crate) fn drain_after_restart(&self) -> Drain {
        self.drain_within(self.restart_drain)
    }

    fn drain_within(&self, time: Seconds) -> Drain {
        Drain::within(time.0).paced(self.drain_groups.max(1), self.drain_over.0)
    }
}

#[cfg(test)]
mod tests;
