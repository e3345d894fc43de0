//! `poetry list`: the titles of a by-name server.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clap::Args;

use crate::ask::ask_titles;
use crate::client::addresses;
use crate::endpoint::{Peer, to_connect};
use crate::exit::Exit;
use crate::get::why;
use crate::output;
use crate::signals::signalled_loop;
use crate::values::seconds;

const EXAMPLE: &str = concat!(
    "\
Example, in two terminals:
  poetry serve --by-name --listen 10000
  poetry list 10000

",
    addresses!()
);

#[derive(Args, Debug)]
#[command(after_help = EXAMPLE)]
pub(crate) struct List {
    /// The server
    #[arg(value_name = "ADDRESS", value_parser = to_connect, allow_negative_numbers = true)]
    address: Peer,
    /// Give up if the titles are incomplete after this many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Option<Duration>,
}

pub(crate) fn run(options: List) -> Result<(), Exit> {
    let l = signalled_loop(couplet::LoopOptions::default(), output::print_to_stderr)?;
    let outcome: Rc<RefCell<Option<couplet::Result<Vec<u8>>>>> = Rc::default();
    let slot = outcome.clone();
    l.run(|reactor| {
        let mut titles = ask_titles(reactor, options.address.endpoint);
        if let Some(timeout) = options.timeout {
            titles = titles.add_timeout(reactor, timeout);
        }
        let reactor = reactor.clone();
        let all = titles.add_both(move |titles| {
            if !reactor.is_stopping() {
                slot.replace(Some(titles));
            }
            reactor.stop();
            Ok(())
        });
        all.detach();
        Ok(())
    })?;
    match outcome.take() {
        Some(Ok(titles)) => output::print(printable_titles(&titles).as_bytes()),
        Some(Err(failure)) => {
            let (name, why) = (options.address.name, why(&failure));
            Err(Exit::failed(format!("no titles from {name}: {why}")))
        }
        None => Err(l.stopped_by().map_or_else(Exit::failed_quietly, Exit::interrupted)),
    }
}

/// Formats one title per line, with control characters replaced by question marks.
fn printable_titles(titles: &[u8]) -> String {
    let titles = String::from_utf8_lossy(titles);
    let line = |title: &str| title.replace(char::is_control, "?") + "\n";
    titles.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_do_nothing_to_a_terminal() {
        assert_eq!(printable_titles(b"Ode\r\n\x1b[2J\xff\r\n\r\nx\n"), "Ode\n?[2J\u{fffd}\n\nx\n");
        assert_eq!(printable_titles(b""), "");
    }
}
