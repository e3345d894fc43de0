//! Stands in for the link, which joins servers and keeps lines, without the feature `bus`: a room
//! has no history, and the settings of a link have no values.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use couplet::rooms::Start;
use couplet::services::Child;

use crate::exit::Exit;
use crate::room::SharedRoom;
use crate::values::Secret;

/// The settings of a link.
#[derive(Clone, Copy)]
pub(crate) enum Settings {}

impl Settings {
    pub(crate) fn new(bus: Option<&Secret>, history: usize) -> Result<Option<Settings>, Exit> {
        match (bus, history) {
            (None, 0) => Ok(None),
            (None, _) => Err(Exit::without_feature("--history", "bus")),
            (Some(_), _) => Err(Exit::without_feature("--bus", "bus")),
        }
    }

    pub(crate) fn service(&self, _: &SharedRoom) -> Child {
        match *self {}
    }
}

/// The limits of no lines.
pub(crate) const KEPT_BYTES: usize = 0;
pub(crate) const AGE: Duration = Duration::ZERO;

/// The first line to replay for a given position, and the reply.
pub(crate) struct Begin {
    pub(crate) start: Option<Start>,
    pub(crate) notice: Option<String>,
}

/// No lines.
#[derive(Default)]
pub(crate) struct History;

impl History {
    pub(crate) fn new(_: usize) -> History {
        History
    }

    pub(crate) fn is_kept(&self) -> bool {
        false
    }

    pub(crate) fn last(&self) -> Option<Infallible> {
        None
    }

    pub(crate) fn first_start(&mut self, _: Instant) -> Start {
        Start::Now
    }

    pub(crate) fn start_after(&mut self, _: &str, _: Instant) -> Option<Begin> {
        None
    }
}
