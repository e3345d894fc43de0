law=4
broken='a write to the driver through a local'
apply() {
    append crates/couplet/src/reactor/turn.rs 'impl Loop {
        fn send(&mut self, key: Key, out: &mut crate::driver::Outbox) {
            let to = &mut self.driver;
            let _ = to.write(key, out);
        }
    }
    const _: fn(&mut Loop, Key, &mut crate::driver::Outbox) = Loop::send;'
}
notice() { reads tidy; }
