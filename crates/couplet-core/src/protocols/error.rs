//! Framing errors: [`FramingError`] for errors of the peer, [`StringTooLong`] for our own.

/// The peer violated the framing. The connection ends with this error in its
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
    /// A line exceeds the limit.
    #[error("the peer sent a line of more than {limit} bytes")]
    LineTooLong {
        /// The limit of this framer, in bytes.
        limit: usize,
    },
    /// An announced length exceeds the limit. None of the string was buffered.
    #[error("the peer announced a string of more than {limit} bytes")]
    StringTooLong {
        /// The limit of this framer, in bytes.
        limit: usize,
    },
    /// The length of a netstring is not a number: it has a sign, a letter, or no digits.
    #[error("the peer sent a netstring with {:?} in its length", char::from(*.0))]
    NoDigit(
        /// The byte found instead of a digit.
        u8,
    ),
    /// The length of a netstring has a leading zero.
    #[error("the peer sent a netstring whose length has a leading zero")]
    LeadingZero,
    /// The byte after the announced length is not a comma.
    #[error("the peer sent a netstring that ends with {:?} instead of a comma", char::from(*.0))]
    NoComma(
        /// The byte found instead of the comma.
        u8,
    ),
    /// A message exceeds the limit of its [`Framer`](super::Framer).
    #[error("the peer sent a message of more than {limit} bytes")]
    MessageTooLong {
        /// The limit of this framer, in bytes.
        limit: usize,
    },
    /// Our own side requested raw mode from a [`LineOnlyReceiver`](super::LineOnlyReceiver).
    #[error("a LineOnlyReceiver has no raw mode; use a LineReceiver")]
    NoRawMode,
}

/// A string is too long for its length prefix; nothing was written. Twisted's
/// `StringTooLongError`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot send a string of {length} bytes: its length prefix allows at most {max}")]
pub struct StringTooLong {
    /// Length of the string in bytes.
    pub length: usize,
    /// The largest length that the prefix can hold.
    pub max: usize,
}
