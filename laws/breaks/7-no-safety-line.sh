broken='an `unsafe` block of `couplet-os` without its SAFETY comment'
apply() { swap crates/couplet-os/src 'SAFETY: `action` is what' 'It is what'; }
notice() { lints couplet-os; }
