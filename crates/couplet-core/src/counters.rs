//! Counters of a loop and its ports. A new one is a field here, and the code that increases it:
//! metrics, `couplet ctl` and the inspector walk the names, meanings and values of a snapshot.
//!
//! Contract: 160e.

use std::cell::Cell;

/// Changes some of the counters in a cell.
pub(crate) fn tally<C: Copy>(counters: &Cell<C>, count: impl FnOnce(&mut C)) {
    let mut all = counters.get();
    count(&mut all);
    counters.set(all);
}

macro_rules! counters {
    ($($(#[$of:meta])* $Counters:ident { $($(#[doc = $meaning:literal])+ $name:ident,)+ })+) => { $(
        $(#[$of])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct $Counters {
            $($(#[doc = $meaning])+ pub $name: u64,)+
        }

        impl $Counters {
            /// The name, the meaning and the value of each.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($name), concat!($($meaning),+).trim_ascii(), self.$name)),+].into_iter()
            }
        }

        impl std::ops::AddAssign for $Counters {
            fn add_assign(&mut self, other: $Counters) {
                $(self.$name += other.$name;)+
            }
        }
    )+ };
}

counters! {
    /// Counters of a loop since it was created.
    LoopCounters {
        /// Connections that were ended for their unsent output
        shed,
        /// Failures of Deferreds that no errback handled
        unhandled_failures,
    }

    /// Counters of a port since it was opened.
    PortCounters {
        /// Connections accepted
        accepted,
        /// Accepted connections whose layers did not open
        not_opened,
        /// Accepted connections that a factory rejected
        rejected,
        /// Connections closed for want of descriptors
        turned_away,
    }

    /// Counters of a datagram port since it was opened.
    DatagramCounters {
        /// Datagrams that the protocol received
        received,
        /// Datagrams that the system accepted
        sent,
        /// Datagrams dropped because the queue was full or the system refused them
        dropped,
    }
}
