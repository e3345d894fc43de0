//! The limits of slow readers: the write marks of the servers, and the time for their last output.

use std::time::Duration;

use couplet::Transport;
use couplet::transport::Timeout;

/// Reading pauses when more bytes than the second number wait for a client, and resumes at the first.
/// The input of one read is not included: a client that reads nothing holds both.
pub const MARKS: (usize, usize) = (8 * 1024, 16 * 1024);

/// How long a client may leave the last output unread, on servers that do not cut off slow readers: more
/// than any pause of a person or a machine, but not for ever.
pub const SLOW_READER: Duration = Duration::from_secs(2 * 3600);

/// Gives a slow reader its time, also one that has ended its stream.
pub fn be_patient(transport: &Transport) {
    transport.set_timeout(Timeout::HalfClose, Some(SLOW_READER));
    transport.set_timeout(Timeout::Close, Some(SLOW_READER));
}
