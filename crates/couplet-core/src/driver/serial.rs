//! Serial lines. serial2 applies the settings; the previous ones are restored when the line is
//! closed. Twisted's `SerialPort`.
//!
//! Contract: 51c.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::termios::{ControlModes, OptionalActions, QueueSelector, Termios};
use rustix::termios::{tcflush, tcgetattr, tcsetattr};
use serial2::{CharSize, KeepSettings, SerialPort, Settings, StopBits};

use super::Pipe;

/// The settings of a serial line, for [`Pipe::serial`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialOptions {
    speed: u32,
    bits: u8,
    parity: Parity,
    stop: u8,
    flow: FlowControl,
}

/// The parity bit of a character on a serial line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parity {
    /// No parity bit.
    #[default]
    None,
    /// The number of ones is even.
    Even,
    /// The number of ones is odd.
    Odd,
}

/// How either side of a serial line pauses the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowControl {
    /// No flow control.
    #[default]
    None,
    /// Two wires (RTS and CTS).
    Hardware,
    /// Two characters, `\x13` and `\x11` (XOFF and XON), which then can't be data.
    Software,
}

impl Default for SerialOptions {
    fn default() -> SerialOptions {
        SerialOptions {
            speed: 9600,
            bits: 8,
            parity: Parity::None,
            stop: 1,
            flow: FlowControl::None,
        }
    }
}

impl SerialOptions {
    /// Sets the speed, in bits per second: 9600 by default.
    #[must_use]
    pub fn speed(mut self, bits_per_second: u32) -> Self {
        self.speed = bits_per_second;
        self
    }

    /// Sets the bits per character, from 5 to 8: 8 by default.
    #[must_use]
    pub fn bits(mut self, bits: u8) -> Self {
        self.bits = bits;
        self
    }

    /// Sets the parity bit: none by default.
    #[must_use]
    pub fn parity(mut self, parity: Parity) -> Self {
        self.parity = parity;
        self
    }

    /// Sets the number of stop bits, 1 or 2: 1 by default.
    #[must_use]
    pub fn stop(mut self, bits: u8) -> Self {
        self.stop = bits;
        self
    }

    /// Sets how either side pauses the other: not at all by default.
    #[must_use]
    pub fn flow(mut self, flow: FlowControl) -> Self {
        self.flow = flow;
        self
    }

    fn apply(&self, settings: &mut Settings) -> io::Result<()> {
        let refused = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        settings.set_raw();
        settings.set_baud_rate(self.speed)?;
        settings.set_char_size(match self.bits {
            5 => CharSize::Bits5,
            6 => CharSize::Bits6,
            7 => CharSize::Bits7,
            8 => CharSize::Bits8,
            _ => return refused("a character has from 5 to 8 bits"),
        });
        settings.set_stop_bits(match self.stop {
            1 => StopBits::One,
            2 => StopBits::Two,
            _ => return refused("a character has 1 or 2 stop bits"),
        });
        settings.set_parity(match self.parity {
            Parity::None => serial2::Parity::None,
            Parity::Even => serial2::Parity::Even,
            Parity::Odd => serial2::Parity::Odd,
        });
        settings.set_flow_control(match self.flow {
            FlowControl::None => serial2::FlowControl::None,
            FlowControl::Hardware => serial2::FlowControl::RtsCts,
            FlowControl::Software => serial2::FlowControl::XonXoff,
        });
        Ok(())
    }
}

impl Pipe {
    /// Opens a serial line by the path of its device: raw, with these settings. Modem lines are
    /// ignored. The previous settings are restored when the connection ends or the pipe is dropped;
    /// if output is still unsent by then, a thread waits for it first. Twisted's `SerialPort`.
    ///
    /// ```no_run
    /// use couplet::endpoints::SerialOptions;
    /// use couplet::transport::Pipe;
    ///
    /// let line = Pipe::serial("/dev/ttyUSB0", &SerialOptions::default().speed(115_200))?;
    /// assert_eq!(line.name(), "serial:/dev/ttyUSB0");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The system's error, such as a missing device or missing permission; `InvalidInput` if the
    /// file is not a serial line or terminal, or if the device does not support these settings.
    pub fn serial(path: impl AsRef<Path>, options: &SerialOptions) -> io::Result<Pipe> {
        let path = path.as_ref();
        let mut port = SerialPort::open(path, KeepSettings).map_err(|error| {
            match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::NOTTY) => io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it is not a serial line or a terminal",
                ),
                _ => error,
            }
        })?;
        let descriptor = OwnedFd::from(port.try_clone()?);
        let before = tcgetattr(&descriptor)?;
        let mut connected = before.clone();
        let modes = Modes { descriptor: Some(descriptor), before };
        // Independent of the previous settings: no modem to wait for, and the receiver is on.
        connected.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
        modes.set(OptionalActions::Now, &connected)?;
        let mut settings = port.get_configuration()?;
        options.apply(&mut settings)?;
        port.set_configuration(&settings).map_err(|error| match error.raw_os_error() {
            Some(_) => error,
            None => {
                let text = format!("the device does not support these settings: {options}");
                io::Error::new(io::ErrorKind::InvalidInput, text)
            }
        })?;
        let mut pipe = Pipe::duplex(port)?.named(format!("serial:{}", path.display()));
        pipe.modes = Some(modes);
        Ok(pipe)
    }
}

/// All settings, in the syntax of [`endpoints`](crate::endpoints).
impl std::fmt::Display for SerialOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let SerialOptions { speed, bits, parity, stop, flow } = self;
        write!(f, "speed={speed}:bits={bits}:parity={parity}:stop={stop}:flow={flow}")
    }
}

impl std::fmt::Display for Parity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Parity::None => "none",
            Parity::Even => "even",
            Parity::Odd => "odd",
        })
    }
}

impl std::fmt::Display for FlowControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FlowControl::None => "none",
            FlowControl::Hardware => "hardware",
            FlowControl::Software => "software",
        })
    }
}

/// A terminal and its previous modes, restored on drop. Holds the terminal open until then, so that
/// no other close has to wait for unsent output.
#[derive(Debug)]
pub(super) struct Modes {
    /// `None` only during the drop.
    descriptor: Option<OwnedFd>,
    before: Termios,
}

impl Modes {
    fn set(&self, when: OptionalActions, modes: &Termios) -> io::Result<()> {
        match &self.descriptor {
            Some(descriptor) => Ok(tcsetattr(descriptor, when, modes)?),
            None => Ok(()),
        }
    }

    /// Discards written output that was not sent.
    pub(super) fn discard(&self) {
        if let Some(descriptor) = &self.descriptor
            && let Err(error) = tcflush(descriptor, QueueSelector::OFlush)
        {
            tracing::debug!(%error, "cannot discard the output of a serial line");
        }
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        let unsent = self.descriptor.as_ref().and_then(couplet_os::unsent::unsent);
        if let Some(descriptor) = self.descriptor.take() {
            restore_modes(descriptor, self.before.clone(), unsent.is_some_and(|unsent| unsent > 0));
        }
    }
}

/// Restores the modes and closes the descriptor. With `waits`, a thread first blocks until the
/// output is sent, because the system does not notify when it is.
fn restore_modes(descriptor: OwnedFd, before: Termios, waits: bool) {
    let restore = |when: OptionalActions, descriptor: &OwnedFd, before: &Termios| {
        if let Err(error) = tcsetattr(descriptor, when, before) {
            tracing::debug!(%error, "cannot restore the settings of a serial line");
        }
    };
    if !waits {
        return restore(OptionalActions::Now, &descriptor, &before);
    }
    let wait = move || restore(OptionalActions::Drain, &descriptor, &before);
    if let Err(error) = std::thread::Builder::new().name("couplet-serial".to_owned()).spawn(wait) {
        log_warn!(%error, "cannot wait for the output of a serial line");
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};

    use super::*;

    /// Both sides of a terminal, in raw mode and non-blocking.
    fn raw() -> (OwnedFd, OwnedFd) {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&far).expect("ours");
        let name = ptsname(&far, Vec::new()).expect("its name").into_string().expect("ASCII");
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let near = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).expect("it");
        let mut raw = tcgetattr(&near).expect("its modes");
        raw.make_raw();
        tcsetattr(&near, OptionalActions::Now, &raw).expect("ours");
        for side in [&far, &near] {
            rustix::io::ioctl_fionbio(side, true).expect("an option");
        }
        (far, near)
    }

    #[test]
    fn a_reset_keeps_the_input_that_has_come() {
        let (far, near) = raw();
        let before = tcgetattr(&near).expect("its modes");
        let modes = Modes { descriptor: Some(near.try_clone().expect("a duplicate")), before };
        rustix::io::write(&far, b"rose").expect("room");
        while rustix::io::ioctl_fionread(&near).expect("a number") < 4 {
            std::thread::yield_now();
        }
        modes.discard();
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&near, &mut bytes), Ok(4));
        assert_eq!(bytes[..4], *b"rose");
    }

    /// A terminal sends its output at once, unless the other side is full.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_reset_discards_the_output_that_has_not_left() {
        let (far, near) = raw();
        let before = tcgetattr(&near).expect("its modes");
        let modes = Modes { descriptor: Some(near.try_clone().expect("a duplicate")), before };
        let mut written = 0;
        while let Ok(n) = rustix::io::write(&near, &[b'x'; 1024]) {
            written += n;
        }
        modes.discard();
        // The next bytes are the last to arrive.
        let mut is_last_written = false;
        let mut got = Vec::new();
        while got.last() != Some(&b'y') {
            is_last_written = is_last_written || rustix::io::write(&near, b"y") == Ok(1);
            let mut bytes = [0; 1024];
            let n = rustix::io::read(&far, &mut bytes).unwrap_or(0);
            got.extend_from_slice(&bytes[..n]);
        }
        assert!(got.len() <= written, "{} of {written} bytes arrived", got.len() - 1);
    }

    #[test]
    fn the_settings_are_restored_when_the_output_has_left() {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        unlockpt(&far).expect("ours");
        let name = ptsname(&far, Vec::new()).expect("its name").into_string().expect("ASCII");
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let near = rustix::fs::open(&name, flags, rustix::fs::Mode::empty()).expect("it");
        let before = tcgetattr(&near).expect("its modes");
        for waits in [true, false] {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&near, OptionalActions::Now, &raw).expect("ours");
            restore_modes(near.try_clone().expect("a duplicate"), before.clone(), waits);
            let is_back = || tcgetattr(&near).expect("its modes").local_modes == before.local_modes;
            while !is_back() {
                assert!(waits, "at once");
                std::thread::yield_now();
            }
        }
    }
}
