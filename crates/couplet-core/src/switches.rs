//! On-or-off options: each type of options has one set of switches.

use std::fmt;

/// An option that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    /// `SO_REUSEADDR`.
    ReuseAddr,
    /// `SO_REUSEPORT`.
    ReusePort,
    /// An IPv6 wildcard serves IPv4 too.
    DualStack,
    /// `TCP_NODELAY`.
    NoDelay,
    /// `SO_BROADCAST`.
    Broadcast,
    /// A UNIX socket has a lock file.
    LockFile,
    /// TLS sessions may be resumed.
    Resumption,
    /// The secrets of TLS connections may be written to a file.
    KeyLog,
    /// A run handles signals.
    Signals,
    /// A tokio runtime is around the loop.
    #[cfg(feature = "tokio")]
    Tokio,
    /// Stalls are logged with a backtrace.
    StallBacktraces,
    /// Calls into user code are timed.
    TimeCalls,
}

const ALL: &[Switch] = &[
    Switch::ReuseAddr,
    Switch::ReusePort,
    Switch::DualStack,
    Switch::NoDelay,
    Switch::Broadcast,
    Switch::LockFile,
    Switch::Resumption,
    Switch::KeyLog,
    Switch::Signals,
    #[cfg(feature = "tokio")]
    Switch::Tokio,
    Switch::StallBacktraces,
    Switch::TimeCalls,
];

/// The switches that are on: one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switches(u16);

impl Switches {
    /// A set with exactly these switches on.
    pub(crate) fn on(switches: &[Switch]) -> Switches {
        Switches(switches.iter().fold(0, |bits, switch| bits | switch.bit()))
    }

    pub(crate) fn has(self, switch: Switch) -> bool {
        self.0 & switch.bit() != 0
    }

    pub(crate) fn set(&mut self, switch: Switch, on: bool) {
        self.0 = if on { self.0 | switch.bit() } else { self.0 & !switch.bit() };
    }
}

impl Switch {
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// Lists the switches that are on.
impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(ALL.iter().filter(|switch| self.has(**switch))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_changes_no_other() {
        for &changed in ALL {
            for start in [Switches::on(&[]), Switches::on(ALL)] {
                for on in [true, false] {
                    let mut set = start;
                    set.set(changed, on);
                    assert_eq!(set.has(changed), on);
                    let mut others = ALL.iter().filter(|other| **other != changed);
                    assert!(others.all(|other| set.has(*other) == start.has(*other)), "{set:?}");
                }
            }
        }
        let set = Switches::on(&[Switch::KeyLog, Switch::ReuseAddr]);
        assert_eq!(format!("{set:?}"), "{ReuseAddr, KeyLog}");
    }
}
