//! The inspector in the terminal: a view of a program that runs, which changes every second.
//!
//! `model` is the state of the view, `draw` shows it; both are without I/O. This file has the terminal,
//! whose keys a loop watches, and `feed` the connection to the inspector.
//!
//! Contract: 183a.

mod acting;
mod chain;
mod draw;
mod feed;
mod filter;
mod model;
mod pages;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use couplet::defer::Resolver;
use couplet::{Deferred, Failure, Interest, LoopOptions, LoopingCall, Reactor};
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::{event, execute};
use serde_json::Value;

use super::source::{PATIENCE, Source};
use crate::exit::Exit;
use crate::output;
use crate::signals::signalled_loop;
use acting::{Action, Prompt};
use draw::Palette;
use model::{Link, Model, Reply};

/// How often times that pass, and the size of the terminal, are brought up to date.
const TICK: Duration = Duration::from_millis(250);

/// Whether stdin and stdout are a terminal that can place its cursor, without a log on it.
pub(super) fn is_possible() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let is_logged = tracing::enabled!(tracing::Level::INFO) && io::stderr().is_terminal();
    io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb && !is_logged
}

/// Shows the program until the user quits, or a signal comes.
pub(super) fn run(source: &Source) -> Result<(), Exit> {
    // An inspector that does not answer is an error, and not a view.
    source.ask("loops.json")?;
    let l = signalled_loop(LoopOptions::default(), |_| {})?;
    let terminal = ratatui::try_init().map_err(|error| cannot_draw(&error))?;
    let restored = Restored;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let palette = Palette { has_colours: !no_colour };
    let mut viewer = None;
    let source = source.clone();
    let ran = l.run(|reactor| {
        let made = Viewer::new(reactor, source.clone(), terminal, palette);
        viewer = Some(made.clone());
        made.watch_keys()?;
        let ticking = made.clone();
        let ticks = LoopingCall::new(reactor, move || ticking.handle_keys());
        made.end_with(ticks.start(TICK).map(drop));
        let (feed, reactor) = (made.clone(), reactor.clone());
        let fed = reactor.clone().spawn(async move { feed::run(&reactor, &source, &feed).await });
        made.end_with(fed);
        Ok(())
    });
    drop(restored);
    ran?;
    match viewer.and_then(|viewer| viewer.failure.take()) {
        Some(failure) => Err(Exit::failed(failure)),
        None => l.stopped_by().map_or(Ok(()), |signal| Err(Exit::interrupted(signal))),
    }
}

/// Restores the terminal when it is dropped; a panic restores it before its message.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
        // The view may live as long as the process, so its own end does not show the cursor.
        let _ = execute!(io::stdout(), Show);
    }
}

/// Ends the view after a panic, which ends only the callback.
struct EndsByPanic<'a>(&'a Viewer);

impl Drop for EndsByPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(&Failure::msg("cannot show the program: the view has panicked"));
        }
    }
}

fn cannot_draw(error: &io::Error) -> Exit {
    Exit::failed(format!("cannot draw on the terminal: {}", output::plain(error)))
}

/// The model and the terminal that shows it.
struct Viewer {
    reactor: Reactor,
    source: Source,
    model: RefCell<Model>,
    terminal: RefCell<DefaultTerminal>,
    palette: Palette,
    /// When the last message came.
    received: Cell<Instant>,
    /// When the next attempt to connect is made.
    retry_at: Cell<Instant>,
    /// Fires when the user pauses or resumes.
    toggled: RefCell<Option<Resolver<()>>>,
    failure: Cell<Option<String>>,
}

impl Viewer {
    fn new(
        reactor: &Reactor,
        source: Source,
        terminal: DefaultTerminal,
        palette: Palette,
    ) -> Rc<Viewer> {
        Rc::new(Viewer {
            reactor: reactor.clone(),
            source,
            model: RefCell::new(Model::new()),
            terminal: RefCell::new(terminal),
            palette,
            received: Cell::new(reactor.now()),
            retry_at: Cell::new(reactor.now()),
            toggled: RefCell::default(),
            failure: Cell::default(),
        })
    }

    /// Handles keys as they arrive.
    fn watch_keys(self: &Rc<Self>) -> couplet::Result<()> {
        let keyboard: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
        let viewer = self.clone();
        let watching = self.reactor.watch(keyboard, Interest::Readable, move |_, _| {
            if let Err(failure) = viewer.handle_keys() {
                viewer.fail(&failure);
            }
        });
        watching.map(drop).map_err(Into::into)
    }

    /// Ends the view with the failure of a part of it, also of a panic.
    fn end_with(self: &Rc<Self>, part: Deferred<()>) {
        let viewer = self.clone();
        part.add_errback(move |failure| {
            // The end of the run cancels all parts.
            if !viewer.reactor.is_stopping() {
                viewer.fail(&failure);
            }
            Ok(())
        })
        .detach();
    }

    fn fail(&self, failure: &Failure) {
        self.failure.set(Some(failure.to_string()));
        self.reactor.stop();
    }

    /// Handles the keys that were pressed, and draws. A panic ends the view: its message has restored
    /// the terminal.
    fn handle_keys(self: &Rc<Self>) -> couplet::Result<()> {
        let panicked = EndsByPanic(self);
        self.read_keys()?;
        self.draw()?;
        drop(panicked);
        Ok(())
    }

    fn read_keys(self: &Rc<Self>) -> couplet::Result<()> {
        while event::poll(Duration::ZERO)? {
            let event::Event::Key(key) = event::read()? else { continue };
            if key.kind == event::KeyEventKind::Release {
                continue;
            }
            let reply = self.model.borrow_mut().press(key);
            match reply {
                Reply::Stay => {}
                Reply::Quit => self.reactor.stop(),
                Reply::Act(action) => self.act(action),
                Reply::Pause => {
                    if let Some(toggled) = self.toggled.take() {
                        toggled.callback(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Asks the inspector for an action, and shows the outcome.
    fn act(self: &Rc<Self>, action: Action) {
        let (source, reactor, asked) = (self.source.clone(), self.reactor.clone(), action.clone());
        let acting =
            self.reactor.spawn(async move { source.act(&reactor, &asked.path, &asked.text).await });
        let viewer = self.clone();
        let shown = acting.add_timeout(&self.reactor, PATIENCE).add_both(move |outcome| {
            viewer.model.borrow_mut().prompt = Prompt::outcome(&action, outcome);
            viewer.draw()
        });
        self.end_with(shown);
    }

    fn draw(&self) -> couplet::Result<()> {
        // After a panic the terminal is not the view's any more.
        if self.reactor.is_stopping() {
            return Ok(());
        }
        let mut model = self.model.borrow_mut();
        let now = self.reactor.now();
        model.since_message = now.saturating_duration_since(self.received.get()).as_secs_f64();
        if let Link::Lost { retry_in, .. } = &mut model.link {
            let left = self.retry_at.get().saturating_duration_since(now);
            *retry_in = left.as_secs_f64().ceil();
        }
        let palette = self.palette;
        self.terminal.borrow_mut().draw(|frame| draw::draw(frame, &mut model, palette))?;
        Ok(())
    }

    /// Shows a message of the inspector.
    fn show(&self, message: Value, is_first: bool) -> couplet::Result<()> {
        self.received.set(self.reactor.now());
        self.model.borrow_mut().apply(message, is_first);
        self.draw()
    }

    /// Shows that the connection is lost until the next attempt.
    fn show_loss(&self, reason: String, wait: Duration) -> couplet::Result<()> {
        self.retry_at.set(self.reactor.now() + wait);
        self.model.borrow_mut().link = Link::Lost { reason, retry_in: wait.as_secs_f64() };
        self.draw()
    }

    fn is_paused(&self) -> bool {
        self.model.borrow().is_paused
    }

    /// Fires when the user pauses or resumes.
    fn toggled(&self) -> Deferred<()> {
        let (deferred, resolver) = Deferred::new();
        *self.toggled.borrow_mut() = Some(resolver);
        deferred
    }
}
