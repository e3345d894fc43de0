//! [`Chain`]: a [`History`] in fields, for the picture of an inspector.

use std::time::Instant;

use super::Failure;
use super::history::{History, InputKind, ShownStep, StepResult, StepState, Timed};
use super::node::CreatedAt;

/// The callbacks of a Deferred, each with its place, its result and its times: the loop's, in a
/// thread that is [observed](super::waits::observe).
#[derive(Debug)]
pub struct Chain<'a> {
    /// Where the Deferred was created.
    pub place: CreatedAt,
    /// When it was created.
    pub made: Option<Instant>,
    /// The result that it fired with.
    pub result: Option<ChainResult<'a>>,
    /// The first callbacks.
    pub first: Vec<ChainStep<'a>>,
    /// How many callbacks between the first and the last were left out.
    pub left_out: usize,
    /// The last callbacks.
    pub last: Vec<ChainStep<'a>>,
}

/// A value, or a failure.
#[derive(Debug)]
pub struct ChainResult<'a> {
    /// `None`: a value.
    pub failure: Option<&'a Failure>,
    /// When it arrived.
    pub at: Option<Instant>,
}

/// A callback of a [`Chain`].
#[derive(Debug)]
pub struct ChainStep<'a> {
    /// The number of the callback, from 1.
    pub number: usize,
    /// The method that added it.
    pub method: &'static str,
    /// The type of the callback; empty for a timeout.
    pub name: &'static str,
    /// Where it was added.
    pub place: CreatedAt,
    /// The results that it handles: `values`, `failures` or `both`.
    pub handles: &'static str,
    /// When it was called, or skipped.
    pub called: Option<Instant>,
    /// The state of the callback.
    pub state: ChainState<'a>,
}

/// The state of a callback of a [`Chain`].
#[derive(Debug)]
pub enum ChainState<'a> {
    /// Not called yet.
    Next,
    /// Running.
    Runs,
    /// Skipped, because it does not handle this kind of result.
    Skipped,
    /// Returned a result.
    Returned(ChainResult<'a>),
    /// Returned a Deferred.
    Waits {
        /// Where the Deferred was created.
        place: CreatedAt,
        /// The chain of the Deferred, if it is pending or has failed.
        inner: Option<Chain<'a>>,
        /// The result of the Deferred.
        result: Option<ChainResult<'a>>,
    },
}

impl History {
    /// The history in fields.
    pub(crate) fn chain(&self) -> Chain<'_> {
        Chain {
            place: self.made_at,
            made: self.since,
            result: self.got.as_ref().map(ChainResult::of),
            first: self.first.iter().map(ChainStep::of).collect(),
            left_out: self.left_out,
            last: self.last.iter().map(ChainStep::of).collect(),
        }
    }
}

impl Chain<'_> {
    /// The result of the last callback that has one to pass on; `None` while it has none.
    pub fn outcome(&self) -> Option<&ChainResult<'_>> {
        let steps = self.first.iter().chain(&self.last);
        steps.fold(self.result.as_ref(), |before, step| match &step.state {
            ChainState::Next | ChainState::Skipped => before,
            ChainState::Runs => None,
            ChainState::Returned(result) => Some(result),
            ChainState::Waits { result, .. } => result.as_ref(),
        })
    }
}

impl ChainResult<'_> {
    fn of((result, at): &Timed<StepResult>) -> ChainResult<'_> {
        let failure = match result {
            StepResult::Value => None,
            StepResult::Failure(failure) => Some(failure),
        };
        ChainResult { failure, at: *at }
    }
}

impl ChainStep<'_> {
    fn of(step: &ShownStep) -> ChainStep<'_> {
        ChainStep {
            number: step.number,
            method: step.method.name(),
            name: step.name,
            place: step.place,
            handles: match step.method.input_kind() {
                InputKind::Value => "values",
                InputKind::Failure => "failures",
                InputKind::Both => "both",
            },
            called: step.at,
            state: match &step.state {
                StepState::Next => ChainState::Next,
                StepState::Runs => ChainState::Runs,
                StepState::Skipped => ChainState::Skipped,
                StepState::Returned(result) => ChainState::Returned(ChainResult::of(result)),
                StepState::Waits(place, inner, result) => ChainState::Waits {
                    place,
                    inner: inner.as_deref().map(History::chain),
                    result: result.as_ref().map(ChainResult::of),
                },
            },
        }
    }
}
