law=4
broken='a write to the driver by its path'
apply() {
    append crates/couplet-core/src/reactor/turn.rs 'fn send_again(io: &mut dyn Commands, key: Key, out: &mut crate::driver::Outbox) {
        let _ = Commands::write(io, key, out);
    }
    const _: fn(&mut dyn Commands, Key, &mut crate::driver::Outbox) = send_again;'
}
notice() { reads tidy; }
