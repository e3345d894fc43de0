broken='the signal for a backtrace interrupts system calls'
apply() { swap crates/couplet-os/src/backtrace.rs 'libc::SA_RESTART;' '0;'; }
notice() { runs_os; }
