//! [`Code`]: the error codes of RST_STREAM and GOAWAY. RFC 9113, 7.

use std::fmt;

/// An error code of RST_STREAM or GOAWAY: RFC 9113, 7. A peer may send any number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u32);

const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl Code {
    /// No fault: a connection that drains, an upload that is not needed.
    pub const NO_ERROR: Code = Code(0);
    /// The peer broke a rule without a more specific code.
    pub const PROTOCOL_ERROR: Code = Code(1);
    /// The sender of the code failed.
    pub const INTERNAL_ERROR: Code = Code(2);
    /// The peer sent more than a window allowed.
    pub const FLOW_CONTROL_ERROR: Code = Code(3);
    /// The settings were not acknowledged in time.
    pub const SETTINGS_TIMEOUT: Code = Code(4);
    /// A frame came after the end of its stream.
    pub const STREAM_CLOSED: Code = Code(5);
    /// A frame has an invalid length.
    pub const FRAME_SIZE_ERROR: Code = Code(6);
    /// The stream was not processed, and may be sent again.
    pub const REFUSED_STREAM: Code = Code(7);
    /// The stream is not needed any longer.
    pub const CANCEL: Code = Code(8);
    /// A field block is not HPACK.
    pub const COMPRESSION_ERROR: Code = Code(9);
    /// The connection behind a CONNECT failed.
    pub const CONNECT_ERROR: Code = Code(10);
    /// The peer causes too much work.
    pub const ENHANCE_YOUR_CALM: Code = Code(11);
    /// The TLS of the connection is too weak.
    pub const INADEQUATE_SECURITY: Code = Code(12);
    /// The resource needs HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Code = Code(13);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "the unknown code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
