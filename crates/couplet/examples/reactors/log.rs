//! Part 16: logging. Couplet logs with `tracing`, and a program chooses the subscriber: usually a
//! ready-made one, here a custom one that prints to stdout.
//!
//! `cargo run --example reactors -- log`

use std::fmt::Debug;

use couplet::{Deferred, Failure};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber, error, info, subscriber};

struct Printer;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.0 += &format!(" {value:?}"),
            name => self.0 += &format!(" ({name}: {value:?})"),
        }
    }
}

impl Subscriber for Printer {
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        println!("{}", line.0);
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

pub(crate) fn main() -> couplet::Result<()> {
    info!("no subscriber yet");
    subscriber::set_global_default(Printer)?;
    info!("a subscriber is installed");
    let failed = Deferred::<()>::fail(Failure::msg("no ink"));
    failed
        .add_errback(|failure| {
            error!(%failure, "a failure that we log");
            Ok(())
        })
        .detach();
    couplet::run(|reactor| {
        reactor.call_soon(|| panic!("the pen broke")); // the loop logs it
        let stopping = reactor.clone();
        reactor.call_soon(move || stopping.stop());
        Ok(())
    })?;
    info!("the end");
    Ok(())
}
