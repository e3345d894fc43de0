//! `poetry demo`: three servers and their client in one process, on one loop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use couplet::defer::gather_consuming;
use couplet::endpoints::ServerEndpoint;
use couplet::{Deferred, Port, Reactor};

use crate::client::get_poem;
use crate::endpoint::{to_connect, to_listen};
use crate::exit::Exit;
use crate::logging::Logging;
use crate::output;
use crate::poems::{self, Poem};
use crate::progress::Progress;
use crate::recital::Pace;
use crate::serve::Anthology;
use crate::signals::signalled_loop;

/// Bytes per part of each poem; a part is sent every [`DELAY`].
const PARTS: [usize; 3] = [9, 17, 8];
const DELAY: Duration = Duration::from_millis(40);

/// The poems, each with the seconds that it took.
type Arrived = Vec<(Vec<u8>, f64)>;

pub(crate) const EXAMPLE: &str = "\
Example:
  poetry demo

The poems go to stdout, the progress to stderr. The demo takes about three seconds.";

pub(crate) fn run(logging: &Logging) -> Result<(), Exit> {
    let poems: Vec<Poem> = poems::built_in().into_iter().take(PARTS.len()).collect();
    let progress = Progress::new(logging, poems.iter().map(|poem| &*poem.title));
    let telling = progress.clone();
    let l = signalled_loop(couplet::LoopOptions::default(), move |text| telling.line(text))?;
    let arrived: Rc<RefCell<Option<couplet::Result<Arrived>>>> = Rc::default();
    let together = Rc::new(Cell::new(0.0));
    let (slot, time) = (arrived.clone(), together.clone());
    l.run(|reactor| {
        progress.draw_in(reactor);
        let began = reactor.now();
        let mut waiting = Vec::new();
        for (poem, num_bytes) in poems.iter().zip(PARTS) {
            let port = serve(reactor, poem, Pace { num_bytes, delay: DELAY })?;
            waiting.push(fetch(reactor, &progress, poem, &port)?);
        }
        let reactor = reactor.clone();
        let all = gather_consuming(waiting).add_both(move |poems| {
            time.set(seconds(began, reactor.now()));
            if !reactor.is_stopping() {
                *slot.borrow_mut() = Some(poems);
            }
            reactor.stop();
            Ok(())
        });
        all.detach();
        Ok(())
    })?;
    let Some(poems) = arrived.take() else {
        progress.leave();
        return Err(l.stopped_by().map_or_else(Exit::failed_quietly, Exit::interrupted));
    };
    progress.settle();
    print(&poems?, together.get())
}

fn serve(reactor: &Reactor, poem: &Poem, pace: Pace) -> couplet::Result<Port> {
    let endpoint: Arc<dyn ServerEndpoint> = to_listen("0")?;
    reactor.listen(endpoint, Anthology::new(vec![poem.clone()], pace))
}

/// Fetches one poem; resolves to it and the seconds that it took.
fn fetch(
    reactor: &Reactor,
    progress: &Progress,
    poem: &Poem,
    port: &Port,
) -> couplet::Result<Deferred<(Vec<u8>, f64)>> {
    let server = port.host().to_string();
    let from = to_connect(&server)?.endpoint;
    let (began, reactor, progress) = (reactor.now(), reactor.clone(), progress.clone());
    let length = poem.text.len() as u64;
    let bar = progress.bar(&poem.title, &server, Some(length), began);
    let got = get_poem(&reactor, from, length, bar.clone());
    Ok(got.add_both(move |poem| {
        let took = seconds(began, reactor.now());
        match &poem {
            Ok(_) => bar.finish(&format!("{took:.1} s")),
            Err(_) => progress.freeze(),
        }
        poem.map(|poem| (poem, took))
    }))
}

fn print(poems: &Arrived, together: f64) -> Result<(), Exit> {
    let mut text = Vec::new();
    for (poem, _) in poems {
        text.extend_from_slice(poem);
        text.push(b'\n');
    }
    let one_by_one: f64 = poems.iter().map(|(_, took)| took).sum();
    let summary =
        format!("together {together:.1} s, one after another they would take {one_by_one:.1} s\n");
    text.extend_from_slice(summary.as_bytes());
    output::print(&text)
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
