broken='a safe function of `couplet-os` that takes the number of a descriptor'
apply() { append crates/couplet-os/src/heap.rs '/// None.
pub fn is_standard(descriptor: i32) -> bool { descriptor < 3 }'; }
notice() { reads tidy; }
