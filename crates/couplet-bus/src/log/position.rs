//! [`Position`]: the number of a message in its log.
//!
//! Contract: 221.

use std::fmt;
use std::str::FromStr;

/// The number of a message in its log: 1 for the first, without holes.
///
/// A log that was removed and made again numbers from 1 again. So a position also has the log's
/// epoch, and a position of another epoch is never taken for one of this log. As text:
/// `5f3a09c1-41`, for clients to send back.
///
/// ```
/// use couplet::bus::Position;
///
/// let position: Position = "5f3a09c1-41".parse()?;
/// assert_eq!(position.number(), 41);
/// assert_eq!(position.to_string(), "5f3a09c1-41");
/// # Ok::<(), couplet::bus::ParsePositionError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub(crate) epoch: u32,
    pub(crate) number: u64,
}

impl Position {
    /// The number of the message; 0 before the first.
    pub fn number(self) -> u64 {
        self.number
    }

    /// The position after this one. The number may be a client's or a server's, and the highest.
    pub(super) fn next(self) -> Position {
        self.with_number(self.number.saturating_add(1))
    }

    /// The position of another message of the same log.
    #[must_use]
    pub fn with_number(self, number: u64) -> Position {
        Position { number, ..self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.number)
    }
}

/// The text is not a [`Position`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a position, such as 5f3a09c1-41")]
pub struct ParsePositionError;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Position, ParsePositionError> {
        let (epoch, number) = text.split_once('-').ok_or(ParsePositionError)?;
        // The parsers of integers accept a sign.
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_plain(epoch) || !is_plain(number) {
            return Err(ParsePositionError);
        }
        let epoch = u32::from_str_radix(epoch, 16).map_err(|_| ParsePositionError)?;
        let number = number.parse().map_err(|_| ParsePositionError)?;
        Ok(Position { epoch, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c221_a_position_is_read_as_it_was_written_and_other_texts_are_errors() {
        for (epoch, number) in [(0, 0), (1, 41), (u32::MAX, u64::MAX)] {
            let position = Position { epoch, number };
            assert_eq!(position.to_string().parse(), Ok(position));
        }
        for text in
            ["", "-", "41", "-41", "5f-", "5g-41", "5f-4a", "+5f-41", "5f-+41", "5f--1", " 5f-41"]
        {
            assert_eq!(text.parse::<Position>(), Err(ParsePositionError), "{text:?}");
        }
        assert!("100000000-1".parse::<Position>().is_err());
        assert!("1-18446744073709551616".parse::<Position>().is_err());
    }
}
