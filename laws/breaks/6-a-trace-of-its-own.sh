broken='simulated delays depend on earlier simulations in the process'
apply() {
    swap crates/couplet-sim/src/kernel '^        self\.at\(self\.now\.saturating_add\(delay\), event\);$' \
        '        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static BEFORE: AtomicU64 = AtomicU64::new(0);
        let more = BEFORE.fetch_add(1, Relaxed) % 3;
        self.at(self.now.saturating_add(delay + more), event);'
}
notice() { runs_sim replays; }
