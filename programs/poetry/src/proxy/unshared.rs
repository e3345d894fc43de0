//! Without the feature `cache` no proxy has a cache that others share: the types have no values.

use std::rc::Rc;
use std::time::Duration;

use couplet::services::Child;
use couplet::{Deferred, Reactor};

use super::cache::Fetched;
use super::upstreams::Upstreams;
use crate::exit::Exit;
use crate::values::Secret;

/// The settings of the cache.
#[derive(Clone)]
pub(crate) enum Settings {}

impl Settings {
    pub(crate) fn new(
        _: &Secret,
        _: &str,
        _: Option<Duration>,
        _: Duration,
        _: u64,
    ) -> Result<Settings, Exit> {
        Err(Exit::without_feature("--cache", "cache"))
    }

    pub(crate) fn service(&self) -> Box<dyn Fn() -> Child + Send + Sync> {
        match *self {}
    }
}

/// The cache as one loop uses it.
pub(crate) enum SharedCache {}

impl SharedCache {
    pub(crate) fn new(settings: Settings, _: Rc<Upstreams>) -> Rc<SharedCache> {
        match settings {}
    }

    pub(crate) fn connect(&self, _: &Reactor) {
        match *self {}
    }

    pub(crate) fn fetch(self: Rc<Self>, _: &Reactor) -> Deferred<Fetched> {
        match *self {}
    }
}
