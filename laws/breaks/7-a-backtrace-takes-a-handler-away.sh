broken='a backtrace replaces the handler of SIGURG that the program has'
apply() { swap crates/couplet-os/src/backtrace.rs 'if !\[libc::SIG_DFL, libc::SIG_IGN\]\.contains\(&handler\(\)\?\)' 'if handler().is_none()'; }
notice() { runs_os; }
