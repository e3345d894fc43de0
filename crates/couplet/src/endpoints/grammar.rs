//! The grammar of endpoint strings: parts, keywords, escapes, and errors that show the place.

use crate::defer::Result;

/// A string that is no endpoint. It prints the string with a caret under the place.
///
/// ```
/// let error = "tcp:localhost:http".parse::<couplet::endpoints::ClientEndpoint>().unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "a port, a number from 0 to 65535, is expected here\n\
///      \x20   tcp:localhost:http\n\
///      \x20                 ^"
/// );
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n    {}\n    {:>2$}", .text, "^", .text[..*.at].chars().count() + 1)]
pub struct EndpointError {
    problem: String,
    text: String,
    /// Byte offset of the place.
    at: usize,
}

impl EndpointError {
    fn new(text: &str, at: usize, problem: impl Into<String>) -> EndpointError {
        // Control characters would move the caret, or worse.
        let shown = text.replace(char::is_control, "?");
        let same = shown.len() == text.len() && text.is_char_boundary(at);
        EndpointError { problem: problem.into(), text: shown, at: if same { at } else { 0 } }
    }

    /// What is wrong, in one line.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// Where it is wrong: a byte offset into the string, at most its length.
    ///
    /// ```
    /// let error = "tcp:localhost:http".parse::<couplet::endpoints::ClientEndpoint>().unwrap_err();
    /// assert_eq!(error.at(), 14);
    /// ```
    pub fn at(&self) -> usize {
        self.at
    }
}

/// Escapes `:` and `\`, so that the text is one value of an endpoint string. Twisted's
/// `quoteStringArgument`.
///
/// ```
/// assert_eq!(couplet::endpoints::quote(r"C:\poems"), r"C\:\\poems");
/// ```
#[must_use]
pub fn quote(value: &str) -> String {
    value.replace('\\', r"\\").replace(':', r"\:")
}

/// One value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Part {
    key: Option<String>,
    pub(super) text: String,
    pub(super) bracketed: bool,
    /// Where the part begins, with its key.
    start: usize,
    /// Where its value begins.
    at: usize,
    whole: String,
}

impl Part {
    pub(super) fn error(&self, problem: impl Into<String>) -> EndpointError {
        EndpointError::new(&self.whole, self.at, problem)
    }

    pub(super) fn number(&self, what: &str, least: u64, most: u64) -> Result<u64, EndpointError> {
        let digits = !self.text.is_empty() && self.text.bytes().all(|b| b.is_ascii_digit());
        match self.text.parse::<u64>() {
            Ok(number) if digits && (least..=most).contains(&number) => Ok(number),
            _ => Err(self.error(format!("{what} from {least} to {most}, is expected here"))),
        }
    }

    pub(super) fn yes_or_no(&self) -> Result<bool, EndpointError> {
        match self.text.as_str() {
            "yes" | "true" | "1" => Ok(true),
            "no" | "false" | "0" => Ok(false),
            _ => Err(self.error("yes or no is expected here")),
        }
    }
}

/// The parts of an endpoint string that have not been looked at yet.
pub(super) struct Parts {
    text: String,
    parts: Vec<Part>,
}

impl Parts {
    pub(super) fn new(text: &str) -> Result<Parts, EndpointError> {
        let mut parts = vec![Part::empty(text, 0)];
        let mut letters = text.char_indices();
        let mut depth = 0usize;
        while let Some((at, letter)) = letters.next() {
            let part = parts.last_mut().expect("there is always one");
            match letter {
                '\\' => match letters.next() {
                    Some((_, escaped)) => part.text.push(escaped),
                    None => {
                        return Err(EndpointError::new(
                            text,
                            at,
                            "a backslash escapes nothing here",
                        ));
                    }
                },
                ':' if depth == 0 => parts.push(Part::empty(text, at + 1)),
                '=' if depth == 0 && part.key.is_none() => {
                    part.key = Some(std::mem::take(&mut part.text));
                    part.at = at + 1;
                }
                '[' if part.text.is_empty() && depth == 0 => {
                    depth = 1;
                    part.bracketed = true;
                }
                ']' if depth == 1 => depth = 0,
                other => part.text.push(other),
            }
        }
        match parts.last() {
            Some(part) if depth == 1 => {
                Err(part.error("a bracket is opened here and never closed"))
            }
            _ => Ok(Parts { text: text.to_owned(), parts }),
        }
    }

    /// The first part, `tcp`.
    pub(super) fn expect_kind(&mut self, what: &str) -> Result<(), EndpointError> {
        let kind = self.parts.remove(0);
        if kind.key.is_some() || kind.text != "tcp" {
            let problem = format!("an endpoint to {what} begins with tcp:");
            return Err(EndpointError::new(&self.text, 0, problem));
        }
        Ok(())
    }

    /// The value of `key`: given by its name, or else the next part without a name.
    pub(super) fn take(&mut self, key: &str, form: &str) -> Result<Part, EndpointError> {
        if let Some(part) = self.keyword(key) {
            return Ok(part);
        }
        match self.parts.iter().position(|part| part.key.is_none()) {
            Some(at) => Ok(self.parts.remove(at)),
            None => {
                let problem = format!("the {key} is missing here: {form}");
                Err(EndpointError::new(&self.text, self.text.len(), problem))
            }
        }
    }

    /// The value of `key`, if it is given.
    pub(super) fn keyword(&mut self, key: &str) -> Option<Part> {
        let at = self.parts.iter().position(|part| part.key.as_deref() == Some(key))?;
        Some(self.parts.remove(at))
    }

    /// Nothing else may stand there.
    pub(super) fn expect_end(&self, known: &str) -> Result<(), EndpointError> {
        match self.parts.first() {
            None => Ok(()),
            Some(part) => Err(match &part.key {
                Some(key) => EndpointError::new(
                    &self.text,
                    part.start,
                    format!(
                        "{}= is not known here, or stands twice; known are {known}",
                        key.replace(char::is_control, "?")
                    ),
                ),
                None => part.error("nothing more is expected here"),
            }),
        }
    }
}

impl Part {
    fn empty(whole: &str, at: usize) -> Part {
        let whole = whole.to_owned();
        Part { key: None, text: String::new(), bracketed: false, start: at, at, whole }
    }
}
