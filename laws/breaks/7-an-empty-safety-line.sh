broken='an `unsafe` block of `couplet-os` with an empty SAFETY comment'
apply() { swap crates/couplet-os/src 'SAFETY: the futex is a static.*' 'SAFETY:'; }
notice() { reads tidy; }
