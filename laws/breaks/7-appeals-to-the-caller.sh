broken='a safe function of `couplet-os` with a SAFETY comment that relies on its caller'
apply() { swap crates/couplet-os/src 'SAFETY: malloc_trim takes' 'SAFETY: the caller knows that malloc_trim takes'; }
notice() { reads tidy; }
