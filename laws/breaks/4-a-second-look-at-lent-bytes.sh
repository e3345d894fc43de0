broken='a second look at the bytes that a driver lends'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn look(driver: &dyn Driver, key: Key) -> usize { driver.lent(key).len() }
    const _: fn(&dyn Driver, Key) -> usize = look;'
}
notice() { reads tidy; }
