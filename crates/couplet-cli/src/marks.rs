//! The write marks of the servers.

/// Reading pauses when more bytes than the second number wait for a client, and resumes at the first.
/// They come on top of the input of one read: a client that reads nothing holds both.
pub(crate) const MARKS: (usize, usize) = (8 * 1024, 16 * 1024);
