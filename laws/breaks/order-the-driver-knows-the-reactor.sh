broken='`use crate::{Reactor, Transport}` in `driver`'
apply() {
    append crates/couplet-core/src/driver/mod.rs 'use crate::{Reactor, Transport};
    const _: fn(&Transport) -> &Reactor = Transport::reactor;'
}
notice() { reads tidy; }
