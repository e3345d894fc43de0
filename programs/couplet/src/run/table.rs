//! The arguments of a command as a table of a configuration. Keys are the long options, or the names
//! of positional arguments; values are checked by the command's own parsers, each at its place.

use std::error::Error as _;
use std::fmt;
use std::marker::PhantomData;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Args, Command};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The arguments of a command.
pub(super) struct Table<A>(pub(super) A);

/// Options for a process, which a service doesn't have.
const OF_PROCESS: [&str; 5] = ["threads", "answers", "driver", "spin", "list"];

/// A command whose arguments are all long options, by the names of keys.
fn command<A: Args>() -> Command {
    let command = A::augment_args(Command::new("service").no_binary_name(true));
    let command = command.disable_help_flag(true).disable_version_flag(true);
    command.mut_args(|arg| match arg.get_long() {
        Some(_) => arg,
        None => {
            let name: &'static str = match arg.get_id().as_str() {
                "listen" => "listen",
                "connect" => "connect",
                "folder" => "folder",
                "files" => "files",
                other => unreachable!("the positional argument {other} has no key"),
            };
            arg.long(name)
        }
    })
}

fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let known = |arg: &&Arg| arg.get_long() == Some(key) && !OF_PROCESS.contains(&key);
    command.get_arguments().find(known)
}

impl<'de, A: Args> Deserialize<'de> for Table<A> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Table<A>, D::Error> {
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

struct Keys<A>(PhantomData<A>);

impl<'de, A: Args> Visitor<'de> for Keys<A> {
    type Value = Table<A>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Table<A>, M::Error> {
        let command = command::<A>();
        let mut line = Vec::new();
        while let Some(arg) = map.next_key_seed(Key(&command))? {
            line.extend(map.next_value_seed(Value(arg))?);
        }
        let mut matches = command.try_get_matches_from(line).map_err(M::Error::custom_of)?;
        A::from_arg_matches_mut(&mut matches).map(Table).map_err(M::Error::custom_of)
    }
}

/// A key of the table.
struct Key<'a>(&'a Command);

impl<'de, 'a> DeserializeSeed<'de> for Key<'a> {
    type Value = &'a Arg;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<&'a Arg, D::Error> {
        let key = String::deserialize(deserializer)?;
        find(self.0, &key).ok_or_else(|| {
            let known = self.0.get_arguments().filter_map(Arg::get_long);
            let known: Vec<&str> = known.filter(|known| !OF_PROCESS.contains(known)).collect();
            D::Error::custom(couplet_runner::unknown("key", &key, &known))
        })
    }
}

/// A value of the table, as words of a command line.
struct Value<'a>(&'a Arg);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Vec<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<String>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Value<'_> {
    /// The words for a value that the option accepts.
    fn accept<E: Error>(&self, value: impl fmt::Display) -> Result<Vec<String>, E> {
        let Value(arg) = self;
        if matches!(arg.get_action(), ArgAction::SetTrue) {
            return Err(E::custom("expected true or false"));
        }
        // Without the command's other options, since options that this one requires may follow.
        let alone = Arg::new("value").long("value").value_parser(arg.get_value_parser().clone());
        let checked = Command::new("value").no_binary_name(true).arg(alone);
        let option = |name: &str| format!("--{name}={}", value);
        checked.try_get_matches_from([option("value")]).map_err(E::custom_of)?;
        Ok(vec![option(arg.get_long().expect("a key"))])
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true, false or a list of them")
    }

    fn visit_bool<E: Error>(self, is_on: bool) -> Result<Vec<String>, E> {
        match (self.0.get_action(), is_on) {
            (ArgAction::SetTrue, true) => {
                Ok(vec![format!("--{}", self.0.get_long().expect("a key"))])
            }
            (ArgAction::SetTrue, false) => Ok(Vec::new()),
            _ => self.accept(is_on),
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Vec<String>, E> {
        self.accept(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Vec<String>, E> {
        self.accept(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Vec<String>, E> {
        self.accept(number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
        self.accept(text)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Vec<String>, S::Error> {
        let is_list = matches!(self.0.get_action(), ArgAction::Append)
            || self.0.get_num_args().is_some_and(|range| range.max_values() > 1);
        if !is_list {
            return Err(S::Error::custom("expected one value"));
        }
        let mut line = Vec::new();
        while let Some(words) = list.next_element_seed(Value(self.0))? {
            line.extend(words);
        }
        Ok(line)
    }
}

/// The words of an error of clap, without the words about a command line.
trait CustomOf {
    fn custom_of(error: clap::Error) -> Self;
}

impl<E: Error> CustomOf for E {
    fn custom_of(error: clap::Error) -> E {
        if let Some(source) = error.source() {
            return E::custom(source);
        }
        if let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
            (error.kind(), error.get(ContextKind::InvalidArg))
        {
            let name = |option: &String| {
                option.trim_start_matches("--").split([' ', '=']).next().map(str::to_owned)
            };
            let names: Vec<String> = missing.iter().filter_map(name).collect();
            return E::custom(format_args!("missing field {}", names.join(", ")));
        }
        let text = error.to_string();
        let words = text.split("\n\nUsage:").next().unwrap_or(&text);
        let words = words.trim_start_matches("error: ").replace(" for '--value <value>'", "");
        let words: Vec<&str> = words.split_whitespace().collect();
        E::custom(words.join(" ").replace("--", ""))
    }
}
