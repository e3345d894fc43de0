//! The history of a Deferred as JSON, from which the page draws its picture.
//!
//! Contract: 180a.

use couplet_core::Failure;
use couplet_core::hooks::inspector::{Chain, ChainResult, ChainState, ChainStep};
use serde::Serialize;

use crate::clock::Clock;

/// The chain of a Deferred. Times are Unix times with microseconds.
#[derive(Serialize)]
pub(crate) struct ChainRow {
    place: String,
    made: Option<f64>,
    #[serde(flatten)]
    outcome: Outcome,
    steps: Vec<Entry>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Step(Box<StepRow>),
    LeftOut { left_out: usize },
}

#[derive(Serialize)]
struct StepRow {
    number: usize,
    method: &'static str,
    name: &'static str,
    place: String,
    /// `values`, `failures` or `both`.
    handles: &'static str,
    called: Option<f64>,
    #[serde(flatten)]
    outcome: Outcome,
    /// The Deferred that it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    inner: Option<InnerRow>,
}

/// A Deferred that a callback returned: its chain, or only its place.
#[derive(Serialize)]
#[serde(untagged)]
enum InnerRow {
    Chain(Box<ChainRow>),
    Place { place: String },
}

/// The state of a Deferred or of a callback, and its result.
#[derive(Serialize)]
struct Outcome {
    /// Of a Deferred: `pending`, `value` or `failed`. Of a callback also `next`, `running`, `skipped`
    /// or `waiting`.
    state: &'static str,
    ended: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureRow>,
}

#[derive(Serialize)]
struct FailureRow {
    text: String,
    place: String,
    /// The places that it has passed, oldest first, each once.
    levels: Vec<String>,
}

impl ChainRow {
    pub(crate) fn of(chain: &Chain<'_>, clock: Clock) -> ChainRow {
        let step = |step| Entry::Step(Box::new(StepRow::of(step, clock)));
        let left_out = Some(chain.left_out).filter(|count| *count > 0);
        let left_out = left_out.map(|left_out| Entry::LeftOut { left_out });
        let (first, last) = (chain.first.iter().map(step), chain.last.iter().map(step));
        ChainRow {
            place: chain.place.to_string(),
            made: chain.made.map(|at| clock.micros(at)),
            outcome: Outcome::of(chain.result.as_ref(), "pending", clock),
            steps: first.chain(left_out).chain(last).collect(),
        }
    }
}

impl StepRow {
    fn of(step: &ChainStep<'_>, clock: Clock) -> StepRow {
        let (outcome, inner) = match &step.state {
            ChainState::Next => (Outcome::without("next"), None),
            ChainState::Runs => (Outcome::without("running"), None),
            ChainState::Skipped => (Outcome::without("skipped"), None),
            ChainState::Returned(result) => (Outcome::of(Some(result), "", clock), None),
            ChainState::Waits { place, inner, result } => {
                let mut outcome = Outcome::of(result.as_ref(), "waiting", clock);
                let inner = inner.as_ref().map(|chain| Box::new(ChainRow::of(chain, clock)));
                // The levels of the inner chain's failure stand there.
                if let (Some(_), Some(failure)) = (&inner, &mut outcome.failure) {
                    failure.levels.clear();
                }
                let place = || InnerRow::Place { place: place.to_string() };
                (outcome, Some(inner.map_or_else(place, InnerRow::Chain)))
            }
        };
        StepRow {
            number: step.number,
            method: step.method,
            name: step.name,
            place: step.place.to_string(),
            handles: step.handles,
            called: step.called.map(|at| clock.micros(at)),
            outcome,
            inner,
        }
    }
}

impl Outcome {
    fn without(state: &'static str) -> Outcome {
        Outcome { state, ended: None, failure: None }
    }

    fn of(result: Option<&ChainResult<'_>>, pending: &'static str, clock: Clock) -> Outcome {
        let Some(ChainResult { failure, at }) = result else { return Outcome::without(pending) };
        Outcome {
            state: if failure.is_some() { "failed" } else { "value" },
            ended: at.map(|at| clock.micros(at)),
            failure: failure.map(FailureRow::of),
        }
    }
}

impl FailureRow {
    fn of(failure: &Failure) -> FailureRow {
        FailureRow {
            text: format!("{failure:#}"),
            place: failure.place().to_string(),
            levels: failure.levels().iter().map(ToString::to_string).collect(),
        }
    }
}
