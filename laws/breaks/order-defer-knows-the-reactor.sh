law=order
broken='`use crate::{Reactor, Transport}` in `defer`'
apply() {
    append crates/couplet-core/src/defer/mod.rs 'use crate::{Reactor, Transport};
    const _: fn(&Transport) -> &Reactor = Transport::reactor;'
}
notice() { reads tidy; }
