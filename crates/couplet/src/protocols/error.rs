//! What can be wrong with framed messages: the peer's by [`FramingError`], our own by
//! [`StringTooLong`].

/// The peer's bytes are no messages of this framing: the connection ends with this error in its
/// [`Reason::Failed`](crate::Reason::Failed).
///
/// ```
/// use couplet::Reason;
/// use couplet::protocols::FramingError;
///
/// fn is_hostile(reason: &Reason) -> bool {
///     matches!(reason.downcast_ref(), Some(FramingError::StringTooLong { .. }))
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FramingError {
    /// A line is longer than the limit.
    #[error("the peer sent a line of more than {limit} bytes")]
    LineTooLong {
        /// The limit of this framer, in bytes.
        limit: usize,
    },
    /// A length is over the limit. Nothing of the string was kept.
    #[error("the peer announced a string of more than {limit} bytes")]
    StringTooLong {
        /// The limit of this framer, in bytes.
        limit: usize,
    },
    /// The length of a netstring is no number: it has a sign, a letter, or no digit at all.
    #[error("the peer sent a netstring with {:?} in its length", char::from(*.0))]
    NoDigit(
        /// What stood in place of a digit.
        u8,
    ),
    /// The length of a netstring has a zero in front.
    #[error("the peer sent a netstring whose length begins with a zero")]
    LeadingZero,
    /// A netstring does not end with a comma where its length says.
    #[error("the peer sent a netstring that ends with {:?} in place of a comma", char::from(*.0))]
    NoComma(
        /// What stood in place of the comma.
        u8,
    ),
    /// A message has no end within the limit of its [`Framer`](super::Framer).
    #[error("the peer sent a message of more than {limit} bytes")]
    MessageTooLong {
        /// The limit of this framer, in bytes.
        limit: usize,
    },
    /// Our own side asked a [`LineOnlyReceiver`](super::LineOnlyReceiver) for raw mode.
    #[error("a LineOnlyReceiver has no raw mode; use a LineReceiver")]
    NoRawMode,
}

/// A string is too long for the length in front of it; nothing was written. Twisted's
/// `StringTooLongError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot send a string of {length} bytes: its prefix counts to {max}")]
pub struct StringTooLong {
    /// Bytes of the string.
    pub length: usize,
    /// Bytes that the prefix can announce.
    pub max: usize,
}
