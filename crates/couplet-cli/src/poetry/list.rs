//! `couplet poetry list`: the titles of a by-name server.

use std::cell::RefCell;
use std::rc::Rc;

use crate::cli::List;
use crate::exit::Exit;
use crate::output;
use crate::poetry::ask::ask_titles;
use crate::poetry::get::why;
use crate::signals::signalled_loop;

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
        Some(Ok(titles)) => output::print(shown(&titles).as_bytes()),
        Some(Err(failure)) => {
            let (name, why) = (options.address.name, why(&failure));
            Err(Exit::failed(format!("no titles from {name}: {why}")))
        }
        None => Err(l.stopped_by().map_or_else(Exit::failed_quietly, Exit::interrupted)),
    }
}

/// Formats one title per line, with control characters replaced by question marks.
fn shown(titles: &[u8]) -> String {
    let titles = String::from_utf8_lossy(titles);
    let line = |title: &str| title.replace(char::is_control, "?") + "\n";
    titles.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_do_nothing_to_a_terminal() {
        assert_eq!(shown(b"Ode\r\n\x1b[2J\xff\r\n\r\nx\n"), "Ode\n?[2J\u{fffd}\n\nx\n");
        assert_eq!(shown(b""), "");
    }
}
