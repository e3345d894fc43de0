//! Help, usage errors with suggestions for unknown commands and options, and shell completions.

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, Error};
#[cfg(feature = "completions")]
pub use clap_complete::Shell;

use crate::exit::Exit;
use crate::output::cannot_print;

/// Parses an argument with `read` and offers `values` as completions; other values may be valid
/// too.
#[derive(Clone, Debug)]
pub struct Known<T> {
    /// The values to offer.
    pub values: fn() -> Vec<&'static str>,
    /// Parses a value, or returns the problem in words.
    pub read: fn(&str) -> Result<T, String>,
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

/// The completion script of a program for a shell.
#[cfg(feature = "completions")]
pub fn completions(shell: Shell, root: &mut Command) -> Vec<u8> {
    let mut script = Vec::new();
    let program = root.get_name().to_owned();
    clap_complete::generate(shell, root, &program, &mut script);
    if shell == Shell::Fish {
        // The generator omits the values of positional arguments.
        for command in root.get_subcommands() {
            let name = command.get_name();
            for values in command.get_positionals().map(Arg::get_possible_values) {
                let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
                let line = format!(
                    "complete -c {program} -n \"__fish_{program}_using_subcommand {name}\" -f -a \"{}\"\n",
                    values.join(" ")
                );
                script.extend_from_slice(if values.is_empty() { b"" } else { line.as_bytes() });
            }
        }
    }
    script
}

/// Prints the help, the version, or a usage error of `root` with suggestions; returns the exit code.
///
/// # Errors
///
/// If stdout can't be written.
pub fn explain(mut said: Error, root: &Command) -> Result<ExitCode, Exit> {
    suggest_commands(&mut said, root);
    drop_poor_tip(&mut said);
    let printed = said.print().and_then(|()| std::io::stdout().flush());
    match printed {
        Err(error) if !said.use_stderr() => Err(cannot_print(&error)),
        _ => Ok(ExitCode::from(said.exit_code() as u8)),
    }
}

/// Drops the tip for an option with another first letter, and the usage with that option: by clap's
/// measure, `--inspect` is similar to `--nope`.
fn drop_poor_tip(error: &mut Error) {
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
fn suggest_commands(error: &mut Error, root: &Command) {
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

/// Asserts that a command line is consistent, and that no line at the end of a help is wrapped.
///
/// # Panics
///
/// If that is not so.
#[cfg(feature = "testing")]
pub fn assert_consistent(root: Command) {
    root.clone().debug_assert();
    let mut commands = vec![root];
    while let Some(command) = commands.pop() {
        commands.extend(command.get_subcommands().cloned());
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let long = help.lines().find(|line| line.chars().count() > 100);
        assert_eq!(long, None, "{}", command.get_name());
    }
}
