broken='a thread interrupts itself for a backtrace'
apply() { swap crates/couplet-os/src/backtrace.rs 'if is_itself \|\| !is_ours' 'if (is_itself && false) || !is_ours'; }
notice() { runs_os; }
