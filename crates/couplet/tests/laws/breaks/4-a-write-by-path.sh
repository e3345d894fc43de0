law=4
broken='a write to the driver by its path'
apply() {
    append crates/couplet/src/reactor/turn.rs 'fn send(driver: &mut dyn Driver, key: Key, out: &mut crate::driver::Outbox) {
        let _ = Driver::write(driver, key, out);
    }
    const _: fn(&mut dyn Driver, Key, &mut crate::driver::Outbox) = send;'
}
notice() { reads tidy; }
