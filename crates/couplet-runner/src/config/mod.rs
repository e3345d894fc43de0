//! Configurations in TOML: reads a file or a part of it as a type of serde. Errors show the place.

mod fields;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

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

/// A table of a configuration, or the whole; all of its keys, or some.
#[derive(Clone)]
pub(crate) struct Section {
    source: Arc<Source>,
    // Bound: the depth of a table in the configuration.
    path: Vec<String>,
    keys: Keys,
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

impl Section {
    /// The whole file, without some keys.
    pub(crate) fn whole(source: Arc<Source>, without: &'static [&'static str]) -> Section {
        Section { source, path: Vec::new(), keys: Keys::AllBut(without) }
    }

    /// The table without some keys.
    pub(crate) fn without(&self, keys: &'static [&'static str]) -> Section {
        Section { keys: Keys::AllBut(keys), ..self.clone() }
    }

    /// The table with only these keys.
    pub(crate) fn only(&self, keys: &'static [&'static str]) -> Section {
        Section { keys: Keys::Only(keys), ..self.clone() }
    }

    /// A table in this one, if it exists.
    pub(crate) fn table(&self, key: &str) -> Result<Option<Section>, ConfigError> {
        let Section { source, path, .. } = self;
        let found =
            self.with_table(|table| table.get(key).map(|it| (it.span(), it.get_ref().is_table())));
        match found {
            None => Ok(None),
            Some((_, true)) => {
                let path = path.iter().cloned().chain([key.to_owned()]).collect();
                Ok(Some(Section { source: source.clone(), path, keys: Keys::AllBut(&[]) }))
            }
            Some((span, false)) => Err(source.at(span, format_args!("{key} has to be a table"))),
        }
    }

    /// The keys of the table, in the order of the alphabet.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.with_table(|table| table.keys().map(|key| key.get_ref().to_string()).collect())
    }

    /// Reads the table. A key that the type doesn't have is an error.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut odd: Option<Vec<String>> = None;
        let read = self.with_table(|table| {
            let spanned = Spanned::new(self.span(), table);
            serde_ignored::deserialize(Deserializer::from(spanned), |path| {
                odd.get_or_insert_with(|| segments(&path));
            })
        });
        // An unknown key explains a missing one.
        if let Some(path) = odd {
            let (key, above) = path.split_last().expect("a key");
            let mut known = fields::fields_at::<T>(above);
            if let (Keys::AllBut(others), true) = (self.keys, above.is_empty()) {
                known.extend(others);
            }
            return Err(self.source.at(self.span_of(&path), unknown("key", key, &known)));
        }
        read.map_err(|error| self.source.wrong(&error))
    }

    /// An error at the beginning of the table.
    pub(crate) fn error(&self, message: impl fmt::Display) -> ConfigError {
        match self.path.is_empty() {
            true => ConfigError::text(format!("{}: {message}", self.source.name)),
            false => self.source.at(self.span(), message),
        }
    }

    /// An error at the value of a key.
    pub(crate) fn error_at(&self, key: &str, message: impl fmt::Display) -> ConfigError {
        let span = self.with_table(|table| table.get(key).map(Spanned::span));
        span.map_or_else(|| self.error(&message), |span| self.source.at(span, &message))
    }

    /// Whether both have the same contents, however they are written.
    pub(crate) fn is_same(&self, other: &Section) -> bool {
        let value = |section: &Section| {
            section.with_table(|table| {
                toml::Table::deserialize_from(Deserializer::from(Spanned::new(0..0, table)))
            })
        };
        self.path == other.path && value(self).ok() == value(other).ok()
    }

    fn with_table<R>(&self, f: impl FnOnce(DeTable<'_>) -> R) -> R {
        let table = self.parsed().into_inner();
        f(table.into_iter().filter(|(key, _)| self.keys.contain(key.get_ref())).collect())
    }

    fn parsed(&self) -> Spanned<DeTable<'_>> {
        let whole = DeTable::parse(&self.source.text).expect("the source is TOML");
        self.path.iter().fold(whole, |table, key| {
            let value = table.into_inner().remove(&**key).expect("the table exists");
            let span = value.span();
            match value.into_inner() {
                DeValue::Table(table) => Spanned::new(span, table),
                _ => unreachable!("it is a table"),
            }
        })
    }

    fn span(&self) -> Range<usize> {
        self.parsed().span()
    }

    /// The place of a key below this table, or of the last one above it that has a place.
    fn span_of(&self, path: &[String]) -> Range<usize> {
        let parsed = self.parsed();
        let mut span = parsed.span();
        let mut value = DeValue::Table(parsed.into_inner());
        for key in path {
            let inner = match value {
                DeValue::Table(mut table) => {
                    let entry = table.remove_entry(&**key);
                    entry.map(|(key, inner)| (key.span(), inner))
                }
                DeValue::Array(array) => key
                    .parse::<usize>()
                    .ok()
                    .and_then(|at| array.into_iter().nth(at))
                    .map(|inner| (inner.span(), inner)),
                _ => None,
            };
            let Some((place, inner)) = inner else { return span };
            (span, value) = (place, inner.into_inner());
        }
        span
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

/// Reads a value without borrowing from its text.
trait DeserializeFrom: Sized {
    fn deserialize_from(from: Deserializer<'_>) -> Result<Self, toml::de::Error>;
}

impl<T: DeserializeOwned> DeserializeFrom for T {
    fn deserialize_from(from: Deserializer<'_>) -> Result<Self, toml::de::Error> {
        T::deserialize(from)
    }
}

#[cfg(test)]
mod tests;
