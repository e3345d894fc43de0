broken='a second look at the bytes that a driver lends'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn look(driver: &dyn Driver) -> usize { driver.lent().len() }
    const _: fn(&dyn Driver) -> usize = look;'
}
notice() { reads tidy; }
