//! Shell completions, and suggestions for unknown commands and options.

use std::ffi::OsStr;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};
use clap_complete::Shell;

/// Parses an argument with `read` and offers `values` as completions; other values may be valid
/// too.
#[derive(Clone)]
pub(crate) struct Known<T> {
    pub(crate) values: fn() -> Vec<&'static str>,
    pub(crate) read: fn(&str) -> Result<T, String>,
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Known<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        self.read.parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.values)().into_iter().map(PossibleValue::new)))
    }
}

/// The completion script for a shell.
pub(crate) fn completions(shell: Shell, root: &mut Command) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, root, "couplet", &mut script);
    if shell == Shell::Fish {
        // The generator omits the values of positional arguments.
        for command in root.get_subcommands() {
            let name = command.get_name();
            for values in command.get_positionals().map(Arg::get_possible_values) {
                let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
                let line = format!(
                    "complete -c couplet -n \"__fish_couplet_using_subcommand {name}\" -f -a \"{}\"\n",
                    values.join(" ")
                );
                script.extend_from_slice(if values.is_empty() { b"" } else { line.as_bytes() });
            }
        }
    }
    script
}

/// Drops the tip for an option with another first letter, and the usage with that option: by clap's
/// measure, `--inspect` is similar to `--nope`.
pub(crate) fn drop_poor_tip(error: &mut Error) {
    let first = |kind| match error.get(kind) {
        Some(ContextValue::String(option)) => option.trim_start_matches('-').chars().next(),
        _ => None,
    };
    let suggested = first(ContextKind::SuggestedArg);
    if suggested.is_some() && suggested != first(ContextKind::InvalidArg) {
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::Usage);
    }
}

/// Suggests commands of other levels for an unknown command: `poetry list` for `list`.
pub(crate) fn suggest_commands(error: &mut Error, root: &Command) {
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else {
        return;
    };
    if error.kind() != ErrorKind::InvalidSubcommand {
        return;
    }
    let (mut same, mut similar) = (Vec::new(), Vec::new());
    let (typed, mut below) = (typed.clone(), vec![(root.get_name().to_owned(), root)]);
    while let Some((path, command)) = below.pop() {
        for inner in command.get_subcommands() {
            let (name, path) = (inner.get_name(), format!("{path} {}", inner.get_name()));
            if name == typed {
                same.push(path.clone());
            } else if typed.len() > 2 && (name.starts_with(&typed) || typed.starts_with(name)) {
                similar.push(path.clone());
            }
            below.push((path, inner));
        }
    }
    let has_other = error.get(ContextKind::SuggestedSubcommand).is_some();
    let found = if same.is_empty() && !has_other { similar } else { same };
    if !found.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(found));
    }
}
