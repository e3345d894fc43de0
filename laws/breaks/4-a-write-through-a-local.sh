broken='a write to the driver through a local'
apply() {
    append crates/couplet-core/src/reactor/turn/steps.rs 'fn send_again(io: &mut dyn Commands, key: Key, out: &mut crate::driver::Outbox) {
        let to = io;
        let _ = to.write(key, out);
    }
    const _: fn(&mut dyn Commands, Key, &mut crate::driver::Outbox) = send_again;'
}
notice() { reads tidy; }
