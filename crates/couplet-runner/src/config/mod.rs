//! Configurations in TOML: reads a file or a part of it as a type of serde. Errors show the place.

mod fields;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::OFlag;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::exit::plain;

/// The text of a configuration, and the name of its file.
pub(crate) struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads a file and checks that it is TOML.
    pub(crate) fn read(path: &Path) -> Result<Arc<Source>, ConfigError> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Source::parse(name, text),
            Err(error) => Err(ConfigError::text(format!("cannot read {name}: {}", plain(&error)))),
        }
    }

    /// Reads the file of a program that runs, without waiting for another program: a pipe has had its
    /// reader.
    pub(crate) fn read_again(path: &Path) -> Result<Arc<Source>, ConfigError> {
        let name = path.display().to_string();
        let cannot =
            |error: &dyn fmt::Display| ConfigError::text(format!("cannot read {name}: {error}"));
        let mut options = File::options();
        let options = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let opened = options.open(path).and_then(|file| Ok((file.metadata()?, file)));
        let (found, mut file) = opened.map_err(|error| cannot(&plain(&error)))?;
        if !found.is_file() {
            return Err(cannot(&"it is not a file"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| cannot(&plain(&error)))?;
        Source::parse(name, text)
    }

    /// Checks that a text is TOML.
    pub(crate) fn parse(
        name: impl Into<String>,
        text: impl Into<String>,
    ) -> Result<Arc<Source>, ConfigError> {
        let source = Source { name: name.into(), text: text.into() };
        match DeTable::parse(&source.text) {
            Ok(_) => Ok(Arc::new(source)),
            Err(error) => Err(source.wrong(&error)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn parsed(self: &Arc<Self>) -> Parsed<'_> {
        let table = DeTable::parse(&self.text).expect("the source is TOML");
        Parsed { source: self, table: table.into_inner() }
    }

    /// An error with its place, and the line.
    fn at(&self, span: Range<usize>, message: impl fmt::Display) -> ConfigError {
        let Source { name, text } = self;
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let (number, column) =
            (text[..start].matches('\n').count() + 1, text[line_start..start].chars().count());
        let (line, length) = (
            text[line_start..line_end].trim_end().replace('\t', " "),
            text[start..end.min(line_end)].chars().count().max(1),
        );
        let (column_, blank, marks) = (column + 1, " ".repeat(column), "^".repeat(length));
        ConfigError::text(format!(
            "{name}:{number}:{column_}: {message}\n  | {line}\n  | {blank}{marks}"
        ))
    }

    /// An error of TOML or of serde.
    fn wrong(&self, error: &toml::de::Error) -> ConfigError {
        let message = error.message().replace('`', "");
        match error.span() {
            Some(span) => self.at(span, message),
            None => ConfigError::text(format!("{}: {message}", self.name)),
        }
    }
}

/// A configuration whose text has been parsed.
pub(crate) struct Parsed<'a> {
    source: &'a Arc<Source>,
    table: DeTable<'a>,
}

/// A table of a configuration, or the whole; all of its keys, or some.
#[derive(Clone)]
pub(crate) struct Section<'a> {
    source: &'a Arc<Source>,
    table: &'a DeTable<'a>,
    /// The place of the table; `None` for the whole.
    span: Option<Range<usize>>,
    keys: Keys,
}

/// The place of a section, for errors that come after its configuration was read.
pub(crate) struct Place {
    source: Arc<Source>,
    span: Option<Range<usize>>,
}

/// Keys of a section. The others are read elsewhere.
#[derive(Clone, Copy)]
enum Keys {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

impl Keys {
    fn contain(self, key: &str) -> bool {
        match self {
            Keys::Only(keys) => keys.contains(&key),
            Keys::AllBut(keys) => !keys.contains(&key),
        }
    }
}

impl Parsed<'_> {
    /// The whole file, without some keys.
    pub(crate) fn whole(&self, without: &'static [&'static str]) -> Section<'_> {
        let Parsed { source, table } = self;
        Section { source, table, span: None, keys: Keys::AllBut(without) }
    }
}

impl<'a> Section<'a> {
    /// The table without some keys.
    pub(crate) fn without(&self, keys: &'static [&'static str]) -> Section<'a> {
        Section { keys: Keys::AllBut(keys), ..self.clone() }
    }

    /// The table with only these keys.
    pub(crate) fn only(&self, keys: &'static [&'static str]) -> Section<'a> {
        Section { keys: Keys::Only(keys), ..self.clone() }
    }

    /// A table in this one, if it exists.
    pub(crate) fn table(&self, key: &str) -> Result<Option<Section<'a>>, ConfigError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(table) => {
                let (span, keys) = (Some(value.span()), Keys::AllBut(&[]));
                Ok(Some(Section { source: self.source, table, span, keys }))
            }
            _ => Err(self.source.at(value.span(), format_args!("{key} has to be a table"))),
        }
    }

    /// The keys of the table, in the order of the alphabet.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        let keys = self.keys;
        self.table.keys().map(|key| &**key.get_ref()).filter(move |key| keys.contain(key))
    }

    /// Reads the table. A key that the type doesn't have is an error.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut odd: Option<Vec<String>> = None;
        // By one type of function, all configurations share the code of their values.
        let ignored: &mut dyn FnMut(serde_ignored::Path<'_>) = &mut |path| {
            odd.get_or_insert_with(|| segments(&path));
        };
        let read = serde_ignored::deserialize(self.deserializer(), ignored);
        // An unknown key explains a missing one.
        if let Some(path) = odd {
            let (key, above) = path.split_last().expect("a key");
            let mut known = fields::fields_at::<T>(above);
            if let (Keys::AllBut(others), true) = (self.keys, above.is_empty()) {
                known.extend(others);
            }
            return Err(self.source.at(self.span_of(&path), unknown("key", key, &known)));
        }
        read.map_err(|error| match error.span() {
            // A missing key has no place in the file.
            Some(span) if self.span.is_none() && span == self.range() => {
                self.place().error(error.message().replace('`', ""))
            }
            _ => self.source.wrong(&error),
        })
    }

    /// The values of the table. `None` if a number is too large for `toml::Value`.
    pub(crate) fn contents(&self) -> Option<toml::Table> {
        toml::Table::deserialize(self.deserializer()).ok()
    }

    pub(crate) fn place(&self) -> Place {
        Place { source: self.source.clone(), span: self.span.clone() }
    }

    /// An error at the value of a key.
    pub(crate) fn error_at(&self, key: &str, message: impl fmt::Display) -> ConfigError {
        let span = self.table.get(key).map(Spanned::span);
        span.map_or_else(|| self.place().error(&message), |span| self.source.at(span, &message))
    }

    fn deserializer(&self) -> Deserializer<'a> {
        let entries = self.table.iter().filter(|(key, _)| self.keys.contain(key.get_ref()));
        let entries = entries.map(|(key, value)| (key.clone(), value.clone()));
        Deserializer::from(Spanned::new(self.range(), entries.collect::<DeTable<'a>>()))
    }

    fn range(&self) -> Range<usize> {
        self.span.clone().unwrap_or(0..self.source.text.len())
    }

    /// The place of a key below this table, or of the last one above it that has a place.
    fn span_of(&self, path: &[String]) -> Range<usize> {
        let Some((first, below)) = path.split_first() else { return self.range() };
        let Some((key, mut value)) = self.table.get_key_value(&**first) else {
            return self.range();
        };
        let mut span = key.span();
        for key in below {
            let inner = match value.get_ref() {
                DeValue::Table(table) => {
                    table.get_key_value(&**key).map(|(key, inner)| (key.span(), inner))
                }
                DeValue::Array(array) => {
                    let inner = key.parse::<usize>().ok().and_then(|at| array.get(at));
                    inner.map(|inner| (inner.span(), inner))
                }
                _ => None,
            };
            let Some(inner) = inner else { break };
            (span, value) = inner;
        }
        span
    }
}

impl Place {
    /// An error at this place.
    pub(crate) fn error(&self, message: impl fmt::Display) -> ConfigError {
        match &self.span {
            None => ConfigError::text(format!("{}: {message}", self.source.name)),
            Some(span) => self.source.at(span.clone(), message),
        }
    }

    /// The configuration that it is in.
    pub(crate) fn source(&self) -> &Arc<Source> {
        &self.source
    }
}

/// The keys of a path.
fn segments(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path;
    let (parent, last) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(index.to_string())),
        Path::Map { parent, key } => (parent, Some(key.clone())),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => (parent, None),
    };
    let mut path = segments(parent);
    path.extend(last);
    path
}

/// The words of an error about a name that isn't known: with the nearest known one, or with all. For
/// types that implement serde's `Deserialize` themselves.
///
/// ```
/// let words = couplet_runner::unknown("key", "lisen", &["listen", "drain"]);
/// assert_eq!(words, "unknown key lisen; did you mean listen?");
/// ```
pub fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .min()
        .filter(|(distance, _)| *distance <= name.chars().count().div_ceil(3));
    match nearest {
        Some((_, nearest)) => format!("unknown {what} {name}; did you mean {nearest}?"),
        None if known.is_empty() => format!("unknown {what} {name}"),
        None => format!("unknown {what} {name}; known are {}", known.join(", ")),
    }
}

/// A configuration that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConfigError {
    message: String,
}

impl ConfigError {
    pub(crate) fn text(message: impl Into<String>) -> ConfigError {
        ConfigError { message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
