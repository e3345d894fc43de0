//! [`EndpointError`]: an error in an endpoint string, with its position and a suggested correction.

use std::fmt;

/// An invalid endpoint string. Displays the string with a caret under the error and, if available,
/// a suggested correction.
///
/// ```
/// use couplet::endpoints::{client_from_string, server_from_string};
///
/// let error = client_from_string("localhost:http").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "expected a port number from 1 to 65535\n\
///      \x20   localhost:http\n\
///      \x20             ^"
/// );
/// let error = client_from_string("::1:8000").unwrap_err();
/// assert_eq!(error.hint(), Some("[::1]:8000"));
/// assert!(error.to_string().ends_with("\n  did you mean [::1]:8000?"));
/// let error = server_from_string("tpc:8000").unwrap_err();
/// assert_eq!(error.hint(), Some("tcp:8000"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointError {
    problem: String,
    text: String,
    /// Byte offset of the error.
    at: usize,
    hint: Option<String>,
}

impl fmt::Display for EndpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EndpointError { problem, text, at, hint } = self;
        let indent = text[..*at].chars().count();
        write!(f, "{problem}\n    {text}\n    {:indent$}^", "")?;
        hint.iter().try_for_each(|hint| write!(f, "\n  did you mean {hint}?"))
    }
}

impl std::error::Error for EndpointError {}

impl EndpointError {
    pub(super) fn new(text: &str, at: usize, problem: impl Into<String>) -> EndpointError {
        // Control characters would move the caret, or worse.
        let shown = text.replace(char::is_control, "?");
        let same = shown.len() == text.len() && text.is_char_boundary(at);
        EndpointError {
            problem: problem.into(),
            text: shown,
            at: if same { at } else { 0 },
            hint: None,
        }
    }

    pub(super) fn with_hint(mut self, hint: Option<String>) -> EndpointError {
        self.hint = hint.filter(|hint| !hint.contains(char::is_control));
        self
    }

    /// A one-line description of the problem.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// The position of the error: a byte offset into the string, at most its length.
    ///
    /// ```
    /// use couplet::endpoints::client_from_string;
    ///
    /// let error = client_from_string("tcp:localhost:http").unwrap_err();
    /// assert_eq!(error.at(), 14);
    /// ```
    pub fn at(&self) -> usize {
        self.at
    }

    /// The suggested correction, if any.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}
