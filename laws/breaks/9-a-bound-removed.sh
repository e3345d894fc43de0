broken='the bound above a queue is removed'
apply() { swap crates/couplet-core/src/reactor/records.rs '// Unbounded: one per `tell`, `ask` and `call_soon`' '// One per `tell`, `ask` and `call_soon`'; }
notice() { reads tidy; }
