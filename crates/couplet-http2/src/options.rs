//! [`Options`]: the limits of a connection.

/// The limits of a connection. A peer that exceeds one gets the error that its method names.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) max_streams: u32,
    pub(crate) stream_window: u32,
    pub(crate) connection_window: u32,
    pub(crate) max_frame: u32,
    pub(crate) max_head: u32,
    pub(crate) max_table: u32,
    pub(crate) max_control: usize,
    pub(crate) max_resets: u32,
    pub(crate) max_idle_frames: u32,
    pub(crate) max_unsent: usize,
    pub(crate) max_output: usize,
    pub(crate) connect_protocol: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_streams: 128,
            stream_window: 256 * 1024,
            connection_window: 4 * 1024 * 1024,
            max_frame: 16 * 1024,
            max_head: 64 * 1024,
            max_table: 4096,
            max_control: 16 * 1024,
            max_resets: 500,
            max_idle_frames: 1000,
            max_unsent: 64 * 1024,
            max_output: 256 * 1024,
            connect_protocol: false,
        }
    }
}

impl Options {
    /// Sets the maximum number of open streams (128). A server announces it as
    /// SETTINGS_MAX_CONCURRENT_STREAMS, and resets further ones with REFUSED_STREAM. A client opens
    /// no more, nor more than its server announces, and one before that: see
    /// [`SendError::Busy`](crate::SendError::Busy).
    pub fn max_streams(mut self, streams: u32) -> Options {
        self.max_streams = streams;
        self
    }

    /// Sets the largest receive window of a stream (256 KiB): a stream with more unreleased bytes is
    /// reset with FLOW_CONTROL_ERROR. At most 2³¹-1.
    ///
    /// For a client this is SETTINGS_INITIAL_WINDOW_SIZE. A server's streams begin with smaller
    /// windows: half of the connection's, divided by [`max_streams`](Options::max_streams), which
    /// are 16 KiB by default, and at least 1 KiB. Streams whose bytes are released share the other
    /// half. So uploads that are not read leave room for others.
    pub fn stream_window(mut self, bytes: u32) -> Options {
        self.stream_window = bytes.min(i32::MAX as u32);
        self
    }

    /// Sets the receive window of the connection (4 MiB), which bounds the bytes of all bodies that
    /// are not [released](crate::Connection::release): more is a FLOW_CONTROL_ERROR of the
    /// connection. From 65 535, which HTTP/2 grants every peer, to 2³¹-1.
    pub fn connection_window(mut self, bytes: u32) -> Options {
        self.connection_window = bytes.clamp(65_535, i32::MAX as u32);
        self
    }

    /// Sets the maximum length of a received frame (16 KiB), SETTINGS_MAX_FRAME_SIZE: a longer one
    /// is a FRAME_SIZE_ERROR of the connection. From 16 384 to 2²⁴-1. An incomplete frame is
    /// buffered.
    pub fn max_frame(mut self, bytes: u32) -> Options {
        self.max_frame = bytes.clamp(16_384, 0xff_ffff);
        self
    }

    /// Sets the maximum size of a list of fields (64 KiB), SETTINGS_MAX_HEADER_LIST_SIZE, as RFC
    /// 9113, 6.5.2 counts it: the lengths and 32 bytes for each field. A longer request is answered
    /// with 431; longer responses and trailers reset their stream with ENHANCE_YOUR_CALM. A list of
    /// more than four times the size, or a block whose CONTINUATIONs exceed twice the size, ends
    /// the connection with that code.
    pub fn max_head(mut self, bytes: u32) -> Options {
        self.max_head = bytes;
        self
    }

    /// Sets the maximum size of the peer's table of fields (4096), SETTINGS_HEADER_TABLE_SIZE: a
    /// block that exceeds it is a COMPRESSION_ERROR of the connection. At most 1 MiB.
    pub fn max_table(mut self, bytes: u32) -> Options {
        self.max_table = bytes.min(1 << 20);
        self
    }

    /// Sets how many bytes of answers to PING, SETTINGS and faults may wait for
    /// [`take_output`](crate::Connection::take_output) (16 KiB). More end the connection with
    /// ENHANCE_YOUR_CALM.
    pub fn max_control(mut self, bytes: usize) -> Options {
        self.max_control = bytes;
        self
    }

    /// Sets how many more streams may be reset by a client before their answer began, or because of
    /// a fault, than were completed (500). More end the connection with ENHANCE_YOUR_CALM
    /// (CVE-2023-44487, CVE-2025-8671).
    pub fn max_resets(mut self, resets: u32) -> Options {
        self.max_resets = resets;
        self
    }

    /// Sets how many frames without effect may follow one another (1000): empty DATA, HEADERS and
    /// CONTINUATION that end nothing, PRIORITY, unknown types, unexpected acknowledgements,
    /// informational heads, and frames of closed streams. More end the connection with
    /// ENHANCE_YOUR_CALM.
    pub fn max_idle_frames(mut self, frames: u32) -> Options {
        self.max_idle_frames = frames;
        self
    }

    /// Sets at how many unsent bytes of a stream its producer should pause (64 KiB); see
    /// [`Event::Writable`](crate::Event::Writable).
    pub fn max_unsent(mut self, bytes: usize) -> Options {
        self.max_unsent = bytes.max(1);
        self
    }

    /// Sets how many bytes of bodies are put into the output before
    /// [`take_output`](crate::Connection::take_output) (256 KiB).
    pub fn max_output(mut self, bytes: usize) -> Options {
        self.max_output = bytes;
        self
    }

    /// Has a server permit extended CONNECT, as for WebSockets (off): RFC 8441. Without it, a
    /// `:protocol` is a PROTOCOL_ERROR of the stream.
    pub fn connect_protocol(mut self, on: bool) -> Options {
        self.connect_protocol = on;
        self
    }
}
