//! Applies a changed configuration to a program that runs.
//!
//! Contract: 160h.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use couplet::endpoints::Reload;
use couplet::services::Child;
use couplet::{Failure, Reactor};

use crate::config::Source;
use crate::directory::Folder;
use crate::loops::{ThisLoop, this_loop};
use crate::options::Options;
use crate::places::{self, Endpoints, Place, PlacedSocket};
use crate::plan::{self, Key, Plan};
use crate::running::Running;

/// Reads the configuration, opens its new ports, and applies its changes. Nothing changes if it is
/// wrong, or a port can't be opened. A service that can't start with its new configuration for another
/// reason runs with its old one, if it can. Returns a line for people.
pub(crate) async fn apply(running: &Running) -> couplet::Result<String> {
    let program = &running.program;
    let Some(path) = &program.arguments.config else {
        return Ok("there is no configuration".to_owned());
    };
    let path = match &program.directory {
        Some(directory) => directory.start_in().join(path),
        None => path.clone(),
    };
    let entering = program.directory.clone();
    let read = move || {
        let folder = entering.map(|directory| directory.open()).transpose()?;
        Ok((Source::read_again(&path)?, folder))
    };
    let (source, folder) = running.read_files("the configuration", read).await?;
    let has_moved = enter(&program.folder, folder)?;
    let applied = apply_source(running, &source, has_moved.is_some()).await;
    if let (Err(_), Some(before)) = (&applied, has_moved) {
        before.enter()?;
        program.folder.replace(Some(before));
    }
    applied
}

/// Enters the folder to which the working folder's path leads now. Returns the one before if it is
/// another.
fn enter(current: &RefCell<Option<Folder>>, new: Option<Folder>) -> io::Result<Option<Folder>> {
    let Some(new) = new else { return Ok(None) };
    if current.borrow().as_ref().is_some_and(|current| current.is_same(&new)) {
        return Ok(None);
    }
    new.enter()?;
    Ok(current.replace(Some(new)))
}

/// Applies a configuration. If the working folder has moved, all services are started anew in it.
async fn apply_source(
    running: &Running,
    source: &Arc<Source>,
    has_moved: bool,
) -> couplet::Result<String> {
    let program = &running.program;
    let (read, endpoints) = places::collecting(|| {
        let plan = program.services.plan(source)?;
        let options = program.command_line.clone().or(plan.options.clone());
        options.check_limits(running.loops.count()).map_err(Failure::msg)?;
        let (levels, waiting) = (plan.log.log_level.clone(), waiting_tables(running, &plan));
        Ok::<_, Failure>((options, levels, waiting, Changes::find(running, plan, has_moved)?))
    });
    let (options, levels, waiting, changes) = read?;
    let opened = changes.open(running, endpoints).await?;
    let kept = places::kept_endpoints(&changes.stopped());
    let reload = move || kept.iter().map(|endpoint| endpoint.reload()).collect();
    let files: Vec<Reload> = running.read_files("the files of endpoints", reload).await?;
    program.log.set_levels_of_file(levels);
    set_limits(running, options);
    files.into_iter().for_each(Reload::apply);
    for table in &waiting {
        tracing::warn!(table, "changes take effect when the program is started again");
    }
    places::offer(opened);
    let said = changes.apply(running).await?;
    Ok(match waiting.is_empty() {
        true => said,
        false => format!("{said}; changes of {} wait for the next start", waiting.join(" and ")),
    })
}

/// The runner's own tables with changes that a reload does not apply.
fn waiting_tables(running: &Running, plan: &Plan) -> Vec<&'static str> {
    let options = &running.program.runner_table;
    let tables = [
        ("supervisor", plan.supervisor != running.table),
        ("runner", plan.options.of_the_start() != options.of_the_start()),
    ];
    tables.into_iter().filter(|(_, is_changed)| *is_changed).map(|(table, _)| table).collect()
}

/// Sets the limits of each loop.
fn set_limits(running: &Running, options: Options) {
    let limits = running.program.limits;
    let set = move |reactor: &Reactor| {
        let ThisLoop { number, of } = this_loop();
        reactor.set_load_limits(options.load_limits(limits, number, of));
    };
    set(running.loops.reactor());
    running.loops.call_others(set);
}

/// The changes of a configuration.
struct Changes {
    old: Vec<(Rc<Key>, String)>,
    new: Vec<(Rc<Key>, Child)>,
}

impl Changes {
    /// Compares the services that run with a plan, and builds the new ones.
    fn find(running: &Running, plan: Plan, has_moved: bool) -> couplet::Result<Changes> {
        let (kept, old): (Vec<_>, Vec<_>) =
            running.services.borrow().iter().cloned().partition(|(key, _)| {
                !has_moved && plan.services.iter().any(|planned| planned.key.is_same(key))
            });
        let planned = plan.services.into_iter();
        let changed = planned.filter(|one| !kept.iter().any(|(key, _)| key.is_same(&one.key)));
        let names = kept.iter().map(|(_, name)| &**name);
        Ok(Changes { old, new: plan::build(changed, names, &running.loops)? })
    }

    /// The services that stop, by the names of their places.
    fn stopped(&self) -> Vec<&str> {
        self.old.iter().map(|(key, _)| key.which.service()).collect()
    }

    /// Opens the new ports.
    async fn open(
        &self,
        running: &Running,
        endpoints: Endpoints,
    ) -> couplet::Result<Vec<(Place, PlacedSocket)>> {
        let stopped = self.stopped();
        let starts = |service: &str| self.new.iter().any(|(key, _)| key.which.service() == service);
        let opening = endpoints.opening(starts, |service| stopped.contains(&service)).await?;
        running.read_files("the files of endpoints", move || opening.open()).await
    }

    async fn apply(self, running: &Running) -> couplet::Result<String> {
        let stopped = self.stopped();
        if let Err(failure) = places::hold(|service| stopped.contains(&service)).await {
            tracing::warn!("{failure}");
        }
        let Changes { old, new } = self;
        let is_changed = |key: &Key| old.iter().any(|(other, _)| other.which == key.which);
        let changed = new.iter().filter(|(key, _)| is_changed(key)).count();
        let (added, removed) = (new.len() - changed, old.len() - changed);
        for (key, name) in &old {
            remove(running, key, name).await;
        }
        let mut problems = Vec::new();
        for (key, child) in new {
            if let Err(failure) = add(running, key.clone(), child).await {
                problems.push(failure.to_string());
                let before = old.iter().find(|(old, _)| old.which == key.which);
                if let Some((key, name)) = before {
                    problems.push(go_back(running, key, name).await);
                }
            }
        }
        places::settle();
        match problems.is_empty() {
            true => Ok(format!("{changed} services changed, {added} added, {removed} removed")),
            false => Err(Failure::msg(problems.join("; "))),
        }
    }
}

/// Stops a service and forgets it, even if its stop fails.
async fn remove(running: &Running, key: &Key, name: &str) {
    running.services.borrow_mut().retain(|(other, _)| !other.is_same(key));
    if let Err(failure) = running.supervisor.remove(name).await {
        tracing::warn!("{failure}");
    }
}

async fn add(running: &Running, key: Rc<Key>, child: Child) -> couplet::Result<()> {
    let name = child.name().to_owned();
    running.supervisor.add(child).await?;
    running.services.borrow_mut().push((key, name));
    Ok(())
}

/// Starts a service with its old configuration again. Returns words about the outcome.
async fn go_back(running: &Running, key: &Rc<Key>, name: &str) -> String {
    let again = async {
        let child = running.program.services.read_again(key)?(&running.loops)?;
        add(running, key.clone(), child).await
    };
    match again.await {
        Ok(()) => format!("{name} runs with its old configuration"),
        Err(failure) => format!("its old configuration fails too: {failure}"),
    }
}
