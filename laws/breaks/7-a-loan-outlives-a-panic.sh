broken='bytes lent to a task stay lent when the task panics'
apply() {
    swap crates/couplet-os/src/lend.rs '^                self\.0\.rest\.set\(self\.1\);$' \
        '                if !std::thread::panicking() { self.0.rest.set(self.1); }'
}
notice() { runs_os lend::; }
