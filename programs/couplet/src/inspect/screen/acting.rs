//! Actions on the program: the question before one, the text that one needs, and the outcome.

use ratatui::crossterm::event::KeyCode;
use serde_json::Value;

use super::store::{Row, Store};
use crate::inspect::fields::word;

/// The longest text of an action, in characters.
const LONGEST: usize = 200;

/// An action that the inspector is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Action {
    /// In words: `close connection 1.2.1`.
    pub(super) name: String,
    pub(super) path: String,
    pub(super) text: String,
}

/// The line of actions, in place of the keys.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Prompt {
    #[default]
    Nothing,
    /// The user is asked whether to act.
    Asks(Action),
    /// The user types the events to log.
    Levels(String),
    /// An outcome, until the next key.
    Says { words: String, is_error: bool },
}

impl Prompt {
    fn refusal(words: &str) -> Prompt {
        Prompt::Says { words: words.to_owned(), is_error: true }
    }

    /// The outcome of an action.
    pub(super) fn outcome(action: &Action, outcome: couplet::Result<()>) -> Prompt {
        let name = &action.name;
        match outcome {
            Ok(()) => Prompt::Says { words: format!("{name}: done"), is_error: false },
            Err(failure) => {
                let words = word(&Value::from(format!("{name}: {failure}"))).into_owned();
                Prompt::Says { words, is_error: true }
            }
        }
    }

    /// The prompt and the action after a key that asks for one; `row` is a connection.
    pub(super) fn begin(key: char, store: &Store, row: Option<&Row>) -> (Prompt, Option<Action>) {
        if store.program["actions"] != true {
            let words =
                "the program does not allow actions: --inspect-actions, or Inspector::actions";
            return (Prompt::refusal(words), None);
        }
        if key == 'l' {
            return match store.program["sets_log"] == true {
                true => (Prompt::Levels(String::new()), None),
                false => (Prompt::refusal("the program can't set the levels of its log"), None),
            };
        }
        let Some(row) = row else { return (Prompt::refusal("select a connection first"), None) };
        let is_paused = word(row.value("why")).starts_with("reading paused by the inspector");
        let verb = match (key, is_paused) {
            ('c', _) => "close",
            ('x', _) => "reset",
            (_, true) => "resume",
            (_, false) => "pause",
        };
        let (name, path) = (format!("{verb} connection {}", row.id), &row.id);
        let action =
            Action { name, path: format!("connections/{path}/{verb}"), text: String::new() };
        match verb {
            "close" | "reset" => (Prompt::Asks(action), None),
            _ => (Prompt::Nothing, Some(action)),
        }
    }

    /// Handles a key while the user is asked or types. Returns whether the prompt took it, and the
    /// action to carry out.
    pub(super) fn press(&mut self, code: KeyCode) -> (bool, Option<Action>) {
        match (std::mem::take(self), code) {
            (Prompt::Nothing | Prompt::Says { .. }, _) => (false, None),
            (Prompt::Asks(action), KeyCode::Char('y' | 'Y')) => (true, Some(action)),
            (Prompt::Levels(text), KeyCode::Enter) if !text.trim().is_empty() => {
                let name = format!("log {text}");
                (true, Some(Action { name, path: "log".to_owned(), text }))
            }
            (Prompt::Asks(_), _) | (Prompt::Levels(_), KeyCode::Esc | KeyCode::Enter) => {
                (true, None)
            }
            (Prompt::Levels(mut text), code) => {
                match code {
                    KeyCode::Char(letter) if text.chars().count() < LONGEST => text.push(letter),
                    KeyCode::Backspace => drop(text.pop()),
                    _ => {}
                }
                *self = Prompt::Levels(text);
                (true, None)
            }
        }
    }

    /// The line that is shown in place of the keys, and whether it is an error.
    pub(super) fn line(&self) -> Option<(String, bool)> {
        match self {
            Prompt::Nothing => None,
            Prompt::Asks(action) => {
                Some((format!("{}?  y: yes, any other key: no", action.name), false))
            }
            Prompt::Levels(text) => {
                Some((format!("events to log, such as info or couplet=debug: {text}"), false))
            }
            Prompt::Says { words, is_error } => Some((words.clone(), *is_error)),
        }
    }
}
