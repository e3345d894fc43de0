broken='a second look at the datagram that a driver lends'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn look_again(driver: &dyn Driver) -> bool { driver.datagram().cut }
    const _: fn(&dyn Driver) -> bool = look_again;'
}
notice() { reads tidy; }
