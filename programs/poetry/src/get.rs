//! `poetry get`: fetches many poems concurrently and prints them in the order of the
//! addresses.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use couplet::defer::TimedOut;
use couplet::endpoints::ClientEndpoint;
use couplet::{Deferred, DelayedCall, Failure, Reactor};

use crate::ask::ask_poem;
use crate::client::{Limit, addresses, get_poem};
use crate::endpoint::{Peer, to_connect};
use crate::exit::Exit;
use crate::known::Known;
use crate::logging::Logging;
use crate::named::MAX_LINE;
use crate::output::{self, cannot_print};
use crate::printer::Printer;
use crate::progress::{Bar, Progress};
use crate::signals::signalled_loop;
use crate::transform::{self, transformation};
use crate::transforming::Transformer;
use crate::values::seconds;

/// A server that is silent for this long may expect a request.
const SILENCE: Duration = Duration::from_secs(5);

/// How long an interrupted command may take to print the poems that have arrived.
const LAST_PRINT: Duration = Duration::from_millis(300);

const EXAMPLE: &str = concat!(
    "\
Example:
  poetry get 10000 10001 localhost:10002 --timeout 30 > poems.txt
  poetry get 10000 --name ozymandias --transform 11000

",
    addresses!(),
    "

Exit codes: 0 success, 1 a poem is missing or was not transformed, 2 usage error, 130 or 143
interrupted."
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Get {
    /// Servers; one poem is fetched from each
    #[arg(
        value_name = "ADDRESS",
        value_parser = to_connect,
        required = true,
        allow_negative_numbers = true
    )]
    addresses: Vec<Peer>,
    /// Request the poem with this title; the servers run with --by-name
    #[arg(long, value_name = "TITLE", value_parser = title)]
    name: Option<String>,
    /// Have each poem transformed by this server, a `poetry transform`
    #[arg(long, value_name = "ADDRESS", value_parser = to_connect)]
    transform: Option<Peer>,
    /// The transformation; `poetry transform --list` prints all
    #[arg(
        long,
        value_name = "NAME",
        default_value = "cummingsify",
        value_parser = Known { values: transform::names, read: transformation },
        hide_possible_values = true,
        requires = "transform"
    )]
    transform_name: String,
    /// Give up on a poem that is incomplete after this many seconds, and likewise on its
    /// transformation
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,
    #[command(flatten)]
    limit: Limit,
}

/// Parses a title: one line, and not the request for the list of titles.
fn title(text: &str) -> Result<String, String> {
    if text.is_empty() || text == "?" {
        return Err("a title is expected here; `poetry list` prints a server's titles".to_owned());
    }
    if text.contains(char::is_control) {
        return Err("a title has no control characters".to_owned());
    }
    if text.len() > MAX_LINE {
        return Err(format!("a title has at most {MAX_LINE} bytes"));
    }
    Ok(text.to_owned())
}

pub(crate) fn run(options: Get, logging: &Logging) -> Result<(), Exit> {
    let progress = Progress::new(logging, options.addresses.iter().map(|peer| &*peer.name));
    let telling = progress.clone();
    let l = signalled_loop(couplet::LoopOptions::default(), move |text| telling.line(text))?;
    let began = l.reactor().now();
    let (printer, printed) = Printer::start(progress.clone())?;
    let fetcher = Fetcher {
        collection: Collection::new(options.addresses.len(), printer),
        progress: progress.clone(),
        began,
        title: options.name,
        timeout: options.timeout,
        max_bytes: options.limit.max_bytes,
        transformer: options.transform.map(|server| {
            let (name, timeout) = (options.transform_name, options.timeout);
            Rc::new(Transformer { server, name, timeout, max_bytes: options.limit.max_bytes })
        }),
    };
    let collection = fetcher.collection.clone();
    let so_far = printed.clone();
    let outcome: Rc<Cell<Option<io::Result<()>>>> = Rc::default();
    l.run(|reactor| {
        progress.draw_in(reactor);
        for (index, address) in options.addresses.into_iter().enumerate() {
            fetcher.clone().run(reactor, index, address);
        }
        let (slot, stopping) = (outcome.clone(), reactor.clone());
        let all_printed = reactor.spawn(async move { Ok(printed.await) }).map(move |printed| {
            slot.set(Some(printed));
            stopping.stop();
        });
        all_printed.detach();
        Ok(())
    })?;
    let took = l.reactor().now().saturating_duration_since(began);
    let collection = collection.borrow();
    match (outcome.take(), l.stopped_by()) {
        (Some(Err(error)), _) => {
            let failed = cannot_print(&error);
            // Stdout's reader has closed the pipe, but poems are missing for another reason.
            if collection.is_incomplete() && failed.is_quiet() {
                return Err(Exit::failed_quietly());
            }
            Err(failed)
        }
        (Some(Ok(())), _) => {
            progress.line(&collection.summary(took));
            if collection.is_incomplete() { Err(Exit::failed_quietly()) } else { Ok(()) }
        }
        (None, Some(signal)) => {
            so_far.settle(LAST_PRINT);
            progress.leave();
            output::print_to_stderr(&format!("interrupted: {}", collection.summary(took)));
            Err(Exit::interrupted(signal))
        }
        (None, None) => Err(Exit::failed("the run ended before the poems arrived")),
    }
}

/// Fetches a poem from each address.
#[derive(Clone)]
struct Fetcher {
    collection: Rc<RefCell<Collection>>,
    progress: Progress,
    began: Instant,
    title: Option<String>,
    timeout: Option<Duration>,
    max_bytes: u64,
    transformer: Option<Rc<Transformer>>,
}

impl Fetcher {
    /// Fetches one poem, reports it, has it transformed, and adds it to the collection.
    fn run(self, reactor: &Reactor, index: usize, address: Peer) {
        let bar = self.progress.bar(&address.name, "", None, self.began);
        let poem = self.order(reactor, address.endpoint, &bar);
        let (name, reactor) = (address.name, reactor.clone());
        let transforming = self.clone();
        let (told, its_name, stopping) = (self.clone(), name.clone(), reactor.clone());
        let hint = self.schedule_hint(&reactor, &bar, &name);
        let collected = poem
            .add_both(move |poem| {
                hint.cancel();
                Ok(told.report_outcome(&stopping, &bar, &its_name, poem))
            })
            .then(move |poem| transforming.transform(&reactor, &name, poem))
            .map(move |poem| {
                if let Some(poem) = poem {
                    self.collection.borrow_mut().record_outcome(index, poem);
                }
            });
        collected.detach();
    }

    fn order(
        &self,
        reactor: &Reactor,
        from: Arc<dyn ClientEndpoint>,
        bar: &Bar,
    ) -> Deferred<Vec<u8>> {
        let poem = match &self.title {
            Some(title) => ask_poem(reactor, from, title.clone(), self.max_bytes, bar.clone()),
            None => get_poem(reactor, from, self.max_bytes, bar.clone()),
        };
        match self.timeout {
            Some(timeout) => poem.add_timeout(reactor, timeout),
            None => poem,
        }
    }

    /// Prints a hint later: a by-name server waits for a request, so without `--name` the user
    /// would wait forever.
    fn schedule_hint(&self, reactor: &Reactor, bar: &Bar, name: &str) -> DelayedCall {
        let after = self.timeout.map_or(SILENCE, |timeout| SILENCE.min(timeout / 2));
        let (fetcher, bar, name) = (self.clone(), bar.clone(), name.to_owned());
        reactor.call_later(after, move || {
            if bar.is_silent() && fetcher.title.is_none() {
                let hint = "a server started with --by-name expects --name";
                fetcher.progress.line(&format!("no data from {name} yet; {hint}"));
            }
        })
    }

    /// Reports an outcome; returns `None` if the run is stopping.
    fn report_outcome(
        &self,
        reactor: &Reactor,
        bar: &Bar,
        name: &str,
        poem: couplet::Result<Vec<u8>>,
    ) -> Option<FetchOutcome> {
        if reactor.is_stopping() {
            // Fetches cut short by the end of the run are not reported.
            self.progress.freeze();
            return None;
        }
        bar.remove();
        let took = reactor.now().saturating_duration_since(self.began);
        self.progress.line(&describe_outcome(name, &poem, took));
        Some(poem.map_or(FetchOutcome::Nothing, |poem| FetchOutcome::Poem(poem.into())))
    }

    fn transform(
        &self,
        reactor: &Reactor,
        name: &str,
        outcome: Option<FetchOutcome>,
    ) -> Deferred<Option<FetchOutcome>> {
        let (Some(transformer), Some(FetchOutcome::Poem(poem))) = (&self.transformer, &outcome)
        else {
            return Deferred::succeed(outcome);
        };
        let transformed = transformer.transform(reactor, poem.clone());
        let (poem, name) = (poem.clone(), name.to_owned());
        let (progress, transformer) = (self.progress.clone(), transformer.clone());
        let reactor = reactor.clone();
        transformed.add_both(move |transformed| {
            Ok(match transformed {
                _ if reactor.is_stopping() => None,
                Ok(poem) => Some(FetchOutcome::Poem(poem)),
                Err(failure) => {
                    let why = transformer.why(&failure);
                    progress.line(&format!("the poem from {name} is printed untransformed: {why}"));
                    Some(FetchOutcome::Untransformed(poem))
                }
            })
        })
    }
}

/// Describes the outcome of one fetch in a line.
fn describe_outcome(name: &str, poem: &Result<Vec<u8>, Failure>, took: Duration) -> String {
    match poem {
        Ok(poem) => {
            format!("{name}: a poem of {} bytes in {:.1} s", poem.len(), took.as_secs_f64())
        }
        Err(failure) => format!("no poem from {name}: {}", why(failure)),
    }
}

/// Describes why a poem is missing.
pub(crate) fn why(failure: &Failure) -> String {
    match failure.downcast_ref::<TimedOut>() {
        Some(late) => {
            format!("it was incomplete after {} s (--timeout)", late.after.as_secs_f64())
        }
        None => failure.to_string(),
    }
}

/// The outcome for one address.
enum FetchOutcome {
    Poem(Bytes),
    /// A poem whose transformation failed.
    Untransformed(Bytes),
    Nothing,
}

/// The poems that have arrived, in the order of the addresses.
struct Collection {
    outputs: Vec<PoemOutput>,
    /// Index of the first output that was not passed to the printer.
    next: usize,
    whole: usize,
    failed: usize,
    untransformed: usize,
    bytes: usize,
    /// Dropped after the last output.
    printer: Option<Printer>,
}

/// One address's contribution to stdout.
enum PoemOutput {
    Pending,
    Ready(Bytes),
    /// There is no poem, or it was passed to the printer.
    Done,
}

impl Collection {
    fn new(count: usize, printer: Printer) -> Rc<RefCell<Collection>> {
        let outputs = (0..count).map(|_| PoemOutput::Pending).collect();
        let printer = Some(printer);
        Rc::new(RefCell::new(Collection {
            outputs,
            next: 0,
            whole: 0,
            failed: 0,
            untransformed: 0,
            bytes: 0,
            printer,
        }))
    }

    /// True if a poem is missing or was not transformed.
    fn is_incomplete(&self) -> bool {
        self.failed + self.untransformed > 0
    }

    /// Records an outcome, then prints every poem that is not preceded by a pending one.
    fn record_outcome(&mut self, index: usize, outcome: FetchOutcome) {
        self.untransformed += usize::from(matches!(outcome, FetchOutcome::Untransformed(_)));
        self.outputs[index] = match outcome {
            FetchOutcome::Poem(poem) | FetchOutcome::Untransformed(poem) => {
                self.whole += 1;
                self.bytes += poem.len();
                PoemOutput::Ready(poem)
            }
            FetchOutcome::Nothing => {
                self.failed += 1;
                PoemOutput::Done
            }
        };
        while let Some(output) = self.outputs.get_mut(self.next)
            && !matches!(output, PoemOutput::Pending)
        {
            let output = std::mem::replace(output, PoemOutput::Done);
            if let (PoemOutput::Ready(poem), Some(printer)) = (output, &self.printer) {
                printer.print(poem);
            }
            self.next += 1;
        }
        if self.next == self.outputs.len() {
            self.printer = None;
        }
    }

    fn summary(&self, took: Duration) -> String {
        let (whole, count) = (self.whole, self.outputs.len());
        let (bytes, took) = (self.bytes, took.as_secs_f64());
        let untransformed = match self.untransformed {
            0 => String::new(),
            count => format!(", {count} not transformed"),
        };
        format!("{whole} of {count} poems, {bytes} bytes in {took:.1} s{untransformed}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_fits_into_a_line() {
        for good in ["ode", "Two Words", "../ode", "\u{e4}", &"x".repeat(1024)] {
            assert_eq!(title(good).as_deref(), Ok(good));
        }
        for bad in ["", "?", "a\nb", "a\r", "\0", &"x".repeat(1025)] {
            assert!(title(bad).is_err(), "{bad:?}");
        }
    }
}
