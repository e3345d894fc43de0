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
}

const ALL: [Switch; 8] = [
    Switch::ReuseAddr,
    Switch::ReusePort,
    Switch::DualStack,
    Switch::NoDelay,
    Switch::Broadcast,
    Switch::LockFile,
    Switch::Resumption,
    Switch::KeyLog,
];

/// The switches that are on: one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Switches(u8);

impl Switches {
    /// A set with exactly these switches on.
    pub(crate) fn on<const N: usize>(switches: [Switch; N]) -> Switches {
        switches.into_iter().fold(Switches(0), |set, switch| set.with(switch, true))
    }

    pub(crate) fn has(self, switch: Switch) -> bool {
        self.0 & switch.bit() != 0
    }

    #[must_use]
    pub(crate) fn with(self, switch: Switch, on: bool) -> Switches {
        Switches(if on { self.0 | switch.bit() } else { self.0 & !switch.bit() })
    }
}

impl Switch {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Lists the switches that are on.
impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(ALL.into_iter().filter(|switch| self.has(*switch))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_changes_no_other() {
        for changed in ALL {
            for start in [Switches::on([]), Switches::on(ALL)] {
                for on in [true, false] {
                    let set = start.with(changed, on);
                    assert_eq!(set.has(changed), on);
                    let mut others = ALL.into_iter().filter(|other| *other != changed);
                    assert!(others.all(|other| set.has(other) == start.has(other)), "{set:?}");
                }
            }
        }
        let set = Switches::on([Switch::KeyLog, Switch::ReuseAddr]);
        assert_eq!(format!("{set:?}"), "{ReuseAddr, KeyLog}");
    }
}
