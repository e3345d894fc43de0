//! The command `couplet poetry transform`.

use crate::cli::{Transform, or_never};
use crate::exit::Exit;
use crate::poetry::transform_server::factory;
use crate::poetry::transformations::TRANSFORMATIONS;
use crate::{output, server};

/// The names of the transformations.
pub(crate) fn names() -> Vec<&'static str> {
    TRANSFORMATIONS.iter().map(|(name, _)| *name).collect()
}

pub(crate) fn run(options: Transform) -> Result<(), Exit> {
    if options.list {
        let names: String = names().into_iter().map(|name| format!("{name}\n")).collect();
        return output::print(names.as_bytes());
    }
    let max_length = usize::try_from(options.max_length).unwrap_or(usize::MAX);
    let idle_timeout = or_never(options.idle_timeout);
    server::run(options.listen, options.threads, || factory(max_length, idle_timeout))
}
