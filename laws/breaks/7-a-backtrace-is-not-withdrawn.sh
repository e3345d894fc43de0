broken='a backtrace that a thread did not answer is not withdrawn'
apply() {
    swap crates/couplet-os/src/backtrace.rs 'ASKED\.compare_exchange\(self\.0, 0,' \
        'ASKED.compare_exchange(self.0, self.0,'
}
notice() { runs_os; }
