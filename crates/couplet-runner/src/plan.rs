//! The services that a program can have, and those in a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use couplet::reactor::Drain;
use couplet::services::{Child, Restart, Strategy, Supervisor};
use couplet::{Failure, Reactor};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::config::{ConfigError, Section, Source, unknown};
use crate::options::RunnerTable;
use crate::values::Seconds;

/// Builds a service whose configuration has been read.
pub(crate) type Build = Box<dyn FnOnce(&Reactor) -> couplet::Result<Child>>;

/// Reads the configuration of a service with this name.
type Read = Box<dyn Fn(&str, &Section) -> Result<Build, ConfigError> + Send + Sync>;

/// The services that a program can have.
#[derive(Default)]
pub(crate) struct Services {
    /// Each reads the whole configuration.
    // Bound: one for each call of the program.
    whole: Vec<Read>,
    /// Each reads a table that has its kind.
    // Bound: one for each kind of the program.
    kinds: BTreeMap<&'static str, Read>,
}

/// The contents of a configuration.
pub(crate) struct Plan {
    pub(crate) runner: RunnerTable,
    pub(crate) supervisor: SupervisorTable,
    // Bound: the tables of the configuration.
    pub(crate) services: Vec<Planned>,
}

/// A service in a configuration.
pub(crate) struct Planned {
    pub(crate) key: Key,
    pub(crate) build: Build,
}

/// Identifies a service in a configuration, with all that its configuration says.
#[derive(Clone)]
pub(crate) struct Key {
    /// The name of its table, or its number.
    pub(crate) name: String,
    pub(crate) section: Section,
}

impl Key {
    /// Whether the configuration of the service is the same.
    pub(crate) fn is_same(&self, other: &Key) -> bool {
        self.name == other.name && self.section.is_same(&other.section)
    }
}

/// The tables that are not the services'.
const OURS: &[&str] = &["runner", "supervisor"];

/// All tables where services are tables.
const ALL: &[&str] = &["services", "runner", "supervisor"];

impl Services {
    pub(crate) fn add<C: DeserializeOwned + 'static>(
        &mut self,
        build: impl Fn(C, &Reactor) -> couplet::Result<Child> + Send + Sync + 'static,
    ) {
        self.whole
            .push(reader(move |_: &str, config: C, reactor: &Reactor| build(config, reactor)));
    }

    pub(crate) fn add_kind<C: DeserializeOwned + 'static>(
        &mut self,
        kind: &'static str,
        build: impl Fn(&str, C, &Reactor) -> couplet::Result<Child> + Send + Sync + 'static,
    ) {
        self.kinds.insert(kind, reader(build));
    }

    /// Reads all of a configuration.
    pub(crate) fn plan(&self, source: &Arc<Source>) -> Result<Plan, ConfigError> {
        let whole = Section::whole(source.clone(), &[]);
        let runner = read_table(&whole, "runner")?;
        let supervisor = read_table(&whole, "supervisor")?;
        let keys = self.keys(source)?;
        let services = keys.into_iter().map(|key| {
            let build = self.read(&key)?;
            Ok(Planned { key, build })
        });
        Ok(Plan { runner, supervisor, services: services.collect::<Result<_, _>>()? })
    }

    fn keys(&self, source: &Arc<Source>) -> Result<Vec<Key>, ConfigError> {
        let rest = Section::whole(source.clone(), OURS);
        let each = (0..self.whole.len())
            .map(|number| Key { name: number.to_string(), section: rest.clone() });
        let mut keys: Vec<Key> = each.collect();
        if self.kinds.is_empty() {
            return Ok(keys);
        }
        if self.whole.is_empty() {
            Section::whole(source.clone(), ALL).read::<Nothing>()?;
        }
        if let Some(tables) = rest.table("services")? {
            for name in tables.keys() {
                let section = tables.table(&name)?.expect("it has this key");
                keys.push(Key { name, section });
            }
        }
        Ok(keys)
    }

    /// Reads the configuration of a service.
    pub(crate) fn read(&self, key: &Key) -> Result<Build, ConfigError> {
        if let Some(read) = key.name.parse().ok().and_then(|at: usize| self.whole.get(at)) {
            return read(&key.name, &key.section);
        }
        let Common { kind, restart } = key.section.only(COMMON).read()?;
        let Some(read) = self.kinds.get(&*kind) else {
            let kinds: Vec<&str> = self.kinds.keys().copied().collect();
            return Err(key.section.error_at("kind", unknown("kind", &kind, &kinds)));
        };
        let build = read(&key.name, &key.section.without(COMMON))?;
        Ok(Box::new(move |reactor| Ok(build(reactor)?.restart(restart.into()))))
    }
}

fn reader<C: DeserializeOwned + 'static>(
    build: impl Fn(&str, C, &Reactor) -> couplet::Result<Child> + Send + Sync + 'static,
) -> Read {
    let build = Arc::new(build);
    Box::new(move |name, section| {
        let (build, section, name) = (build.clone(), section.clone(), name.to_owned());
        let config: C = section.read()?;
        Ok(Box::new(move |reactor| {
            build(&name, config, reactor).map_err(|failure| Failure::from(section.error(failure)))
        }))
    })
}

fn read_table<T: DeserializeOwned + Default>(whole: &Section, key: &str) -> Result<T, ConfigError> {
    whole.table(key)?.map_or_else(|| Ok(T::default()), |table| table.read())
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
        let drain = Drain::within(self.drain.0).paced(self.drain_groups.max(1), self.drain_over.0);
        Supervisor::new(name)
            .strategy(strategy)
            .intensity(self.restarts, self.within.0)
            .back_off(self.back_off.0, self.most_back_off.0)
            .not_ready_for(self.not_ready_for.0)
            .drain(drain)
    }
}

#[cfg(test)]
mod tests;
