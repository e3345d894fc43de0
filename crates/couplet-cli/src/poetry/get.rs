//! `couplet poetry get`: many poems at once, printed in the order of the addresses.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use couplet::defer::TimedOut;
use couplet::{Deferred, Failure, Reactor};

use crate::cli::{Get, Logging};
use crate::endpoint::Peer;
use crate::exit::Exit;
use crate::output::{self, Printer, cannot_print};
use crate::poetry::get_poem;
use crate::progress::{Bar, Progress};
use crate::signalled_loop;

pub(crate) fn run(options: Get, logging: &Logging) -> Result<(), Exit> {
    let progress = Progress::new(logging, options.addresses.iter().map(|peer| &*peer.name));
    let telling = progress.clone();
    let mut l = signalled_loop(move |text| telling.line(text))?;
    let began = l.reactor().now();
    let (printer, printed) = Printer::start(progress.clone())?;
    let collection = Collection::new(options.addresses.len(), printer);
    let outcome: Rc<Cell<Option<io::Result<()>>>> = Rc::default();
    l.run(|reactor| {
        for (index, address) in options.addresses.iter().enumerate() {
            let bar = progress.bar(&address.name, "", None, began);
            let poem = get_one(reactor, address, options.timeout, options.max_bytes, &bar);
            let (collection, name) = (collection.clone(), address.name.clone());
            let (progress, reactor) = (progress.clone(), reactor.clone());
            let collected = poem.add_both(move |poem| {
                if reactor.is_stopping() {
                    // What the end of the run cut is not worth a line of its own.
                    progress.freeze();
                } else {
                    bar.remove();
                    let took = reactor.now().saturating_duration_since(began);
                    progress.line(&news(&name, &poem, took));
                    collection.borrow_mut().arrived(index, poem.ok());
                }
                Ok(())
            });
            collected.detach();
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
            // Nobody reads the poems, but it was not for that that some did not come.
            if collection.failed > 0 && failed.as_ref().is_err_and(Exit::is_quiet) {
                return Err(Exit::failed_quietly());
            }
            failed
        }
        (Some(Ok(())), _) => {
            progress.line(&collection.summary(took));
            if collection.failed > 0 { Err(Exit::failed_quietly()) } else { Ok(()) }
        }
        (None, Some(signal)) => {
            progress.leave();
            output::tell(&format!("interrupted: {}", collection.summary(took)));
            Err(Exit::interrupted(signal))
        }
        (None, None) => Err(Exit::failed("the run ended before the poems came")),
    }
}

fn get_one(
    reactor: &Reactor,
    address: &Peer,
    timeout: Option<Duration>,
    max_bytes: u64,
    bar: &Bar,
) -> Deferred<Vec<u8>> {
    let poem = get_poem(reactor, address.endpoint.clone(), max_bytes, bar.clone());
    match timeout {
        Some(timeout) => poem.add_timeout(reactor, timeout),
        None => poem,
    }
}

/// What became of one poem, in a line.
fn news(name: &str, poem: &Result<Vec<u8>, Failure>, took: Duration) -> String {
    match poem {
        Ok(poem) => {
            format!("{name}: a poem of {} bytes in {:.1} s", poem.len(), took.as_secs_f64())
        }
        Err(failure) => format!("no poem from {name}: {}", why(failure)),
    }
}

fn why(failure: &Failure) -> String {
    match failure.downcast_ref::<TimedOut>() {
        Some(late) => {
            format!("it was not whole after {} s (--timeout)", late.after.as_secs_f64())
        }
        None => failure.to_string(),
    }
}

/// The poems that have come, in the order of the addresses.
struct Collection {
    places: Vec<Place>,
    /// Places before this one were given to the printer.
    next: usize,
    whole: usize,
    failed: usize,
    bytes: usize,
    /// There is one as long as poems are to come.
    printer: Option<Printer>,
}

enum Place {
    Waiting,
    Poem(Vec<u8>),
    /// No poem came, or it was given to the printer.
    Empty,
}

impl Collection {
    fn new(count: usize, printer: Printer) -> Rc<RefCell<Collection>> {
        let places = (0..count).map(|_| Place::Waiting).collect();
        let printer = Some(printer);
        let collection = Collection { places, next: 0, whole: 0, failed: 0, bytes: 0, printer };
        Rc::new(RefCell::new(collection))
    }

    /// One poem came, or will not come. Prints those before which none is missing.
    fn arrived(&mut self, index: usize, poem: Option<Vec<u8>>) {
        self.places[index] = match poem {
            Some(poem) => {
                self.whole += 1;
                self.bytes += poem.len();
                Place::Poem(poem)
            }
            None => {
                self.failed += 1;
                Place::Empty
            }
        };
        while let Some(place) = self.places.get_mut(self.next)
            && !matches!(place, Place::Waiting)
        {
            let place = std::mem::replace(place, Place::Empty);
            if let (Place::Poem(poem), Some(printer)) = (place, &self.printer) {
                printer.print(poem);
            }
            self.next += 1;
        }
        if self.next == self.places.len() {
            self.printer = None;
        }
    }

    fn summary(&self, took: Duration) -> String {
        let (whole, count) = (self.whole, self.places.len());
        let (bytes, took) = (self.bytes, took.as_secs_f64());
        format!("{whole} of {count} poems, {bytes} bytes in {took:.1} s")
    }
}
