//! The errors of rooms.

/// A room was not joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The connection is closing, or lost.
    #[error("cannot join a room: the connection is closing")]
    Closing,
    /// The connection is a member already.
    #[error("cannot join a room: the connection is a member already")]
    AlreadyMember,
    /// There are as many rooms as the [limit](crate::Limits::rooms) allows, and all have members.
    #[error("cannot join a room: there are too many rooms")]
    TooManyRooms,
}

/// A message was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// There are as many rooms as the [limit](crate::Limits::rooms) allows, and all have members.
    #[error("cannot publish a message: there are too many rooms")]
    TooManyRooms,
    /// Other messages took the position each time that the message was encoded: the encoder
    /// publishes to its own room.
    #[error("cannot publish a message: others took its position each time")]
    Overtaken,
    /// The member has left.
    #[error("cannot publish a message: the member has left the room")]
    NotMember,
}

/// There are as many rooms as the limit allows, and all have members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooManyRooms;

impl From<TooManyRooms> for JoinError {
    fn from(_: TooManyRooms) -> JoinError {
        JoinError::TooManyRooms
    }
}

impl From<TooManyRooms> for PublishError {
    fn from(_: TooManyRooms) -> PublishError {
        PublishError::TooManyRooms
    }
}
