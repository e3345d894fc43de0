//! Subjects, and the patterns that match them, by the rules of NATS: tokens separated by dots; in a
//! pattern, `*` matches one token and a last `>` one or more.
//!
//! Contract: 201, 204.

use std::fmt;

/// Maximum length of a subject, a pattern or the name of a group, in bytes. With two of them and two
/// numbers, a control line stays below the 4096 bytes that servers accept.
pub(crate) const MAX_SUBJECT: usize = 1024;

/// A subject, a pattern or the name of a group is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubjectError {
    /// The text is empty, or one of its tokens is: `a..b`.
    #[error("{0:?} is not a subject: it has an empty token")]
    EmptyToken(String),
    /// The text contains white space or control characters.
    #[error("{0:?} is not a subject: it has a space or a control character")]
    BadCharacter(String),
    /// A subject of a message contains a wildcard; in a pattern, `>` is not the last token.
    #[error("{0:?} is not a subject: it has a wildcard in a place that allows none")]
    Wildcard(String),
    /// The pattern has a group, which the servers of this bus do not know.
    #[error("cannot join the group {0:?}: Redis does not share messages among subscribers")]
    NoGroups(String),
    /// The text has more than 1024 bytes.
    #[error("cannot use a subject of {0} bytes: at most 1024 are allowed")]
    TooLong(usize),
}

/// Checks the subject of a message.
pub(crate) fn check_subject(subject: &str) -> Result<(), SubjectError> {
    check_tokens(subject)?;
    if subject.split('.').any(|token| matches!(token, "*" | ">")) {
        return Err(SubjectError::Wildcard(subject.to_owned()));
    }
    Ok(())
}

fn check_tokens(text: &str) -> Result<(), SubjectError> {
    if text.len() > MAX_SUBJECT {
        return Err(SubjectError::TooLong(text.len()));
    }
    if text.split('.').any(str::is_empty) {
        return Err(SubjectError::EmptyToken(text.to_owned()));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::BadCharacter(text.to_owned()));
    }
    Ok(())
}

/// Selects messages by their subjects: `rooms.lobby`, `rooms.*`, `rooms.>`. Subscriptions in a
/// [group](Self::group) share the messages.
///
/// ```
/// use couplet::bus::Pattern;
///
/// let rooms = Pattern::new("rooms.*.messages");
/// assert!(rooms.matches("rooms.lobby.messages"));
/// assert!(!rooms.matches("rooms.lobby.joins"));
/// assert!(Pattern::new("rooms.>").matches("rooms.lobby.joins"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    subject: String,
    group: Option<String>,
}

impl Pattern {
    /// A pattern: dots separate tokens, `*` matches any one token, `>` at the end matches one or more.
    pub fn new(subject: impl Into<String>) -> Pattern {
        Pattern { subject: subject.into(), group: None }
    }

    /// Makes the subscription a member of a queue group: of all its members, on all machines, one
    /// gets each message.
    #[must_use]
    pub fn group(mut self, name: impl Into<String>) -> Pattern {
        self.group = Some(name.into());
        self
    }

    /// Whether the pattern matches a message with this subject.
    pub fn matches(&self, subject: &str) -> bool {
        let mut tokens = subject.split('.');
        for wanted in self.subject.split('.') {
            match (wanted, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    pub(crate) fn group_name(&self) -> Option<&str> {
        self.group.as_deref()
    }

    pub(crate) fn check(&self) -> Result<(), SubjectError> {
        check_tokens(&self.subject)?;
        let before_last = self.subject.rsplit_once('.').map_or("", |(before, _)| before);
        if before_last.split('.').any(|token| token == ">") {
            return Err(SubjectError::Wildcard(self.subject.clone()));
        }
        self.group.as_deref().map_or(Ok(()), check_subject)
    }
}

impl From<&str> for Pattern {
    fn from(subject: &str) -> Pattern {
        Pattern::new(subject)
    }
}

impl From<String> for Pattern {
    fn from(subject: String) -> Pattern {
        Pattern::new(subject)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{} ({group})", self.subject),
            None => f.write_str(&self.subject),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c201_patterns_match_by_tokens() {
        for (pattern, subject, matches) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b", "a.b", true),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a.b", true),
            ("a*", "ab", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(subject), matches, "{pattern} and {subject}");
        }
    }

    #[test]
    fn c201_bad_subjects_and_patterns_are_errors() {
        let long = "a".repeat(MAX_SUBJECT + 1);
        for (text, subject, pattern) in [
            ("a.b", true, true),
            ("é.ü", true, true),
            ("a*.b>", true, true),
            ("", false, false),
            (".a", false, false),
            ("a..b", false, false),
            ("a b", false, false),
            ("a\r\nPUB b 0", false, false),
            ("a\u{85}b", false, false),
            ("a.*", false, true),
            ("a.>", false, true),
            ("a.>.b", false, false),
            (&long[1..], true, true),
            (&long, false, false),
        ] {
            assert_eq!(check_subject(text).is_ok(), subject, "subject {text:?}");
            assert_eq!(Pattern::new(text).check().is_ok(), pattern, "pattern {text:?}");
        }
        assert!(Pattern::new("a").group("x y").check().is_err());
        assert!(Pattern::new("a").group("workers").check().is_ok());
    }
}
